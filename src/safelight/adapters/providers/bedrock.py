"""Stability AI's models on Amazon Bedrock: those that generate, and the services that edit.

Sources: https://docs.aws.amazon.com/bedrock/latest/userguide/stable-image-services.html,
https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-diffusion-3-5-large.html and
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModel.html, read 2026-11-23.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from yarl import URL

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._aws_auth import (
    MachineCredentials,
    SignedPictures,
    Signer,
    given_credentials,
    require_botocore,
)
from safelight.adapters.providers._base import BaseProvider, Entry, ProviderModule
from safelight.adapters.providers._catalogue import load_catalogue
from safelight.adapters.providers._errors import Complaint, ErrorTable, read_complaint
from safelight.adapters.providers._http import Dialect
from safelight.adapters.providers._masks import white_changes
from safelight.adapters.providers._openai_shape import given, prompt_of, via_of
from safelight.adapters.providers._ratios import asked_ratio, nearest_ratio
from safelight.adapters.providers._rules import edits_need_prompt
from safelight.adapters.providers._stability_facts import LARGEST_SEED, RATIOS, STYLES
from safelight.application.ports import Call, Finished, ProviderKey
from safelight.domain.capability import ModelSpec
from safelight.domain.errors import (
    ConfigurationError,
    ProviderAuthError,
    ProviderBusy,
    ProviderError,
    ProviderModelGone,
    ProviderRejected,
    ProviderUnavailable,
    ProviderUncertain,
    UnsupportedFeature,
)
from safelight.domain.image import ImageRequest, Operation
from safelight.domain.money import MICROS_PER_UNIT

_REGION = "us-west-2"
"""The only one that has every model."""
_ADDRESS = f"https://bedrock-runtime.{_REGION}.amazonaws.com"
_REGION_NAME = re.compile(r"[a-z0-9-]+")
_REGION_OF_HOST = re.compile(r"bedrock-runtime(?:-fips)?\.([a-z0-9-]+)\.")
_LARGEST_BODY_BYTES = 25_000_000
_ROOM_FOR_FIELDS_BYTES = 100_000
_TAKEN_IMAGES = frozenset({"image/png", "image/jpeg", "image/webp"})
_PLAIN = ("negative_prompt", "seed", "output_format")
_UNKNOWN = ("quality", "background", "moderation", "output_compression", "resolution", "input_fidelity")
"""Fields that no known model has; what an unknown one makes of them is for Bedrock to say."""

_FILTERED = "filter reason:"
_INTERVENED = "INTERVENED"
"""What a guardrail says. Whether it stands beside pictures at all is not documented."""

_WORDS: Mapping[str, type[ProviderError]] = MappingProxyType(
    {
        "AccessDeniedException": ProviderAuthError,
        "ConflictException": ProviderRejected,
        "ExpiredTokenException": ProviderAuthError,
        "InternalServerException": ProviderUnavailable,
        "InvalidSignatureException": ProviderAuthError,
        "ModelNotReadyException": ProviderUnavailable,  # comes as 429, and is no limit
        "ModelTimeoutException": ProviderUncertain,
        "ResourceNotFoundException": ProviderModelGone,
        "ServiceQuotaExceededException": ProviderAuthError,  # comes as 400
        "ServiceUnavailableException": ProviderUnavailable,
        "ThrottlingException": ProviderBusy,
        "UnrecognizedClientException": ProviderAuthError,
    }
)
_STATUSES: Mapping[int, type[ProviderError]] = MappingProxyType({408: ProviderUncertain, 424: ProviderUnavailable})
_NO_SUCH_MODEL = re.compile(r"model identifier is invalid|on-demand throughput", re.IGNORECASE)
_QUOTA = re.compile(r"exceeds the service quota", re.IGNORECASE)
_CREDENTIALS_AT_FAULT = re.compile(r"security token|signature", re.IGNORECASE)


class _Fault(msgspec.Struct, rename={"kind": "__type", "text": "Message", "original_status": "originalStatusCode"}):
    message: str | None = None
    text: str | None = None
    kind: str | None = None
    original_status: int | None = None


def _read_fault(body: bytes) -> Complaint:
    """Read AWS's error body."""
    try:
        fault = msgspec.json.decode(body, type=_Fault)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return read_complaint(body)
    message = fault.message or fault.text
    if message is None and fault.kind is None:
        return read_complaint(body)
    return Complaint(
        message=(message or "").partition("\n\n")[0] or None,  # behind it, what should have been signed
        code=_bare(fault.kind),
        meaning=_meaning(message or "", fault.original_status),
    )


