"""The same request through a provider module and through the provider's own client: what is sent must be the same.

Where we differ, the reason is named. fal's, Together's and Hugging Face's clients were compared by hand with the same
recorder (2026-11-25, fal_client 1.0.3, together 3.1.1, huggingface_hub 2.4.0): no difference but fal's `logs=true` for
`logs=1`, and the queue where Hugging Face's client asks fal synchronously, which cannot be resumed.
"""

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Any, ClassVar

import openai
import pytest
from google import genai
from google.genai import types
from replicate.client import Client as ReplicateClient

from safelight.adapters.providers._http import HttpSessions
from safelight.domain.image import ImageRequest, Operation
from tests.providers.recorder import Recorded, Recorder
from tests.providers.support import KEY, FolderWorkspace, call, generation, image_bytes, mask_bytes, open_provider
from tests.simulators._pictures import picture_of_bytes

PROMPT = "a red fox"
PNG, MASK = image_bytes(1024, 1024), mask_bytes(1024, 1024)
BASE64 = base64.b64encode(image_bytes()).decode()
EDIT = Operation.EDIT


class Desk:
    """Sends a request as we do, and as the other client does."""

    def __init__(self, recorder: Recorder, sessions: HttpSessions, workspace: FolderWorkspace) -> None:
        self.recorder = recorder
        self.url = recorder.url
        self._sessions = sessions
        self._workspace = workspace
        self.clients = ExitStack()
        """Those of the others, to be closed at the end."""

    async def ours(self, request: ImageRequest, *, path: str = "", **options: Any) -> list[Recorded]:
        kind = request.target.provider
        provider = open_provider(kind, self._sessions, self.url + path, options=options, timeout_s=20)
        await provider.start(call(request, self._workspace))
        await provider.close()
        return self.recorder.take()

    async def theirs(self, send: Callable[[], object]) -> list[Recorded]:
        await asyncio.to_thread(send)
        return self.recorder.take()


@pytest.fixture
async def desk(
    request: pytest.FixtureRequest, sessions: HttpSessions, workspace: FolderWorkspace
) -> AsyncIterator[Desk]:
    """At a server that gives each time what the test's class says."""
    async with Recorder(request.cls.ANSWER, status=getattr(request.cls, "STATUS", 200)) as recorder:
        opened = Desk(recorder, sessions, workspace)
        with opened.clients:
            yield opened


def assert_alike(ours: list[Recorded], theirs: list[Recorded], *headers: str) -> None:
    assert ours
    assert [each.like(*headers) for each in ours] == [each.like(*headers) for each in theirs]


def file(content: bytes, name: str) -> tuple[str, bytes, str]:
    return name, content, "image/png"


class TestOpenAI:
    ANSWER: ClassVar = {"created": 1, "data": [{"b64_json": BASE64}]}
    MODEL = "gpt-image-2"

    @pytest.fixture
    def client(self, desk: Desk) -> openai.OpenAI:
        client = openai.OpenAI(base_url=f"{desk.url}/v1", api_key=KEY, max_retries=0)
        return desk.clients.enter_context(client)

    async def test_generation(self, desk: Desk, client: openai.OpenAI) -> None:
        wanted: dict[str, Any] = {
            "n": 2,
            "size": "1024x1024",
            "quality": "high",
            "background": "opaque",
            "moderation": "low",
            "output_format": "webp",
            "output_compression": 80,
        }
        ours = await desk.ours(generation(self.MODEL, **wanted), path="/v1")
        theirs = await desk.theirs(lambda: client.images.generate(model=self.MODEL, prompt=PROMPT, **wanted))
        assert_alike(ours, theirs, "authorization")

    async def test_generation_with_previews(self, desk: Desk, client: openai.OpenAI) -> None:
        ours = await desk.ours(generation(self.MODEL, n=1, partial_images=2), path="/v1")
        theirs = await desk.theirs(
            lambda: client.images.generate(model=self.MODEL, prompt=PROMPT, n=1, stream=True, partial_images=2).close()
        )
        assert_alike(ours, theirs, "authorization")

    async def test_edit_with_a_mask(self, desk: Desk, client: openai.OpenAI, workspace: FolderWorkspace) -> None:
        image, mask = workspace.put(PNG), workspace.put(MASK)
        request = generation(self.MODEL, operation=EDIT, images=(image,), mask=mask, n=1, quality="low")
        ours = await desk.ours(request, path="/v1")
        theirs = await desk.theirs(
            lambda: client.images.edit(
                model=self.MODEL,
                prompt=PROMPT,
                image=file(PNG, "image-1.png"),
                mask=file(MASK, "mask.png"),
                n=1,
                quality="low",
            )
        )
        assert_alike(ours, theirs, "authorization")

    async def test_edit_of_several(self, desk: Desk, client: openai.OpenAI, workspace: FolderWorkspace) -> None:
        images = (workspace.put(PNG), workspace.put(MASK))
        ours = await desk.ours(generation(self.MODEL, operation=EDIT, images=images), path="/v1")
        theirs = await desk.theirs(
            lambda: client.images.edit(
                model=self.MODEL,
                prompt=PROMPT,
                image=[file(PNG, "image-1.png"), file(MASK, "image-2.png")],
                n=1,
            )
        )
        assert_alike(ours, theirs, "authorization")


