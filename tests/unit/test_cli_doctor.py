import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from safelight.adapters.blobs import cloud
from safelight.adapters.data_dir import acquire
from safelight.adapters.sql.schema import newest
from safelight.adapters.sqlite.connection import open_connection
from safelight.adapters.sqlite.migrate import migrate
from safelight.cli import checks
from safelight.cli.app import app
from tests.postgres import execute, in_a_thread
from tests.s3 import S3

KEY = "sk-made-up-for-this-test"

Doctor = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Run it on a data folder; gives the exit code and the checks by name."""
    for name in ("OPENAI_API_KEY", "SAFELIGHT_CONFIG", "SAFELIGHT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SAFELIGHT_SERVER__PORT", "0")

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        result = CliRunner().invoke(app, ["doctor", "--json", "--data-dir", str(tmp_path / "data"), *arguments])
        assert KEY not in result.output
        told = json.loads(result.stdout)
        assert told["ok"] == (result.exit_code == 0)
        return result.exit_code, {check["name"]: check for check in told["checks"]}

    return run


def test_a_fresh_machine_is_well(doctor: Doctor, tmp_path: Path) -> None:
    code, found = doctor()
    assert code == 0
    assert found["builtin"]["mark"] == "ok"
    assert found["openai"] == {
        "name": "openai",
        "mark": "off",
        "finding": "OpenAI's GPT image models",
        "remedy": "set OPENAI_API_KEY",
    }
    assert "an entry with type: openai_compatible under providers:" in found["openai_compatible"]["remedy"]
    assert found["database"]["finding"] == "made at the first start"
    assert not (tmp_path / "data").exists(), "it changes nothing"


def test_a_provider_that_is_on_is_told_with_the_names_of_its_keys(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    code, found = doctor()
    assert code == 0
    assert found["openai"]["mark"] == "ok"
    for told in ("https://api.openai.com/v1", "key main", "may cost money", "retired: gpt-image-1", "2026-12-01"):
        assert told in found["openai"]["finding"]


def test_a_settings_file_decides(doctor: Doctor, tmp_path: Path) -> None:
    file = tmp_path / "safelight.yaml"
    file.write_text(
        "providers:\n  builtin: {enabled: false}\n  gpu: {type: openai_compatible}\n"
        "  box: {type: openai_compatible, base_url: 'http://127.0.0.1:8000/v1', keys: [{value: ''}]}\n"
        "  other: {type: nothing}\n",
        encoding="utf-8",
    )
    code, found = doctor("--config", str(file))
    assert code == 1
    assert found["settings"]["finding"] == str(file)
    assert found["builtin"]["mark"] == "off"
    assert found["gpu"]["mark"] == "fail"
    assert "base_url is missing" in found["gpu"]["finding"]
    assert found["box"]["mark"] == "warn"
    assert "there is no provider type 'nothing'" in found["other"]["finding"]
    assert found["openai"]["remedy"].startswith(f"write into {file}: providers: {{openai: {{keys: ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("server: {prot: 1}", "server.prot: Extra inputs are not permitted"),
        (f"providers: {{openai: {{keys: [{{value: {KEY}: oops}}]}}}}", "is not YAML: line 1, column"),
        ("providers: {openai: {keys: [{value: env.NOT_SET_ANYWHERE}]}}", "NOT_SET_ANYWHERE is not set"),
    ],
)
def test_broken_settings_are_told_without_their_secrets(doctor: Doctor, tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "broken.yaml").write_text(text, encoding="utf-8")
    code, found = doctor("--config", str(tmp_path / "broken.yaml"))
    assert code == 1
    assert found["settings"]["mark"] == "fail"
    assert told in found["settings"]["finding"]


def test_a_variable_with_one_underscore_too_few(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELIGHT_SERVER_PORT", "9000")
    monkeypatch.setenv("SAFELIGHT_PROVIDERS__BUILTIN__TIMEOUT", "9")
    code, found = doctor()
    assert code == 0
    assert found["settings"]["finding"] == "SAFELIGHT_SERVER_PORT is set, but is no setting"


def test_a_folder_in_use(doctor: Doctor, tmp_path: Path) -> None:
    held = acquire(tmp_path / "data", address="http://127.0.0.1:9")
    code, found = doctor()
    held.release()
    assert code == 0
    assert "at http://127.0.0.1:9" in found["data folder"]["finding"]
    assert "a gateway is running" in found["address"]["finding"]


def test_a_folder_that_is_a_file(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    code, found = doctor()
    assert code == 1
    assert found["data folder"]["mark"] == "fail"


def test_databases(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "safelight.db"
    connection = open_connection(path, writes=True)
    migrate(connection)
    assert "quick check passed" in doctor()[1]["database"]["finding"]
    connection.execute("PRAGMA user_version = 9999")
    connection.close()
    assert "run a newer release" in doctor()[1]["database"]["finding"]
    path.write_bytes(b"this is no database" * 100)
    code, found = doctor()
    assert code == 1
    assert ".recover" in found["database"]["remedy"]


def test_low_and_fleeting_disks(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"none / ext4 rw 0 0\nnone {tmp_path} tmpfs rw 0 0\n", encoding="utf-8")
    monkeypatch.setattr(checks, "_MOUNTS", mounts)
    monkeypatch.setattr(checks, "_LOW_SPACE_BYTES", 2**62)
    found = doctor()[1]
    assert (found["disk"]["mark"], found["filesystem"]["mark"]) == ("warn", "warn")
    mounts.write_text(f"none {tmp_path} nfs4 rw 0 0\n", encoding="utf-8")
    monkeypatch.setattr(checks, "_NO_SPACE_BYTES", 2**62)
    code, found = doctor()
    assert code == 1
    assert "network filesystems" in found["filesystem"]["finding"]
    monkeypatch.setattr(checks, "_MOUNTS", tmp_path / "missing")
    assert doctor()[1]["filesystem"]["finding"] == "of unknown kind"


def test_for_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    lines = CliRunner().invoke(app, ["doctor", "--data-dir", str(tmp_path)]).stdout.splitlines()
    assert lines[0].startswith("ok    program ")
    off = next(index for index, line in enumerate(lines) if line.startswith("off   openai "))
    assert lines[off + 1].strip() == "-> set OPENAI_API_KEY"


# Several machines


def test_a_shared_database_and_a_bucket_are_looked_at(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, database_url: str, s3: S3
) -> None:
    monkeypatch.setenv("SAFELIGHT_STORAGE__DATABASE_URL", database_url)
    monkeypatch.setenv("SAFELIGHT_STORAGE__BLOB_URL", s3.url)
    monkeypatch.setenv("SAFELIGHT_STORAGE__BLOB_OPTIONS", json.dumps(s3.options))
    code, found = doctor()
    assert code == 0
    assert "Postgres " in found["database"]["finding"]
    assert f"schema {newest('postgres')}" in found["database"]["finding"]
    assert found["images"]["finding"] == f"{s3.url} answers"
    assert found["encryption key"]["mark"] == "warn"
    assert {method for method, _ in s3.requests} == {"GET"}, "it changes nothing"


def test_a_database_and_a_bucket_that_do_not_answer_are_told_without_secrets(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, s3: S3
) -> None:
    monkeypatch.setattr(cloud, "_BRISK", {"max_retries": 0, "retry_timeout": timedelta(seconds=1)})
    s3.fault = 503
    monkeypatch.setenv("SAFELIGHT_STORAGE__DATABASE_URL", f"postgresql://me:{KEY}@127.0.0.1:1/jobs")
    monkeypatch.setenv("SAFELIGHT_STORAGE__BLOB_URL", s3.url)
    monkeypatch.setenv("SAFELIGHT_STORAGE__BLOB_OPTIONS", json.dumps(s3.options))
    code, found = doctor()
    assert code == 1
    assert found["database"]["mark"] == found["images"]["mark"] == "fail"
    assert "postgresql://127.0.0.1:1/jobs" in found["database"]["finding"]


def test_a_database_of_a_newer_release_is_told(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    in_a_thread(lambda: execute(database_url, "UPDATE schema_version SET version = version + 1"))
    monkeypatch.setenv("SAFELIGHT_STORAGE__DATABASE_URL", database_url)
    code, found = doctor()
    assert code == 1
    assert "run a newer release" in found["database"]["remedy"]
