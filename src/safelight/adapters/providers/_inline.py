"""Input pictures that stand inside a JSON body as base64. They are streamed from the blob store, never held."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from safelight.adapters.providers._body import Body, json_body
from safelight.application.ports import Workspace
from safelight.base64_json import Insert, Placeholders
from safelight.domain.image import StoredImage


class InlinePictures:
    """The pictures of one JSON body: ask for the text that stands for each, then for the `body`."""

    def __init__(self, workspace: Workspace) -> None:
        """Read the pictures from `workspace` when the body is sent."""
        self._workspace = workspace
        self._placeholders = Placeholders()
        self._inserts: dict[str, Insert] = {}

    def base64(self, image: StoredImage) -> str:
        """Stand for a picture's plain base64, in one place of the body."""
        return self._insert(Insert(size_bytes=image.size_bytes, read=lambda: self._workspace.read(image)))

    def data_url(self, image: StoredImage) -> str:
        """Stand for a picture's data URL, in one place of the body."""
        return f"data:{image.content_type};base64,{self.base64(image)}"

    def base64_of(self, content: bytes) -> str:
        """Stand for the base64 of a small picture that we hold, such as a converted mask."""

        async def read() -> AsyncIterator[bytes]:
            yield content

        return self._insert(Insert(size_bytes=len(content), read=read))

    def _insert(self, insert: Insert) -> str:
        name = self._placeholders.next()
        self._inserts[name] = insert
        return name

    def body(self, value: Any) -> Body:
        """Encode the body. A picture that the caller's own parameters have displaced is left out."""
        text = msgspec.json.encode(value)
        used = {name: insert for name, insert in self._inserts.items() if name.encode() in text}
        return json_body(value, used)
