"""Sky and weather: what hangs behind a place, and what falls in front of it."""

import math
import random

from PIL import Image, ImageChops

from safelight.adapters.providers._sketch.canvas import Canvas, Path, noise, oval, radial, smooth, stroke
from safelight.adapters.providers._sketch.colours import RGB, WHITE, from_hex, lift, mix
from safelight.adapters.providers._sketch.moods import Mood

_RAINBOW = ("E4574E", "F09A45", "F5D657", "6DB56B", "4C8CC9", "8360B0")


def draw_sky(canvas: Canvas, mood: Mood, horizon: float) -> None:
    """Everything above `horizon` (pixels from the top), back to front."""
    canvas.wash(mood.sky, 0, horizon + canvas.unit * 0.05)
    overcast = bool(mood.weather & {"storm", "rain", "clouds"})
    if "stars" in mood.weather or (mood.dark and not overcast):
        draw_stars(canvas, horizon)
    if "aurora" in mood.weather:
        _aurora(canvas, horizon)
    if not overcast or mood.weather & {"sun", "moon"}:
        _sun_or_moon(canvas, mood, horizon)
    if "rainbow" in mood.weather:
        _rainbow(canvas, horizon)
    _clouds(canvas, mood, horizon, heavy=overcast)
    if "storm" in mood.weather:
        _lightning(canvas, horizon)


def draw_stars(canvas: Canvas, depth: float) -> None:
    rng, unit = canvas.rng, canvas.unit
    count = int(min(220, 12 + canvas.width * depth / unit**2 * 130 * min(1.0, unit / 400)))
    places = [(rng.uniform(0, canvas.width), depth * rng.random() ** 1.4) for _ in range(count)]
    dots = [oval(x, y, r, r, sides=8) for x, y in places for r in [max(0.4, unit * 0.0009) * rng.uniform(0.6, 2.2)]]
    canvas.paint(dots[::2], from_hex("FFF6DC"), alpha=0.95)
    canvas.paint(dots[1::2], from_hex("C8D6FF"), alpha=0.6)
    for x, y in places[:5]:
        arm = unit * 0.012
        thin = arm * 0.13
        spark = [(x, y - arm), (x + thin, y - thin), (x + arm, y), (x + thin, y + thin)]
        spark += [(x, y + arm), (x - thin, y + thin), (x - arm, y), (x - thin, y - thin)]
        canvas.glow(x, y, arm * 2, from_hex("E8EEFF"), 0.5)
        canvas.paint([spark], WHITE)


def _sun_or_moon(canvas: Canvas, mood: Mood, horizon: float) -> None:
    low = mood.sky[2][0] > 245 and not mood.dark
    asked = bool(mood.weather & {"sun", "moon"})
    x = canvas.width * (0.5 - canvas.light * -canvas.rng.uniform(0.16, 0.3))
    y = horizon * (canvas.rng.uniform(0.68, 0.82) if low else canvas.rng.uniform(0.22, 0.34))
    radius = canvas.unit * (0.12 if asked else 0.075)
    canvas.glow(x, y, radius * 7, mood.sun, 0.55)
    canvas.glow(x, y, radius * 2.6, mood.sun, 0.6)
    canvas.paint([oval(x, y, radius, radius, sides=64)], lift(mood.sun, 0.3), mood.sun)
    if mood.dark or "moon" in mood.weather:
        for dx, dy, size in ((-0.3, -0.25, 0.24), (0.35, 0.1, 0.17), (-0.1, 0.45, 0.14), (0.2, -0.5, 0.1)):
            spot = oval(x + dx * radius, y + dy * radius, size * radius, size * radius)
            canvas.paint([spot], mix(mood.sun, mood.sky[1], 0.5), alpha=0.35)


def _aurora(canvas: Canvas, horizon: float) -> None:
    for colour, base in (("4FE3A4", 0.5), ("58C6E8", 0.38), ("B37BEA", 0.28)):
        phase = canvas.rng.uniform(0, math.tau)
        crest = [
            (canvas.width * n / 24, horizon * (base + 0.1 * math.sin(n * 0.55 + phase) + 0.05 * math.sin(n * 1.3)))
            for n in range(-1, 26)
        ]
        for rise, alpha in ((0.42, 0.14), (0.26, 0.2), (0.1, 0.3)):
            band = [*crest, *((x, y - horizon * rise) for x, y in reversed(crest))]
            canvas.paint([band], from_hex(colour), alpha=alpha, soft=canvas.unit * 0.02)


def _rainbow(canvas: Canvas, horizon: float) -> None:
    cx, radius, width = canvas.width * 0.5, min(canvas.width * 0.46, horizon * 1.1), canvas.unit * 0.02
    arc = [math.pi * (1 + n / 40) for n in range(41)]
    for index, colour in enumerate(_RAINBOW):
        outer, inner = radius - index * width, radius - (index + 1.1) * width
        band = [(cx + outer * math.cos(a), horizon * 1.1 + outer * math.sin(a)) for a in arc]
        band += [(cx + inner * math.cos(a), horizon * 1.1 + inner * math.sin(a)) for a in reversed(arc)]
        canvas.paint([band], from_hex(colour), alpha=0.5)


def _cloud(rng: random.Random, x: float, y: float, size: float) -> list[Path]:
    """Pile up a flat-bottomed heap of puffs around (x, y), `size` pixels wide."""
    puffs = [oval(x, y, size * 0.5, size * 0.07)]
    for n in range(5):
        along = (n - 2) / 2
        radius = size * (0.17 - 0.055 * abs(along)) * rng.uniform(0.8, 1.2)
        puffs.append(oval(x + along * size * 0.32, y - radius * 0.55, radius * 1.1, radius))
    return puffs


