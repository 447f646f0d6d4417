import asyncio
import base64
import hashlib
import io
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image
from yarl import URL

from safelight.adapters.providers._aws_auth import Credentials, Signer
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
    ProviderProtocolError,
    ProviderRejected,
    ProviderUnavailable,
    ProviderUncertain,
    StorageError,
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
    stored,
)
from tests.simulators._base import Fault
from tests.simulators.bedrock import STATUSES, Account, BedrockSimulator

SD3 = "stability.sd3-5-large-v1:0"
CORE = "stability.stable-image-core-v1:1"
ULTRA = "stability.stable-image-ultra-v1:1"
INPAINT = "us.stability.stable-image-inpaint-v1:0"
OUTPAINT = "us.stability.stable-outpaint-v1:0"
REMOVE = "us.stability.stable-image-remove-background-v1:0"
TRANSFER = "us.stability.stable-style-transfer-v1:0"
LARGE = 4_000_000

ACCESS, SECRET, TOKEN = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "session-token-0123456789"
NO_KEY = ProviderKey(name=None, value=None)


def ask(model: str = CORE, **more: Any) -> ImageRequest:
    return generation(model, "bedrock", **more)


def edit(workspace: FolderWorkspace, model: str = SD3, *, count: int = 1, **more: Any) -> ImageRequest:
    inputs = tuple(workspace.put(image_bytes(80, 72, colour=(number, 0, 0))) for number in range(count))
    return ask(model, **{"operation": Operation.EDIT, "images": inputs, **more})


def requests(workspace: FolderWorkspace) -> Sequence[ImageRequest]:
    image = (workspace.put(image_bytes(80, 72)),)
    return [
        ask(),
        *one_of_each(workspace, SD3, "bedrock")[:1],
        ask(operation=Operation.EDIT, images=image, mask=workspace.put(mask_bytes(80, 72))),
        ask(SD3, operation=Operation.VARIATION, images=image, prompt=None),
    ]


CONFORMANCE = ProviderCase(
    simulator=lambda key: BedrockSimulator(key=key),
    requests=requests,
    unsupported=ask(quality="high"),
)


def signing_key(**more: str) -> ProviderKey:
    said = {"Version": 1, "AccessKeyId": ACCESS, "SecretAccessKey": SECRET, **more}
    return ProviderKey(name="signing", value=msgspec.json.encode(said).decode())


