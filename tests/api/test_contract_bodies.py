"""Section 5 of the contract: request bodies, their faults and the order of those. Checklist 9 to 11."""

import base64
import gzip
import json
import zlib
from collections.abc import Mapping
from typing import Any

import pytest

from tests.api.client import KINDS, REQUEST_TYPES, SMALL, Client, File, Parts, mask, parts_of, png
from tests.api.serving import ServedGateway
from tests.simulators.openai import OpenAISimulator

FORMS = ("edits", "variations")
INTEGERS = ("n", "partial_images", "num_inference_steps", "seed", "output_compression")
OPENAI = {"model": "openai/gpt-image-2", "prompt": "a red kite"}
NOT_AN_IMAGE = File("image", b"these are words", "fox.png")
IMAGE = File("image", png())
MODEL = ("model", "builtin/sketch")


def without(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


# -------------------------------------------------------------------------------------------------------- generation


@pytest.mark.parametrize(
    ("values", "message", "param"),
    [
        ({}, "prompt cannot be empty", "prompt"),
        ({"prompt": ""}, "prompt cannot be empty", "prompt"),
        ({"prompt": None}, "prompt cannot be empty", "prompt"),
        ({"prompt": 7}, "prompt must be a string", "prompt"),
        ({"prompt": "x" * 131_073}, "prompt must be at most 131072 characters long", "prompt"),
        ({"prompt": "x"}, "model is required", "model"),
        ({"prompt": "x", "model": ""}, "model is required", "model"),
        ({"prompt": "x", "model": None}, "model is required", "model"),
        ({"prompt": "x", "model": 7}, "model must be a string", "model"),
        ({"prompt": "x", "model": "no-such"}, "model should be in provider/model format", "model"),
        ({"prompt": "x", "model": "builtin/"}, "model should be in provider/model format", "model"),
        ({"prompt": "x", "model": "/sketch"}, "model should be in provider/model format", "model"),
        ({"prompt": "x", "model": "b" * 257}, "model must be at most 256 characters long", "model"),
        ({**SMALL, "stream": True}, "stream is not supported for async image generations", "stream"),
        ({**SMALL, "stream": "true"}, "stream must be true or false", "stream"),
        ({**SMALL, "n": 0}, "n must be 1 to 10", "n"),
        ({**SMALL, "n": "2"}, "n must be a whole number", "n"),
        ({**SMALL, "n": 1.5}, "n must be a whole number", "n"),
        ({**SMALL, "n": True}, "n must be a whole number", "n"),
        ({**SMALL, "n": 2**70}, "n must be 1 to 10", "n"),
        ({**SMALL, "size": "15x15"}, "size: each side must be 16 to 16384 pixels", "size"),
        ({**SMALL, "size": "large"}, "size must be auto, WIDTHxHEIGHT", "size"),
        ({**SMALL, "size": ["16x16"]}, "size must be auto, WIDTHxHEIGHT", "size"),
        ({**SMALL, "size": "2049x16"}, "model sketch cannot draw size '2049x16'", "size"),
        ({**SMALL, "style": "vivid"}, "model sketch has no style", "style"),
        ({**SMALL, "quality": "hd"}, "model sketch has no quality 'hd'", "quality"),
        ({**SMALL, "response_format": "png"}, "response_format must be one of url, b64_json", "response_format"),
        ({**SMALL, "output_format": "tiff"}, "output_format must be one of", "output_format"),
        ({**SMALL, "fallbacks": "a/b"}, "fallbacks must be strings", "fallbacks"),
        ({**SMALL, "fallbacks": [7]}, "fallbacks must be strings", "fallbacks"),
        ({**SMALL, "fallbacks": [{"provider": "builtin"}]}, "fallbacks must be strings", "fallbacks"),
        ({**SMALL, "fallbacks": ["a/b"] * 11}, "fallbacks must be at most 10", "fallbacks"),
        ({**SMALL, "fallbacks": ["a/" + "b" * 300]}, "fallbacks must be at most 256 characters long", "fallbacks"),
        ({**SMALL, "input_images": "x"}, "input_images must be a list of strings", "input_images"),
        (
            {**SMALL, "input_images": ["https://127.0.0.1/a.png"]},
            "input_images[0]: the image was not",
            "input_images[0]",
        ),
        ({**SMALL, "input_images": ["file:///etc/passwd"]}, "input_images[0] must be an image", "input_images[0]"),
        ({**SMALL, "input_images": ["QUJD"]}, "input_images[0]: the image is not an image", "input_images[0]"),
        ({**SMALL, "user": "u" * 513}, "user must be at most 512", "user"),
        ({**SMALL, "user": "a\x00b"}, "user must not hold NUL", "user"),
    ],
)
async def test_faults_of_a_generation(client: Client, values: Mapping[str, Any], message: str, param: str) -> None:
    body = (await client.send("generations", values)).error(400, message)

    assert body["error"]["param"] == param
    assert body["is_bifrost_error"] is False
    assert body["extra_fields"]["request_type"] == "image_generation"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stream": True}, "prompt cannot be empty"),
        ({"prompt": "", "n": "x", "model": 7}, "prompt cannot be empty"),
        ({"prompt": "x", "stream": True}, "stream is not supported"),
        ({"prompt": "x", "stream": True, "model": "bare", "n": 0}, "stream is not supported"),
        ({"prompt": "x", "model": "bare", "n": 0}, "model should be"),
        ({**SMALL, "n": 0, "style": "vivid"}, "n must be 1 to 10"),
    ],
)
async def test_first_fault_of_a_generation_wins(client: Client, values: Mapping[str, Any], message: str) -> None:
    (await client.send("generations", values)).error(400, message)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"text"', b"7", b"{]", b'{"a":1}x', b"\xff\xfe{}", b"a=b"]
)
async def test_unreadable_json(client: Client, body: bytes) -> None:
    headers = {"content-type": "application/json"}

    reply = await client.ask("POST", "/v1/async/images/generations", data=body, headers=headers)

    reply.error(400, "Invalid request payload")


