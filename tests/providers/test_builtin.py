import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from PIL import Image

from safelight.adapters.providers._base import Entry, NoOptions, ProviderSettings
from safelight.adapters.providers._http import HttpSessions
from safelight.adapters.providers.builtin import PROVIDER, Builtin
from safelight.application.ports import Accepted, Finished, Running
from safelight.domain.errors import (
    ProviderAuthError,
    ProviderBusy,
    ProviderError,
    ProviderModelGone,
    ProviderProtocolError,
    ProviderRejected,
    ProviderUnavailable,
    ProviderUncertain,
    UnsupportedFeature,
)
from safelight.domain.ids import ProviderName
from safelight.domain.image import ImageRequest, Operation
from safelight.domain.money import Charged
from tests.doubles import Told
from tests.providers.support import (
    FolderWorkspace,
    ProviderCase,
    call,
    generation,
    image_bytes,
    mask_bytes,
    one_of_each,
    run,
    size,
    stored,
)

CONFORMANCE = ProviderCase(
    simulator=None,
    requests=lambda workspace: [
        *one_of_each(workspace, "sketch", "builtin", n=2, size="32x32"),
        generation("handle-1", "builtin", size="16x16"),
    ],
    unsupported=generation("sketch", "builtin", negative_prompt="x"),
)


class Watch:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.time_s = 1000.0

    def __call__(self) -> float:
        return self.time_s


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
async def provider(sessions: HttpSessions, watch: Watch) -> AsyncIterator[Builtin]:
    settings = ProviderSettings(name=ProviderName("builtin"), type="builtin")
    entry = Entry(settings=settings, options=NoOptions(), repeatable=True, sessions=sessions)
    builtin = Builtin(entry, now=watch)
    yield builtin
    await builtin.close()


def sketch(model: str = "sketch", **more: Any) -> ImageRequest:
    return generation(model, "builtin", **{"size": "64x48", **more})


def edit(workspace: FolderWorkspace, content: bytes | None = None, **more: Any) -> ImageRequest:
    image = workspace.put(content or image_bytes(colour=(250, 250, 250)))
    return sketch(**{"operation": Operation.EDIT, "images": (image,), "size": None, **more})


def opened(workspace: FolderWorkspace, finished: Finished) -> Image.Image:
    [image] = stored(finished)
    return Image.open(io.BytesIO(workspace.bytes_of(image)))


