"""ComfyUI: a local server that runs graphs of nodes, its own checkpoints in built-in ones or the operator's workflows.

Source: https://docs.comfy.org/development/comfyui-server/comms_routes and https://github.com/Comfy-Org/ComfyUI, read
2026-11-23. A graph can read and write files on that machine: callers fill slots of templates, they never send one.
"""

import asyncio
import contextlib
import io
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import structlog
from PIL import Image, ImageChops

from safelight.adapters.providers._answer import Answer, store_picture
from safelight.adapters.providers._base import BaseProvider, Entry, ProviderModule, always
from safelight.adapters.providers._body import HeldPart, Part, form_body, json_body
from safelight.adapters.providers._catalogue import load_catalogue
from safelight.adapters.providers._comfyui_answers import (
    STATES,
    Cancelled,
    File,
    HistoryEntry,
    Job,
    Message,
    Queue,
    Queued,
    State,
    Uploaded,
    check_nodes,
    files_of,
    preview_in,
    read_refusal,
)
from safelight.adapters.providers._comfyui_workflow import (
    FOLDER,
    TASKS,
    Model,
    Scalar,
    Workflow,
    built_in,
    image_slots,
)
from safelight.adapters.providers._errors import ErrorTable, redact
from safelight.adapters.providers._handles import ask_state, ended, pause_s, telling_ends
from safelight.adapters.providers._http import Dialect
from safelight.adapters.providers._local import (
    basic_or_bearer,
    is_out_of_memory,
    tidy,
)
from safelight.adapters.providers._masks import white_changes
from safelight.adapters.providers._openai_shape import via_of
from safelight.application.ports import Accepted, Call, Failed, Finished, Running, StoredPicture
from safelight.domain.capability import ModelSpec
from safelight.domain.errors import (
    ConfigurationError,
    InvalidRequest,
    ProviderError,
    ProviderProtocolError,
    ProviderRejected,
    ProviderUnavailable,
    ProviderUncertain,
)
from safelight.domain.money import Charged

log = structlog.get_logger(__name__)

_LEAST_PAUSE_S = 0.5
_LISTEN_AGAIN_S = 2.0
_QUALITY = 90
"""Of JPEG and WebP, as the server has it."""
_NAMESPACE = uuid.UUID("6f6d3f9a-3c1e-4d52-9a53-0b7e9f5c2d11")
_NO_SUCH_ROUTE = frozenset({404, 405})
_SUBMITS = Dialect(
    authorise=basic_or_bearer,
    errors=ErrorTable(read=read_refusal, statuses={500: ProviderUncertain}),  # it may be queued all the same
)
_QUESTIONS = Dialect(
    authorise=basic_or_bearer,
    errors=ErrorTable(statuses={404: ProviderProtocolError, 410: ProviderProtocolError}),  # a file or route, no model
)
_UPLOADS = Dialect(authorise=basic_or_bearer)


class WorkflowFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model's workflows, as paths of files in API format. `output` names the node whose pictures are the result."""

    generate: str | None = None
    edit: str | None = None
    inpaint: str | None = None
    """For edits with a mask."""
    vary: str | None = None
    """Else variations are done with `edit`."""
    output: str | None = None


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`workflows`: the operator's own, by the name of the model that they become."""

    workflows: dict[str, WorkflowFiles] = {}


class _Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The catalogue's `wire` table."""

    slots: dict[str, Scalar] = {}


class _Handle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that another process needs. `output` is the node whose pictures count; `accepted_at` is Unix time."""

    prompt_id: str
    output: str
    accepted_at: float


def _read_files(paths: WorkflowFiles, where: str) -> Model:
    """Read an operator's workflows; raises `ConfigurationError`."""
    told = {task: getattr(paths, task) for task in TASKS}
    workflows = {
        task: Workflow.read(_content(path, f"{where}.{task}"), where=f"{where}.{task}: {path}", output=paths.output)
        for task, path in told.items()
        if path is not None
    }
    if not workflows:
        raise ConfigurationError(f"{where} names no file: set generate, edit, inpaint or vary")
    return Model(workflows=workflows, slots={})


