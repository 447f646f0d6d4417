"""Webhook endpoints, and what they are owed, in SQL that every engine accepts."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import uuid4

import msgspec

from safelight.adapters.sql.database import Database, Row, Transaction
from safelight.adapters.sql.jobs import Ring
from safelight.adapters.sql.rows import from_micros, to_micros
from safelight.application.ports import OUTBOX, Booking, DeliveryAttempt, DueEndpoint, EndpointFilter, SecretBox
from safelight.domain.errors import Conflict, Superseded
from safelight.domain.ids import DeliveryId, EndpointId, JobId
from safelight.domain.webhook import (
    Delivery,
    DeliveryLimits,
    EndpointSettings,
    Outcome,
    SigningSecret,
    WebhookEndpoint,
    WebhookEvent,
    pause_reason,
)

_SETTINGS = (
    "owner, name, url, events, headers, include_response, include_links, allow_private_network, disabled, max_retries,"
    " retry_backoff_initial_seconds, retry_backoff_max_seconds, attempt_timeout_seconds, max_concurrent_deliveries,"
    " max_response_payload_kbs"
)
_SETTING_COUNT = _SETTINGS.count(",") + 1
_COLUMNS = (
    f"{_SETTINGS}, id, secrets, config_hash, created_at, updated_at, consecutive_failures, last_success_at,"
    " last_failure_at, failing_since, paused_at, pause_reason"
)
_PENDING = "SELECT count(*) FROM webhook_deliveries d WHERE d.endpoint_id = e.id AND d.due_at IS NOT NULL"
_WITH_PENDING = f"{_COLUMNS}, ({_PENDING})"
_DELIVERY = "id, endpoint_id, job_id, event, created_at, attempts, tries"

INSERT_ENDPOINT = (
    f"INSERT INTO webhook_endpoints ({_SETTINGS}, id, secrets, config_hash, created_at, updated_at)"  # noqa: S608 - columns are constants
    f" VALUES ({', '.join(f'${at + 1}' for at in range(_SETTING_COUNT + 5))}) ON CONFLICT DO NOTHING"
)
NAME_TAKEN = "SELECT 1 FROM webhook_endpoints WHERE name = $1 AND coalesce(owner, '') = $2 AND id <> $3"
REPLACE_ENDPOINT = (
    f"UPDATE webhook_endpoints SET ({_SETTINGS}, config_hash, updated_at)"  # noqa: S608 - as above
    f" = ({', '.join(f'${at + 2}' for at in range(_SETTING_COUNT + 2))}) WHERE id = $1"
)
PUT_SECRETS = "UPDATE webhook_endpoints SET secrets = $2, updated_at = $3 WHERE id = $1"
RESUME = (
    "UPDATE webhook_endpoints SET paused_at = NULL, pause_reason = NULL, consecutive_failures = 0, failing_since = NULL"
    " WHERE id = $1"
)
DELETE_ENDPOINT = "DELETE FROM webhook_endpoints WHERE id = $1"
GIVE_UP_ALL = "UPDATE webhook_deliveries SET due_at = NULL, lease = NULL WHERE endpoint_id = $1 AND due_at IS NOT NULL"
GET_ENDPOINT = f"SELECT {_WITH_PENDING} FROM webhook_endpoints e WHERE id = $1"  # noqa: S608 - as above
GET_RECEIVER = f"SELECT {_COLUMNS} FROM webhook_endpoints WHERE id = $1"  # noqa: S608 - as above
GET_NAMED = (
    f"SELECT {_COLUMNS} FROM webhook_endpoints"  # noqa: S608 - as above
    " WHERE name = $1 AND coalesce(owner, '') IN ('', $2) ORDER BY coalesce(owner, '') DESC LIMIT 1"
)
GET_CONFIGURED = f"SELECT {_COLUMNS} FROM webhook_endpoints WHERE config_hash <> '' ORDER BY name"  # noqa: S608 - as above
FIND_DELIVERY = (
    f"SELECT {_DELIVERY}, due_at FROM webhook_deliveries WHERE id = $1"  # noqa: S608 - as above
    " OR id = (SELECT delivery_id FROM webhook_attempts WHERE id = $1)"
)
QUEUE_AGAIN = "UPDATE webhook_deliveries SET due_at = $2, tries = 0 WHERE id = $1 AND due_at IS NULL"
QUEUE_RANGE = (
    "UPDATE webhook_deliveries SET due_at = $4, tries = 0"
    " WHERE endpoint_id = $1 AND created_at >= $2 AND created_at < $3 AND due_at IS NULL"
)
DUE = (
    "SELECT id, due, max_concurrent_deliveries, attempt_timeout_seconds, consecutive_failures FROM"
    " (SELECT id, max_concurrent_deliveries, attempt_timeout_seconds, consecutive_failures, (SELECT min(due_at) FROM webhook_deliveries d"
    " WHERE d.endpoint_id = e.id AND d.due_at IS NOT NULL) AS due"
    " FROM webhook_endpoints e WHERE disabled = 0 AND paused_at IS NULL) AS owed WHERE due IS NOT NULL ORDER BY due"
)
# The time stands in the outer condition too: where two claim at once, the second sees there what the first has done.
CLAIM = (
    "UPDATE webhook_deliveries SET due_at = $3, lease = $4 WHERE due_at <= $2 AND seq IN"  # noqa: S608 - as above
    " (SELECT seq FROM webhook_deliveries WHERE endpoint_id = $1 AND due_at <= $2 ORDER BY due_at, seq LIMIT $5)"
    f" RETURNING {_DELIVERY}"
)
END_DELIVERY = (
    "UPDATE webhook_deliveries SET due_at = $3, lease = NULL, attempts = attempts + 1, tries = tries + 1"
    " WHERE id = $1 AND lease = $2 RETURNING attempts"
)
INSERT_ATTEMPT = (
    "INSERT INTO webhook_attempts (id, delivery_id, endpoint_id, number, outcome, status_code, error, at)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
)
SUCCEEDED = (
    "UPDATE webhook_endpoints SET consecutive_failures = 0, failing_since = NULL, last_success_at = $2 WHERE id = $1"
)
FAILED = (
    "UPDATE webhook_endpoints SET consecutive_failures = consecutive_failures + 1,"
    " failing_since = coalesce(failing_since, $2), last_failure_at = $2 WHERE id = $1"
    " RETURNING consecutive_failures, failing_since"
)
PAUSE = "UPDATE webhook_endpoints SET paused_at = $2, pause_reason = $3 WHERE id = $1 AND paused_at IS NULL"
DROP_LEASES = "UPDATE webhook_deliveries SET due_at = created_at, lease = NULL WHERE lease IS NOT NULL"
ATTEMPTS = (
    "SELECT a.id, a.delivery_id, a.endpoint_id, d.job_id, d.request_id, d.event, a.number, a.outcome, a.status_code,"
    " a.error, a.at FROM webhook_attempts a JOIN webhook_deliveries d ON d.id = a.delivery_id"
    " WHERE a.endpoint_id = $1 ORDER BY a.seq DESC LIMIT $2 OFFSET $3"
)
COUNT_ATTEMPTS = "SELECT count(*) FROM webhook_attempts WHERE endpoint_id = $1"
OLD_DELIVERIES = "SELECT id FROM webhook_deliveries WHERE created_at < $1 ORDER BY created_at LIMIT $2"
DELETE_ATTEMPTS = "DELETE FROM webhook_attempts WHERE delivery_id = $1"
DELETE_DELIVERY = "DELETE FROM webhook_deliveries WHERE id = $1"


class _Secret(msgspec.Struct, frozen=True, omit_defaults=True):
    value: str
    until: int | None = None


_encode = msgspec.json.Encoder().encode
_headers = msgspec.json.Decoder(dict[str, str])
_secrets = msgspec.json.Decoder(tuple[_Secret, ...])


class SqlWebhookStore:
    """See `WebhookStore`. Whoever makes it closes the database."""

    def __init__(self, database: Database, *, box: SecretBox, ring: Ring = lambda *_: None) -> None:
        """`ring` is for databases that do not tell of their commits by themselves."""
        self._database = database
        self._box = box
        self._ring = ring

    async def add(self, endpoint: WebhookEndpoint) -> None:
        """See `WebhookStore.add`."""
        at = to_micros(endpoint.created_at)
        secrets = self._sealed_secrets(endpoint.secrets)
        values = (*self._settings_values(endpoint.settings), endpoint.id, secrets, endpoint.config_hash, at, at)

        async def write(transaction: Transaction) -> None:
            if not await transaction.execute(INSERT_ENDPOINT, *values):
                raise _taken(endpoint.settings.name)

        await self._database.write(write)

    async def replace(
        self, endpoint_id: EndpointId, settings: EndpointSettings, *, config_hash: str, at: datetime
    ) -> None:
        """See `WebhookStore.replace`."""
        values = (*self._settings_values(settings), config_hash, to_micros(at))

        async def write(transaction: Transaction) -> None:
            if await transaction.fetch_one(NAME_TAKEN, settings.name, settings.owner or "", endpoint_id):
                raise _taken(settings.name)
            await transaction.execute(REPLACE_ENDPOINT, endpoint_id, *values)

        await self._database.write(write, then=self._tell)

    async def put_secrets(self, endpoint_id: EndpointId, secrets: tuple[SigningSecret, ...], *, at: datetime) -> None:
        """See `WebhookStore.put_secrets`."""
        sealed = self._sealed_secrets(secrets)
        await self._database.write(lambda own: own.execute(PUT_SECRETS, endpoint_id, sealed, to_micros(at)))

    async def remove(self, endpoint_id: EndpointId) -> None:
        """See `WebhookStore.remove`."""

        async def write(transaction: Transaction) -> None:
            await transaction.execute(GIVE_UP_ALL, endpoint_id)
            await transaction.execute(DELETE_ENDPOINT, endpoint_id)

        await self._database.write(write)

    async def resume(self, endpoint_id: EndpointId) -> None:
        """See `WebhookStore.resume`."""
        await self._database.write(lambda own: own.execute(RESUME, endpoint_id), then=self._tell)

    async def get(self, endpoint_id: EndpointId) -> WebhookEndpoint | None:
        """See `WebhookStore.get`."""
        row = await self._database.look_up(lambda own: own.fetch_one(GET_ENDPOINT, endpoint_id))
        return self._endpoint(row) if row else None

    async def named(self, name: str, *, owner: str | None) -> WebhookEndpoint | None:
        """See `WebhookStore.named`."""
        row = await self._database.look_up(lambda own: own.fetch_one(GET_NAMED, name, owner or ""))
        return self._endpoint(row) if row else None

    async def configured(self) -> Sequence[WebhookEndpoint]:
        """See `WebhookStore.configured`."""
        return [self._endpoint(row) for row in await self._database.read(lambda own: own.fetch(GET_CONFIGURED))]

    async def endpoints(self, wanted: EndpointFilter) -> tuple[Sequence[WebhookEndpoint], int]:
        """See `WebhookStore.endpoints`."""
        condition, values = _condition(wanted)
        page = f"ORDER BY name, id LIMIT ${len(values) + 1} OFFSET ${len(values) + 2}"
        rows = f"SELECT {_WITH_PENDING} FROM webhook_endpoints e WHERE {condition} {page}"  # noqa: S608 - values are parameters
        count = f"SELECT count(*) FROM webhook_endpoints WHERE {condition}"  # noqa: S608 - as above

        async def read(transaction: Transaction) -> tuple[Sequence[Row], int]:
            found = await transaction.fetch(rows, *values, wanted.limit, wanted.offset)
            return found, await _number(transaction, count, *values)

        found, total = await self._database.read(read)
        return [self._endpoint(row) for row in found], total

    async def attempts(
        self, endpoint_id: EndpointId, *, limit: int, offset: int
    ) -> tuple[Sequence[DeliveryAttempt], int]:
        """See `WebhookStore.attempts`."""

        async def read(transaction: Transaction) -> tuple[Sequence[DeliveryAttempt], int]:
            found = await transaction.fetch(ATTEMPTS, endpoint_id, limit, offset)
            return [_attempt(row) for row in found], await _number(transaction, COUNT_ATTEMPTS, endpoint_id)

        return await self._database.read(read)

    async def delivery(self, some_id: str) -> tuple[Delivery, bool] | None:
        """See `WebhookStore.delivery`."""
        row = await self._database.look_up(lambda own: own.fetch_one(FIND_DELIVERY, some_id))
        return (_delivery(row), row[7] is not None) if row else None

    async def queue_again(self, delivery_id: DeliveryId, *, at: datetime) -> bool:
        """See `WebhookStore.queue_again`."""
        values = (delivery_id, to_micros(at))
        changed = await self._database.write(lambda own: own.execute(QUEUE_AGAIN, *values), then=self._tell)
        return changed == 1

    async def queue_range(self, endpoint_id: EndpointId, *, since: datetime, until: datetime, at: datetime) -> int:
        """See `WebhookStore.queue_range`."""
        values = (endpoint_id, to_micros(since), to_micros(until), to_micros(at))
        return await self._database.write(lambda own: own.execute(QUEUE_RANGE, *values), then=self._tell)

    async def due(self) -> Sequence[DueEndpoint]:
        """See `WebhookStore.due`."""
        return [_due(row) for row in await self._database.read(lambda own: own.fetch(DUE))]

    async def claim(
        self, endpoint_id: EndpointId, *, limit: int, now: datetime, until: datetime, lease: str
    ) -> tuple[WebhookEndpoint, Sequence[Delivery]] | None:
        """See `WebhookStore.claim`."""
        values = (endpoint_id, to_micros(now), to_micros(until), lease, limit)

        async def write(transaction: Transaction) -> tuple[Row | None, Sequence[Row]]:
            claimed = await transaction.fetch(CLAIM, *values)
            return await transaction.fetch_one(GET_RECEIVER, endpoint_id) if claimed else None, claimed

        endpoint, claimed = await self._database.write(write)
        if endpoint is None:
            return None
        return self._endpoint(endpoint), sorted(map(_delivery, claimed), key=lambda delivery: delivery.created_at)

    async def book(self, booking: Booking, *, lease: str) -> str | None:
        """See `WebhookStore.book`."""
        delivery, reply, at = booking.delivery, booking.reply, to_micros(booking.at)
        retry_at = _micros(booking.verdict.retry_at)
        attempt = (booking.verdict.outcome.value, reply.status_code, reply.error, at)

        async def write(transaction: Transaction) -> str | None:
            row = await transaction.fetch_one(END_DELIVERY, delivery.id, lease, retry_at)
            if row is None:
                raise Superseded(f"delivery {delivery.id} was taken up by somebody else")
            attempt_id = str(uuid4())
            await transaction.execute(INSERT_ATTEMPT, attempt_id, delivery.id, delivery.endpoint_id, row[0], *attempt)
            if reply.delivered:
                await transaction.execute(SUCCEEDED, delivery.endpoint_id, at)
                return None
            return await _count_failure(transaction, booking)

        return await self._database.write(write)

    async def drop_leases(self) -> None:
        """See `WebhookStore.drop_leases`."""
        await self._database.write(lambda own: own.execute(DROP_LEASES))

    async def forget(self, *, before: datetime, limit: int) -> int:
        """See `WebhookStore.forget`."""

        async def write(transaction: Transaction) -> int:
            old = [(row[0],) for row in await transaction.fetch(OLD_DELIVERIES, to_micros(before), limit)]
            await transaction.execute_many(DELETE_ATTEMPTS, old)
            await transaction.execute_many(DELETE_DELIVERY, old)
            return len(old)

        return await self._database.write(write)

    def _tell(self) -> None:
        self._ring(OUTBOX)

    def _settings_values(self, settings: EndpointSettings) -> Row:
        """Parameters for `_SETTINGS`."""
        limits = settings.limits
        return (
            settings.owner,
            settings.name,
            settings.url,
            f",{','.join(event.value for event in settings.events)},",
            self._box.seal(_encode(settings.headers).decode()),
            int(settings.include_response),
            int(settings.include_links),
            int(settings.allow_private_network),
            int(settings.disabled),
            limits.max_retries,
            limits.retry_backoff_initial_seconds,
            limits.retry_backoff_max_seconds,
            limits.attempt_timeout_seconds,
            limits.max_concurrent_deliveries,
            limits.max_response_payload_kbs,
        )

    def _sealed_secrets(self, secrets: tuple[SigningSecret, ...]) -> bytes:
        plain = [_Secret(value=secret.value, until=_micros(secret.until)) for secret in secrets]
        return self._box.seal(_encode(plain).decode())

    def _endpoint(self, row: Row) -> WebhookEndpoint:
        """Read a row of `_COLUMNS` or `_WITH_PENDING`."""
        own = row[_SETTING_COUNT:]
        secrets = _secrets.decode(self._box.open(own[1]))
        return WebhookEndpoint(
            id=EndpointId(own[0]),
            settings=_settings(row, _headers.decode(self._box.open(row[4]))),
            secrets=tuple(SigningSecret(value=secret.value, until=_moment(secret.until)) for secret in secrets),
            config_hash=own[2],
            created_at=from_micros(own[3]),
            updated_at=from_micros(own[4]),
            consecutive_failures=own[5],
            last_success_at=_moment(own[6]),
            last_failure_at=_moment(own[7]),
            failing_since=_moment(own[8]),
            paused_at=_moment(own[9]),
            pause_reason=own[10],
            pending=own[11] if len(own) > 11 else 0,
        )


def _micros(moment: datetime | None) -> int | None:
    return None if moment is None else to_micros(moment)


def _moment(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)


async def _count_failure(transaction: Transaction, booking: Booking) -> str | None:
    """Book a failure at the endpoint; why it is paused now, if so."""
    endpoint_id, at = booking.delivery.endpoint_id, to_micros(booking.at)
    row = await transaction.fetch_one(FAILED, endpoint_id, at)
    if row is None:  # removed meanwhile
        return None
    reason = pause_reason(booking.reply, failures=row[0], failing_since=from_micros(row[1]), now=booking.at)
    if reason is not None and await transaction.execute(PAUSE, endpoint_id, at, reason):
        return reason
    return None


async def _number(transaction: Transaction, statement: str, *values: object) -> int:
    row = await transaction.fetch_one(statement, *values)
    assert row is not None  # noqa: S101 - a count always has a row
    number: int = row[0]
    return number


def _condition(wanted: EndpointFilter) -> tuple[str, Sequence[object]]:
    """The condition of a listing and its values."""
    parts, values = ["1 = 1"], list[object]()
    if wanted.search:
        values.append(f"%{wanted.search.lower().translate(_LITERAL)}%")
        parts.append(f"(lower(name) LIKE ${len(values)} ESCAPE '!' OR lower(url) LIKE ${len(values)} ESCAPE '!')")
    if wanted.events:
        values += [f"%,{event.value},%" for event in wanted.events]
        first = len(values) - len(wanted.events) + 1
        parts.append(f"({' OR '.join(f'events LIKE ${first + at}' for at in range(len(wanted.events)))})")
    if wanted.disabled is not None:
        values.append(int(wanted.disabled))
        parts.append(f"disabled = ${len(values)}")
    if wanted.owner is not None:
        values.append(wanted.owner)
        parts.append(f"owner = ${len(values)}")
    return " AND ".join(parts), values


_LITERAL = str.maketrans({character: f"!{character}" for character in "!%_"})


def _taken(name: str) -> Conflict:
    return Conflict(f"there is a webhook endpoint named {name!r} already", param="name")


def _settings(row: Row, headers: Mapping[str, str]) -> EndpointSettings:
    return EndpointSettings(
        owner=row[0],
        name=row[1],
        url=row[2],
        events=tuple(map(WebhookEvent, row[3].strip(",").split(","))),
        headers=headers,
        include_response=bool(row[5]),
        include_links=bool(row[6]),
        allow_private_network=bool(row[7]),
        disabled=bool(row[8]),
        limits=DeliveryLimits(
            max_retries=row[9],
            retry_backoff_initial_seconds=row[10],
            retry_backoff_max_seconds=row[11],
            attempt_timeout_seconds=row[12],
            max_concurrent_deliveries=row[13],
            max_response_payload_kbs=row[14],
        ),
    )


def _due(row: Row) -> DueEndpoint:
    """Read a row of `DUE`."""
    limits = DeliveryLimits(max_concurrent_deliveries=row[2], attempt_timeout_seconds=row[3])
    return DueEndpoint(
        id=EndpointId(row[0]),
        due_at=from_micros(row[1]),
        most_at_once=limits.settled().max_concurrent_deliveries,
        lease=limits.lease,
        failing=row[4] > 0,
    )


def _delivery(row: Row) -> Delivery:
    """Read a row of `_DELIVERY`."""
    return Delivery(
        id=DeliveryId(row[0]),
        endpoint_id=EndpointId(row[1]),
        job_id=JobId(row[2]),
        event=WebhookEvent(row[3]),
        created_at=from_micros(row[4]),
        attempts=row[5],
        tries=row[6],
    )


def _attempt(row: Row) -> DeliveryAttempt:
    """Read a row of `ATTEMPTS`."""
    return DeliveryAttempt(
        id=row[0],
        delivery_id=DeliveryId(row[1]),
        endpoint_id=EndpointId(row[2]),
        job_id=JobId(row[3]),
        request_id=row[4],
        event=WebhookEvent(row[5]),
        number=row[6],
        outcome=Outcome(row[7]),
        status_code=row[8],
        error=row[9],
        at=from_micros(row[10]),
    )
