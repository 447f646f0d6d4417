import asyncio
import sys
from collections.abc import AsyncIterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest

from safelight.adapters.providers._http import HttpSessions
from safelight.adapters.providers._openai_shape import VARIATION_PROMPT
from safelight.application.ports import Provider, ProviderKey
from safelight.domain.capability import Life
from safelight.domain.errors import (
    ConfigurationError,
    ProviderAuthError,
    ProviderBusy,
    ProviderError,
    ProviderModelGone,
    ProviderRejected,
    ProviderUnavailable,
    ProviderUncertain,
    UnsupportedFeature,
)
from safelight.domain.image import ImageRequest, Operation
from tests.providers.support import (
    KEY,
    FolderWorkspace,
    ProviderCase,
    call,
    generation,
    image_bytes,
    mask_bytes,
    one_of_each,
    open_provider,
    run,
    size,
    stored,
)
from tests.providers.test_gemini import without_masks
from tests.simulators._base import Fault
from tests.simulators.gemini import error, error_info
from tests.simulators.vertex import VertexSimulator

MODEL = "gemini-nano-banana-2.1"
NO_KEY = ProviderKey(name=None, value=None)
IN_PROJECT = {"project": "p1", "access_token": KEY}
PATH = f"/v1/projects/p1/locations/global/publishers/google/models/{MODEL}:generateContent"
EMAIL = "gateway@p1.iam.gserviceaccount.com"


CONFORMANCE = ProviderCase(
    simulator=lambda key: VertexSimulator(key=key),
    requests=lambda workspace: without_masks(one_of_each(workspace, MODEL, "vertex")),
    unsupported=generation(MODEL, "vertex", style="vivid"),
)
"""In express mode, which needs no project."""


@cache
def key_pair() -> tuple[str, str]:
    """A service account's private key and the public one, as PEM."""
    rsa = import_module("cryptography.hazmat.primitives.asymmetric.rsa")
    forms = import_module("cryptography.hazmat.primitives.serialization")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    public = key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


@pytest.fixture
async def simulator() -> AsyncIterator[VertexSimulator]:
    async with VertexSimulator(key=KEY, project="p1") as started:
        yield started


@pytest.fixture
def provider(simulator: VertexSimulator, sessions: HttpSessions) -> Provider:
    return open_provider("vertex", sessions, simulator.base_url, timeout_s=20, options=IN_PROJECT)


def drawing(model: str = MODEL, **more: Any) -> ImageRequest:
    return generation(model, "vertex", **more)


