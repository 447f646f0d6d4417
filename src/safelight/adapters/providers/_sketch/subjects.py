"""Draws one subject on a canvas from its recipe, in the colours asked for."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from safelight.adapters.providers._sketch.canvas import Canvas, Path, Point, oval, smooth, stroke
from safelight.adapters.providers._sketch.colours import RGB, WHITE, from_hex, lift, luminance, mix, multiply
from safelight.adapters.providers._sketch.recipes import RECIPES


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How a subject wants to be shown.

    `size` is its height as a share of the picture's shorter side, `home` the place where it is drawn if the prompt
    names none, and `stands` tells where in it: ground, water, sky or middle.
    """

    size: float
    colour: RGB
    home: str
    stands: str = "ground"


def _kind(size: float, colour: str, home: str, stands: str = "ground") -> Kind:
    return Kind(size=size, colour=from_hex(colour), home=home, stands=stands)


KINDS = {
    "fox": _kind(0.46, "DE7430", "forest"),
    "cat": _kind(0.46, "8D8A96", "meadow"),
    "dog": _kind(0.46, "C48A55", "meadow"),
    "rabbit": _kind(0.40, "C9B29A", "meadow"),
    "bear": _kind(0.50, "8E5F40", "forest"),
    "owl": _kind(0.44, "97714F", "forest"),
    "bird": _kind(0.30, "4C86BE", "meadow", "sky"),
    "penguin": _kind(0.44, "3C4A66", "lake"),
    "fish": _kind(0.40, "F08A3C", "underwater", "middle"),
    "whale": _kind(0.42, "3F6E9E", "sea", "water"),
    "butterfly": _kind(0.30, "E58A3A", "garden", "sky"),
    "boat": _kind(0.46, "F1E6D2", "sea", "water"),
    "house": _kind(0.42, "D9B48A", "meadow"),
    "lighthouse": _kind(0.62, "D0453C", "beach"),
    "castle": _kind(0.54, "B5A89C", "mountains"),
    "windmill": _kind(0.58, "D8C3A0", "meadow"),
    "tree": _kind(0.58, "6A9E4C", "meadow"),
    "pine": _kind(0.58, "2F7257", "mountains"),
    "palm": _kind(0.58, "4F9D5B", "beach"),
    "cactus": _kind(0.50, "4E9160", "dunes"),
    "flower": _kind(0.46, "E4607E", "meadow"),
    "mushroom": _kind(0.38, "CF4038", "forest"),
    "kite": _kind(0.40, "DB4437", "meadow", "sky"),
    "balloon": _kind(0.46, "DE5A44", "meadow", "sky"),
    "rocket": _kind(0.52, "DB4B3E", "space", "sky"),
    "star": _kind(0.42, "F2C84B", "meadow", "sky"),
    "heart": _kind(0.42, "DE3F55", "abstract", "middle"),
    "cloud": _kind(0.40, "A9C3DA", "meadow", "sky"),
    "car": _kind(0.46, "D2453B", "city"),
    "robot": _kind(0.52, "6FA8B4", "city"),
    "person": _kind(0.46, "3F7CAC", "meadow"),
    "girl": _kind(0.46, "C9506B", "meadow"),
    "snowman": _kind(0.48, "CB3F3F", "mountains"),
    "umbrella": _kind(0.48, "D8433F", "beach"),
    "cup": _kind(0.52, "E8E0D2", "room"),
    "apple": _kind(0.46, "CF3B34", "room"),
    "pumpkin": _kind(0.40, "E58730", "meadow"),
}

_FIXED = {
    "white": WHITE,
    "ink": from_hex("2A2534"),
    "wood": from_hex("8A5C3C"),
    "skin": from_hex("EDBD98"),
    "leaf": from_hex("5B9455"),
    "gold": from_hex("F0BC4E"),
    "orange": from_hex("EE8838"),
    "rose": from_hex("E88390"),
    "grey": from_hex("959CA6"),
    "steel": from_hex("D3DAE0"),
    "glass": from_hex("B4DAE4"),
    "glow": from_hex("FFE39A"),
}
_SMALL = 110  # pixels of height up to which coarse curves look smooth
_UNLIT = frozenset({"glow"})  # shines by itself, whatever the light


@dataclass(frozen=True, slots=True)
class _Part:
    role: str
    alpha: float
    paths: tuple[tuple[Point, ...], ...]
    solid: bool


