"""Changes to a picture that is there already: edits, inside a mask or all over, and variations.

Working memory is a few copies of the picture. Results are RGB, or RGBA if the picture has transparency.
"""

import random
from dataclasses import replace
from typing import TypeAlias

from PIL import Image, ImageChops, ImageFilter

from safelight.adapters.providers._sketch.canvas import faded, gradient, noise
from safelight.adapters.providers._sketch.moods import mood_for
from safelight.adapters.providers._sketch.pictures import cut_out, draw, scenery, seed_number, working_size
from safelight.adapters.providers._sketch.styles import STYLES
from safelight.adapters.providers._sketch.words import Scene, read

Corners: TypeAlias = tuple[int, int, int, int, int, int, int, int]
Box: TypeAlias = tuple[int, int, int, int]

_CELLS = 6
_STRIP = 256  # rows
_FILL_SIDE = 512  # pixels; a filled-in ground is soft, so it is made no finer than this
_SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N"}


def edit(*, image: Image.Image, mask: Image.Image | None, prompt: str, seed: int) -> Image.Image:
    """Paint the prompt into the picture where the mask allows it; every other pixel stays as it is.

    A mask with an alpha channel marks what to change by transparency (alpha 0 changes, 255 keeps, between blends).
    A mask without one marks it in white (255 changes, 0 keeps). Without a mask, the prompt is painted over the
    whole picture so that its composition shows through. Raises `ValueError` if the sizes differ.
    """
    plain = _plain(image)
    if mask is None:
        return _overpaint(plain, prompt, seed)
    if mask.size != image.size:
        raise ValueError(f"the mask is {mask.width}x{mask.height}, the image {image.width}x{image.height}")
    change = _change(mask)
    box = change.getbbox()
    if box is None:
        return plain
    patch = _patch(plain, change, box, prompt, seed).convert(plain.mode)
    plain.paste(patch, box, change.crop(box))
    return plain


def vary(*, image: Image.Image, seed: int) -> Image.Image:
    """Paint the same subject again: its palette shifted, gently warped, with a brush's texture. Same size."""
    rng = random.Random(seed_number(seed, "vary"))
    painted = _plain(image)
    mesh, palette = _mesh(painted.size, rng), _palette(rng)
    painted = painted.transform(painted.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)
    alpha = painted.getchannel("A") if painted.mode == "RGBA" else None
    painted = painted.convert("RGB").filter(ImageFilter.GaussianBlur(min(painted.size) / 400))
    streaks = _streaks(painted.size, rng)
    for top in range(0, painted.height, _STRIP):  # in strips, as each step copies what it works on
        strip = (0, top, painted.width, min(painted.height, top + _STRIP))
        shifted = painted.crop(strip).convert("HSV").point(palette).convert("RGB")
        painted.paste(ImageChops.soft_light(shifted, Image.merge("RGB", [streaks.crop(strip)] * 3)), strip)
    if alpha is not None:
        painted.putalpha(alpha)
    return painted


def _plain(image: Image.Image) -> Image.Image:
    """Copy in mode RGB or RGBA, without metadata."""
    if image.mode in _SIXTEEN_BIT:
        image = image.convert("I").point(lambda level: level * (1 / 256)).convert("L")
    plain = image.convert("RGBA" if image.has_transparency_data else "RGB")
    plain = image.copy() if plain is image else plain
    plain.info.clear()
    return plain


def _change(mask: Image.Image) -> Image.Image:
    """Mode L: how much of each pixel may change, 0 to 255."""
    if mask.has_transparency_data:
        return ImageChops.invert(mask.convert("RGBA").getchannel("A"))
    return mask.convert("L")


def _patch(image: Image.Image, change: Image.Image, box: Box, prompt: str, seed: int) -> Image.Image:
    """Make new content for the box: the prompt's subjects on a filled-in ground, or a whole scene if it names one."""
    scene, size = read(prompt), (box[2] - box[0], box[3] - box[1])
    if not scene.subjects or scene.place or scene.time:
        return draw(prompt=prompt, width=size[0], height=size[1], seed=seed)
    ground = _filled(image, change, box)
    style = next((STYLES[name] for name in scene.styles if name in STYLES), None)
    if style is not None:
        ground = style(ground, random.Random(seed_number(seed, prompt)))
    subjects = cut_out(scene, size, seed_number(seed, prompt))
    ground.paste(subjects, (0, 0), subjects)
    return ground


