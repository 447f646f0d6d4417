"""The batch routes: thousands of generations handed in as one."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from safelight.api import fields
from safelight.api import headers as said
from safelight.api.batch_intake import BatchIntake
from safelight.api.errors import error_body, json_response
from safelight.api.identity import caller_of, submitter_of
from safelight.api.job_routes import renderer
from safelight.api.jobs import JobRenderer, timestamp
from safelight.api.services import services_of
from safelight.api.webhooks import named_webhook
from safelight.domain.batch import Batch, BatchProgress, BatchResult
from safelight.domain.errors import InvalidRequest, NotFound, PolicyRefusal, RequestError, StorageError
from safelight.domain.ids import BatchId
from safelight.domain.job import Idempotency

BATCHES = "/v1/async/batches"
_BATCH_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NUMBER = re.compile(r"[0-9]{1,15}")
_USUAL_PAGE, _LARGEST_PAGE = 100, 1000
_ASK_AGAIN = {"Retry-After": "1"}


def batch_routes() -> list[Route]:
    """All six of them."""
    routes = [
        Route(BATCHES, _all, methods=["GET", "POST"]),
        Route(f"{BATCHES}/{{batch_id}}", _read, methods=["GET"]),
        Route(f"{BATCHES}/{{batch_id}}/results", _results, methods=["GET"]),
        Route(f"{BATCHES}/{{batch_id}}/cancel", _cancel, methods=["POST"]),
        Route(f"{BATCHES}/{{batch_id}}/retry-failed", _retry_failed, methods=["POST"]),
    ]
    for route in routes:
        route.methods = (route.methods or set()) - {"HEAD"}
    return routes


async def _all(request: Request) -> Response:
    return await (_submit if request.method == "POST" else _list)(request)


async def _submit(request: Request) -> Response:
    """Read, check and store; a refusal leaves nothing behind."""
    services = services_of(request)
    grant = await submitter_of(request)
    caller = grant.caller if grant else await caller_of(request)
    intake = BatchIntake(request, services, grant)
    storing = stored = False
    try:
        webhook = await named_webhook(request, grant)
        key = fields.idempotency_key("Idempotency-Key", request.headers.get("idempotency-key"))
        received = await intake.read()
        batch = Batch(
            id=intake.batch_id,
            request_id=said.request_id(request.headers),
            lines=received.lines,
            total=received.total,
            created_at=services.batches.clock.now(),
            ttl_s=said.result_ttl_s(
                request.headers, default=services.limits.batch_ttl_s, maximum=services.limits.max_result_ttl_s
            ),
            owner=caller.owner,
            team=caller.team,
            webhook=webhook,
            metadata=said.labels(request.headers),
            idempotency=Idempotency(key=key, fingerprint=received.fingerprint) if key else None,
        )
        storing = True
        accepted = await services.batches.accept(batch, received.terms)
        storing, stored = False, accepted.id == batch.id
    except (RequestError, PolicyRefusal, StorageError):
        storing = False
        raise
    finally:
        # Cancelled while it was being stored, the batch may be there: its lines stay, and the sweeper looks again.
        if not (storing or stored):
            await intake.drop()
    progress = await services.batches.read(accepted.id, caller)
    replayed = {} if stored else {"Idempotent-Replayed": "true"}
    headers = {**_ASK_AGAIN, **replayed, "Location": f"{BATCHES}/{accepted.id}", "x-request-id": accepted.request_id}
    return json_response(batch_body(progress), 202, headers)


async def _list(request: Request) -> Response:
    before = _number(request, "cursor")
    page = await services_of(request).batches.page(await caller_of(request), before=before, limit=_limit(request))
    return _page([batch_body(each) for each in page.batches], page.next_before)


async def _read(request: Request) -> Response:
    return _told(await services_of(request).batches.read(_batch_id(request), await caller_of(request)))


async def _cancel(request: Request) -> Response:
    return _told(await services_of(request).batches.cancel(_batch_id(request), await caller_of(request)))


async def _retry_failed(request: Request) -> Response:
    return _told(await services_of(request).batches.retry_failed(_batch_id(request), await caller_of(request)))


async def _results(request: Request) -> Response:
    page = await services_of(request).batches.results(
        _batch_id(request), await caller_of(request), after=_number(request, "cursor") or 0, limit=_limit(request)
    )
    jobs = renderer(request)
    return _page([_line(result, jobs, page.batch) for result in page.results], page.next_after)


def _told(progress: BatchProgress) -> Response:
    return json_response(batch_body(progress), 200, _ASK_AGAIN if progress.open else {})


def _page(data: Sequence[Mapping[str, Any]], cursor: int | None) -> Response:
    return json_response({"object": "list", "data": data, "next_cursor": None if cursor is None else str(cursor)})


def batch_body(progress: BatchProgress) -> Mapping[str, Any]:
    """A batch as it is, without what is not known yet."""
    batch = progress.batch
    moments = {"completed_at": batch.completed_at, "cancelled_at": batch.cancelled_at, "expires_at": batch.expires_at}
    return {
        "id": batch.id,
        "object": "batch",
        "request_id": batch.request_id,
        "status": progress.status.value,
        "total": batch.total,
        "counts": progress.counts,
        "created_at": timestamp(batch.created_at),
        **{name: timestamp(moment) for name, moment in moments.items() if moment is not None},
        **({"metadata": batch.metadata} if batch.metadata else {}),
    }


def _line(result: BatchResult, jobs: JobRenderer, batch: Batch) -> Mapping[str, Any]:
    """What became of a line: its job with links to its pictures, or why there is none."""
    if result.job is not None:
        return {"line": result.number, "job": jobs.listed(result.job)}
    return {"line": result.number, "error": _NEVER_STARTED if result.number > batch.fed_lines else _GONE}


_NEVER_STARTED = error_body(
    message="the batch was cancelled before this line started", status=499, code="job_cancelled", gateway_fault=True
)
_GONE = error_body(message="the result of this line has expired, or was deleted", status=404, code="result_expired")


def _batch_id(request: Request) -> BatchId:
    """The id in the path; what cannot be one names no batch."""
    batch_id = request.path_params["batch_id"]
    if not _BATCH_ID.fullmatch(batch_id):
        raise NotFound("batch not found or expired")
    return BatchId(batch_id)


def _limit(request: Request) -> int:
    limit = _number(request, "limit")
    if limit is not None and not 1 <= limit <= _LARGEST_PAGE:
        raise InvalidRequest(f"limit must be 1 to {_LARGEST_PAGE}", param="limit")
    return limit or _USUAL_PAGE


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise InvalidRequest(
            f"{name} must be a whole number" if name == "limit" else f"{name} is not one of ours", param=name
        )
    return int(text)
