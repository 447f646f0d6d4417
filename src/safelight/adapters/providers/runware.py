"""Runware: many models behind one route, on tasks whose ids we choose.

Source: https://runware.ai/docs/image-inference/introduction and the pages on polling and errors, read 2026-11-23.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from enum import Enum, auto
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec
import structlog
from yarl import URL

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._base import BaseProvider, Entry, NoOptions, ProviderModule, always
from safelight.adapters.providers._body import json_body
from safelight.adapters.providers._catalogue import load_catalogue
from safelight.adapters.providers._errors import Complaint, ErrorTable, read_complaint, redact
from safelight.adapters.providers._handles import ended, pause_s, picture_at, telling_ends
from safelight.adapters.providers._http import Dialect
from safelight.adapters.providers._inline import InlinePictures
from safelight.adapters.providers._masks import white_changes
from safelight.adapters.providers._openai_shape import given, prompt_of, via_of
from safelight.adapters.providers._rules import edits_inpaint, edits_need_prompt
from safelight.application.ports import Accepted, Call, Failed, Finished, RemotePicture, Running, StoredPicture
from safelight.domain.capability import ModelSpec
from safelight.domain.errors import (
    ProviderAuthError,
    ProviderError,
    ProviderRejected,
    ProviderUnavailable,
    ProviderUncertain,
    UnsupportedFeature,
)
from safelight.domain.image import ImageRequest, ResponseFormat

_TASK = "imageInference"
_CONFLICT = "conflictTaskUUID"
_FORGOTTEN_AFTER_S = 3600.0
"""From this age on, a task that polling knows nothing of is looked up in the records, which reach further back."""
_LEAST_PAUSE_S = 1.0
_COMPRESSION = range(20, 100)
_OPEN_VENDORS = frozenset({"runware", "civitai", "rundiffusion"})
"""Their models change one picture; other vendors' take references."""
_SETTINGS = ("quality", "style", "background")
_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "seed": "seed",
        "negative_prompt": "negativePrompt",
        "num_inference_steps": "steps",
        "output_compression": "outputQuality",
        # Not among its fields in general: they go to models that we do not know, to be taken or refused.
        "aspect_ratio": "aspectRatio",
        "resolution": "resolution",
        "moderation": "moderation",
        "input_fidelity": "inputFidelity",
        "partial_images": "partialImages",
    }
)
_FORMATS = {"jpeg": "JPG"}

log = structlog.get_logger(__name__)


class _State(Enum):
    RUNNING = auto()
    DONE = auto()
    FAILED = auto()


_STATES: Mapping[str, _State] = MappingProxyType(
    # https://runware.ai/docs/platform/task-polling, read 2026-11-23
    {"processing": _State.RUNNING, "success": _State.DONE, "error": _State.FAILED}
)


class _Fault(msgspec.Struct, rename={"task_type": "taskType", "task_uuid": "taskUUID"}):
    code: Any = None
    message: Any = None
    parameter: Any = None
    task_type: Any = None
    task_uuid: Any = None

    def complaint(self) -> Complaint:
        """The type of the task tells whether the question was refused or the work failed."""
        texts = (value if isinstance(value, str) else None for value in (self.message, self.code, self.task_type))
        message, code, task_type = texts
        return Complaint(message=message, code=code, type=task_type, param=self.parameter)


class _Refusal(msgspec.Struct):
    errors: list[_Fault]


def _read(body: bytes) -> Complaint:
    try:
        faults = msgspec.json.decode(body, type=_Refusal).errors
    except (msgspec.DecodeError, UnicodeDecodeError):
        faults = []
    return faults[0].complaint() if faults else read_complaint(body)


_PURCHASES = Dialect(
    errors=ErrorTable(
        read=_read,
        words={"invalidApiKey": ProviderAuthError, "timeoutProvider": ProviderUncertain},
        statuses=dict.fromkeys(range(500, 600), ProviderUncertain),
    )
)
"""A submit that ends so may have been taken all the same."""
_QUESTIONS = Dialect(
    errors=ErrorTable(
        read=_read,
        words={"invalidApiKey": ProviderAuthError, "timeoutProvider": ProviderUnavailable},
        statuses={504: ProviderUnavailable, 524: ProviderUnavailable},
    )
)