class TestGeneration:
    async def test_draws_the_asked_pictures_for_nothing(self, provider: Builtin, workspace: FolderWorkspace) -> None:
        finished = await run(provider, call(sketch(n=3), workspace))
        images = stored(finished)
        assert [image.dimensions for image in images] == [size(64, 48)] * 3
        assert {image.content_type for image in images} == {"image/png"}
        assert len({image.sha256 for image in images}) == 3
        assert (finished.charged, finished.cost_micros) == (Charged.NO, 0)
        assert (finished.size, finished.quality, finished.output_format) == ("64x48", "high", "png")
        assert finished.background == "opaque"
        assert "not a model" in (finished.model or "")

    async def test_the_same_input_gives_the_same_bytes(self, provider: Builtin, workspace: FolderWorkspace) -> None:
        async def digest(token: str, **more: Any) -> str:
            finished = await run(provider, call(sketch(**more), workspace, token=token))
            return stored(finished)[0].sha256

        assert await digest("a", seed=7) == await digest("b", seed=7)
        assert await digest("a", seed=7) != await digest("a", seed=8)
        assert await digest("a") == await digest("a")
        assert await digest("a") != await digest("b")
        assert await digest("a", seed=7) != await digest("a", seed=7, prompt="a blue boat")

    @pytest.mark.parametrize(
        ("output_format", "compression", "content_type"),
        [
            ("png", None, "image/png"),
            ("jpeg", 40, "image/jpeg"),
            ("webp", 0, "image/webp"),
            ("webp", 100, "image/webp"),
        ],
    )
    async def test_every_format(
        self,
        provider: Builtin,
        workspace: FolderWorkspace,
        output_format: str,
        compression: int | None,
        content_type: str,
    ) -> None:
        request = sketch(output_format=output_format, output_compression=compression)
        finished = await run(provider, call(request, workspace))
        assert stored(finished)[0].content_type == content_type
        assert finished.output_format == output_format

    @pytest.mark.parametrize(
        ("asked", "drawn"), [("16x16", size(16, 16)), ("2048x16", size(2048, 16)), ("65x33", size(65, 33))]
    )
    async def test_every_size(self, provider: Builtin, workspace: FolderWorkspace, asked: str, drawn: object) -> None:
        for quality in (None, "low"):
            finished = await run(provider, call(sketch(size=asked, quality=quality), workspace))
            assert stored(finished)[0].dimensions == drawn

    @pytest.mark.parametrize("asked", [None, "auto"])
    async def test_by_itself_it_is_a_square(
        self, provider: Builtin, workspace: FolderWorkspace, asked: str | None
    ) -> None:
        finished = await run(provider, call(sketch(size=asked, quality="low"), workspace))
        assert finished.size == "1024x1024"

    async def test_low_quality_is_another_picture_and_says_so(
        self, provider: Builtin, workspace: FolderWorkspace
    ) -> None:
        low = await run(provider, call(sketch(seed=1, quality="low"), workspace))
        high = await run(provider, call(sketch(seed=1, quality="high"), workspace))
        assert (low.quality, high.quality) == ("low", "high")
        assert stored(low)[0].sha256 != stored(high)[0].sha256

    async def test_a_transparent_background(self, provider: Builtin, workspace: FolderWorkspace) -> None:
        finished = await run(provider, call(sketch(background="transparent"), workspace))
        with opened(workspace, finished) as image:
            assert image.mode == "RGBA"
            assert image.getchannel("A").getextrema()[0] == 0
        assert finished.background == "transparent"

    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"negative_prompt": "x"}, "negative_prompt"),
            ({"style": "vivid"}, "style"),
            ({"quality": "hd"}, "quality"),
            ({"size": "15x64"}, "size"),
            ({"size": "64x2049"}, "size"),
            ({"size": "big"}, "size"),
            ({"output_format": "gif"}, "output_format"),
            ({"output_compression": 3}, "output_compression"),
            ({"background": "transparent", "output_format": "jpeg"}, "background"),
        ],
    )
    async def test_what_it_cannot_express(
        self, provider: Builtin, workspace: FolderWorkspace, more: Any, param: str
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(sketch(**more), workspace))
        assert caught.value.param == param
        assert workspace.sinks == []


