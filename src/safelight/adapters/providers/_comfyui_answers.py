"""What ComfyUI answers: runs by their job route or by queue and history, files, and graphs that it refuses."""

import contextlib
import re
import struct
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from types import MappingProxyType
from typing import Any

import msgspec

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._errors import Complaint, read_complaint
from safelight.adapters.providers._local import tidy
from safelight.domain.errors import ProviderModelGone, ProviderRejected


class State(Enum):
    RUNNING = auto()
    DONE = auto()
    FAILED = auto()
    STOPPED = auto()


STATES: Mapping[str, State] = MappingProxyType(
    # https://github.com/Comfy-Org/ComfyUI/blob/master/comfy_execution/jobs.py, read 2026-11-23
    {
        "pending": State.RUNNING,
        "in_progress": State.RUNNING,
        "completed": State.DONE,
        "failed": State.FAILED,
        "cancelled": State.STOPPED,
    }
)
_OF_HISTORY: Mapping[Any, str] = MappingProxyType({None: "completed", "success": "completed", "error": "failed"})
"""What servers without the jobs routes say, in the words of those that have them."""
_MODEL_INPUT = re.compile(r"(?:ckpt|unet|clip|vae|lora|model|control_net)_name\d*")


class _Fault(msgspec.Struct):
    type: str = ""
    message: str = ""
    details: str = ""

    @property
    def input_name(self) -> str:
        """The input at fault; what follows it in `details` can list all files of the server."""
        return self.details.partition(":")[0]


class _FaultyNode(msgspec.Struct):
    errors: list[_Fault] = []
    dependent_outputs: list[str] = []
    class_type: str = ""


_NodeErrors = dict[str, _FaultyNode]


class _Invalid(msgspec.Struct):
    error: _Fault
    node_errors: _NodeErrors | list[Any] = {}


def read_refusal(body: bytes) -> Complaint:
    """Read why a graph was refused: nodes and inputs, without the values that would have been good."""
    try:
        said = msgspec.json.decode(body, type=_Invalid)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return read_complaint(body)
    nodes = said.node_errors if isinstance(said.node_errors, dict) else {}
    return Complaint(
        message="; ".join([tidy(said.error.message), *_told(nodes)]),
        code=said.error.type,
        meaning=ProviderModelGone if _lacks_model(nodes) else None,
    )


def _told(nodes: _NodeErrors) -> Iterator[str]:
    for name, node in nodes.items():
        for fault in node.errors:
            yield f"node {name} ({node.class_type}), {fault.input_name}: {fault.message}"


def _lacks_model(nodes: _NodeErrors) -> bool:
    faults = (fault for node in nodes.values() for fault in node.errors)
    return any(fault.type == "value_not_in_list" and _MODEL_INPUT.fullmatch(fault.input_name) for fault in faults)


class Queued(msgspec.Struct):
    prompt_id: str
    node_errors: _NodeErrors | list[Any] = {}


class Uploaded(msgspec.Struct):
    name: str
    subfolder: str = ""


class Job(msgspec.Struct):
    """Only what we cannot do without is typed."""

    status: str = ""
    outputs: Any = None
    execution_error: Any = None
    execution_end_time: Any = None


class _Status(msgspec.Struct):
    status_str: str | None = None
    messages: list[Any] = []


class HistoryEntry(msgspec.Struct):
    """What the history says of a run."""

    outputs: Any = None
    status: _Status | None = None

    def job(self) -> Job:
        """Say it in the words of the jobs route."""
        status = self.status or _Status()
        events = dict(_events(status.messages))
        word = "cancelled" if "execution_interrupted" in events else _OF_HISTORY.get(status.status_str)
        return Job(
            status=word or str(status.status_str),
            outputs=self.outputs,
            execution_error=events.get("execution_error"),
        )


def _events(messages: list[Any]) -> Iterator[tuple[str, Any]]:
    for message in messages:
        match message:
            case [str(name), data]:
                yield name, data
            case _:
                pass


class Queue(msgspec.Struct):
    queue_running: list[list[Any]] = []
    queue_pending: list[list[Any]] = []

    def word(self, prompt_id: str) -> str | None:
        """Say where a run stands in the words of the jobs route; `None` if it is not there."""
        if any(prompt_id in item[1:2] for item in self.queue_running):
            return "in_progress"
        return "pending" if any(prompt_id in item[1:2] for item in self.queue_pending) else None


class Cancelled(msgspec.Struct):
    cancelled: bool


class File(msgspec.Struct):
    filename: str
    subfolder: str = ""
    type: str = "output"


def check_nodes(queued: Queued, output: str, answer: Answer) -> None:
    """Raise for a run that was queued without the part that makes our pictures."""
    nodes = queued.node_errors if isinstance(queued.node_errors, dict) else {}
    hit = {name: node for name, node in nodes.items() if output in {name, *node.dependent_outputs}}
    if hit:
        raise (ProviderModelGone if _lacks_model(hit) else ProviderRejected)(
            "; ".join(_told(hit)), status=400, provider_code="node_errors", request_id=answer.request_id
        )


def files_of(outputs: Any, node: str) -> Iterator[File]:
    shown = outputs.get(node) if isinstance(outputs, dict) else None
    images = shown.get("images") if isinstance(shown, dict) else None
    for image in images if isinstance(images, list) else []:
        with contextlib.suppress(msgspec.ValidationError):
            yield msgspec.convert(image, File)


class _MessageData(msgspec.Struct):
    prompt_id: Any = None
    node: Any = ""
    value: Any = None
    max: Any = None


class Message(msgspec.Struct):
    """What the server tells over its WebSocket, about one run or another."""

    type: str = ""
    data: _MessageData = msgspec.field(default_factory=_MessageData)

    @property
    def share(self) -> float | None:
        """How far the sampler is, from 0 to 1, where it tells of that."""
        steps, done = self.data.max, self.data.value
        if self.type != "progress" or not isinstance(steps, int | float) or not isinstance(done, int | float):
            return None
        return done / steps if steps > 0 else None

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.type in _ENDS or (self.type == "executing" and self.data.node is None)


_ENDS = frozenset({"execution_success", "execution_error", "execution_interrupted"})
_PREVIEW_HEAD = struct.Struct(">II")
_PREVIEW = 1
"""The kind of a binary message: a picture follows its format. Others are texts, or come only if one asks for them."""


def preview_in(message: bytes) -> bytes | None:
    """Take the picture out of a binary message, `None` where there is none."""
    if len(message) <= _PREVIEW_HEAD.size or _PREVIEW_HEAD.unpack_from(message)[0] != _PREVIEW:
        return None
    return message[_PREVIEW_HEAD.size :]
