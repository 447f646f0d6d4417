"""Stand-ins for what the use cases need of the world, steered by the test."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from PIL import Image

from safelight.application.ports import (
    Accepted,
    Call,
    Failed,
    Finished,
    ImageSink,
    JobStore,
    RemotePicture,
    Running,
    StoredPicture,
)
from safelight.domain.capability import ModelSpec
from safelight.domain.errors import StorageError
from safelight.domain.ids import BlobKey
from safelight.domain.image import StoredImage
from tests.making import NOON


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self, moment: datetime = NOON) -> None:
        self.moment = moment
        self.pauses: list[float] = []

    def now(self) -> datetime:
        return self.moment

    def move(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)

    async def pause(self, seconds: float) -> None:
        """Takes the place of `asyncio.sleep`."""
        self.pauses.append(seconds)
        self.move(seconds)


def png(width: int = 3, height: int = 2, colour: str = "red") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(content, "PNG")
    return content.getvalue()


async def stored(sink: ImageSink, content: bytes) -> StoredImage:
    await sink.write(content)
    await sink.close()
    return sink.image


class Told:
    """Keeps what a provider tells of a call."""

    def __init__(self, *, wants: bool = True) -> None:
        self.wants_preview = wants
        self.shares: list[float] = []
        self.previews: list[tuple[int, StoredImage]] = []

    async def progress(self, share: float) -> None:
        self.shares.append(share)

    async def preview(self, image: StoredImage, *, index: int = 0) -> None:
        self.previews.append((index, image))


Answer = Accepted | Running | Finished | Failed | Exception | Callable[[Call], Awaitable[Any]]


class ScriptedProvider:
    """Gives the scripted answers in order; after the last one, one red picture for each that is asked for."""

    def __init__(self, *answers: Answer, specs: Sequence[ModelSpec] = ()) -> None:
        self.answers = list(answers)
        self.polls: list[Answer] = []
        self.looks: list[Answer | float] = []
        self.watchable = False
        self.specs = specs
        self.max_n: int | None = None
        self.calls: list[Call] = []
        self.polled: list[str] = []
        self.stops: list[bool | Exception] = []
        """What to say when work is to be stopped; `True` after the last."""
        self.stopped: list[str | None] = []

    def spec(self, model: str) -> ModelSpec | None:
        return next((spec for spec in self.specs if model in {spec.name, *spec.aliases}), None)

    async def start(self, call: Call) -> Accepted | Finished:
        self.calls.append(call)
        answer: Any = await self._given(self.answers, call)
        return answer if answer is not None else await drawn(call)

    async def poll(self, handle: str, call: Call) -> Running | Finished | Failed:
        self.polled.append(handle)
        answer: Any = await self._given(self.polls, call)
        return answer if answer is not None else await drawn(call)

    async def read_callback(self, headers: Mapping[str, str], body: bytes, call: Call) -> None:
        del headers, body, call

    async def watch(self, call: Call) -> float | None:
        seen: Any = await self._given(self.looks, call)
        return None if seen is None else float(seen)

    async def cancel(self, handle: str | None, call: Call) -> bool:
        del call
        self.stopped.append(handle)
        answer = self.stops.pop(0) if self.stops else True
        if isinstance(answer, Exception):
            raise answer
        return answer

    @staticmethod
    async def _given(answers: list[Any], call: Call) -> object:
        if not answers:
            return None
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return await answer(call) if callable(answer) else answer

    async def close(self) -> None:
        pass


async def drawn(call: Call, **members: Any) -> Finished:
    pictures = [StoredPicture(image=await stored(call.workspace.open_sink(), png())) for _ in range(call.n)]
    return Finished(pictures=tuple(pictures), **members)


class ScriptedFetcher:
    """Fails as scripted, then gives a picture for each link."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.broken: dict[str, Exception] = {}
        self.fetched: list[str] = []

    async def fetch(self, picture: RemotePicture, sink: ImageSink) -> None:
        self.fetched.append(picture.url)
        fault = self.broken.get(picture.url) or (self.faults.pop(0) if self.faults else None)
        if fault is not None:
            await sink.abort()
            raise fault
        await stored(sink, png())


class FaultyStore:
    """A job store that fails as often as it is told, at the method it is told."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self.faults: dict[str, list[Exception]] = {}
        self.instead: dict[str, Callable[..., Awaitable[Any]]] = {}

    def fail(self, method: str, *faults: Exception) -> None:
        self.faults[method] = list(faults) or [StorageError("broken")]

    def __getattr__(self, method: str) -> Any:
        faults = self.faults.get(method)
        if faults:
            return _raising(faults.pop(0))
        return self.instead.get(method) or getattr(self._store, method)


def _raising(fault: Exception) -> Callable[..., Awaitable[None]]:
    async def call(*_arguments: object, **_named: object) -> None:
        raise fault

    return call


async def read_all(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class BlobNames:
    """A blob store that remembers what was deleted, and lists what it is told."""

    def __init__(self, *pages: Sequence[BlobKey]) -> None:
        self.pages = pages
        self.asked: list[datetime] = []
        self.deleted: list[BlobKey] = []
        self.fault: Exception | None = None

    async def delete(self, keys: Sequence[BlobKey]) -> None:
        if self.fault is not None:
            raise self.fault
        self.deleted += keys

    async def written_before(self, moment: datetime) -> AsyncIterator[Sequence[BlobKey]]:
        self.asked.append(moment)
        for page in self.pages:
            yield page


async def until(holds: Callable[[], bool]) -> None:
    """Look until something is so that nobody tells of."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - as it says
            await asyncio.sleep(0.005)
