"""What every blob store promises. Another one joins by its factory in `FACTORIES`."""

import asyncio
import os
import shutil
import signal
import socket
import stat
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import obstore
import pytest
from obstore.store import LocalStore

from safelight.adapters.blobs import cloud, disk
from safelight.adapters.blobs.cloud import open_cloud
from safelight.adapters.blobs.disk_process import Start, start_process
from safelight.adapters.blobs.local import LocalBlobStore
from safelight.adapters.blobs.object_store import ObjectBlobStore
from safelight.application.ports import BlobWriter
from safelight.domain.errors import NotFound, StorageError
from safelight.domain.ids import BlobKey, blob_hour, blob_key
from tests.doubles import read_all
from tests.making import NOON, new_id
from tests.s3 import S3

LARGE = os.urandom(3 * 1024 * 1024 + 7)
HUGE = LARGE * 4
"""More than two parts of a multipart upload."""


class Bucket(Protocol):
    """A store, and a look behind it."""

    @property
    def store(self) -> ObjectBlobStore: ...

    def contents(self) -> set[str]:
        """What really lies there, half-written things included."""
        ...

    def break_(self) -> None:
        """From now on the store fails."""
        ...

    def descriptors(self) -> int:
        """How many files the store has open."""
        ...


class LocalBucket:
    def __init__(self, folder: Path, start: Start = start_process) -> None:
        self.folder = folder / "blobs"
        self.local = LocalBlobStore(self.folder, start=start)
        self.store: ObjectBlobStore = self.local

    def contents(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()} - {"check"}

    def break_(self) -> None:
        shutil.rmtree(self.folder)
        self.folder.write_text("in the way")

    def descriptors(self) -> int:
        return descriptors()


@asynccontextmanager
async def local(folder: Path) -> AsyncIterator[Bucket]:
    bucket = LocalBucket(folder)
    yield bucket
    await bucket.local.close()


class ObjectBucket(LocalBucket):
    """An object store's way of writing, with a folder in the place of the network."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.store = ObjectBlobStore(LocalStore(self.folder, automatic_cleanup=True))


@asynccontextmanager
async def objects(folder: Path) -> AsyncIterator[Bucket]:
    bucket = ObjectBucket(folder)
    yield bucket
    await bucket.local.close()


class CloudBucket:
    """S3 over HTTP; faults come at once, without the usual patience."""

    def __init__(self, server: S3) -> None:
        self._server = server
        self.cloud = open_cloud(server.url, server.options, signs=True)
        self.store: ObjectBlobStore = self.cloud

    def contents(self) -> set[str]:
        listed = {each["path"] for page in obstore.list(self.cloud._store) for each in page} - {"check"}
        return listed | {f"unfinished {upload}" for upload in self._server.unfinished()}

    def break_(self) -> None:
        self._server.fault = 503

    def descriptors(self) -> int:
        return 0  # it has connections instead


FACTORIES = {"local": local, "objects": objects}


@pytest.fixture(params=[*FACTORIES, "s3"])
async def bucket(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bucket]:
    if request.param == "s3":
        monkeypatch.setattr(cloud, "_BRISK", {"max_retries": 0, "retry_timeout": timedelta(seconds=1)})
        yield CloudBucket(request.getfixturevalue("s3"))
        return
    async with FACTORIES[request.param](tmp_path) as bucket:
        yield bucket


def key(hour: datetime = NOON, name: str = "a") -> BlobKey:
    return blob_key(hour, new_id(), name)


async def put(bucket: Bucket, content: bytes, *, to: BlobKey | None = None, step: int = 65536) -> BlobKey:
    to = to or key()
    writer = bucket.store.writer(to)
    for start in range(0, len(content), step):
        await writer.write(content[start : start + step])
    await writer.close()
    return to


async def get(bucket: Bucket, of: BlobKey, *, start: int = 0, end: int | None = None) -> bytes:
    return await read_all(bucket.store.read(of, start=start, end=end))


@pytest.mark.parametrize("size", [1, 1000, 256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, len(LARGE)])
@pytest.mark.parametrize("step", [1000, 65536, 10**7])
async def test_what_was_written_is_read(bucket: Bucket, size: int, step: int) -> None:
    written = await put(bucket, LARGE[:size], step=step)
    assert await get(bucket, written) == LARGE[:size]


async def test_more_than_one_upload_takes_is_read_as_it_was_written(bucket: Bucket) -> None:
    assert await get(bucket, await put(bucket, HUGE)) == HUGE


async def test_a_blob_without_bytes_is_a_blob(bucket: Bucket) -> None:
    assert await get(bucket, await put(bucket, b"")) == b""


async def test_a_large_blob_comes_in_pieces(bucket: Bucket) -> None:
    written = await put(bucket, LARGE)
    pieces = [len(piece) async for piece in bucket.store.read(written)]
    assert max(pieces) < len(LARGE) / 2


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 1), (0, 10), (5, 10), (len(LARGE) - 1, len(LARGE)), (70_000, 2_000_000), (7, None), (0, None)],
)
async def test_a_part_is_read(bucket: Bucket, start: int, end: int | None) -> None:
    written = await put(bucket, LARGE)
    assert await get(bucket, written, start=start, end=end) == LARGE[start:end]


async def test_a_blob_is_nowhere_before_it_is_complete(bucket: Bucket) -> None:
    unfinished = key()
    writer = bucket.store.writer(unfinished)
    await writer.write(b"a little")
    with pytest.raises(NotFound):
        await get(bucket, unfinished)
    await writer.close()
    assert await get(bucket, unfinished) == b"a little"


async def test_a_blob_that_is_not_there_is_not_found(bucket: Bucket) -> None:
    with pytest.raises(NotFound):
        await get(bucket, key())
    with pytest.raises(NotFound):
        await get(bucket, key(), start=3, end=5)


@pytest.mark.parametrize("size", [0, 10, len(LARGE), len(HUGE)])
async def test_what_is_aborted_leaves_nothing(bucket: Bucket, size: int) -> None:
    writer = bucket.store.writer(dropped := key())
    for start in range(0, size, 65536):
        await writer.write(HUGE[start : start + 65536])
    await writer.abort()
    with pytest.raises(NotFound):
        await get(bucket, dropped)
    assert bucket.contents() == set()


async def test_what_is_aborted_in_the_middle_of_a_write_leaves_nothing(bucket: Bucket) -> None:
    before = bucket.descriptors()
    for turns in range(5):
        writer = bucket.store.writer(key())
        writing = asyncio.ensure_future(writer.write(LARGE))
        for _ in range(turns):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await writer.abort()
    await put(bucket, b"x", to=(kept := key()))
    assert bucket.contents() == {kept}
    assert bucket.descriptors() == before


def descriptors() -> int:
    """How many files and folders this process holds open."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            found += str(link.readlink()).startswith("/")
    return found


