"""`safelight keys` and `safelight usage` against a running gateway."""

import csv
import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from safelight.cli.app import app
from tests.acceptance.processes import Gateway, gateway

KEY = "an-administrators-key-of-32-signs"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("keys"), env={"SAFELIGHT_ADMIN_KEY": KEY}) as it:
        yield it


def run(running: Gateway, *arguments: str, code: int = 0, key: str = KEY) -> str:
    command = [*arguments, "--data-dir", str(running.data_dir)]
    done = CliRunner().invoke(app, command, env={"SAFELIGHT_ADMIN_KEY": key})
    assert done.exit_code == code, done.output
    return done.stdout


def submit(running: Gateway, key: str) -> int:
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{running.url}/v1/images/generations"]
    said = ["-H", "Content-Type: application/json", "-H", f"x-bf-vk: {key}", "-d"]
    body = '{"model": "builtin/sketch", "prompt": "a kite", "size": "16x16"}'
    return int(subprocess.run([*command, *said, body], capture_output=True, text=True, timeout=30, check=True).stdout)


def test_a_keys_whole_life(running: Gateway) -> None:
    options = ["--budget", "50/1M", "--requests", "100/1m", "--allow", "builtin/sketch", "--priority", "bulk"]
    key = run(running, "keys", "create", "orders", *options).strip()
    assert key.startswith("sk-bf-")
    assert submit(running, key) == 200
    listed = run(running, "keys", "list")
    assert "orders" in listed
    assert f"…{key[-4:]}" in listed
    assert key not in listed
    shown = run(running, "keys", "show", "orders")
    for told in ("builtin/sketch", "bulk, weight 1", "$50.00 left of $50.00", "99 left of 100"):
        assert told in shown
    new = json.loads(run(running, "keys", "rotate", "orders", "--overlap", "0", "--json"))["key"]
    assert (submit(running, key), submit(running, new)) == (401, 200)
    assert "off" in run(running, "keys", "revoke", "orders")
    assert submit(running, new) == 403
    report = json.loads(run(running, "usage", "--by", "key", "--by", "model", "--json"))["data"]
    assert [row["images"] for row in report if row["key"] == "orders"] == [2]
    lines = list(csv.DictReader(io.StringIO(run(running, "usage", "--by", "key", "--by", "model", "--csv"))))
    [line] = [line for line in lines if line["key"] == "orders"]
    assert (line["model"], line["jobs"], line["failed"], line["images"], line["cost_usd"]) == (
        "sketch",
        "2",
        "0",
        "2",
        "0.0",
    )
    assert "orders" in run(running, "usage", "--by", "key")


def test_faults_are_told_with_their_remedy(running: Gateway, tmp_path: Path) -> None:
    assert run(running, "keys", "show", "nobody", code=1) == ""
    run(running, "keys", "create", "x", "--budget", "lots", code=2)
    run(running, "keys", "list", code=2, key="the-wrong-key-of-32-signs-or-more")
    done = CliRunner().invoke(app, ["keys", "list", "--data-dir", str(tmp_path / "none")])
    assert done.exit_code == 2