class TestWork:
    async def test_sends_every_field_and_stores_the_picture(
        self, provider: Provider, simulator: VertexSimulator, workspace: FolderWorkspace
    ) -> None:
        request = drawing(
            size="1376x768",
            moderation="low",
            seed=7,
            negative_prompt="snow",
            output_format="jpeg",
            output_compression=80,
            user="user-17",
            extra={
                "generationConfig": {"imageConfig": {"personGeneration": "ALLOW_NONE"}},
                "labels": {"team": "a"},
            },
        )
        finished = await run(provider, call(request, workspace, key=NO_KEY))
        [exchange] = simulator.exchanges
        assert (exchange.method, exchange.path, exchange.query) == ("POST", PATH, {})
        assert exchange.headers["authorization"] == f"Bearer {KEY}"
        assert "x-goog-api-key" not in exchange.headers
        assert "x-goog-user-project" not in exchange.headers
        assert exchange.fields["contents"] == [{"role": "user", "parts": [{"text": "a red fox\n\nAvoid: snow"}]}]
        assert exchange.fields["generationConfig"] == {
            "responseModalities": ["IMAGE"],
            "imageConfig": {
                "aspectRatio": "16:9",
                "imageSize": "1K",
                "imageOutputOptions": {"mimeType": "image/jpeg", "compressionQuality": 80},
                "personGeneration": "ALLOW_NONE",
            },
            "seed": 7,
        }
        assert len(exchange.fields["safetySettings"]) == 4
        assert exchange.fields["labels"] == {"team": "a"}
        [image] = stored(finished)
        assert (image.sha256,) == exchange.outputs_sha256
        assert (finished.model, finished.size, finished.output_format) == (MODEL, "1376x768", "jpeg")
        assert finished.usage is not None
        assert finished.usage.total_tokens == 1132

    async def test_the_least_is_sent_where_nothing_is_asked(
        self, provider: Provider, simulator: VertexSimulator, workspace: FolderWorkspace
    ) -> None:
        finished = await run(provider, call(drawing(), workspace))
        assert simulator.exchanges[0].fields == {
            "contents": [{"role": "user", "parts": [{"text": "a red fox"}]}],
            "generationConfig": {"responseModalities": ["IMAGE"]},
        }
        assert finished.output_format == "png"

    async def test_edits_with_several_pictures(
        self, provider: Provider, simulator: VertexSimulator, workspace: FolderWorkspace
    ) -> None:
        inputs = (workspace.put(image_bytes(896, 1200)), workspace.put(image_bytes(file_format="JPEG")))
        request = drawing(operation=Operation.EDIT, images=inputs[::-1], output_format="png")
        finished = await run(provider, call(request, workspace))
        parts = simulator.exchanges[0].fields["contents"][0]["parts"]
        assert [next(iter(part)) for part in parts] == ["text", "inlineData", "inlineData"]
        assert [part["inlineData"]["mimeType"] for part in parts[1:]] == ["image/jpeg", "image/png"]
        assert stored(finished)[0].dimensions == size(896, 1200)
        assert finished.via is None

    async def test_a_variation_is_an_edit_with_a_neutral_prompt(
        self, provider: Provider, simulator: VertexSimulator, workspace: FolderWorkspace
    ) -> None:
        images = (workspace.put(image_bytes()),)
        request = drawing(operation=Operation.VARIATION, images=images, prompt=None)
        finished = await run(provider, call(request, workspace))
        assert simulator.exchanges[0].fields["contents"][0]["parts"][0] == {"text": VARIATION_PROMPT}
        assert finished.via == "edit"

    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"output_format": "webp"}, "output_format"),
            ({"output_compression": 50}, "output_compression"),
            ({"output_compression": 50, "output_format": "png"}, "output_compression"),
            ({"model": "unknown", "output_compression": 50, "output_format": "png"}, "output_compression"),
            ({"background": "transparent"}, "background"),
            ({"style": "vivid"}, "style"),
            ({"resolution": "512"}, "resolution"),
        ],
    )
    async def test_what_cannot_be_expressed_is_refused_before_any_exchange(
        self, provider: Provider, simulator: VertexSimulator, workspace: FolderWorkspace, more: Any, param: str
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(drawing(**more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []

    async def test_there_is_no_mask_and_no_imagen(
        self, provider: Provider, simulator: VertexSimulator, workspace: FolderWorkspace
    ) -> None:
        images = (workspace.put(image_bytes()),)
        masked = drawing(operation=Operation.EDIT, images=images, mask=workspace.put(mask_bytes()))
        with pytest.raises(UnsupportedFeature, match="mask"):
            await provider.start(call(masked, workspace))
        with pytest.raises(ProviderModelGone):
            await provider.start(call(drawing("imagen-3.0-capability-001"), workspace))
        assert simulator.exchanges == []

    def test_the_lives_of_the_models_are_known(self, provider: Provider) -> None:
        specs = {spec.name: spec for spec in provider.specs}
        assert specs[MODEL].life is Life.LIVE
        assert str(specs["gemini-3-pro-image"].shutdown_date) == "2027-05-28"
        assert specs["gemini-2.5-flash-image"].life is Life.LEGACY


class TestAddress:
    @pytest.mark.parametrize(
        ("location", "host"),
        [
            ("global", "aiplatform.googleapis.com"),
            ("us-central1", "us-central1-aiplatform.googleapis.com"),
            ("eu", "aiplatform.eu.rep.googleapis.com"),
        ],
    )
    def test_the_host_follows_the_location(self, sessions: HttpSessions, location: str, host: str) -> None:
        provider: Any = open_provider("vertex", sessions, options={**IN_PROJECT, "location": location})
        assert str(provider._cloud.base_url) == f"https://{host}/"

    async def test_location_version_and_quota_project(
        self, simulator: VertexSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        options = {**IN_PROJECT, "location": "us-central1", "api_version": "v1beta1", "quota_project": "payer"}
        provider = open_provider("vertex", sessions, simulator.base_url, options=options)
        await run(provider, call(drawing(), workspace))
        [exchange] = simulator.exchanges
        assert exchange.path == PATH.replace("v1", "v1beta1", 1).replace("global", "us-central1")
        assert exchange.headers["x-goog-user-project"] == "payer"

    async def test_express_mode_needs_an_api_key_alone(
        self, simulator: VertexSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        provider = open_provider("vertex", sessions, f"{simulator.base_url}/v1")
        await run(provider, call(drawing(), workspace))
        [exchange] = simulator.exchanges
        assert exchange.path == f"/v1/publishers/google/models/{MODEL}:generateContent"
        assert exchange.headers["x-goog-api-key"] == KEY
        assert "authorization" not in exchange.headers

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"location": "evil.example/"}, "location"),
            ({"access_token": "t"}, "project"),
            ({"projekt": "p"}, "projekt"),
        ],
    )
    def test_odd_options_are_refused(self, sessions: HttpSessions, options: dict[str, str], said: str) -> None:
        with pytest.raises(ConfigurationError, match=said):
            open_provider("vertex", sessions, options=options)


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "body", "expected"),
        [
            (400, error("The prompt violates the usage guidelines."), ProviderRejected),
            (401, error("no", status=401), ProviderAuthError),
            (403, error("off", status=403, details=[error_info("SERVICE_DISABLED")]), ProviderAuthError),
            (404, error("Publisher Model was not found", status=404), ProviderModelGone),
            (429, error("Resource exhausted.", status=429), ProviderBusy),
            (499, error("cancelled", status=499), ProviderUncertain),
            (500, error("oops", status=500), ProviderUnavailable),
            (503, None, ProviderUnavailable),
            (504, None, ProviderUncertain),
        ],
    )
    async def test_each_is_of_its_class(
        self,
        provider: Provider,
        simulator: VertexSimulator,
        workspace: FolderWorkspace,
        status: int,
        body: Any,
        expected: type[ProviderError],
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status, body=body))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(drawing(), workspace))
        assert type(caught.value) is expected
        assert caught.value.status == status
        assert simulator.submissions == 1

    @pytest.mark.parametrize("words", ["[blocked:MODEL_ARMOR]", "[finish:MODEL_ARMOR]", "[blocked:JAILBREAK]"])
    async def test_blocks_inside_a_success_are_final(
        self, provider: Provider, workspace: FolderWorkspace, words: str
    ) -> None:
        with pytest.raises(ProviderRejected):
            await provider.start(call(drawing(prompt=f"a {words} fox"), workspace))

    async def test_another_project_is_denied(
        self, simulator: VertexSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        options = {"project": "p2", "access_token": KEY}
        provider = open_provider("vertex", sessions, simulator.base_url, options=options)
        with pytest.raises(ProviderAuthError) as caught:
            await provider.start(call(drawing(), workspace))
        assert caught.value.provider_code == "IAM_PERMISSION_DENIED"

    async def test_a_token_is_cut_out_of_what_is_said(
        self, provider: Provider, simulator: VertexSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=403, body=error(f"bad {KEY}", status=403)))
        with pytest.raises(ProviderAuthError, match=r"bad \[key\]"):
            await provider.start(call(drawing(), workspace, key=NO_KEY))