class Handle(msgspec.Struct, frozen=True):
    """The task's id, how many pictures it makes, and the Unix time of the submit."""

    task: str
    count: int
    since: float


class _Element(msgspec.Struct, rename="camel"):
    """One picture of a task, or what stands for it. Only what we cannot do without is typed."""

    task_uuid: Any = msgspec.field(default=None, name="taskUUID")
    status: Any = None
    image_url: str | None = msgspec.field(default=None, name="imageURL")
    image_base64_data: str | None = None
    image_data_uri: str | None = msgspec.field(default=None, name="imageDataURI")
    nsfw: Any = msgspec.field(default=None, name="NSFWContent")
    cost: Decimal | None = None
    code: Any = None
    message: Any = None

    @property
    def picture(self) -> str | None:
        """The picture, whichever way it came."""
        return self.image_url or self.image_base64_data or self.image_data_uri

    @property
    def state(self) -> _State:
        """An unknown word means still running."""
        if self.status is None:
            return _State.DONE if self.picture else _State.RUNNING
        found = _STATES.get(self.status) if isinstance(self.status, str) else None
        if found is None:
            log.warning("unknown_status", provider="runware", status=str(self.status)[:80])
        return found or _State.RUNNING


class _Answer(msgspec.Struct):
    data: list[_Element] = []
    errors: list[_Fault] = []


class _Record(msgspec.Struct):
    """What `getTaskDetails` keeps: the answer as it was."""

    response: _Answer | list[_Element] | None = None


