"""The Stable Diffusion web UIs on the operator's own machine: AUTOMATIC1111, Forge and SD.Next (`/sdapi/v1`).

Source: https://github.com/AUTOMATIC1111/stable-diffusion-webui, https://github.com/lllyasviel/stable-diffusion-webui-forge
and https://github.com/vladmandic/sdnext (`modules/api`), read 2026-11-23.
"""

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PureWindowsPath
from types import MappingProxyType
from typing import Annotated, Any

import msgspec

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._base import BaseProvider, Entry, ProviderModule, always
from safelight.adapters.providers._body import Body, json_body
from safelight.adapters.providers._catalogue import load_catalogue
from safelight.adapters.providers._errors import Complaint, ErrorTable, read_complaint
from safelight.adapters.providers._http import Dialect
from safelight.adapters.providers._inline import InlinePictures
from safelight.adapters.providers._local import (
    asked_size,
    basic_or_bearer,
    is_out_of_memory,
    size_refusal,
    source_size,
    tidy,
)
from safelight.adapters.providers._masks import white_changes
from safelight.adapters.providers._openai_shape import given, via_of
from safelight.adapters.providers._rules import edits_inpaint
from safelight.application.ports import Call, Finished
from safelight.domain.capability import ModelSpec
from safelight.domain.errors import (
    ConfigurationError,
    ProviderError,
    ProviderModelGone,
    ProviderRejected,
    UnsupportedFeature,
)
from safelight.domain.image import ImageRequest, Operation
from safelight.domain.money import Charged

CURRENT = "current"
"""The model that stands for whatever checkpoint the server has loaded."""
_NAMESPACE = uuid.UUID("0c5b52d7-9d0e-4f57-8a6a-93f2d7a1c0be")
_NO_SUCH_ROUTE = frozenset({404, 405})
_LOOK_AGAIN_S = 1.0
_STEPS: Mapping[str, int] = MappingProxyType({"low": 12, "medium": 20, "standard": 20, "high": 40, "hd": 40})
_GUARDED = frozenset(
    {
        "alwayson_scripts",
        "force_task_id",
        "infotext",
        "init_images",
        "mask",
        "override_settings",
        "override_settings_restore_afterwards",
        "save_images",
        "script_args",
        "script_name",
        "send_images",
        "styles",
    }
)
"""Extra parameters that change the server's settings or model, run scripts, write files or fetch links there."""


class _Fault(msgspec.Struct):
    error: str = ""
    detail: Any = None
    errors: Any = None


def _read(body: bytes) -> Complaint:
    """Read FastAPI's `detail`, and the servers' own account of a fault; none of it may show the machine's paths."""
    try:
        fault = msgspec.json.decode(body, type=_Fault)
    except (msgspec.DecodeError, UnicodeDecodeError):
        fault = _Fault()
    texts = [text for text in (fault.detail, fault.errors) if isinstance(text, str) and text]
    if not texts and not fault.error:
        complaint = read_complaint(body)
        return replace(complaint, message=tidy(complaint.message) if complaint.message else None)
    message = tidy(texts[0]) if texts else fault.error
    return Complaint(message=message, code=fault.error or None, meaning=_meaning(f"{fault.error} {message}", message))


def _meaning(said: str, message: str) -> type[ProviderError] | None:
    """A picture, sampler or script that is missing is the request's fault; a route that is missing is not."""
    if is_out_of_memory(said):
        return ProviderRejected
    if "checkpoint" in message.lower() and "unknown" in message.lower():
        return ProviderModelGone
    return ProviderRejected if message.lower().endswith(" not found") and message != "Not Found" else None


_DIALECT = Dialect(authorise=basic_or_bearer, errors=ErrorTable(read=_read))


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is sent where a request says nothing of it, and what callers may reach."""

    steps: Annotated[int, msgspec.Meta(ge=1, le=150)] = 20
    qualities: dict[str, Annotated[int, msgspec.Meta(ge=1, le=150)]] = msgspec.field(
        default_factory=lambda: dict(_STEPS)
    )
    """The steps that a quality stands for."""
    pixels: Annotated[int, msgspec.Meta(ge=4096)] = 1024 * 1024
    """About so many a picture of an asked ratio has; 262144 suits the models of the first generation."""
    edit_strength: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.75
    variation_strength: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.6
    styles: tuple[str, ...] = ()
    """The server's saved styles that callers may name; it would ignore others without a word."""
    allow: frozenset[str] = frozenset()
    """Extra parameters that callers may send although they reach into the server."""
    defaults: dict[str, Any] = {}
    """Fields for every request, such as `sampler_name`."""


class _Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The catalogue's `wire` table of a model: fields for its requests, and what Forge must load with it."""

    defaults: dict[str, Any] = {}
    modules: tuple[str, ...] = ()


