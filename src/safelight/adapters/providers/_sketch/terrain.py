"""What places are made of: hills, peaks, trees, grass and water."""

import math

from safelight.adapters.providers._sketch.canvas import Canvas, Path, oval
from safelight.adapters.providers._sketch.colours import RGB, WHITE, from_hex, lift, mix, turn
from safelight.adapters.providers._sketch.moods import Mood

GRASS = from_hex("6FA356")
WATER = from_hex("2F7FA3")


def _steps(canvas: Canvas, per_unit: int) -> int:
    return max(6, min(160, round(per_unit * canvas.width / canvas.unit)))


def ridge(canvas: Canvas, y: float, rise: float, waves: float = 1.6) -> Path:
    """Trace a soft skyline across the picture around height `y`, `rise` pixels high, closed along the bottom."""
    phases = [canvas.rng.uniform(0, math.tau) for _ in range(3)]
    count = _steps(canvas, 28)
    line: Path = []
    for n in range(count + 1):
        x = canvas.width * n / count
        t = x / canvas.unit * waves * math.pi
        height = (
            0.6 * math.sin(t + phases[0]) + 0.28 * math.sin(2.3 * t + phases[1]) + 0.12 * math.sin(5.1 * t + phases[2])
        )
        line.append((x, y - rise * height))
    return [
        (-2, canvas.height + 2),
        (-2, line[0][1]),
        *line,
        (canvas.width + 2, line[-1][1]),
        (canvas.width + 2, canvas.height + 2),
    ]


def hill(canvas: Canvas, mood: Mood, colour: RGB, y: float, rise: float, distance: float, waves: float = 1.6) -> Path:
    shape = ridge(canvas, y, rise, waves)
    near = mood.far(colour, distance)
    canvas.paint([shape], lift(near, 0.16), near, lift(near, -0.22))
    return shape


def mountain(canvas: Canvas, mood: Mood, colour: RGB, x: float, top: float, half: float, base: float) -> None:
    """One peak with a snow cap; its side away from the light lies in shadow beyond a jagged spine."""
    rng, height, side = canvas.rng, base - top, -canvas.light
    steps = [(n / 6, rng.uniform(-0.05, 0.05) * (n < 6)) for n in range(1, 7)]
    left = [(x - half * (t + jag), top + height * t**0.9) for t, jag in steps]
    right = [(x + half * (t - jag * 0.8), top + height * t**0.9) for t, jag in steps]
    body = [*left[::-1], (x, top), *right]
    canvas.paint([body], lift(colour, 0.14), colour, mix(colour, mood.haze, 0.5))
    teeth = [
        (x + half * (n / 5 - 1), top + height * (0.27 + (0.12 if n % 2 else -0.02) + rng.uniform(-0.02, 0.04)))
        for n in range(11)
    ]
    snow = mix(WHITE, mood.haze, 0.12)
    canvas.paint([[(x + half, top - 2), (x - half, top - 2), *teeth]], snow, within=body)
    spine = [(x + rng.uniform(0.0, 0.1) * half * side * (1 + 2 * (n % 2)), top + height * n / 6) for n in range(1, 7)]
    shadow = mix(from_hex("3A4678"), mood.sky[0], 0.4)
    canvas.paint([[(x, top), *spine, *(right if side > 0 else left)[::-1]]], shadow, alpha=0.5, within=body)


def peaks(canvas: Canvas, mood: Mood, horizon: float) -> None:
    """Paint a range far away, and its great peaks before it."""
    colour = mood.land(from_hex("6C7C96")) if mood.ground or mood.tints else from_hex("6C7C96")
    unit, rng = canvas.unit, canvas.rng
    hill(canvas, mood, colour, horizon - unit * 0.1, unit * 0.06, 0.85, 3.2)
    count = max(3, round(canvas.width / unit * 3.2))
    for n in sorted(range(count), key=lambda n: n % 2):
        x = canvas.width * (n + rng.uniform(0.25, 0.75)) / count
        rise = unit * rng.uniform(0.2, 0.3) if n % 2 == 0 else unit * rng.uniform(0.3, 0.42)
        mountain(
            canvas,
            mood,
            mood.far(colour, 0.38 if n % 2 else 0.2),
            x,
            horizon - rise,
            rise * 1.15,
            horizon + unit * 0.08,
        )


def pines(canvas: Canvas, mood: Mood, colour: RGB, y: float, size: float, distance: float) -> None:
    """Paint a row of firs that stand around height `y`, `size` pixels tall."""
    rng, shapes = canvas.rng, []
    count = min(90, max(3, round(canvas.width / size * 2.6)))
    for n in range(count):
        x, foot = canvas.width * (n + rng.random()) / count, y + rng.uniform(-0.06, 0.12) * size
        tall = size * rng.uniform(0.6, 1.1)
        tree = [(x, foot - tall)]
        tiers = [(0.10, 0.66), (0.05, 0.66), (0.15, 0.42), (0.08, 0.42), (0.20, 0.16), (0.10, 0.16), (0.24, -0.06)]
        tree += [(x + w * tall, foot - h * tall) for w, h in tiers]
        tree += [(x - w * tall, foot - h * tall) for w, h in reversed(tiers)]
        shapes.append(tree)
    tone = mood.far(colour, distance)
    canvas.paint(shapes, lift(tone, 0.12), tone, mix(tone, mood.haze, 0.35))


