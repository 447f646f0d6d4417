"""Type and size from an image's first bytes."""

import io
import os
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from safelight.adapters.blobs.local import LocalBlobStore
from safelight.adapters.images import CONTENT_TYPES, ImageProbe, JobWorkspace
from safelight.domain.errors import InvalidRequest, NotFound
from safelight.domain.image import Dimensions
from tests.doubles import FakeClock, png, read_all, sha256
from tests.making import new_id

MOST_PIXELS = 10**7


def encoded(kind: str, size: tuple[int, int] = (31, 17), mode: str = "RGB", **options: object) -> bytes:
    content = io.BytesIO()
    Image.frombytes(mode, size, os.urandom(size[0] * size[1] * len(Image.new(mode, (1, 1)).getbands()))).save(
        content, kind, **options
    )
    return content.getvalue()


def probed(content: bytes, *, step: int = 1024, max_pixels: int = MOST_PIXELS) -> tuple[str, Dimensions]:
    probe = ImageProbe(max_pixels=max_pixels)
    for start in range(0, len(content), step):
        probe.feed(content[start : start + step])
    return probe.result()


def refusal(content: bytes, **options: int) -> str:
    with pytest.raises(InvalidRequest) as caught:
        probed(content, **options)
    return caught.value.message


SAMPLES = {
    "png": ("PNG", encoded("PNG")),
    "png with alpha": ("PNG", encoded("PNG", mode="RGBA")),
    "png in grey": ("PNG", encoded("PNG", mode="L")),
    "jpeg": ("JPEG", encoded("JPEG")),
    "progressive jpeg": ("JPEG", encoded("JPEG", progressive=True)),
    "jpeg in cmyk": ("JPEG", encoded("JPEG", mode="CMYK")),
    "jpeg with exif and profile": (
        "JPEG",
        encoded("JPEG", exif=b"Exif\0\0" + b"x" * 60_000, icc_profile=b"p" * 300_000),
    ),
    "jpeg with a comment": ("JPEG", encoded("JPEG", comment=b"fox")),
    "webp": ("WEBP", encoded("WEBP")),
    "lossless webp": ("WEBP", encoded("WEBP", lossless=True)),
    "webp with alpha": ("WEBP", encoded("WEBP", mode="RGBA")),
    "webp with a profile": ("WEBP", encoded("WEBP", icc_profile=b"p" * 100)),
    "gif": ("GIF", encoded("GIF")),
}


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("step", [1, 7, 4096, 10**7])
def test_each_format_is_known_by_its_bytes(name: str, step: int) -> None:
    kind, content = SAMPLES[name]
    assert probed(content, step=step) == (CONTENT_TYPES[kind], Dimensions(width=31, height=17))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("size", [(1, 1), (1, 700), (1023, 3)])
def test_sizes_are_those_that_pillow_reads(kind: str, size: tuple[int, int]) -> None:
    assert probed(encoded(kind, size))[1] == Dimensions(width=size[0], height=size[1])


def test_the_size_of_a_large_image_is_known_before_it_is_all_there() -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        content = encoded(kind, (900, 700), quality=100)
        assert len(content) > 500_000
        probe = ImageProbe(max_pixels=MOST_PIXELS)
        probe.feed(content[:4096])
        assert probe.result()[1] == Dimensions(width=900, height=700)
        assert probe._head == b""


def test_a_webp_of_more_than_a_mebibyte_is_taken() -> None:
    content = encoded("WEBP", (1200, 1000), quality=100)
    assert len(content) > 2**20
    assert probed(content, step=65536)[1] == Dimensions(width=1200, height=1000)


# Hostile ones


def ihdr(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


BOMBS = {
    "png": ihdr(50_000, 50_000),
    "png of the largest size": ihdr(2**31 - 1, 2**31 - 1),
    "gif": b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(10),
    "jpeg": b"\xff\xd8\xff\xc0\x00\x11\x08" + struct.pack(">HH", 65535, 65535) + bytes(20),
    "webp": b"RIFF" + bytes(4) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\xff\xff" * 2 + bytes(9),
}


@pytest.mark.parametrize("name", BOMBS)
def test_too_many_pixels_are_refused_by_the_header_alone(name: str) -> None:
    assert "at most 10000000 pixels are taken" in refusal(BOMBS[name])


def test_too_many_pixels_are_refused_before_the_rest_has_come() -> None:
    probe = ImageProbe(max_pixels=MOST_PIXELS)
    with pytest.raises(InvalidRequest):
        probe.feed(BOMBS["png"] + bytes(4096))


def test_the_limit_itself_is_allowed() -> None:
    assert probed(ihdr(10, 10), max_pixels=100)[1].pixels == 100
    assert "11x10" in refusal(ihdr(11, 10), max_pixels=100)


@pytest.mark.parametrize(
    "content",
    [
        ihdr(0, 5),
        b"GIF89a" + bytes(10),
        b"\xff\xd8\xff\xc0\x00\x11\x08" + bytes(30),
    ],
)
def test_an_image_without_pixels_is_refused(content: bytes) -> None:
    assert "at most" in refusal(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a fox",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>" * 200,
        b"\x89PNG\r\n\x1a\n" + b"garbage" * 10,
        ihdr(3, 2)[:-1] + b"\0",
        ihdr(3, 2)[:30],
        b"\xff\xd8\xff",
        b"\xff\xd8\xff" + b"\xe0\x00\x00" * 5000,
        b"\xff\xd8\xff\xe0\x00\x02" + b"no marker here" * 10,
        b"\xff\xd8" + b"\xff" * 100,
        b"\xff\xd8\xff\xd9" * 100,
        b"GIF90a" + bytes(100),
        b"GIF89a",
        b"RIFF\0\0\0\0WAVE" + bytes(100),
        b"RIFF\0\0\0\0WEBPVP8 " + bytes(100),
        b"RIFF\0\0\0\0WEBPVP8L" + bytes(100),
        b"RIFF\0\0\0\0WEBPJUNK" + bytes(100),
        b"BM" + bytes(5000),
    ],
)
def test_what_is_no_image_is_refused(content: bytes) -> None:
    assert refusal(content) == "is not an image that can be read; expected one of PNG, JPEG, WEBP, GIF"


