import hashlib
import io
import random
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from PIL import Image, ImageChops, ImageDraw, ImageStat

from safelight.adapters.providers._sketch import OutputFormat, draw, edit, encode, vary
from safelight.adapters.providers._sketch.colours import named_colours
from safelight.adapters.providers._sketch.places import PLACES
from safelight.adapters.providers._sketch.recipes import RECIPES
from safelight.adapters.providers._sketch.styles import STYLES
from safelight.adapters.providers._sketch.subjects import KINDS
from safelight.adapters.providers._sketch.words import Subject, read

KITE = "a red kite over golden dunes"


def sketch(prompt: str = KITE, width: int = 96, height: int = 96, seed: int = 1) -> Image.Image:
    return draw(prompt=prompt, width=width, height=height, seed=seed)


def difference(first: Image.Image, second: Image.Image) -> float:
    """Mean difference of the levels, 0 to 255."""
    means = ImageStat.Stat(ImageChops.difference(first.convert("RGB"), second.convert("RGB"))).mean
    return sum(means) / len(means)


def share(image: Image.Image, matches: Callable[[int, int, int], bool]) -> float:
    """The share of pixels, 0 to 1, whose hue (degrees), saturation and value (0 to 255) match."""
    levels = image.convert("HSV").tobytes()
    pixels = zip(levels[::3], levels[1::3], levels[2::3], strict=True)
    return sum(matches(h * 360 // 256, s, v) for h, s, v in pixels) / (image.width * image.height)


def digest(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_the_same_input_gives_the_same_bytes() -> None:
    first, second = (encode(sketch(), output_format="png", compression=None) for _ in range(2))
    assert first == second


def test_another_process_draws_the_same_bytes() -> None:
    code = (
        "import hashlib; from safelight.adapters.providers._sketch import draw;"
        f"print(hashlib.sha256(draw(prompt={KITE!r}, width=96, height=96, seed=1).tobytes()).hexdigest())"
    )
    for salt in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": salt, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.strip() == digest(sketch())


def test_prompts_and_seeds_each_give_their_own_picture() -> None:
    prompts = (KITE, "a blue kite over golden dunes", "zyx", "zyy", "ZYX!", "a fox", "")
    pictures = {digest(sketch(prompt, seed=seed)) for prompt in prompts for seed in (0, 1, -1)}
    assert len(pictures) == len(prompts) * 3


def test_drawing_leaves_the_shared_random_generator_alone() -> None:
    random.seed(5)
    before = random.getstate()
    sketch()
    assert random.getstate() == before


@pytest.mark.parametrize(
    "size", [(1, 1), (16, 16), (17, 31), (64, 64), (512, 64), (64, 512), (256, 16), (2048, 256), (2048, 2048)]
)
def test_every_size_is_drawn_exactly(size: tuple[int, int]) -> None:
    image = sketch("two red foxes in a snowy forest", *size)
    assert (image.size, image.mode) == (size, "RGB")


@pytest.mark.parametrize("place", PLACES)
def test_every_place_fills_the_picture(place: str) -> None:
    image = sketch(f"{place} under stars, snow and an aurora")
    assert image.size == (96, 96)
    assert all(deviation > 4 for deviation in ImageStat.Stat(image).stddev)


@pytest.mark.parametrize(
    "weather", ["fog", "rain", "snow", "storm", "stars", "cloudy", "rainbow", "aurora", "moon", "autumn", "pastel"]
)
def test_every_weather_shows(weather: str) -> None:
    assert difference(sketch("meadow at noon"), sketch(f"meadow at noon, {weather}")) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_every_subject_shows_in_its_scene(kind: str) -> None:
    home = KINDS[kind].home
    assert difference(sketch(home), sketch(f"{home} {kind}")) > 1


def test_a_style_word_finishes_the_picture() -> None:
    colourful, grey = sketch("a red meadow", 120, 120), sketch("a red meadow, monochrome", 120, 120)
    assert share(colourful, lambda _h, s, v: s > 60 and v > 60) > 0.3
    assert share(grey, lambda _h, s, v: s > 60 and v > 60) < 0.01


def test_many_subjects_share_the_picture() -> None:
    assert sketch("six foxes, six cats, a boat on dunes and robots in space").size == (96, 96)
    assert sketch("a robot in space").tobytes() != sketch("a rocket in space").tobytes()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [(16, 16), (90, 50)])
def test_every_style_changes_the_picture_and_keeps_its_size(style: str, size: tuple[int, int]) -> None:
    source = sketch("a fox", *size)
    finished = STYLES[style](source.copy(), random.Random(1))
    assert (finished.size, finished.mode) == (size, "RGB")
    assert difference(source, finished) > 2


def test_every_subject_has_a_drawing_and_a_home() -> None:
    assert KINDS.keys() == RECIPES.keys()
    assert {kind.home for kind in KINDS.values()} <= PLACES.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_every_subject_shows_on_a_transparent_ground(kind: str) -> None:
    image = draw(prompt=kind, width=64, height=64, seed=1, transparent=True)
    alpha = image.getchannel("A")
    assert image.mode == "RGBA"
    assert alpha.getpixel((0, 0)) == 0
    assert 0.05 < ImageStat.Stat(alpha).mean[0] / 255 < 0.8


def test_transparent_edges_keep_the_subjects_colour() -> None:
    image = draw(prompt="a red heart", width=64, height=64, seed=1, transparent=True)
    levels = image.tobytes()
    edges = [levels[n : n + 4] for n in range(0, len(levels), 4) if 40 < levels[n + 3] < 200]
    assert edges
    assert all(red > 120 for red, _, _, _ in edges)


def test_a_transparent_scene_without_subjects_is_a_vignette() -> None:
    alpha = draw(prompt="a calm sea", width=64, height=64, seed=1, transparent=True).getchannel("A")
    assert (alpha.getpixel((0, 0)), alpha.getpixel((32, 32))) == (0, 255)


def test_a_transparent_picture_keeps_its_style() -> None:
    plain, drawn = (
        draw(prompt=prompt, width=64, height=64, seed=1, transparent=True)
        for prompt in ("a red fox", "a red fox, noir")
    )
    assert share(plain, lambda _h, s, _v: s > 90) > share(drawn, lambda _h, s, _v: s > 90)
    assert drawn.getchannel("A").getextrema() == (0, 255)


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "hue"),
    [("red", 3), ("orange", 28), ("yellow", 48), ("green", 128), ("teal", 176), ("blue", 213), ("purple", 281)],
)
def test_colour_words_steer_the_whole_picture(word: str, hue: int) -> None:
    def near(h: int, s: int, _v: int) -> bool:
        return s > 40 and min(abs(h - hue), 360 - abs(h - hue)) <= 32

    others = [other for other in ("red", "green", "blue") if other != word]
    asked = share(sketch(f"{word} landscape"), near)
    assert asked > 0.4
    assert all(asked > share(sketch(f"{other} landscape"), near) for other in others)