def decoded(text: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    image.load()
    return image


def scope(headers: Mapping[str, str]) -> tuple[str, str]:
    """Region and signed headers of a signature."""
    shown = headers["authorization"]
    return shown.split("/")[2], shown.partition("SignedHeaders=")[2].partition(",")[0]


@pytest.fixture
async def simulator() -> AsyncIterator[BedrockSimulator]:
    accounts = {ACCESS: Account(secret_key=SECRET), "ASIATEMPORARY": Account(secret_key=SECRET, token=TOKEN)}
    async with BedrockSimulator(key=KEY, accounts=accounts) as started:
        yield started


@pytest.fixture
def provider(simulator: BedrockSimulator, sessions: HttpSessions) -> Provider:
    return open_provider("bedrock", sessions, simulator.base_url, timeout_s=20)


class TestGeneration:
    async def test_sends_every_field_and_stores_the_picture(
        self, provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace
    ) -> None:
        request = ask(
            SD3, aspect_ratio="16:9", seed=42, negative_prompt="fog", output_format="webp", user="u", extra={"seed": 43}
        )
        finished = await run(provider, call(request, workspace))
        [exchange] = simulator.exchanges
        assert (exchange.method, exchange.path, exchange.query) == ("POST", f"/model/{SD3}/invoke", {})
        assert exchange.headers["authorization"] == f"Bearer {KEY}"
        assert exchange.headers["accept"] == exchange.headers["content-type"] == "application/json"
        assert not any(name.startswith("x-amz") for name in exchange.headers)
        assert exchange.fields == {
            "prompt": "a red fox",
            "negative_prompt": "fog",
            "seed": 43,
            "output_format": "webp",
            "aspect_ratio": "16:9",
        }
        assert tuple(image.sha256 for image in stored(finished)) == exchange.outputs_sha256
        assert stored(finished)[0].content_type == "image/webp"
        assert (finished.model, finished.via, finished.cost_micros) == (SD3, None, None)

    @pytest.mark.parametrize("model", [CORE, ULTRA, SD3])
    async def test_a_plain_request_has_a_prompt_alone(
        self, provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace, model: str
    ) -> None:
        await run(provider, call(ask(model), workspace))
        assert simulator.exchanges[0].fields == {"prompt": "a red fox"}

    @pytest.mark.parametrize(
        ("size", "ratio"), [("1024x1024", "1:1"), ("1536x1024", "3:2"), ("1792x1024", "16:9"), ("9:21", "9:21")]
    )
    async def test_a_size_becomes_the_nearest_ratio(
        self, provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace, size: str, ratio: str
    ) -> None:
        await run(provider, call(ask(size=size), workspace))
        assert simulator.exchanges[0].fields["aspect_ratio"] == ratio

    async def test_an_arn_is_one_segment_of_the_path_and_names_its_model(
        self, provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace
    ) -> None:
        arn = f"arn:aws:bedrock:us-west-2::foundation-model/{CORE}"
        finished = await run(provider, call(ask(arn), workspace))
        assert simulator.exchanges[0].path == f"/model/{arn}/invoke"
        assert finished.model == arn
        with pytest.raises(UnsupportedFeature):
            await provider.start(call(ask(arn, quality="high"), workspace))

    async def test_an_unknown_model_is_passed_through(
        self, provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace
    ) -> None:
        request = ask("stability.sd9-v1:0", style="vivid", quality="high", size="1024x1024", seed=0)
        with pytest.raises(ProviderModelGone):
            await provider.start(call(request, workspace))
        assert simulator.exchanges[0].fields == {
            "prompt": "a red fox",
            "seed": 0,
            "quality": "high",
            "style_preset": "vivid",
            "aspect_ratio": "1:1",
        }

    def test_amazons_own_models_are_known_as_gone(self, provider: Provider) -> None:
        today = datetime.now(UTC).date()
        for name in ("amazon.nova-canvas-v1:0", "amazon.titan-image-generator-v2:0"):
            spec = provider.spec(name)
            assert spec is not None
            assert spec.life_on(today) is Life.RETIRED


class TestEdit:
    async def test_a_picture_is_redrawn(
        self, simulator: BedrockSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        provider = open_provider("bedrock", sessions, simulator.base_url, options={"strength": 0.5})
        request = edit(workspace, prompt="in blue", seed=7)
        finished = await run(provider, call(request, workspace))
        fields = simulator.exchanges[0].fields
        source = workspace.bytes_of(request.images[0].image)
        assert base64.b64decode(fields.pop("image")) == source
        assert fields == {"prompt": "in blue", "seed": 7, "mode": "image-to-image", "strength": 0.5}
        assert finished.via is None

    @pytest.mark.parametrize("model", [CORE, SD3, INPAINT])
    async def test_a_mask_goes_to_the_inpainting_service_white_where_it_changes(
        self, provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace, model: str
    ) -> None:
        mask = workspace.put(mask_bytes(80, 72))
        request = edit(workspace, model, mask=mask, style="anime", negative_prompt="fog", extra={"grow_mask": 3})
        if model != INPAINT:
            request = edit(workspace, model, mask=mask, edit_type="inpainting")
        finished = await run(provider, call(request, workspace))
        [exchange] = simulator.exchanges
        assert exchange.path == f"/model/{INPAINT}/invoke"
        sent = decoded(exchange.fields["mask"])
        assert (sent.mode, sent.size) == ("L", (80, 72))
        assert (sent.getpixel((10, 10)), sent.getpixel((70, 10))) == (255, 0)
        assert finished.model == INPAINT
        assert finished.cost_micros == (None if model == INPAINT else 70_000)
        more = {"style_preset": "anime", "negative_prompt": "fog", "grow_mask": 3} if model == INPAINT else {}
        plain = {name: value for name, value in exchange.fields.items() if name not in {"image", "mask"}}
        assert plain == {"prompt": "a red fox", **more}

    @pytest.mark.parametrize(
        ("kind", "more", "service", "cost"),
        [
            ("outpainting", {"prompt": None, "extra": {"left": 50}}, OUTPAINT, 60_000),
            ("background_removal", {"prompt": None}, REMOVE, 70_000),
        ],
    )
    async def test_other_kinds_have_services_of_their_own(
        self,
        provider: Provider,
        simulator: BedrockSimulator,
        workspace: FolderWorkspace,
        kind: str,
        more: dict[str, Any],
        service: str,
        cost: int,
    ) -> None:
        finished = await run(provider, call(edit(workspace, ULTRA, edit_type=kind, **more), workspace))
        assert simulator.exchanges[0].path == f"/model/{service}/invoke"
        assert (finished.model, finished.cost_micros) == (service, cost)

    @pytest.mark.parametrize(
        ("service", "more"),
        [
            ("stable-image-erase-object", {"prompt": None, "masked": True}),
            ("stable-image-search-replace", {"extra": {"search_prompt": "a dog"}}),
            ("stable-image-search-recolor", {"extra": {"select_prompt": "a dog"}}),
            ("stable-image-control-sketch", {"extra": {"control_strength": 0.4}, "style": "origami"}),
            ("stable-image-control-structure", {"seed": 3, "output_format": "webp"}),
            ("stable-image-style-guide", {"size": "1024x1536"}),
            ("stable-creative-upscale", {"negative_prompt": "fog"}),
            ("stable-conservative-upscale", {"output_format": "jpeg"}),
            ("stable-fast-upscale", {"prompt": None}),
        ],
    )
    async def test_each_service_is_a_model(
        self,
        provider: Provider,
        simulator: BedrockSimulator,
        workspace: FolderWorkspace,
        service: str,
        more: dict[str, Any],
    ) -> None:
        wanted = {name: value for name, value in more.items() if name != "masked"}
        if "masked" in more:
            wanted["mask"] = workspace.put(mask_bytes(80, 72))
        await run(provider, call(edit(workspace, f"us.stability.{service}-v1:0", **wanted), workspace))
        assert simulator.exchanges[0].path == f"/model/us.stability.{service}-v1:0/invoke"

    async def test_a_style_is_taken_from_the_second_picture(
        self, provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, TRANSFER, count=2, extra={"style_strength": 0.8})
        await run(provider, call(request, workspace))
        fields = simulator.exchanges[0].fields
        for name, image in zip(("init_image", "style_image"), request.images, strict=True):
            assert base64.b64decode(fields[name]) == workspace.bytes_of(image.image)
        assert (fields["prompt"], fields["style_strength"]) == ("a red fox", 0.8)

    async def test_a_bare_id_is_called_by_its_profile(
        self, provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, REMOVE.removeprefix("us."), prompt=None)
        finished = await run(provider, call(request, workspace))
        assert simulator.exchanges[0].path == f"/model/{REMOVE}/invoke"
        assert finished.model == REMOVE

    async def test_a_variation_is_a_redrawing_with_a_neutral_prompt(
        self, provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, operation=Operation.VARIATION, prompt=None)
        finished = await run(provider, call(request, workspace))
        fields = simulator.exchanges[0].fields
        assert (fields["prompt"], fields["mode"], fields["strength"]) == (VARIATION_PROMPT, "image-to-image", 0.7)
        assert finished.via == "edit"


class TestRefusedBeforeAnyExchange:
    @pytest.mark.parametrize(
        ("model", "more", "param"),
        [
            (CORE, {"quality": "high"}, "quality"),
            (CORE, {"style": "anime"}, "style"),
            (CORE, {"background": "transparent"}, "background"),
            (CORE, {"output_format": "webp"}, "output_format"),
            (CORE, {"output_compression": 5}, "output_compression"),
            (CORE, {"seed": 0}, "seed"),
            (CORE, {"seed": 2**32}, "seed"),
            (CORE, {"aspect_ratio": "4:3"}, "aspect_ratio"),
            (CORE, {"size": "4:3"}, "size"),
            (CORE, {"size": "2K"}, "size"),
            (CORE, {"prompt": "x" * 10_001}, "prompt"),
            (INPAINT, {}, "model"),
        ],
    )
    async def test_what_the_model_cannot_express(
        self,
        provider: Provider,
        simulator: BedrockSimulator,
        workspace: FolderWorkspace,
        model: str,
        more: dict[str, Any],
        param: str,
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(ask(model, **more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []

    @pytest.mark.parametrize(
        ("model", "more", "param"),
        [
            (CORE, {}, "mask"),
            (CORE, {"operation": Operation.VARIATION}, "model"),
            (CORE, {"masked": True, "aspect_ratio": "16:9"}, "aspect_ratio"),
            (CORE, {"edit_type": "background_removal"}, "prompt"),
            (SD3, {"prompt": None}, "prompt"),
            (SD3, {"count": 2}, "image"),
            (SD3, {"aspect_ratio": "16:9"}, "aspect_ratio"),
            (SD3, {"size": "1024x1024"}, "size"),
            (INPAINT, {"style": "vivid"}, "style"),
            (INPAINT, {"edit_type": "outpainting"}, "type"),
            (REMOVE, {}, "prompt"),
            (REMOVE, {"prompt": None, "seed": 5}, "seed"),
            ("us.stability.stable-creative-upscale-v1:0", {"masked": True}, "mask"),
            ("stability.new-v1:0", {"count": 2}, "image"),
        ],
    )
    async def test_what_an_edit_cannot_express(
        self,
        provider: Provider,
        simulator: BedrockSimulator,
        workspace: FolderWorkspace,
        model: str,
        more: dict[str, Any],
        param: str,
    ) -> None:
        wanted = {name: value for name, value in more.items() if name != "masked"}
        if "masked" in more:
            wanted["mask"] = workspace.put(mask_bytes(80, 72))
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(edit(workspace, model, **wanted), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []

    async def test_pictures_that_bedrock_does_not_take(
        self, provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace
    ) -> None:
        gif = workspace.put(image_bytes(80, 72, "GIF"))
        large = workspace.put(image_bytes(80, 72) + bytes(19_000_000))
        for picture in (gif, large):
            with pytest.raises(UnsupportedFeature) as caught:
                await provider.start(call(ask(SD3, operation=Operation.EDIT, images=(picture,)), workspace))
            assert caught.value.param == "image"
        assert simulator.exchanges == []


class TestSignatures:
    async def test_the_published_vector(self, monkeypatch: pytest.MonkeyPatch) -> None:
        then = datetime(2026, 11, 23, tzinfo=UTC)
        monkeypatch.setattr(import_module("botocore.auth"), "get_current_datetime", lambda: then)
        body = b'{"prompt":"a red fox","output_format":"png"}'
        url = URL(
            "https://bedrock-runtime.us-west-2.amazonaws.com/model/stability.stable-image-core-v1%3A1/invoke",
            encoded=True,
        )
        sent = {"Accept": "application/json", "Content-Type": "application/json"}
        signatures = {
            None: "a77e678142ba7e0c74d22b4612707b6cd93a76543f8e0a1bdb78c4263948740b",
            "TOKEN": "ab474a60faf2b376081e08c552680f7f2155bebd799843a764ce20d3e51fc1ce",
        }
        for token, signature in signatures.items():
            headers = await Signer(service="bedrock", region="us-west-2").headers(
                url,
                sent,
                body_sha256=hashlib.sha256(body).hexdigest(),
                credentials=Credentials(access_key=ACCESS, secret_key=SECRET, token=token),
            )
            assert headers["Authorization"].endswith(f"Signature={signature}")
            assert headers["X-Amz-Date"] == "20261123T000000Z"

    async def test_given_credentials_sign_what_is_sent(
        self, provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace
    ) -> None:
        extra_headers = {"X-Amzn-Bedrock-GuardrailIdentifier": "g1", "X-Amz-Date": "20000101T000000Z", "Accept": "a/b"}
        request = ask(prompt="ein Füchslein", extra_headers=extra_headers)
        await run(provider, call(request, workspace, key=signing_key()))
        [exchange] = simulator.exchanges
        assert scope(exchange.headers) == (
            "us-west-2",
            "accept;content-type;host;x-amz-date;x-amzn-bedrock-guardrailidentifier",
        )
        assert exchange.headers["x-amzn-bedrock-guardrailidentifier"] == "g1"
        assert SECRET not in str(exchange)

    async def test_pictures_are_signed_as_they_stream(
        self, provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace
    ) -> None:
        image = workspace.put(image_bytes(80, 72) + bytes(1_500_000))
        request = ask(operation=Operation.EDIT, images=(image,), mask=workspace.put(mask_bytes(80, 72)))
        await run(provider, call(request, workspace, key=signing_key()))
        assert base64.b64decode(simulator.exchanges[0].fields["image"]) == workspace.bytes_of(image.image)

    async def test_a_source_that_cannot_be_read_is_found_before_any_exchange(
        self, provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace)
        workspace.read_fault = StorageError("gone")
        with pytest.raises(StorageError):
            await provider.start(call(request, workspace, key=signing_key()))
        assert simulator.exchanges == []

    async def test_temporary_credentials_bring_their_token_which_never_shows(
        self, provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace
    ) -> None:
        key = signing_key(AccessKeyId="ASIATEMPORARY", SessionToken=TOKEN)
        await run(provider, call(ask(), workspace, key=key))
        assert simulator.exchanges[0].headers["x-amz-security-token"] == TOKEN
        simulator.faults.push(Fault(kind="status", status=403, body={"message": f"bad {TOKEN}"}))
        with pytest.raises(ProviderAuthError) as caught:
            await provider.start(call(ask(), workspace, key=key))
        assert caught.value.message == "bad [key]"

    async def test_a_wrong_secret_is_the_operators_matter(
        self, provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace
    ) -> None:
        with pytest.raises(ProviderAuthError) as caught:
            await provider.start(call(ask(), workspace, key=signing_key(SecretAccessKey="other")))
        assert (caught.value.status, simulator.charged) == (403, 0)
        assert "Canonical" not in caught.value.message

    @pytest.mark.parametrize("text", ["{not json", "{}", '{"AccessKeyId": "a", "SecretAccessKey": 1}'])
    async def test_what_are_no_credentials(
        self, provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace, text: str
    ) -> None:
        with pytest.raises(ProviderAuthError, match="no JSON with AccessKeyId"):
            await provider.start(call(ask(), workspace, key=ProviderKey(name="main", value=text)))
        assert simulator.exchanges == []

    @pytest.mark.parametrize(
        ("base_url", "options", "region"),
        [
            (None, {}, "us-west-2"),
            (None, {"region": "us-east-1"}, "us-east-1"),
            ("https://bedrock-runtime-fips.us-east-2.amazonaws.com", {}, "us-east-2"),
            ("https://vpce-1.example", {"region": "us-east-1"}, "us-east-1"),
            ("https://vpce-1.example", {}, "us-west-2"),
        ],
    )
    def test_the_region_and_the_address_belong_together(
        self, sessions: HttpSessions, base_url: str | None, options: dict[str, str], region: str
    ) -> None:
        provider: Any = open_provider("bedrock", sessions, base_url, options=options)
        assert provider._signer.region == region
        assert str(provider._with_key.base_url) == f"{base_url or f'https://bedrock-runtime.{region}.amazonaws.com'}/"

    def test_a_region_is_a_name(self, sessions: HttpSessions) -> None:
        with pytest.raises(ConfigurationError, match="region"):
            open_provider("bedrock", sessions, options={"region": "evil.example/"})


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """This machine without any AWS configuration; gives the place of its credentials file."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path / "credentials"


def configure(file: Path, access: str, secret: str = SECRET, *, token: str = "", profile: str = "default") -> None:
    lines = [f"[{profile}]", f"aws_access_key_id = {access}", f"aws_secret_access_key = {secret}"]
    file.write_text("\n".join([*lines, f"aws_session_token = {token}"] if token else lines))


class TestThisMachinesCredentials:
    async def draw(self, provider: Provider, workspace: FolderWorkspace) -> None:
        await run(provider, call(ask(), workspace, key=NO_KEY))

    async def test_the_environment_and_a_profile_serve(
        self,
        simulator: BedrockSimulator,
        sessions: HttpSessions,
        workspace: FolderWorkspace,
        machine: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        configure(machine, "ASIATEMPORARY", token=TOKEN, profile="shop")
        provider = open_provider("bedrock", sessions, simulator.base_url, options={"profile": "shop"})
        await asyncio.gather(*(self.draw(provider, workspace) for _ in range(3)))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        await self.draw(open_provider("bedrock", sessions, simulator.base_url), workspace)
        assert [exchange.status for exchange in simulator.exchanges] == [200] * 4
        assert f"Credential={ACCESS}/" in simulator.exchanges[-1].headers["authorization"]

    async def test_credentials_that_were_good_are_looked_for_once_more(
        self,
        provider: Provider,
        simulator: BedrockSimulator,
        workspace: FolderWorkspace,
        machine: Path,
    ) -> None:
        configure(machine, ACCESS)
        await self.draw(provider, workspace)
        simulator.accounts = {"AKIDNEW": Account(secret_key="new")}
        with pytest.raises(ProviderUnavailable) as caught:
            await self.draw(provider, workspace)
        assert (caught.value.status, caught.value.error_class.may_be_charged) == (403, False)
        with pytest.raises(ProviderAuthError):
            await self.draw(provider, workspace)
        configure(machine, "AKIDNEW", "new")
        await self.draw(provider, workspace)

    async def test_a_model_without_access_says_nothing_against_the_credentials(
        self, provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace, machine: Path
    ) -> None:
        configure(machine, ACCESS)
        await self.draw(provider, workspace)
        simulator.faults.push(Fault(kind="status", status=403, body={"message": "You don't have access to the model"}))
        with pytest.raises(ProviderAuthError):
            await self.draw(provider, workspace)

    @pytest.mark.usefixtures("machine")
    @pytest.mark.parametrize(
        ("options", "said"), [({}, "no AWS credentials"), ({"profile": "none"}, "ProfileNotFound")]
    )
    async def test_none_are_the_operators_matter(
        self,
        simulator: BedrockSimulator,
        sessions: HttpSessions,
        workspace: FolderWorkspace,
        options: dict[str, str],
        said: str,
    ) -> None:
        with pytest.raises(ProviderAuthError, match=said):
            await self.draw(open_provider("bedrock", sessions, simulator.base_url, options=options), workspace)
        assert simulator.exchanges == []

    async def test_a_credentials_service_out_of_reach_costs_nothing(
        self,
        provider: Provider,
        workspace: FolderWorkspace,
        machine: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        del machine
        faults = import_module("botocore.exceptions")

        def fail(_session: object) -> None:
            raise faults.EndpointConnectionError(endpoint_url="http://169.254.169.254")

        monkeypatch.setattr(import_module("botocore.session").Session, "get_credentials", fail)
        with pytest.raises(ProviderUnavailable):
            await self.draw(provider, workspace)


@pytest.fixture
def without_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "botocore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "botocore", None)


@pytest.mark.usefixtures("without_botocore")
class TestWithoutThePackage:
    def test_settings_that_need_it_say_what_to_install(self, sessions: HttpSessions) -> None:
        with pytest.raises(ConfigurationError, match=r"pip install safelight\[aws\]"):
            open_provider("bedrock", sessions, options={"profile": "shop"})

    async def test_a_call_that_needs_it_says_so_too_and_an_api_key_does_not_need_it(
        self, provider: Provider, workspace: FolderWorkspace
    ) -> None:
        for key in (NO_KEY, signing_key()):
            with pytest.raises(ProviderAuthError, match=r"pip install safelight\[aws\]"):
                await provider.start(call(ask(), workspace, key=key))
        await run(provider, call(ask(), workspace))


class TestRefusals:
    EXPECTED: Mapping[str, type[ProviderError]] = {
        "ValidationException": ProviderRejected,
        "ServiceQuotaExceededException": ProviderAuthError,
        "ConflictException": ProviderRejected,
        "AccessDeniedException": ProviderAuthError,
        "ExpiredTokenException": ProviderAuthError,
        "UnrecognizedClientException": ProviderAuthError,
        "InvalidSignatureException": ProviderAuthError,
        "ResourceNotFoundException": ProviderModelGone,
        "ModelTimeoutException": ProviderUncertain,
        "ModelErrorException": ProviderUnavailable,
        "ThrottlingException": ProviderBusy,
        "ModelNotReadyException": ProviderUnavailable,
        "InternalServerException": ProviderUnavailable,
        "ServiceUnavailableException": ProviderUnavailable,
    }

    @pytest.mark.parametrize("name", list(STATUSES))
    @pytest.mark.parametrize("place", ["header", "body"])
    async def test_each_is_of_its_class_and_keeps_what_was_said(
        self, provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace, name: str, place: str
    ) -> None:
        full = f"com.amazon.coral.service#{name}:http://internal.amazon.com/"
        body = {"message": "said", **({"__type": full} if place == "body" else {})}
        headers = {"x-amzn-ErrorType": full} if place == "header" else {}
        simulator.faults.push(Fault(kind="status", status=STATUSES[name], body=body, headers=headers))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(ask(), workspace))
        assert type(caught.value) is self.EXPECTED[name]
        assert (caught.value.message, caught.value.provider_code) == ("said", name)
        assert caught.value.status == STATUSES[name]
        assert caught.value.request_id == simulator.reply_headers(simulator.exchanges[0])["x-amzn-RequestId"]

    @pytest.mark.parametrize(
        ("status", "body", "expected"),
        [
            (400, {"message": "The provided model identifier is invalid."}, ProviderModelGone),
            (400, {"message": "Your request exceeds the service quota for your account."}, ProviderAuthError),
            (400, {"message": "The request was blocked by policy"}, ProviderRejected),
            (403, {"Message": "Bearer Token has expired"}, ProviderAuthError),
            (404, {"message": "This model version has reached the end of its life."}, ProviderModelGone),
            (404, {"message": "Access denied. This Model is marked by provider as Legacy"}, ProviderModelGone),
            (408, {"message": "Model timeout"}, ProviderUncertain),
            (424, {"message": "failed", "originalStatusCode": 422, "resourceName": "m"}, ProviderRejected),
            (424, {"message": "failed", "originalStatusCode": 500}, ProviderUnavailable),
            (424, {}, ProviderUnavailable),
            (429, {"message": "Too many requests, please wait"}, ProviderBusy),
            (500, "<html><head><title>oops</title></head></html>", ProviderUnavailable),
            (503, {"message": 3}, ProviderUnavailable),
        ],
    )
    async def test_without_a_name_the_status_and_the_words_tell(
        self,
        provider: Provider,
        simulator: BedrockSimulator,
        workspace: FolderWorkspace,
        status: int,
        body: dict[str, Any] | str,
        expected: type[ProviderError],
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status, body=body))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(ask(), workspace))
        assert type(caught.value) is expected

    @pytest.mark.parametrize(
        ("model", "expected", "said"),
        [
            ("stability.sd3-large-v1:0", ProviderModelGone, "end of its life"),
            ("stability.none-v1:0", ProviderModelGone, "identifier"),
        ],
    )
    async def test_models_that_are_not_there(
        self, provider: Provider, workspace: FolderWorkspace, model: str, expected: type[ProviderError], said: str
    ) -> None:
        with pytest.raises(expected, match=said):
            await provider.start(call(ask(model), workspace))

    async def test_a_model_of_another_region(self, sessions: HttpSessions, workspace: FolderWorkspace) -> None:
        async with BedrockSimulator(key=KEY, region="us-east-1") as east:
            provider = open_provider("bedrock", sessions, east.base_url, options={"region": "us-east-1"})
            with pytest.raises(ProviderModelGone):
                await provider.start(call(ask(), workspace))
            await run(provider, call(edit(workspace, REMOVE, prompt=None), workspace))

    async def test_a_400_on_policy_is_final(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderRejected, match="content filters"):
            await provider.start(call(ask(prompt="a [policy] thing"), workspace))

    @pytest.mark.parametrize(
        ("word", "expected", "reason"),
        [
            ("[blocked]", ProviderRejected, "Filter reason: prompt"),
            ("[input]", ProviderRejected, "Filter reason: input image"),
            ("[output]", ProviderRejected, "Filter reason: output image"),
            ("[failing]", ProviderUnavailable, "Inference error"),
        ],
    )
    async def test_a_success_with_a_reason_is_none(
        self, provider: Provider, workspace: FolderWorkspace, word: str, expected: type[ProviderError], reason: str
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(ask(prompt=f"a {word} thing"), workspace))
        assert type(caught.value) is expected
        assert caught.value.provider_code == reason
        assert caught.value.request_id
        assert workspace.open_sinks == 0

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            ({"finish_reasons": [None]}, ProviderProtocolError),
            ({"images": []}, ProviderProtocolError),
            ({"images": [""], "finish_reasons": [None]}, ProviderProtocolError),
            ({"images": [3]}, ProviderProtocolError),
            ({"images": "iVBORw0KGgo="}, ProviderProtocolError),
            ({"images": ["iVBORw0KGgo="], "finish_reasons": [None]}, ProviderProtocolError),
            ({"images": [None], "finish_reasons": ["Filter reason: prompt, output image"]}, ProviderRejected),
            ({"amazon-bedrock-guardrailAction": "INTERVENED", "outputs": []}, ProviderRejected),
        ],
    )
    async def test_a_success_without_a_picture(
        self,
        provider: Provider,
        simulator: BedrockSimulator,
        workspace: FolderWorkspace,
        body: dict[str, Any],
        expected: type[ProviderError],
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=200, body=body))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(ask(), workspace))
        assert type(caught.value) is expected

    @pytest.mark.parametrize("key", [signing_key(), ProviderKey(name="main", value=KEY)], ids=["signed", "bearer"])
    async def test_a_lost_answer_leaves_the_outcome_unknown(
        self, provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace, key: ProviderKey
    ) -> None:
        simulator.faults.push(Fault(kind="reset_after_read"))
        with pytest.raises(ProviderUncertain):
            await provider.start(call(ask(), workspace, key=key))

    async def test_a_body_that_is_cut_is_uncertain(
        self, provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.image_bytes = 300_000
        simulator.faults.push(Fault(kind="truncated"))
        with pytest.raises(ProviderUncertain):
            await provider.start(call(ask(), workspace))
        assert workspace.open_sinks == 0


async def test_a_large_picture_is_never_held(
    provider: Provider, simulator: BedrockSimulator, workspace: FolderWorkspace
) -> None:
    simulator.image_bytes = LARGE
    finished = await run(provider, call(ask(), workspace))
    assert stored(finished)[0].size_bytes == LARGE
    assert workspace.sinks[-1].largest_chunk_bytes <= 64 * 1024
