from typing import Any

import pytest

from safelight.adapters.providers._ratios import asked_ratio, nearest_ratio, ratio_value, size_of_ratio
from safelight.domain.capability import PixelRule
from safelight.domain.image import Dimensions
from tests.providers.support import generation, size


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16:9", 16 / 9),
        ("1:1", 1),
        ("19.5:9", 19.5 / 9),
        ("auto", None),
        ("1:0", None),
        ("0:1", None),
        ("1024x768", None),
    ],
)
def test_a_ratio_is_read(text: str, value: float | None) -> None:
    assert ratio_value(text) == value


@pytest.mark.parametrize(
    ("more", "asked"),
    [
        ({}, None),
        ({"size": "auto", "aspect_ratio": "auto"}, None),
        ({"size": "1024x768"}, None),
        ({"size": "2K"}, None),
        ({"size": "4:3"}, "4:3"),
        ({"size": "4:3", "aspect_ratio": "3:4"}, "3:4"),
        ({"size": "4:3", "aspect_ratio": "auto"}, "4:3"),
    ],
)
def test_what_the_caller_spells_out(more: dict[str, Any], asked: str | None) -> None:
    assert asked_ratio(generation("model", **more)) == asked


@pytest.mark.parametrize(
    ("wanted", "ratio"),
    [(size(1024, 1024), "1:1"), (size(1792, 1024), "16:9"), (size(1024, 1792), "9:16"), (size(500, 480), "1:1")],
)
def test_the_nearest_is_the_same_lying_or_standing(wanted: Dimensions, ratio: str) -> None:
    assert nearest_ratio(wanted, ["auto", "1:1", "16:9", "9:16", "4:3"]) == ratio


def test_among_none_there_is_no_nearest() -> None:
    assert nearest_ratio(size(8, 8), ["auto"]) is None


@pytest.mark.parametrize(
    ("ratio", "rule", "expected"),
    [
        ("1:1", PixelRule(multiple_of=16), size(1024, 1024)),
        ("16:9", PixelRule(multiple_of=16), size(1360, 768)),
        ("9:16", PixelRule(multiple_of=16), size(768, 1360)),
        ("21:9", PixelRule(multiple_of=32, max_side=1440), size(1440, 608)),
        ("1000:1", PixelRule(multiple_of=16), size(16_384, 16)),
    ],
)
def test_a_size_stays_within_its_pixels(ratio: str, rule: PixelRule, expected: Dimensions) -> None:
    made = size_of_ratio(ratio, rule, pixels=1024 * 1024)
    assert made == expected
    assert made.pixels <= 1024 * 1024
