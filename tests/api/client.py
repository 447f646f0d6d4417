"""A client of the gateway for tests: whole answers, and every body held to the contract."""

import asyncio
import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp
from jsonschema import Draft202012Validator
from PIL import Image

CONTRACT = json.loads((Path(__file__).parents[1] / "contract" / "async-jobs.schema.json").read_text())
KINDS = ("generations", "edits", "variations")
REQUEST_TYPES = {"generations": "image_generation", "edits": "image_edit", "variations": "image_variation"}
SMALL = {"model": "builtin/sketch", "prompt": "a red kite", "size": "16x16"}
END_S = 30.0


def check_shape(name: str, body: Any) -> None:
    """Assert that `body` is a `$defs/<name>` of the contract."""
    validator = Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": CONTRACT["$defs"]})
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(body)] == [], body


def png(width: int = 16, height: int = 16, *, mode: str = "RGB", colour: Any = (200, 80, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def mask(width: int = 16, height: int = 16) -> bytes:
    """All of it is to be changed."""
    return png(width, height, mode="RGBA", colour=(0, 0, 0, 0))


@dataclass(frozen=True, slots=True)
class File:
    """One file part."""

    name: str
    content: bytes
    filename: str = "fox.png"
    content_type: str = "image/png"


Parts = Iterable[File | tuple[str, str]]


def form(parts: Parts) -> aiohttp.FormData:
    data = aiohttp.FormData(default_to_multipart=True)
    for part in parts:
        if isinstance(part, File):
            data.add_field(part.name, part.content, filename=part.filename, content_type=part.content_type)
        else:
            data.add_field(*part)
    return data


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def error(self, status: int, message: str | None = None) -> dict[str, Any]:
        """Hold it to be an error of the contract's shape; `message` is how its text begins."""
        assert self.status == status, self.body[:500]
        assert self.headers["content-type"] == "application/json"
        body: dict[str, Any] = self.json
        check_shape("HandlerError", body)
        assert body["status_code"] == status
        if message is not None:
            assert body["error"]["message"].startswith(message), body
        return body


class Client:
    """Speaks to one gateway, with the same headers in each request."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        self.url = url
        self._headers = headers

    async def __aenter__(self) -> Self:
        self.session = aiohttp.ClientSession(
            self.url,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=END_S),
            auto_decompress=False,
            headers=self._headers,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def ask(self, method: str, path: str, **options: Any) -> Reply:
        """Send `json` or `data` as one piece; give the whole answer."""
        if "json" in options:
            options["data"] = json.dumps(options.pop("json")).encode()
            options["headers"] = {"content-type": "application/json", **options.get("headers", {})}
        if isinstance(options.get("data"), bytes):
            length = {"content-length": str(len(options["data"]))}
            options |= {"data": io.BytesIO(options["data"]), "headers": {**length, **options.get("headers", {})}}
        async with self.session.request(method, path, **options) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Reply(response.status, headers, await response.read())

    async def get(self, path: str, **options: Any) -> Reply:
        return await self.ask("GET", path, **options)

    async def send(
        self, kind: str, values: Mapping[str, Any] | Parts | None = None, *, wait: bool = False, **options: Any
    ) -> Reply:
        """POST to one of the three operations: JSON for a generation, a form else; `wait` takes the OpenAI route."""
        path = f"/v1/images/{kind}" if wait else f"/v1/async/images/{kind}"
        if values is None:
            values = SMALL if kind == "generations" else parts_of(kind)
        body: Any = {"json": values} if isinstance(values, Mapping) else {"data": form(values)}
        return await self.ask("POST", path, **body, **options)

    async def submit(self, kind: str = "generations", values: Any = None, **options: Any) -> dict[str, Any]:
        """Submit and hold the answer to the contract."""
        reply = await self.send(kind, values, **options)
        assert reply.status == 202, reply.body[:500]
        job: dict[str, Any] = reply.json
        check_shape("AsyncJobSubmitted", job)
        assert reply.headers["location"] == f"/v1/async/images/{kind}/{job['id']}"
        assert int(reply.headers["retry-after"]) >= 1
        return job

    async def poll(self, kind: str, job_id: str, **options: Any) -> Reply:
        """Poll once and hold the answer to the contract."""
        reply = await self.get(f"/v1/async/images/{kind}/{job_id}", **options)
        if reply.status == 202:
            check_shape("AsyncJobRunning", reply.json)
        elif reply.status == 200:
            check_shape("AsyncJobFinished", reply.json)
        else:
            reply.error(reply.status)
        return reply

    async def until(self, kind: str, job_id: str, done: Callable[[Reply], bool]) -> list[Reply]:
        """Poll until `done`; gives every answer on the way."""
        seen: list[Reply] = []
        async with asyncio.timeout(END_S):
            while not (seen and done(seen[-1])):
                if seen:
                    await asyncio.sleep(min(0.2, 0.01 * len(seen)))  # the poll's own pace: nothing depends on it
                seen.append(await self.poll(kind, job_id))
        return seen

    async def end(self, kind: str, job_id: str) -> dict[str, Any]:
        """Poll a job to its end."""
        job: dict[str, Any] = (await self.until(kind, job_id, lambda reply: reply.status != 202))[-1].json
        return job

    async def run(self, kind: str = "generations", values: Any = None, **options: Any) -> dict[str, Any]:
        """Submit and poll to the end."""
        return await self.end(kind, (await self.submit(kind, values, **options))["id"])


def parts_of(kind: str, **more: str) -> list[File | tuple[str, str]]:
    """A good form."""
    named = {"model": "builtin/sketch", **({"prompt": "a blue door"} if kind == "edits" else {}), **more}
    return [*named.items(), File("image", png())]
