"""ComfyUI's workflows as templates: graphs in API format, with named slots in the inputs of their nodes.

A slot is `{{name}}` or `{{name=default}}` in a text. Where it is the whole text its value keeps its type, so that
`"steps": "{{steps=20}}"` becomes the number 20. What is put into a slot is never searched for slots again.
"""

import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import msgspec

from safelight.adapters.providers._local import FREE, SIZES, asked_size, size_refusal, source_size
from safelight.adapters.providers._rules import compression_needs_lossy_format, edits_inpaint
from safelight.application.ports import Call
from safelight.domain.capability import OPTIONAL_FIELDS, ModelSpec
from safelight.domain.errors import ConfigurationError, UnsupportedFeature
from safelight.domain.image import ImageRequest, Operation

Scalar = str | int | float | bool

_SLOT = re.compile(r"\{\{\s*([a-z][a-z0-9_]*)\s*(?:=(.*?))?\}\}", re.DOTALL)
_IMAGE = re.compile(r"image(?:_([1-9][0-9]?))?")
_SAVE = "SaveImage"
TASKS = ("generate", "edit", "inpaint", "vary")
_LARGEST_SEED = 2**63 - 1
_PIXELS = 1024 * 1024
"""What a size is made of for a ratio, where the model has no size of its own."""
FOLDER = "safelight"
"""Of uploads and results, in the server's folders `input` and `output`."""
FORMATS = ("png", "jpeg", "webp")
_OWN_SLOTS = frozenset({"mask", "model", "n", "negative_prompt", "prefix", "prompt"})
"""Slots that no extra parameter may fill; input pictures are such, too."""
_SLOT_OF: Mapping[str, str] = MappingProxyType(
    {
        **{name: name for name in OPTIONAL_FIELDS if name not in {"size", "aspect_ratio"}},
        "prompt": "prompt",
        "num_inference_steps": "steps",
    }
)
"""Which slot a field of the request goes into."""
_WITHOUT_SLOT = frozenset({"output_format", "output_compression", "partial_images"})
"""Fields that need no slot: the server converts what it hands out, and shows what it is drawing."""


