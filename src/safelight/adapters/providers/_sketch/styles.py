"""Styles as finishing passes: each takes a picture in mode RGB and gives one of the same size."""

import random
from collections.abc import Callable

from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from safelight.adapters.providers._sketch.canvas import noise

Style = Callable[[Image.Image, random.Random], Image.Image]


def _duotone(grey: Image.Image, dark: str, light: str) -> Image.Image:
    return ImageOps.colorize(grey, dark, light)


def _edges(image: Image.Image, reach: float, gain: float) -> Image.Image:
    """Mode L: outlines in white on black, found in a slightly blurred copy so that grain leaves no marks."""
    blurred = image.filter(ImageFilter.GaussianBlur(reach))
    steps = ImageChops.difference(blurred.filter(ImageFilter.MaxFilter(3)), blurred.filter(ImageFilter.MinFilter(3)))
    red, green, blue = steps.split()
    return ImageChops.lighter(ImageChops.lighter(red, green), blue).point(
        [min(255, round(max(0, v - 8) * gain)) for v in range(256)]
    )


def _paper(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Mode L, nearly white, with a fibre's texture."""
    fine = noise(*size, rng).filter(ImageFilter.BoxBlur(1))
    return fine.point([236 + v // 14 for v in range(256)])


def _ink(image: Image.Image, rng: random.Random) -> Image.Image:
    """Black outlines and hatching on cream, over a thin wash of the colours."""
    unit = min(image.size)
    lines = ImageOps.invert(_edges(image, unit / 700, 5.0))
    grey = ImageOps.autocontrast(image.convert("L").filter(ImageFilter.GaussianBlur(unit / 200)))
    step = max(4, unit // 64)
    sheet = ImageChops.multiply(lines, _paper(image.size, rng))
    for below, slope in ((84, 1), (46, -1)):
        hatch = Image.new("L", image.size, 255)
        pen = ImageDraw.Draw(hatch)
        for x in range(-image.height, image.width + image.height, step):
            pen.line([(x, 0), (x + slope * image.height, image.height)], fill=70, width=max(1, step // 6))
        dark = grey.point([255 if v < below else 0 for v in range(256)])
        sheet = ImageChops.multiply(sheet, Image.composite(hatch, Image.new("L", image.size, 255), dark))
    drawn = _duotone(sheet, "#1d1a26", "#f7f0e0")
    wash = ImageEnhance.Color(image).enhance(0.8).point([140 + v * 115 // 255 for v in range(256)] * 3)
    return ImageChops.multiply(drawn, wash)


def _watercolour(image: Image.Image, rng: random.Random) -> Image.Image:
    """Pools of pigment with darker rims and ragged edges, on rough paper."""
    unit = min(image.size)
    small = image.resize((max(8, image.width // 2), max(8, image.height // 2)), Image.Resampling.BOX)
    pools = small.filter(ImageFilter.MedianFilter(5)).resize(image.size, Image.Resampling.BICUBIC)
    rims = ImageOps.invert(_edges(pools, unit / 400, 1.1))
    grey = Image.new("L", (max(2, image.width * 14 // unit), max(2, image.height * 14 // unit)))
    grey.putdata([rng.randrange(256) for _ in range(grey.width * grey.height)])
    blooms = grey.resize(image.size, Image.Resampling.BICUBIC).point([v * 96 // 255 for v in range(256)])
    pigment = ImageEnhance.Color(pools).enhance(1.5).point([46 + v * 209 // 255 for v in range(256)] * 3)
    sheet = Image.new("RGB", image.size, "#fbf7ee")
    painted = ImageChops.multiply(Image.composite(sheet, pigment, blooms), Image.merge("RGB", (rims, rims, rims)))
    ragged = _ragged(image.size, rng)
    paper = _paper(image.size, rng)
    return ImageChops.multiply(Image.composite(painted, sheet, ragged), Image.merge("RGB", (paper, paper, paper)))


def _ragged(size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Mode L: white inside an uneven border, black outside."""
    width, height = size
    unit = min(size)
    coarse = Image.new("L", (max(2, width * 30 // unit), max(2, height * 30 // unit)))
    coarse.putdata([rng.randrange(256) for _ in range(coarse.width * coarse.height)])
    inside = Image.new("L", size)
    margin = unit // 28
    inside.paste(255, (margin, margin, width - margin, height - margin))
    inside = inside.filter(ImageFilter.GaussianBlur(unit / 55))
    fibre = coarse.resize(size, Image.Resampling.BICUBIC).point([88 + v // 3 for v in range(256)])
    return ImageChops.add(inside, fibre, 2).point([min(255, max(0, (v - 118) * 12)) for v in range(256)])


def _pixel(image: Image.Image, _rng: random.Random) -> Image.Image:
    """Square pixels, 80 across the shorter side, in 28 colours."""
    cells = max(1, min(80, min(image.size) // 4) * 100 // min(image.size))
    small = image.resize(
        (max(1, image.width * cells // 100), max(1, image.height * cells // 100)), Image.Resampling.BOX
    )
    few = ImageEnhance.Color(small).enhance(1.25).quantize(28, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return few.convert("RGB").resize(image.size, Image.Resampling.NEAREST)


def _blueprint(image: Image.Image, _rng: random.Random) -> Image.Image:
    """White lines on blue, with a grid."""
    unit = min(image.size)
    lines = _edges(image, unit / 800, 4.0)
    tone = image.convert("L").point([v // 9 for v in range(256)])
    grid = Image.new("L", image.size)
    pen = ImageDraw.Draw(grid)
    step = max(4, unit // 24)
    for n, offset in enumerate(range(0, max(image.size), step)):
        shade = 52 if n % 4 == 0 else 26
        pen.line([(offset, 0), (offset, image.height)], fill=shade)
        pen.line([(0, offset), (image.width, offset)], fill=shade)
    return _duotone(ImageChops.add(ImageChops.lighter(lines, grid), tone), "#123a78", "#eef6ff")


def _pencil(image: Image.Image, rng: random.Random) -> Image.Image:
    """Graphite: what is darker than its surroundings, with soft tone and paper."""
    unit = min(image.size)
    lines = ImageOps.invert(_edges(image, unit / 500, 2.2))
    tone = ImageOps.autocontrast(image.convert("L"), cutoff=2).point([112 + v * 143 // 255 for v in range(256)])
    grain = (
        noise(*image.size, rng).filter(ImageFilter.BoxBlur((2, 0.4))).point([68 + v * 120 // 255 for v in range(256)])
    )
    sheet = ImageChops.multiply(lines, ImageChops.overlay(tone, grain))
    return _duotone(ImageChops.multiply(sheet, _paper(image.size, rng)), "#2b2a2e", "#fffaf0")


def _neon(image: Image.Image, _rng: random.Random) -> Image.Image:
    """Glowing outlines in saturated colours over a dark ground."""
    unit = min(image.size)
    lines = _edges(image, unit / 600, 4.0)
    hue, _, value = image.filter(ImageFilter.GaussianBlur(unit / 150)).convert("HSV").split()
    full = Image.new("L", image.size, 235)
    tubes = Image.merge("HSV", (hue, full, lines)).convert("RGB")
    halo = tubes.reduce(4).filter(ImageFilter.GaussianBlur(unit / 320)).resize(image.size, Image.Resampling.BILINEAR)
    ground = Image.merge("HSV", (hue, full, value.point([v // 5 for v in range(256)]))).convert("RGB")
    return ImageChops.add(ImageChops.screen(ground, halo.point([min(255, v * 2) for v in range(256)] * 3)), tubes)


def _mono(image: Image.Image, _rng: random.Random) -> Image.Image:
    return _duotone(ImageOps.autocontrast(image.convert("L"), cutoff=1), "#141318", "#f6f4ef")


def _sepia(image: Image.Image, _rng: random.Random) -> Image.Image:
    return _duotone(ImageOps.autocontrast(image.convert("L"), cutoff=1), "#2e1c12", "#f7e8cb")


def _vivid(image: Image.Image, _rng: random.Random) -> Image.Image:
    return ImageEnhance.Contrast(ImageEnhance.Color(image).enhance(1.45)).enhance(1.08)


def _muted(image: Image.Image, _rng: random.Random) -> Image.Image:
    return ImageEnhance.Color(image).enhance(0.55)


STYLES: dict[str, Style] = {
    "ink": _ink,
    "watercolour": _watercolour,
    "pixel": _pixel,
    "blueprint": _blueprint,
    "pencil": _pencil,
    "neon": _neon,
    "mono": _mono,
    "sepia": _sepia,
    "vivid": _vivid,
    "muted": _muted,
}
