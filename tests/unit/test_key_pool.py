"""Which keys may be used now."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from structlog.testing import capture_logs

from safelight.application import key_pool
from safelight.application.key_pool import KeyEntry, KeyPool
from safelight.application.ports import ProviderKey
from tests.making import FLUX, NOON, PAID, SPARE, later, new_id

SD = replace(FLUX, model="sd")


def key(name: str | None, weight: float = 1, concurrency: int | None = None) -> KeyEntry:
    return KeyEntry(key=ProviderKey(name=name, value="secret"), weight=weight, concurrency=concurrency)


A, B = key("a"), key("b")


@pytest.fixture
def pool() -> KeyPool:
    return KeyPool(random=Random(3))


def test_keys_are_drawn_by_weight(pool: KeyPool) -> None:
    keys = (key("rare", 1), key("often", 3), key("last", 0))
    drawn = [pool.usable(FLUX, keys, NOON)[0] for _ in range(2000)]
    assert 0.7 < Counter(names[0] for names in drawn)["often"] / 2000 < 0.8
    assert {names[-1] for names in drawn} == {"last"}


def test_a_key_cools_for_the_model_that_was_asked_for(pool: KeyPool) -> None:
    pool.cool(FLUX, "a", later(9))
    assert pool.usable(FLUX, (A,), NOON) == (("a",), {"a": later(9)})
    assert pool.usable(FLUX, (A,), later(9)) == (("a",), {})
    assert pool.usable(SD, (A,), NOON) == (("a",), {})


def test_a_key_that_is_refused_is_out_and_the_operator_is_told_once(pool: KeyPool) -> None:
    with capture_logs() as logs:
        for _ in range(2):
            pool.refuse(FLUX, "a", 401)
    assert [(entry["provider"], entry["key"], entry["log_level"]) for entry in logs] == [("paid", "a", "error")]
    assert "secret" not in str(logs)
    assert pool.usable(SD, (A, B), NOON)[0] == ("b",)
    assert pool.usable(replace(FLUX, provider=SPARE), (A,), NOON)[0] == ("a",)


def test_a_key_without_the_right_is_out_for_that_model_alone(pool: KeyPool) -> None:
    pool.refuse(FLUX, "a", 403)
    assert pool.usable(FLUX, (A, B), NOON)[0] == ("b",)
    assert set(pool.usable(SD, (A, B), NOON)[0]) == {"a", "b"}


def test_where_every_key_is_out_they_are_tried_all_the_same(pool: KeyPool) -> None:
    pool.refuse(FLUX, "a", 401)
    assert pool.usable(FLUX, (A,), NOON)[0] == ("a",)
    pool.refuse(FLUX, "b", 401)
    assert set(pool.usable(FLUX, (A, B), NOON)[0]) == {"a", "b"}


@pytest.mark.parametrize(("name", "status"), [(None, 401), ("a", 402), ("a", None)])
def test_no_key_and_an_empty_account_are_no_reason(pool: KeyPool, name: str | None, status: int | None) -> None:
    pool.refuse(FLUX, name, status)
    assert pool.usable(FLUX, (key(name),), NOON)[0] == (name,)


def test_the_operator_renews_the_keys_of_a_provider(pool: KeyPool) -> None:
    other = replace(FLUX, provider=SPARE)
    for target in (FLUX, other):
        pool.refuse(target, "a", 401)
        pool.cool(target, "b", later(9))
    pool.renew(PAID)
    assert pool.usable(FLUX, (A,), NOON) == (("a",), {})
    assert pool.usable(other, (A, B), NOON) == (("b",), {"b": later(9)})


def test_a_key_has_so_many_places(pool: KeyPool) -> None:
    narrow, first, second = key("a", concurrency=1), new_id(), new_id()
    pool.hold(first, PAID, narrow)
    pool.hold(first, PAID, narrow)
    assert pool.usable(FLUX, (narrow,), NOON) == (("a",), {"a": later(0.5)})
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
        pool.refuse(target, "b", 403)
    assert pool.usable(FLUX, (A,), NOON)[1] == {}
    assert pool.usable(FLUX, (B,), NOON)[0] == ("b",)