class Node(msgspec.Struct, frozen=True):
    """One node; the titles that the editor writes beside it are left out."""

    class_type: str
    inputs: dict[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """A graph, the node whose pictures are its result, and its slots."""

    graph: Mapping[str, Node]
    output: str
    slots: frozenset[str]
    open_slots: frozenset[str]
    """Those without a default."""

    @classmethod
    def read(cls, text: bytes, *, where: str, output: str | None = None) -> "Workflow":
        """Read a file of ComfyUI's API export; raises `ConfigurationError`."""
        try:
            graph = msgspec.json.decode(text, type=dict[str, Node])
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise ConfigurationError(
                f"{where} is no workflow in API format (in ComfyUI: Workflow, Export (API)): {exc}"
            ) from exc
        found = [match for node in graph.values() for match in _slots(node.inputs)]
        return cls(
            graph=graph,
            output=_output(graph, output, where),
            slots=frozenset(match[1] for match in found),
            open_slots=frozenset(match[1] for match in found if match[2] is None),
        )

    @property
    def images(self) -> int:
        """How many input pictures it has slots for."""
        found = (_IMAGE.fullmatch(name) for name in self.slots)
        return max((int(match[1] or 1) for match in found if match), default=0)

    def filled(self, values: Mapping[str, Scalar]) -> dict[str, Any]:
        """Make the graph to run; raises `UnsupportedFeature` where a slot stays empty."""
        return {
            name: {"class_type": node.class_type, "inputs": _filled(node.inputs, values)}
            for name, node in self.graph.items()
        }


def image_slots(names: list[str]) -> dict[str, Scalar]:
    """Name input pictures for slots: `image_1` and so on; `image` is the first."""
    numbered: dict[str, Scalar] = {f"image_{number}": name for number, name in enumerate(names, start=1)}
    return {"image": names[0], **numbered} if names else {}


def _is_image_slot(name: str) -> bool:
    """Whether a slot takes an input picture."""
    return _IMAGE.fullmatch(name) is not None


def _output(graph: Mapping[str, Node], asked: str | None, where: str) -> str:
    saving = [name for name, node in graph.items() if node.class_type == _SAVE]
    if asked is None and len(saving) == 1:
        return saving[0]
    if asked is None:
        raise ConfigurationError(
            f"{where} has {len(saving)} nodes {_SAVE}: say with output which node's pictures count"
        )
    if asked not in graph:
        raise ConfigurationError(f"{where} has no node {asked!r}, which output names")
    return asked


def _slots(value: Any) -> Iterator[re.Match[str]]:
    match value:
        case str():
            yield from _SLOT.finditer(value)
        case list():
            for inner in value:
                yield from _slots(inner)
        case dict():
            for inner in value.values():
                yield from _slots(inner)
        case _:
            pass


def _filled(value: Any, values: Mapping[str, Scalar]) -> Any:
    match value:
        case str():
            return _filled_text(value, values)
        case list():
            return [_filled(inner, values) for inner in value]
        case dict():
            return {name: _filled(inner, values) for name, inner in value.items()}
        case _:
            return value


def _filled_text(text: str, values: Mapping[str, Scalar]) -> Scalar:
    whole = _SLOT.fullmatch(text)
    return _value(whole, values) if whole else _SLOT.sub(lambda slot: str(_value(slot, values)), text)


def _value(slot: re.Match[str], values: Mapping[str, Scalar]) -> Scalar:
    name, default = slot[1], slot[2]
    if name in values:
        return values[name]
    if default is None:
        raise UnsupportedFeature(f"this workflow cannot run without {name}", param=name)
    return _default(default)


def _default(text: str) -> Scalar:
    """Read a default as JSON, so that numbers are numbers; what is none is plain text."""
    try:
        value: Scalar = msgspec.json.decode(text, type=Scalar)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return text
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The workflows of a model by task, and what it puts into their slots in the place of their own defaults."""

    workflows: Mapping[str, Workflow]
    slots: Mapping[str, Scalar]

    def workflow(self, request: ImageRequest) -> Workflow:
        """Choose the workflow for a request; raises `UnsupportedFeature` where there is none."""
        for task in _tasks(request):
            if task in self.workflows:
                return self.workflows[task]
        raise UnsupportedFeature(
            f"this model has no workflow to {_tasks(request)[0]}", param="model" if request.mask is None else "mask"
        )

    def refusal(self, request: ImageRequest) -> UnsupportedFeature | None:
        """Why no workflow can express a request, or `None`."""
        try:
            workflow = self.workflow(request)
        except UnsupportedFeature as exc:
            return exc
        missing = next(_unplaced(request, workflow), None)
        if missing is not None:
            return UnsupportedFeature(f"this workflow has no place for {missing}", param=missing)
        if not request.images and workflow.images:
            return UnsupportedFeature("this workflow works on an input image", param="image")
        if request.seed is not None and request.seed < -1:
            return UnsupportedFeature("a seed is 0 or more; -1 lets it be chosen", param="seed")
        if request.output_format not in {None, *FORMATS}:
            return UnsupportedFeature(f"the output format is one of {', '.join(FORMATS)}", param="output_format")
        return edits_inpaint(request) or compression_needs_lossy_format(request) or size_refusal(request)

    def values(self, call: Call, prompt_id: str) -> dict[str, Scalar]:
        """Name what goes into the slots, input pictures apart."""
        request, workflow = call.request, self.workflow(call.request)
        asked = {slot: getattr(request, name) for name, slot in _SLOT_OF.items()}
        size = asked_size(request, pixels=self._pixels())
        fixed: dict[str, Scalar] = {
            "model": call.model,
            "n": call.n,
            "prefix": f"{FOLDER}/{prompt_id}",
            "seed": _seed(request, prompt_id),
        }
        return {
            "prompt": "",
            "negative_prompt": "",
            **self.slots,
            **_source_sides(request, workflow),
            **{slot: value for slot, value in asked.items() if value is not None},
            **({"width": size.width, "height": size.height} if size else {}),
            **fixed,
            **request.extra,
        }

    def _pixels(self) -> int:
        width, height = self.slots.get("width"), self.slots.get("height")
        return width * height if isinstance(width, int) and isinstance(height, int) else _PIXELS

    def spec(self, name: str, *, free: bool) -> ModelSpec:
        """Describe the operator's own workflows."""
        each = self.workflows.values()
        slots = frozenset().union(*(workflow.slots for workflow in each))
        fields = {name for name, slot in _SLOT_OF.items() if slot in slots and name in OPTIONAL_FIELDS} | _WITHOUT_SLOT
        return ModelSpec(
            name=name,
            operations=frozenset(_operations(self.workflows)),
            fields=frozenset(fields | ({"size", "aspect_ratio"} if {"width", "height"} <= slots else set())),
            pixel_rule=SIZES,
            formats=frozenset(FORMATS),
            max_n=None if all("n" in workflow.slots for workflow in each) else 1,
            max_images=max(workflow.images for workflow in each) or None,
            price=FREE if free else None,
            rules=(self.refusal,),
        )


def _tasks(request: ImageRequest) -> tuple[str, ...]:
    if request.operation is Operation.GENERATION:
        return ("generate",)
    if request.operation is Operation.VARIATION:
        return ("vary", "edit")
    return ("edit",) if request.mask is None else ("inpaint",)


def _operations(tasks: Mapping[str, Workflow]) -> Iterator[Operation]:
    if "generate" in tasks:
        yield Operation.GENERATION
    if "edit" in tasks or "inpaint" in tasks:
        yield Operation.EDIT
    if "vary" in tasks or "edit" in tasks:
        yield Operation.VARIATION


def _unplaced(request: ImageRequest, workflow: Workflow) -> Iterator[str]:
    """Name what the caller said and no slot takes, as the caller spells it."""
    for name, slot in _SLOT_OF.items():
        if name not in _WITHOUT_SLOT and getattr(request, name) is not None and slot not in workflow.slots:
            yield name
    if not {"width", "height"} <= workflow.slots:
        yield from (name for name in ("size", "aspect_ratio") if getattr(request, name) not in {None, "auto"})
    if len(request.images) > workflow.images:
        yield "image"
    if request.mask is not None and "mask" not in workflow.slots:
        yield "mask"
    for name, value in request.extra.items():
        placed = name in workflow.slots and name not in _OWN_SLOTS and not _is_image_slot(name)
        if not placed or not isinstance(value, str | int | float | bool):
            yield name


def _source_sides(request: ImageRequest, workflow: Workflow) -> dict[str, Scalar]:
    """Draw a picture over at its own size, where the workflow wants a size and has none."""
    size = source_size(request)
    if size is None:
        return {}
    sides = {"width": size.width, "height": size.height}
    return {name: side for name, side in sides.items() if name in workflow.open_slots}


def _seed(request: ImageRequest, prompt_id: str) -> int:
    """Always give one: the same graph with the same seed would bring the old files instead of new pictures."""
    if request.seed is None or request.seed < 0:
        return uuid.UUID(prompt_id).int & _LARGEST_SEED
    return request.seed


@cache
def built_in() -> Mapping[str, Workflow]:
    """Read the workflows that ship, by task."""
    folder = files("safelight.adapters.providers").joinpath("catalogue", "comfyui")
    return {task: Workflow.read(folder.joinpath(f"{task}.json").read_bytes(), where=task) for task in TASKS}
