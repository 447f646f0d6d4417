"""OpenAI's GPT image models.

Sources: https://developers.openai.com/api/reference/resources/images/methods/generate and
https://developers.openai.com/api/docs/deprecations, read 2026-11-23.
"""

import hashlib
from collections.abc import Iterator
from datetime import date

import msgspec

from safelight.adapters.providers._base import BaseProvider, Entry, ProviderModule
from safelight.adapters.providers._body import json_body
from safelight.adapters.providers._errors import ErrorTable
from safelight.adapters.providers._http import Dialect
from safelight.adapters.providers._openai_shape import edit_form, finished, given, prompt_of, via_of
from safelight.adapters.providers._rules import (
    compression_needs_lossy_format,
    edits_inpaint,
    edits_need_prompt,
    transparency_needs_alpha,
)
from safelight.application.ports import Call, Finished
from safelight.domain.capability import Life, ModelSpec, PixelRule
from safelight.domain.errors import (
    ProviderAuthError,
    ProviderBusy,
    ProviderModelGone,
    ProviderRejected,
    UnsupportedFeature,
)
from safelight.domain.image import ImageRequest, Operation, ResponseFormat

_FIELDS = ("size", "background", "moderation", "output_format", "output_compression")
_QUALITIES = frozenset({"auto", "low", "medium", "high"})
_HIGHEST = frozenset({"xhigh", "max"})
_FORMATS = frozenset({"png", "jpeg", "webp"})
_OLD_QUALITIES = {"standard": "medium", "hd": "high"}
"""DALL·E's words, which clients still send; what they become is our choice."""
_FREE_SIZES = PixelRule(multiple_of=16, max_side=3840, min_pixels=655_360, max_pixels=8_294_400, max_ratio=3)
_DIALECT = Dialect(
    errors=ErrorTable(
        words={
            "billing_hard_limit_reached": ProviderAuthError,  # comes as 400, with the type of a bad request
            "billing_not_active": ProviderAuthError,
            "content_policy_violation": ProviderRejected,
            "image_generation_user_error": ProviderRejected,
            "insufficient_quota": ProviderAuthError,  # comes as 429, and no waiting mends it
            "invalid_api_key": ProviderAuthError,
            "model_not_found": ProviderModelGone,
            "moderation_blocked": ProviderRejected,
            "organization_spend_limit_exceeded": ProviderAuthError,
            "project_spend_limit_exceeded": ProviderAuthError,
            "rate_limit_exceeded": ProviderBusy,
        }
    )
)


def _moderation_is_for_generations(request: ImageRequest) -> UnsupportedFeature | None:
    if request.moderation is not None and request.operation is not Operation.GENERATION:
        return UnsupportedFeature("moderation can be set for generations alone", param="moderation")
    return None


def _gif_has_no_mask(request: ImageRequest) -> UnsupportedFeature | None:
    if request.output_format == "gif" and request.mask is not None:
        return UnsupportedFeature("an edit with a mask cannot give a gif", param="output_format")
    return None


def _spec(
    name: str,
    *,
    pixel_rule: PixelRule | None = None,
    more_qualities: frozenset[str] = frozenset(),
    more_formats: frozenset[str] = frozenset(),
    fidelities: frozenset[str] = frozenset({"high"}),
    end: date | None = None,
    life: Life = Life.LIVE,
) -> ModelSpec:
    """Describe a GPT image model."""
    return ModelSpec(
        name=name,
        operations=frozenset(Operation),
        fields=frozenset({*_FIELDS, "quality", "input_fidelity"}),
        sizes=frozenset({"1024x1024", "1536x1024", "1024x1536"}),
        pixel_rule=pixel_rule,
        qualities=_QUALITIES | _OLD_QUALITIES.keys() | more_qualities,
        formats=_FORMATS | more_formats,
        fidelities=fidelities,
        max_n=10,
        max_prompt_chars=32_000,
        max_images=16,
        answers=frozenset({ResponseFormat.B64_JSON}),
        life=life,
        shutdown_date=end,
        rules=(
            transparency_needs_alpha,
            compression_needs_lossy_format,
            edits_inpaint,
            edits_need_prompt,
            _moderation_is_for_generations,
            _gif_has_no_mask,
        ),
    )