async def test_json_is_read_before_the_prompt(client: Client) -> None:
    headers = {"content-type": "application/json"}

    reply = await client.ask("POST", "/v1/async/images/generations", data=b'{"prompt": "",', headers=headers)

    reply.error(400, "Invalid request payload")


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json", None]
)
async def test_json_under_its_usual_names(client: Client, kind: str | None) -> None:
    options: Any = {"headers": {"content-type": kind}} if kind else {"skip_auto_headers": ["content-type"]}

    reply = await client.ask("POST", "/v1/async/images/generations", data=json.dumps(SMALL).encode(), **options)

    assert reply.status == 202


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
async def test_generation_takes_json_alone(client: Client, kind: str) -> None:
    body = json.dumps(SMALL).encode()

    reply = await client.ask("POST", "/v1/async/images/generations", data=body, headers={"content-type": kind})

    reply.error(415, "Invalid request payload: Content-Type must be application/json")


@pytest.mark.parametrize(
    "more",
    [
        dict.fromkeys(("n", "size", "quality", "seed", "stream", "fallbacks", "input_images", "user")),
        {"n": 1.0, "seed": 7.0},
        {"n": 1, "seed": -(2**63), "background": "opaque", "quality": "low", "response_format": "b64_json"},
        {"output_format": "webp", "output_compression": 0, "user": "u" * 512},
        {"stream": False, "fallbacks": [], "input_images": []},
        {"prompt": "x" * 131_072},
        {"prompt": "\U0001f98a" * 1000},
        {"prompt": "lifted: spirits, as painted by someone else"},
        {"unknown": {"nested": [1, 2.5, None, "text"]}},
    ],
)
async def test_good_generations(client: Client, more: Mapping[str, Any]) -> None:
    assert (await client.run(values={**SMALL, **more}))["status"] == "completed"


@pytest.mark.parametrize("size", ["auto", "16:9", "19.5:9", "2K", "1024x1024"])
async def test_sizes_that_are_for_the_provider_to_judge(client: Client, size: str) -> None:
    await client.submit(values={"model": "gpu-box/anything", "prompt": "x", "size": size})


