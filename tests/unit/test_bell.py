"""Waking whoever waits."""

import asyncio

from safelight.adapters.bell import LocalBell
from tests.making import new_id


async def test_a_ring_wakes_all_who_listen_for_that_job() -> None:
    bell = LocalBell()
    first, second, other = bell.listen(job := new_id()), bell.listen(job), bell.listen(new_id())
    bell.ring(job)
    assert (first.done(), second.done(), other.done()) == (True, True, False)
    bell.ring(job)


async def test_a_ring_that_nobody_heard_is_forgotten() -> None:
    bell = LocalBell()
    bell.ring(job := new_id())
    assert not bell.listen(job).done()


async def test_a_listener_that_left_in_the_same_turn_is_passed_over() -> None:
    bell = LocalBell()
    left, stays = bell.listen(job := new_id()), bell.listen(job)
    left.cancel()
    bell.ring(job)
    assert stays.done()
    await asyncio.sleep(0)
    assert not bell._waiting


async def test_a_silenced_bell_keeps_nobody() -> None:
    bell = LocalBell()
    before = bell.listen(new_id())
    bell.silence()
    assert before.done()
    assert bell.listen(new_id()).done()
