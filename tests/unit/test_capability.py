"""What a model accepts."""

from datetime import date
from typing import Any

import pytest
from msgspec.structs import replace

from safelight.domain.capability import OPTIONAL_FIELDS, Life, ModelSpec, PixelRule, refuse_retired
from safelight.domain.errors import UnsupportedFeature
from safelight.domain.image import Dimensions, ImageRequest, InputImage, Operation
from tests.making import image, request

SENT = InputImage(image=image())
ANYTHING = ModelSpec(name="flux", operations=frozenset(Operation), fields=frozenset(OPTIONAL_FIELDS))


def spec(**members: Any) -> ModelSpec:
    return ModelSpec(
        **{"name": "flux", "operations": frozenset(Operation), "fields": frozenset(OPTIONAL_FIELDS), **members}
    )


def asking(name: str, value: Any) -> ImageRequest:
    return replace(request(), **{name: value})


def refusal(model: ModelSpec, asked: ImageRequest) -> tuple[str | None, str]:
    with pytest.raises(UnsupportedFeature) as caught:
        model.check(asked)
    return caught.value.param, caught.value.message


def test_nothing_is_refused_of_which_nothing_is_known() -> None:
    said: dict[str, Any] = {name: 7 if name in {"output_compression", "seed"} else "7" for name in OPTIONAL_FIELDS}
    ANYTHING.check(request(n=100, images=(), **said))
    ANYTHING.check(request(operation=Operation.EDIT, images=(SENT,) * 50))


def test_an_operation_that_is_not_offered_is_refused_with_those_that_are() -> None:
    model = spec(operations=frozenset({Operation.EDIT, Operation.GENERATION}))
    param, message = refusal(model, request(operation=Operation.VARIATION, images=(SENT,)))
    assert param == "model"
    assert message == "model flux does not offer image_variation; it offers image_edit, image_generation"


def test_input_images_belong_to_the_edits_route() -> None:
    assert refusal(ANYTHING, request(images=(SENT,)))[0] == "input_images"


@pytest.mark.parametrize("name", OPTIONAL_FIELDS)
def test_a_field_that_cannot_be_expressed_is_refused(name: str) -> None:
    model = spec(fields=frozenset(OPTIONAL_FIELDS) - {name})
    assert refusal(model, asking(name, "1")) == (name, f"model flux has no {name}")
    model.check(request())


@pytest.mark.parametrize(
    ("name", "limits"),
    [("quality", "qualities"), ("output_format", "formats"), ("input_fidelity", "fidelities")],
)
def test_a_choice_is_refused_with_those_that_there_are(name: str, limits: str) -> None:
    model = spec(**{limits: frozenset({"low", "high"})})
    model.check(asking(name, "low"))
    model.check(request())
    assert refusal(model, asking(name, "mid")) == (
        name,
        f"model flux has no {name} 'mid'; expected one of high, low",
    )


def test_the_prompt_and_the_images_have_their_limits() -> None:
    model = spec(max_prompt_chars=3, max_images=1)
    model.check(request(prompt="abc"))
    model.check(request(prompt=None))
    assert refusal(model, request(prompt="abcd"))[0] == "prompt"
    assert refusal(model, request(operation=Operation.EDIT, prompt="abc", images=(SENT, SENT)))[0] == "image"


RULE = PixelRule(multiple_of=16, min_side=64, max_side=1024, min_pixels=8192, max_pixels=524_288, max_ratio=4)


@pytest.mark.parametrize(
    ("size", "why"),
    [
        ((64, 128), None),
        ((512, 1024), None),
        ((48, 512), "each side"),
        ((512, 2048), "each side"),
        ((100, 512), "divisible"),
        ((512, 100), "divisible"),
        ((64, 64), "width times height"),
        ((1024, 1024), "width times height"),
        ((64, 272), "long side"),
        ((272, 64), "long side"),
    ],
)
def test_free_sizes_follow_the_rule(size: tuple[int, int], why: str | None) -> None:
    found = RULE.refusal(Dimensions(width=size[0], height=size[1]))
    assert (why in found) if why and found else found is None


