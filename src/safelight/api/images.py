"""The image routes: submit, and the OpenAI routes that await the same job."""

from collections.abc import Awaitable, Callable, Mapping

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from safelight.api import fields
from safelight.api import headers as said
from safelight.api.access import request_id_of
from safelight.api.body import BodyError, ClientDisconnected, drop_body
from safelight.api.errors import error_body, json_response, refused, unavailable
from safelight.api.identity import submitter_of
from safelight.api.intake import Intake
from safelight.api.job_routes import renderer, still_running
from safelight.api.jobs import PATHS, location
from safelight.api.services import Services, services_of
from safelight.api.webhooks import named_webhook
from safelight.application.submit import Receipt, Submission
from safelight.application.sweep import drop_images
from safelight.domain.access import Grant
from safelight.domain.caller import Caller
from safelight.domain.errors import PolicyRefusal, RequestError, StorageError
from safelight.domain.ids import new_job_id
from safelight.domain.image import Operation
from safelight.log_context import current_job, current_trace
from safelight.randomness import random_bytes

log = structlog.get_logger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]


def image_routes() -> list[Route]:
    """All six of them."""
    routes: list[Route] = []
    for operation, path in PATHS.items():
        routes.append(Route(path, _submit(operation), methods=["POST"]))
        routes.append(Route(path.replace("/async", ""), _awaited(operation), methods=["POST"]))
    return routes


def _submit(operation: Operation) -> Endpoint:
    async def submit(request: Request) -> Response:
        receipt = await _accept(request, operation, passes_extra=_wants_extra(request))
        if isinstance(receipt, Response):
            return receipt
        job = receipt.job.as_submitted() if receipt.replayed else receipt.job
        headers = {"Location": location(job), "x-request-id": job.request_id, **_replayed(receipt)}
        return await still_running(services_of(request), job, headers=headers)

    return submit


def _awaited(operation: Operation) -> Endpoint:
    async def run(request: Request) -> Response:
        wait_s = said.wanted_wait_s(request.headers)
        receipt = await _accept(request, operation, passes_extra=True)
        if isinstance(receipt, Response):
            return receipt
        accepted = receipt.job
        services = services_of(request)
        submitter = Caller(owner=accepted.owner)
        headers = {"x-request-id": accepted.request_id, "x-safelight-job-id": accepted.id}
        headers |= {**_replayed(receipt), **said.applied(request.headers)}
        whereabouts = {**headers, "Location": location(accepted)}
        try:
            job = (
                accepted
                if wait_s == 0 or accepted.status.terminal
                else await services.read.ended(accepted.id, submitter, timeout_s=wait_s)
            )
            if job.status.terminal:
                services.pace.learn(job)
                return await renderer(request).result(job, headers=headers)
        except StorageError as error:
            log.warning("storage_failed", error=error.message)
            return unavailable(f"the storage is not available; job {accepted.id} goes on", error.code, whereabouts)
        headers = whereabouts
        if wait_s is None:
            message = f"the gateway is shutting down; job {job.id} goes on after the restart"
            return unavailable(message, "shutting_down", headers)
        return await still_running(services, job, headers=headers)

    return run


async def _accept(request: Request, operation: Operation, *, passes_extra: bool) -> Receipt | Response:
    """Read, check and store; a refusal leaves no image behind."""
    services = services_of(request)
    grant = await _submitter(request, services)
    intake = Intake(
        request=request,
        services=services,
        operation=operation,
        job_id=new_job_id(services.read.clock.now(), random_bytes(10)),
        passes_extra=passes_extra,
    )
    current_job.set(intake.job_id)
    storing = False
    try:
        key = fields.idempotency_key("Idempotency-Key", request.headers.get("idempotency-key"))
        wanted = await intake.read()
        services.submit.check(wanted)
        webhook = await named_webhook(request, grant)
        submission = Submission(
            grant=grant,
            job_id=intake.job_id,
            request_id=request_id_of(request.scope),
            request=wanted,
            metadata=intake.metadata,
            idempotency_key=key,
            trace_parent=current_trace.get(),
            ttl_s=said.result_ttl_s(
                request.headers, default=services.limits.result_ttl_s, maximum=services.limits.max_result_ttl_s
            ),
            webhook=webhook,
        )
        if unused := intake.images_besides(wanted):
            await drop_images(services.blobs, unused)
        storing = True
        receipt = await services.submit.accept(submission)
        storing = not receipt.replayed
    except RequestError as error:
        storing = False
        return refused(error, intake.known_fields)
    except BodyError as error:
        return _broken_body(error, intake)
    except (StorageError, PolicyRefusal):
        storing = False
        raise
    finally:
        # Cancelled while it was being stored, the job may be there: its images stay, and the sweeper looks again.
        if not storing:
            await drop_images(services.blobs, intake.images)
    return receipt


async def _submitter(request: Request, services: Services) -> Grant | None:
    try:
        return await submitter_of(request)
    except PolicyRefusal:
        await drop_body(request, idle_timeout_s=services.limits.body_idle_timeout_s)
        raise


def _broken_body(error: BodyError, intake: Intake) -> Response:
    if isinstance(error, ClientDisconnected):
        log.info("client_left", job_id=intake.job_id)
    body = error_body(
        message=error.message, status=error.status, type_="invalid_request_error", extra_fields=intake.known_fields
    )
    return json_response(body, error.status, {"Connection": "close"})


def _replayed(receipt: Receipt) -> Mapping[str, str]:
    return {"Idempotent-Replayed": "true"} if receipt.replayed else {}


def _wants_extra(request: Request) -> bool:
    return said.is_true(request.headers, "x-bf-passthrough-extra-params")
