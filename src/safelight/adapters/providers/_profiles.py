"""Servers that speak nearly OpenAI's image API: what each calls its fields, what it lacks, and where it lies in wait.

A profile is data, and a function where a prompt or a field needs more. What a route does not name is refused before
any exchange: these servers ignore what they do not know, and draw something else. Sources: the documentation and the
source code of each, under its name, read 2026-11-23.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_UP, Decimal
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from safelight.adapters.providers._errors import Complaint, ErrorTable, read_complaint
from safelight.adapters.providers._ratios import asked_ratio, size_of_ratio
from safelight.adapters.providers._rules import edits_inpaint, edits_need_prompt
from safelight.application.ports import Call
from safelight.domain.capability import OPTIONAL_FIELDS, PixelRule
from safelight.domain.errors import (
    ProviderBusy,
    ProviderError,
    ProviderModelGone,
    ProviderRejected,
    ProviderUnavailable,
    ProviderUncertain,
    UnsupportedFeature,
)
from safelight.domain.image import Dimensions, ImageRequest, Operation
from safelight.domain.money import MICROS_PER_UNIT

NATIVE_ARGUMENTS = "<sd_cpp_extra_args"
"""stable-diffusion.cpp (and Lemonade on top of it) runs whatever stands in such a tag of the prompt, paths included."""

_RATIO_PIXELS = 1024 * 1024
"""What a bare ratio is drawn at, where a server wants pixels."""
_WORDS: Mapping[str, type[ProviderError]] = MappingProxyType(
    {
        "content_policy_violation": ProviderRejected,
        "model_not_found": ProviderModelGone,
        "moderation_blocked": ProviderRejected,
    }
)
_NO_ROUTE: Mapping[int, type[ProviderError]] = MappingProxyType({405: ProviderModelGone, 501: ProviderModelGone})
_MAY_BE_BILLED: Mapping[int, type[ProviderError]] = MappingProxyType(dict.fromkeys(range(500, 600), ProviderUncertain))
_BOTH = {"b64_json": "b64_json", "url": "url"}


def _same(*names: str) -> dict[str, str]:
    return dict(zip(names, names, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One call of a server."""

    path: str
    fields: Mapping[str, str]
    """Fields of a request that it takes, and what it calls them."""
    form: bool = False
    """Whether it takes a form, in the place of JSON."""
    n: bool = True
    """Whether it takes a count."""
    max_n: int | None = None
    prompt: bool = True
    says_format: bool = True
    """Whether it takes `response_format`."""
    one: str = "image"
    """What it calls a single picture; empty, a single one is a list too."""
    many: str = "image[]"
    """What it calls several: the name of each part of a form, or of a list."""
    place: Literal["data_url", "base64", "reference"] = "data_url"
    """What stands in JSON for a picture."""
    mask: str = ""
    """What it calls the mask; empty, it has none."""
    white: bool = False
    """Whether the mask is grey, and white where it changes; else transparent there, as OpenAI's."""
    size: Literal["text", "pixels", "sides"] = "pixels"
    """`size` as it is; only as pixels; or as `width` and `height`."""
    only_size: str = ""
    """The one size that it draws, without being told."""
    multiple_of: int = 16
    """Of this are the sides where a bare ratio becomes a size."""
    formats: frozenset[str] = frozenset()
    """Its `output_format`s, where they are known."""
    png: bool = False
    """Whether it reads PNG alone."""

    def sized(self, request: ImageRequest) -> Dimensions | None:
        """Choose the pixels for the asked size or ratio; `None` where the server is to choose."""
        ratio = None if "aspect_ratio" in self.fields else asked_ratio(request)
        if request.pixel_size is not None or ratio is None:
            return request.pixel_size
        return size_of_ratio(ratio, PixelRule(multiple_of=self.multiple_of), pixels=_RATIO_PIXELS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One kind of server."""

    name: str
    label: str
    """How it is called in messages."""
    doc: str
    base_url: str | None = None
    env_key: str | None = None
    local: bool = True
    """Whether the operator runs it; else it wants a key, and money."""
    generate: Route
    edit: Route | None
    inpaint: Route | None = None
    """For edits with a mask, where that is another call."""
    vary: Route | None = None
    """The server's own variation; else an edit with a neutral prompt stands in for it."""
    strict: bool = True
    """Whether it is known what the server lacks."""
    formats: Mapping[str, str] = field(default_factory=lambda: _BOTH)
    """The words of `response_format`; empty, it has no such field."""
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What becomes of some values, by the field's name with us."""
    finish: Callable[[Call, dict[str, Any]], None] | None = None
    """Has the last word on the fields, before the caller's extra ones."""
    cost_micros: Callable[[Mapping[str, Any]], int | None] | None = None
    """Reads the cost that is reported with `usage`."""
    errors: ErrorTable = field(default_factory=lambda: ErrorTable(words=_WORDS, statuses=_NO_ROUTE))
    catalogue: bool = False
    """Whether models ship with it."""

    @property
    def max_n(self) -> int | None:
        """The most pictures of one call, whichever it is."""
        return min((route.max_n for route in self.routes if route.max_n is not None), default=None)

    @property
    def routes(self) -> tuple[Route, ...]:
        """All calls that it has."""
        return tuple(filter(None, (self.generate, self.edit, self.inpaint, self.vary)))

    def route(self, request: ImageRequest) -> Route | None:
        """Choose the call; `None` where the server has none for it."""
        if request.operation is Operation.GENERATION:
            return self.generate
        if request.operation is Operation.VARIATION and self.vary is not None and not request.prompt:
            return self.vary
        return self.inpaint if request.mask is not None and self.inpaint is not None else self.edit

    def refusal(self, request: ImageRequest) -> UnsupportedFeature | None:
        """Why the server cannot be told what was asked, or `None`."""
        if native := _native_arguments(request):
            return native
        if not self.strict:
            return None
        route = self.route(request)
        if route is None:
            return UnsupportedFeature(f"{self.label} has no {request.operation.value}", param="model")
        wrong = self._wrong_input(request, route) or edits_inpaint(request) or edits_need_prompt(request)
        return wrong or self._unknown_field(request, route) or self._wrong_size(request, route)

    def _wrong_input(self, request: ImageRequest, route: Route) -> UnsupportedFeature | None:
        if request.operation is Operation.GENERATION and request.images:
            return UnsupportedFeature(
                f"{self.label} takes input images on the edits route, not on generations", param="input_images"
            )
        if request.mask is not None and not route.mask:
            return UnsupportedFeature(f"{self.label} takes no mask: say in the prompt what is to change", param="mask")
        if route.png and any(each.image.content_type != "image/png" for each in request.images):
            return UnsupportedFeature(f"{self.label} reads input images as PNG alone", param="image")
        return None

    def _unknown_field(self, request: ImageRequest, route: Route) -> UnsupportedFeature | None:
        """Find a field without a place. `auto` needs none: it is the server's own choice."""
        for name in OPTIONAL_FIELDS:
            asked = getattr(request, name)
            if asked in {None, "auto"} or name in {"size", "aspect_ratio", *route.fields}:
                continue
            return UnsupportedFeature(f"{self.label} has no {name} here", param=name)
        if route.formats and request.output_format not in {None, *route.formats}:
            known = ", ".join(sorted(route.formats))
            return UnsupportedFeature(
                f"{self.label} has no output_format {request.output_format!r}; expected one of {known}",
                param="output_format",
            )
        return None

    def _wrong_size(self, request: ImageRequest, route: Route) -> UnsupportedFeature | None:
        if route.size == "text":
            return None
        ratio = request.aspect_ratio not in {None, "auto"}
        if ratio and request.pixel_size is not None:
            return UnsupportedFeature(f"{self.label} takes a size or an aspect ratio, not both", param="aspect_ratio")
        size = route.sized(request)
        if size is None and request.size not in {None, "auto"}:
            return UnsupportedFeature(f"{self.label} takes size as WIDTHxHEIGHT", param="size")
        if size is None and ratio:
            return UnsupportedFeature(f"{self.label} takes aspect_ratio as WIDTH:HEIGHT", param="aspect_ratio")
        if size is not None and route.only_size and str(size) != route.only_size:
            return UnsupportedFeature(
                f"{self.label} draws {route.only_size} alone here", param="aspect_ratio" if ratio else "size"
            )
        return None


def _native_arguments(request: ImageRequest) -> UnsupportedFeature | None:
    for name in ("prompt", "negative_prompt"):
        if NATIVE_ARGUMENTS in (getattr(request, name) or "").lower():
            return UnsupportedFeature(f"{name} must not hold {NATIVE_ARGUMENTS}>", param=name)
    return None


def _seed(call: Call) -> int:
    """Draw a seed for servers whose own is the same for every request; a repeat of the attempt gets the same."""
    asked = call.request.seed
    drawn = int.from_bytes(hashlib.sha256(call.token.encode()).digest()[:4]) >> 1
    return drawn if asked is None else asked


def _decimal_micros(amount: Any) -> int | None:
    if not isinstance(amount, int | float) or isinstance(amount, bool) or amount < 0:
        return None
    return int((Decimal(str(amount)) * MICROS_PER_UNIT).to_integral_value(ROUND_HALF_UP))


# Everything goes through as the caller gave it; the server enforces its own limits.
_ANY_FIELDS = _same(*(name for name in OPTIONAL_FIELDS if name not in {"size", "partial_images"}), "user")
ANY = Profile(
    name="openai_compatible",
    label="this server",
    doc="any server with OpenAI's image routes; base_url says where",
    generate=Route(path="images/generations", fields=_ANY_FIELDS, size="text"),
    edit=Route(path="images/edits", fields=_ANY_FIELDS, size="text", form=True, mask="mask"),
    strict=False,
)


# Together. https://docs.together.ai/reference/post-images-generations


def _finish_together(call: Call, fields: dict[str, Any]) -> None:
    """Kontext takes one picture under another name; schnell is made for four steps, and the default is twenty."""
    model = call.model.lower()
    if "kontext" in model and len(call.request.images) == 1:
        fields["image_url"] = fields.pop("reference_images")[0]
    if "schnell" in model:
        fields.setdefault("steps", 4)


_TOGETHER = Route(
    path="images/generations",
    fields={
        **_same("seed", "negative_prompt", "output_format"),
        "num_inference_steps": "steps",
    },
    one="",
    many="reference_images",
    max_n=4,  # common; some models draw more
    size="sides",
    formats=frozenset({"jpeg", "png"}),
)
TOGETHER = Profile(
    name="together",
    label="Together",
    doc="image models on Together",
    base_url="https://api.together.xyz/v1",
    env_key="TOGETHER_API_KEY",
    local=False,
    generate=_TOGETHER,
    edit=_TOGETHER,
    formats={"b64_json": "base64", "url": "url"},
    finish=_finish_together,
    errors=ErrorTable(words=_WORDS, statuses={**_MAY_BE_BILLED, 503: ProviderUnavailable}),
    catalogue=True,
)


# OpenRouter. https://openrouter.ai/docs/guides/overview/multimodal/image-generation


class _Flag(msgspec.Struct):
    reasons: Any = None
    flagged_input: Any = None


class _FlaggedError(msgspec.Struct):
    metadata: _Flag


class _Flagged(msgspec.Struct):
    error: _FlaggedError


def _read_openrouter(body: bytes) -> Complaint:
    """Tell a 403 of moderation from one of the key: it names its reasons."""
    complaint = read_complaint(body)
    try:
        flag = msgspec.json.decode(body, type=_Flagged).error.metadata
    except (msgspec.DecodeError, UnicodeDecodeError):
        return complaint
    flagged = flag.reasons is not None or flag.flagged_input is not None
    return replace(complaint, meaning=ProviderRejected) if flagged else complaint


def _openrouter_cost(usage: Mapping[str, Any]) -> int | None:
    return _decimal_micros(usage.get("cost"))


_OPENROUTER = Route(
    path="images",
    fields=_same(
        "quality",
        "background",
        "output_format",
        "output_compression",
        "seed",
        "aspect_ratio",
        "resolution",
    ),
    one="",
    many="input_references",
    place="reference",
    max_n=10,
    size="text",
)
OPENROUTER = Profile(
    name="openrouter",
    label="OpenRouter",
    doc="image models of many makers on OpenRouter",
    base_url="https://openrouter.ai/api/v1",
    env_key="OPENROUTER_API_KEY",
    local=False,
    generate=_OPENROUTER,
    edit=_OPENROUTER,
    formats={},
    values={"quality": {"standard": "medium", "hd": "high"}},
    cost_micros=_openrouter_cost,
    errors=ErrorTable(
        words=_WORDS,
        statuses={**_MAY_BE_BILLED, 503: ProviderUnavailable, 529: ProviderBusy},
        read=_read_openrouter,
    ),
)


# Nebius Token Factory: two catalogues list no image model there since the spring of 2026.

_NEBIUS = Route(
    path="images/generations",
    fields={**_same("seed", "negative_prompt", "num_inference_steps"), "output_format": "response_extension"},
    n=False,
    max_n=1,
    size="sides",
    formats=frozenset({"png", "jpeg", "webp"}),
)
NEBIUS = Profile(
    name="nebius",
    label="Nebius",
    doc="image models on Nebius Token Factory; it listed none in November 2026",
    base_url="https://api.tokenfactory.nebius.com/v1",
    env_key="NEBIUS_API_KEY",
    local=False,
    generate=_NEBIUS,
    edit=None,
    values={"output_format": {"jpeg": "jpg"}},
    errors=ErrorTable(words=_WORDS, statuses={**_MAY_BE_BILLED, 503: ProviderUnavailable}),
)


# vLLM-Omni. https://docs.vllm.ai/projects/vllm-omni (serving/image_generation_api, serving/image_edit_api)

_VLLM_FIELDS = _same("output_format", "seed", "negative_prompt", "num_inference_steps", "user")
VLLM_OMNI = Profile(
    name="vllm_omni",
    label="vLLM-Omni",
    doc="a vLLM-Omni server",
    base_url="http://127.0.0.1:8000/v1",
    generate=Route(path="images/generations", fields=_VLLM_FIELDS, max_n=10),
    edit=Route(
        path="images/edits",
        fields={**_VLLM_FIELDS, **_same("background", "output_compression")},
        form=True,
        many="image",
        mask="mask_image",  # a part called mask is ignored
        white=True,
        max_n=10,
    ),
    formats={"b64_json": "b64_json"},  # url is refused
)


# SGLang diffusion. https://docs.sglang.io/diffusion/api/openai_api.html


def _finish_sglang(call: Call, fields: dict[str, Any]) -> None:
    """Send a seed always: some versions have a constant for it, and draw the same picture for ever."""
    fields["seed"] = _seed(call)


_SGLANG_FIELDS = _same(
    "quality",
    "background",
    "output_format",
    "output_compression",
    "seed",
    "num_inference_steps",
    "negative_prompt",
    "user",
)
SGLANG = Profile(
    name="sglang",
    label="SGLang",
    doc="an SGLang server with a diffusion model",
    base_url="http://127.0.0.1:30000/v1",
    generate=Route(path="images/generations", fields=_SGLANG_FIELDS, max_n=10),
    # It accepts a mask and ignores it.
    edit=Route(path="images/edits", fields=_SGLANG_FIELDS, form=True, max_n=10),
    finish=_finish_sglang,
)


# LocalAI. https://github.com/mudler/LocalAI, core/http/endpoints/openai


def _finish_localai(call: Call, fields: dict[str, Any]) -> None:
    """A bar in the prompt splits it: what follows is the negative prompt."""
    parts = [fields.get("prompt"), call.request.negative_prompt]
    fields["prompt"] = "|".join(part.replace("|", ",") for part in parts if part)


LOCALAI = Profile(
    name="localai",
    label="LocalAI",
    doc="a LocalAI server",
    base_url="http://127.0.0.1:8080/v1",
    generate=Route(
        path="images/generations",
        fields={"seed": "seed", "num_inference_steps": "step", "negative_prompt": ""},
        multiple_of=64,
    ),
    edit=Route(
        path="images/generations",
        fields={"seed": "seed", "num_inference_steps": "step", "negative_prompt": ""},
        one="file",
        many="ref_images",
        place="base64",  # data URLs are not understood
        multiple_of=64,
    ),
    inpaint=Route(
        path="images/inpainting",
        fields={"num_inference_steps": "steps"},
        form=True,
        n=False,
        max_n=1,
        says_format=False,
        mask="mask",
        white=True,
        only_size="512x512",
    ),
    finish=_finish_localai,
)


# stable-diffusion.cpp. https://github.com/leejet/stable-diffusion.cpp/blob/master/examples/server/api.md


def _finish_sdcpp(call: Call, fields: dict[str, Any]) -> None:
    """Say in the server's own tag what its fields cannot; some versions draw one seed when they start, for all."""
    request = call.request
    native: dict[str, Any] = {"seed": _seed(call)}
    if request.negative_prompt is not None:
        native["negative_prompt"] = request.negative_prompt
    if request.num_inference_steps is not None:
        native["sample_params"] = {"sample_steps": request.num_inference_steps}
    # Nothing of the caller's text can end the tag.
    text = msgspec.json.encode(native).decode().replace("<", "\\u003c")
    fields["prompt"] = f"{fields.get('prompt', '')} {NATIVE_ARGUMENTS}>{text}</{NATIVE_ARGUMENTS[1:]}>"


_SDCPP_FIELDS = {
    **_same("output_format", "output_compression"),
    **dict.fromkeys(("seed", "negative_prompt", "num_inference_steps"), ""),
}
SDCPP = Profile(
    name="sdcpp",
    label="stable-diffusion.cpp",
    doc="stable-diffusion.cpp's sd-server",
    base_url="http://127.0.0.1:1234/v1",
    generate=Route(
        path="images/generations",
        fields=_SDCPP_FIELDS,
        max_n=8,  # more is silently cut down
        says_format=False,
        multiple_of=64,
        formats=frozenset({"png", "jpeg", "webp"}),
    ),
    edit=Route(
        path="images/edits",
        fields=_SDCPP_FIELDS,
        form=True,
        max_n=8,
        says_format=False,
        one="",
        mask="mask",
        white=True,
        multiple_of=64,
        formats=frozenset({"png", "jpeg"}),
    ),
    formats={},
    finish=_finish_sdcpp,
)


# Lemonade. https://github.com/lemonade-sdk/lemonade/blob/main/docs/api/openai.md

_LEMONADE_FIELDS = {"seed": "seed", "num_inference_steps": "steps"}
LEMONADE = Profile(
    name="lemonade",
    label="Lemonade",
    doc="a Lemonade server",
    base_url="http://127.0.0.1:13305/v1",
    generate=Route(path="images/generations", fields=_LEMONADE_FIELDS, max_n=1, multiple_of=64),
    edit=Route(
        path="images/edits",
        fields={**_LEMONADE_FIELDS, "user": "user"},
        form=True,
        max_n=10,
        says_format=False,
        mask="mask",
        white=True,
        multiple_of=64,
        png=True,
    ),
    vary=Route(
        path="images/variations",
        fields={},
        form=True,
        max_n=10,
        prompt=False,
        says_format=False,
        multiple_of=64,
        png=True,
    ),
    formats={"b64_json": "b64_json"},
)

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {profile.name: profile for profile in (TOGETHER, OPENROUTER, NEBIUS, VLLM_OMNI, SGLANG, LOCALAI, SDCPP, LEMONADE)}
)