def _name(headers: Mapping[str, str]) -> str | None:
    """Find the name of an error where AWS mostly has it."""
    return _bare(headers.get("x-amzn-errortype"))


def _bare(name: str | None) -> str | None:
    """Cut off the namespace before a name and the address behind it."""
    return (name or "").rpartition("#")[2].partition(":")[0] or None


def _meaning(message: str, original_status: int | None) -> type[ProviderError] | None:
    if _NO_SUCH_MODEL.search(message):
        return ProviderModelGone
    if _QUOTA.search(message):
        return ProviderAuthError
    # Set where the model itself failed (424).
    return ProviderRejected if original_status is not None and original_status // 100 == 4 else None


def _unsigned(_key: ProviderKey) -> Mapping[str, str]:
    """Show no key: the signature is made for each call."""
    return {}


_ERRORS = ErrorTable(words=_WORDS, statuses=_STATUSES, read=_read_fault, name=_name)
_REQUEST_IDS = ("x-amzn-requestid",)
_WITH_KEY = Dialect(errors=_ERRORS, request_id_headers=_REQUEST_IDS)
_WITH_SIGNATURE = Dialect(authorise=_unsigned, errors=_ERRORS, request_id_headers=_REQUEST_IDS)


class _Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The catalogue's `wire` table, explained there."""

    images: tuple[str, ...] = ()
    mask: bool = False
    prompt: bool = True
    needs_prompt: bool = True
    edit: str | None = None
    edits: dict[str, str] = {}
    redraws: bool = False


class _Said(msgspec.Struct, rename={"guardrail": "amazon-bedrock-guardrailAction"}):
    """Only what we cannot do without is typed."""

    images: Any = None
    finish_reasons: Any = None
    guardrail: Any = None


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to draw, and who asks.

    A key is a Bedrock API key, or AWS credentials as JSON; without a key, the credentials of this machine count.
    """

    region: str | None = None
    """By default the one that `base_url` names, or us-west-2, which has every model."""
    profile: str | None = None
    """Which profile of the AWS configuration gives this machine's credentials."""
    strength: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.7
    """How far an edit without a mask, or a variation, may leave its source: 0 not at all, 1 altogether."""