def test_an_image_that_hides_its_size_for_a_mebibyte_is_refused() -> None:
    filler = b"\xff\xe2\xff\xff" + bytes(65533)
    hidden = b"\xff\xd8" + filler * 17 + b"\xff\xc0\x00\x11\x08\x00\x02\x00\x03" + bytes(20)
    assert "not an image" in refusal(hidden, step=65536)
    shown = b"\xff\xd8" + filler * 15 + b"\xff\xff\x01\xff\xc0\x00\x11\x08\x00\x02\x00\x03" + bytes(20)
    assert probed(shown, step=65536)[1] == Dimensions(width=3, height=2)


@given(st.binary(max_size=200), st.sampled_from(sorted(SAMPLES)), st.integers(0, 100))
def test_no_bytes_make_it_stumble(noise: bytes, name: str, kept: int) -> None:
    try:
        content_type, dimensions = probed(SAMPLES[name][1][:kept] + noise, step=33)
    except InvalidRequest:
        return
    assert content_type in CONTENT_TYPES.values()
    assert 0 < dimensions.pixels <= MOST_PIXELS


# Into the blob store


@pytest.fixture
async def blobs(tmp_path: Path) -> AsyncIterator[LocalBlobStore]:
    store = LocalBlobStore(tmp_path / "blobs")
    yield store
    await store.close()


def workspace(blobs: LocalBlobStore, **limits: int) -> JobWorkspace:
    wanted: dict[str, Any] = {"max_bytes": 10**6, "max_pixels": 10**6, **limits}
    return JobWorkspace(blobs, new_id(), clock=FakeClock(), **wanted)


def files(blobs: LocalBlobStore) -> list[Path]:
    return [path for path in blobs._folder.rglob("*") if path.is_file()]


async def test_an_image_is_hashed_and_counted_on_its_way(blobs: LocalBlobStore) -> None:
    space = workspace(blobs)
    content = png(30, 20)
    sink = space.open_sink()
    for start in range(0, len(content), 10):
        await sink.write(content[start : start + 10])
    await sink.close()
    stored = sink.image
    assert (stored.content_type, stored.size_bytes, stored.sha256) == ("image/png", len(content), sha256(content))
    assert stored.dimensions == Dimensions(width=30, height=20)
    assert space.keys == [stored.blob]
    assert stored.blob.startswith(f"2026112312/{space._job_id}-")
    assert await read_all(space.read(stored)) == content


async def test_an_image_is_nothing_before_it_is_complete(blobs: LocalBlobStore) -> None:
    sink = workspace(blobs).open_sink()
    with pytest.raises(RuntimeError):
        _ = sink.image
    await sink.abort()


async def test_what_is_no_image_leaves_nothing(blobs: LocalBlobStore) -> None:
    sink = workspace(blobs).open_sink()
    await sink.write(b"a fox" * 100_000)
    with pytest.raises(InvalidRequest):
        await sink.close()
    assert files(blobs) == []


async def test_an_image_of_too_many_bytes_is_refused(blobs: LocalBlobStore) -> None:
    sink = workspace(blobs, max_bytes=300_000).open_sink()
    await sink.write(encoded("PNG", (300, 300))[:300_000].ljust(300_000, b"x"))
    with pytest.raises(InvalidRequest, match="larger than 300000 bytes"):
        await sink.write(b"x")
    await sink.abort()
    assert files(blobs) == []


async def test_images_of_one_job_have_names_of_their_own(blobs: LocalBlobStore) -> None:
    space = workspace(blobs)
    assert len({space.open_sink()._key for _ in range(100)}) == 100


async def test_an_image_that_is_gone_is_not_found(blobs: LocalBlobStore) -> None:
    space = workspace(blobs)
    sink = space.open_sink()
    await sink.write(png())
    await sink.close()
    await blobs.delete(space.keys)
    with pytest.raises(NotFound):
        await read_all(space.read(sink.image))
