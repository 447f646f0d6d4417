"""xAI's Grok Imagine image models.

Source: https://docs.x.ai/developers/rest-api-reference/inference/images, read 2026-11-23.
"""

import re
from dataclasses import replace
from typing import Any

import msgspec

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._base import BaseProvider, Entry, NoOptions, ProviderModule
from safelight.adapters.providers._body import Body
from safelight.adapters.providers._catalogue import load_catalogue
from safelight.adapters.providers._errors import Complaint, ErrorTable, read_complaint
from safelight.adapters.providers._http import Dialect
from safelight.adapters.providers._inline import InlinePictures
from safelight.adapters.providers._openai_shape import finished, given, prompt_of, via_of
from safelight.adapters.providers._ratios import nearest_ratio, ratio_value
from safelight.adapters.providers._rules import edits_inpaint, edits_need_prompt
from safelight.application.ports import Call, Finished
from safelight.domain.capability import OPTIONAL_FIELDS, ModelSpec
from safelight.domain.errors import (
    ProviderAuthError,
    ProviderModelGone,
    ProviderRejected,
    UnsupportedFeature,
)
from safelight.domain.image import Dimensions, ImageRequest, Operation
from safelight.domain.money import Charged

_RATIOS = ("1:1", "3:4", "4:3", "9:16", "16:9", "2:3", "3:2", "9:19.5", "19.5:9", "9:20", "20:9", "1:2", "2:1")
"""What a size may become for a model that we do not know: these hold for all that we do."""
_TRANSLATED = frozenset({"size", "quality", "aspect_ratio", "resolution"})
_QUALITIES = {"standard": "medium", "hd": "medium", "high": "medium"}
"""Words that clients send; the best quality there is medium."""
_LONGEST_1K = 1280
_LARGEST_DEVIATION = 1.2
_TICKS_PER_MICRO = 10_000
_WRONG_KEY = re.compile(r"(?:incorrect|invalid)(?: |%20)api(?: |%20)key", re.IGNORECASE)
_RETIRED = re.compile(r"model.*no longer available", re.IGNORECASE)


def _read(body: bytes) -> Complaint:
    """Two refusals tell by their text alone what they are."""
    complaint = read_complaint(body)
    said = complaint.message or ""
    if _WRONG_KEY.search(said):  # comes as 400
        return replace(complaint, meaning=ProviderAuthError)
    if _RETIRED.search(said):  # came as 500
        return replace(complaint, meaning=ProviderModelGone)
    return complaint


_DIALECT = Dialect(errors=ErrorTable(read=_read))


class _Said(msgspec.Struct):
    data: list[dict[str, Any]] | None = None
    model: Any = None
    usage: Any = None


def _edits_have_no_mask(request: ImageRequest) -> UnsupportedFeature | None:
    if request.mask is not None:
        return UnsupportedFeature("xAI's edits take no mask: say in the prompt what is to change", param="mask")
    return None


def _one_source_keeps_its_ratio(request: ImageRequest) -> UnsupportedFeature | None:
    """With one source the asked ratio would be ignored."""
    asked = _asked_ratio(request)
    if len(request.images) != 1 or asked is None:
        return None
    source = request.images[0].image.dimensions
    own = _ratio(source)
    if max(asked / own, own / asked) <= _LARGEST_DEVIATION:
        return None
    param = "aspect_ratio" if request.aspect_ratio else "size"
    return UnsupportedFeature(f"an edit of one image keeps its aspect ratio, that of {source}", param=param)