async def test_many_writers_at_once_do_not_mix(bucket: Bucket) -> None:
    before = bucket.descriptors()
    contents = [os.urandom(size) for size in range(1, 700_000, 20_000)]
    keys = await asyncio.gather(*[put(bucket, content) for content in contents])
    assert await asyncio.gather(*[get(bucket, each) for each in keys]) == contents
    assert bucket.contents() == set(keys)
    assert bucket.descriptors() == before


async def test_deleted_blobs_are_gone_and_the_others_stay(bucket: Bucket) -> None:
    first, second, kept = [await put(bucket, name.encode(), to=key(name=name)) for name in "abc"]
    await bucket.store.delete([first, second])
    assert bucket.contents() == {kept}
    await bucket.store.delete([])


async def test_deleting_what_is_gone_is_no_fault(bucket: Bucket) -> None:
    first, kept = await put(bucket, b"a"), await put(bucket, b"b")
    for _ in range(2):
        await bucket.store.delete([key(), first, key()])
    assert bucket.contents() == {kept}


async def test_an_hour_that_was_emptied_can_be_written_again(bucket: Bucket) -> None:
    for _ in range(3):
        await bucket.store.delete([await put(bucket, b"a")])
    assert await get(bucket, await put(bucket, b"a")) == b"a"


async def test_blobs_of_hours_long_past_are_listed(bucket: Bucket) -> None:
    hours = [NOON - timedelta(hours=n) for n in range(4)]
    keys = {hour: {await put(bucket, b"a", to=key(hour)) for _ in range(3)} for hour in hours}
    await bucket.store.check()

    async def before(moment: datetime) -> set[BlobKey]:
        return {each async for page in bucket.store.written_before(moment) for each in page}

    assert await before(NOON + timedelta(minutes=59)) == set.union(*[keys[hour] for hour in hours[1:]])
    assert await before(NOON - timedelta(hours=2)) == keys[hours[3]]
    assert await before(NOON - timedelta(hours=3)) == set()
    assert await before(NOON + timedelta(days=400)) == set.union(*keys.values())


async def test_an_empty_store_lists_nothing(bucket: Bucket) -> None:
    assert [page async for page in bucket.store.written_before(datetime.now(UTC))] == []


async def test_a_store_that_works_says_so(bucket: Bucket) -> None:
    await bucket.store.check()


async def test_faults_are_storage_faults(bucket: Bucket) -> None:
    there = await put(bucket, LARGE)
    bucket.break_()
    for fails in (put(bucket, b"small"), put(bucket, LARGE), bucket.store.check()):
        with pytest.raises(StorageError) as caught:
            await fails
        assert there not in caught.value.message
    with pytest.raises((StorageError, NotFound)):
        await get(bucket, there)