def test_a_colour_belongs_to_the_noun_that_follows() -> None:
    image = sketch("a red kite over blue dunes at noon")

    def blue(h: int, s: int, _v: int) -> bool:
        return s > 70 and 195 < h < 245

    assert share(image.crop((0, 64, 96, 96)), blue) > 0.6
    assert share(image.crop((24, 4, 72, 56)), lambda h, s, _v: s > 120 and (h < 14 or h > 346)) > 0.06


def test_night_is_dark_and_noon_is_bright() -> None:
    night, noon = (ImageStat.Stat(sketch(f"mountains at {hour}").convert("L")).mean[0] for hour in ("night", "noon"))
    assert night + 40 < noon


def test_a_prompt_is_read_as_a_scene() -> None:
    scene = read("Two RED foxes and a light-blue boat, on a golden beach under a pink sky at sunset: watercolor, rainy")
    colours = named_colours()
    assert [(subject.kind, subject.count) for subject in scene.subjects] == [("fox", 2), ("boat", 1)]
    assert scene.subjects[0].colours == (colours["red"],)
    assert scene.subjects[1].colours != (colours["blue"],)
    assert (scene.place, scene.ground) == ("beach", (colours["golden"],))
    assert (scene.time, scene.sky) == ("sunset", (colours["pink"],))
    assert (set(scene.weather), scene.styles, scene.tints) == ({"rain"}, ("watercolour",), ())


