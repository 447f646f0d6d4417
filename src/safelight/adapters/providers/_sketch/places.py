"""Places: what lies below and before the sky. Each function paints one, from the horizon to the viewer."""

import math
from collections.abc import Callable
from typing import TypeAlias

from safelight.adapters.providers._sketch.canvas import Canvas, Path, Point, oval, rectangle, smooth, stroke
from safelight.adapters.providers._sketch.colours import RGB, WHITE, from_hex, lift, mix, turn
from safelight.adapters.providers._sketch.moods import Mood
from safelight.adapters.providers._sketch.skies import draw_stars
from safelight.adapters.providers._sketch.terrain import (
    GRASS,
    WATER,
    bank,
    blossoms,
    bushes,
    grass,
    hill,
    peaks,
    pines,
    ridge,
    water,
)

Painter: TypeAlias = Callable[[Canvas, Mood, float], None]

_SAND = from_hex("E3B871")


def _dune(canvas: Canvas, colour: RGB, cx: float, top: float, half: float, base: float, foot: float) -> None:
    """One dune: a lit flank, and a shadowed one behind an S-shaped crest that runs down from the peak to `foot`."""
    side, height, bottom = -canvas.light, base - top, canvas.height + 2.0

    def at(across: float, up: float) -> Point:
        return cx + side * half * across, base - height * up

    front = [(cx - side * half * 2.4, foot), at(-1.0, 0.05), at(-0.6, 0.22), at(-0.22, 0.72)]
    back = [at(0.3, 0.62), at(0.7, 0.26), at(1.1, 0.05), (cx + side * half * 2.4, foot)]
    slope = smooth([(cx, top), *back], closed=False)
    body = [*smooth([*front, (cx, top)], closed=False), *slope, (slope[-1][0], bottom), (front[0][0], bottom)]
    canvas.paint([body], lift(colour, 0.22), colour, lift(colour, -0.12))
    crest = [(cx, top), at(0.1, 0.66), at(-0.04, 0.3), at(0.26, -0.2), (cx + side * half * 0.1, bottom)]
    shadow = [*smooth(crest, closed=False), (slope[-1][0], bottom), *slope[::-1]]
    canvas.paint([shadow], lift(colour, -0.26), lift(colour, -0.14), colour, alpha=0.85)


def _dunes(canvas: Canvas, mood: Mood, horizon: float) -> None:
    colour, depth, unit = mood.land(_SAND), canvas.height - horizon, canvas.unit
    hill(canvas, mood, lift(colour, -0.1), horizon, unit * 0.02, 0.75, 2.4)
    spread = canvas.width / unit
    for distance, level, size in ((0.5, 0.12, 0.6), (0.28, 0.34, 0.85), (0.0, 0.66, 1.15)):
        tone = mood.far(colour, distance)
        hill(canvas, mood, colour, horizon + depth * (level + 0.08), unit * 0.03, distance)
        for n in range(max(1, round(spread * 1.2 / size))):
            x = canvas.width * (n + canvas.rng.uniform(0.2, 0.8)) / max(1, round(spread * 1.2 / size))
            top = horizon + depth * level - unit * size * canvas.rng.uniform(0.12, 0.19)
            base = horizon + depth * (level + 0.2)
            _dune(canvas, tone, x, top, unit * size * canvas.rng.uniform(0.55, 0.75), base, base + depth * 0.14)
    _ripples(canvas, lift(mood.far(colour, 0), -0.3), horizon + depth * 0.78)


def _ripples(canvas: Canvas, colour: RGB, top: float) -> None:
    lines: list[Path] = []
    for n in range(6):
        y = top + (canvas.height - top) * n / 6
        x = canvas.width * canvas.rng.uniform(0, 0.8)
        length = canvas.unit * canvas.rng.uniform(0.15, 0.4)
        wave = [(x + length * k / 6, y + math.sin(k * 1.4 + n) * canvas.unit * 0.006) for k in range(7)]
        lines += stroke(wave, canvas.unit * 0.005, 0.3)
    canvas.paint(lines, colour, alpha=0.35)


