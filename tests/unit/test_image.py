"""Requests, sizes and names."""

import pytest

from safelight.domain.ids import JobId, blob_job, blob_key, blob_name
from safelight.domain.image import Dimensions
from tests.making import FLUX, NOON, OTHER, new_id, request


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("1536x1024", Dimensions(width=1536, height=1024)),
        ("0x7", Dimensions(width=0, height=7)),
        *((size, None) for size in (None, "", "auto", "16:9", "2K", "x", "1x", "x1", "1x1x1", "-1x1", "1.5x2", "٣x٣")),
        ("9" * 5000 + "x1", None),
    ],
)
def test_a_size_in_pixels_is_read(size: str | None, expected: Dimensions | None) -> None:
    assert request(size=size).pixel_size == expected


def test_dimensions_are_spelled_as_on_the_wire() -> None:
    assert str(Dimensions(width=3, height=2)) == "3x2"
    assert Dimensions(width=3, height=2).pixels == 6


def test_targets_are_the_asked_one_and_then_the_fallbacks() -> None:
    asked = request(fallbacks=(OTHER,))
    assert asked.targets == (FLUX, OTHER)
    assert [str(target) for target in asked.targets] == ["paid/flux", "spare/sd"]


@pytest.mark.parametrize(("n", "count"), [(None, 1), (1, 1), (4, 4)])
def test_one_picture_is_wanted_where_nothing_is_said(n: int | None, count: int) -> None:
    assert request(n=n).count == count


def test_a_blobs_key_tells_its_job_and_its_name() -> None:
    job_id: JobId = new_id()
    key = blob_key(NOON, job_id, "ab-cd")
    assert key == f"2026112312/{job_id}-ab-cd"
    assert blob_job(key) == job_id
    assert blob_name(key) == "ab-cd"


@pytest.mark.parametrize(
    ("seed", "further"), [(None, None), (0, 3), (7, 10), (2**31 - 1, 2**31 - 4), (2**63 - 1, 2**63 - 4), (-1, -1)]
)
def test_further_pictures_have_other_seeds_that_no_provider_finds_too_large(
    seed: int | None, further: int | None
) -> None:
    assert request(seed=seed).further(3) == request(seed=further)
