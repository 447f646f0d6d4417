"""Ids of jobs."""

import os
from datetime import timedelta
from uuid import UUID

from safelight.domain.ids import new_job_id, uuid_of
from tests.making import NOON


def test_a_job_id_is_a_uuid_of_version_4() -> None:
    for noise in (bytes(10), b"\xff" * 10, os.urandom(10)):
        made = new_job_id(NOON, noise)
        assert (len(made), made) == (36, str(UUID(made)))
        assert (UUID(made).version, UUID(made).variant) == (4, UUID(int=0, version=4).variant)


def test_a_uuid_is_what_the_library_makes_of_the_bytes() -> None:
    for content in (bytes(16), b"\xff" * 16, *(os.urandom(16) for _ in range(100))):
        assert uuid_of(content) == str(UUID(bytes=content, version=4))


def test_ids_of_one_moment_differ() -> None:
    assert len({new_job_id(NOON, os.urandom(10)) for _ in range(1000)}) == 1000


def test_later_jobs_come_later_in_an_index() -> None:
    made = [new_job_id(NOON + timedelta(milliseconds=ms), os.urandom(10)) for ms in (0, 1, 2, 1000, 10**10)]
    assert made == sorted(made)