class _Checkpoint(msgspec.Struct):
    title: str = ""
    model_name: str = ""
    hash: str | None = None
    sha256: str | None = None
    filename: str | None = None

    @property
    def names(self) -> frozenset[str | None]:
        """All that the servers find it by."""
        path = PureWindowsPath(self.filename or "")  # it splits at both kinds of slash
        short = self.title.rpartition(" [")[0]
        return frozenset({self.title, short, self.model_name, self.hash, self.sha256, path.name, path.stem} - {""})


class _Drawn(msgspec.Struct):
    """Only what we cannot do without is typed."""

    images: list[str] | None = None
    info: Any = None


class _Info(msgspec.Struct):
    index_of_first_image: int = 0
    sd_model_name: str | None = None
    width: int | None = None
    height: int | None = None


class _Progress(msgspec.Struct):
    active: bool = False
    progress: float | None = None
    live_preview: str | None = None


class SDWebUI(BaseProvider):
    """Answers when the pictures are drawn, with base64. It keeps no jobs: a lost answer means drawing once more."""

    def __init__(self, entry: Entry[Options]) -> None:
        """Check the models; raises `ConfigurationError`."""
        super().__init__(entry.settings, load_catalogue("sdwebui"), rules=(edits_inpaint, self._refusal))
        self._options = entry.options
        self._wires = {spec.name: _wire(spec) for spec in self._specs}
        self._charged = Charged.NO if entry.repeatable else Charged.YES
        self._http = entry.http(_DIALECT)
        # The server draws one at a time, and its queue is our open requests: who waits there runs out of time, is
        # drawn all the same, and asks again. So the queue is here.
        self._turn = asyncio.Lock()
        self._drawing: str | None = None
        """The token of the call whose turn it is."""

    def _refusal(self, request: ImageRequest) -> UnsupportedFeature | None:
        if request.style is not None and request.style not in self._options.styles:
            return UnsupportedFeature(f"style {request.style!r} is not among the styles of the settings", param="style")
        if request.quality not in {None, "auto", *self._options.qualities}:
            return UnsupportedFeature(f"no steps are known for quality {request.quality!r}", param="quality")
        if request.seed is not None and request.seed < -1:
            return UnsupportedFeature("a seed is 0 or more; -1 lets it be chosen", param="seed")
        guarded = next((name for name in request.extra if name in _GUARDED - self._options.allow), None)
        if guarded is not None:
            return UnsupportedFeature(f"{guarded} is for the operator to set: see `allow`", param=guarded)
        return size_refusal(request)

    async def submit(self, call: Call) -> Finished:
        """Draw, or draw over an input picture. A variation is the latter, without a mask and with less strength."""
        if self.spec(call.model) is None:
            replace(self._by_name[CURRENT], name=call.model).check(call.request)
        if call.model != CURRENT:
            await self._check_checkpoint(call)
        route = "txt2img" if call.request.operation is Operation.GENERATION else "img2img"
        fields, body = await self._body(call)
        async with self._turn:
            self._drawing = call.token
            answer = await self._http.buy(call, self._http.url(f"sdapi/v1/{route}"), body)
        return await self._finished(answer, fields, call)

    async def _check_checkpoint(self, call: Call) -> None:
        """Raise `ProviderModelGone` for one that is not there: the servers would draw with the loaded one instead."""
        try:
            answer = await self._http.ask(call, self._http.url("sdapi/v1/sd-models"))
        except ProviderError as exc:
            if exc.status in _NO_SUCH_ROUTE:
                return
            raise
        if not any(call.model in checkpoint.names for checkpoint in answer.read(list[_Checkpoint])):
            raise ProviderModelGone(f"the server has no checkpoint {call.model!r}", status=404)

    async def _body(self, call: Call) -> tuple[Mapping[str, Any], Body]:
        pictures = InlinePictures(call.workspace)
        fields = {**self._fields(call), **await _inputs(call, pictures), **call.request.extra}
        return fields, pictures.body(fields)

    def _fields(self, call: Call) -> dict[str, Any]:
        """Name all that is no picture as the servers do; their own defaults differ, so much is said that need not be."""
        request = call.request
        size = asked_size(request, pixels=self._options.pixels) or source_size(request)
        return {
            "steps": self._options.steps,
            **self._drawing_over(request),
            **self._options.defaults,
            **self._wire_of(call.model).defaults,
            "prompt": request.prompt or "",
            "batch_size": 1,
            "n_iter": call.n,
            "seed": -1 if request.seed is None else request.seed,
            "send_images": True,
            "save_images": False,
            "force_task_id": _task_id(call),
            **given(request, ("negative_prompt",)),
            **({"steps": steps} if (steps := self._steps(request)) else {}),
            **({"width": size.width, "height": size.height} if size else {}),
            **({"styles": [request.style]} if request.style else {}),
            **self._checkpoint(call.model),
        }

    def _drawing_over(self, request: ImageRequest) -> Mapping[str, Any]:
        if request.operation is Operation.GENERATION:
            return {}
        variation = request.operation is Operation.VARIATION
        strength = self._options.variation_strength if variation else self._options.edit_strength
        mask = {} if request.mask is None else {"inpainting_fill": 1, "inpaint_full_res": False}
        return {"denoising_strength": strength, "resize_mode": 1, **mask}

    def _wire_of(self, model: str) -> _Wire:
        spec = self.spec(model)
        return self._wires[spec.name] if spec else _Wire()

    def _steps(self, request: ImageRequest) -> int | None:
        return request.num_inference_steps or self._options.qualities.get(request.quality or "")

    def _checkpoint(self, model: str) -> Mapping[str, Any]:
        """Have a checkpoint loaded, and kept: going back to the one before would load that after every picture."""
        if model == CURRENT:
            return {}
        settings: dict[str, Any] = {"sd_model_checkpoint": model}
        if modules := self._wire_of(model).modules:
            settings["forge_additional_modules"] = list(modules)
        return {"override_settings": settings, "override_settings_restore_afterwards": False}

    async def _finished(self, answer: Answer, fields: Mapping[str, Any], call: Call) -> Finished:
        drawn = answer.read(_Drawn)
        info = _info(answer.words(drawn.info))
        drawn_at = max(0, info.index_of_first_image)  # a grid may stand before them
        images = (drawn.images or [])[drawn_at:][-_count(fields) :]
        if not images:
            raise answer.unreadable("the server answered without a picture: the drawing may have been interrupted")
        return Finished(
            pictures=tuple([await answer.picture(image) for image in images]),
            model=info.sd_model_name or (None if call.model == CURRENT else call.model),
            size=f"{info.width}x{info.height}" if info.width and info.height else None,
            charged=self._charged,
            via=via_of(call.request),
        )

    watchable = True

    async def watch(self, call: Call) -> float | None:
        """Ask from beside it how far a drawing is, and how it looks by now."""
        if self._drawing != call.token:
            return _LOOK_AGAIN_S
        answer = await self._look(call, picture=call.report.wants_preview)
        if answer is None:
            return None
        said = answer.read(_Progress)
        if said.progress is not None and said.active:
            await call.report.progress(said.progress)
        if said.live_preview:
            at_work = min(call.n - 1, int((said.progress or 0.0) * call.n))  # it draws them one after another
            shown = await answer.picture(said.live_preview)
            await call.report.preview(shown.image, index=at_work)
        return _LOOK_AGAIN_S

    async def _look(self, call: Call, *, picture: bool = False) -> Answer | None:
        """Ask how the call's own drawing stands; `None` where the server cannot tell, as SD.Next."""
        said = {"id_task": _task_id(call), "id_live_preview": -1, "live_preview": picture}
        try:
            return await self._http.ask(call, self._http.url("internal/progress"), method="POST", body=json_body(said))
        except ProviderError as exc:
            if exc.status in _NO_SUCH_ROUTE:
                return None
            raise

    async def cancel(self, handle: str | None, call: Call) -> bool:
        """Stop the call's own drawing, wherever it was begun; there are no handles. One that waits cannot be stopped.

        An interrupt stops whatever runs, so it is sent only while the server names our task.
        """
        del handle
        answer = await self._look(call)
        if answer is None or not answer.read(_Progress).active:
            return False
        await self._http.ask(call, self._http.url("sdapi/v1/interrupt"), method="POST")
        return True


