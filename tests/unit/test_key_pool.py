"""Which keys may be used now."""

from collections import Counter
from datetime import datetime
from random import Random

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from safelight.application import key_pool
from safelight.application.key_pool import KeyEntry, KeyPool
from safelight.application.ports import ProviderKey
from safelight.domain.image import Target
from tests.making import FLUX, NOON, PAID, SPARE, later, new_id

SD = replace(FLUX, model="sd")


def key(name: str | None, weight: float = 1, concurrency: int | None = None) -> KeyEntry:
    return KeyEntry(key=ProviderKey(name=name, value="secret"), weight=weight, concurrency=concurrency)


A, B = key("a"), key("b")


@pytest.fixture
def pool() -> KeyPool:
    return KeyPool(random=Random(3))


def free_at(pool: KeyPool, target: Target, entry: KeyEntry, now: datetime = NOON) -> datetime | None:
    """When a key may be used at the earliest: the least of many draws."""
    waits = [pool.usable(target, (entry,), now)[1].get(entry.key.name) for _ in range(200)]
    found = [wait for wait in waits if wait is not None]
    assert len(found) in {0, 200}
    if not found:
        return None
    least = min(found)
    assert max(found) - least <= (least - now) * 0.25
    return least.replace(microsecond=round(least.microsecond, -5) % 1_000_000)


def test_keys_are_drawn_by_weight(pool: KeyPool) -> None:
    keys = (key("rare", 1), key("often", 3), key("last", 0))
    drawn = [pool.usable(FLUX, keys, NOON)[0] for _ in range(2000)]
    assert 0.7 < Counter(names[0] for names in drawn)["often"] / 2000 < 0.8
    assert {names[-1] for names in drawn} == {"last"}


def test_a_key_cools_for_the_model_that_was_asked_for(pool: KeyPool) -> None:
    pool.cool(FLUX, "a", later(9))
    assert free_at(pool, FLUX, A) == later(9)
    assert pool.usable(FLUX, (A,), later(9)) == (("a",), {})
    assert pool.usable(SD, (A,), NOON) == (("a",), {})


def test_a_key_that_is_refused_is_out_and_the_operator_is_told_once(pool: KeyPool) -> None:
    with capture_logs() as logs:
        for _ in range(2):
            pool.refuse(FLUX, "a", 401, NOON)
    assert [(entry["provider"], entry["key"], entry["log_level"]) for entry in logs] == [("paid", "a", "error")]
    assert "secret" not in str(logs)
    assert pool.usable(SD, (A, B), NOON)[0] == ("b",)
    assert pool.usable(replace(FLUX, provider=SPARE), (A,), NOON)[0] == ("a",)


def test_a_key_without_the_right_is_out_for_that_model_alone(pool: KeyPool) -> None:
    pool.refuse(FLUX, "a", 403, NOON)
    assert pool.usable(FLUX, (A, B), NOON)[0] == ("b",)
    assert set(pool.usable(SD, (A, B), NOON)[0]) == {"a", "b"}


def test_where_every_key_is_out_they_are_tried_all_the_same(pool: KeyPool) -> None:
    pool.refuse(FLUX, "a", 401, NOON)
    assert pool.usable(FLUX, (A,), NOON)[0] == ("a",)
    pool.refuse(FLUX, "b", 401, NOON)
    assert set(pool.usable(FLUX, (A, B), NOON)[0]) == {"a", "b"}


def test_where_there_is_no_key_there_is_none_to_take_out(pool: KeyPool) -> None:
    pool.refuse(FLUX, None, 401, NOON)
    assert pool.usable(FLUX, (key(None), A), NOON)[0][0] in {None, "a"}
    assert len(pool.usable(FLUX, (key(None), A), NOON)[0]) == 2


@pytest.mark.parametrize("status", [400, 402, 429, None])
def test_an_empty_account_is_left_alone_for_a_while(pool: KeyPool, status: int | None) -> None:
    with capture_logs() as logs:
        pool.refuse(FLUX, "a", status, NOON)
        pool.refuse(FLUX, "a", status, later(299))
    assert [entry["remedy"] for entry in logs] == ["fill the account"]
    assert pool.usable(SD, (A, B), later(299))[0] == ("b",)
    assert set(pool.usable(SD, (A, B), later(300))[0]) == {"a", "b"}
    pool.refuse(FLUX, "a", status, later(300))
    assert pool.usable(SD, (A, B), later(599))[0] == ("b",)


def test_the_operator_renews_the_keys_of_a_provider(pool: KeyPool) -> None:
    other = replace(FLUX, provider=SPARE)
    for target in (FLUX, other):
        pool.refuse(target, "a", 401, NOON)
        pool.cool(target, "b", later(9))
    pool.renew(PAID)
    assert pool.usable(FLUX, (A,), NOON) == (("a",), {})
    assert pool.usable(other, (A, B), NOON)[0] == ("b",)
    assert free_at(pool, other, B) == later(9)


def test_a_key_has_so_many_places(pool: KeyPool) -> None:
    narrow, first, second = key("a", concurrency=1), new_id(), new_id()
    pool.hold(first, PAID, narrow)
    pool.hold(first, PAID, narrow)
    assert free_at(pool, FLUX, narrow) == later(0.5)
    pool.release(second)
    pool.release(first)
    assert pool.usable(FLUX, (narrow,), NOON) == (("a",), {})
    pool.hold(first, PAID, A)
    pool.hold(first, PAID, None)
    assert pool.usable(FLUX, (A,), NOON) == (("a",), {})


def test_what_is_remembered_does_not_grow_without_end(pool: KeyPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_pool, "_MOST_REMEMBERED", 1)
    for target in (FLUX, SD):
        pool.cool(target, "a", later(9))
        pool.refuse(target, "b", 403, NOON)
    assert pool.usable(FLUX, (A,), NOON)[1] == {}
    assert pool.usable(FLUX, (B,), NOON)[0] == ("b",)