@pytest.fixture
async def cloud() -> AsyncIterator[VertexSimulator]:
    """A server that knows a service account and no other secret."""
    pytest.importorskip("google.auth")
    async with VertexSimulator(key="never", project="p1", public_key=key_pair()[1], client_email=EMAIL) as started:
        yield started


def account(cloud: VertexSimulator, **more: Any) -> str:
    """The JSON of the service account."""
    info = {
        "type": "service_account",
        "project_id": "p1",
        "private_key_id": "k1",
        "private_key": key_pair()[0],
        "client_email": EMAIL,
        "client_id": "1",
        "token_uri": f"{cloud.root_url}/token",
        **more,
    }
    return msgspec.json.encode(info).decode()


class TestServiceAccounts:
    async def draw(self, provider: Provider, workspace: FolderWorkspace, secret: str | None) -> None:
        await run(provider, call(drawing(), workspace, key=ProviderKey(name="main", value=secret)))

    async def test_a_token_is_fetched_once_for_all_calls(
        self, cloud: VertexSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        provider = open_provider("vertex", sessions, cloud.base_url)
        secret = account(cloud)
        await asyncio.gather(*(self.draw(provider, workspace, secret) for _ in range(3)))
        assert [exchange.path for exchange in cloud.exchanges] == ["/token", PATH, PATH, PATH]
        assert cloud.exchanges[1].headers["authorization"] == "Bearer ya29.simulated-1"
        assert cloud.tokens_given == 1
        assert cloud.submissions == 3

    async def test_the_file_and_the_default_credentials_serve_too(
        self,
        cloud: VertexSimulator,
        sessions: HttpSessions,
        workspace: FolderWorkspace,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        file = tmp_path / "account.json"
        file.write_text(account(cloud))
        options = {"credentials_file": str(file), "location": "europe-west4"}
        await self.draw(open_provider("vertex", sessions, cloud.base_url, options=options), workspace, None)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
        await self.draw(open_provider("vertex", sessions, cloud.base_url), workspace, None)
        paths = [exchange.path for exchange in cloud.exchanges if exchange.submission]
        assert paths == [PATH.replace("global", "europe-west4"), PATH]

    async def test_a_token_refused_before_its_time_is_replaced_once(
        self, cloud: VertexSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        provider = open_provider("vertex", sessions, cloud.base_url)
        secret = account(cloud)
        await self.draw(provider, workspace, secret)
        cloud.revoke_tokens()
        with pytest.raises(ProviderUnavailable) as caught:
            await self.draw(provider, workspace, secret)
        assert caught.value.status == 401
        assert not caught.value.error_class.may_be_charged
        await self.draw(provider, workspace, secret)
        assert cloud.tokens_given == 2
        cloud.faults.push(Fault(kind="status", status=401, path="*generateContent"))
        other = open_provider("vertex", sessions, cloud.base_url)
        with pytest.raises(ProviderAuthError):
            await self.draw(other, workspace, secret)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"client_email": "another@p1"}, "invalid_grant"),
            ({"private_key": "damaged"}, "damaged"),
            ({"token_uri": None}, "lacks a member"),
            ({"project_id": None}, "no project"),
        ],
    )
    async def test_credentials_that_are_refused_are_the_operators_matter(
        self,
        cloud: VertexSimulator,
        sessions: HttpSessions,
        workspace: FolderWorkspace,
        change: dict[str, Any],
        said: str,
    ) -> None:
        info = msgspec.json.decode(account(cloud, **change))
        secret = msgspec.json.encode({name: value for name, value in info.items() if value is not None}).decode()
        with pytest.raises(ProviderAuthError, match=said) as caught:
            await self.draw(open_provider("vertex", sessions, cloud.base_url), workspace, secret)
        assert "PRIVATE KEY" not in caught.value.message
        assert cloud.submissions == 0

    @pytest.mark.parametrize("text", ["{not json", "{}", None])
    async def test_what_is_no_account(
        self,
        cloud: VertexSimulator,
        sessions: HttpSessions,
        workspace: FolderWorkspace,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        text: str | None,
    ) -> None:
        options = {} if text else {"credentials_file": str(tmp_path / "none.json")}
        with pytest.raises(ProviderAuthError):
            await self.draw(open_provider("vertex", sessions, cloud.base_url, options=options), workspace, text)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
        with pytest.raises(ProviderAuthError, match="GOOGLE_APPLICATION_CREDENTIALS"):
            await self.draw(open_provider("vertex", sessions, cloud.base_url), workspace, None)
        assert cloud.exchanges == []

    async def test_a_token_service_out_of_reach_costs_nothing(
        self, cloud: VertexSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        secret = account(cloud, token_uri="http://127.0.0.1:9/token")
        with pytest.raises(ProviderUnavailable, match="token service"):
            await self.draw(open_provider("vertex", sessions, cloud.base_url), workspace, secret)
        assert cloud.exchanges == []


@pytest.fixture
def without_google_auth(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[:2] == ["google", "auth"]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "google.auth", None)


@pytest.mark.usefixtures("without_google_auth")
class TestWithoutThePackage:
    @pytest.mark.parametrize("options", [{"project": "p1"}, {"credentials_file": "account.json"}])
    def test_settings_that_need_it_say_what_to_install(self, sessions: HttpSessions, options: dict[str, str]) -> None:
        with pytest.raises(ConfigurationError, match=r"pip install safelight\[google\]"):
            open_provider("vertex", sessions, options=options)

    async def test_a_call_that_needs_it_says_so_too(
        self, simulator: VertexSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        provider = open_provider("vertex", sessions, simulator.base_url)
        with pytest.raises(ProviderAuthError, match=r"pip install safelight\[google\]"):
            await provider.start(call(drawing(), workspace, key=NO_KEY))
        await run(provider, call(drawing(), workspace))