async def _inputs(call: Call, pictures: InlinePictures) -> dict[str, Any]:
    """Name the input pictures; the part of the mask that changes is white."""
    if call.request.operation is Operation.GENERATION:
        return {}
    inputs: dict[str, Any] = {"init_images": [pictures.base64(sent.image) for sent in call.request.images]}
    if (mask := await white_changes(call)) is not None:
        inputs |= {"mask": pictures.base64_of(mask), "inpainting_mask_invert": 0}
    return inputs


def _task_id(call: Call) -> str:
    """Name a drawing, so that any process can ask for it; SD.Next takes no notice."""
    return f"task(safelight-{uuid.uuid5(_NAMESPACE, call.token)})"


def _wire(spec: ModelSpec) -> _Wire:
    try:
        return msgspec.convert(spec.wire, _Wire)
    except msgspec.ValidationError as exc:
        raise ConfigurationError(f"model {spec.name}: wire: {exc}") from exc


def _info(text: str | None) -> _Info:
    """Read the JSON inside the JSON; some servers send none, and a very long one is not kept."""
    try:
        return msgspec.json.decode(text or "", type=_Info)
    except msgspec.DecodeError:
        return _Info()


def _count(fields: Mapping[str, Any]) -> int:
    """How many pictures the fields ask for, which extra parameters may have changed."""
    sizes = (fields["batch_size"], fields["n_iter"])
    batch, repeats = (size if isinstance(size, int) and size > 0 else 1 for size in sizes)
    return batch * repeats


PROVIDER = ProviderModule(
    name="sdwebui",
    doc="AUTOMATIC1111, Forge or SD.Next on your own machine",
    create=SDWebUI,
    options=Options,
    base_url="http://127.0.0.1:7860",
    repeatable=always,
)