def _mountains(canvas: Canvas, mood: Mood, horizon: float) -> None:
    peaks(canvas, mood, horizon)
    colour, depth, unit = mood.land(from_hex("6E9A62")), canvas.height - horizon, canvas.unit
    pine = mix(colour, from_hex("1F4B44"), 0.7)
    hill(canvas, mood, colour, horizon + depth * 0.12, unit * 0.03, 0.55)
    pines(canvas, mood, pine, horizon + depth * 0.2, unit * 0.09, 0.45)
    hill(canvas, mood, colour, horizon + depth * 0.26, unit * 0.04, 0.3)
    pines(canvas, mood, pine, horizon + depth * 0.42, unit * 0.15, 0.16)
    hill(canvas, mood, colour, horizon + depth * 0.48, unit * 0.03, 0.0)
    grass(canvas, mood, colour)


def _sea(canvas: Canvas, mood: Mood, horizon: float) -> None:
    water(canvas, mood, horizon, canvas.height)
    if canvas.rng.random() < 0.6:
        land = mood.far(from_hex("56718A"), 0.6)
        x, w = canvas.width * canvas.rng.uniform(0.1, 0.3), canvas.unit * 0.5
        isle = smooth(
            [
                (x - w, horizon),
                (x - w * 0.5, horizon - w * 0.12),
                (x - w * 0.1, horizon - w * 0.2),
                (x + w * 0.4, horizon - w * 0.06),
                (x + w, horizon),
            ],
            closed=False,
        )
        canvas.paint([isle], land)


def _lake(canvas: Canvas, mood: Mood, horizon: float) -> None:
    peaks(canvas, mood, horizon)
    green = mood.land(from_hex("4E7F63"))
    pines(canvas, mood, mix(green, from_hex("1F4B44"), 0.6), horizon + canvas.unit * 0.02, canvas.unit * 0.1, 0.45)
    shore = horizon + canvas.unit * 0.03
    water(canvas, mood, shore, canvas.height)
    mirror = mood.far(mix(green, from_hex("1F4B44"), 0.6), 0.3)
    canvas.paint(
        [rectangle(-2, shore, canvas.width + 2, shore + canvas.unit * 0.07)],
        mirror,
        alpha=0.4,
        soft=canvas.unit * 0.015,
    )
    bank(canvas, mood, mood.land(GRASS), canvas.height * 0.86)


def _meadow(canvas: Canvas, mood: Mood, horizon: float) -> None:
    colour, depth, unit = mood.land(GRASS), canvas.height - horizon, canvas.unit
    hill(canvas, mood, mix(colour, from_hex("5E88A8"), 0.4), horizon - unit * 0.04, unit * 0.05, 0.8, 2.2)
    hill(canvas, mood, colour, horizon + depth * 0.1, unit * 0.05, 0.5)
    bushes(canvas, mood, lift(colour, -0.25), horizon + depth * 0.16)
    hill(canvas, mood, turn(colour, hue=0.02), horizon + depth * 0.3, unit * 0.05, 0.25, 1.2)
    hill(canvas, mood, colour, horizon + depth * 0.55, unit * 0.035, 0.0, 0.9)
    if "snow" not in mood.weather:
        blossoms(canvas, mood, horizon + depth * 0.66, 14, unit * 0.009)
    grass(canvas, mood, colour)


def _garden(canvas: Canvas, mood: Mood, horizon: float) -> None:
    colour, depth, unit = mood.land(from_hex("78AB5A")), canvas.height - horizon, canvas.unit
    for level, distance in ((-0.04, 0.6), (0.08, 0.35)):
        hedge = ridge(canvas, horizon + depth * level, unit * 0.02, 6.0)
        tone = mood.far(lift(colour, -0.3), distance)
        canvas.paint([hedge], lift(tone, 0.2), tone)
    hill(canvas, mood, colour, horizon + depth * 0.24, unit * 0.015, 0.1, 1.0)
    path = [
        (canvas.width * 0.47, horizon + depth * 0.24),
        (canvas.width * 0.53, horizon + depth * 0.24),
        (canvas.width * 0.72, canvas.height + 2.0),
        (canvas.width * 0.3, canvas.height + 2.0),
    ]
    canvas.paint([path], mood.far(from_hex("E8CFA0"), 0.25), mood.far(from_hex("DDBB84"), 0))
    blossoms(canvas, mood, horizon + depth * 0.22, 46, unit * 0.02)