class _Records(msgspec.Struct):
    data: list[_Record] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What an answer says of one task."""

    done: Sequence[_Element]
    failed: Sequence[_Fault]
    running: bool
    """Some of it is known to be under way."""

    @property
    def known(self) -> bool:
        return bool(self.done or self.failed or self.running)

    def over(self, count: int) -> bool:
        """Whether no more will come."""
        return not self.running and (bool(self.failed) or len(self.done) >= count)


def _compression_limits(request: ImageRequest) -> UnsupportedFeature | None:
    if request.output_compression is not None and request.output_compression not in _COMPRESSION:
        return UnsupportedFeature("output_compression must be 20 to 99 on Runware", param="output_compression")
    return None


class Runware(BaseProvider):
    """The task's id is made of the attempt's token, so the same attempt sent twice is the same task, paid once."""

    max_n = 20

    def __init__(self, entry: Entry[NoOptions], *, now: Callable[[], float] = time.time) -> None:
        """Prepare the one address. `now` is Unix time: handles must outlive the process."""
        rules = (edits_inpaint, edits_need_prompt, _compression_limits)
        super().__init__(entry.settings, load_catalogue("runware"), rules=rules)
        self._http = entry.http(_PURCHASES)
        self._questions = entry.http(_QUESTIONS)
        self._url = URL(str(self._http.base_url).rstrip("/"), encoded=True)
        self._now = now

    async def submit(self, call: Call) -> Accepted | Finished:
        """Hand the task in. An id that is known already was handed in before: go on with it."""
        pictures = InlinePictures(call.workspace)
        task = await self._task(call, pictures)
        count = task["numberResults"] if isinstance(task["numberResults"], int) else call.n
        handle = Handle(task=str(task["taskUUID"]), count=count, since=self._now())
        accepted = Accepted(handle=msgspec.json.encode(handle).decode(), poll_after_s=_LEAST_PAUSE_S)
        try:
            answer = await self._http.buy(call, self._url, pictures.body([task]))
        except ProviderError as error:
            if error.provider_code == _CONFLICT:
                return accepted
            raise
        said = answer.read(_Answer)
        outcome = _outcome(said.data, said.errors, handle.task)
        if any(_text(fault.code) == _CONFLICT for fault in outcome.failed):
            return accepted
        if outcome.over(handle.count):
            return await self._finished(outcome, answer, call)
        if not any(element.task_uuid == handle.task for element in said.data):
            raise answer.unreadable("Runware did not acknowledge the task")
        return accepted

    async def _task(self, call: Call, pictures: InlinePictures) -> dict[str, Any]:
        """Name the fields as Runware does."""
        request, spec = call.request, self.spec(call.model)
        task: dict[str, Any] = {
            "taskType": _TASK,
            "taskUUID": _task_id(call.token),
            "model": call.model,
            "numberResults": call.n,
            "outputType": "base64Data" if request.response_format is ResponseFormat.B64_JSON else "URL",
            "includeCost": True,
            "deliveryMethod": "async",
        }
        if (prompt := prompt_of(request)) is not None:
            task["positivePrompt"] = prompt
        if size := request.pixel_size:
            task |= {"width": size.width, "height": size.height}
        if request.output_format is not None:
            task["outputFormat"] = _FORMATS.get(request.output_format, request.output_format.upper())
        task |= {_NAMES[name]: value for name, value in given(request, _NAMES).items()}
        wire = _wire(call.model, spec)
        if settings := given(request, _SETTINGS):
            _put(task, wire["settings"], settings)
        await _put_pictures(task, call, wire, pictures)
        return {**task, **request.extra}

    @telling_ends
    async def poll(self, handle: str, call: Call) -> Running | Finished | Failed:
        """Ask for the task; one exchange, and a second one for a task that is long past."""
        known = _read_handle(handle)
        age_s = max(0.0, self._now() - known.since)
        answer = await self._ask(call, "getResponse", known.task)
        said = answer.read(_Answer)
        outcome = _outcome(said.data, said.errors, known.task)
        if not outcome.known and age_s > _FORGOTTEN_AFTER_S:
            answer = await self._ask(call, "getTaskDetails", known.task)
            outcome = _recorded(answer.read(_Records), known.task)
        if outcome.over(known.count):
            return await self._finished(outcome, answer, call)
        return Running(poll_after_s=pause_s(age_s, least_s=_LEAST_PAUSE_S))

    async def _ask(self, call: Call, task_type: str, task: str) -> Answer:
        body = json_body([{"taskType": task_type, "taskUUID": task}])
        try:
            return await self._questions.ask(call, self._url, method="POST", body=body)
        except ProviderError as error:
            # The refusal of a question names the question; the end of the work names the work.
            raise (ended(error) if error.provider_type == _TASK else error) from error.__cause__

    async def _finished(self, outcome: _Outcome, answer: Answer, call: Call) -> Finished:
        """Take the pictures that came; raises the task's error when there is none."""
        shown = [element for element in outcome.done if element.nsfw is not True or not _checks_content(call.request)]
        if not shown:
            raise _failure(outcome, answer, call)
        return Finished(
            pictures=tuple([await self._picture(element, answer) for element in shown]),
            model=call.model,
            cost_micros=_cost_micros(outcome.done),
            via=via_of(call.request),
        )

    async def _picture(self, element: _Element, answer: Answer) -> StoredPicture | RemotePicture:
        if element.image_url:
            return await picture_at(answer, element.image_url, self._http.base_url)
        inline = element.image_base64_data or element.image_data_uri
        if inline is None:
            raise answer.unreadable("Runware's task succeeded without a picture")
        return await answer.picture(inline)


def _task_id(token: str) -> str:
    """Make the UUID of an attempt: the same for each of its repeats."""
    return str(UUID(bytes=hashlib.sha256(token.encode()).digest()[:16], version=4))


def _wire(model: str, spec: ModelSpec | None) -> Mapping[str, str]:
    """Where a model takes pictures and settings."""
    vendor = re.split(r"[:@]", model, maxsplit=1)[0]
    settings = f"providerSettings.{vendor}"
    if spec is not None:
        return {"images": "", "mask": "", "settings": settings, **spec.wire}
    images = "seedImage" if vendor in _OPEN_VENDORS else "referenceImages"
    return {"images": images, "mask": "maskImage", "settings": settings}


