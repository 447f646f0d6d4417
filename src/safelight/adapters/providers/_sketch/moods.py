"""The light of a scene: sky, sun, haze and ground colours, from the hour, the weather and the colours asked for."""

import random
from dataclasses import dataclass

from safelight.adapters.providers._sketch.colours import RGB, WHITE, from_hex, lift, luminance, mix, multiply, turn
from safelight.adapters.providers._sketch.words import Scene, pastel


@dataclass(frozen=True, slots=True, kw_only=True)
class Mood:
    """The light of a scene.

    `sky` runs from the zenith to the horizon; `ambient` multiplies what the light falls on; `tints` are the colours
    that the prompt asks of the whole picture.
    """

    sky: tuple[RGB, RGB, RGB]
    sun: RGB
    ambient: RGB
    dark: bool
    weather: frozenset[str]
    ground: tuple[RGB, ...]
    tints: tuple[RGB, ...]
    soft: bool

    @property
    def haze(self) -> RGB:
        """What far things fade into."""
        return mix(self.sky[2], self.sky[1], 0.35)

    def far(self, colour: RGB, distance: float) -> RGB:
        """`colour` as seen at a distance of 0 (here) to 1 (the horizon)."""
        lit = mix(colour, multiply(colour, self.ambient), 0.9)
        return mix(lit, self.haze, distance * 0.82)

    def land(self, usual: RGB) -> RGB:
        """Choose the ground's own colour: what the prompt asks for, else the place's usual one under the prompt's tint."""
        if self.ground:
            return self.ground[0]
        colour = mix(usual, self.tints[-1], 0.88) if self.tints else usual
        if "snow" in self.weather:
            colour = mix(colour, from_hex("EAF1F7"), 0.85)
        elif "autumn" in self.weather:
            colour = mix(colour, from_hex("C9752E"), 0.6)
        return pastel(colour) if self.soft else colour


# Per hour: zenith, middle and horizon of the sky, sun or moon, ambient light.
_HOURS = {
    "day": ("4A95C8", "93C8E2", "F2EEDB", "FFF6D8", "FFFBF2"),
    "golden": ("6FA9B8", "F0D29B", "FFE9BF", "FFF3C9", "FFEFD6"),
    "mint": ("5FA9A6", "B4DCCB", "FBF0D4", "FFF4D6", "FFF8EA"),
    "dawn": ("7C8FC4", "EDB4B8", "FFE3B8", "FFF0C4", "FFE9E2"),
    "sunset": ("4B3572", "E5655C", "FFC878", "FFEBA8", "FFDCC4"),
    "dusk": ("2C3468", "80588F", "F2A58D", "FFDFC0", "C9B6DA"),
    "space": ("0A0B24", "141438", "20204C", "F8F2D8", "E6E4F4"),
    "night": ("0B1233", "1C2F63", "496D9B", "F8F2D8", "8496CC"),
}
_UNASKED = ("day", "day", "golden", "mint", "dawn", "sunset")
_NIGHTLY = frozenset({"stars", "moon", "aurora"})
_GLOOM = {"storm": ("39424F", 0.68), "rain": ("76899A", 0.55), "fog": ("D9DEDC", 0.55), "clouds": ("A9B8C4", 0.4)}


def mood_for(scene: Scene, rng: random.Random) -> Mood:
    hour = scene.time or ("night" if scene.weather & _NIGHTLY else rng.choice(_UNASKED))
    if scene.place == "space":
        hour = "space"
    top, middle, low, sun, ambient = (from_hex(code) for code in _HOURS[hour])
    sky = _tinted((top, middle, low), scene, rng)
    for weather, (colour, share) in _GLOOM.items():
        if weather in scene.weather:
            sky = _stirred(sky, multiply(from_hex(colour), ambient), share)
            ambient = mix(ambient, from_hex(colour), share * 0.5)
    if "snow" in scene.weather and hour != "night":
        sky = _stirred(sky, from_hex("DCE6EE"), 0.45)
    soft = "pastel" in scene.styles
    if soft:
        sky = (pastel(sky[0]), pastel(sky[1]), pastel(sky[2]))
    return Mood(
        sky=sky,
        sun=sun,
        ambient=lift(ambient, 0.4) if soft or scene.tints else ambient,
        dark=luminance(sky[0]) < 60,
        weather=scene.weather,
        ground=scene.ground,
        tints=scene.tints,
        soft=soft,
    )


def _tinted(sky: tuple[RGB, RGB, RGB], scene: Scene, rng: random.Random) -> tuple[RGB, RGB, RGB]:
    """Recolour the hour's sky as asked, or turn its hues a little, so that no two days are alike."""
    asked = scene.sky or scene.tints
    if not asked:
        turned = rng.uniform(-0.025, 0.025)
        return turn(sky[0], hue=turned), turn(sky[1], hue=turned), turn(sky[2], hue=turned)
    first, second = asked[0], asked[1 % len(asked)]
    light = luminance(sky[1]) / 255
    shadow = mix(lift(first, -0.45), first, light)
    return mix(sky[0], shadow, 0.85), mix(sky[1], first, 0.85), mix(sky[2], mix(second, WHITE, 0.4 * light), 0.8)


def _stirred(sky: tuple[RGB, RGB, RGB], colour: RGB, share: float) -> tuple[RGB, RGB, RGB]:
    return mix(sky[0], colour, share), mix(sky[1], lift(colour, 0.12), share), mix(sky[2], lift(colour, 0.3), share)