def _forest(canvas: Canvas, mood: Mood, horizon: float) -> None:
    colour, depth, unit = mood.land(from_hex("3F7A55")), canvas.height - horizon, canvas.unit
    pine = mix(colour, from_hex("1C4A43"), 0.5)
    for distance, level, size in ((0.82, 0.02, 0.34), (0.62, 0.1, 0.42), (0.4, 0.2, 0.5)):
        pines(canvas, mood, pine, horizon + depth * level, unit * size, distance)
        canvas.paint(
            [ridge(canvas, horizon + depth * level - unit * 0.035, unit * 0.02)], mood.far(colour, distance * 0.9)
        )
    hill(canvas, mood, lift(colour, 0.18), horizon + depth * 0.3, unit * 0.03, 0.12, 1.0)
    _trunks(canvas, mood, horizon + depth * 0.62)
    hill(canvas, mood, lift(colour, 0.08), horizon + depth * 0.55, unit * 0.025, 0.0, 0.8)
    grass(canvas, mood, colour)


def _trunks(canvas: Canvas, mood: Mood, foot: float) -> None:
    """Tall trunks that frame the picture on both sides."""
    unit, bark = canvas.unit, mood.far(from_hex("5A4338"), 0.05)
    for edge in (0.03, 0.11, 0.9, 0.98):
        x, width = (
            canvas.width * edge + canvas.rng.uniform(-0.015, 0.015) * unit,
            unit * canvas.rng.uniform(0.025, 0.045),
        )
        trunk = [
            (x - width * 0.6, -2.0),
            (x + width * 0.6, -2.0),
            (x + width, foot + unit * 0.1),
            (x - width, foot + unit * 0.1),
        ]
        canvas.paint([trunk], bark, lift(bark, -0.2), shade=0.3)
    leaf = mood.far(mix(mood.land(from_hex("3F7A55")), from_hex("1C4A43"), 0.3), 0.0)
    crowns = [
        oval(canvas.width * e, canvas.rng.uniform(-0.02, 0.09) * unit, unit * 0.15, unit * 0.1)
        for e in (0.0, 0.1, 0.2, 0.82, 0.92, 1.0)
    ]
    canvas.paint(crowns, leaf, lift(leaf, 0.12))


def _buildings(canvas: Canvas, mood: Mood, base: float, rise: float, distance: float) -> None:
    """Paint a row of buildings up to `rise` pixels tall, with lit windows when it is not far."""
    rng, unit = canvas.rng, canvas.unit
    tone = mood.far(mood.land(from_hex("5A6B8C")), distance)
    blocks: list[Path] = []
    panes: list[Path] = []
    x = -unit * 0.02
    while x < canvas.width:
        width, top = unit * rng.uniform(0.06, 0.13), base - rise * rng.uniform(0.35, 1.0)
        blocks.append(rectangle(x, top, x + width * 0.97, base + 2))
        crown = rng.randrange(4)
        if crown == 0:
            blocks.append([(x + width * 0.15, top), (x + width * 0.5, top - width * 0.6), (x + width * 0.82, top)])
        elif crown == 1:
            blocks += [
                rectangle(x + width * 0.2, top - width * 0.25, x + width * 0.75, top),
                rectangle(x + width * 0.46, top - width * 0.8, x + width * 0.51, top),
            ]
        if distance < 0.5 and unit >= 96:
            panes += _windows(canvas, x, top, width, base)
        x += width
    canvas.paint(blocks, lift(tone, 0.1), tone, mix(tone, mood.haze, 0.35))
    canvas.paint(panes, from_hex("FFDF8E") if mood.dark else lift(tone, 0.45), alpha=0.9 if mood.dark else 0.5)