def _specs() -> Iterator[ModelSpec]:
    """List the models, live ones first. The newest pair is taken to share the limits of the pair before."""
    for name in ("gpt-image-2", "gpt-image-2-2026-04-21"):
        yield _spec(name, pixel_rule=_FREE_SIZES)
    for kind in ("sunburst", "flare"):
        for name in (f"gpt-image-2.5-{kind}", f"gpt-image-2.5-{kind}-2026-09-08"):
            yield _spec(name, pixel_rule=_FREE_SIZES, more_qualities=_HIGHEST)
        # With preview access they also give SVG, which is no picture that we could keep.
        gif = frozenset({"gif"})
        yield _spec(f"gpt-image-2.6-{kind}", pixel_rule=_FREE_SIZES, more_qualities=_HIGHEST, more_formats=gif)
    december = date(2026, 12, 1)
    both = frozenset({"high", "low"})
    for name in ("gpt-image-1.5", "gpt-image-1.5-2025-12-16", "chatgpt-image-latest"):
        yield _spec(name, fidelities=both, end=december, life=Life.LEGACY)
    yield _spec("gpt-image-1-mini", fidelities=frozenset({"low"}), end=december, life=Life.LEGACY)
    yield _spec("gpt-image-1", fidelities=both, end=date(2026, 10, 23), life=Life.RETIRED)
    for name in ("dall-e-2", "dall-e-3"):
        yield ModelSpec(
            name=name,
            operations=frozenset(Operation),
            fields=frozenset({"size", "quality"}),
            max_n=10,
            life=Life.RETIRED,
            shutdown_date=date(2026, 5, 12),
        )


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which organization and project pay, where a key may act for several."""

    organization: str | None = None
    project: str | None = None


class OpenAI(BaseProvider):
    """Answers at once, with base64; there is no handle and no idempotency key, so a lost answer stays unknown."""

    def __init__(self, entry: Entry[Options]) -> None:
        """Prepare the addresses."""
        super().__init__(entry.settings, tuple(_specs()))
        self._http = entry.http(_DIALECT)
        self._generations = self._http.url("images/generations")
        self._edits = self._http.url("images/edits")
        payers = {"OpenAI-Organization": entry.options.organization, "OpenAI-Project": entry.options.project}
        self._headers = {name: value for name, value in payers.items() if value}

    async def submit(self, call: Call) -> Finished:
        """Generate, or edit. The variation call is retired: an edit with a neutral prompt stands in for it."""
        fields = self._fields(call)
        if call.request.operation is Operation.GENERATION:
            answer = await self._http.buy(call, self._generations, json_body(fields), headers=self._headers)
        else:
            answer = await self._http.buy(call, self._edits, edit_form(call, fields), headers=self._headers)
        return await finished(answer, base_url=self._http.base_url, via=via_of(call.request))

    def _fields(self, call: Call) -> dict[str, object]:
        """Name the fields as OpenAI does. `response_format` is never sent: these models refuse it."""
        request = call.request
        fields: dict[str, object] = {"model": call.model, "n": call.n, **given(request, _FIELDS)}
        if (prompt := prompt_of(request)) is not None:
            fields["prompt"] = prompt
        if request.quality is not None:
            fields["quality"] = _OLD_QUALITIES.get(request.quality, request.quality)
        if request.input_fidelity is not None and self._takes_fidelity(call.model):
            fields["input_fidelity"] = request.input_fidelity
        if request.user:
            fields["safety_identifier"] = hashlib.sha256(request.user.encode()).hexdigest()
        return {**fields, **request.extra}

    def _takes_fidelity(self, model: str) -> bool:
        """From gpt-image-2 on it is always high, and the field is refused."""
        spec = self.spec(model)
        return spec is None or spec.pixel_rule is None


PROVIDER = ProviderModule(
    name="openai",
    doc="OpenAI's GPT image models",
    create=OpenAI,
    options=Options,
    base_url="https://api.openai.com/v1",
    env_key="OPENAI_API_KEY",
    needs_key=True,
)