class TestAzure:
    ANSWER: ClassVar = {"created": 1, "data": [{"b64_json": BASE64}]}
    MODEL = "gpt-image-2"

    async def test_v1(self, desk: Desk, workspace: FolderWorkspace) -> None:
        client = openai.OpenAI(
            base_url=f"{desk.url}/openai/v1/",
            api_key=KEY,
            default_query={"api-version": "preview"},
            default_headers={"api-key": KEY},
            max_retries=0,
        )
        desk.clients.enter_context(client)
        ours = await desk.ours(generation(self.MODEL, "azure", n=1, quality="high"))
        theirs = await desk.theirs(lambda: client.images.generate(model=self.MODEL, prompt=PROMPT, n=1, quality="high"))
        assert_alike(ours, theirs, "api-key")
        image = workspace.put(PNG)
        ours = await desk.ours(generation(self.MODEL, "azure", operation=EDIT, images=(image,), quality="high"))
        theirs = await desk.theirs(
            lambda: client.images.edit(
                model=self.MODEL, prompt=PROMPT, n=1, quality="high", image=file(PNG, "image-1.png")
            )
        )
        assert_alike(ours, theirs, "api-key")

    async def test_deployments(self, desk: Desk) -> None:
        """The client leaves `model` in the body as well: with some deployments that breaks."""
        version = "2025-04-01-preview"
        client = openai.AzureOpenAI(azure_endpoint=desk.url, api_key=KEY, api_version=version, max_retries=0)
        desk.clients.enter_context(client)
        [ours] = await desk.ours(generation(self.MODEL, "azure", n=1, quality="high"), api="deployments")
        [theirs] = await desk.theirs(
            lambda: client.images.generate(model=self.MODEL, prompt=PROMPT, n=1, quality="high")
        )
        assert theirs.body.pop("model") == self.MODEL
        assert_alike([ours], [theirs], "api-key", "authorization")


class TestGoogle:
    ANSWER: ClassVar = {
        "candidates": [
            {
                "content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": BASE64}}]},
                "finishReason": "STOP",
            }
        ]
    }
    MODEL = "gemini-3.1-flash-image"

    @staticmethod
    def config(**more: Any) -> types.GenerateContentConfig:
        return types.GenerateContentConfig(response_modalities=["IMAGE"], **more)

    async def test_gemini_generation(self, desk: Desk) -> None:
        options = types.HttpOptions(base_url=desk.url, api_version="v1beta")
        client = genai.Client(api_key=KEY, http_options=options)
        desk.clients.callback(client.close)
        ours = await desk.ours(generation(self.MODEL, "gemini", aspect_ratio="16:9", seed=7))
        config = self.config(seed=7, image_config=types.ImageConfig(aspect_ratio="16:9"))
        theirs = await desk.theirs(
            lambda: client.models.generate_content(model=self.MODEL, contents=PROMPT, config=config)
        )
        assert_alike(ours, theirs, "x-goog-api-key", "authorization")

    async def test_gemini_edit(self, desk: Desk, workspace: FolderWorkspace) -> None:
        """Inside a part the client has `mime_type` and base64 for addresses: Google's JSON takes either spelling."""
        options = types.HttpOptions(base_url=desk.url, api_version="v1beta")
        client = genai.Client(api_key=KEY, http_options=options)
        desk.clients.callback(client.close)
        images = (workspace.put(PNG),)
        ours = await desk.ours(generation(self.MODEL, "gemini", operation=EDIT, images=images))
        contents: list[Any] = [PROMPT, types.Part.from_bytes(data=PNG, mime_type="image/png")]
        [theirs] = await desk.theirs(
            lambda: client.models.generate_content(model=self.MODEL, contents=contents, config=self.config())
        )
        inline = theirs.body["contents"][0]["parts"][1]["inlineData"]
        inline["mimeType"] = inline.pop("mime_type", None) or inline["mimeType"]
        inline["data"] = inline["data"].translate(str.maketrans("-_", "+/"))
        assert_alike(ours, [theirs], "x-goog-api-key")

    async def test_vertex_by_key(self, desk: Desk) -> None:
        options = types.HttpOptions(base_url=desk.url, api_version="v1")
        client = genai.Client(vertexai=True, api_key=KEY, http_options=options)
        desk.clients.callback(client.close)
        ours = await desk.ours(generation(self.MODEL, "vertex", aspect_ratio="16:9"))
        config = self.config(image_config=types.ImageConfig(aspect_ratio="16:9"))
        theirs = await desk.theirs(
            lambda: client.models.generate_content(model=self.MODEL, contents=PROMPT, config=config)
        )
        assert_alike(ours, theirs, "x-goog-api-key", "authorization")