def _filled(image: Image.Image, change: Image.Image, box: Box) -> Image.Image:
    """Cut out the box, its surroundings' colours grown into the part to change, from coarse to fine (mode RGB)."""
    margin = 8 + max(box[2] - box[0], box[3] - box[1]) // 8
    left, top = max(0, box[0] - margin), max(0, box[1] - margin)
    around = (left, top, min(image.width, box[2] + margin), min(image.height, box[3] + margin))
    coarser = max(1, max(around[2] - left, around[3] - top) // _FILL_SIDE)
    near, keep = image.crop(around).convert("RGB").reduce(coarser), ImageChops.invert(change.crop(around))
    grown = _grown(near, keep.reduce(coarser))
    inner = tuple((edge - (left, top)[n % 2]) / coarser for n, edge in enumerate(box))
    size = (box[2] - box[0], box[3] - box[1])
    return grown.resize(size, Image.Resampling.BICUBIC, box=(inner[0], inner[1], inner[2], inner[3]))


def _grown(image: Image.Image, keep: Image.Image) -> Image.Image:
    """Keep the picture where `keep` (mode L) is white; elsewhere, paint what its surroundings suggest."""
    levels = [(Image.composite(image, Image.new("RGB", image.size), keep), keep)]
    while min(levels[-1][0].size) > 2:
        levels.append((levels[-1][0].reduce(2), levels[-1][1].reduce(2)))
    grown = levels[-1][0].resize((1, 1), Image.Resampling.BOX)
    for weighted, weight in reversed(levels):
        known = _divided(weighted, weight)
        grown = grown.resize(weighted.size, Image.Resampling.BICUBIC)
        grown = Image.composite(known, grown, weight.point([min(255, level * 4) for level in range(256)]))
    return Image.composite(image, grown.filter(ImageFilter.GaussianBlur(min(image.size) / 80)), keep)


def _divided(weighted: Image.Image, weight: Image.Image) -> Image.Image:
    """Undo the darkening of averages that counted unknown pixels as black."""
    merged = Image.merge("RGBA", (*weighted.split(), weight))
    return Image.frombytes("RGBa", merged.size, merged.tobytes()).convert("RGBA").convert("RGB")


def _overpaint(image: Image.Image, prompt: str, seed: int) -> Image.Image:
    """Put the picture in the prompt's light and, if it names one, its place; then add its subjects and style."""
    scene, number = read(prompt), seed_number(seed, prompt)
    named = [STYLES[style] for style in scene.styles if style in STYLES]
    painted = image if image.mode == "RGB" else image.convert("RGB")
    if not named or scene.time or scene.place or scene.tints:
        painted = _relit(painted, replace(scene, styles=()), number)
    if scene.subjects:
        size = (max(1, image.width * 2 // 3), max(1, image.height * 2 // 3))
        subjects = cut_out(replace(scene, styles=()), size, number)
        painted.paste(subjects, (image.width // 6, image.height // 4), faded(subjects.getchannel("A"), 0.85))
    for style in named:
        painted = style(painted, random.Random(number))
    if image.mode == "RGBA":
        painted.putalpha(image.getchannel("A"))
    return painted


def _relit(image: Image.Image, scene: Scene, number: int) -> Image.Image:
    mood = mood_for(scene, random.Random(number))
    if scene.place:
        width, height = working_size(*image.size)
        veil = scenery(replace(scene, subjects=()), (width, height), number).resize(
            image.size, Image.Resampling.BICUBIC
        )
    else:
        veil = gradient(mood.sky, *image.size)
    lit = image.point([level * part // 255 for part in mood.ambient for level in range(256)])
    return Image.blend(lit, veil, 0.4 if scene.place else 0.28)


def _mesh(size: tuple[int, int], rng: random.Random) -> list[tuple[Box, Corners]]:
    """Lay a grid of up to 6 x 6 cells whose inner corners are taken from up to 3 % aside; the border stays where it is."""
    (width, height), reach = size, min(size) * 0.03
    columns, rows = min(_CELLS, width), min(_CELLS, height)
    corners = [
        [
            (
                width * column / columns + rng.uniform(-reach, reach) * (0 < column < columns),
                height * row / rows + rng.uniform(-reach, reach) * (0 < row < rows),
            )
            for column in range(columns + 1)
        ]
        for row in range(rows + 1)
    ]
    lefts, tops = [width * n // columns for n in range(columns + 1)], [height * n // rows for n in range(rows + 1)]
    return [
        ((lefts[column], tops[row], lefts[column + 1], tops[row + 1]), _quad(corners, row, column))
        for row in range(rows)
        for column in range(columns)
    ]


def _quad(corners: list[list[tuple[float, float]]], row: int, column: int) -> Corners:
    around = (corners[row][column], corners[row + 1][column], corners[row + 1][column + 1], corners[row][column + 1])
    a, b, c, d, e, f, g, h = (round(value) for corner in around for value in corner)
    return a, b, c, d, e, f, g, h


def _palette(rng: random.Random) -> list[int]:
    """Make a table for HSV: hues turned by 9 to 22 degrees either way, saturation and tone changed a little."""
    turned = round(rng.choice((-1, 1)) * rng.uniform(9, 22) * 256 / 360)
    richer, curve = rng.uniform(0.8, 1.1), rng.uniform(0.85, 1.15)
    hues = [(level + turned) % 256 for level in range(256)]
    saturations = [min(255, round(level * richer)) for level in range(256)]
    return hues + saturations + [round(255 * (level / 255) ** curve) for level in range(256)]


def _streaks(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Paint streaks of light and dark around 128, along one direction; mode L."""
    along = max(1.0, min(size) / 60)
    radii = (along, 0.5) if rng.random() < 0.5 else (0.5, along)
    levels = [128 + (level - 128) * 3 // 4 for level in range(256)]
    return noise(*size, rng).filter(ImageFilter.BoxBlur(radii)).point(levels)
