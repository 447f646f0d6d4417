"""Deliveries that are owed to webhook endpoints, written within the transactions of the job store."""

from datetime import datetime
from uuid import uuid4

from safelight.adapters.sql.database import Transaction
from safelight.adapters.sql.rows import to_micros
from safelight.domain.ids import JobId
from safelight.domain.webhook import WebhookEvent

INSERT_DELIVERY = (
    "INSERT INTO webhook_deliveries (id, endpoint_id, job_id, request_id, event, created_at, due_at)"
    " SELECT $2, e.id, j.id, j.request_id, $3, $4, $4 FROM jobs j JOIN webhook_endpoints e ON e.id = j.webhook"
    " WHERE j.id = $1 AND e.events LIKE $5"
)


async def owe(transaction: Transaction, job_id: JobId, events: tuple[WebhookEvent, ...], at: datetime) -> bool:
    """Write down that the job's endpoint is to hear of the first of these events that it wants; whether there is one.

    The caller's transaction lets this happen once: it has just moved the job on.
    """
    for event in events:
        values = (job_id, str(uuid4()), event.value, to_micros(at), f"%,{event.value},%")
        if await transaction.execute(INSERT_DELIVERY, *values):
            return True
    return False