async def test_longest_prompts_fully_escaped(client: Client) -> None:
    escaped = "\\u00e4" * 131_072
    body = f'{{"negative_prompt": "{escaped}", "model": "gpu-box/x", "prompt" :\n"{escaped}"}}'.encode()

    reply = await client.ask(
        "POST", "/v1/async/images/generations", data=body, headers={"content-type": "application/json"}
    )

    assert reply.status == 202, reply.body[:300]


async def test_input_images_are_read_before_the_model_refuses_them(client: Client) -> None:
    picture = base64.b64encode(png()).decode()

    for text in (picture, f"data:image/png;base64,{picture}", picture.rstrip("=")):
        reply = await client.send("generations", {**SMALL, "input_images": [text]})
        reply.error(400, "model sketch takes input images on the edits route")


async def test_long_base64_that_breaks_off_is_the_callers_fault(client: Client) -> None:
    text = "A" * 300_000 + "%" + "A" * 10

    reply = await client.send("generations", {**SMALL, "input_images": [text]})

    reply.error(400, "input_images[0]: the image is not base64 to its end")


@pytest.mark.parametrize("value", ["A" * 300_000, "words " * 60_000])
@pytest.mark.parametrize("place", ["user", "own", "deep"])
async def test_text_as_long_as_an_image_is_refused_in_any_place(client: Client, value: str, place: str) -> None:
    more: Any = {"own": {"deep": [value]}} if place == "deep" else {place: value}

    reply = await client.send("generations", {**SMALL, **more}, headers={"x-bf-passthrough-extra-params": "true"})

    reply.error(400, f"{'own' if place == 'deep' else place} is too long")


async def test_bare_model_finds_its_provider(client: Client) -> None:
    job = await client.run(values={**SMALL, "model": "gpt-image-2", "size": "1024x1024"})

    assert job["status"] == "completed"
    assert job["meta"]["model"] == "openai/gpt-image-2"


# ------------------------------------------------------------------------------------------------- edit and variation


@pytest.mark.parametrize("kind", FORMS)
async def test_form_is_needed(client: Client, kind: str) -> None:
    reply = await client.ask("POST", f"/v1/async/images/{kind}", json=SMALL)

    body = reply.error(400, "failed to parse multipart form: ")
    assert body["extra_fields"]["request_type"] == REQUEST_TYPES[kind]


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/mixed; boundary=x",
        "",
        "multipart/form-data;;",
    ],
)
async def test_form_without_a_boundary(client: Client, kind: str, content_type: str) -> None:
    reply = await client.ask(
        "POST", f"/v1/async/images/{kind}", data=b"--x--\r\n", headers={"content-type": content_type}
    )

    reply.error(400, "failed to parse multipart form: ")


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize(
    ("parts", "message", "param"),
    [
        ([], "model is required", "model"),
        ([("model", "")], "model is required", "model"),
        ([("model", "  ")], "model is required", "model"),
        ([IMAGE], "model is required", "model"),
        ([MODEL], "at least one image is required", "image"),
        ([MODEL, ("image", "text")], "at least one image is required", "image"),
        ([MODEL, NOT_AN_IMAGE], "image: the file 'fox.png' is not an image", "image"),
        ([MODEL, File("image[]", b"")], "image[]: the file 'fox.png' is not an image", "image[]"),
        ([MODEL, *[IMAGE] * 17], "at most 16 images are taken", "image"),
        ([MODEL, IMAGE, ("n", "two")], "invalid n value: 'two'", "n"),
        ([MODEL, IMAGE, ("n", "1.5")], "invalid n value: '1.5'", "n"),
        ([MODEL, IMAGE, ("n", "9" * 50)], "invalid n value: '9999", "n"),
        ([MODEL, IMAGE, ("n", "11")], "n must be 1 to 10", "n"),
        ([MODEL, IMAGE, ("size", "big")], "size must be auto", "size"),
        ([MODEL, IMAGE, ("response_format", "x")], "response_format must be one of", "response_format"),
        ([MODEL, IMAGE, ("fallbacks", "a/" + "b" * 300)], "fallbacks must be at most 256", "fallbacks"),
        ([("model", "bare"), IMAGE], "model should be in provider/model format", "model"),
        ([MODEL, IMAGE, File("picture", png())], "no file is expected in field 'picture'", "picture"),
    ],
)
async def test_faults_of_a_form(client: Client, kind: str, parts: Parts, message: str, param: str) -> None:
    body = (await client.send(kind, [*parts, ("padding", "x")])).error(400, message)

    assert body["error"]["param"] == param


