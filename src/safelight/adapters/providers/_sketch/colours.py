"""Colours by name, and the little arithmetic that scenes need: RGB triples, 0 to 255."""

import colorsys
from typing import TypeAlias

RGB: TypeAlias = tuple[int, int, int]

_NAMED = """
red D63A33  crimson B01E3C  scarlet E0391F  ruby A61B45  maroon 7A1F2E  burgundy 6E1B33  cherry C2233F  brick A8452F
vermilion E34A2B  coral F57B61  salmon F2917C  terracotta C9694A  rust B3562B  copper B9703F  bronze A5763C
orange F08A2C  tangerine F5922F  apricot F7B27A  peach FBC49B  amber F0A92B  gold E3B23C  golden E9B44C
mustard D6A52B  ochre C98F35  yellow F4CF3B  lemon F6E05A  cream F5E8C8  beige E0CDAA  ivory F4EDDC  sand DDBF8A
tan C9A271  brown 855432  chocolate 5F3A26  hazel 9A7040  khaki AFA06A
green 4B9B55  olive 87883C  lime A6CF3F  emerald 1F9A6A  jade 3BA07C  mint A4DEC2  sage 9DB593  moss 75853F
teal 158A8C  turquoise 38BFB8  cyan 35B9D6  aqua 6CD2D4  aquamarine 7FDCC0
blue 3474C4  azure 4A9FE0  cobalt 2450A8  navy 20305F  sapphire 1F4FA0  cerulean 2F8FBE  denim 47689B  cornflower 7090D8
indigo 433A8C  violet 7A4FB5  purple 7C3F98  plum 7B3A6B  lavender B9A5DC  lilac C6A9D8  mauve B48BAE  amethyst 9764C0
magenta C93A8E  fuchsia DB3D94  pink F08CAA  rosy EE9CAC  blush F2B8B5
white F6F2EA  pearl ECE6DC  silver C3CAD2  grey 8F949C  gray 8F949C  slate 5F6E7E  charcoal 3C4048  black 26242C
"""

WHITE: RGB = (255, 252, 244)
SHADOW: RGB = (34, 22, 62)


def from_hex(text: str) -> RGB:
    red, green, blue = bytes.fromhex(text)
    return red, green, blue


def named_colours() -> dict[str, RGB]:
    """Every colour word that prompts may use."""
    words = _NAMED.split()
    return {name: from_hex(code) for name, code in zip(words[::2], words[1::2], strict=True)}


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """`first` with `share` (0 to 1) of `second` stirred in."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def multiply(first: RGB, second: RGB) -> RGB:
    red, green, blue = (a * b // 255 for a, b in zip(first, second, strict=True))
    return red, green, blue


def lift(colour: RGB, amount: float) -> RGB:
    """Lighter for a positive amount, darker for a negative one; shadows lean to violet, as painters mix them."""
    return mix(colour, WHITE, amount) if amount >= 0 else mix(colour, SHADOW, -amount)


def turn(colour: RGB, *, hue: float = 0.0, saturation: float = 1.0) -> RGB:
    """Rotate the hue by `hue` turns (0 to 1) and scale the saturation."""
    h, light, s = colorsys.rgb_to_hls(*(part / 255 for part in colour))
    red, green, blue = colorsys.hls_to_rgb((h + hue) % 1.0, light, min(1.0, s * saturation))
    return round(red * 255), round(green * 255), round(blue * 255)


def luminance(colour: RGB) -> float:
    """Perceived brightness, 0 to 255."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
