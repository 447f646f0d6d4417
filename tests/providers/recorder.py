"""A neutral server: it takes whatever comes, writes it down, and gives the one answer that it was told."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import msgspec
from aiohttp import BodyPartReader, web
from aiohttp.test_utils import TestServer

LARGEST_BODY_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request as it came. `body` is JSON, or of a form its parts by name: text, or (file name, type, bytes)."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any

    def like(self, *headers: str) -> tuple[Any, ...]:
        """What two clients must have in common; of the headers those that show a key, and the body's type."""
        shown = {name: self.headers.get(name) for name in headers}
        return self.method, self.path, dict(self.query), shown, self.headers.get("content-type"), self.body


class Recorder:
    """An async context manager; `answer` is the JSON of every answer, in which `ORIGIN` stands for its address."""

    def __init__(self, answer: Mapping[str, Any], *, status: int = 200) -> None:
        self._answer = msgspec.json.encode(answer)
        self._status = status
        self.recorded: list[Recorded] = []
        application = web.Application(client_max_size=LARGEST_BODY_BYTES)
        application.router.add_route("*", "/{path:.*}", self._record)
        self._server = TestServer(application)

    @property
    def url(self) -> str:
        return str(self._server.make_url("")).rstrip("/")

    def take(self) -> list[Recorded]:
        """What has come since the last time."""
        taken, self.recorded = self.recorded, []
        return taken

    async def _record(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        headers["content-type"] = request.content_type if request.body_exists else ""
        if request.content_type == "multipart/form-data":
            body = await _parts(request)
        else:
            body = msgspec.json.decode(await request.read() or b"null")
        self.recorded.append(Recorded(request.method, request.path, dict(request.query), headers, body))
        answer = self._answer.replace(b"ORIGIN", self.url.encode())
        return web.Response(body=answer, status=self._status, content_type="application/json")

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()


async def _parts(request: web.Request) -> list[tuple[str, Any]]:
    """All parts of a form, sorted: their order means nothing."""
    found: list[tuple[str, Any]] = []
    async for part in await request.multipart():
        assert isinstance(part, BodyPartReader)
        content = bytes(await part.read())
        if part.filename is None:
            found.append((part.name or "", content.decode()))
        else:
            found.append((part.name or "", (part.filename, part.headers.get("Content-Type"), content)))
    return sorted(found, key=lambda each: (each[0], str(each[1])))