@pytest.mark.parametrize("name", INTEGERS)
async def test_integers_of_an_edit(client: Client, name: str) -> None:
    (await client.send("edits", [*parts_of("edits"), (name, "1e3")])).error(400, f"invalid {name} value: ")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([("n", "x"), ("stream", "true")], "model is required"),
        ([MODEL, ("n", "x"), File("mask", b"no")], "at least one image is required"),
        ([MODEL, NOT_AN_IMAGE, ("n", "x"), ("stream", "true")], "image: the file"),
        ([MODEL, IMAGE, ("n", "x"), File("mask", b"no"), ("stream", "true")], "invalid n value"),
        ([MODEL, IMAGE, ("seed", "x"), ("n", "x")], "invalid n value"),
        ([MODEL, IMAGE, File("mask", b"no"), ("stream", "true")], "mask: the file"),
        ([("model", "bare"), IMAGE, ("stream", "true")], "stream is not supported for async image edits"),
    ],
)
async def test_first_fault_of_an_edit_wins(client: Client, parts: Parts, message: str) -> None:
    (await client.send("edits", parts)).error(400, message)


@pytest.mark.parametrize("text", ["false", "True", "1", "yes", ""])
async def test_edit_refuses_only_the_word_true_for_stream(client: Client, text: str) -> None:
    await client.submit("edits", parts_of("edits", stream=text))


async def test_variation_does_not_look_at_stream(client: Client) -> None:
    await client.submit("variations", parts_of("variations", stream="true"))


@pytest.mark.parametrize("kind", FORMS)
async def test_named_list_of_images_wins(client: Client, kind: str) -> None:
    parts = [MODEL, ("prompt", "x"), NOT_AN_IMAGE, File("image[]", png())]

    assert (await client.run(kind, parts))["status"] == "completed"


async def test_named_list_of_images_goes_upstream_alone(client: Client, upstream: OpenAISimulator) -> None:
    parts = [*OPENAI.items(), File("image", png(16, 16)), File("image[]", png(32, 32)), File("image[]", png(64, 64))]

    job = await client.run("edits", parts)

    assert job["status"] == "completed"
    assert [(file.name, file.size_bytes) for file in upstream.exchanges[0].files] == [
        ("image[]", len(png(32, 32))),
        ("image[]", len(png(64, 64))),
    ]


async def test_mask_is_optional_and_the_first_counts(client: Client, upstream: OpenAISimulator) -> None:
    picture = File("image", png(16, 16))
    await client.run("edits", [*OPENAI.items(), picture])
    await client.run("edits", [*OPENAI.items(), picture, File("mask", mask()), File("mask", b"unread")])

    plain, masked = upstream.exchanges
    assert [file.name for file in plain.files] == ["image"]
    assert [file.name for file in masked.files] == ["image", "mask"]
    assert masked.files[1].size_bytes == len(mask())


async def test_prompt_of_an_edit_is_for_the_provider_to_ask_for(client: Client) -> None:
    """9.4: `gpu-box` is any server; OpenAI's own models are known to need one."""
    assert (await client.send("edits", [("model", "gpu-box/x"), IMAGE])).status == 202
    (await client.send("edits", [("model", "openai/gpt-image-2"), IMAGE])).error(400, "this model needs a prompt")


async def test_further_images_of_a_variation_are_extra_parameters(client: Client, upstream: OpenAISimulator) -> None:
    parts = [("model", "openai/gpt-image-2"), IMAGE, File("image", png(32, 32))]

    await client.run("variations", parts)
    await client.run("variations", parts, headers={"x-bf-passthrough-extra-params": "true"})

    assert [len(exchange.files) for exchange in upstream.exchanges] == [1, 2]


async def test_variation_is_done_by_the_edit_call(client: Client, upstream: OpenAISimulator) -> None:
    job = await client.run("variations", [("model", "openai/gpt-image-2"), IMAGE])

    assert job["meta"]["via"] == "edit"
    assert job["result"]["extra_fields"]["request_type"] == "image_variation"
    assert upstream.exchanges[0].path == "/v1/images/edits"


