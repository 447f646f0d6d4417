import asyncio
import io
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image

from safelight.adapters.providers import _masks
from safelight.adapters.providers._masks import white_changes
from safelight.domain.errors import StorageError, UnsupportedFeature
from safelight.domain.image import InputImage, Operation, StoredImage
from tests.providers.support import FolderWorkspace, call, generation, image_bytes, mask_bytes


@pytest.fixture
def workspace(tmp_path: Path) -> FolderWorkspace:
    return FolderWorkspace(tmp_path)


def saved(image: Image.Image, file_format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format)
    return stream.getvalue()


async def converted(workspace: FolderWorkspace, mask: InputImage | None) -> Image.Image:
    request = generation("model", operation=Operation.EDIT, mask=mask)
    content = await white_changes(call(request, workspace))
    assert content is not None
    image = Image.open(io.BytesIO(content))
    image.load()
    assert (image.format, image.mode) == ("PNG", "L")
    return image


async def test_no_mask_is_none(workspace: FolderWorkspace) -> None:
    assert await white_changes(call(generation("model"), workspace)) is None


async def test_what_is_transparent_becomes_white(workspace: FolderWorkspace) -> None:
    image = await converted(workspace, workspace.put(mask_bytes(64, 48)))
    assert image.size == (64, 48)
    assert [image.getpixel(at) for at in ((0, 0), (31, 47), (32, 0), (63, 47))] == [255, 255, 0, 0]


async def test_half_transparent_stays_half(workspace: FolderWorkspace) -> None:
    image = await converted(workspace, workspace.put(saved(Image.new("RGBA", (4, 4), (255, 255, 255, 100)))))
    assert image.getpixel((0, 0)) == 155


@pytest.mark.parametrize("mode", ["LA", "P", "RGBA"])
@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
async def test_transparency_of_any_kind_counts(workspace: FolderWorkspace, mode: str, file_format: str) -> None:
    if mode == "P":
        image = Image.new("P", (8, 8), 1)
        image.putpalette([255, 255, 255, 0, 0, 0])
        image.paste(0, (0, 0, 4, 8))
        image.info["transparency"] = 0
    else:
        image = Image.new("RGBA", (8, 8), (0, 0, 0, 255))
        image.paste((0, 0, 0, 0), (0, 0, 4, 8))
        image = image.convert(mode)
    grey = await converted(workspace, workspace.put(saved(image, file_format)))
    assert (grey.getpixel((0, 0)), grey.getpixel((7, 0))) == (255, 0)


@pytest.mark.parametrize(("mode", "file_format"), [("L", "PNG"), ("RGB", "PNG"), ("RGB", "JPEG"), ("1", "PNG")])
async def test_without_transparency_white_means_change_already(
    workspace: FolderWorkspace, mode: str, file_format: str
) -> None:
    image = Image.new("L", (16, 16), 0)
    image.paste(255, (0, 0, 8, 16))
    grey = await converted(workspace, workspace.put(saved(image.convert(mode), file_format)))
    assert (grey.getpixel((2, 8)), grey.getpixel((13, 8))) == (255, 0)


async def test_pixels_and_bytes_are_bounded(workspace: FolderWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = workspace.put(mask_bytes(64, 48))
    request = generation("model", operation=Operation.EDIT, mask=mask)
    for name, limit in (("MAX_MASK_PIXELS", 64 * 48 - 1), ("MAX_MASK_BYTES", mask.image.size_bytes - 1)):
        with monkeypatch.context() as patch:
            patch.setattr(_masks, name, limit)
            with pytest.raises(UnsupportedFeature) as caught:
                await white_changes(call(request, workspace))
            assert caught.value.param == "mask"
    await converted(workspace, mask)


async def test_what_cannot_be_decoded_is_the_masks_fault(workspace: FolderWorkspace) -> None:
    cut = workspace.put(image_bytes(256, 256, mode="RGBA", colour=(1, 2, 3, 4))[:200])
    with pytest.raises(UnsupportedFeature, match="damaged") as caught:
        await converted(workspace, cut)
    assert caught.value.param == "mask"


async def test_a_store_that_fails_is_told_as_such(workspace: FolderWorkspace) -> None:
    mask = workspace.put(mask_bytes())
    workspace.read_fault = StorageError("unplugged")
    with pytest.raises(StorageError):
        await converted(workspace, mask)


async def test_the_loop_goes_on_meanwhile(workspace: FolderWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The conversion waits in its thread for something that only the loop can do."""
    going = threading.Event()
    convert = _masks._converted

    def waiting(content: bytes) -> bytes:
        assert going.wait(10)
        return convert(content)

    monkeypatch.setattr(_masks, "_converted", waiting)
    task = asyncio.ensure_future(converted(workspace, workspace.put(mask_bytes())))
    await asyncio.sleep(0)
    going.set()
    assert (await task).size == (64, 48)


async def test_the_mask_alone_is_read(workspace: FolderWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[StoredImage] = []
    original = workspace.read

    def recording(image: StoredImage) -> AsyncIterator[bytes]:
        read.append(image)
        return original(image)

    monkeypatch.setattr(workspace, "read", recording)
    mask = workspace.put(mask_bytes())
    images = (workspace.put(image_bytes()),)
    await white_changes(call(generation("model", operation=Operation.EDIT, images=images, mask=mask), workspace))
    assert read == [mask.image]
