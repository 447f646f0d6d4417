"""The provider that is always there: it draws real pictures without a key or a network, and fails on demand.

It is a renderer, not a model. Whatever it does is free, may be repeated, and is the same for the same input.
"""

import hashlib
import io
import os
import re
import time
from asyncio import get_running_loop, sleep
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import MappingProxyType

from PIL import Image, ImageOps

from safelight.adapters.providers import _sketch
from safelight.adapters.providers._answer import store_picture
from safelight.adapters.providers._base import BaseProvider, Entry, NoOptions, ProviderModule, always
from safelight.adapters.providers._rules import (
    compression_needs_lossy_format,
    edits_inpaint,
    transparency_needs_alpha,
)
from safelight.application.ports import Accepted, Call, Finished, Running, StoredPicture
from safelight.domain.capability import ModelSpec, PixelRule
from safelight.domain.errors import (
    ProviderAuthError,
    ProviderBusy,
    ProviderError,
    ProviderModelGone,
    ProviderProtocolError,
    ProviderRejected,
    ProviderUnavailable,
    ProviderUncertain,
)
from safelight.domain.image import Dimensions, ImageRequest, Operation, StoredImage
from safelight.domain.money import Charged

MAX_SIDE = 2048
MAX_INPUT_SIDE = 4096
DEFAULT_SIZE = Dimensions(width=1024, height=1024)
MIN_SIDE = 16
THREADS = 4
_INSETS = 5
_COARSEST = 64
"""So many pixels a side has the grain of the first preview; each next one is twice as fine."""
_FORMATS: Mapping[str, _sketch.OutputFormat] = MappingProxyType({"png": "png", "jpeg": "jpeg", "webp": "webp"})

_SKETCH = ModelSpec(
    name="sketch",
    operations=frozenset(Operation),
    fields=frozenset(
        {"size", "quality", "background", "output_format", "output_compression", "partial_images", "seed"}
    ),
    pixel_rule=PixelRule(min_side=MIN_SIDE, max_side=MAX_SIDE),
    qualities=frozenset({"auto", "low", "medium", "high"}),
    formats=frozenset(_FORMATS),
    max_n=10,
    max_images=16,
    rules=(transparency_needs_alpha, compression_needs_lossy_format, edits_inpaint),
)
_FAILURES: Mapping[str, Callable[[], Exception]] = MappingProxyType(
    {
        "fail-rejected": lambda: _failure(
            ProviderRejected, status=400, code="invalid_value", type_="invalid_request_error"
        ),
        "fail-moderation": lambda: _failure(
            ProviderRejected, status=400, code="moderation_blocked", type_="image_generation_user_error"
        ),
        "fail-model": lambda: _failure(ProviderModelGone, status=404, code="model_not_found"),
        "fail-auth": lambda: _failure(ProviderAuthError, status=401, code="invalid_api_key"),
        "fail-busy": lambda: _busy(retry_after_s=1.0),
        "fail-unavailable": lambda: _failure(ProviderUnavailable, status=503, code="server_error"),
        "fail-uncertain": lambda: _failure(ProviderUncertain, status=504),
        "fail-protocol": lambda: _failure(ProviderProtocolError, status=502),
        "fail-crash": lambda: RuntimeError("builtin/fail-crash raises an error that no provider should"),
    }
)
_BUSY_ONCE = "fail-busy-once"
_TIMED = re.compile(r"(slow|handle)-(\d{1,3})")
_LONGEST_S = 600


def _failure(
    kind: type[ProviderError], *, status: int, code: str | None = None, type_: str | None = None
) -> ProviderError:
    message = f"this model of the built-in provider always ends so: {kind.error_class}"
    return kind(message, status=status, provider_code=code, provider_type=type_, request_id="builtin")


