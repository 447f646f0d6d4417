"""What every provider module promises, whoever it talks to. Each test module under `tests/providers` supplies a case."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from safelight.adapters.providers._base import NoOptions, ProviderModule, ProviderSettings
from safelight.adapters.providers._http import HttpSessions, open_sessions
from safelight.adapters.providers._registry import collect, load_providers
from safelight.application.ports import (
    Accepted,
    Failed,
    Finished,
    Provider,
    ProviderKey,
    RemotePicture,
    Running,
    StoredPicture,
)
from safelight.domain.capability import OPTIONAL_FIELDS
from safelight.domain.errors import (
    ConfigurationError,
    ProviderError,
    ProviderUnavailable,
    SafelightError,
    StorageError,
    UnsupportedFeature,
)
from safelight.domain.ids import ProviderName
from safelight.domain.image import ImageRequest
from tests.providers.support import KEY, FolderWorkspace, ProviderCase, call, open_provider, polled
from tests.simulators._base import Fault, FaultKind, Simulator

MODULES = load_providers()
ODD_ANSWERS: list[FaultKind] = ["truncated", "wrong_json", "empty", "html", "reset_before_read", "reset_after_read"]
DOCS = Path(__file__).parents[2] / "docs" / "providers.md"


def case_of(name: str) -> ProviderCase:
    if MODULES[name].profile_of is not None:
        found = import_module("tests.providers.test_profiles").CASES[name]
    else:
        found = import_module(f"tests.providers.test_{name}").CONFORMANCE
    assert isinstance(found, ProviderCase)
    return found


WITH_SERVER = [name for name in MODULES if case_of(name).simulator is not None]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A provider with its server, if it has one."""

    name: str
    case: ProviderCase
    provider: Provider
    workspace: FolderWorkspace
    sessions: HttpSessions
    server: Simulator | None

    @property
    def simulator(self) -> Simulator:
        assert self.server is not None
        return self.server

    @property
    def plain(self) -> ImageRequest:
        return self.case.requests(self.workspace)[0]


@pytest.fixture
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    name: str = request.param
    case = case_of(name)
    async with AsyncExitStack() as stack:
        sessions = open_sessions()
        stack.push_async_callback(sessions.close)
        server = await stack.enter_async_context(case.simulator(KEY)) if case.simulator else None
        provider = open_provider(name, sessions, server.base_url if server else None, timeout_s=15)
        stack.push_async_callback(provider.close)
        yield Bench(
            name=name,
            case=case,
            provider=provider,
            workspace=FolderWorkspace(tmp_path),
            sessions=sessions,
            server=server,
        )


every = pytest.mark.parametrize("bench", list(MODULES), indirect=True)
every_with_server = pytest.mark.parametrize("bench", WITH_SERVER, indirect=True)


async def carry_out(bench: Bench, request: ImageRequest) -> Finished:
    wanted = call(request, bench.workspace)
    outcome: Accepted | Running | Finished | Failed = await bench.provider.start(wanted)
    handle = outcome.handle if isinstance(outcome, Accepted) else ""
    while not isinstance(outcome, Finished):
        assert not isinstance(outcome, Failed)
        await asyncio.sleep(min(outcome.poll_after_s, 0.5))
        outcome = await polled(bench.provider, handle, wanted)
    return outcome


def all_words(error: BaseException) -> str:
    """Everything an error could show, its causes included."""
    seen = []
    while error is not None:
        seen.append(f"{error!r} {error} {vars(error)}" if isinstance(error, SafelightError) else str(error))
        if error.__cause__ is None:
            break
        error = error.__cause__
    return "\n".join(seen)


class TestDeclaration:
    @pytest.mark.parametrize("name", list(MODULES))
    def test_is_documented_and_tested(self, name: str) -> None:
        assert f"| `{name}` |" in DOCS.read_text()
        assert MODULES[name].doc

    @pytest.mark.parametrize("name", list(MODULES))
    def test_settings_are_settled_once(self, name: str) -> None:
        module = MODULES[name]
        settings = ProviderSettings(name=ProviderName(name), type=name, base_url="https://api.example/v1")
        settled = module.settle(settings)
        assert settled.repeatable in {True, False}
        assert module.settle(settled) == settled

    @pytest.mark.parametrize("name", list(MODULES))
    async def test_unknown_options_are_refused(self, name: str) -> None:
        settings = ProviderSettings(name=ProviderName(name), type=name, base_url="https://h/v1", options={"colour": 1})
        with pytest.raises(ConfigurationError, match="colour"):
            MODULES[name].read_options(settings)

    @every
    async def test_models_are_described_soundly(self, bench: Bench) -> None:
        names = [spec.name for spec in bench.provider.specs]
        assert len(set(names)) == len(names)
        for spec in bench.provider.specs:
            assert bench.provider.spec(spec.name) == spec
            assert spec.operations
            assert spec.fields <= set(OPTIONAL_FIELDS)
            assert spec.max_n is None or spec.max_n >= 1
        assert bench.provider.spec("no such model") is None