class TestEditAndVariation:
    async def test_only_the_masked_part_changes(self, provider: Builtin, workspace: FolderWorkspace) -> None:
        request = edit(workspace, mask=workspace.put(mask_bytes()))
        finished = await run(provider, call(request, workspace))
        with opened(workspace, finished) as image:
            assert image.size == (64, 48)
            right = image.convert("RGB").crop((34, 0, 64, 48))
            left = image.convert("RGB").crop((0, 0, 30, 48))
        assert right.getcolors() == [(30 * 48, (250, 250, 250))]
        assert left.getcolors() != [(30 * 48, (250, 250, 250))]

    async def test_a_grey_mask_marks_in_white(self, provider: Builtin, workspace: FolderWorkspace) -> None:
        mask = Image.new("L", (64, 48), 0)
        mask.paste(255, (0, 0, 32, 48))
        stream = io.BytesIO()
        mask.save(stream, "PNG")
        request = edit(workspace, mask=workspace.put(stream.getvalue()), size="128x96")
        finished = await run(provider, call(request, workspace))
        with opened(workspace, finished) as image:
            assert image.size == (128, 96)
            assert image.convert("RGB").crop((70, 0, 128, 96)).getcolors() == [(58 * 96, (250, 250, 250))]

    async def test_without_a_mask_or_a_prompt(self, provider: Builtin, workspace: FolderWorkspace) -> None:
        content = image_bytes()
        finished = await run(provider, call(edit(workspace, content, prompt=None), workspace))
        assert stored(finished)[0].sha256 != hashlib.sha256(content).hexdigest()
        assert finished.via is None

    async def test_a_variation_differs_and_keeps_its_size(self, provider: Builtin, workspace: FolderWorkspace) -> None:
        content = image_bytes(40, 30)
        request = edit(workspace, content, operation=Operation.VARIATION, prompt=None, n=2)
        finished = await run(provider, call(request, workspace))
        first, second = stored(finished)
        assert first.dimensions == second.dimensions == size(40, 30)
        assert len({first.sha256, second.sha256, hashlib.sha256(content).hexdigest()}) == 3

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (image_bytes(1, 1), size(16, 16)),
            (image_bytes(4096, 64), size(2048, 32)),
            (image_bytes(33, 47, "JPEG"), size(33, 47)),
            (image_bytes(40, 30, "WEBP", mode="RGBA", colour=(1, 2, 3, 40)), size(40, 30)),
            (image_bytes(40, 30, "GIF", mode="P", colour=3), size(40, 30)),
            (image_bytes(40, 30, mode="LA", colour=(3, 9)), size(40, 30)),
            (image_bytes(40, 30, mode="I;16", colour=40_000), size(40, 30)),
            (image_bytes(40, 30, mode="1", colour=1), size(40, 30)),
            (image_bytes(40, 30, "JPEG", mode="CMYK", colour=(1, 2, 3, 4)), size(40, 30)),
        ],
    )
    async def test_every_kind_of_input(
        self, provider: Builtin, workspace: FolderWorkspace, content: bytes, expected: object
    ) -> None:
        for operation in (Operation.EDIT, Operation.VARIATION):
            finished = await run(provider, call(edit(workspace, content, operation=operation), workspace))
            assert stored(finished)[0].dimensions == expected

    async def test_a_picture_taken_upright_is_edited_upright(
        self, provider: Builtin, workspace: FolderWorkspace
    ) -> None:
        stream = io.BytesIO()
        image = Image.new("RGB", (60, 40))
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(stream, "JPEG", exif=exif)
        finished = await run(provider, call(edit(workspace, stream.getvalue()), workspace))
        assert stored(finished)[0].dimensions == size(40, 60)
        assert finished.size == "40x60"

    async def test_further_pictures_stand_along_the_edge(self, provider: Builtin, workspace: FolderWorkspace) -> None:
        white = workspace.put(image_bytes(100, 50, colour=(255, 255, 255)))
        red = workspace.put(image_bytes(30, 30, colour=(255, 0, 0)))
        keep = image_bytes(100, 50, mode="RGBA", colour=(0, 0, 0, 255))
        request = edit(workspace, images=(white, red), mask=workspace.put(keep))
        finished = await run(provider, call(request, workspace))
        with opened(workspace, finished) as image:
            assert image.convert("RGB").getpixel((10, 45)) == (255, 0, 0)
            assert image.convert("RGB").getpixel((90, 5)) == (255, 255, 255)

    async def test_a_mask_of_another_size(self, provider: Builtin, workspace: FolderWorkspace) -> None:
        request = edit(workspace, mask=workspace.put(mask_bytes(32, 32)))
        with pytest.raises(ProviderRejected, match="32x32") as caught:
            await provider.start(call(request, workspace))
        assert (caught.value.param, caught.value.status) == ("mask", 400)

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF"])
    async def test_a_damaged_picture(self, provider: Builtin, workspace: FolderWorkspace, file_format: str) -> None:
        stream = io.BytesIO()
        Image.effect_noise((300, 300), 90).convert("RGB").save(stream, file_format)
        half = stream.getvalue()[: len(stream.getvalue()) // 2]
        with pytest.raises(ProviderRejected, match="damaged"):
            await provider.start(call(edit(workspace, half), workspace))
        assert workspace.sinks == []

    async def test_a_picture_too_large_to_decode(self, provider: Builtin, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderRejected, match="4096"):
            await provider.start(call(edit(workspace, image_bytes(4097, 4)), workspace))


FAILURES: list[tuple[str, type[Exception], int | None]] = [
    ("fail-rejected", ProviderRejected, 400),
    ("fail-moderation", ProviderRejected, 400),
    ("fail-model", ProviderModelGone, 404),
    ("fail-auth", ProviderAuthError, 401),
    ("fail-busy", ProviderBusy, 429),
    ("fail-unavailable", ProviderUnavailable, 503),
    ("fail-uncertain", ProviderUncertain, 504),
    ("fail-protocol", ProviderProtocolError, 502),
    ("fail-crash", RuntimeError, None),
]


class TestFailures:
    @pytest.mark.parametrize(("model", "expected", "status"), FAILURES)
    async def test_each_fails_as_it_says(
        self, provider: Builtin, workspace: FolderWorkspace, model: str, expected: type[Exception], status: int | None
    ) -> None:
        for attempt in (1, 2):
            with pytest.raises(expected) as caught:
                await provider.start(call(sketch(model), workspace, attempt=attempt))
            assert type(caught.value) is expected
            if isinstance(caught.value, ProviderError):
                assert caught.value.status == status
        assert workspace.sinks == []

    async def test_busy_tells_how_long(self, provider: Builtin, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderBusy) as caught:
            await provider.start(call(sketch("fail-busy"), workspace))
        assert caught.value.retry_after_s == 1

    async def test_moderation_has_its_code(self, provider: Builtin, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderRejected) as caught:
            await provider.start(call(sketch("fail-moderation"), workspace))
        assert caught.value.provider_code == "moderation_blocked"

    async def test_busy_once(self, provider: Builtin, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderBusy):
            await provider.start(call(sketch("fail-busy-once"), workspace))
        assert len((await run(provider, call(sketch("fail-busy-once"), workspace, attempt=2))).pictures) == 1

    @pytest.mark.parametrize("model", ["nothing", "slow-0", "slow-601", "slow-x", "slow-", "handle-0", "sketch2"])
    async def test_no_such_model(self, provider: Builtin, workspace: FolderWorkspace, model: str) -> None:
        assert provider.spec(model) is None
        with pytest.raises(ProviderModelGone, match="sketch"):
            await provider.start(call(sketch(model), workspace))


class TestTime:
    async def test_slow_waits_and_draws(
        self, provider: Builtin, workspace: FolderWorkspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits: list[float] = []

        async def wait(seconds: float) -> None:
            waits.append(seconds)

        monkeypatch.setattr("safelight.adapters.providers.builtin.sleep", wait)
        told = Told()
        finished = await run(provider, call(sketch("slow-4", partial_images=2), workspace, report=told))
        assert waits == [1] * 4
        assert told.shares == [0.25, 0.5, 0.75, 1.0]
        assert len(finished.pictures) == 1

        pictures = [*(preview for _, preview in told.previews), *stored(finished)]
        assert [index for index, _ in told.previews] == [0, 0]
        assert len({each.dimensions for each in pictures}) == 1
        sizes = [each.size_bytes for each in pictures]
        assert sizes == sorted(sizes)

    async def test_a_sketch_is_drawn_at_once_unless_it_is_to_develop(
        self, provider: Builtin, workspace: FolderWorkspace
    ) -> None:
        told = Told()
        await run(provider, call(sketch("sketch"), workspace, report=told))
        assert (told.shares, told.previews) == ([], [])
        await run(provider, call(sketch("sketch", partial_images=3), workspace, report=told))
        assert len(told.previews) == 3

    async def test_slow_ends_promptly_when_cancelled(self, provider: Builtin, workspace: FolderWorkspace) -> None:
        task = asyncio.create_task(run(provider, call(sketch("slow-600"), workspace)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 1)
        assert workspace.sinks == []

    async def test_a_handle_is_polled_to_its_end(
        self, provider: Builtin, workspace: FolderWorkspace, watch: Watch
    ) -> None:
        wanted = call(sketch("handle-10"), workspace)
        accepted = await provider.start(wanted)
        assert isinstance(accepted, Accepted)
        progress = []
        for moved in (0, 5, 4.5):
            watch.time_s += moved
            running = await provider.poll(accepted.handle, wanted)
            assert isinstance(running, Running)
            progress.append(running.progress or 0)
            assert 0 < running.poll_after_s <= 1
        assert all(earlier < later for earlier, later in pairwise(progress))
        assert progress[1] == pytest.approx(0.5)
        watch.time_s += 1
        finished = await provider.poll(accepted.handle, wanted)
        again = await provider.poll(accepted.handle, wanted)
        assert isinstance(finished, Finished)
        assert isinstance(again, Finished)
        assert stored(finished)[0].sha256 == stored(again)[0].sha256

    @pytest.mark.parametrize("handle", ["", "x", "1:x", "nonsense:here"])
    async def test_a_foreign_handle(self, provider: Builtin, workspace: FolderWorkspace, handle: str) -> None:
        with pytest.raises(ProviderRejected):
            await provider.poll(handle, call(sketch("handle-10"), workspace))


def test_it_is_repeatable_and_needs_no_key() -> None:
    settled = PROVIDER.settle(ProviderSettings(name=ProviderName("builtin"), type="builtin"))
    assert settled.repeatable is True
    assert not PROVIDER.needs_key
