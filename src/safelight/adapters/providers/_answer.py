"""What a provider answers: its JSON, and its pictures, which stream into the blob store as they arrive."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from safelight.application.ports import ImageSink, StoredPicture, Workspace
from safelight.base64_json import LiftError, lift
from safelight.domain.errors import InvalidRequest, ProviderProtocolError
from safelight.domain.image import StoredImage

MAX_JSON_BYTES = 8 * 1024 * 1024
"""Of an answer, its pictures apart."""
MAX_PICTURES = 64
"""In one answer."""

_PIECE_BYTES = 64 * 1024

T = TypeVar("T")


async def store_picture(workspace: Workspace, content: bytes) -> StoredImage:
    """Put a picture that we hold into the blob store; raises `InvalidRequest` when it is none."""
    sink = workspace.open_sink()
    try:
        for start in range(0, len(content), _PIECE_BYTES):
            await sink.write(content[start : start + _PIECE_BYTES])
    except BaseException:
        await sink.abort()
        raise
    await sink.close()
    return sink.image


class LiftedPicture:
    """A long string of an answer on its way into the blob store: a picture, as far as anybody knows."""

    def __init__(self, sink: ImageSink) -> None:
        """Write into `sink`, which knows the limits of a picture."""
        self._sink = sink
        self._fault: InvalidRequest | None = None

    async def write(self, chunk: bytes) -> None:
        """Append bytes; raises `ProviderProtocolError` when the sink takes no more."""
        try:
            await self._sink.write(chunk)
        except InvalidRequest as exc:
            raise _unreadable_picture(exc) from exc

    async def close(self) -> None:
        """Finish. Providers send long base64 that is no picture, too: a fault only if somebody wants the picture."""
        try:
            await self._sink.close()
        except InvalidRequest as exc:
            self._fault = exc

    async def abort(self) -> None:
        """Drop it."""
        await self._sink.abort()

    @property
    def image(self) -> StoredImage:
        """What was stored; raises `ProviderProtocolError` when it is no picture."""
        if self._fault is not None:
            raise _unreadable_picture(self._fault)
        return self._sink.image


def _unreadable_picture(why: InvalidRequest) -> ProviderProtocolError:
    return ProviderProtocolError(f"the provider sent a picture that {why.message}")


Lifts = Mapping[str, LiftedPicture | None]
"""What placeholders stand for; `None` where it was no base64 and has been dropped."""


async def read_lifted(chunks: AsyncIterator[bytes], workspace: Workspace) -> tuple[bytes, Lifts]:
    """Read an answer of any size: its JSON, with placeholders for what was lifted out of it."""
    sinks: dict[str, LiftedPicture | None] = {}

    async def open_sink(placeholder: str) -> LiftedPicture:
        if len(sinks) >= MAX_PICTURES:
            raise ProviderProtocolError(f"the provider sent more than {MAX_PICTURES} pictures in one answer")
        sink = sinks[placeholder] = LiftedPicture(workspace.open_sink())
        return sink

    try:
        lifted = await lift(chunks, open_sink, max_json_bytes=MAX_JSON_BYTES)
    except LiftError as exc:
        raise ProviderProtocolError(f"the provider's answer cannot be read: {exc}") from exc
    dropped = {name: None for name, value in lifted.values.items() if not value.is_base64}
    return lifted.json, {**sinks, **dropped}


async def read_picture(chunks: AsyncIterator[bytes], workspace: Workspace) -> LiftedPicture:
    """Store an answer that is a picture itself, as it arrives."""
    picture = LiftedPicture(workspace.open_sink())
    try:
        async for chunk in chunks:
            await picture.write(chunk)
    except BaseException:
        await picture.abort()
        raise
    await picture.close()
    return picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A success. In `text` each long string is a placeholder; `picture` takes those and plain base64 alike."""

    status: int
    headers: Mapping[str, str]
    text: bytes
    workspace: Workspace
    request_id: str | None = None
    lifted: Lifts = field(default_factory=dict)
    whole: LiftedPicture | None = None
    """What came where the answer is a picture itself, by its content type; `text` is empty then."""

    def whole_picture(self) -> StoredPicture:
        """Take the answer as one picture; raises `ProviderProtocolError` when it is none."""
        if self.whole is None:
            raise self.unreadable("the provider answered without a picture")
        return StoredPicture(image=self.whole.image)

    def read(self, kind: type[T]) -> T:
        """Read the JSON as `kind`; raises `ProviderProtocolError`."""
        try:
            return msgspec.json.decode(self.text, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise self.unreadable("the provider's answer cannot be read") from exc

    def words(self, value: Any) -> str | None:
        """Take a text of the answer; `None` for anything else, also where it was too long to be kept."""
        return value if isinstance(value, str) and value not in self.lifted else None

    async def picture(self, base64: str, *, revised_prompt: str | None = None) -> StoredPicture:
        """Take a picture that stood in the answer as base64 or as a data URL."""
        if base64 not in self.lifted:
            return StoredPicture(image=await self._store(base64), revised_prompt=revised_prompt)
        sink = self.lifted[base64]
        if sink is None:
            raise self.unreadable("the provider sent a picture that is no base64")
        return StoredPicture(image=sink.image, revised_prompt=revised_prompt)

    async def _store(self, base64: str) -> StoredImage:
        try:
            # Unlike pybase64 it keeps the interpreter's lock: for what is short, handing that over takes longer.
            content = msgspec.convert(base64.rpartition(",")[2], bytes)
        except msgspec.ValidationError as exc:
            raise self.unreadable("the provider sent a picture that is no base64") from exc
        try:
            return await store_picture(self.workspace, content)
        except InvalidRequest as exc:
            raise _unreadable_picture(exc) from exc

    def unreadable(self, message: str) -> ProviderProtocolError:
        """Make the error of an answer that says success and holds nothing that we can use."""
        return ProviderProtocolError(message, status=self.status, request_id=self.request_id)
