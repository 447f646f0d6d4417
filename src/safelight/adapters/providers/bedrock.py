"""Stability AI's models on Amazon Bedrock: those that generate, and the services that edit.

Sources: https://docs.aws.amazon.com/bedrock/latest/userguide/stable-image-services.html,
https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-diffusion-3-5-large.html and
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModel.html, read 2026-11-23.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
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
from safelight.adapters.providers._base import Entry, ProviderModule
from safelight.adapters.providers._catalogue import load_catalogue
from safelight.adapters.providers._errors import Complaint, ErrorTable, read_complaint
from safelight.adapters.providers._http import Dialect
from safelight.adapters.providers._masks import white_changes
from safelight.adapters.providers._openai_shape import given, prompt_of, via_of
from safelight.adapters.providers._stability_services import ServiceWire, StabilityServices, cost_micros_of, ratio_of
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
from safelight.domain.image import ImageRequest

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


class _Wire(ServiceWire, frozen=True, forbid_unknown_fields=True, kw_only=True):
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


class Bedrock(StabilityServices[_Wire]):
    """Answers at once, with base64; there is no handle and no idempotency token, so a lost answer stays unknown."""

    def __init__(self, entry: Entry[Options]) -> None:
        """Learn the models. Raises `ConfigurationError`."""
        super().__init__(entry.settings, load_catalogue("bedrock"), wire=_Wire, guess=_guess)
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
        service, wire = self.service(call.model, call.request)
        if misfit := self.misfit(wire, call.request):
            raise misfit
        pictures = SignedPictures(call.workspace)
        fields = await self._fields(call, wire, pictures)
        answer = await self._invoke(call, self._id(service), fields, pictures)
        return Finished(
            pictures=(await answer.picture(_picture(answer)),),
            model=self._id(service),
            output_format=call.request.output_format,
            cost_micros=None if service == call.model else cost_micros_of(self.spec(service)),
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
        call = msgspec.structs.replace(call, key=replace(call.key, value=credentials.token))
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

    def misfit(self, wire: _Wire, request: ImageRequest) -> UnsupportedFeature | None:
        """See `StabilityServices.misfit`; a body has its limit here."""
        if _base64_bytes(request) > _LARGEST_BODY_BYTES - _ROOM_FOR_FIELDS_BYTES:
            return UnsupportedFeature("Bedrock takes input images of about 18 MB in all", param="image")
        return super().misfit(wire, request)

    def limit(self, wire: _Wire, request: ImageRequest) -> UnsupportedFeature | None:
        """See `StabilityServices.limit`."""
        if any(source.image.content_type not in _TAKEN_IMAGES for source in request.images):
            return UnsupportedFeature("this model takes input images as PNG, JPEG or WebP", param="image")
        return super().limit(wire, request)

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
        if (ratio := ratio_of(request)) is not None:
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


def _guess(model: str) -> _Wire:
    """Take an unknown model for one more of Stability's."""
    redraws = "stability.sd" in model
    return _Wire(images=("image",), mask=True, redraws=redraws, ratio_of_image=redraws)


def _base64_bytes(request: ImageRequest) -> int:
    return sum((source.image.size_bytes + 2) // 3 * 4 for source in request.images)


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
