from dataclasses import replace
from datetime import timedelta

import pytest

from safelight.domain.errors import InvalidRequest
from safelight.domain.job import Ending, JobError, JobStatus
from safelight.domain.money import Charged
from safelight.domain.webhook import (
    DEFAULTS,
    LASTING_FAILURE,
    DeliveryLimits,
    Outcome,
    Reply,
    SigningSecret,
    WebhookEvent,
    backoff_s,
    events_of,
    judge,
    pause_reason,
)
from tests.making import NOON, endpoint, later

PLAIN = DeliveryLimits()


class TestSchedule:
    def test_lasts_three_days(self) -> None:
        for jitter in (0.0, 0.5, 0.999):
            waits = [backoff_s(PLAIN, retry=retry, jitter=jitter) for retry in range(1, DEFAULTS.max_retries + 1)]
            days = sum(waits) / 86_400
            assert 3 * 0.8 <= days <= 3.1 * 1.2
        assert waits == sorted(waits)

    def test_doubles_up_to_its_maximum(self) -> None:
        limits = DeliveryLimits(retry_backoff_initial_seconds=30, retry_backoff_max_seconds=1800)
        waits = [backoff_s(limits, retry=retry, jitter=0.5) for retry in (1, 2, 3, 6, 7, 8, 5000)]
        assert waits == [30, 60, 120, 960, 1800, 1800, 1800]

    def test_a_fifth_more_or_less(self) -> None:
        assert [backoff_s(PLAIN, retry=1, jitter=jitter) for jitter in (0.0, 0.5)] == pytest.approx([24, 30])
        assert backoff_s(PLAIN, retry=1, jitter=0.999) == pytest.approx(36, abs=0.1)

    def test_zero_means_the_default(self) -> None:
        assert PLAIN.settled() == DEFAULTS
        assert DeliveryLimits(max_retries=1).settled() == replace(DEFAULTS, max_retries=1)

    @pytest.mark.parametrize(("timeout_s", "lease_s"), [(0, 30), (10, 30), (16, 32), (60, 120)])
    def test_a_lease_is_twice_the_timeout(self, timeout_s: int, lease_s: int) -> None:
        assert DeliveryLimits(attempt_timeout_seconds=timeout_s).lease == timedelta(seconds=lease_s)


class TestVerdict:
    @pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
    def test_delivered(self, status: int) -> None:
        verdict = judge(Reply(status_code=status), PLAIN, tries=1, now=NOON, jitter=0.5)
        assert (verdict.outcome, verdict.retry_at) == (Outcome.DELIVERED, None)

    @pytest.mark.parametrize("status", [None, 408, 429, 500, 502, 503, 599])
    def test_tried_again(self, status: int | None) -> None:
        verdict = judge(Reply(status_code=status), PLAIN, tries=2, now=NOON, jitter=0.5)
        assert (verdict.outcome, verdict.retry_at) == (Outcome.RETRYABLE_FAILURE, later(60))

    @pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 403, 404, 410, 422])
    def test_given_up(self, status: int) -> None:
        verdict = judge(Reply(status_code=status), PLAIN, tries=1, now=NOON, jitter=0.5)
        assert (verdict.outcome, verdict.retry_at) == (Outcome.PERMANENT_FAILURE, None)

    def test_exhausted_when_the_retries_are_spent(self) -> None:
        limits = DeliveryLimits(max_retries=4)
        outcomes = [judge(Reply(), limits, tries=tries, now=NOON, jitter=0.5).outcome for tries in (4, 5)]
        assert outcomes == [Outcome.RETRYABLE_FAILURE, Outcome.EXHAUSTED]

    @pytest.mark.parametrize(("told_s", "wait_s"), [(1, 30), (120, 120), (10**9, 86_400)])
    def test_retry_after_is_honoured_within_reason(self, told_s: float, wait_s: float) -> None:
        reply = Reply(status_code=429, retry_after_s=told_s)
        assert judge(reply, PLAIN, tries=1, now=NOON, jitter=0.5).retry_at == later(wait_s)


class TestPause:
    def test_when_the_receiver_is_gone(self) -> None:
        assert pause_reason(Reply(status_code=410), failures=1, failing_since=NOON, now=NOON)

    def test_when_failure_lasts(self) -> None:
        since, reply = NOON - LASTING_FAILURE, Reply(status_code=500)
        assert pause_reason(reply, failures=10, failing_since=since, now=NOON)
        assert not pause_reason(reply, failures=9, failing_since=since, now=NOON)
        assert not pause_reason(reply, failures=99, failing_since=since + timedelta(seconds=1), now=NOON)