def _content(path: str, where: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"{where}: {path} cannot be read: {exc.strerror}") from exc


def _slots_of(spec: ModelSpec) -> Mapping[str, Scalar]:
    try:
        return msgspec.convert(spec.wire, _Wire).slots
    except msgspec.ValidationError as exc:
        raise ConfigurationError(f"model {spec.name}: wire: {exc}") from exc


class ComfyUI(BaseProvider):
    """Queues a graph under an id that we choose, and gives it as handle. Nothing costs but time."""

    def __init__(self, entry: Entry[Options], *, now: Callable[[], float] = time.time) -> None:
        """Read the workflows; raises `ConfigurationError`. `now` is Unix time: handles must outlive the process."""
        where = f"providers.{entry.settings.name}.workflows"
        own = {name: _read_files(paths, f"{where}.{name}") for name, paths in entry.options.workflows.items()}
        shipped = [spec for spec in load_catalogue("comfyui") if spec.name not in own]
        described = [model.spec(name, free=entry.repeatable) for name, model in own.items()]
        super().__init__(entry.settings, [*(_ruled(spec) for spec in shipped), *described])
        self._own = {name: replace(model, slots=self._slots(name)) for name, model in own.items()}
        self._submits = entry.http(_SUBMITS)
        self._questions = entry.http(_QUESTIONS)
        self._uploads = entry.http(_UPLOADS)
        self._charged = Charged.NO if entry.repeatable else Charged.YES
        self._now = now

    def _slots(self, name: str) -> Mapping[str, Scalar]:
        spec = self.spec(name)
        return _slots_of(spec) if spec else {}

    def _model(self, name: str) -> Model:
        """What is no workflow of the operator's is a checkpoint for the built-in ones."""
        return self._own.get(name) or Model(workflows=built_in(), slots=self._slots(name))

    async def submit(self, call: Call) -> Accepted:
        """Upload the input pictures, then queue the graph."""
        model = self._model(call.model)
        if (refusal := model.refusal(call.request)) is not None:
            raise refusal
        workflow = model.workflow(call.request)
        prompt_id = _prompt_id(call)
        values = {**model.values(call, prompt_id), **await self._inputs(call)}
        body = json_body({"prompt": workflow.filled(values), "prompt_id": prompt_id, "client_id": prompt_id})
        answer = await self._submits.buy(call, self._submits.url("prompt"), body)
        queued = answer.read(Queued)
        check_nodes(queued, workflow.output, answer)
        # Servers from before 2025-08 choose the id themselves.
        handle = _Handle(prompt_id=queued.prompt_id, output=workflow.output, accepted_at=self._now())
        return Accepted(handle=msgspec.json.encode(handle).decode(), poll_after_s=_LEAST_PAUSE_S)

    async def _inputs(self, call: Call) -> dict[str, Scalar]:
        """Upload the pictures under names made of their content."""
        parts = [Part.of("image", sent.image, sent.image.sha256[:32]) for sent in call.request.images]
        values = image_slots([await self._upload(call, part) for part in parts])
        if (mask := await white_changes(call)) is not None and call.request.mask is not None:
            content = await asyncio.to_thread(_transparent_where_white, mask)
            label = f"mask-{call.request.mask.image.sha256[:32]}.png"
            part = HeldPart(name="image", content=content, content_type="image/png", filename=label)
            values["mask"] = await self._upload(call, part)
        return values

    async def _upload(self, call: Call, part: Part | HeldPart) -> str:
        """Put a file into the server's folder `input`; a file of that name and content is left as it is."""
        body = form_body([("type", "input"), ("subfolder", FOLDER)], [part], call.workspace)
        answer = await self._uploads.ask(call, self._uploads.url("upload/image"), method="POST", body=body)
        said = answer.read(Uploaded)
        return f"{said.subfolder}/{said.name}" if said.subfolder else said.name

    @telling_ends
    async def poll(self, handle: str, call: Call) -> Running | Finished | Failed:
        """Ask for a run, and fetch its pictures once it is done: behind a proxy they want the key, too."""
        run = _read_handle(handle)
        answer, job = await self._job(run.prompt_id, call)
        match STATES.get(job.status):
            case State.DONE:
                return await self._finished(run, job, answer, call)
            case State.FAILED:
                raise await self._failure(job, answer, call)
            case State.STOPPED:
                raise ended(
                    ProviderRejected("the run was stopped at the server", provider_code="execution_interrupted")
                )
            case None:
                log.warning("unknown_job_status", provider="comfyui", status=job.status[:80])
        return Running(poll_after_s=pause_s(self._now() - run.accepted_at, least_s=_LEAST_PAUSE_S))

    watchable = True

    async def watch(self, call: Call) -> float | None:
        """Hear of a run's steps over a WebSocket, and see what its sampler shows."""
        ours = _prompt_id(call)
        running: Any = None
        async with contextlib.aclosing(
            self._questions.listen(call, self._questions.url(f"ws?clientId={ours}"))
        ) as messages:
            async for message in messages:
                if isinstance(message, bytes):
                    if running == ours:  # what a run shows that names no client, everybody gets to see
                        await _show(message, call)
                    continue
                said = _read_message(message)
                running = said.data.prompt_id or running
                if said.data.prompt_id != ours:
                    continue
                if said.over:
                    return None
                if said.share is not None:
                    await call.report.progress(said.share)
        return _LISTEN_AGAIN_S

    async def cancel(self, handle: str | None, call: Call) -> bool:
        """Take a run out of the queue, or stop it."""
        prompt_id = _prompt_id(call) if handle is None else _read_handle(handle).prompt_id
        url = self._questions.url(f"api/jobs/{quote(prompt_id, safe='')}/cancel")
        try:
            return (await self._questions.ask(call, url, method="POST")).read(Cancelled).cancelled
        except ProviderError as exc:
            if exc.status not in _NO_SUCH_ROUTE:
                raise
        return await self._cancel_at_older(prompt_id, call)

    async def _cancel_at_older(self, prompt_id: str, call: Call) -> bool:
        """Older servers stop whatever runs: look first that it is ours."""
        match (await self._queue(call)).word(prompt_id):
            case "pending":
                await self._tell(call, "queue", {"delete": [prompt_id]})
            case "in_progress":
                await self._tell(call, "interrupt", {"prompt_id": prompt_id})
            case _:
                return False
        return True

    async def _tell(self, call: Call, path: str, said: Mapping[str, Any]) -> None:
        await self._questions.ask(call, self._questions.url(path), method="POST", body=json_body(said))

    async def _job(self, prompt_id: str, call: Call) -> tuple[Answer, Job]:
        url = self._questions.url(f"api/jobs/{quote(prompt_id, safe='')}")
        try:
            return await ask_state(self._questions, call, url, Job)
        except ProviderProtocolError as exc:
            if exc.status not in _NO_SUCH_ROUTE:
                raise
        return await self._job_of_older(prompt_id, call)

    async def _job_of_older(self, prompt_id: str, call: Call) -> tuple[Answer, Job]:
        """Look into history, queue and history: between the last two no run can slip through."""
        for _ in range(2):
            url = self._questions.url(f"history/{quote(prompt_id, safe='')}")
            answer, history = await ask_state(self._questions, call, url, dict[str, HistoryEntry])
            if (entry := history.get(prompt_id)) is not None:
                return answer, entry.job()
            if (word := (await self._queue(call)).word(prompt_id)) is not None:
                return answer, Job(status=word)
        raise ended(ProviderUncertain("ComfyUI has lost the run: it was restarted, or its history cleared", status=502))

    async def _queue(self, call: Call) -> Queue:
        _, queue = await ask_state(self._questions, call, self._questions.url("queue"), Queue)
        return queue

    async def _finished(self, run: _Handle, job: Job, answer: Answer, call: Call) -> Finished:
        found = list(files_of(job.outputs, run.output))
        if not found:
            raise ended(answer.unreadable("ComfyUI finished the run without a picture"))
        end_ms = job.execution_end_time
        return Finished(
            pictures=tuple([await self._picture(file, call) for file in found]),
            model=call.model,
            created=int(end_ms / 1000) if isinstance(end_ms, int | float) else None,
            charged=self._charged,
            via=via_of(call.request),
        )

    async def _picture(self, file: File, call: Call) -> StoredPicture:
        query = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}
        wanted = call.request.output_format
        if wanted in {"jpeg", "webp"}:
            compression = call.request.output_compression
            query["preview"] = f"{wanted};{_QUALITY if compression is None else compression}"
        url = self._questions.url(f"view?{urlencode(query, quote_via=quote)}")
        try:
            return (await self._questions.ask(call, url, headers={"Accept": "image/*"})).whole_picture()
        except ProviderProtocolError as exc:  # the file is gone, or is none
            raise ended(exc) from exc.__cause__

    async def _failure(self, job: Job, answer: Answer, call: Call) -> ProviderError:
        """Judge a run that failed: the memory may be enough once it has been cleared, all else stays as it is."""
        said = job.execution_error if isinstance(job.execution_error, dict) else {}
        kind, text = (answer.words(said.get(name)) or "" for name in ("exception_type", "exception_message"))
        error: type[ProviderError] = ProviderRejected
        if is_out_of_memory(f"{kind} {text}") and call.attempt == 1:
            await self._free(call)
            error = ProviderUnavailable
        node = answer.words(said.get("node_type"))
        reason = redact(tidy(text), call.key.value) or "no reason given"
        return ended(
            error(
                f"the run failed{f' in {node}' if node else ''}: {reason}",
                provider_code="execution_error",
                provider_type=redact(kind, call.key.value)[:200] or None,
                request_id=answer.request_id,
            )
        )

    async def _free(self, call: Call) -> None:
        with contextlib.suppress(ProviderError):
            await self._tell(call, "free", {"unload_models": True, "free_memory": True})


