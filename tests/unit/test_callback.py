"""What follows from a provider's call back."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from safelight.adapters.sql.jobs import SqlJobStore
from safelight.application.callback import CallbackAddresses, TakeCallback
from safelight.application.ports import Call
from safelight.application.provider_entry import ProviderEntry
from safelight.domain.errors import InvalidRequest, NotFound, Superseded
from safelight.domain.ids import JobId, ProviderName
from safelight.domain.job import AttemptState, Job
from safelight.domain.schedule import RetryPolicy
from tests.doubles import FakeClock, FaultyStore, ScriptedProvider
from tests.making import PAID, SPARE, job, later, new_id, started


class Listening(ScriptedProvider):
    """Takes what says `yes`."""

    def __init__(self) -> None:
        super().__init__()
        self.read = 0

    async def read_callback(self, headers: Mapping[str, str], body: bytes, call: Call) -> None:
        del headers, call
        self.read += 1
        if body != b"yes":
            raise InvalidRequest("not signed")


class Woken:
    def __init__(self) -> None:
        self.ids: list[JobId] = []

    def wake(self, job_id: JobId, *, lane: ProviderName, at: Any, **_: Any) -> None:
        assert (lane, at) == (PAID, later(5))
        self.ids.append(job_id)


class Office:
    def __init__(self, store: SqlJobStore) -> None:
        self.store = FaultyStore(store)
        self.provider = Listening()
        self.queue = Woken()
        entry = ProviderEntry(
            provider=self.provider, keys=(), repeatable=False, retry=RetryPolicy(), concurrency=1, callbacks=True
        )
        self.addresses = CallbackAddresses(key=b"k" * 32, public_url="https://gw.example/images/")
        wanted: dict[str, Any] = {"store": self.store, "queue": self.queue, "call_of": lambda *_: None}
        self.take = TakeCallback(
            clock=FakeClock(later(5)),
            providers={PAID: entry, SPARE: replace(entry, callbacks=False)},
            addresses=self.addresses,
            **wanted,
        )

    async def accepted(self) -> Job:
        new = job()
        await self.store.submit(new)
        await self.store.start_attempt(new.id, started())
        attempt = structs.replace(started(), state=AttemptState.ACCEPTED, handle="h")
        await self.store.accept_attempt(new.id, attempt, due_at=later(3600))
        return new


@pytest.fixture
def office(store: SqlJobStore) -> Office:
    return Office(store)


async def test_the_job_is_taken_up_now(office: Office) -> None:
    new = await office.accepted()
    await office.take.apply(PAID, new.id, {}, b"yes")
    assert office.queue.ids == [new.id]
    assert (await office.store.get(new.id)).due_at == later(5)


async def test_a_wrong_signature_changes_nothing(office: Office) -> None:
    new = await office.accepted()
    with pytest.raises(InvalidRequest):
        await office.take.apply(PAID, new.id, {}, b"no")
    assert office.queue.ids == []
    assert (await office.store.get(new.id)).due_at == later(3600)


async def test_without_work_that_was_taken_there_is_nothing_to_ask_for(office: Office) -> None:
    new = job()
    await office.store.submit(new)
    for job_id in (new_id(), new.id):
        await office.take.apply(PAID, job_id, {}, b"yes")
    await office.store.start_attempt(new.id, started())
    await office.take.apply(PAID, new.id, {}, b"yes")
    await office.take.apply(SPARE, (await office.accepted()).id, {}, b"yes")
    assert (office.provider.read, office.queue.ids) == (0, [])


async def test_a_job_that_moves_on_meanwhile_is_left_alone(office: Office) -> None:
    new = await office.accepted()
    office.store.fail("bring_forward", Superseded("ended"))
    await office.take.apply(PAID, new.id, {}, b"yes")
    assert office.queue.ids == []


def test_an_address_is_known_by_its_token(office: Office) -> None:
    first, second = new_id(), new_id()
    address = office.addresses.of(PAID, first)
    head, _, token = address.url.partition("?token=")
    assert head == f"https://gw.example/images/v1/callbacks/{PAID}/{first}"
    assert token not in {address.secret, ""}
    assert address.secret not in repr(address)
    assert token not in repr(address)
    office.take.expects(PAID, first, token)
    for provider, job_id, shown in (
        (PAID, second, token),
        (SPARE, first, office.addresses.of(SPARE, first).url.partition("?token=")[2]),
        (ProviderName("nobody"), first, token),
        (PAID, first, address.secret),
        (PAID, first, ""),
    ):
        with pytest.raises(NotFound):
            office.take.expects(provider, job_id, shown)


def test_where_nobody_knows_the_way_in_there_are_no_callbacks(office: Office) -> None:
    token = office.addresses.of(PAID, new_id()).url.partition("?token=")[2]
    with pytest.raises(NotFound):
        replace(office.take, addresses=None).expects(PAID, new_id(), token)
