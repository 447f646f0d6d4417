"""Pictures on their way into a JSON body."""

from typing import Any

import msgspec
import pybase64

from safelight.adapters.providers._inline import InlinePictures
from tests.providers.support import FolderWorkspace, call, generation, image_bytes


def inline(workspace: FolderWorkspace) -> InlinePictures:
    return InlinePictures(call(generation("m"), workspace).workspace)


async def rendered(data: Any) -> bytes:
    return data if isinstance(data, bytes) else b"".join([chunk async for chunk in data._source])


async def test_pictures_stand_in_the_body_as_base64(workspace: FolderWorkspace) -> None:
    content = image_bytes(file_format="WEBP")
    image = workspace.put(content).image
    pictures = inline(workspace)
    value = {"plain": pictures.base64(image), "url": pictures.data_url(image), "held": pictures.base64_of(b"held")}
    body = pictures.body(value)
    text = pybase64.b64encode(content).decode()
    assert msgspec.json.decode(await rendered(body.data)) == {
        "plain": text,
        "url": f"data:image/webp;base64,{text}",
        "held": pybase64.b64encode(b"held").decode(),
    }
    assert not body.may_have_arrived


async def test_a_displaced_picture_is_left_out(workspace: FolderWorkspace) -> None:
    pictures = inline(workspace)
    ours = {"image": pictures.data_url(workspace.put(image_bytes()).image)}
    body = pictures.body({**ours, "image": "https://theirs.example/1.png"})
    assert body.data == b'{"image":"https://theirs.example/1.png"}'