def _prompt_id(call: Call) -> str:
    """Name a run, and with it who listens to it, so that any process can ask for it."""
    return str(uuid.uuid5(_NAMESPACE, call.token))


def _read_message(text: str) -> Message:
    """Read a message; what is of another shape says nothing."""
    try:
        return msgspec.json.decode(text, type=Message)
    except msgspec.DecodeError:
        return Message()


async def _show(message: bytes, call: Call) -> None:
    content = preview_in(message)
    if content is not None and call.report.wants_preview:
        try:
            shown = await store_picture(call.workspace, content)
        except InvalidRequest as exc:
            log.info("preview_unreadable", error=exc.message)
        else:
            await call.report.preview(shown)


def _ruled(spec: ModelSpec) -> ModelSpec:
    return replace(spec, rules=(Model(workflows=built_in(), slots=_slots_of(spec)).refusal,))


def _transparent_where_white(grey: bytes) -> bytes:
    """Make a mask that workflows read as they like: the alpha that `LoadImage` inverts, or a channel's brightness."""
    stream = io.BytesIO()
    with Image.open(io.BytesIO(grey), formats=("PNG",)) as image:
        Image.merge("LA", (image, ImageChops.invert(image))).save(stream, "PNG")
    return stream.getvalue()


def _read_handle(handle: str) -> _Handle:
    try:
        return msgspec.json.decode(handle, type=_Handle)
    except msgspec.DecodeError as exc:
        raise ProviderProtocolError("ComfyUI gave no such handle", status=404) from exc


PROVIDER = ProviderModule(
    name="comfyui",
    doc="ComfyUI on your own machine: its checkpoints, or your workflows",
    create=ComfyUI,
    options=Options,
    base_url="http://127.0.0.1:8188",
    repeatable=always,
)