class TestWork:
    @every
    async def test_each_operation_brings_its_pictures(self, bench: Bench) -> None:
        for request in bench.case.requests(bench.workspace):
            finished = await carry_out(bench, request)
            assert len(finished.pictures) == request.count
            for picture in finished.pictures:
                if isinstance(picture, StoredPicture):
                    assert picture.image.size_bytes == len(bench.workspace.bytes_of(picture.image))
        assert bench.workspace.open_sinks == 0

    @every
    async def test_a_field_it_cannot_express_is_refused_before_any_exchange(self, bench: Bench) -> None:
        if bench.case.unsupported is None:
            return
        with pytest.raises(UnsupportedFeature) as caught:
            await bench.provider.start(call(bench.case.unsupported, bench.workspace))
        assert caught.value.param
        assert bench.workspace.sinks == []
        assert bench.server is None or bench.server.exchanges == []

    @every
    async def test_a_foreign_handle_is_an_error_of_the_tree(self, bench: Bench) -> None:
        with pytest.raises(ProviderError):
            await bench.provider.poll("no such handle", call(bench.plain, bench.workspace))

    @every
    async def test_a_store_that_fails_is_told_as_such(self, bench: Bench) -> None:
        bench.workspace.write_fault = StorageError("no room")
        try:
            finished = await carry_out(bench, bench.plain)
        except StorageError:
            pass
        else:  # behind links, the pictures are the engine's to fetch and store
            assert all(isinstance(picture, RemotePicture) for picture in finished.pictures)
        assert bench.workspace.open_sinks == 0

    @every
    async def test_closing_twice_is_harmless(self, bench: Bench) -> None:
        await bench.provider.close()
        await bench.provider.close()


class TestFailure:
    @every_with_server
    @pytest.mark.parametrize("kind", ODD_ANSWERS)
    async def test_an_odd_answer_is_an_error_of_the_tree_and_is_not_repeated(
        self, bench: Bench, kind: FaultKind
    ) -> None:
        bench.simulator.faults.push(Fault(kind=kind, method="POST"))
        with pytest.raises(ProviderError) as caught:
            await bench.provider.start(call(bench.plain, bench.workspace))
        assert bench.simulator.submissions == 1
        assert bench.workspace.open_sinks == 0
        assert KEY not in all_words(caught.value)
        if bench.simulator.charged:
            assert caught.value.error_class.may_be_charged

    @every_with_server
    @pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 404, 409, 413, 422, 429, 500, 503, 504, 529])
    async def test_a_refusal_keeps_its_status_and_never_our_key(self, bench: Bench, status: int) -> None:
        body = {"error": {"message": f"your key {KEY}", "code": KEY, "type": KEY, "param": KEY}, "detail": KEY}
        bench.simulator.faults.push(Fault(kind="status", status=status, body=body, headers={"x-request-id": KEY}))
        with pytest.raises(ProviderError) as caught:
            await bench.provider.start(call(bench.plain, bench.workspace))
        assert caught.value.status == status
        assert caught.value.error_class.may_be_charged == (status in bench.case.unclear)
        assert KEY not in all_words(caught.value)

    @every_with_server
    async def test_a_wrong_key_is_the_operators_matter(self, bench: Bench) -> None:
        wrong = ProviderKey(name="old", value="sk-another-0123456789")
        with pytest.raises(ProviderError) as caught:
            await bench.provider.start(call(bench.plain, bench.workspace, key=wrong))
        assert caught.value.error_class == "auth"

    @every_with_server
    async def test_where_nobody_listens_nothing_is_charged(self, bench: Bench) -> None:
        await bench.simulator.stop()
        with pytest.raises(ProviderUnavailable) as caught:
            await bench.provider.start(call(bench.plain, bench.workspace))
        assert not caught.value.error_class.may_be_charged

    @every_with_server
    async def test_a_cancelled_start_leaves_nothing_open(self, bench: Bench) -> None:
        bench.simulator.faults.push(Fault(hold=True, method="POST"))
        task = asyncio.ensure_future(bench.provider.start(call(bench.plain, bench.workspace)))
        await bench.simulator.wait_for_submissions(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert bench.workspace.open_sinks == 0


class TestRegistry:
    def test_finds_the_modules(self) -> None:
        assert {"builtin", "openai", "openai_compatible"} <= MODULES.keys()
        assert not any(name.startswith("_") for name in MODULES)

    def test_a_module_without_a_declaration_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="declares no PROVIDER"):
            collect([ModuleType("safelight.adapters.providers.nothing")])

    def test_a_module_under_another_name_is_refused(self) -> None:
        module = ModuleType("safelight.adapters.providers.other")
        declared: ProviderModule[NoOptions] = MODULES["builtin"]
        vars(module)["PROVIDER"] = declared
        with pytest.raises(ConfigurationError, match="declares the name 'builtin'"):
            collect([module])

    def test_a_type_that_is_declared_twice_is_refused(self) -> None:
        module = import_module("safelight.adapters.providers.builtin")
        with pytest.raises(ConfigurationError, match="declares 'builtin' again"):
            collect([module, module])
