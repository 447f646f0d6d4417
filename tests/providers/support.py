"""What provider tests share: a workspace on a folder, calls, and providers on a simulator's address."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from safelight.adapters.images import ImageProbe
from safelight.adapters.providers._base import ProviderSettings
from safelight.adapters.providers._http import HttpSessions
from safelight.adapters.providers._registry import load_providers
from safelight.application.ports import (
    Accepted,
    Call,
    Failed,
    Finished,
    Provider,
    ProviderKey,
    RemotePicture,
    Running,
    StoredPicture,
)
from safelight.domain.errors import InvalidRequest, StorageError
from safelight.domain.ids import BlobKey, ProviderName
from safelight.domain.image import Dimensions, ImageRequest, InputImage, Operation, StoredImage, Target
from tests.doubles import Told
from tests.simulators._base import Simulator

KEY = "sk-test-0123456789abcdef"
MAX_PIXELS = 100_000_000


class FolderSink:
    """One image as a file. Remembers how it ended and how large its chunks were; refuses forbidden calls."""

    def __init__(self, path: Path, *, max_bytes: int, fault: StorageError | None) -> None:
        self.path = path
        self.ending: str | None = None
        self.largest_chunk_bytes = 0
        self._max_bytes = max_bytes
        self._fault = fault
        self._probe = ImageProbe(max_pixels=MAX_PIXELS)
        self._hash = hashlib.sha256()
        self._size_bytes = 0

    async def write(self, chunk: bytes) -> None:
        assert self.ending is None
        assert chunk
        if self._fault is not None:
            raise self._fault
        self.largest_chunk_bytes = max(self.largest_chunk_bytes, len(chunk))
        self._size_bytes += len(chunk)
        if self._size_bytes > self._max_bytes:
            raise InvalidRequest(f"is larger than {self._max_bytes} bytes")
        self._hash.update(chunk)
        self._probe.feed(chunk)
        with self.path.open("ab") as file:
            file.write(chunk)

    async def close(self) -> None:
        assert self.ending is None
        self.ending = "closed"
        self._probe.result()

    async def abort(self) -> None:
        assert self.ending is None
        self.ending = "aborted"

    @property
    def image(self) -> StoredImage:
        assert self.ending == "closed"
        content_type, dimensions = self._probe.result()
        return StoredImage(
            blob=BlobKey(self.path.name),
            content_type=content_type,
            size_bytes=self._size_bytes,
            sha256=self._hash.hexdigest(),
            dimensions=dimensions,
        )


class FolderWorkspace:
    """A job's images in a folder."""

    def __init__(self, folder: Path, *, max_bytes: int = 10**9) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self.sinks: list[FolderSink] = []
        self.opened = asyncio.Event()
        """Set with the first sink."""
        self.write_fault: StorageError | None = None
        self.read_fault: StorageError | None = None

    @property
    def keys(self) -> list[BlobKey]:
        return [BlobKey(sink.path.name) for sink in self.sinks]

    def open_sink(self) -> FolderSink:
        path = self._folder / f"{len(self.sinks)}.image"
        self.opened.set()
        self.sinks.append(FolderSink(path, max_bytes=self._max_bytes, fault=self.write_fault))
        return self.sinks[-1]

    async def read(self, image: StoredImage) -> AsyncIterator[bytes]:
        if self.read_fault is not None:
            raise self.read_fault
        content = self.bytes_of(image)
        for start in range(0, len(content), 50_000):
            yield content[start : start + 50_000]

    def bytes_of(self, image: StoredImage) -> bytes:
        return (self._folder / image.blob).read_bytes()

    def put(self, content: bytes, *, filename: str = "träum\r\n.png") -> InputImage:
        path = self._folder / f"input-{hashlib.sha256(content).hexdigest()[:12]}"
        path.write_bytes(content)
        probe = ImageProbe(max_pixels=MAX_PIXELS)
        probe.feed(content)
        content_type, dimensions = probe.result()
        image = StoredImage(
            blob=BlobKey(path.name),
            content_type=content_type,
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            dimensions=dimensions,
        )
        return InputImage(image=image, filename=filename)

    @property
    def open_sinks(self) -> int:
        return sum(sink.ending is None for sink in self.sinks)

    @property
    def pictures(self) -> int:
        return sum(sink.ending == "closed" for sink in self.sinks)


def image_bytes(
    width: int = 64, height: int = 48, file_format: str = "PNG", *, mode: str = "RGB", colour: Any = (10, 120, 60)
) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (width, height), colour).save(stream, file_format)
    return stream.getvalue()