# The local folder alone: what survives a loss of power


def start_thread(connection: socket.socket) -> Callable[[], object]:
    """In the place of the process that writes files, so that its system calls can fail here."""
    thread = threading.Thread(target=disk.serve, args=(connection,))
    thread.start()
    return thread.join


class Syncs:
    """Which paths were forced to disk, in order, and what the disk answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        self.fault: OSError | None = None
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, descriptor: int) -> None:
        self.paths.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        if self.fault is not None:
            raise self.fault
        self._fsync(descriptor)


@pytest.fixture
async def bare(tmp_path: Path) -> AsyncIterator[LocalBucket]:
    bucket = LocalBucket(tmp_path, start_thread)
    yield bucket
    await bucket.local.close()


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    return Syncs(monkeypatch)


@pytest.mark.parametrize("size", [1, len(LARGE)])
async def test_a_file_and_its_folders_are_forced_to_disk(bare: LocalBucket, syncs: Syncs, size: int) -> None:
    written = await put(bare, LARGE[:size])
    file = bare.folder / written
    assert set(syncs.paths) == {str(file), str(file.parent), str(bare.folder)}
    assert syncs.paths.index(str(file)) < syncs.paths.index(str(file.parent))
    syncs.paths.clear()
    second = bare.folder / await put(bare, b"b")
    assert syncs.paths == [str(second), str(second.parent)]


async def test_files_that_end_together_share_the_sync_of_their_folder(bare: LocalBucket, syncs: Syncs) -> None:
    await put(bare, b"first")
    syncs.paths.clear()
    keys = await asyncio.gather(*[put(bare, b"x") for _ in range(50)])
    assert len([path for path in syncs.paths if path.endswith(blob_hour(NOON))]) < len(keys)
    assert {str(bare.folder / each) for each in keys} < set(syncs.paths)


async def test_what_the_disk_did_not_take_is_not_there(bare: LocalBucket, syncs: Syncs) -> None:
    before = descriptors()
    syncs.fault = OSError(5, "Input/output error")
    outcomes = await asyncio.gather(*[put(bare, b"x") for _ in range(5)], return_exceptions=True)
    assert all(isinstance(outcome, StorageError) for outcome in outcomes)
    assert descriptors() == before
    syncs.fault = None
    await put(bare, b"x")


async def test_a_full_disk_is_a_storage_fault_and_leaves_nothing(
    bare: LocalBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = descriptors()
    write: Callable[[int, bytes], int] = os.write
    left = 400_000

    def limited(descriptor: int, content: bytes) -> int:
        nonlocal left
        if left <= 0:
            raise OSError(28, "No space left on device")
        left -= (written := write(descriptor, content[:left]))
        return written

    monkeypatch.setattr(os, "write", limited)
    for size in (500_000, 10):
        writer = bare.store.writer(key())

        async def fill(*, writer: BlobWriter = writer, size: int = size) -> None:
            for start in range(0, size, 65536):
                await writer.write(LARGE[start : min(size, start + 65536)])
            await writer.close()

        with pytest.raises(StorageError):
            await fill()
        await writer.abort()
    assert bare.contents() == set()
    assert descriptors() == before


class FullDisk:
    """Takes `room` bytes; `pauses` are those that writers made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, room: int) -> None:
        self.room = room
        self.pauses: list[float] = []
        self.empties_after = 10**9
        write: Callable[[int, bytes], int] = os.write

        def limited(descriptor: int, content: bytes) -> int:
            if self.room <= 0:
                raise OSError(28, "No space left on device")
            self.room -= (written := write(descriptor, content[: self.room]))
            return written

        monkeypatch.setattr(os, "write", limited)

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if len(self.pauses) >= self.empties_after:
            self.room = 10**9


