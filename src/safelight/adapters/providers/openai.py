"""OpenAI's GPT image models.

Source: https://developers.openai.com/api/reference/resources/images/methods/generate, read 2026-11-23.
"""

import hashlib

import msgspec

from safelight.adapters.providers._base import BaseProvider, Entry, ProviderModule
from safelight.adapters.providers._body import json_body
from safelight.adapters.providers._catalogue import load_catalogue
from safelight.adapters.providers._errors import ErrorTable
from safelight.adapters.providers._gpt_images import buy_pictures, plain_fields, quality_of
from safelight.adapters.providers._http import Dialect
from safelight.adapters.providers._openai_shape import edit_form
from safelight.adapters.providers._rules import (
    compression_needs_lossy_format,
    edits_inpaint,
    edits_need_prompt,
    transparency_needs_alpha,
)
from safelight.application.ports import Call, Finished
from safelight.domain.errors import (
    ProviderAuthError,
    ProviderBusy,
    ProviderModelGone,
    ProviderRejected,
    UnsupportedFeature,
)
from safelight.domain.image import ImageRequest, Operation

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


def _gif_has_no_previews(request: ImageRequest) -> UnsupportedFeature | None:
    if request.output_format in {"gif", "svg"} and request.partial_images:
        return UnsupportedFeature(f"there are no previews of a {request.output_format}", param="partial_images")
    return None


_RULES = (
    transparency_needs_alpha,
    compression_needs_lossy_format,
    edits_inpaint,
    edits_need_prompt,
    _moderation_is_for_generations,
    _gif_has_no_mask,
    _gif_has_no_previews,
)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which organization and project pay, where a key may act for several."""

    organization: str | None = None
    project: str | None = None


class OpenAI(BaseProvider):
    """Answers at once, with base64; there is no handle and no idempotency key, so a lost answer stays unknown."""

    max_n = 10

    def __init__(self, entry: Entry[Options]) -> None:
        """Prepare the addresses."""
        super().__init__(entry.settings, load_catalogue("openai"), rules=_RULES)
        self._http = entry.http(_DIALECT)
        self._generations = self._http.url("images/generations")
        self._edits = self._http.url("images/edits")
        payers = {"OpenAI-Organization": entry.options.organization, "OpenAI-Project": entry.options.project}
        self._headers = {name: value for name, value in payers.items() if value}

    async def submit(self, call: Call) -> Finished:
        """Generate, or edit. The variation call is retired: an edit with a neutral prompt stands in for it."""
        fields = self._fields(call)
        if call.request.operation is Operation.GENERATION:
            return await buy_pictures(self._http, call, self._generations, json_body(fields), headers=self._headers)
        return await buy_pictures(self._http, call, self._edits, edit_form(call, fields), headers=self._headers)

    def _fields(self, call: Call) -> dict[str, object]:
        """Name the fields as OpenAI does."""
        request = call.request
        fields = {"model": call.model, **plain_fields(call, self.spec(call.model))}
        if request.quality is not None:
            fields["quality"] = quality_of(request.quality)
        if request.user:
            fields["safety_identifier"] = hashlib.sha256(request.user.encode()).hexdigest()
        return {**fields, **request.extra}


PROVIDER = ProviderModule(
    name="openai",
    doc="OpenAI's GPT image models",
    create=OpenAI,
    options=Options,
    base_url="https://api.openai.com/v1",
    env_key="OPENAI_API_KEY",
    needs_key=True,
)