@pytest.mark.parametrize(
    ("members", "size", "refused"),
    [
        ({}, "7x7", None),
        ({"sizes": frozenset({"512x512"})}, None, None),
        ({"sizes": frozenset({"512x512"})}, "auto", None),
        ({"sizes": frozenset({"512x512"})}, "512x512", None),
        ({"sizes": frozenset({"512x512"})}, "640x512", "expected one of auto, 512x512"),
        ({"sizes": frozenset({"4:3"}), "pixel_rule": RULE}, "4:3", None),
        ({"sizes": frozenset({"4:3"}), "pixel_rule": RULE}, "640x512", None),
        ({"sizes": frozenset({"4:3"}), "pixel_rule": RULE}, "16:9", "expected one of auto, 4:3"),
        ({"pixel_rule": RULE}, "16:9", "expected WIDTHxHEIGHT"),
        ({"pixel_rule": RULE}, "16x16", "each side must be 64 to 1024 pixels"),
        ({"pixel_rule": RULE}, "0x0", "each side must be 64 to 1024 pixels"),
    ],
)
def test_a_size_is_fixed_or_free_or_refused(members: dict[str, Any], size: str | None, refused: str | None) -> None:
    model = spec(**members)
    if refused is None:
        model.check(request(size=size))
    else:
        assert refusal(model, request(size=size)) == ("size", f"model flux cannot draw size {size!r}: {refused}")


def test_rules_on_combinations_come_last() -> None:
    def rule(asked: ImageRequest) -> UnsupportedFeature | None:
        return UnsupportedFeature("no", param="background") if asked.background == asked.output_format else None

    model = spec(rules=(rule,))
    model.check(request(background="white"))
    assert refusal(model, request(background="jpeg", output_format="jpeg")) == ("background", "no")


TODAY = date(2026, 11, 23)


@pytest.mark.parametrize(
    ("members", "life", "near"),
    [
        ({}, Life.LIVE, False),
        ({"life": Life.LEGACY}, Life.LEGACY, False),
        ({"life": Life.RETIRED}, Life.RETIRED, True),
        ({"shutdown_date": date(2027, 1, 23)}, Life.LIVE, False),
        ({"shutdown_date": date(2027, 1, 22)}, Life.LIVE, True),
        ({"shutdown_date": date(2026, 11, 24), "life": Life.LEGACY}, Life.LEGACY, True),
        ({"shutdown_date": TODAY}, Life.RETIRED, True),
        ({"shutdown_date": date(2026, 1, 1)}, Life.RETIRED, True),
    ],
)
def test_the_date_of_its_end_decides_a_models_life(members: dict[str, Any], life: Life, near: bool) -> None:  # noqa: FBT001 - a parameter of the table
    model = spec(**members)
    assert (model.life_on(TODAY), model.near_its_end(TODAY)) == (life, near)


def test_a_retired_model_is_refused_with_what_can_take_its_place() -> None:
    generation = frozenset({Operation.GENERATION})
    gone = spec(name="old", shutdown_date=date(2026, 10, 23))
    offered = [
        gone,
        spec(name="new", operations=generation),
        spec(name="vary", operations=frozenset({Operation.VARIATION})),
        spec(name="ends", operations=generation, shutdown_date=date(2026, 12, 1)),
        spec(name="legacy", operations=generation, life=Life.LEGACY),
        *(spec(name=f"more-{number}", operations=generation) for number in range(9)),
    ]
    with pytest.raises(UnsupportedFeature) as caught:
        refuse_retired(gone, request(), offered, TODAY)
    assert caught.value.param == "model"
    assert str(caught.value) == (
        "model old was shut down on 2026-10-23; use new, more-0, more-1, more-2, more-3 instead"
    )
    refuse_retired(gone, request(), offered, date(2026, 10, 22))
    with pytest.raises(UnsupportedFeature, match=r"^model old is shut down$"):
        refuse_retired(spec(name="old", life=Life.RETIRED), request(), [], TODAY)


def test_a_ratio_is_one_that_the_model_knows() -> None:
    model = spec(fields=frozenset({"aspect_ratio"}), aspect_ratios=frozenset({"1:1", "16:9"}))
    model.check(request(aspect_ratio="16:9"))
    expected = "model flux has no aspect_ratio '2:1'; expected one of 16:9, 1:1"
    assert refusal(model, request(aspect_ratio="2:1")) == ("aspect_ratio", expected)
