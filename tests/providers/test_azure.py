import hashlib
import sys
from collections.abc import AsyncIterator
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

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
from tests.doubles import Told
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
    stored,
)
from tests.simulators._base import Fault
from tests.simulators.azure import FILTER_RESULTS, AzureSimulator
from tests.simulators.openai import BLOCKED_WORD

MODEL = "gpt-image-2"
NO_KEY = ProviderKey(name=None, value=None)


CONFORMANCE = ProviderCase(
    simulator=lambda key: AzureSimulator(key=key),
    requests=lambda workspace: one_of_each(workspace, MODEL, "azure", n=2),
    unsupported=generation(MODEL, "azure", seed=1),
)


@pytest.fixture
async def simulator() -> AsyncIterator[AzureSimulator]:
    deployments = {"img2 prod": "gpt-image-2", "gpt-image-1.5": "gpt-image-1.5", "own": "gpt-image-2.5-flare"}
    async with AzureSimulator(key=KEY, deployments=deployments) as started:
        yield started


def opened(simulator: AzureSimulator, sessions: HttpSessions, **options: Any) -> Provider:
    wanted = {"deployments": {"gpt-image-2": "img2 prod"}, **options}
    return open_provider("azure", sessions, simulator.base_url, options=wanted, timeout_s=20)


@pytest.fixture
def provider(simulator: AzureSimulator, sessions: HttpSessions) -> Provider:
    return opened(simulator, sessions)


def fox(**more: Any) -> ImageRequest:
    return generation(MODEL, "azure", **more)


def edit(workspace: FolderWorkspace, *, file_format: str = "PNG", count: int = 1, **more: Any) -> ImageRequest:
    inputs = tuple(
        workspace.put(image_bytes(colour=(number, 0, 0), file_format=file_format)) for number in range(count)
    )
    return fox(**{"operation": Operation.EDIT, "images": inputs, **more})