class XAI(BaseProvider):
    """Answers at once, with base64; there is no handle and no idempotency key, so a lost answer stays unknown."""

    max_n = 10

    def __init__(self, entry: Entry[NoOptions]) -> None:
        """Prepare the addresses."""
        rules = (edits_inpaint, edits_need_prompt, _edits_have_no_mask, _one_source_keeps_its_ratio)
        super().__init__(entry.settings, load_catalogue("xai"), rules=rules)
        self._http = entry.http(_DIALECT)
        self._generations = self._http.url("images/generations")
        self._edits = self._http.url("images/edits")

    async def submit(self, call: Call) -> Finished:
        """Generate, or edit; a variation is an edit with a neutral prompt."""
        if refusal := _edits_have_no_mask(call.request):
            raise refusal
        url = self._generations if call.request.operation is Operation.GENERATION else self._edits
        answer = await self._http.buy(call, url, self._body(call))
        said = answer.read(_Said)
        shown = replace(answer, text=msgspec.json.encode({"data": _shown(answer, said), "model": said.model}))
        result = await finished(shown, base_url=self._http.base_url, via=via_of(call.request))
        return msgspec.structs.replace(result, cost_micros=_cost_micros(said.usage))

    def _body(self, call: Call) -> Body:
        """Name the fields as xAI does: one that it does not know is an error there."""
        request, spec = call.request, self.spec(call.model)
        pictures = InlinePictures(call.workspace)
        fields: dict[str, object] = {"model": call.model, "n": call.n, "response_format": "b64_json"}
        if (prompt := prompt_of(request)) is not None:
            fields["prompt"] = prompt
        fields |= _shape(request, spec)
        fields |= given(request, ["user"])
        if request.quality not in {None, "auto"}:
            fields["quality"] = _QUALITIES.get(request.quality, request.quality) if spec else request.quality
        if spec is None:
            fields |= given(request, (name for name in OPTIONAL_FIELDS if name not in _TRANSLATED))
        sources = [{"url": pictures.data_url(each.image), "type": "image_url"} for each in request.images]
        if sources:
            fields |= {"image": sources[0]} if len(sources) == 1 else {"images": sources}
        return pictures.body({**fields, **request.extra})


def _shape(request: ImageRequest, spec: ModelSpec | None) -> dict[str, object]:
    """Say the ratio and the tier; a size becomes the nearest of both where the caller does not name them."""
    shape: dict[str, object] = {}
    size = request.pixel_size
    if size is not None and size.pixels:
        shape["aspect_ratio"] = nearest_ratio(size, (spec.aspect_ratios if spec else None) or _RATIOS)
        shape["resolution"] = "1k" if max(size.width, size.height) <= _LONGEST_1K else "2k"
    if request.aspect_ratio is not None:
        shape["aspect_ratio"] = request.aspect_ratio
    if request.resolution is not None:
        shape["resolution"] = request.resolution.lower()
    return shape


def _asked_ratio(request: ImageRequest) -> float | None:
    if request.aspect_ratio is not None:
        return ratio_value(request.aspect_ratio)
    return _ratio(request.pixel_size) if request.pixel_size else None


def _ratio(size: Dimensions) -> float:
    return max(size.width, 1) / max(size.height, 1)


def _shown(answer: Answer, said: _Said) -> list[dict[str, Any]]:
    """Take the items that may be handed out. Blocked ones come with HTTP 200, and may be billed all the same."""
    items = said.data or []
    allowed = [item for item in items if item.get("respect_moderation") is not False]
    shown = [item for item in allowed if item.get("b64_json") or item.get("url")]
    if not shown and len(allowed) < len(items):
        cost = _cost_micros(said.usage)
        raise ProviderRejected(
            "xAI's moderation withheld every image; xAI may bill them",
            status=400,
            provider_code="content_policy_violation",
            request_id=answer.request_id,
            charged=Charged.UNKNOWN if cost is None else Charged.YES if cost else Charged.NO,
            cost_micros=cost,
        )
    if not shown:
        raise answer.unreadable("xAI returned no image, most likely for moderation; it may have been billed")
    return [{**item, "revised_prompt": item.get("revised_prompt") or None} for item in shown]


def _cost_micros(usage: Any) -> int | None:
    """Ten thousand ticks make a micro-dollar; rounded half up."""
    ticks = usage.get("cost_in_usd_ticks") if isinstance(usage, dict) else None
    if not isinstance(ticks, int) or isinstance(ticks, bool) or ticks < 0:
        return None
    return (ticks + _TICKS_PER_MICRO // 2) // _TICKS_PER_MICRO


PROVIDER = ProviderModule(
    name="xai",
    doc="xAI's Grok Imagine image models",
    create=XAI,
    options=NoOptions,
    base_url="https://api.x.ai/v1",
    env_key="XAI_API_KEY",
    needs_key=True,
)