def _windows(canvas: Canvas, x: float, top: float, width: float, base: float) -> list[Path]:
    cell = canvas.unit * 0.026
    columns, rows = max(1, int(width / cell) - 1), max(1, int((base - top) / cell) - 1)
    margin = (width * 0.97 - columns * cell) / 2
    return [
        rectangle(left, low, left + cell * 0.5, low + cell * 0.6)
        for row in range(rows)
        for column in range(columns)
        if canvas.rng.random() < 0.62
        for left, low in [(x + margin + (column + 0.25) * cell, top + (row + 0.7) * cell)]
    ]


def _city(canvas: Canvas, mood: Mood, horizon: float) -> None:
    unit, base = canvas.unit, horizon + canvas.unit * 0.1
    _buildings(canvas, mood, base, unit * 0.55, 0.8)
    _buildings(canvas, mood, base, unit * 0.44, 0.55)
    _buildings(canvas, mood, base, unit * 0.3, 0.22)
    street = mood.far(from_hex("6D7383"), 0.05)
    canvas.wash((lift(street, 0.25), street, lift(street, -0.25)), base)
    canvas.wash((mood.far(from_hex("C9BFB2"), 0.15), mood.far(from_hex("AFA597"), 0.05)), base, base + unit * 0.035)
    y = base + (canvas.height - base) * 0.55
    dashes = [
        rectangle(x, y, x + unit * 0.1, y + unit * 0.014)
        for x in (n * unit * 0.2 for n in range(int(canvas.width / unit * 5) + 1))
    ]
    canvas.paint(dashes, mood.far(from_hex("F3E3B5"), 0), alpha=0.8)


def _space(canvas: Canvas, mood: Mood, _horizon: float) -> None:
    rng, unit = canvas.rng, canvas.unit
    tint = mood.ground or mood.tints or (turn(from_hex("7A4FB5"), hue=rng.uniform(-0.12, 0.12)), from_hex("2F8FBE"))
    canvas.wash((from_hex("0A0B24"), mix(from_hex("141438"), tint[0], 0.2), from_hex("0D1030")))
    for n in range(7):
        x, y = rng.uniform(0, 1) * canvas.width, canvas.height * (0.15 + 0.1 * n)
        canvas.glow(x, y, unit * rng.uniform(0.3, 0.6), tint[n % len(tint)], 0.4, squash=0.7)
    draw_stars(canvas, canvas.height)
    x, y, r = canvas.width * (0.5 + canvas.light * 0.28), canvas.height * 0.24, unit * 0.12
    globe = turn(tint[0], hue=0.42)
    canvas.glow(x, y, r * 2, globe, 0.4)
    body = oval(x, y, r, r, sides=64)
    canvas.paint([body], lift(globe, 0.4), globe, lift(globe, -0.3), shade=0.8)
    for dy, tall in ((-0.4, 0.1), (0.1, 0.14), (0.5, 0.08)):
        canvas.paint([oval(x, y + dy * r, r * 1.2, r * tall, -12)], lift(globe, 0.3), alpha=0.45, within=body)
    rim = oval(x, y, r * 1.75, r * 0.36, -14, sides=72)
    half = [point for point in rim if point[1] - y > (point[0] - x) * -math.tan(math.radians(14))]
    half.sort()
    canvas.paint(stroke(half, r * 0.1), from_hex("F3DDB0"), alpha=0.9)


def _moonscape(canvas: Canvas, mood: Mood, horizon: float) -> None:
    """Space with ground to stand on."""
    _space(canvas, mood, horizon)
    colour, unit = from_hex("8C8AA8"), canvas.unit
    canvas.paint([ridge(canvas, canvas.height * 0.74, unit * 0.03)], lift(colour, 0.2), colour, lift(colour, -0.4))
    for _ in range(7):
        x, near = canvas.rng.uniform(0, canvas.width), canvas.rng.uniform(0.1, 1)
        y, size = canvas.height * (0.78 + 0.2 * near), unit * (0.02 + 0.06 * near)
        canvas.paint([oval(x, y, size, size * 0.36)], lift(colour, -0.4), alpha=0.7)
        canvas.paint([oval(x, y + size * 0.08, size * 0.9, size * 0.28)], lift(colour, -0.15), alpha=0.8)