class TestReplicate:
    STATUS = 201
    ANSWER: ClassVar = {
        "id": "p1",
        "model": "m",
        "version": "hidden",
        "status": "starting",
        "input": {},
        "urls": {"get": "ORIGIN/v1/files/f1", "cancel": "ORIGIN/v1/predictions/p1/cancel"},
        "name": "image-1.png",
        "content_type": "image/png",
        "size": 1,
        "etag": "",
        "checksums": {},
        "metadata": {},
        "created_at": "2026-11-23T06:00:00Z",
        "expires_at": None,
    }

    @pytest.fixture
    def client(self, desk: Desk) -> ReplicateClient:
        client = ReplicateClient(api_token=KEY, base_url=desk.url)
        desk.clients.callback(client._client.close)
        return client

    async def test_official_model(self, desk: Desk, client: ReplicateClient) -> None:
        model = "black-forest-labs/flux-schnell"
        request = generation(model, "replicate", n=2, seed=7, output_format="png", aspect_ratio="16:9")
        wanted = {"prompt": PROMPT, "num_outputs": 2, "seed": 7, "output_format": "png", "aspect_ratio": "16:9"}
        ours = await desk.ours(request, path="/v1")
        theirs = await desk.theirs(lambda: client.models.predictions.create(model, input=wanted))
        assert_alike(ours, theirs, "authorization")

    async def test_version_and_deployment(self, desk: Desk, client: ReplicateClient) -> None:
        version = f"stability-ai/sdxl:{'a' * 64}"
        ours = await desk.ours(generation(version, "replicate"), path="/v1")
        theirs = await desk.theirs(lambda: client.predictions.create(version=version, input={"prompt": PROMPT}))
        assert_alike(ours, theirs, "authorization")
        ours = await desk.ours(generation("deployments/acme/owl", "replicate"), path="/v1")
        theirs = await desk.theirs(lambda: client.deployments.predictions.create("acme/owl", input={"prompt": PROMPT}))
        assert_alike(ours, theirs, "authorization")

    async def test_edit_inline(self, desk: Desk, client: ReplicateClient, workspace: FolderWorkspace) -> None:
        model = "black-forest-labs/flux-kontext-pro"
        images = (workspace.put(PNG),)
        ours = await desk.ours(generation(model, "replicate", operation=EDIT, images=images), path="/v1")
        upload = io.BytesIO(PNG)
        upload.name = "image-1.png"
        wanted = {"prompt": PROMPT, "input_image": upload}
        theirs = await desk.theirs(
            lambda: client.models.predictions.create(model, input=wanted, file_encoding_strategy="base64")
        )
        assert_alike(ours, theirs, "authorization")

    async def test_edit_with_an_upload(self, desk: Desk, client: ReplicateClient, workspace: FolderWorkspace) -> None:
        model = "black-forest-labs/flux-kontext-pro"
        content = picture_of_bytes(400_000)
        images = (workspace.put(content),)
        ours = await desk.ours(generation(model, "replicate", operation=EDIT, images=images), path="/v1")
        upload = io.BytesIO(content)
        upload.name = "image-1.png"
        wanted = {"prompt": PROMPT, "input_image": upload}
        theirs = await desk.theirs(lambda: client.models.predictions.create(model, input=wanted))
        assert len(ours) == 2
        assert_alike(ours, theirs, "authorization")