@pytest.mark.parametrize(
    ("prompt", "subjects"),
    [
        ("wolves", [Subject(kind="fox", colours=(named_colours()["grey"],), count=3)]),
        ("butterflies", [Subject(kind="butterfly", count=3)]),
        ("a cup of coffee", [Subject(kind="cup")]),
        ("palm tree", [Subject(kind="palm")]),
        ("a girl, children", [Subject(kind="girl"), Subject(kind="person", count=3)]),
        ("99 balloons", [Subject(kind="balloon", count=6)]),
        ("a cat of 1984", [Subject(kind="cat")]),
        ("in 1984 a cat", [Subject(kind="cat")]),
        ("0 cats", [Subject(kind="cat", count=3)]),
        ("scattered concatenation", []),
        ("a starry night of stars", []),
    ],
)
def test_words_count_whole_in_any_number(prompt: str, subjects: list[Subject]) -> None:
    found = read(prompt).subjects
    assert [(subject.kind, subject.count) for subject in found] == [
        (subject.kind, subject.count) for subject in subjects
    ]


def test_two_colours_share_a_subject_and_loose_ones_tint_the_picture() -> None:
    colours = named_colours()
    scene = read("a red and white kite in teal")
    assert scene.subjects[0].colours == (colours["red"], colours["white"])
    assert scene.tints == (colours["teal"],)


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        " ",
        "x" * 100_000,
        "cat " * 25_000,
        "9" * 5000,
        "²³ ٣ cats",
        "\x00\x07\x1b[31m\r\n",
        "🦊🪁🏜️",
        "\ud800",
        "ß" * 30,
        "a\u202eb",
    ],
    ids=[
        "empty",
        "space",
        "long-word",
        "long",
        "digits",
        "odd-digits",
        "controls",
        "emoji",
        "surrogate",
        "sharp-s",
        "bidi",
    ],
)
def test_hostile_prompts_draw_and_soon(prompt: str) -> None:
    began = time.perf_counter()
    assert sketch(prompt, 64, 64).size == (64, 64)
    assert time.perf_counter() - began < 1


# --- edits -----------------------------------------------------------------------------------------------------------


def mask_with_hole(hole: tuple[int, int, int, int], size: tuple[int, int] = (96, 96)) -> Image.Image:
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    ImageDraw.Draw(mask).rectangle(hole, fill=(0, 0, 0, 0))
    return mask


@pytest.mark.parametrize("prompt", ["a black cat", "a stormy sea at night", "qwerty", "a cat, pixel art"])
def test_an_edit_changes_the_hole_and_nothing_else(prompt: str) -> None:
    image, hole = sketch("a house in a meadow"), (30, 30, 79, 79)
    edited = edit(image=image, mask=mask_with_hole(hole), prompt=prompt, seed=1)
    inside = (30, 30, 80, 80)
    changed = ImageChops.difference(image, edited)
    assert changed.getbbox() is not None
    assert difference(image.crop(inside), edited.crop(inside)) > 8
    changed.paste((0, 0, 0), inside)
    assert changed.getbbox() is None


def test_partial_alpha_blends() -> None:
    image, whole = sketch("a house"), Image.new("RGBA", (96, 96), (0, 0, 0, 0))
    full = edit(image=image, mask=whole, prompt="the sea at night", seed=1)
    whole.putalpha(128)
    half = edit(image=image, mask=whole, prompt="the sea at night", seed=1)
    assert difference(half, Image.blend(image, full, 127 / 255)) < 1


def test_a_mask_without_alpha_is_white_where_to_change() -> None:
    image, mask = sketch("a house"), Image.new("L", (96, 96), 0)
    mask.paste(255, (0, 0, 40, 96))
    edited = edit(image=image, mask=mask, prompt="the sea at night", seed=1)
    assert ImageChops.difference(image, edited).getbbox() is not None
    assert image.crop((40, 0, 96, 96)).tobytes() == edited.crop((40, 0, 96, 96)).tobytes()


def test_a_mask_that_allows_nothing_changes_nothing() -> None:
    image = sketch()
    mask = Image.new("RGBA", image.size, (0, 0, 0, 255))
    assert edit(image=image, mask=mask, prompt="a cat", seed=1).tobytes() == image.tobytes()


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="the mask is 90x96, the image 96x96"):
        edit(image=sketch(), mask=Image.new("L", (90, 96)), prompt="a cat", seed=1)


@pytest.mark.parametrize("prompt", ["a blue rocket", "watercolour", "at night", "mountains", "qwerty", "a cat, sepia"])
def test_without_a_mask_the_picture_changes_and_still_shows(prompt: str) -> None:
    image = sketch("a house in a meadow")
    edited = edit(image=image, mask=None, prompt=prompt, seed=1)
    assert edited.size == image.size
    assert 5 < difference(image, edited) < 110


