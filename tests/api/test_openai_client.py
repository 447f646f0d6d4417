"""The official `openai` client with nothing changed but its address."""

import base64
import io
from collections.abc import AsyncIterator, Iterator

import openai
import pytest
from PIL import Image

from tests.api.client import Client, mask, png
from tests.api.serving import ServedGateway

IMAGE = ("house.png", png(32, 32), "image/png")
MASK = ("mask.png", mask(32, 32), "image/png")


@pytest.fixture
def sync_client(served: ServedGateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none needed", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(served: ServedGateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none needed", max_retries=0) as client:
        yield client


def size_of(picture: openai.types.Image) -> tuple[int, int]:
    assert picture.b64_json
    return Image.open(io.BytesIO(base64.b64decode(picture.b64_json))).size


def only(answer: openai.types.ImagesResponse) -> openai.types.Image:
    assert answer.data
    assert len(answer.data) == 1
    assert answer.created > 1_700_000_000
    return answer.data[0]


def test_generate(sync_client: openai.OpenAI) -> None:
    answer = sync_client.images.generate(
        model="builtin/sketch", prompt="a kite", size="512x512", response_format="b64_json"
    )

    assert size_of(only(answer)) == (512, 512)


async def test_generate_a_link(async_client: openai.AsyncOpenAI, client: Client) -> None:
    answer = await async_client.images.generate(
        model="builtin/sketch", prompt="x", size="256x256", response_format="url"
    )

    picture = only(answer)
    assert picture.url
    assert picture.b64_json is None
    assert Image.open(io.BytesIO((await client.get(picture.url)).body)).size == (256, 256)


def test_generate_as_with_openai_itself(sync_client: openai.OpenAI) -> None:
    """A bare model, no format asked: base64, as these models answer."""
    answer = sync_client.images.generate(
        model="gpt-image-2", prompt="a kite", n=2, quality="low", output_format="webp", background="opaque", user="me"
    )

    assert answer.data
    assert [size_of(picture) for picture in answer.data] == [(1024, 1024)] * 2
    assert answer.output_format == "webp"
    assert answer.usage
    assert answer.usage.total_tokens > 0


def test_edit_with_a_mask(sync_client: openai.OpenAI) -> None:
    answer = sync_client.images.edit(
        model="builtin/sketch", image=IMAGE, mask=MASK, prompt="a blue door", response_format="b64_json"
    )

    assert size_of(only(answer)) == (32, 32)


def test_edit_several_images(sync_client: openai.OpenAI) -> None:
    answer = sync_client.images.edit(model="gpt-image-2", image=[IMAGE, IMAGE], prompt="both", size="1024x1024")

    assert size_of(only(answer)) == (1024, 1024)


def test_edit_a_plain_file(sync_client: openai.OpenAI) -> None:
    answer = sync_client.images.edit(
        model="builtin/sketch", image=io.BytesIO(png(32, 32)), prompt="x", response_format="b64_json"
    )

    assert size_of(only(answer)) == (32, 32)


def test_vary(sync_client: openai.OpenAI) -> None:
    with pytest.warns(DeprecationWarning, match="deprecated"):
        answer = sync_client.images.create_variation(
            model="builtin/sketch", image=IMAGE, n=1, response_format="b64_json"
        )

    assert size_of(only(answer)) == (32, 32)


async def test_all_three_asynchronously(async_client: openai.AsyncOpenAI) -> None:
    images = async_client.images
    made = await images.generate(model="builtin/sketch", prompt="x", size="256x256", response_format="b64_json")
    changed = await images.edit(model="builtin/sketch", image=IMAGE, mask=MASK, prompt="x", response_format="b64_json")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        varied = await images.create_variation(model="builtin/sketch", image=IMAGE, response_format="url")

    assert size_of(only(made)) == (256, 256)
    assert size_of(only(changed)) == (32, 32)
    assert only(varied).url


ERRORS: list[tuple[str, type[openai.APIStatusError], int]] = [
    ("builtin/fail-rejected", openai.BadRequestError, 400),
    ("builtin/fail-moderation", openai.BadRequestError, 400),
    ("builtin/fail-auth", openai.AuthenticationError, 401),
    ("builtin/fail-model", openai.NotFoundError, 404),
    ("builtin/fail-busy", openai.RateLimitError, 429),
    ("builtin/fail-crash", openai.InternalServerError, 500),
    ("builtin/fail-protocol", openai.InternalServerError, 502),
    ("builtin/fail-unavailable", openai.InternalServerError, 503),
    ("builtin/fail-uncertain", openai.InternalServerError, 504),
    ("nobody-has-this", openai.BadRequestError, 400),
    ("nowhere/model", openai.BadRequestError, 400),
]


@pytest.mark.parametrize(("model", "kind", "status"), ERRORS)
def test_errors_are_the_clients_own(
    sync_client: openai.OpenAI, model: str, kind: type[openai.APIStatusError], status: int
) -> None:
    with pytest.raises(kind) as raised:
        sync_client.images.generate(model=model, prompt="x")

    assert raised.value.status_code == status
    assert raised.value.code
    assert "Error code" in str(raised.value)


@pytest.mark.parametrize(("model", "kind", "status"), ERRORS[:5])
async def test_errors_asynchronously(
    async_client: openai.AsyncOpenAI, model: str, kind: type[openai.APIStatusError], status: int
) -> None:
    with pytest.raises(kind) as raised:
        await async_client.images.edit(model=model, image=IMAGE, prompt="x")

    assert raised.value.status_code == status


def test_error_names_the_field(sync_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        sync_client.images.generate(model="builtin/sketch", prompt="x", n=11)

    assert raised.value.param == "n"
    assert raised.value.code == "invalid_request"
    assert raised.value.type == "invalid_request_error"


def test_unknown_route_is_not_found(sync_client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        sync_client.chat.completions.create(model="x", messages=[])


def test_stream_is_refused_in_words(sync_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="stream is not supported"):
        sync_client.images.generate(model="builtin/sketch", prompt="x", stream=True)


def test_models(sync_client: openai.OpenAI) -> None:
    models = {model.id: model.owned_by for model in sync_client.models.list()}

    assert models["builtin/sketch"] == "builtin"
    assert models["openai/gpt-image-2"] == "openai"


async def test_models_asynchronously(async_client: openai.AsyncOpenAI) -> None:
    assert "builtin/sketch" in [model.id async for model in async_client.models.list()]


def test_client_retries_what_may_pass(served: ServedGateway) -> None:
    """503 and 429 say when; the client believes it."""
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0) as client:
        answer = client.images.with_raw_response
        with pytest.raises(openai.RateLimitError) as raised:
            answer.generate(model="builtin/fail-busy", prompt="x")
        assert raised.value.response.headers["retry-after"] == "1"
