"""What a prompt asks for: tables of words, and one pass over the prompt that fills in a `Scene`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from safelight.adapters.providers._sketch.colours import RGB, from_hex, lift, named_colours, turn

_MAX_WORDS = 2000
_MAX_WORD_LENGTH = 24
_MAX_SUBJECTS = 4
_MAX_COUNT = 6
_PLURAL_COUNT = 3

_COLOURS = named_colours()

# Each row: what is drawn, then the words that ask for it (in the singular).
_SUBJECTS = {
    "fox": "fox vixen",
    "cat": "cat kitten kitty",
    "dog": "dog puppy hound corgi",
    "rabbit": "rabbit bunny hare",
    "bear": "bear teddy",
    "owl": "owl",
    "bird": "bird seagull gull sparrow robin swallow dove eagle raven crow parrot",
    "penguin": "penguin",
    "fish": "fish goldfish koi salmon",
    "whale": "whale",
    "butterfly": "butterfly moth",
    "boat": "boat sailboat ship yacht sail",
    "house": "house cabin cottage home hut barn",
    "lighthouse": "lighthouse",
    "castle": "castle fortress palace",
    "windmill": "windmill",
    "tree": "tree oak maple",
    "pine": "pine fir spruce",
    "palm": "palm",
    "cactus": "cactus",
    "flower": "flower daisy blossom bloom tulip poppy",
    "mushroom": "mushroom toadstool",
    "kite": "kite",
    "balloon": "balloon",
    "rocket": "rocket spaceship shuttle",
    "star": "star",
    "heart": "heart love",
    "cloud": "cloud",
    "car": "car automobile taxi truck van",
    "robot": "robot android droid",
    "person": "person man boy child people human hiker traveller traveler astronaut",
    "girl": "girl woman lady princess queen",
    "snowman": "snowman",
    "umbrella": "umbrella parasol",
    "cup": "cup coffee mug tea espresso latte cappuccino",
    "apple": "apple fruit",
    "pumpkin": "pumpkin",
}
# Words that bring their own colour.
_COLOURED = {
    "rose": ("flower", from_hex("D8385E")),
    "sunflower": ("flower", from_hex("F2BE2E")),
    "wolf": ("fox", from_hex("8A929C")),
    "strawberry": ("heart", from_hex("D93A40")),
}
_PLACES = {
    "dunes": "dune desert sahara",
    "mountains": "mountain alps peak summit hill valley cliff",
    "sea": "sea ocean wave harbour harbor",
    "lake": "lake pond fjord",
    "forest": "forest wood woodland jungle",
    "meadow": "meadow field grass prairie countryside pasture farm park",
    "city": "city skyline town street downtown skyscraper tokyo london york",
    "space": "space galaxy cosmos nebula universe orbit planet",
    "beach": "beach shore coast island seaside",
    "river": "river stream creek",
    "garden": "garden flowerbed",
    "underwater": "underwater reef aquarium",
    "room": "room table kitchen desk interior still café cafe",
}
_TIMES = {
    "sunset": "sunset evening sundown",
    "dawn": "dawn sunrise morning daybreak",
    "dusk": "dusk twilight gloaming",
    "night": "night midnight nighttime nocturnal",
    "day": "day noon daylight sunny midday summer spring",
}
_WEATHER = {
    "fog": "fog foggy mist misty haze hazy",
    "rain": "rain rainy drizzle raining",
    "snow": "snow snowy winter snowfall blizzard snowing ice icy arctic",
    "storm": "storm stormy thunder lightning thunderstorm",
    "stars": "starry starlight starlit",
    "clouds": "cloudy overcast",
    "rainbow": "rainbow",
    "aurora": "aurora northern borealis",
    "sun": "sun",
    "moon": "moon moonlight moonlit",
    "autumn": "autumn fall autumnal",
}
_STYLES = {
    "ink": "ink lineart woodcut etching",
    "watercolour": "watercolour watercolor aquarelle",
    "pixel": "pixel pixelated 8bit",
    "blueprint": "blueprint schematic",
    "pencil": "pencil graphite sketch",
    "neon": "neon cyberpunk synthwave",
    "mono": "monochrome noir greyscale grayscale",
    "sepia": "sepia vintage",
    "pastel": "pastel",
    "vivid": "vivid vibrant",
    "muted": "muted faded",
}
_COUNTS = {
    "one": 1, "single": 1, "two": 2, "pair": 2, "couple": 2, "three": 3, "four": 4, "five": 5, "six": 6,
    "several": 4, "many": 6, "some": 3, "few": 3, "flock": 5, "dozen": 6,
}  # fmt: skip
_SHADES = {"light": 0.35, "pale": 0.45, "soft": 0.25, "dark": -0.4, "deep": -0.25, "bright": 0.08, "dusty": 0.2}
# At these words, a colour stops waiting for its noun and colours the whole picture.
_BREAKS = frozenset(
    [
        "a",
        "an",
        "the",
        "with",
        "in",
        "on",
        "over",
        "under",
        "at",
        "by",
        "near",
        "of",
        "beside",
        "above",
        "below",
        "behind",
        "across",
        "through",
    ]
)
_TREES = frozenset({"palm", "pine"})  # "palm tree" is one thing
_SKY = frozenset({"sky", "horizon"})
_IRREGULAR = {"mice": "mouse", "geese": "goose", "men": "man", "women": "woman", "children": "child", "cacti": "cactus"}
_SUFFIXES = (("ies", "y"), ("ves", "f"), ("es", ""), ("s", ""))
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One thing to draw, `count` times; `colours` are those asked for, most important first."""

    kind: str
    colours: tuple[RGB, ...] = ()
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A prompt as understood. `None` and empty mean that the prompt left the choice to us."""

    subjects: tuple[Subject, ...] = ()
    place: str | None = None
    ground: tuple[RGB, ...] = ()
    time: str | None = None
    sky: tuple[RGB, ...] = ()
    weather: frozenset[str] = frozenset()
    styles: tuple[str, ...] = ()
    tints: tuple[RGB, ...] = ()


def _index(table: dict[str, str]) -> dict[str, str]:
    return {word: name for name, words in table.items() for word in words.split()}


_SUBJECT_OF = _index(_SUBJECTS)
_PLACE_OF = _index(_PLACES)
_TIME_OF = _index(_TIMES)
_WEATHER_OF = _index(_WEATHER)
_STYLE_OF = _index(_STYLES)
_KNOWN = {
    *_COLOURS, *_SUBJECT_OF, *_COLOURED, *_PLACE_OF, *_TIME_OF, *_WEATHER_OF, *_STYLE_OF, *_COUNTS, *_SHADES,
    *_BREAKS, *_SKY,
}  # fmt: skip


def _singular(word: str) -> str:
    """`word` as the tables spell it: itself if known, else the first known singular, else itself."""
    if word in _KNOWN:
        return word
    stems = [word[: -len(end)] + tail for end, tail in _SUFFIXES if word.endswith(end)]
    return next((stem for stem in (_IRREGULAR.get(word, ""), *stems) if stem in _KNOWN), word)


@dataclass(slots=True)
class _Reader:
    """Takes the words one by one; colours, shades and counts wait for the noun that they describe."""

    subjects: list[Subject] = field(default_factory=list)
    place: str | None = None
    ground: tuple[RGB, ...] = ()
    time: str | None = None
    sky: tuple[RGB, ...] = ()
    weather: set[str] = field(default_factory=set)
    styles: list[str] = field(default_factory=list)
    tints: list[RGB] = field(default_factory=list)
    colours: list[RGB] = field(default_factory=list)
    shade: float = 0.0
    count: int = 0
    last: str = ""

    def take(self, word: str) -> None:
        name = _singular(word)
        if name in _COLOURS:
            self.colours.append(lift(_COLOURS[name], self.shade))
            self.shade = 0.0
        elif name in _BREAKS:
            self.tints += self._claim()
        elif name in _COLOURED or name in _SUBJECT_OF:
            self._take_subject(name, plural=name != word)
        elif name in _COUNTS or (name.isdecimal() and len(name) < 3):  # a longer number is a year or a size
            self.count = _COUNTS.get(name) or min(_MAX_COUNT, int(name))
        elif name in _SHADES:
            self.shade = _SHADES[name]
        else:
            self._take_setting(name)
        self.last = name

    def scene(self) -> Scene:
        return Scene(
            subjects=tuple(self.subjects[:_MAX_SUBJECTS]),
            place=self.place,
            ground=self.ground,
            time=self.time,
            sky=self.sky,
            weather=frozenset(self.weather),
            styles=tuple(dict.fromkeys(self.styles)),
            tints=(*self.tints, *self.colours)[:3],
        )

    def _claim(self) -> tuple[RGB, ...]:
        """Take the colours that were waiting; nothing waits afterwards."""
        colours = tuple(self.colours)
        self.colours.clear()
        self.shade = 0.0
        return colours

    def _take_subject(self, name: str, *, plural: bool) -> None:
        if name == "star" and plural and not self.count:
            self.weather.add("stars")
            return
        kind, own = _COLOURED.get(name) or (_SUBJECT_OF[name], None)
        if kind == "tree" and self.last in _TREES:
            return
        colours = self._claim() or ((own,) if own else ())
        count = self.count or (_PLURAL_COUNT if plural else 1)
        self.count = 0
        if colours or all(kind != subject.kind for subject in self.subjects):
            self.subjects.append(Subject(kind=kind, colours=colours, count=count))

    def _take_setting(self, name: str) -> None:
        if name in _PLACE_OF:
            self.place = self.place or _PLACE_OF[name]
            self.ground = self.ground or self._claim()
        elif name in _TIME_OF or name in _SKY:
            self.time = _TIME_OF.get(name, self.time)
            self.sky = self.sky or self._claim()
        elif name in _WEATHER_OF:
            self.weather.add(_WEATHER_OF[name])
        elif name in _STYLE_OF:
            self.styles.append(_STYLE_OF[name])


def _words(prompt: str) -> Iterator[str]:
    for found in islice(_WORD.finditer(prompt), _MAX_WORDS):
        if found.end() - found.start() <= _MAX_WORD_LENGTH:
            yield found.group().casefold()


def read(prompt: str) -> Scene:
    """Understand a prompt: case and plurals do not matter, unknown words are passed over."""
    reader = _Reader()
    for word in _words(prompt):
        reader.take(word)
    return reader.scene()


def pastel(colour: RGB) -> RGB:
    return lift(turn(colour, saturation=0.75), 0.4)