class TestGeneration:
    async def test_sends_every_field_and_stores_the_picture(
        self, provider: Provider, simulator: AzureSimulator, workspace: FolderWorkspace
    ) -> None:
        request = fox(
            n=2,
            size="1280x960",
            quality="high",
            background="opaque",
            output_format="jpeg",
            output_compression=80,
            user="user-17",
            extra={"partial_images": 0},
            extra_headers={"api-key": "theirs", "X-Trace": "t"},
        )
        finished = await run(provider, call(request, workspace))
        [exchange] = simulator.exchanges
        assert (exchange.method, exchange.path) == ("POST", "/openai/v1/images/generations")
        assert exchange.query == {"api-version": "preview"}
        assert exchange.fields == {
            "model": "img2 prod",
            "prompt": "a red fox",
            "n": 2,
            "size": "1280x960",
            "quality": "high",
            "background": "opaque",
            "output_format": "jpeg",
            "output_compression": 80,
            "user": hashlib.sha256(b"user-17").hexdigest(),
            "partial_images": 0,
        }
        assert exchange.headers["api-key"] == KEY
        assert "authorization" not in exchange.headers
        assert exchange.headers["x-trace"] == "t"
        assert tuple(image.sha256 for image in stored(finished)) == exchange.outputs_sha256
        assert (finished.model, finished.via) == (MODEL, None)
        assert finished.usage is not None
        assert finished.usage.output_tokens == 2 * 439

    @pytest.mark.parametrize("api", ["v1", "deployments"])
    async def test_the_picture_develops(
        self, simulator: AzureSimulator, sessions: HttpSessions, workspace: FolderWorkspace, api: str
    ) -> None:
        provider = opened(simulator, sessions, api=api)
        for request in (fox(partial_images=2), edit(workspace, partial_images=2)):
            told = Told()
            finished = await run(provider, call(request, workspace, report=told))
            assert [index for index, _ in told.previews] == [0, 0]
            assert tuple(image.sha256 for image in stored(finished)) == simulator.exchanges[-1].outputs_sha256
            assert finished.model == MODEL
        assert simulator.exchanges[0].fields["stream"] is True

    async def test_the_deployment_path_leaves_the_model_out(
        self, simulator: AzureSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        provider = opened(simulator, sessions, api="deployments")
        await run(provider, call(fox(), workspace))
        await run(provider, call(edit(workspace), workspace))
        made, edited = simulator.exchanges
        assert made.path == "/openai/deployments/img2 prod/images/generations"
        assert edited.path == "/openai/deployments/img2 prod/images/edits"
        assert made.query == edited.query == {"api-version": "2025-04-01-preview"}
        assert made.fields == {"prompt": "a red fox", "n": 1, "quality": "medium"}
        assert edited.fields == {"prompt": "a red fox", "n": "1", "quality": "medium"}

    @pytest.mark.parametrize(("version", "query"), [("latest", {"api-version": "latest"}), ("", {})])
    async def test_the_version_is_a_setting(
        self,
        simulator: AzureSimulator,
        sessions: HttpSessions,
        workspace: FolderWorkspace,
        version: str,
        query: dict[str, str],
    ) -> None:
        await run(opened(simulator, sessions, api_version=version), call(fox(), workspace))
        assert simulator.exchanges[0].query == query

    @pytest.mark.parametrize(
        ("asked", "sent"), [(None, "low"), ("auto", "low"), ("standard", "medium"), ("hd", "high"), ("high", "high")]
    )
    async def test_a_quality_is_always_said(
        self,
        simulator: AzureSimulator,
        sessions: HttpSessions,
        workspace: FolderWorkspace,
        asked: str | None,
        sent: str,
    ) -> None:
        await run(opened(simulator, sessions, quality="low"), call(fox(quality=asked), workspace))
        assert simulator.exchanges[0].fields["quality"] == sent

    async def test_a_deployment_can_be_asked_for_by_its_own_name(
        self, provider: Provider, simulator: AzureSimulator, workspace: FolderWorkspace
    ) -> None:
        finished = await run(provider, call(generation("own", "azure"), workspace))
        assert simulator.exchanges[0].fields["model"] == finished.model == "own"

    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"output_format": "webp"}, "output_format"),
            ({"moderation": "low"}, "moderation"),
            ({"style": "vivid"}, "style"),
            ({"negative_prompt": "x"}, "negative_prompt"),
            ({"size": "100x100"}, "size"),
            ({"background": "transparent", "output_format": "jpeg"}, "background"),
            ({"output_compression": 5}, "output_compression"),
        ],
    )
    async def test_what_it_cannot_express_costs_nothing(
        self, provider: Provider, simulator: AzureSimulator, workspace: FolderWorkspace, more: Any, param: str
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(fox(**more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []


class TestEdit:
    async def test_is_a_form(self, provider: Provider, simulator: AzureSimulator, workspace: FolderWorkspace) -> None:
        request = edit(workspace, count=2, mask=workspace.put(mask_bytes()), input_fidelity="high", user="u")
        finished = await run(provider, call(request, workspace))
        [exchange] = simulator.exchanges
        assert exchange.path == "/openai/v1/images/edits"
        assert exchange.fields == {
            "model": "img2 prod",
            "prompt": "a red fox",
            "n": "1",
            "quality": "medium",
            "user": hashlib.sha256(b"u").hexdigest(),
        }
        assert [(part.name, part.filename) for part in exchange.files] == [
            ("image[]", "image-1.png"),
            ("image[]", "image-2.png"),
            ("mask", "mask.png"),
        ]
        assert tuple(image.sha256 for image in stored(finished)) == exchange.outputs_sha256

    async def test_fidelity_is_sent_where_there_is_a_choice(
        self, provider: Provider, simulator: AzureSimulator, workspace: FolderWorkspace
    ) -> None:
        request = generation(
            "gpt-image-1.5",
            "azure",
            operation=Operation.EDIT,
            images=(workspace.put(image_bytes(file_format="JPEG")),),
            input_fidelity="low",
        )
        await run(provider, call(request, workspace))
        assert simulator.exchanges[0].fields["input_fidelity"] == "low"

    async def test_takes_png_and_jpeg_alone(
        self, provider: Provider, simulator: AzureSimulator, workspace: FolderWorkspace
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(edit(workspace, file_format="WEBP"), workspace))
        assert (caught.value.param, simulator.exchanges) == ("image", [])

    async def test_a_variation_is_an_edit(
        self, provider: Provider, simulator: AzureSimulator, workspace: FolderWorkspace
    ) -> None:
        finished = await run(provider, call(edit(workspace, operation=Operation.VARIATION, prompt=None), workspace))
        assert simulator.exchanges[0].fields["prompt"] == VARIATION_PROMPT
        assert finished.via == "edit"


def error(code: str | None, **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": "Told why.", **more}}


BLOCKED_RESOURCE = error("Forbidden", type="invalid_request_error")
REFUSALS: list[tuple[int, dict[str, Any], type[ProviderError]]] = [
    (400, {"created": 1, **error("contentFilter")}, ProviderRejected),
    (400, error("content_policy_violation"), ProviderRejected),
    (400, error("Content_Filter"), ProviderRejected),
    (500, error("content_filter"), ProviderRejected),
    (
        400,
        error(None, inner_error={"code": "ResponsibleAIPolicyViolation", "content_filter_results": {}}),
        ProviderRejected,
    ),
    (403, error("x", innererror={"code": "responsibleAIPolicyViolation"}), ProviderRejected),
    (400, error("moderation_blocked", type="image_generation_user_error"), ProviderRejected),
    (400, error("invalid_value", param="size"), ProviderRejected),
    (401, {"statusCode": 401, "message": "Told why."}, ProviderAuthError),
    (401, error("401"), ProviderAuthError),
    (403, error("PermissionDenied"), ProviderAuthError),
    (403, BLOCKED_RESOURCE, ProviderAuthError),
    (404, error("DeploymentNotFound"), ProviderModelGone),
    (404, error("404"), ProviderModelGone),
    (408, error("408"), ProviderUnavailable),
    (409, error("409"), ProviderUnavailable),
    (413, error("413"), ProviderRejected),
    (429, error("429"), ProviderBusy),
    (500, error("InternalServerError"), ProviderUnavailable),
    (502, error(None), ProviderUnavailable),
    (503, error(None), ProviderUnavailable),
    (504, error(None), ProviderUncertain),
]


class TestRefusals:
    @pytest.mark.parametrize(("status", "body", "expected"), REFUSALS)
    async def test_each_is_of_its_class_and_keeps_what_was_said(
        self,
        provider: Provider,
        simulator: AzureSimulator,
        workspace: FolderWorkspace,
        status: int,
        body: dict[str, Any],
        expected: type[ProviderError],
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status, body=body, headers={"Retry-After": "7"}))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(fox(), workspace))
        assert type(caught.value) is expected
        assert (caught.value.status, caught.value.message) == (status, "Told why.")
        assert caught.value.request_id == "apim-00000001"
        assert caught.value.retry_after_s == 7

    async def test_the_content_filter(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderRejected) as caught:
            await provider.start(call(fox(prompt=BLOCKED_WORD), workspace))
        assert caught.value.provider_code == "contentFilter"
        assert str(FILTER_RESULTS) not in caught.value.message

    async def test_a_deployment_that_is_not_there(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderModelGone):
            await provider.start(call(generation("nobody", "azure"), workspace))

    async def test_a_body_that_is_no_json(
        self, provider: Provider, simulator: AzureSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.faults.push(Fault(kind="html", status=503))
        with pytest.raises(ProviderUnavailable):
            await provider.start(call(fox(), workspace))


class AzureError(Exception):
    pass


class ClientAuthenticationError(AzureError):
    pass


class Credential:
    """Stands for azure-identity's: a new one gives the next token."""

    made: ClassVar[list["Credential"]] = []
    fault: ClassVar[Exception | None] = None

    def __init__(self) -> None:
        self.made.append(self)
        self.closed = False
        self.scopes: list[str] = []
        self.token = f"token-{len(self.made)}"

    async def get_token(self, scope: str) -> SimpleNamespace:
        if self.fault is not None:
            raise self.fault
        self.scopes.append(scope)
        return SimpleNamespace(token=self.token, expires_on=0)

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> type[Credential]:
    aio, exceptions = ModuleType("azure.identity.aio"), ModuleType("azure.core.exceptions")
    vars(aio)["DefaultAzureCredential"] = Credential
    vars(exceptions).update(AzureError=AzureError, ClientAuthenticationError=ClientAuthenticationError)
    for name in ("azure", "azure.identity", "azure.core"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "azure.identity.aio", aio)
    monkeypatch.setitem(sys.modules, "azure.core.exceptions", exceptions)
    monkeypatch.setattr(Credential, "made", [])
    return Credential


@pytest.mark.usefixtures("identity")
class TestEntraId:
    async def test_a_token_takes_the_place_of_a_key(
        self, simulator: AzureSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        simulator.tokens = ("token-1",)
        provider = opened(simulator, sessions, entra_id=True)
        for _ in range(2):
            await run(provider, call(fox(), workspace, key=NO_KEY))
        assert [exchange.headers["authorization"] for exchange in simulator.exchanges] == ["Bearer token-1"] * 2
        assert "api-key" not in simulator.exchanges[0].headers
        [credential] = Credential.made
        assert credential.scopes == ["https://ai.azure.com/.default"] * 2
        await provider.close()
        assert credential.closed

    async def test_a_token_that_was_good_is_renewed_once(
        self, simulator: AzureSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        simulator.tokens = ("token-1",)
        provider = opened(simulator, sessions, entra_id=True)
        await run(provider, call(fox(), workspace, key=NO_KEY))
        simulator.tokens = ()
        with pytest.raises(ProviderUnavailable):
            await provider.start(call(fox(), workspace, key=NO_KEY))
        with pytest.raises(ProviderAuthError):
            await provider.start(call(fox(), workspace, key=NO_KEY))
        sent = [exchange.headers["authorization"] for exchange in simulator.exchanges]
        assert sent == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]
        assert all(credential.closed for credential in Credential.made)

    async def test_a_token_never_shows(
        self, simulator: AzureSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        provider = opened(simulator, sessions, entra_id=True, scope="s")
        simulator.faults.push(Fault(kind="status", status=403, body=error("x", message="you sent token-1")))
        with pytest.raises(ProviderAuthError, match=r"^you sent \[key\]$"):
            await provider.start(call(fox(), workspace, key=NO_KEY))
        assert Credential.made[0].scopes == ["s"]

    @pytest.mark.parametrize(
        ("fault", "expected"),
        [(ClientAuthenticationError("who?"), ProviderAuthError), (AzureError("no way"), ProviderUnavailable)],
    )
    async def test_where_no_token_is_to_be_had_nothing_is_sent(
        self,
        simulator: AzureSimulator,
        sessions: HttpSessions,
        workspace: FolderWorkspace,
        monkeypatch: pytest.MonkeyPatch,
        fault: Exception,
        expected: type[ProviderError],
    ) -> None:
        monkeypatch.setattr(Credential, "fault", fault)
        with pytest.raises(expected):
            await opened(simulator, sessions, entra_id=True).start(call(fox(), workspace, key=NO_KEY))
        assert simulator.exchanges == []


class TestSettings:
    def test_entra_id_says_what_to_install(
        self, sessions: HttpSessions, simulator: AzureSimulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "azure.identity.aio", None)
        with pytest.raises(ConfigurationError, match=r"pip install safelight\[azure\]"):
            opened(simulator, sessions, entra_id=True)

    def test_an_address_that_goes_too_far(self, sessions: HttpSessions) -> None:
        with pytest.raises(ConfigurationError, match="must end before /openai"):
            open_provider("azure", sessions, "https://r1.openai.azure.com/openai/v1/")

    def test_the_resource_must_be_named(self, sessions: HttpSessions) -> None:
        with pytest.raises(ConfigurationError, match="base_url is missing"):
            open_provider("azure", sessions)

    def test_the_lives_of_the_models_are_azures_own(self, provider: Provider) -> None:
        lives = {spec.name: (spec.life, str(spec.shutdown_date)) for spec in provider.specs}
        assert lives["gpt-image-2"] == (Life.LIVE, "2027-10-21")
        assert lives["gpt-image-1.5"] == (Life.LEGACY, "2026-12-16")
        assert lives["gpt-image-1"] == (Life.RETIRED, "2026-10-23")
        assert provider.spec("gpt-image-2.6-flare") is None