def _busy(*, retry_after_s: float) -> ProviderBusy:
    return ProviderBusy(
        "this model of the built-in provider says that it is busy",
        status=429,
        provider_code="rate_limit_exceeded",
        request_id="builtin",
        retry_after_s=retry_after_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawing:
    """One picture to draw, with all that the thread needs. `size` is `None` where the input decides."""

    request: ImageRequest
    size: Dimensions | None
    seed: int
    sources: tuple[bytes, ...] = ()
    mask: bytes | None = None
    grain: int = 1
    """Of more than a pixel in a preview."""

    def render(self) -> bytes:
        """Draw and encode: a second or less of one core. Raises `ProviderRejected` for inputs that cannot be read."""
        request = self.request
        picture = self._picture()
        if self.grain > 1:
            coarse = picture.resize((max(1, picture.width // self.grain), max(1, picture.height // self.grain)))
            picture = coarse.resize(picture.size, Image.Resampling.NEAREST)
        return _sketch.encode(
            picture,
            output_format=_FORMATS[request.output_format or "png"],
            compression=request.output_compression,
        )

    def _picture(self) -> Image.Image:
        match self.request.operation:
            case Operation.GENERATION:
                return self._drawn()
            case Operation.EDIT:
                return self._edited()
            case Operation.VARIATION:
                return _sketch.vary(image=self._source(_decode(self.sources[0])), seed=self.seed)

    def _drawn(self) -> Image.Image:
        """Draw; in quality `low` at half the size, enlarged: faster, and coarser."""
        size = self.size or DEFAULT_SIZE
        divisor = 2 if self.request.quality == "low" else 1
        picture = _sketch.draw(
            prompt=self.request.prompt or "",
            width=size.width // divisor,
            height=size.height // divisor,
            seed=self.seed,
            transparent=self.request.background == "transparent",
        )
        return picture if divisor == 1 else picture.resize((size.width, size.height))

    def _edited(self) -> Image.Image:
        image = _decode(self.sources[0])
        mask = None if self.mask is None else _decode(self.mask)
        if mask is not None and mask.size != image.size:
            raise ProviderRejected(
                f"the mask is {mask.width}x{mask.height}, the image {image.width}x{image.height}: they must be equal",
                status=400,
                param="mask",
            )
        source = self._source(image)
        fitted = None if mask is None else _fit(mask, source.size)
        return _sketch.edit(image=source, mask=fitted, prompt=self.request.prompt or "", seed=self.seed)

    def _source(self, image: Image.Image) -> Image.Image:
        """Bring the first picture to size; further ones stand along its lower edge."""
        source = _fit(image, (self.size.width, self.size.height) if self.size else _within_limits(image.size))
        inset = (max(1, source.width // _INSETS), max(1, source.height // _INSETS))
        for place, other in enumerate(self.sources[1 : _INSETS + 1]):
            source.paste(_fit(_decode(other), inset), (place * inset[0], source.height - inset[1]))
        return source


def _decode(content: bytes) -> Image.Image:
    """Decode, upright; raises `ProviderRejected`."""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP", "GIF")) as image:
            return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError) as exc:
        raise ProviderRejected("the picture is damaged and cannot be decoded", status=400, param="image") from exc


def _fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bring to a size by scaling and cutting around the middle."""
    if image.size == size:
        return image
    if image.mode not in {"L", "LA", "RGB", "RGBA"}:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return ImageOps.fit(image, size)


def _within_limits(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, MAX_SIDE / max(size))
    width, height = (max(MIN_SIDE, round(side * scale)) for side in size)
    return width, height


class Builtin(BaseProvider):
    """Draws in threads of its own, so that the loop stays free."""

    def __init__(self, entry: Entry[NoOptions], *, now: Callable[[], float] = time.time) -> None:
        """Start no thread yet. `now` is Unix time: handles must outlive the process."""
        names = ("sketch", *_FAILURES, _BUSY_ONCE, "slow-5", "handle-5")
        super().__init__(entry.settings, [replace(_SKETCH, name=name) for name in names])
        self._threads = ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1), thread_name_prefix="sketch")
        self._now = now

    def spec(self, model: str) -> ModelSpec | None:
        """Any number of seconds makes a model."""
        return super().spec(model) or (replace(_SKETCH, name=model) if _timed(model) else None)

    async def submit(self, call: Call) -> Accepted | Finished:
        """Do what the model's name says."""
        if failure := _FAILURES.get(call.model):
            raise failure()
        if call.model == _BUSY_ONCE and call.attempt == 1:
            raise _busy(retry_after_s=0.2)
        match _timed(call.model):
            case ("slow", seconds):
                return await self._draw(call, seconds)
            case ("handle", seconds):
                return self._accept(call, seconds)
            case None if self.spec(call.model) is None:
                raise ProviderModelGone(f"the built-in provider has no model {call.model!r}; its model is sketch")
        return await self._draw(call)

    def _accept(self, call: Call, seconds: int) -> Accepted:
        start = self._now()
        return Accepted(handle=f"{start:.3f}:{start + seconds:.3f}:{call.token}", poll_after_s=min(seconds, 1.0))

    async def poll(self, handle: str, call: Call) -> Running | Finished:
        """Draw when the time in the handle has come."""
        try:
            start, due = (float(part) for part in handle.split(":")[:2])
        except ValueError as exc:
            raise ProviderRejected("the built-in provider does not know this handle", status=404) from exc
        left = due - self._now()
        if left > 0:
            return Running(poll_after_s=min(left, 1.0), progress=max(0.0, 1 - left / (due - start)))
        return await self._draw(call)

    async def close(self) -> None:
        """Let the drawings that have begun end on their own."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _draw(self, call: Call, seconds: int = 0) -> Finished:
        request = call.request
        drawing = _Drawing(
            request=request,
            size=request.pixel_size,
            seed=_seed(call),
            sources=tuple([await _content(call, image.image) for image in request.images]),
            mask=await _content(call, request.mask.image) if request.mask else None,
        )
        await self._develop(call, drawing, seconds)
        pictures = [await self._picture(call, replace(drawing, seed=drawing.seed + place)) for place in range(call.n)]
        return Finished(
            pictures=tuple(pictures),
            model="sketch (a renderer, not a model)",
            background="transparent" if request.background == "transparent" else "opaque",
            output_format=request.output_format or "png",
            quality="low" if request.quality == "low" else "high",
            size=str(pictures[0].image.dimensions),
            cost_micros=0,
            charged=Charged.NO,
        )

    async def _develop(self, call: Call, drawing: _Drawing, seconds: int) -> None:
        """Dawdle, and show meanwhile what the first picture will be, from coarse to fine."""
        wanted = call.request.partial_images or 0
        steps = max(seconds, wanted)
        for step in range(1, steps + 1):
            await sleep(seconds / steps)
            await call.report.progress(step / steps)
            for number in range((step - 1) * wanted // steps, step * wanted // steps):
                shown = await self._picture(call, replace(drawing, grain=_COARSEST >> number))
                await call.report.preview(shown.image)

    async def _picture(self, call: Call, drawing: _Drawing) -> StoredPicture:
        content = await get_running_loop().run_in_executor(self._threads, drawing.render)
        return StoredPicture(image=await store_picture(call.workspace, content))


def _timed(model: str) -> tuple[str, int] | None:
    found = _TIMED.fullmatch(model)
    return (found[1], int(found[2])) if found and 1 <= int(found[2]) <= _LONGEST_S else None


def _seed(call: Call) -> int:
    """Without a seed, one that a repeat of the same attempt finds again."""
    if call.request.seed is not None:
        return call.request.seed
    return int.from_bytes(hashlib.sha256(call.token.encode()).digest()[:4])


async def _content(call: Call, image: StoredImage) -> bytes:
    if max(image.dimensions.width, image.dimensions.height) > MAX_INPUT_SIDE:
        raise ProviderRejected(
            f"the built-in provider takes pictures of at most {MAX_INPUT_SIDE} pixels a side", status=400, param="image"
        )
    return b"".join([chunk async for chunk in call.workspace.read(image)])


PROVIDER = ProviderModule(
    name="builtin",
    doc="draws without a key or a network; fails and dawdles on demand",
    create=Builtin,
    options=NoOptions,
    remote=False,
    repeatable=always,
)