def mask_bytes(width: int = 64, height: int = 48) -> bytes:
    """The left half is to change."""
    mask = Image.new("RGBA", (width, height), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, width // 2, height))
    stream = io.BytesIO()
    mask.save(stream, "PNG")
    return stream.getvalue()


@dataclass(frozen=True, kw_only=True)
class ProviderCase:
    """What a provider's test module tells the conformance suite, as `CONFORMANCE`."""

    simulator: Callable[[str], Simulator] | None
    """Makes its server, which accepts this key; `None` for a provider without one."""
    requests: Callable[[FolderWorkspace], Sequence[ImageRequest]]
    """One request that works for each operation that it offers; the first is the plainest."""
    unsupported: ImageRequest | None
    """One with a field that its model cannot express; `None` where everything goes through."""
    unclear: frozenset[int] = frozenset({504})
    """Statuses of a refused purchase that leave open whether it was charged."""


def generation(model: str, provider: str = "openai", **more: Any) -> ImageRequest:
    wanted = {"operation": Operation.GENERATION, "prompt": "a red fox", **more}
    return ImageRequest(target=Target(provider=ProviderName(provider), model=model), **wanted)


def one_of_each(workspace: FolderWorkspace, model: str, provider: str, **more: Any) -> list[ImageRequest]:
    """A generation, an edit with a mask, and a variation."""
    images = (workspace.put(image_bytes()),)
    mask = workspace.put(mask_bytes())
    return [
        generation(model, provider, **more),
        generation(model, provider, operation=Operation.EDIT, images=images, mask=mask, **more),
        generation(model, provider, operation=Operation.VARIATION, images=images, prompt=None, **more),
    ]


def call(request: ImageRequest, workspace: FolderWorkspace, **more: Any) -> Call:
    assert set(Call.__struct_fields__) >= more.keys()
    wanted: dict[str, Any] = {
        "request": request,
        "model": request.target.model,
        "key": ProviderKey(name="main", value=KEY),
        "n": request.count,
        "token": "token-of-this-attempt",
        "workspace": workspace,
        "report": Told(),
        **more,
    }
    return Call(**wanted)


def open_provider(
    kind: str,
    sessions: HttpSessions,
    base_url: str | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Provider:
    wanted = ProviderSettings(name=ProviderName(kind), type=kind, base_url=base_url, options=options or {}, **settings)
    return load_providers()[kind].open(wanted, sessions)


async def run(provider: Provider, wanted: Call) -> Finished:
    outcome = await provider.start(wanted)
    assert isinstance(outcome, Finished)
    return outcome


async def started(provider: Provider, request: ImageRequest, workspace: FolderWorkspace, **more: Any) -> str:
    """Have work accepted; its handle."""
    accepted = await provider.start(call(request, workspace, **more))
    assert isinstance(accepted, Accepted)
    return accepted.handle


async def carried_out(provider: Provider, request: ImageRequest, workspace: FolderWorkspace) -> Finished:
    """Have work accepted that is done by the first question."""
    outcome = await polled(provider, await started(provider, request, workspace), call(request, workspace))
    assert isinstance(outcome, Finished)
    return outcome


def links(finished: Finished) -> list[str]:
    return [picture.url for picture in finished.pictures if isinstance(picture, RemotePicture)]


def edit_of(
    workspace: FolderWorkspace, model: str, provider: str, *, count: int = 1, mask: bool = False, **more: Any
) -> ImageRequest:
    """An edit of so many pictures, no two alike."""
    inputs = tuple(workspace.put(image_bytes(colour=(number, 0, 0))) for number in range(count))
    drawn = workspace.put(mask_bytes()) if mask else None
    return generation(model, provider, **{"operation": Operation.EDIT, "images": inputs, "mask": drawn, **more})


async def polled(provider: Provider, handle: str, wanted: Call) -> Running | Finished:
    """Ask for accepted work; an end that is bad is raised, and known by its `charged` from a question that failed."""
    outcome = await provider.poll(handle, wanted)
    if isinstance(outcome, Failed):
        assert outcome.error.charged is outcome.charged
        raise outcome.error
    return outcome


class Once:
    """A server that gives the same answer to whatever it is asked; an async context manager."""

    def __init__(self, body: bytes, content_type: str) -> None:
        async def answer(_: web.Request) -> web.Response:
            return web.Response(body=body, content_type=content_type)

        application = web.Application()
        application.router.add_route("*", "/{path:.*}", answer)
        self._server = TestServer(application)

    @property
    def url(self) -> str:
        return str(self._server.make_url(""))

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()


def stored(finished: Finished) -> list[StoredImage]:
    images = [picture.image for picture in finished.pictures if isinstance(picture, StoredPicture)]
    assert len(images) == len(finished.pictures)
    return images


def size(width: int, height: int) -> Dimensions:
    return Dimensions(width=width, height=height)
