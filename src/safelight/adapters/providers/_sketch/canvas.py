"""A surface to paint on: smooth paths, gradient fills, soft light and paper grain.

Paths are lists of (x, y) in pixels, y downwards. Each shape is rasterised alone, two to four times finer than the
picture and no larger than its own box, so that edges are smooth and working memory stays small.
"""

import math
import random
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeAlias

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from safelight.adapters.providers._sketch.colours import RGB, lift

Point: TypeAlias = tuple[float, float]
Path: TypeAlias = list[Point]
Box: TypeAlias = tuple[int, int, int, int]

_NOISE_SIDE = 192
_FINEST_AREA = 120_000  # pixels of a box up to which a shape is drawn four times finer
_GRAIN_LEVELS = tuple(min(255, 110 + level) for level in range(256))
_SHADE_FROM = 14  # pixels of a box's shorter side from which shading can be seen


def smooth(points: Sequence[Point], *, closed: bool = True, steps: int = 10) -> Path:
    """Draw a Catmull-Rom curve through the points."""
    count = len(points)
    path: Path = []
    for index in range(count if closed else count - 1):
        before, start, end, after = (
            points[(index + shift) % count] if closed else points[min(max(index + shift, 0), count - 1)]
            for shift in (-1, 0, 1, 2)
        )
        for step in range(steps):
            t = step / steps
            path.append(
                (_spline(before[0], start[0], end[0], after[0], t), _spline(before[1], start[1], end[1], after[1], t))
            )
    return path if closed else [*path, points[-1]]


def _spline(p0: float, p1: float, p2: float, p3: float, t: float) -> float:
    return p1 + 0.5 * t * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))


def oval(cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0, sides: int = 0) -> Path:
    """Trace an ellipse; by itself it takes as many sides as its size in pixels calls for."""
    sides = sides or int(min(96, max(12, 5 * math.sqrt(max(rx, ry)))))
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(rx * math.cos(a), ry * math.sin(a)) for a in (math.tau * n / sides for n in range(sides))]
    return [(cx + x * cos - y * sin, cy + x * sin + y * cos) for x, y in corners]


def stroke(points: Sequence[Point], width: float, end_width: float | None = None) -> list[Path]:
    """Build a line with round joints, tapering to `end_width`, from pieces to be painted together."""
    last = len(points) - 1
    final = width if end_width is None else end_width
    radii = [(width + (final - width) * n / max(1, last)) / 2 for n in range(last + 1)]
    pieces = [oval(x, y, r, r, sides=10) for (x, y), r in zip(points, radii, strict=True)]
    for (x0, y0), (x1, y1), r0, r1 in zip(points, points[1:], radii, radii[1:], strict=False):
        length = math.hypot(x1 - x0, y1 - y0) or 1.0
        nx, ny = (y0 - y1) / length, (x1 - x0) / length
        pieces.append(
            [
                (x0 + nx * r0, y0 + ny * r0),
                (x1 + nx * r1, y1 + ny * r1),
                (x1 - nx * r1, y1 - ny * r1),
                (x0 - nx * r0, y0 - ny * r0),
            ]
        )
    return pieces


def rectangle(left: float, top: float, right: float, bottom: float) -> Path:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def noise(width: int, height: int, rng: random.Random) -> Image.Image:
    """Mode L, even noise around 128; a tile repeated, so that large pictures cost no more randomness."""
    side = min(_NOISE_SIDE, max(width, height))
    tile = Image.frombytes("L", (side, side), rng.randbytes(side * side))
    field = Image.new("L", (width, height))
    for top in range(0, height, side):
        for left in range(0, width, side):
            field.paste(tile, (left, top))
    return field


def gradient(stops: Sequence[RGB], width: int, height: int, span: tuple[float, float] = (0.0, 1.0)) -> Image.Image:
    """Mode RGB, from the first stop at the top to the last at the bottom; `span` picks a part of that way."""
    column = Image.new("RGB", (1, len(stops)))
    column.putdata(list(stops))
    reach = len(stops) - 1
    start, end = (0.5 + reach * part for part in span)
    return column.resize((width, height), Image.Resampling.BILINEAR, box=(0, start, 1, max(end, start + 1e-3)))


def faded(mask: Image.Image, alpha: float) -> Image.Image:
    """Weaken the mask to `alpha` (0 to 1) of its strength."""
    return mask if alpha >= 1.0 else mask.point(_shares(round(alpha, 3)))


@lru_cache(maxsize=256)
def _shares(alpha: float) -> tuple[int, ...]:
    return tuple(round(level * alpha) for level in range(256))


@lru_cache(maxsize=64)
def radial(levels: tuple[int, ...], side: int = 256) -> Image.Image:
    """Mode L, square: distance from the centre (0, to 181 at the middle of an edge) looked up in `levels`. Read only."""
    return Image.radial_gradient("L").point(levels).resize((side, side))


@lru_cache(maxsize=64)
def _glow_levels(alpha: float) -> tuple[int, ...]:
    return tuple(round(max(0.0, 1 - level / 181) ** 1.6 * alpha * 255) for level in range(256))


