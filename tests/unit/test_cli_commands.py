import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from safelight.cli.app import app
from safelight.domain.errors import ErrorClass
from safelight.domain.ids import JobId, ProviderName
from safelight.domain.image import ImageRequest, Operation, Target
from safelight.domain.job import Attempt, AttemptState, Ending, Job, JobError
from safelight.domain.money import Charged
from tests.stores import sqlite_store

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
ERROR = JobError(status_code=504, code="outcome_unknown", message="no answer came", gateway_fault=False)
PROMPT = "a prompt that stays where it is"


@pytest.fixture(autouse=True)
def _no_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SAFELIGHT_URL", "SAFELIGHT_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """Two jobs: one waits, one failed at its second attempt."""
    target = Target(provider=ProviderName("openai"), model="gpt-image-2")
    request = ImageRequest(operation=Operation.EDIT, target=target, prompt=PROMPT)
    store = sqlite_store(tmp_path / "safelight.db")
    for job_id in ("aaaa0000-0000-4000-8000-000000000001", "aaaa0000-0000-4000-8000-000000000002"):
        job = Job(id=JobId(job_id), request_id="r", request=request, created_at=NOW, ttl_s=60, lane=target.provider)
        await store.submit(job)
    attempt = Attempt(
        number=1, route=0, target=target, key_name="spare", n=1, state=AttemptState.STARTED, started_at=NOW
    )
    await store.start_attempt(job.id, attempt)
    ended = Attempt(
        number=1,
        route=0,
        target=target,
        key_name="spare",
        n=1,
        state=AttemptState.UNKNOWN,
        started_at=NOW,
        ended_at=NOW.replace(second=2),
        error_class=ErrorClass.UNCERTAIN,
        error=ERROR,
        charged=Charged.UNKNOWN,
    )
    ending = Ending(completed_at=NOW.replace(second=2), charged=Charged.UNKNOWN, cost_micros=None, error=ERROR)
    await store.finish(job.id, ending, tries=1, attempt=ended)
    await store.close()
    return tmp_path


def test_lists_newest_first(folder: Path) -> None:
    code, told, _ = run("jobs", "list", "--data-dir", folder)
    assert code == 0
    lines = told.splitlines()
    assert lines[0].split() == ["ID", "CREATED", "STATUS", "TYPE", "MODEL", "ATTEMPTS", "RESULT"]
    assert lines[1].endswith("failed   edit  openai/gpt-image-2  1         outcome_unknown")
    assert lines[2].split()[3:5] == ["pending", "edit"]
    _, told, _ = run("jobs", "list", "--data-dir", folder, "--json", "--status", "pending", "--limit", "5")
    assert [job["id"][-1] for job in json.loads(told)["jobs"]] == ["1"]


def test_shows_the_ledger_but_not_the_prompt(folder: Path) -> None:
    code, told, _ = run("jobs", "show", "aaaa0000-0000-4000-8000-000000000002", "--data-dir", folder)
    assert code == 0
    assert PROMPT not in told
    lines = {line.partition(":")[0]: line.partition(":")[2].strip() for line in told.splitlines()}
    assert lines["error"] == "no answer came (outcome_unknown)"
    assert lines["charged"] == "unknown"
    assert lines["kept until"] == "2026-11-23 10:01:02Z"
    assert told.splitlines()[-1].split()[:7] == [
        "1",
        "openai",
        "gpt-image-2",
        "spare",
        "unknown",
        "(uncertain)",
        "2.000",
    ]
    _, told, _ = run("jobs", "show", "aaaa0000-0000-4000-8000-000000000002", "--data-dir", folder, "--json")
    [attempt] = json.loads(told)["ledger"]
    assert (attempt["key"], attempt["duration_s"], attempt["charged"]) == ("spare", 2.0, "unknown")


@pytest.mark.parametrize(
    ("start", "code", "told"),
    [("aaaa", 2, "several jobs begin with aaaa"), ("bbbb", 1, "there is no job bbbb"), ("%", 1, "there is no job %")],
)
def test_ids_may_be_short_but_not_ambiguous(folder: Path, start: str, code: int, told: str) -> None:
    found, _, said = run("jobs", "show", start, "--data-dir", folder)
    assert found == code
    assert told in said


def test_an_empty_folder_has_no_jobs(tmp_path: Path) -> None:
    assert run("jobs", "list", "--data-dir", tmp_path) == (0, "", f"no jobs in {tmp_path}\n")
    assert json.loads(run("jobs", "list", "--data-dir", tmp_path, "--json")[1]) == {"jobs": []}
    assert not list(tmp_path.iterdir())


def test_the_command_line_wins_over_the_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELIGHT_URL", "http://127.0.0.1:1")
    assert run("jobs", "list", "--data-dir", folder)[0] == 0
    assert run("jobs", "list")[0] == 3, "nobody answers there"
    code, _, said = run("jobs", "list", "--data-dir", folder, "--url", "http://127.0.0.1:1")
    assert code == 2
    assert "exclude each other" in said


def test_settings_are_listed_with_their_defaults() -> None:
    _, told, _ = run("settings")
    assert [line.split()[:2] for line in told.splitlines() if line.startswith("server.port")] == [
        ["server.port", "8080"]
    ]
    listed = {entry["name"]: entry for entry in json.loads(run("settings", "--json")[1])["settings"]}
    assert listed["providers.NAME.keys[].value"]["default"] == "(required)"
    assert listed["storage.data_dir"]["default"] == '".safelight"'
    assert all(entry["help"] for entry in listed.values())


def test_version_and_help() -> None:
    assert run("--version")[1].startswith("safelight 0.")
    code, told, _ = run("--help")
    assert code == 0
    for command in ("serve", "generate", "edit", "vary", "jobs", "doctor", "settings", "demo"):
        assert f"  {command} " in told
    assert run("nonsense")[0] == 2
    assert run("generate")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--port", "99999"), "server.port: Input should be less than or equal to 65535"),
        (("--host", "0.0.0.0"), "server.unprotected: true"),  # noqa: S104 - it is refused
        (("--config", "/nowhere.yaml"), "/nowhere.yaml cannot be read"),
        (("--log-level", "loud"), "loud"),
    ],
)
def test_serve_refuses_with_the_remedy(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    code, _, said = run("serve", "--data-dir", tmp_path, *arguments)
    assert code == 2
    assert told in said