class Bedrock(BaseProvider):
    """Answers at once, with base64; there is no handle and no idempotency token, so a lost answer stays unknown."""

    max_n = 1

    def __init__(self, entry: Entry[Options]) -> None:
        """Learn the models. Raises `ConfigurationError`."""
        specs = [replace(spec, rules=(partial(self._refusal, spec.name),)) for spec in load_catalogue("bedrock")]
        super().__init__(entry.settings, specs)
        self._wires = {spec.name: _wire(spec) for spec in self.specs}
        self._options = entry.options
        _check(entry.options)
        entry = replace(entry, settings=replace(entry.settings, base_url=_address(entry)))
        self._with_key = entry.http(_WITH_KEY)
        self._with_signature = entry.http(_WITH_SIGNATURE)
        self._signer = Signer(service="bedrock", region=_region(entry))
        self._machine = MachineCredentials(entry.options.profile)

    def spec(self, model: str) -> ModelSpec | None:
        """Look up a model by its id, an alias, or an ARN that ends in its id."""
        return super().spec(model) or super().spec(model.rpartition("/")[2])

    async def submit(self, call: Call) -> Finished:
        """Have a model draw, or a service edit. A variation is an image-to-image drawing with a neutral prompt."""
        service, wire = self._service(call.model, call.request)
        if misfit := _misfit(wire, call.request):
            raise misfit
        pictures = SignedPictures(call.workspace)
        fields = await self._fields(call, wire, pictures)
        answer = await self._invoke(call, self._id(service), fields, pictures)
        return Finished(
            pictures=(await answer.picture(_picture(answer)),),
            model=self._id(service),
            output_format=call.request.output_format,
            cost_micros=None if service == call.model else _cost_micros(self.spec(service)),
            via=via_of(call.request),
        )

    async def _invoke(self, call: Call, model: str, fields: Mapping[str, Any], pictures: SignedPictures) -> Answer:
        url = self._with_key.url(f"model/{quote(model, safe='')}/invoke")
        if call.key.value and not _is_credentials(call.key.value):
            return await self._with_key.buy(call, url, pictures.body(fields))
        return await self._invoke_signed(call, url, fields, pictures)

    async def _invoke_signed(self, call: Call, url: URL, fields: Mapping[str, Any], pictures: SignedPictures) -> Answer:
        own = not call.key.value
        credentials, fresh = await self._machine.take() if own else (given_credentials(call.key.value or ""), True)
        headers = await self._signer.headers(
            url, _to_sign(call.request), body_sha256=await pictures.sha256(fields), credentials=credentials
        )
        # The token is the one secret that travels, so it is what must stay out of messages.
        call = replace(call, key=replace(call.key, value=credentials.token))
        try:
            return await self._with_signature.buy(call, url, pictures.body(fields), headers=headers)
        except ProviderAuthError as exc:
            if own and _CREDENTIALS_AT_FAULT.search(exc.message):
                self._machine.forget(credentials)
                if not fresh:
                    raise _outdated(exc) from exc
            raise

    def _id(self, model: str) -> str:
        """Name a model as Bedrock takes it: an alias may be an id that it refuses."""
        spec = self.spec(model)
        return spec.name if spec and model in spec.aliases else model

    def _service(self, model: str, request: ImageRequest) -> tuple[str, _Wire]:
        """Find who does the work: the models that generate leave some kinds of edit to services of their own."""
        spec = self.spec(model)
        wire = self._wires[spec.name] if spec else _guess(model)
        other = self.spec(wire.edits.get(_kind_of_edit(request) or "", ""))
        return (other.name, self._wires[other.name]) if other else (model, wire)

    def _refusal(self, model: str, request: ImageRequest) -> UnsupportedFeature | None:
        """Why a known model has no place for a request, or `None`."""
        service, wire = self._service(model, request)
        other = self.spec(service) if service != model else None
        if other is None:
            return _misfit(wire, request) or _limit(wire, request)
        try:
            other.check(request)
        except UnsupportedFeature as exc:
            return exc
        return None

    async def _fields(self, call: Call, wire: _Wire, pictures: SignedPictures) -> dict[str, Any]:
        """Name the fields as Stability does on Bedrock; one that does not exist there is refused."""
        request = call.request
        fields: dict[str, Any] = {}
        if wire.prompt and (prompt := prompt_of(request)) is not None:
            fields["prompt"] = prompt
        fields |= given(request, _PLAIN)
        if self.spec(call.model) is None:
            fields |= given(request, _UNKNOWN)
        if request.style is not None:
            fields["style_preset"] = request.style
        if (ratio := _ratio(request)) is not None:
            fields["aspect_ratio"] = ratio
        if request.images and wire.redraws:
            fields |= {"mode": "image-to-image", "strength": self._options.strength}
        for name, source in zip(wire.images, request.images, strict=False):
            fields[name] = pictures.base64(source.image)
        if (mask := await white_changes(call)) is not None:
            fields["mask"] = pictures.base64_of(mask)
        return {**fields, **request.extra}


def _picture(answer: Answer) -> str:
    """Find the picture; a status of 200 alone means nothing here."""
    said = answer.read(_Said)
    reasons = said.finish_reasons if isinstance(said.finish_reasons, list) else []
    reason = next((answer.words(word) or "unnamed" for word in reasons if word is not None), None)
    if reason is None and said.guardrail == _INTERVENED:
        reason = "Filter reason: guardrail"
    images = said.images if isinstance(said.images, list) else []
    if reason is None and images and isinstance(images[0], str) and images[0]:
        return images[0]
    if reason is None:
        raise answer.unreadable("Bedrock answered without a picture")
    kind, status = (ProviderRejected, 400) if reason.lower().startswith(_FILTERED) else (ProviderUnavailable, 502)
    raise kind(
        f"the model gave no picture: {reason[:200]}",
        status=status,
        provider_code=reason[:80],
        request_id=answer.request_id,
    )


def _outdated(exc: ProviderAuthError) -> ProviderUnavailable:
    """Make the error of credentials that were good a call ago: only new ones that are refused speak against us."""
    return ProviderUnavailable(
        "the AWS credentials were refused; the next try looks for new ones",
        status=exc.status,
        provider_code=exc.provider_code,
        request_id=exc.request_id,
    )


def _is_credentials(key: str) -> bool:
    return key.lstrip().startswith("{")


def _to_sign(request: ImageRequest) -> dict[str, str]:
    """Choose the headers that a signature covers: AWS wants all of its own among them, also the caller's."""
    theirs = {name: value for name, value in request.extra_headers.items() if name.lower().startswith("x-amzn-")}
    return {**theirs, "Content-Type": "application/json", "Accept": "application/json"}


def _wire(spec: ModelSpec) -> _Wire:
    if not spec.wire:
        return _guess(spec.name)
    try:
        return msgspec.convert(spec.wire, _Wire)
    except msgspec.ValidationError as exc:
        raise ConfigurationError(f"model {spec.name}: wire: {exc}") from exc