class Canvas:
    """A picture in the making. A clear canvas starts transparent and holds premultiplied colours until `finish`."""

    def __init__(self, width: int, height: int, *, seed: int, clear: bool = False) -> None:
        self.width = width
        self.height = height
        self.unit = float(min(width, height))
        self.light = -1.0  # light comes from the left (-1) or the right (1), always from above
        self.rng = random.Random(seed)
        self.image = Image.new("RGBA", (width, height)) if clear else Image.new("RGB", (width, height))
        self._grain = noise(min(width, _NOISE_SIDE * 4), min(height, _NOISE_SIDE * 4), random.Random(seed))

    def wash(self, stops: Sequence[RGB], top: float = 0.0, bottom: float | None = None) -> None:
        """Fill the full width between two heights with a gradient."""
        self.paint([rectangle(-1, top, self.width + 1, (self.height if bottom is None else bottom) + 1)], *stops)

    def paint(
        self,
        paths: Iterable[Path],
        *fill: RGB,
        alpha: float = 1.0,
        soft: float = 0.0,
        shade: float = 0.0,
        within: Path | None = None,
    ) -> None:
        """Paint all paths as one shape.

        `fill` runs from top to bottom, `soft` blurs the edge by so many pixels, `shade` (0 to 1) models the shape
        with light and shadow, and `within` is another path that clips it.
        """
        shapes = [path for path in paths if path]
        if not shapes:
            return
        ys = [y for path in shapes for _, y in path]
        box = self._box(shapes, ys, margin=2 * soft + 1)
        if box is None:
            return
        mask = _mask(shapes, box)
        if within is not None:
            mask = ImageChops.multiply(mask, _mask([within], box))
        if soft >= 0.5:
            mask = mask.filter(ImageFilter.GaussianBlur(soft))
        self._lay(fill, faded(mask, alpha), box, (min(ys), max(ys)))
        if shade and min(mask.size) >= _SHADE_FROM:
            self._model(fill[0], faded(mask, alpha), box, shade)

    def glow(self, cx: float, cy: float, radius: float, colour: RGB, alpha: float, squash: float = 1.0) -> None:
        """Add a round light that fades out at `radius`; `squash` scales its height."""
        side = 256 if radius > 128 else 64
        disc = radial(_glow_levels(alpha), side)
        size = (max(1, round(2 * radius)), max(1, round(2 * radius * squash)))
        corner = (round(cx - size[0] / 2), round(cy - size[1] / 2))
        box = self._clip(corner[0], corner[1], corner[0] + size[0], corner[1] + size[1])
        if box is not None:
            part = tuple((edge - corner[n % 2]) * side / size[n % 2] for n, edge in enumerate(box))
            shape = (box[2] - box[0], box[3] - box[1])
            mask = disc.resize(shape, Image.Resampling.BILINEAR, box=(part[0], part[1], part[2], part[3]))
            self.image.paste(colour if self.image.mode == "RGB" else (*colour, 255), box, mask)

    def finish(self) -> Image.Image:
        """Hand out the picture: RGB, or RGBA with straight alpha if the canvas was clear."""
        if self.image.mode == "RGB":
            return self.image
        return Image.frombytes("RGBa", self.image.size, self.image.tobytes()).convert("RGBA")

    def _box(self, shapes: list[Path], ys: list[float], margin: float) -> Box | None:
        xs = [x for path in shapes for x, _ in path]
        return self._clip(
            math.floor(min(xs) - margin),
            math.floor(min(ys) - margin),
            math.ceil(max(xs) + margin),
            math.ceil(max(ys) + margin),
        )

    def _clip(self, left: int, top: int, right: int, bottom: int) -> Box | None:
        box = (max(0, left), max(0, top), min(self.width, right), min(self.height, bottom))
        return box if box[0] < box[2] and box[1] < box[3] else None

    def _lay(self, fill: Sequence[RGB], mask: Image.Image, box: Box, reach: tuple[float, float]) -> None:
        opaque = self.image.mode == "RGB"
        if len(set(fill)) == 1:
            self.image.paste(fill[0] if opaque else (*fill[0], 255), box, mask)
            return
        top, height = reach[0], max(1.0, reach[1] - reach[0])
        span = (max(0.0, (box[1] - top) / height), min(1.0, (box[3] - top) / height))
        layer = gradient(fill, *mask.size, span)
        self.image.paste(layer if opaque else layer.convert("RGBA"), box, mask)

    def _model(self, colour: RGB, mask: Image.Image, box: Box, shade: float) -> None:
        """Lay a grainy shadow inside the side away from the light, and a thin light on the other."""
        reach = max(2, round(min(mask.size) * 0.16))
        for towards, tone, strength in ((1.0, lift(colour, -0.55), shade), (-0.45, lift(colour, 0.6), shade * 0.8)):
            moved = Image.new("L", mask.size)
            moved.paste(mask, (round(self.light * reach * towards), -round(reach * towards * 0.6)))
            edge = ImageChops.subtract(mask, moved).filter(ImageFilter.BoxBlur(reach * abs(towards) * 0.6))
            edge = ImageChops.multiply(edge, mask)
            if self.unit >= 200 and max(mask.size) <= min(self._grain.size):
                grain = self._grain.crop((0, 0, *mask.size)).point(_GRAIN_LEVELS)
                edge = ImageChops.multiply(edge, grain)
            self.image.paste(tone if self.image.mode == "RGB" else (*tone, 255), box, faded(edge, strength))


def _mask(shapes: Iterable[Path], box: Box) -> Image.Image:
    left, top, right, bottom = box
    finer = 4 if (right - left) * (bottom - top) <= _FINEST_AREA else 2
    mask = Image.new("L", ((right - left) * finer, (bottom - top) * finer))
    pen = ImageDraw.Draw(mask)
    for path in shapes:
        if len(path) > 2:
            pen.polygon([((x - left) * finer - 0.5, (y - top) * finer - 0.5) for x, y in path], fill=255)
    return mask.reduce(finer)
