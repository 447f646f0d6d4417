"""Server-sent events, cut wherever a network may cut them."""

import itertools
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pybase64
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safelight.adapters.providers._events import read_events
from safelight.domain.errors import ProviderProtocolError
from tests.providers.support import FolderWorkspace, image_bytes
from tests.simulators._pictures import picture_of_bytes

STREAM = (
    b"\xef\xbb\xbf: a comment\r\n"
    b"retry: 1000\r"
    b'event: partial\ndata: {"a":\r\ndata:1}\n'
    b"\n"
    b"id: 7\nevent: nothing\n\n"
    b'data: {"b":2}\r\r'
    b"data\n\n"
    b"database: no\ndat: no\n\n"
    b"data:  [DONE]\n\n"
    b'data: {"cut":true}'
)
EVENTS = [b'{"a":\n1}', b'{"b":2}', b" [DONE]", b'{"cut":true}']


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def texts(workspace: FolderWorkspace, *chunks: bytes) -> list[bytes]:
    return [text async for text, _ in read_events(pieces(*chunks), workspace)]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.sets(st.integers(1, len(STREAM) - 1), max_size=12))
async def test_events_are_the_same_however_they_are_cut(workspace: FolderWorkspace, cuts: set[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[start:end] for start, end in itertools.pairwise(places)]
    assert await texts(workspace, *chunks) == EVENTS


async def test_byte_by_byte(workspace: FolderWorkspace) -> None:
    assert await texts(workspace, *(bytes([byte]) for byte in STREAM)) == EVENTS


async def test_an_empty_stream_has_no_events(workspace: FolderWorkspace) -> None:
    assert await texts(workspace) == []
    assert await texts(workspace, b"\n\n", b": only a comment") == []


async def test_an_event_that_is_cut_within_its_picture_is_no_event(workspace: FolderWorkspace) -> None:
    with pytest.raises(ProviderProtocolError):
        await texts(workspace, b'data: {"b64_json": "' + pybase64.b64encode(image_bytes(2000, 1500)))
    assert workspace.open_sinks == 0


async def test_pictures_pass_by_and_are_not_held(tmp_path: Path) -> None:
    content = picture_of_bytes(8_000_000)
    event = b"data: " + msgspec.json.encode({"b64_json": pybase64.b64encode(content).decode()}) + b"\n\n"
    workspace = FolderWorkspace(tmp_path)

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(2):
            for start in range(0, len(event), 32_768):
                yield event[start : start + 32_768]

    tracemalloc.start()
    try:
        found = [lifted async for _, lifted in read_events(slowly(), workspace)]
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [len(lifted) for lifted in found] == [1, 1]
    assert [workspace.bytes_of(sink.image) == content for sink in workspace.sinks] == [True, True]
    assert most_bytes < 1_000_000