@pytest.mark.parametrize("passed", ["true", "false"])
async def test_extra_parts_of_an_edit(client: Client, upstream: OpenAISimulator, passed: str) -> None:
    parts = [*OPENAI.items(), IMAGE, ("complexity", "low"), ("safety_identifier", "me")]

    await client.run("edits", parts, headers={"x-bf-passthrough-extra-params": passed})

    assert ("complexity" in upstream.exchanges[0].fields) is (passed == "true")


# ------------------------------------------------------------------------------------------- refusals leave nothing


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("generations", {**SMALL, "stream": True}),
        ("generations", {**SMALL, "style": "vivid"}),
        ("generations", {**SMALL, "input_images": [base64.b64encode(png()).decode()]}),
        ("edits", [*parts_of("edits", stream="true"), File("mask", mask())]),
        ("edits", parts_of("edits", n="two")),
        ("edits", [*parts_of("edits"), NOT_AN_IMAGE]),
        ("edits", [*parts_of("edits"), File("other", b"")]),
        ("variations", parts_of("variations", model="bare")),
        ("variations", [MODEL, File("image", png(400, 400) + bytes(600_000)), File("image", b"")]),
    ],
)
async def test_refused_submit_leaves_nothing_behind(
    own_client: Client, own: ServedGateway, kind: str, values: Any
) -> None:
    (await own_client.send(kind, values)).error(400)

    assert own.blobs == []
    assert own.job_count() == 0


async def test_images_without_use_are_not_kept(own_client: Client, own: ServedGateway) -> None:
    """Beside `image[]` an `image` is not looked at; of two masks the second."""
    parts = [MODEL, ("prompt", "x"), IMAGE, File("image[]", png()), File("mask", mask()), File("mask", mask())]

    await own_client.run("edits", parts)

    assert len(own.blobs) == 3  # the input, the mask and the picture that came out


# ---------------------------------------------------------------------------------------------- size and compression


async def test_body_over_the_limit(own_client: Client) -> None:
    body = {**SMALL, "input_images": ["A" * 3_000_000]}

    (await own_client.send("generations", body)).error(413, "request body exceeds max allowed size of 2000000 bytes")


@pytest.mark.parametrize("kind", KINDS)
async def test_inflated_body_over_the_limit(own_client: Client, kind: str) -> None:
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    if kind != "generations":
        headers["content-type"] = "multipart/form-data; boundary=x"
    start = (
        b'{"a":"'
        if kind == "generations"
        else b'--x\r\ncontent-disposition: form-data; name="image"; filename=a\r\n\r\n'
    )

    reply = await own_client.ask(
        "POST", f"/v1/async/images/{kind}", data=gzip.compress(start + bytes(5_000_000)), headers=headers
    )

    if kind == "generations":
        reply.error(413, "decompressed request body exceeds max allowed size")
    else:
        assert reply.status in {400, 413}


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"not gzip"),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-4]),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"more"),
        ("gzip", b""),
        ("deflate", b"\x78\x9cnope"),
    ],
)
async def test_broken_compression(client: Client, encoding: str, body: bytes) -> None:
    headers = {"content-encoding": encoding, "content-type": "application/json"}

    reply = await client.ask("POST", "/v1/async/images/generations", data=body, headers=headers)

    reply.error(400, "invalid compressed request body")


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "nonsense"])
async def test_unknown_compression(client: Client, encoding: str) -> None:
    headers = {"content-encoding": encoding, "content-type": "application/json"}

    reply = await client.ask("POST", "/v1/async/images/generations", data=b"{}", headers=headers)

    reply.error(415, "unsupported content encoding")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
async def test_compressed_body(client: Client, encoding: str) -> None:
    plain = json.dumps(SMALL).encode()
    body = {"gzip": gzip.compress(plain), "deflate": zlib.compress(plain), "identity": plain}[encoding]
    headers = {"content-encoding": encoding, "content-type": "application/json"}

    reply = await client.ask("POST", "/v1/async/images/generations", data=body, headers=headers)

    assert reply.status == 202, reply.body