def colours_for(asked: Sequence[RGB], kind: Kind, ambient: RGB) -> dict[str, RGB]:
    """Each role's colour under the scene's light."""
    base = asked[0] if asked else kind.colour
    dark = luminance(base) < 70
    roles = {
        "base": base,
        "light": lift(base, 0.3),
        "dark": lift(base, 0.16) if dark else lift(base, -0.24),
        "deep": lift(base, -0.3 if dark else -0.52),
        "pale": mix(base, WHITE, 0.3 if dark else 0.8),
        "accent": asked[1] if len(asked) > 1 else _accent(base),
        "eye": _FIXED["glow"] if dark else _FIXED["ink"],
        **_FIXED,
    }
    return {
        role: colour if role in _UNLIT else mix(colour, multiply(colour, ambient), 0.75)
        for role, colour in roles.items()
    }


def _accent(base: RGB) -> RGB:
    """Choose a second colour beside `base`: coral on cool colours, cream on reds, teal on oranges and yellows."""
    red, green, blue = base
    if red <= blue + 12:
        return from_hex("E2604F")
    return from_hex("F3D391") if green - blue < 35 else from_hex("2F8F8B")


def draw_subject(
    canvas: Canvas,
    name: str,
    roles: dict[str, RGB],
    *,
    x: float,
    y: float,
    height: float,
    flip: bool = False,
    tilt: float = 0,
) -> None:
    """Draw the subject standing at (x, y), `height` pixels tall, leaning by `tilt` degrees around its middle."""
    place = _placement(x, y, height / 100, -1 if flip else 1, math.radians(tilt))
    for part in _parts(name, 4 if height < _SMALL else 12):
        paths: list[Path] = [[place(point) for point in path] for path in part.paths]
        colour = roles[part.role]
        fill = (lift(colour, 0.12), colour, lift(colour, -0.1)) if part.solid else (colour,)
        canvas.paint(paths, *fill, alpha=part.alpha, shade=0.42 if part.solid and part.alpha == 1 else 0.0)


def _placement(x: float, y: float, scale: float, side: int, angle: float) -> Callable[[Point], Point]:
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    middle = 50.0 if angle else 0.0
    return lambda point: (
        x + side * point[0] * cos + (point[1] - middle) * sin,
        y - middle * scale - (point[1] - middle) * cos + side * point[0] * sin,
    )


@cache
def _parts(name: str, steps: int) -> tuple[_Part, ...]:
    """Read a recipe; `steps` is how finely its curves are drawn."""
    return tuple(_parse(line.split(), steps) for line in RECIPES[name].strip().splitlines())


def _parse(words: list[str], steps: int) -> _Part:
    shape, (role, _, percent) = words[0], words[1].partition("/")
    numbers = [float(word) for word in words[2:]]
    paths = _SHAPES[shape.removesuffix("*")](numbers, steps)
    if shape.endswith("*"):
        paths = [*paths, *([(-x, y) for x, y in path] for path in paths)]
    return _Part(
        role=role,
        alpha=float(percent) / 100 if percent else 1.0,
        paths=tuple(tuple(path) for path in paths),
        solid=not shape.startswith(("line", "hoop")),
    )


def _pairs(numbers: Sequence[float]) -> Path:
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _blob(numbers: list[float], steps: int) -> list[Path]:
    return [smooth(_pairs(numbers), steps=steps)]


def _poly(numbers: list[float], _steps: int) -> list[Path]:
    return [_pairs(numbers)]


def _oval(numbers: list[float], steps: int) -> list[Path]:
    cx, cy, rx, ry, *turned = numbers
    return [oval(cx, cy, rx, ry, turned[0] if turned else 0.0, sides=5 * steps)]


def _ring(numbers: list[float], steps: int) -> list[Path]:
    cx, cy, count, radius, rx, ry = numbers
    angles = [math.tau * n / count for n in range(int(count))]
    return [
        oval(cx + radius * math.sin(a), cy + radius * math.cos(a), rx, ry, -math.degrees(a), sides=4 * steps)
        for a in angles
    ]


def _line(numbers: list[float], steps: int) -> list[Path]:
    return stroke(smooth(_pairs(numbers[1:]), closed=False, steps=steps), numbers[0])


def _hoop(numbers: list[float], steps: int) -> list[Path]:
    width, cx, cy, radius = numbers
    circle = oval(cx, cy, radius, radius, sides=5 * steps)
    return stroke([*circle, circle[0]], width)


_SHAPES: dict[str, Callable[[list[float], int], list[Path]]] = {
    "blob": _blob,
    "poly": _poly,
    "oval": _oval,
    "ring": _ring,
    "line": _line,
    "hoop": _hoop,
}