def _beach(canvas: Canvas, mood: Mood, horizon: float) -> None:
    water(canvas, mood, horizon, canvas.height)
    sand, depth, unit = mood.land(from_hex("EDCF9A")), canvas.height - horizon, canvas.unit
    edge = ridge(canvas, horizon + depth * 0.52, unit * 0.035, 0.9)
    dry = mood.far(sand, 0)
    for rise, tone, alpha in (
        (0.05, WHITE, 0.45),
        (0.022, WHITE, 0.85),
        (0.0, lift(dry, -0.2), 1.0),
        (-0.05, dry, 1.0),
    ):
        shape = [(x, y - unit * rise) for x, y in edge[:-1]] + [(canvas.width + 2.0, canvas.height + 2.0)]
        canvas.paint([[(-2, canvas.height + 2), *shape[1:]]], lift(tone, 0.15), tone, lift(tone, -0.15), alpha=alpha)
    pebbles = [
        oval(
            canvas.rng.uniform(0, canvas.width),
            canvas.height * canvas.rng.uniform(0.86, 1),
            unit * 0.008,
            unit * 0.005,
            sides=12,
        )
        for _ in range(24)
    ]
    canvas.paint(pebbles, mood.far(lift(sand, -0.35), 0), alpha=0.6)


def _river(canvas: Canvas, mood: Mood, horizon: float) -> None:
    _meadow(canvas, mood, horizon)
    depth, unit = canvas.height - horizon, canvas.unit
    bends = [
        (0.62, 0.3, 0.006),
        (0.52, 0.38, 0.014),
        (0.58, 0.48, 0.03),
        (0.42, 0.62, 0.06),
        (0.5, 0.8, 0.12),
        (0.3, 1.05, 0.24),
    ]
    middle = [(canvas.width * x, horizon + depth * y, unit * w) for x, y, w in bends]
    left = smooth([(x - w, y) for x, y, w in middle], closed=False)
    right = smooth([(x + w, y) for x, y, w in middle], closed=False)
    banks = [
        *smooth([(x - w * 1.12, y) for x, y, w in middle], closed=False),
        *smooth([(x + w * 1.12, y) for x, y, w in middle], closed=False)[::-1],
    ]
    colour = mood.far(WATER, 0)
    canvas.paint([banks], mood.far(from_hex("D9C48F"), 0.1))
    canvas.paint([[*left, *right[::-1]]], mix(colour, mood.sky[2], 0.6), mix(colour, mood.sky[1], 0.4), colour)
    glints = [
        oval(x + canvas.rng.uniform(-0.5, 0.5) * w, y, w * 0.4, max(0.5, unit * 0.003))
        for x, y, w in middle[1:5]
        for _ in range(2)
    ]
    canvas.paint(glints, WHITE, alpha=0.5)


def _underwater(canvas: Canvas, mood: Mood, _horizon: float) -> None:
    rng, unit, water = canvas.rng, canvas.unit, mood.land(from_hex("2A8FB0"))
    canvas.wash((lift(water, 0.5), water, lift(water, -0.45), lift(water, -0.6)))
    for n in range(5):
        x, w = canvas.width * (0.1 + 0.2 * n), unit * rng.uniform(0.04, 0.1)
        ray = [
            (x, -2.0),
            (x + w, -2.0),
            (x + w * 3 - unit * 0.2, canvas.height * 0.85),
            (x - unit * 0.3, canvas.height * 0.85),
        ]
        canvas.paint([ray], WHITE, water, alpha=0.16, soft=unit * 0.012)
    canvas.paint([ridge(canvas, canvas.height * 0.84, unit * 0.03)], lift(water, -0.5), alpha=0.6)
    sand = mix(from_hex("E6C98E"), water, 0.3)
    canvas.paint([ridge(canvas, canvas.height * 0.9, unit * 0.02)], sand, lift(sand, -0.3))
    for colour in ("3E9C6B", "D9637A", "2E7F74"):
        weeds: list[Path] = []
        for _ in range(round(4 * min(4.0, canvas.width / unit))):
            x, tall = rng.uniform(0, canvas.width), unit * rng.uniform(0.14, 0.34)
            sway = [(x + math.sin(k * 0.9 + x) * unit * 0.018, canvas.height * 0.96 - tall * k / 7) for k in range(8)]
            weeds += stroke(smooth(sway, closed=False, steps=3), unit * 0.024, unit * 0.004)
        canvas.paint(weeds, mix(from_hex(colour), water, 0.25))
    bubbles = [
        oval(rng.uniform(0, canvas.width), rng.uniform(0.05, 0.8) * canvas.height, r, r)
        for r in (unit * rng.uniform(0.004, 0.014) for _ in range(22))
    ]
    canvas.paint(bubbles, WHITE, alpha=0.45)