def _guess(model: str) -> _Wire:
    """Take an unknown model for one more of Stability's."""
    return _Wire(images=("image",), mask=True, redraws="stability.sd" in model)


def _kind_of_edit(request: ImageRequest) -> str | None:
    if request.operation is not Operation.EDIT:
        return None
    return request.edit_type or ("inpainting" if request.mask is not None else None)


def _misfit(wire: _Wire, request: ImageRequest) -> UnsupportedFeature | None:
    """Why a request could not even be written down, or `None`."""
    if request.images and not wire.images:
        kinds = ", ".join(wire.edits)
        return UnsupportedFeature(f"this model edits inside a mask, or by a type of {kinds}, alone", param="mask")
    if len(request.images) > len(wire.images):
        return UnsupportedFeature(f"this model takes at most {len(wire.images)} images", param="image")
    if request.mask is not None and not wire.mask:
        return UnsupportedFeature("this model takes no mask", param="mask")
    if request.prompt and not wire.prompt:
        return UnsupportedFeature("this model takes no prompt", param="prompt")
    if request.edit_type not in {None, wire.edit}:
        return UnsupportedFeature(f"this model has no edit of type {request.edit_type!r}", param="type")
    if _base64_bytes(request) > _LARGEST_BODY_BYTES - _ROOM_FOR_FIELDS_BYTES:
        return UnsupportedFeature("Bedrock takes input images of about 18 MB in all", param="image")
    return None


def _base64_bytes(request: ImageRequest) -> int:
    return sum((source.image.size_bytes + 2) // 3 * 4 for source in request.images)


def _limit(wire: _Wire, request: ImageRequest) -> UnsupportedFeature | None:
    """Which value a known model would not take, or `None`."""
    if any(source.image.content_type not in _TAKEN_IMAGES for source in request.images):
        return UnsupportedFeature("this model takes input images as PNG, JPEG or WebP", param="image")
    if request.seed is not None and not 1 <= request.seed <= LARGEST_SEED:
        return UnsupportedFeature(f"seed must be 1 to {LARGEST_SEED}; 0 would mean any", param="seed")
    if request.style is not None and request.style not in STYLES:
        return UnsupportedFeature(f"style must be one of {', '.join(sorted(STYLES))}", param="style")
    return _ratio_limit(wire, request) or (edits_need_prompt(request) if wire.prompt and wire.needs_prompt else None)


def _ratio_limit(wire: _Wire, request: ImageRequest) -> UnsupportedFeature | None:
    ratio = _ratio(request)
    if ratio is None and request.size not in {None, "auto"}:
        return UnsupportedFeature(f"this model cannot draw size {request.size!r}", param="size")
    if ratio is not None and ratio not in RATIOS:
        return UnsupportedFeature(f"expected an aspect ratio of {', '.join(RATIOS)}", param="size")
    if ratio is not None and request.images and wire.redraws:
        param = "aspect_ratio" if request.aspect_ratio else "size"
        return UnsupportedFeature("an edit has the aspect ratio of its image", param=param)
    return None


def _ratio(request: ImageRequest) -> str | None:
    """The asked ratio; a size in pixels becomes the nearest, for nothing here draws to the pixel."""
    size = request.pixel_size
    return asked_ratio(request) or (nearest_ratio(size, RATIOS) if size else None)


def _cost_micros(spec: ModelSpec | None) -> int | None:
    """What another model than the asked one costs: the engine knows the price of the asked one alone."""
    rows = spec.price.per_image if spec and spec.price else ()
    return int(rows[0].usd * MICROS_PER_UNIT) if rows else None


def _check(options: Options) -> None:
    if options.region is not None and not _REGION_NAME.fullmatch(options.region):
        raise ConfigurationError("bedrock: region must be one such as us-west-2")
    if options.profile is not None:
        require_botocore()


def _address(entry: Entry[Options]) -> str | None:
    """Where the region is; an address of the operator's own stays as it is."""
    region = entry.options.region
    if region is None or entry.settings.base_url != _ADDRESS:
        return entry.settings.base_url
    return f"https://bedrock-runtime.{region}.amazonaws.com"


def _region(entry: Entry[Options]) -> str:
    """Tell for which region to sign."""
    host = URL(entry.settings.base_url or "").host or ""
    found = _REGION_OF_HOST.match(host)
    return entry.options.region or (found[1] if found else _REGION)


PROVIDER = ProviderModule(
    name="bedrock",
    doc="Stability AI's models on Amazon Bedrock, by API key or AWS credentials",
    create=Bedrock,
    options=Options,
    base_url=_ADDRESS,
    env_key="AWS_BEARER_TOKEN_BEDROCK",
)