def water(canvas: Canvas, mood: Mood, top: float, bottom: float) -> None:
    """Open water between two heights: sky's reflection, a path of light, and waves that grow towards the viewer."""
    rng, unit, depth = canvas.rng, canvas.unit, bottom - top
    colour = mood.far(mood.land(WATER) if "snow" not in mood.weather else WATER, 0)
    canvas.wash((mix(colour, mood.sky[2], 0.6), mix(colour, mood.sky[1], 0.3), lift(colour, -0.3)), top, bottom)
    for tone, count, alpha in ((lift(colour, 0.35), 26, 0.35), (lift(colour, -0.4), 20, 0.28)):
        waves = []
        for _ in range(round(count * min(4.0, max(1.0, canvas.width / unit)) * min(1.0, 0.3 + unit / 500))):
            near = rng.random()
            size = unit * (0.03 + 0.16 * near) * rng.uniform(0.6, 1.3)
            y = top + depth * near
            waves.append(
                oval(rng.uniform(0, canvas.width), y, size, max(0.5, unit * (0.0015 + 0.005 * near)), sides=20)
            )
        canvas.paint(waves, tone, alpha=alpha)
    x = canvas.width * (0.5 + canvas.light * 0.23)
    glints = [
        oval(
            x + rng.uniform(-1, 1) * unit * (0.02 + 0.1 * t),
            top + depth * t,
            unit * (0.05 + 0.05 * t) * rng.uniform(0.4, 1.2),
            max(0.5, unit * 0.004),
            sides=16,
        )
        for t in (n / 18 for n in range(1, 19))
    ]
    canvas.paint(glints, lift(mood.sun, 0.2), alpha=0.6)


def bank(canvas: Canvas, mood: Mood, colour: RGB, y: float) -> None:
    """Paint the near shore, with grass, on which a subject can stand."""
    hill(canvas, mood, colour, y, canvas.unit * 0.025, 0.0, 1.1)
    grass(canvas, mood, colour)


def grass(canvas: Canvas, mood: Mood, colour: RGB) -> None:
    rng, unit = canvas.rng, canvas.unit
    if "snow" in mood.weather or unit < 100:
        return
    count = round(46 * min(4.0, canvas.width / unit))
    for tone, alpha in ((lift(mood.far(colour, 0), -0.35), 0.7), (lift(mood.far(colour, 0), 0.2), 0.6)):
        blades = []
        for _ in range(count):
            x, y, tall = (
                rng.uniform(0, canvas.width),
                canvas.height * rng.uniform(0.93, 1.03),
                unit * rng.uniform(0.03, 0.075),
            )
            lean = rng.uniform(-0.35, 0.35) * tall
            blades.append(
                [
                    (x - tall * 0.07, y),
                    (x + lean * 0.4 - tall * 0.04, y - tall * 0.6),
                    (x + lean, y - tall),
                    (x + lean * 0.4 + tall * 0.04, y - tall * 0.6),
                    (x + tall * 0.07, y),
                ]
            )
        canvas.paint(blades, tone, alpha=alpha)


def blossoms(canvas: Canvas, mood: Mood, top: float, count: int, size: float) -> None:
    """Small flowers, larger towards the viewer."""
    rng = canvas.rng
    first = mood.tints[0] if mood.tints else turn(from_hex("E9607F"), hue=rng.random())
    for colour in (first, from_hex("FFF3D6"), turn(first, hue=0.12)):
        petals, hearts = [], []
        for _ in range(round(count * min(3.0, canvas.width / canvas.unit) * min(1.0, canvas.unit / 250))):
            near = rng.random()
            x, y, r = rng.uniform(0, canvas.width), top + (canvas.height - top) * near, size * (0.35 + 0.65 * near)
            petals += [
                oval(x + r * math.cos(a), y + r * 0.8 * math.sin(a), r * 0.7, r * 0.6, sides=10)
                for a in (0.3, 1.56, 2.8, 4.1, 5.3)
            ]
            hearts.append(oval(x, y, r * 0.5, r * 0.45, sides=10))
        canvas.paint(petals, mood.far(colour, 0.05))
        canvas.paint(hearts, from_hex("F2B53E"))


def bushes(canvas: Canvas, mood: Mood, colour: RGB, y: float) -> None:
    rng, unit = canvas.rng, canvas.unit
    crowns = []
    for _ in range(round(5 * min(4.0, canvas.width / unit))):
        x, size = rng.uniform(0, canvas.width), unit * rng.uniform(0.02, 0.05)
        crowns += [
            oval(x + dx * size, y - dy * size, size * r, size * r)
            for dx, dy, r in ((0, 0.8, 0.9), (-0.8, 0.3, 0.7), (0.8, 0.3, 0.7))
        ]
    tone = mood.far(colour, 0.4)
    canvas.paint(crowns, lift(tone, 0.18), tone, lift(tone, -0.1))