@pytest.mark.parametrize("size", [10, 500_000])
async def test_what_is_paid_for_waits_until_the_disk_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    full = FullDisk(monkeypatch, room=size // 3)
    full.empties_after = 3
    store = LocalBlobStore(tmp_path, pause=full.pause, start=start_thread)
    writer = store.writer(to := key(), patient=True)
    for start in range(0, size, 65536):
        await writer.write(LARGE[start : min(size, start + 65536)])
    await writer.close()
    await store.close()
    assert (tmp_path / to).read_bytes() == LARGE[:size]
    assert full.pauses == [0.5, 1, 2]


@pytest.mark.parametrize("size", [10, 500_000])
async def test_patience_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    before = descriptors()
    full = FullDisk(monkeypatch, room=5)
    store = LocalBlobStore(tmp_path, pause=full.pause, start=start_thread)
    writer = store.writer(to := key(), patient=True)

    async def fill() -> None:
        await writer.write(LARGE[:size])
        await writer.close()

    with pytest.raises(StorageError):
        await fill()
    await writer.abort()
    await store.close()
    assert not (tmp_path / to).exists()
    assert (sum(full.pauses), descriptors()) == (120.5, before)


async def test_a_file_whose_sync_failed_is_not_trusted_however_patient(bare: LocalBucket, syncs: Syncs) -> None:
    syncs.fault = OSError(5, "Input/output error")
    writer = bare.store.writer(key(), patient=True)
    await writer.write(b"x")
    with pytest.raises(StorageError):
        await writer.close()
    assert len(syncs.paths) == 1


async def test_a_file_that_cannot_be_cut_back_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "ftruncate", broken)
    full = FullDisk(monkeypatch, room=5)
    store = LocalBlobStore(tmp_path, pause=full.pause, start=start_thread)
    writer = store.writer(to := key(), patient=True)
    await writer.write(b"longer than five")
    with pytest.raises(StorageError):
        await writer.close()
    await store.close()
    assert not (tmp_path / to).exists()
    assert full.pauses == []


def complete_files(folder: Path, count: int) -> list[disk.Request]:
    do = disk.Do.CREATE | disk.Do.APPEND | disk.Do.FINISH
    return [(do, number, folder / str(number), memoryview(b"x")) for number in range(count)]


def test_a_slow_disk_is_asked_to_sync_several_files_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(4)
    fsync: Callable[[int], None] = os.fsync

    def slow(descriptor: int) -> None:
        fsync(descriptor)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            together.wait(timeout=30)

    monkeypatch.setattr(os, "fsync", slow)
    monkeypatch.setattr(disk, "_PATIENCE_S", -1)
    writer = disk.Disk()
    assert writer.handle(complete_files(tmp_path, 8)) == [(disk.Fate.DONE, 0)] * 8
    writer.close()


def test_a_quick_disk_is_asked_for_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syncs: Syncs
) -> None:
    monkeypatch.setattr(disk, "_PATIENCE_S", 60)
    writer = disk.Disk()
    assert writer.handle(complete_files(tmp_path, 5)) == [(disk.Fate.DONE, 0)] * 5
    writer.close()
    assert syncs.paths == [*(str(tmp_path / str(number)) for number in range(5)), str(tmp_path)]


class Children:
    """The processes that a store has started."""

    def __init__(self) -> None:
        self.pids: list[int] = []

    def start(self, connection: socket.socket) -> Callable[[], object]:
        join = start_process(connection)
        self.pids.append(join.__self__.pid)  # type: ignore[attr-defined]
        return join


async def test_a_process_that_died_fails_what_was_under_way_and_is_replaced(tmp_path: Path) -> None:
    children = Children()
    bucket = LocalBucket(tmp_path, children.start)
    begun = bucket.store.writer(lost := key())
    await begun.write(LARGE)
    os.kill(children.pids[0], signal.SIGKILL)
    with pytest.raises(StorageError):
        await begun.close()
    assert await get(bucket, await put(bucket, b"again")) == b"again"
    with pytest.raises(NotFound):
        await get(bucket, lost)
    assert len(children.pids) == 2
    await bucket.local.close()


async def test_what_is_paid_for_outlives_the_process_that_writes_it(tmp_path: Path) -> None:
    children = Children()
    bucket = LocalBucket(tmp_path, children.start)
    await put(bucket, b"first")
    os.kill(children.pids[0], signal.SIGSTOP)
    writer = bucket.store.writer(kept := key(), patient=True)
    await writer.write(b"x")
    closing = asyncio.ensure_future(writer.close())
    await asyncio.sleep(0)
    os.kill(children.pids[0], signal.SIGKILL)
    await closing
    assert await get(bucket, kept) == b"x"
    await bucket.local.close()


async def test_a_large_file_whose_process_died_is_not_gone_on_with(tmp_path: Path) -> None:
    children = Children()
    bucket = LocalBucket(tmp_path, children.start)
    writer = bucket.store.writer(key(), patient=True)
    await writer.write(LARGE)
    os.kill(children.pids[0], signal.SIGKILL)
    with pytest.raises(StorageError):
        await writer.close()
    assert bucket.contents() == set()
    await bucket.local.close()


async def test_the_process_ends_with_its_store_and_not_before(tmp_path: Path) -> None:
    children = Children()
    bucket = LocalBucket(tmp_path, children.start)
    await put(bucket, b"x")
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(children.pids[0], number)
    await put(bucket, b"y")
    await bucket.local.close()
    assert len(children.pids) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(children.pids[0], 0)
    with pytest.raises(StorageError):
        await put(bucket, b"z")


def test_a_folder_that_cannot_be_made_is_a_storage_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        LocalBlobStore(tmp_path / "file" / "blobs")
