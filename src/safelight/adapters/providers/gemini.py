"""Google's Gemini API (the Developer API): the models that draw natively.

Sources: https://ai.google.dev/gemini-api/docs/image-generation, https://ai.google.dev/gemini-api/docs/deprecations and
https://ai.google.dev/gemini-api/docs/troubleshooting, read 2026-11-23.
"""

import msgspec

from safelight.adapters.providers._base import BaseProvider, Entry, ProviderModule
from safelight.adapters.providers._gemini_frames import load_models
from safelight.adapters.providers._gemini_shape import (
    FIELDS,
    RULES,
    api_key,
    finished,
    generate_body,
    model_path,
    refuse_imagen,
    refuse_unsendable,
    version_path,
)
from safelight.adapters.providers._google_errors import GOOGLE_ERRORS
from safelight.adapters.providers._http import Dialect
from safelight.application.ports import Call, Finished

_DIALECT = Dialect(authorise=api_key, errors=GOOGLE_ERRORS)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`api_version`: which surface to use where `base_url` names none. `v1` has refused pictures before."""

    api_version: str = "v1beta"


class Gemini(BaseProvider):
    """Answers at once, with base64; there is no handle and no idempotency key, so a lost answer stays unknown."""

    max_n = 1

    def __init__(self, entry: Entry[Options]) -> None:
        """Prepare the address."""
        super().__init__(entry.settings, tuple(load_models("gemini", entry.settings)), rules=RULES)
        self._http = entry.http(_DIALECT)
        self._version = version_path(self._http, entry.options.api_version)

    async def submit(self, call: Call) -> Finished:
        """Generate or edit, which is one method here. A variation is an edit with a neutral prompt."""
        refuse_imagen(call.model)
        refuse_unsendable(call, FIELDS, RULES)
        url = self._http.url(f"{self._version}{model_path(call.model)}")
        return await finished(await self._http.buy(call, url, generate_body(call, self.spec(call.model))), call)


PROVIDER = ProviderModule(
    name="gemini",
    doc="Google's Gemini image models, by API key",
    create=Gemini,
    options=Options,
    base_url="https://generativelanguage.googleapis.com",
    env_key="GEMINI_API_KEY",
    needs_key=True,
)
