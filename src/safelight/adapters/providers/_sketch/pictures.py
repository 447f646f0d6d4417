"""Draws whole pictures: a place under a sky, its subjects, and the style."""

import hashlib
import math
import random
from dataclasses import replace

from PIL import Image

from safelight.adapters.providers._sketch.canvas import Canvas, oval, radial
from safelight.adapters.providers._sketch.colours import RGB, SHADOW
from safelight.adapters.providers._sketch.moods import Mood, mood_for
from safelight.adapters.providers._sketch.places import PLACES
from safelight.adapters.providers._sketch.skies import add_grain, draw_sky, draw_weather, finish_light
from safelight.adapters.providers._sketch.styles import STYLES
from safelight.adapters.providers._sketch.subjects import KINDS, Kind, colours_for, draw_subject
from safelight.adapters.providers._sketch.words import Scene, Subject, read

_MOST_PIXELS = 1_600_000  # a larger picture is drawn at this size and enlarged, to bound time and memory
_MOST_THINGS = 8
_SIZES = (0.86, 0.72, 0.6, 0.52, 0.46, 0.42, 0.38)  # of each of two things, of three, …
_PLAIN_PLACES = ("meadow", "mountains", "dunes", "lake", "sea")
_UNNAMED_PLACES = ("abstract", "abstract", "abstract", *_PLAIN_PLACES)
_LEVELS = {"ground": 0.86, "water": 0.8, "sky": 0.5, "middle": 0.72}  # where a subject's foot is, from the top
_WET = frozenset({"sea", "lake", "river", "beach"})


def draw(*, prompt: str, width: int, height: int, seed: int, transparent: bool = False) -> Image.Image:
    """Draw the prompt, `width` by `height` pixels. Mode RGB, or RGBA without a background if `transparent`.

    A transparent picture keeps the prompt's subjects alone; without any subject, the scene as a round vignette.
    """
    scene = read(prompt)
    number = seed_number(seed, prompt)
    size = working_size(width, height)
    if transparent and scene.subjects:
        image = cut_out(scene, size, number)
    else:
        image = scenery(scene, size, number)
        if transparent:
            image.putalpha(_vignette(size))
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


def working_size(width: int, height: int) -> tuple[int, int]:
    """Bound the size at which a picture is drawn before it is enlarged."""
    scale = min(1.0, math.sqrt(_MOST_PIXELS / (width * height)))
    return max(1, round(width * scale)), max(1, round(height * scale))


def seed_number(seed: int, prompt: str) -> int:
    """Derive a number for `random.Random`, the same in every process."""
    text = f"{seed} {prompt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def scenery(scene: Scene, size: tuple[int, int], number: int) -> Image.Image:
    """Paint the whole picture in mode RGB: sky, place, subjects, weather, light and style."""
    canvas = Canvas(*size, seed=number)
    canvas.light = canvas.rng.choice((-1.0, 1.0))
    mood = mood_for(scene, canvas.rng)
    place = _place(scene, canvas.rng)
    horizon = (
        canvas.height * (0.56 if place in {"sea", "lake", "beach"} else 0.6)
        + canvas.rng.uniform(-0.02, 0.02) * canvas.unit
    )
    if place not in {"space", "moonscape", "underwater", "room"}:
        draw_sky(canvas, mood, horizon)
    PLACES[place](canvas, mood, horizon)
    _subjects(canvas, mood, scene.subjects, place)
    draw_weather(canvas, mood)
    finish_light(canvas, mood.sun)
    return _styled(canvas.finish(), canvas, scene.styles)


def _styled(image: Image.Image, canvas: Canvas, styles: tuple[str, ...]) -> Image.Image:
    named = [STYLES[style] for style in styles if style in STYLES]
    for style in named:
        image = style(image, canvas.rng)
    return image if named else add_grain(image, canvas, strength=3)


def _place(scene: Scene, rng: random.Random) -> str:
    """Choose the place asked for, else where the first subject is at home, else one that suits the words."""
    place = scene.place
    if place is None and scene.subjects:
        place = KINDS[scene.subjects[0].kind].home
    if place == "space" and any(KINDS[subject.kind].stands == "ground" for subject in scene.subjects):
        return "moonscape"
    if place is None:
        place = rng.choice(_PLAIN_PLACES if scene.time or scene.weather else _UNNAMED_PLACES)
    return place