def _room(canvas: Canvas, mood: Mood, _horizon: float) -> None:
    unit, edge = canvas.unit, canvas.height * 0.68
    wall = mood.tints[0] if mood.tints else mix(mood.sky[1], from_hex("EAD7BC"), 0.5)
    canvas.wash((lift(wall, -0.08), wall, lift(wall, 0.2)), 0, edge)
    x, y, w = canvas.width * (0.5 + canvas.light * 0.2) - unit * 0.22, canvas.height * 0.1, unit * 0.2
    for column in range(2):
        for row in range(2):
            left, top = x + column * w * 1.1, y + row * w * 1.1
            pane = [
                (left, top),
                (left + w, top + w * 0.1),
                (left + w * 0.94, top + w * 1.1),
                (left - w * 0.06, top + w),
            ]
            canvas.paint([pane], mood.sun, alpha=0.5, soft=unit * 0.008)
    wood = mood.ground[0] if mood.ground else from_hex("A9744A")
    tone = mood.far(wood, 0.02)
    canvas.wash((lift(tone, 0.25), tone, lift(tone, -0.25)), edge)
    canvas.wash((lift(tone, -0.35), lift(tone, -0.1)), edge, edge + unit * 0.012)
    grain: list[Path] = []
    for _ in range(9):
        gy = edge + (canvas.height - edge) * canvas.rng.uniform(0.12, 0.98)
        gx = canvas.rng.uniform(-0.1, 0.8) * canvas.width
        grain += stroke([(gx, gy), (gx + unit * 0.3, gy + unit * 0.004), (gx + unit * 0.6, gy)], unit * 0.004, 0.4)
    canvas.paint(grain, lift(tone, -0.4), alpha=0.3)


def _abstract(canvas: Canvas, mood: Mood, horizon: float) -> None:
    """Flowing bands in a few related colours: what a prompt without any place gets."""
    rng, unit = canvas.rng, canvas.unit
    base = mood.tints or (turn(from_hex("D9694F"), hue=rng.random()),)
    second = base[1] if len(base) > 1 else turn(base[0], hue=rng.choice((0.08, -0.1, 0.5 if not mood.tints else 0.05)))
    for n in range(7):
        t = n / 6
        colour = mix(mix(base[0], second, 0.85 * (n % 3) / 2), mood.haze, 0.6 * (1 - t))
        tone = lift(colour, 0.1 - 0.42 * t)
        shape = ridge(
            canvas,
            horizon - unit * 0.12 + (canvas.height - horizon + unit * 0.06) * t,
            unit * (0.06 + 0.05 * t),
            1.5 - 0.7 * t,
        )
        canvas.paint([[(x, y - unit * 0.006) for x, y in shape]], lift(tone, 0.5), alpha=0.7)
        canvas.paint([shape], lift(tone, 0.12), tone, lift(tone, -0.2))


PLACES: dict[str, Painter] = {
    "dunes": _dunes,
    "mountains": _mountains,
    "sea": _sea,
    "lake": _lake,
    "meadow": _meadow,
    "garden": _garden,
    "forest": _forest,
    "city": _city,
    "space": _space,
    "moonscape": _moonscape,
    "beach": _beach,
    "river": _river,
    "underwater": _underwater,
    "room": _room,
    "abstract": _abstract,
}
