"""The description of our API: valid, complete, and of one mind with the contract."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from schemathesis.core.result import Ok

from safelight.api.details import Detail
from safelight.api.docs import openapi_document

DOCUMENT = openapi_document()
CONTRACT = json.loads((Path(__file__).parents[1] / "contract" / "async-jobs.schema.json").read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]
SHARED = sorted(SCHEMAS.keys() & CONTRACT["$defs"].keys())
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
ERROR_SHAPES = {f"#/components/schemas/{name}" for name in ("BifrostError", "HandlerError", "PolicyRefusal")}
ANNOTATIONS = {"title", "description", "examples"}

REGISTRY: Registry[Any] = Registry().with_resources(
    [("urn:ours", DRAFT202012.create_resource(DOCUMENT)), ("urn:contract", DRAFT202012.create_resource(CONTRACT))]
)


def ours(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"urn:ours#/components/schemas/{name}"}, registry=REGISTRY)


def contracts(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"urn:contract#/$defs/{name}"}, registry=REGISTRY)


def nodes(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every object of the document with its place, but nothing inside examples."""
    if isinstance(value, dict):
        yield path, value
        for key, inner in value.items():
            if key not in {"example", "examples"}:
                yield from nodes(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from nodes(inner, (*path, str(index)))


def look_up(ref: str) -> Any:
    found: Any = DOCUMENT
    for step in ref.removeprefix("#/").split("/"):
        found = found[step]
    return found


def resolved(value: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in value:
        value = look_up(value["$ref"])
    return value


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS & item.keys():
            yield f"{method.upper()} {path}", item[method]


# ------------------------------------------------------------------------------------------------ the document itself


def test_document_is_valid_openapi() -> None:
    schema = schemathesis.openapi.from_dict(DOCUMENT)

    schema.validate()
    assert {type(found) for found in schema.get_all_operations()} == {Ok}
    assert len(list(schema.get_all_operations())) == len(list(operations()))


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_component_is_a_valid_schema(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])


def test_no_sentence_was_cut_at_a_comma() -> None:
    """YAML reads an unquoted comma inside braces as the next member, with no value."""
    for path, node in nodes(DOCUMENT):
        assert None not in node.values(), path


def test_every_reference_resolves() -> None:
    for path, node in nodes(DOCUMENT):
        if "$ref" in node:
            assert node["$ref"].startswith("#/components/"), path
            look_up(node["$ref"])


def test_no_component_is_unused() -> None:
    reached: set[str] = set()
    waiting: list[Any] = [DOCUMENT["paths"], DOCUMENT["webhooks"]]
    while waiting:
        for _, node in nodes(waiting.pop()):
            ref = node.get("$ref")
            if ref and ref not in reached:
                reached.add(ref)
                waiting.append(look_up(ref))

    have = {f"#/components/{kind}/{name}" for kind, named in DOCUMENT["components"].items() for name in named}
    assert have == reached


@pytest.mark.parametrize("label", sorted(label for label, _ in operations()))
def test_operation_is_described(label: str) -> None:
    operation = dict(operations())[label]
    assert operation["operationId"]
    assert operation["summary"]
    assert operation["description"]
    assert set(operation["tags"]) <= {tag["name"] for tag in DOCUMENT["tags"]}
    errors = [resolved(answer) for status, answer in operation["responses"].items() if status >= "400"]
    assert errors
    for answer in errors:
        if label.startswith("HEAD "):
            assert "content" not in answer
        else:
            assert answer["content"].keys() == {"application/json"}
            assert answer["content"]["application/json"]["schema"]["$ref"] in ERROR_SHAPES


def test_operation_ids_are_unique() -> None:
    ids = [operation["operationId"] for _, operation in operations()]
    assert len(ids) == len(set(ids))


def test_job_answers_say_where_and_when_to_ask_again() -> None:
    for label, operation in operations():
        for status, answer in operation["responses"].items():
            headers = {name: resolved(header) for name, header in resolved(answer).get("headers", {}).items()}
            accepted = status == "202" and " /v1/" in label
            if accepted or status == "503":
                assert headers["Retry-After"]["required"], label
            if accepted and label.startswith("POST "):
                assert headers["Location"]["required"], label


def test_every_example_fits_its_schema() -> None:
    count = 0
    for path, node in nodes(DOCUMENT):
        schema = node.get("schema", node)
        values: list[Any] = [node["example"]] if "example" in node else []
        named: Any = node.get("examples", [])
        values += [item["value"] for item in named.values()] if isinstance(named, dict) else named
        for value in values:
            validator = Draft202012Validator(rebased(schema), registry=REGISTRY)
            assert [error.message for error in validator.iter_errors(value)] == [], path
            count += 1
    assert count > 20


def rebased(schema: Any) -> Any:
    """The same schema, its references pointing into our document."""
    if isinstance(schema, dict):
        return {key: f"urn:ours{value}" if key == "$ref" else rebased(value) for key, value in schema.items()}
    return [rebased(item) for item in schema] if isinstance(schema, list) else schema


# ----------------------------------------------------------------------------------------------- beside the contract


def bare(schema: Any) -> Any:
    """A schema without its annotations, so that two can be compared; member names are not keywords and stay."""
    if isinstance(schema, list):
        return [bare(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            kept[key] = {name: bare(inner) for name, inner in value.items()}
        elif key == "$ref":
            kept[key] = value.rsplit("/", 1)[1]
        elif key not in ANNOTATIONS:
            kept[key] = bare(value)
    return kept


@pytest.mark.parametrize("name", SHARED)
def test_component_says_what_the_contract_says(name: str) -> None:
    mine = bare(SCHEMAS[name])
    if name == "AsyncJobEnvelope":
        # Ours names more members of `meta`: one always, on which it lays no condition, and those that are asked for.
        assert mine["properties"]["meta"]["properties"].pop("via") == {}
        for name_of_detail in Detail:
            del mine["properties"]["meta"]["properties"][name_of_detail]

    assert mine == bare(CONTRACT["$defs"][name])


def test_all_shapes_of_image_jobs_are_taken_over() -> None:
    assert {name for name in CONTRACT["$defs"] if not name.startswith("Webhook")} == set(SHARED)


ID = "0c4f3f0e-6f0a-4b7e-9a51-0d6c3a1f2b44"
START = "2026-11-23T10:00:00.125Z"
END = "2026-11-23T10:00:21Z"
LATER = "2026-11-23T11:00:21Z"
PENDING = {"id": ID, "status": "pending", "created_at": START}
PROCESSING = {**PENDING, "status": "processing", "request_id": "mine", "meta": {"attempts": 1, "progress": 0.25}}
IMAGES = {
    "created": 1795428000,
    "model": "sketch",
    "data": [{"index": 0, "b64_json": "iVBORw0KGgo="}, {"index": 1, "url": "/v1/files/x", "revised_prompt": "a"}],
    "usage": {"input_tokens": 3, "input_tokens_details": {"text_tokens": 3, "audio_tokens": 0}},
    "extra_fields": {"request_type": "image_edit", "latency": 12, "chunk_index": 0, "anything": {"more": True}},
}
ENDED = {"completed_at": END, "expires_at": LATER}
COMPLETED = {**PENDING, **ENDED, "status": "completed", "status_code": 200, "result": IMAGES}
ERROR = {
    "is_bifrost_error": False,
    "status_code": 429,
    "error": {"message": "busy", "code": "provider_busy", "param": {"any": ["thing"]}},
    "extra_fields": {"provider": "openai", "request_type": "image_generation"},
}
FAILED = {**PENDING, **ENDED, "status": "failed", "status_code": 429, "error": ERROR}
POLICY = {"type": "rate_limited", "status_code": 429, "error": {"message": "slower, please"}}


def without(value: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: inner for key, inner in value.items() if key not in names}


CASES: list[tuple[str, bool, Any]] = [
    ("AsyncJobSubmitted", True, PENDING),
    ("AsyncJobSubmitted", True, {**PENDING, "meta": {"queue_position": None, "via": "edit", "ours": 1}}),
    ("AsyncJobSubmitted", True, {**PENDING, "created_at": "2026-11-23T12:00:00+02:00"}),
    ("AsyncJobSubmitted", False, PROCESSING),
    ("AsyncJobSubmitted", False, {**PENDING, "completed_at": None}),
    ("AsyncJobSubmitted", False, {**PENDING, "request_id": ""}),
    ("AsyncJobSubmitted", False, {**PENDING, "id": ID.upper()}),
    ("AsyncJobSubmitted", False, {**PENDING, "id": "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}),
    ("AsyncJobSubmitted", False, {**PENDING, "created_at": "2026-11-23 10:00:00"}),
    ("AsyncJobSubmitted", False, {**PENDING, "extra": 1}),
    ("AsyncJobSubmitted", False, without(PENDING, "id")),
    ("AsyncJobRunning", True, PENDING),
    ("AsyncJobRunning", True, PROCESSING),
    ("AsyncJobRunning", False, COMPLETED),
    ("AsyncJobRunning", False, {**PROCESSING, "status": "cancelled"}),
    ("AsyncJobRunning", False, {**PROCESSING, "status_code": 202}),
    ("AsyncJobRunning", False, {**PROCESSING, "error": ERROR}),
    ("AsyncJobRunning", False, {**PROCESSING, "meta": {"progress": 2}}),
    ("AsyncJobRunning", False, {**PROCESSING, "meta": {"charged": True}}),
    ("AsyncJobRunning", False, {**PROCESSING, "meta": None}),
    ("AsyncJobFinished", True, COMPLETED),
    ("AsyncJobFinished", True, FAILED),
    ("AsyncJobFinished", True, {**FAILED, "error": POLICY, "meta": {"charged": "unknown", "cost_usd": None}}),
    ("AsyncJobFinished", True, {**COMPLETED, "result": without(IMAGES, "created", "model", "usage")}),
    ("AsyncJobFinished", False, PENDING),
    ("AsyncJobFinished", False, without(COMPLETED, "result")),
    ("AsyncJobFinished", False, without(COMPLETED, "expires_at")),
    ("AsyncJobFinished", False, {**COMPLETED, "status_code": 201}),
    ("AsyncJobFinished", False, {**COMPLETED, "error": ERROR}),
    ("AsyncJobFinished", False, {**COMPLETED, "result": {**IMAGES, "params": {"size": "auto"}}}),
    ("AsyncJobFinished", False, {**COMPLETED, "result": {**IMAGES, "data": [{"index": 0}]}}),
    ("AsyncJobFinished", False, without(FAILED, "error")),
    ("AsyncJobFinished", False, {**FAILED, "result": IMAGES}),
    ("AsyncJobFinished", False, {**FAILED, "status_code": 200}),
    ("ImageGenerationResponse", True, IMAGES),
    ("ImageGenerationResponse", True, {**IMAGES, "data": []}),
    ("ImageGenerationResponse", False, {**IMAGES, "data": [{"b64_json": "iVBORw0KGgo="}]}),
    ("ImageGenerationResponse", False, {**IMAGES, "data": [{"index": 0, "b64_json": "data:image/png;base64,iV=="}]}),
    ("ImageGenerationResponse", False, {**IMAGES, "data": [{"index": 0, "url": ""}]}),
    ("ImageGenerationResponse", False, {**IMAGES, "usage": {"input_tokens": -1}}),
    ("ImageGenerationResponse", False, {**IMAGES, "extra_fields": {"request_type": "image_edit", "latency": 1.5}}),
    ("ImageGenerationResponse", False, without(IMAGES, "extra_fields")),
    ("BifrostError", True, ERROR),
    ("BifrostError", True, POLICY),
    ("BifrostError", False, {**ERROR, "status_code": 200}),
    ("BifrostError", False, {**ERROR, "error": "busy"}),
    ("BifrostError", False, {**ERROR, "error": {"message": "busy", "code": 429}}),
    ("BifrostError", False, {**ERROR, "detail": []}),
    ("HandlerError", True, ERROR),
    ("HandlerError", False, POLICY),
    ("HandlerError", False, without(ERROR, "status_code")),
]


@pytest.mark.parametrize(("name", "fits", "value"), CASES)
def test_component_and_contract_judge_alike(name: str, fits: bool, value: Any) -> None:  # noqa: FBT001 - a table's column
    assert (ours(name).is_valid(value), contracts(name).is_valid(value)) == (fits, fits)


# ----------------------------------------------------------------------------------------------------------- requests

ASKED = {"model": "builtin/sketch", "prompt": "a kite"}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {name: None for name in SCHEMAS["ImageGenerationRequest"]["properties"] if name not in ASKED},
        {"size": "auto"},
        {"size": "16x16384"},
        {"size": "1536x1024"},
        {"size": "16:9"},
        {"size": "2K"},
        {"aspect_ratio": "19.5:9"},
        {"seed": -(2**63)},
        {"seed": 2**63 - 1},
        {"stream": False},
        {"fallbacks": ["openai/gpt-image-2", "broken", {"provider": "openai", "model": "gpt-image-2"}]},
        {"input_images": ["data:image/png;base64,iVBORw0KGgo=", "iVBORw0KGgo="]},
        {"prompt": "x" * 131072},
        {"unknown": {"nested": [1]}},
    ],
)
def test_generation_may_say(more: dict[str, Any]) -> None:
    assert ours("ImageGenerationRequest").is_valid({**ASKED, **more})


@pytest.mark.parametrize(
    "more",
    [
        {"model": ""},
        {"model": None},
        {"model": "m" * 257},
        {"prompt": ""},
        {"prompt": 7},
        {"prompt": "x" * 131073},
        {"n": 0},
        {"n": 11},
        {"n": "1"},
        {"n": True},
        {"size": "15x1024"},
        {"size": "16385x1024"},
        {"size": "01024x1024"},
        {"size": "1024X1024"},
        {"size": "8K"},
        {"size": "0:9"},
        {"size": ""},
        {"response_format": "binary"},
        {"background": "red"},
        {"output_format": "tiff"},
        {"output_compression": 101},
        {"partial_images": 4},
        {"seed": 2**63},
        {"num_inference_steps": 0},
        {"aspect_ratio": "wide"},
        {"user": "u" * 513},
        {"stream": True},
        {"stream": "false"},
        {"fallbacks": "openai/gpt-image-2"},
        {"fallbacks": ["a/b"] * 11},
        {"fallbacks": [{"provider": "openai"}]},
        {"input_images": ["https://example.com/a.png"]},
        {"input_images": ["file:///etc/passwd"]},
        {"input_images": ["iVBORw0KGgo="] * 17},
        {f"extra{index}": 1 for index in range(999)},
    ],
)
def test_generation_may_not_say(more: dict[str, Any]) -> None:
    assert not ours("ImageGenerationRequest").is_valid({**ASKED, **more})


@pytest.mark.parametrize("name", ["ImageEditForm", "ImageVariationForm"])
def test_form_needs_a_model_and_an_image_under_either_name(name: str) -> None:
    form = ours(name)

    assert form.is_valid({"model": "builtin/sketch", "image": ["bytes"]})
    assert form.is_valid({"model": "builtin/sketch", "image[]": ["bytes"], "own": "text"})
    assert not form.is_valid({"model": "builtin/sketch"})
    assert not form.is_valid({"image": ["bytes"]})
    assert not form.is_valid({"model": "builtin/sketch", "image[]": ["bytes"] * 17})


def test_edit_refuses_only_the_word_true_for_stream() -> None:
    form = {"model": "builtin/sketch", "image": ["bytes"]}

    assert ours("ImageEditForm").is_valid({**form, "stream": "false"})
    assert not ours("ImageEditForm").is_valid({**form, "stream": "true"})