def _things(subjects: tuple[Subject, ...]) -> list[Subject]:
    """List every single thing to draw."""
    return [subject for subject in subjects for _ in range(subject.count)][:_MOST_THINGS]


def _slots(subjects: tuple[Subject, ...], rng: random.Random) -> list[tuple[Subject, float, float]]:
    """Give every single thing its place across the picture (0 to 1), and its size in proportion to one alone."""
    things = _things(subjects)
    count = len(things)
    if count < 2:
        return [(thing, rng.choice((0.44, 0.5, 0.56)), 1.0) for thing in things]
    scale = _SIZES[count - 2]
    return [
        (thing, 0.5 + (n - (count - 1) / 2) * min(0.34, 0.8 / count) + rng.uniform(-0.015, 0.015), scale)
        for n, thing in enumerate(things)
    ]


def _footing(kind: Kind, place: str) -> str:
    """Choose what a subject stands on or hangs in, one of `_LEVELS`, at this place."""
    if place in {"underwater", "space"}:
        return "middle"
    return "ground" if kind.stands == "water" and place not in _WET else kind.stands


def _subjects(canvas: Canvas, mood: Mood, subjects: tuple[Subject, ...], place: str) -> None:
    for n, (subject, across, scale) in enumerate(_slots(subjects, canvas.rng)):
        kind = KINDS[subject.kind]
        stands = _footing(kind, place)
        height = canvas.unit * kind.size * scale * canvas.rng.uniform(1.02, 1.1)
        floating = stands in {"sky", "middle"}
        x = canvas.width * 0.5 + (across - 0.5) * min(canvas.width, canvas.unit * 1.9)
        y = canvas.height * _LEVELS[stands] + canvas.unit * (n % 2) * (-0.1 if floating else 0.03)
        tilt = canvas.rng.uniform(-9, 9) if floating and subject.kind != "heart" else 0.0
        flip = canvas.rng.random() < 0.5
        roles = colours_for(subject.colours, kind, mood.ambient)
        if stands == "water":
            _reflection(canvas, roles["base"], x, y, height)
        elif not floating:
            foot = oval(x - canvas.light * height * 0.1, y, height * 0.36, height * 0.055)
            canvas.paint([foot], SHADOW, alpha=0.34, soft=height * 0.02)
        draw_subject(canvas, subject.kind, roles, x=x, y=y, height=height, flip=flip, tilt=tilt)


def _reflection(canvas: Canvas, colour: RGB, x: float, y: float, height: float) -> None:
    strips = [
        oval(
            x + canvas.rng.uniform(-0.05, 0.05) * height,
            y + height * (0.05 + 0.045 * n),
            height * (0.42 - 0.05 * n),
            height * 0.013,
        )
        for n in range(7)
    ]
    canvas.paint(strips, colour, alpha=0.4)
    canvas.paint(strips[:2], SHADOW, alpha=0.35)


def cut_out(scene: Scene, size: tuple[int, int], number: int) -> Image.Image:
    """Draw the scene's subjects alone, as large as the size allows; mode RGBA, without a background."""
    canvas = Canvas(*size, seed=number, clear=True)
    mood = mood_for(replace(scene, time="day", weather=frozenset()), canvas.rng)
    _stage(canvas, mood, scene.subjects)
    image = canvas.finish()
    for style in scene.styles:
        if style in STYLES:
            alpha = image.getchannel("A")
            image = STYLES[style](image.convert("RGB"), canvas.rng)
            image.putalpha(alpha)
    return image


def _stage(canvas: Canvas, mood: Mood, subjects: tuple[Subject, ...]) -> None:
    """Subjects alone, side by side in the middle of the canvas and as large as it allows."""
    things = _things(subjects)
    cell = min(canvas.width / len(things), canvas.unit)
    height = min(canvas.height, cell) * 0.82
    for n, subject in enumerate(things):
        x = canvas.width * 0.5 + (n - (len(things) - 1) / 2) * cell
        roles = colours_for(subject.colours, KINDS[subject.kind], mood.ambient)
        draw_subject(canvas, subject.kind, roles, x=x, y=canvas.height * 0.5 + height * 0.52, height=height)


def _vignette(size: tuple[int, int]) -> Image.Image:
    """Mode L: an ellipse with a soft edge."""
    return radial(tuple(min(255, max(0, (176 - level) * 12)) for level in range(256))).resize(
        size, Image.Resampling.BILINEAR
    )
