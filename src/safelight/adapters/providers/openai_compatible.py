"""Any server that speaks OpenAI's image API: vLLM-Omni, SGLang, LocalAI, stable-diffusion.cpp, Lemonade, hosted ones.

Source: `docs/providers.md` names the servers and what each ignores (read 2026-11). Every field goes through as the
caller gave it; the server enforces its own limits.
"""

from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from safelight.adapters.providers._base import BaseProvider, Entry, ProviderModule, ProviderSettings
from safelight.adapters.providers._body import json_body
from safelight.adapters.providers._errors import ErrorTable
from safelight.adapters.providers._http import Dialect
from safelight.adapters.providers._openai_shape import edit_form, finished, given, prompt_of, via_of
from safelight.application.ports import Call, Finished
from safelight.domain.errors import ProviderModelGone, ProviderRejected, UnsupportedFeature
from safelight.domain.image import ImageRequest, Operation

_FIELDS = (
    "size",
    "quality",
    "style",
    "background",
    "moderation",
    "output_format",
    "output_compression",
    "seed",
    "num_inference_steps",
    "negative_prompt",
    "aspect_ratio",
    "resolution",
    "input_fidelity",
    "user",
)
_DIALECT = Dialect(
    errors=ErrorTable(
        words={
            "content_policy_violation": ProviderRejected,
            "model_not_found": ProviderModelGone,
            "moderation_blocked": ProviderRejected,
        },
        statuses={405: ProviderModelGone, 501: ProviderModelGone},  # no such route here
    )
)
_NATIVE_ARGUMENTS = "<sd_cpp_extra_args"
"""stable-diffusion.cpp (and Lemonade on top of it) runs whatever stands in such a tag of the prompt, paths included."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`response_format`: what to ask the server for. Their defaults differ, so it is always sent unless `none`."""

    response_format: Literal["b64_json", "url", "none"] = "b64_json"


class OpenAICompatible(BaseProvider):
    """One such server."""

    def __init__(self, entry: Entry[Options]) -> None:
        """Prepare the addresses."""
        super().__init__(entry.settings)
        self._http = entry.http(_DIALECT)
        self._response_format = entry.options.response_format
        self._generations = self._http.url("images/generations")
        self._edits = self._http.url("images/edits")

    async def submit(self, call: Call) -> Finished:
        """Generate, or edit; a variation is an edit with a neutral prompt."""
        request = call.request
        _refuse_native_arguments(request)
        fields = self._fields(call)
        if request.operation is Operation.GENERATION:
            answer = await self._http.buy(call, self._generations, json_body(fields))
        else:
            answer = await self._http.buy(call, self._edits, edit_form(call, fields))
        return await finished(answer, base_url=self._http.base_url, via=via_of(request))

    def _fields(self, call: Call) -> dict[str, object]:
        request = call.request
        fields: dict[str, object] = {"model": call.model, "n": call.n, **given(request, _FIELDS)}
        if (prompt := prompt_of(request)) is not None:
            fields["prompt"] = prompt
        if self._response_format != "none":
            fields["response_format"] = self._response_format
        if request.edit_type is not None:
            fields["type"] = request.edit_type
        return {**fields, **request.extra}


def _refuse_native_arguments(request: ImageRequest) -> None:
    for name in ("prompt", "negative_prompt"):
        if _NATIVE_ARGUMENTS in (getattr(request, name) or "").lower():
            raise UnsupportedFeature(f"{name} must not hold {_NATIVE_ARGUMENTS}>", param=name)


def _on_own_network(settings: ProviderSettings) -> bool:
    """Take a server on a loopback or private address for one that costs time, not money."""
    host = urlsplit(settings.base_url or "").hostname or ""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


PROVIDER = ProviderModule(
    name="openai_compatible",
    doc="any server with OpenAI's image routes; base_url says where",
    create=OpenAICompatible,
    options=Options,
    repeatable=_on_own_network,
)