async def _put_pictures(task: dict[str, Any], call: Call, wire: Mapping[str, str], pictures: InlinePictures) -> None:
    """Set the input pictures, and the mask: white is what changes."""
    request = call.request
    if request.mask is not None and not wire["mask"]:
        raise UnsupportedFeature(f"model {call.model} has no mask", param="mask")
    if request.images and not wire["images"]:
        raise UnsupportedFeature(f"model {call.model} takes no images", param="image")
    if request.images:
        urls = [pictures.data_url(sent.image) for sent in request.images]
        if wire["images"].endswith("s"):
            _put(task, wire["images"], urls)
        elif len(urls) == 1:
            _put(task, wire["images"], urls[0])
        else:
            raise UnsupportedFeature(f"model {call.model} takes at most 1 image", param="image")
    if (mask := await white_changes(call)) is not None:
        _put(task, wire["mask"], f"data:image/png;base64,{pictures.base64_of(mask)}")


def _put(task: dict[str, Any], place: str, value: Any) -> None:
    """Set a member, inside an object where `place` has a dot."""
    outer, _, inner = place.rpartition(".")
    (task.setdefault(outer, {}) if outer else task)[inner] = value


def _outcome(elements: Sequence[_Element], faults: Sequence[_Fault], task: str) -> _Outcome:
    """Sort what is said of our task; an error without an id can be of nothing else."""
    ours = [element for element in elements if element.task_uuid == task]
    failed = [element for element in ours if element.state is _State.FAILED]
    return _Outcome(
        done=[element for element in ours if element.state is _State.DONE],
        failed=[
            *(fault for fault in faults if fault.task_uuid in {None, task}),
            *(_Fault(code=element.code, message=element.message) for element in failed),
        ],
        running=any(element.state is _State.RUNNING for element in ours),
    )


def _recorded(records: _Records, task: str) -> _Outcome:
    for record in records.data:
        if isinstance(record.response, _Answer):
            return _outcome(record.response.data, record.response.errors, task)
        if record.response:
            return _outcome(record.response, (), task)
    return _outcome((), (), task)


def _checks_content(request: ImageRequest) -> bool:
    """Flagged pictures come all the same; who has them checked does not want them."""
    return "safety" in request.extra or "checkNSFW" in request.extra


def _failure(outcome: _Outcome, answer: Answer, call: Call) -> ProviderError:
    if not outcome.failed:
        return ProviderRejected(
            "Runware's content check has flagged every picture",
            provider_code="content_policy_violation",
            request_id=answer.request_id,
        )
    complaint = outcome.failed[0].complaint()
    found = _QUESTIONS.errors.find(400, complaint)
    return ended(
        found(
            redact(answer.words(complaint.message) or "Runware's task failed without a reason", call.key.value),
            provider_code=answer.words(complaint.code),
            param=answer.words(complaint.param),
            request_id=answer.request_id,
        )
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _cost_micros(elements: Sequence[_Element]) -> int | None:
    """Add up what the pictures cost, in US dollars."""
    costs = [element.cost for element in elements if element.cost is not None]
    return int((sum(costs, Decimal(0)) * 1_000_000).to_integral_value(ROUND_HALF_UP)) if costs else None


def _read_handle(handle: str) -> Handle:
    try:
        return msgspec.json.decode(handle, type=Handle)
    except msgspec.DecodeError as exc:
        raise ProviderRejected("this is no handle of Runware", status=404) from exc


PROVIDER = ProviderModule(
    name="runware",
    doc="many models on Runware, by task id",
    create=Runware,
    options=NoOptions,
    base_url="https://api.runware.ai/v1",
    env_key="RUNWARE_API_KEY",
    needs_key=True,
    repeatable=always,
    deduplicates=True,
)
