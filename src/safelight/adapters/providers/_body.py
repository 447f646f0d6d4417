"""What is sent to a provider: JSON and forms of known length, their pictures streamed from the blob store."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import AsyncIterablePayload, Payload, StringPayload

from safelight.application.ports import Workspace
from safelight.base64_json import Insert, render
from safelight.domain.image import StoredImage

_LARGE_JSON_BYTES = 512 * 1024  # aiohttp wants more than 1 MiB as a stream
_FILE_ENDINGS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/gif": "gif"}

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_encode = msgspec.json.Encoder().encode


class Upload(AsyncIterablePayload):
    """A streamed body, or part of one, of known length. `complete` once all of it has been handed over."""

    def __init__(self, source: AsyncIterator[bytes], size_bytes: int, content_type: str) -> None:
        """Take the source; it is closed however the sending ends."""
        super().__init__(source, content_type=content_type)
        self._size = size_bytes
        self._source = source
        self.complete = False

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Send it (aiohttp's hook)."""
        try:
            await super().write_with_length(writer, content_length)
            self.complete = True
        finally:
            if isinstance(self._source, AsyncGenerator):
                await self._source.aclose()


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What is sent. Of a body with uploads we know whether it can have arrived as a whole."""

    data: bytes | Payload
    content_type: str
    uploads: tuple[Upload, ...] = ()

    @property
    def may_have_arrived(self) -> bool:
        """False while a part has not been handed over: nobody acts on half a body of announced length."""
        return all(upload.complete for upload in self.uploads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A file of a form."""

    name: str
    image: StoredImage
    filename: str

    @classmethod
    def of(cls, name: str, image: StoredImage, label: str) -> "Part":
        """Name the file after its own type, never after the user's text."""
        return cls(name=name, image=image, filename=f"{label}.{_FILE_ENDINGS.get(image.content_type, 'bin')}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldPart:
    """A small file of a form that we hold, such as a converted mask."""

    name: str
    content: bytes
    content_type: str
    filename: str


def json_body(value: Any, inserts: Mapping[str, Insert] | None = None) -> Body:
    """Encode JSON; `inserts` are pictures that stand in it as placeholders and are streamed in as base64."""
    text = _encode(value)
    if not inserts and len(text) <= _LARGE_JSON_BYTES:
        return Body(data=text, content_type="application/json")
    rendered = render(text, inserts or {})
    upload = Upload(rendered.chunks, rendered.content_length, "application/json")
    return Body(data=upload, content_type="application/json", uploads=(upload,))


def form_body(fields: Iterable[tuple[str, str]], parts: Iterable[Part | HeldPart], workspace: Workspace) -> Body:
    """Encode `multipart/form-data` with its exact length."""
    writer = aiohttp.MultipartWriter("form-data")
    for name, value in fields:
        text = StringPayload(value)
        text.headers.popall("Content-Type")  # as browsers and curl have it
        text.set_content_disposition("form-data", quote_fields=False, name=_field_name(name))
        writer.append_payload(text)
    uploads = tuple(_append_part(writer, part, workspace) for part in parts)
    return Body(data=writer, content_type=writer.content_type, uploads=uploads)


def _field_name(name: str) -> str:
    """Write a field's name, which may be the caller's own, as browsers do: UTF-8, control characters escaped.

    aiohttp's own way for such names, `name*`, is forbidden in forms (RFC 7578, 4.2), and it breaks off on it.
    """
    return _CONTROL.sub(lambda char: f"%{ord(char.group()):02X}", name)


def _append_part(writer: aiohttp.MultipartWriter, part: Part | HeldPart, workspace: Workspace) -> Upload:
    if isinstance(part, HeldPart):
        upload = Upload(_once(part.content), len(part.content), part.content_type)
    else:
        upload = Upload(workspace.read(part.image), part.image.size_bytes, part.image.content_type)
    upload.set_content_disposition("form-data", name=part.name, filename=part.filename)
    writer.append_payload(upload)
    return upload


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content