def test_edits_are_repeatable_and_leave_the_input_alone() -> None:
    image = sketch()
    before, mask = image.tobytes(), mask_with_hole((10, 10, 60, 60))
    first, second = (edit(image=image, mask=mask, prompt="a cat", seed=3).tobytes() for _ in range(2))
    assert first == second
    assert image.tobytes() == before
    assert first != edit(image=image, mask=mask, prompt="a dog", seed=3).tobytes()


def test_filling_in_continues_the_surroundings() -> None:
    image = Image.new("RGB", (96, 96), (90, 160, 220))
    edited = edit(image=image, mask=mask_with_hole((20, 20, 75, 75)), prompt="a red heart", seed=1)
    assert difference(edited.crop((20, 20, 26, 26)), image.crop((20, 20, 26, 26))) < 3


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_every_mode_of_picture_can_be_changed(mode: str) -> None:
    image = sketch().convert("L").convert("I").point(lambda v: v * 256).convert(mode) if mode == "I;16" else sketch()
    image = image if mode == "I;16" else image.convert(mode)
    expected = "RGBA" if mode in {"RGBA", "LA"} else "RGB"
    for changed in (
        edit(image=image, mask=mask_with_hole((5, 5, 50, 50)), prompt="a cat", seed=1),
        edit(image=image, mask=None, prompt="a cat", seed=1),
        vary(image=image, seed=1),
    ):
        assert (changed.size, changed.mode) == ((96, 96), expected)
        assert ImageStat.Stat(changed.convert("L")).stddev[0] > 8


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (16, 16), (301, 17)])
def test_small_and_odd_pictures_can_be_changed(size: tuple[int, int]) -> None:
    image = sketch(KITE, *size)
    assert vary(image=image, seed=1).size == size
    assert edit(image=image, mask=None, prompt="a cat at night", seed=1).size == size
    assert edit(image=image, mask=Image.new("L", size, 255), prompt="a cat", seed=1).size == size


# --- variations ------------------------------------------------------------------------------------------------------


def test_variations_keep_the_subject_and_differ_by_seed() -> None:
    image = sketch("a house in a meadow")
    variations = [vary(image=image, seed=seed) for seed in range(3)]
    assert len({digest(variation) for variation in variations}) == 3
    assert all(variation.size == image.size for variation in variations)
    assert all(4 < difference(image, variation) < 70 for variation in variations)
    assert vary(image=image, seed=0).tobytes() == variations[0].tobytes()


def test_a_variation_keeps_transparency() -> None:
    image = draw(prompt="a heart", width=64, height=64, seed=1, transparent=True)
    alpha = vary(image=image, seed=1).getchannel("A")
    assert alpha.getextrema() == (0, 255)


# --- encoding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("transparent", [False, True])
def test_the_decoded_format_and_size_are_those_asked_for(*, output_format: OutputFormat, transparent: bool) -> None:
    image = draw(prompt="a cat", width=48, height=32, seed=1, transparent=transparent)
    body = encode(image, output_format=output_format, compression=None)
    decoded = Image.open(io.BytesIO(body))
    assert (decoded.format, decoded.size) == (output_format.upper(), (48, 32))
    assert decoded.mode == ("RGBA" if transparent and output_format != "jpeg" else "RGB")
    assert body == encode(image, output_format=output_format, compression=None)


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_compression_is_the_quality(output_format: OutputFormat) -> None:
    sizes = [len(encode(sketch(), output_format=output_format, compression=level)) for level in (0, 50, 100)]
    assert sizes == sorted(set(sizes))


def test_png_is_exact_whatever_the_compression() -> None:
    image = sketch()
    body = encode(image, output_format="png", compression=10)
    assert Image.open(io.BytesIO(body)).tobytes() == image.tobytes()


def test_jpeg_lays_transparency_on_white() -> None:
    body = encode(Image.new("RGBA", (16, 16), (255, 0, 0, 0)), output_format="jpeg", compression=100)
    assert Image.open(io.BytesIO(body)).getpixel((8, 8)) == (255, 255, 255)


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_metadata_is_left_out(output_format: OutputFormat) -> None:
    image = sketch()
    plain = encode(image, output_format=output_format, compression=None)
    image.info.update(
        exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x00\x00", icc_profile=b"profile", dpi=(72, 72), comment=b"hello"
    )
    assert encode(image, output_format=output_format, compression=None) == plain