class TestEvents:
    @pytest.mark.parametrize(
        ("code", "heard"),
        [
            (None, (WebhookEvent.COMPLETED,)),
            ("provider_busy", (WebhookEvent.FAILED,)),
            ("job_cancelled", (WebhookEvent.CANCELLED, WebhookEvent.FAILED)),
        ],
    )
    def test_of_an_end(self, code: str | None, heard: tuple[WebhookEvent, ...]) -> None:
        error = JobError(status_code=499, code=code, message="no") if code else None
        assert events_of(Ending(completed_at=NOON, charged=Charged.NO, cost_micros=None, error=error)) == heard

    def test_each_tells_of_a_state(self) -> None:
        assert {event.job_status for event in WebhookEvent} == set(JobStatus) - {JobStatus.PENDING}


class TestSecrets:
    def test_both_sign_while_one_follows_the_other(self) -> None:
        it = endpoint(secrets=(SigningSecret(value="old"),))
        it = replace(it, secrets=it.rotated("new", NOON, timedelta(seconds=60)))
        assert it.signing(later(59)) == ("new", "old")
        assert it.signing(later(60)) == ("new",)

    def test_rotating_twice_keeps_what_still_signs(self) -> None:
        it = endpoint(secrets=(SigningSecret(value="1"),))
        for seconds, fresh in ((0, "2"), (10, "3")):
            it = replace(it, secrets=it.rotated(fresh, later(seconds), timedelta(seconds=60)))
        assert [(secret.value, secret.until) for secret in it.secrets] == [
            ("3", None),
            ("2", later(70)),
            ("1", later(60)),
        ]
        it = replace(it, secrets=it.rotated("4", later(65), timedelta(seconds=60)))
        assert it.signing(later(65)) == ("4", "3", "2")

    def test_without_an_overlap_the_old_one_dies_at_once(self) -> None:
        it = endpoint(secrets=(SigningSecret(value="1"), SigningSecret(value="0", until=later(5))))
        assert it.rotated("2", NOON, timedelta()) == (SigningSecret(value="2"),)

    def test_never_print(self) -> None:
        assert "sesame" not in repr(endpoint(secrets=(SigningSecret(value="sesame"),), headers={"a": "sesame"}))


@pytest.mark.parametrize(
    "members",
    [
        {"name": ""},
        {"name": " a"},
        {"name": "ä"},
        {"name": "a\n"},
        {"name": "x" * 101},
        {"events": ()},
        {"events": (WebhookEvent.FAILED, WebhookEvent.FAILED)},
        {"url": "http://hooks.example/"},
        {"url": "ftp://hooks.example/", "allow_private_network": True},
        {"url": "hooks.example"},
        {"url": "https://"},
        {"url": "https://hooks.example:99999/"},
        {"url": "https://hooks.example:0/"},
        {"url": "https://[::1/"},
        {"url": "https://me:secret@hooks.example/"},
        {"url": "https://hooks.example/#part"},
        {"url": "https://hooks.example/#"},
        {"url": "https://hooks.example/a b"},
        {"url": "https://hooks.example/\nx"},
        {"url": f"https://hooks.example/{'x' * 2000}"},
        {"headers": {"Webhook-Id": "x"}},
        {"headers": {"webhook-timestamp": "x"}},
        {"headers": {"webhook-signature": "x"}},
        {"headers": {"X-Bifrost-Event": "x"}},
        {"headers": {"Content-Type": "x"}},
        {"headers": {"Content-Length": "1"}},
        {"headers": {"User-Agent": "x"}},
        {"headers": {"Host": "x"}},
        {"headers": {"Connection": "x"}},
        {"headers": {"Transfer-Encoding": "x"}},
        {"headers": {"a b": "x"}},
        {"headers": {"": "x"}},
        {"headers": {"a": "x\r\nb: y"}},
        {"headers": {"a": ""}},
        {"headers": {"a": "x", "A": "y"}},
        {"headers": {f"h{number}": "x" for number in range(33)}},
    ],
)
def test_settings_that_cannot_be(members: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        endpoint(**members)
    assert refused.value.param in {"name", "events", "url", "headers"}


@pytest.mark.parametrize(
    "members",
    [
        {"name": "Orders, EU (2)"},
        {"url": "http://10.0.0.1:8080/hook?x=1", "allow_private_network": True},
        {"url": "https://hooks.example:8443"},
        {"headers": {"Authorization": "Bearer abc", "X-Tenant": "a b"}},
        {"events": tuple(WebhookEvent)},
    ],
)
def test_settings_that_can(members: dict[str, object]) -> None:
    assert all(getattr(endpoint(**members).settings, name) == value for name, value in members.items())
