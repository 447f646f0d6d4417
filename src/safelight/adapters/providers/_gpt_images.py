"""OpenAI's GPT image models, at OpenAI and at Azure: their fields, and how they show a picture while it develops.

Such an answer is a stream: previews, and each picture once it is done. Source: https://developers.openai.com/api/reference/resources/images/streaming-events, read 2026-11-25.
"""

from contextlib import aclosing
from typing import Any

import msgspec
import structlog
from yarl import URL

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._body import Body
from safelight.adapters.providers._http import ProviderHttp
from safelight.adapters.providers._openai_shape import finished, given, prompt_of, usage_of, via_of
from safelight.application.ports import Call, Finished, StoredPicture
from safelight.domain.capability import ModelSpec
from safelight.domain.errors import ProviderError, ProviderProtocolError, ProviderUnavailable, ProviderUncertain
from safelight.domain.image import Usage

log = structlog.get_logger(__name__)

_FIELDS = ("size", "background", "moderation", "output_format", "output_compression")
_OLD_QUALITIES = {"standard": "medium", "hd": "high"}
"""DALL·E's words, which clients still send; what they become is our choice."""
_CALLERS_FAULTS = frozenset({"invalid_request_error", "image_generation_user_error"})


class _Fault(msgspec.Struct):
    type: Any = None


class _Event(msgspec.Struct):
    """Only what we cannot do without is typed."""

    type: str = ""
    b64_json: str | None = None
    created_at: Any = None
    usage: Any = None
    background: Any = None
    output_format: Any = None
    quality: Any = None
    size: Any = None
    error: _Fault | None = None


def plain_fields(call: Call, spec: ModelSpec | None) -> dict[str, Any]:
    """Name what both hosts call alike. `response_format` is never sent: these models refuse it.

    `input_fidelity` is refused, too, where it is always high: from gpt-image-2 on.
    """
    request = call.request
    fields: dict[str, Any] = {"n": call.n, **given(request, _FIELDS)}
    if request.partial_images:
        fields |= {"stream": True, "partial_images": request.partial_images}
    if (prompt := prompt_of(request)) is not None:
        fields["prompt"] = prompt
    if request.input_fidelity is not None and (spec is None or spec.fidelities != {"high"}):
        fields["input_fidelity"] = request.input_fidelity
    return fields


def quality_of(word: str) -> str:
    """Spell a quality as these models do."""
    return _OLD_QUALITIES.get(word, word)


async def buy_pictures(http: ProviderHttp, call: Call, url: URL, body: Body, **more: Any) -> Finished:
    """Buy pictures, as a stream where previews are asked for. Raises a `ProviderError`."""
    if not call.request.partial_images:
        return await finished(await http.buy(call, url, body, **more), base_url=http.base_url, via=via_of(call.request))
    developing = _Developing(http, call)
    try:
        async with aclosing(http.buy_events(call, url, body, **more)) as answers:
            async for answer in answers:
                await developing.take(answer)
    except ProviderError as error:
        if not developing.pictures:
            raise
        log.warning("stream_broke_off", provider=call.request.target.provider, error=error.message)
    return developing.finished()


class _Developing:
    """What has come so far."""

    def __init__(self, http: ProviderHttp, call: Call) -> None:
        self._http = http
        self._call = call
        self._last: tuple[Answer, _Event] | None = None
        self._usages: list[Usage] = []
        self._whole: Finished | None = None
        self.pictures: list[StoredPicture] = []

    async def take(self, answer: Answer) -> None:
        """Take one event, or the answer of a server that does not stream. What is of no known kind is passed over."""
        if answer.text.strip() == b"[DONE]":
            return
        event = answer.read(_Event)
        if event.error is not None:
            raise self._refusal(answer, event.error)
        match event.type.rpartition(".")[2]:
            case "partial_image":
                await self._preview(answer, event)
            case "completed":
                await self._picture(answer, event)
            case "":
                self._whole = await finished(answer, base_url=self._http.base_url, via=via_of(self._call.request))
            case _:
                pass

    async def _preview(self, answer: Answer, event: _Event) -> None:
        try:
            preview = await answer.picture(event.b64_json or "")
        except ProviderProtocolError as error:
            log.info("preview_unreadable", error=error.message)
        else:
            await self._call.report.preview(preview.image, index=len(self.pictures))

    async def _picture(self, answer: Answer, event: _Event) -> None:
        self.pictures.append(await answer.picture(event.b64_json or ""))
        self._last = answer, event
        if (usage := usage_of(event.usage)) is not None:
            self._usages.append(usage)

    def _refusal(self, answer: Answer, fault: _Fault) -> ProviderError:
        """Read a refusal that came too late for a status of its own. Work that broke down may have been charged."""
        error = self._http.refusal_in(answer, self._call, status=400 if fault.type in _CALLERS_FAULTS else 500)
        if not isinstance(error, ProviderUnavailable):
            return error
        return ProviderUncertain(error.message, provider_code=error.provider_code, request_id=error.request_id)

    def finished(self) -> Finished:
        """Join the pictures; raises `ProviderProtocolError` when there is none."""
        if self._whole is not None:
            return self._whole
        if self._last is None:
            raise ProviderProtocolError("the provider's stream ended without a picture")
        answer, event = self._last
        return Finished(
            pictures=tuple(self.pictures),
            created=int(event.created_at) if isinstance(event.created_at, int | float) else None,
            usage=_sum(self._usages),
            background=answer.words(event.background),
            output_format=answer.words(event.output_format),
            quality=answer.words(event.quality),
            size=answer.words(event.size),
            via=via_of(self._call.request),
        )


def _sum(usages: list[Usage]) -> Usage | None:
    """Add up what the pictures of one call took: each tells its own."""
    if len(usages) < 2:
        return usages[0] if usages else None
    added: dict[str, Any] = {}
    for name in Usage.__struct_fields__:
        said = [value for usage in usages if (value := getattr(usage, name)) is not None]
        if said and isinstance(said[0], int):
            added[name] = sum(said)
        elif said:
            added[name] = {kind: sum(counts.get(kind, 0) for counts in said) for kind in said[0]}
    return Usage(**added)