def _clouds(canvas: Canvas, mood: Mood, horizon: float, *, heavy: bool) -> None:
    count = round((7 if heavy else 3) * min(3.0, max(1.0, canvas.width / canvas.unit)))
    colour = mix(mood.sky[1], mood.sun, 0.62 if not mood.dark else 0.12)
    if heavy:
        colour = mix(mood.sky[0], WHITE, 0.12)
    for _ in range(count):
        x, y = canvas.rng.uniform(-0.05, 1.05) * canvas.width, canvas.rng.uniform(0.1, 0.72) * horizon
        size = canvas.unit * canvas.rng.uniform(0.22, 0.46) * (1.5 if heavy else 1.0)
        puffs = _cloud(canvas.rng, x, y, size)
        canvas.paint(puffs, lift(colour, 0.25), colour, mix(colour, mood.sky[1], 0.6), alpha=0.85 if heavy else 0.72)


def _lightning(canvas: Canvas, horizon: float) -> None:
    x, y = canvas.width * canvas.rng.uniform(0.25, 0.75), horizon * 0.18
    bolt = [(x, y)]
    while y < horizon * 0.95:
        x += canvas.rng.uniform(-0.06, 0.06) * canvas.unit
        y += horizon * canvas.rng.uniform(0.06, 0.14)
        bolt.append((x, y))
    canvas.glow(bolt[0][0], horizon * 0.4, canvas.unit * 0.6, from_hex("DCE4FF"), 0.5)
    canvas.paint(stroke(bolt, canvas.unit * 0.014, canvas.unit * 0.003), from_hex("FFF7D6"))


def draw_weather(canvas: Canvas, mood: Mood) -> None:
    """Draw what falls and drifts in front of the scene."""
    if "fog" in mood.weather:
        _fog(canvas, mood)
    if mood.weather & {"rain", "storm"}:
        _rain(canvas)
    if "snow" in mood.weather:
        _flakes(canvas)
    if "autumn" in mood.weather:
        _leaves(canvas)


def _fog(canvas: Canvas, mood: Mood) -> None:
    for level, alpha in ((0.5, 0.34), (0.66, 0.3), (0.82, 0.3)):
        y = canvas.height * level
        bank = [(canvas.width * n / 8, y + canvas.unit * canvas.rng.uniform(-0.05, 0.05)) for n in range(-1, 10)]
        band = [
            *smooth(bank, closed=False),
            *smooth([(x, y + canvas.unit * 0.17) for x, y in bank[::-1]], closed=False),
        ]
        canvas.paint([band], mix(mood.haze, WHITE, 0.4), alpha=alpha, soft=canvas.unit * 0.03)


def _scatter(canvas: Canvas, count: int) -> list[tuple[float, float]]:
    """Points all over the picture; `count` for a square, in proportion for others, fewer if it is tiny."""
    spread = canvas.width * canvas.height / canvas.unit**2 * min(1.0, canvas.unit / 300)
    total = int(min(600, count * spread))
    return [(canvas.rng.uniform(0, canvas.width), canvas.rng.uniform(0, canvas.height)) for _ in range(total)]


def _rain(canvas: Canvas) -> None:
    unit = canvas.unit
    drops = []
    for x, y in _scatter(canvas, 240):
        length, width = unit * canvas.rng.uniform(0.02, 0.06), max(0.5, unit * 0.0022)
        drops.append([(x, y), (x + width, y), (x - length * 0.24 + width, y + length), (x - length * 0.24, y + length)])
    canvas.paint(drops, from_hex("E6EFF6"), alpha=0.5)


def _flakes(canvas: Canvas) -> None:
    for share, alpha, soft in ((0.6, 0.95, 0.0), (1.5, 0.7, 0.003)):
        size = max(0.6, canvas.unit * 0.006 * share)
        flakes = [
            oval(x, y, r, r, sides=12) for x, y in _scatter(canvas, 110) for r in [size * canvas.rng.uniform(0.5, 1.3)]
        ]
        canvas.paint(flakes, WHITE, alpha=alpha, soft=canvas.unit * soft)


def _leaves(canvas: Canvas) -> None:
    spots = _scatter(canvas, 36)
    for n, colour in enumerate(("D9642C", "E9A23B", "B5432E")):
        size = canvas.unit * 0.014
        leaves = [oval(x, y, size, size * 0.45, canvas.rng.uniform(0, 180), sides=12) for x, y in spots[n::3]]
        canvas.paint(leaves, from_hex(colour))


def finish_light(canvas: Canvas, sun: RGB) -> None:
    """Lay a warm veil from the light's side and darken the corners slightly, to hold the picture together."""
    canvas.glow(canvas.width * (0.5 + canvas.light * 0.5), 0, max(canvas.width, canvas.height) * 0.8, sun, 0.16)
    corner = radial(tuple(max(0, level - 150) * 56 // 105 for level in range(256)))
    mask = corner.resize(canvas.image.size, Image.Resampling.BILINEAR)
    canvas.image.paste((30, 18, 50), (0, 0, *canvas.image.size), mask)


def add_grain(image: Image.Image, canvas: Canvas, strength: int) -> Image.Image:
    """Paper grain: even noise of ± `strength` levels, the same in all three colours."""
    levels = [128 + round((v - 128) / 128 * strength) for v in range(256)]
    grain = noise(*image.size, canvas.rng).point(levels)
    return ImageChops.add(image, Image.merge("RGB", (grain, grain, grain)), 1, -128)
