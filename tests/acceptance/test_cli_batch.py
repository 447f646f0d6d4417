"""`safelight batch`: a file of orders becomes a folder of pictures, also after interruptions."""

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.processes import WAIT_S, Gateway, gateway, safelight, started

LINE = {"prompt": "a red kite", "size": "16x16"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("running")) as it:
        yield it
        assert it.stop() == 0


def write(folder: Path, lines: Sequence[Any], name: str = "prompts.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def collected(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return sorted((json.loads(line) for line in lines), key=lambda line: int(line["line"]))


def batches(running: Gateway) -> list[dict[str, Any]]:
    """All that the gateway has, newest first."""
    with urllib.request.urlopen(f"{running.url}/v1/async/batches", timeout=WAIT_S) as answer:  # noqa: S310 - our own
        found: list[dict[str, Any]] = json.load(answer)["data"]
        return found


def test_a_file_becomes_a_folder_of_pictures(running: Gateway, tmp_path: Path) -> None:
    file = write(tmp_path, [*({**LINE, "prompt": f"kite {n}"} for n in range(12)), "", {**LINE, "n": 2}])
    done = safelight("batch", "run", file, "-o", "out", "--url", running.url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "13 of 13 lines are done; the pictures are in out/\n"
    names = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert names[:2] == ["01-kite-0.png", "02-kite-1.png"]
    assert names[-2:] == ["14-a-red-kite-1.png", "14-a-red-kite-2.png"]
    assert len(names) == 14
    results = collected(tmp_path / "out")
    assert [line["line"] for line in results] == [*range(1, 13), 14], "numbers are those of the file"
    assert [file for line in results for file in line["files"]] == names
    before = batches(running)
    again = safelight("batch", "run", file, "-o", "out", "--url", running.url, "--json", cwd=tmp_path)
    told = json.loads(again.stdout)
    assert (told["completed"], told["failed"], told["batch"]) == (13, 0, before[0]["id"])
    assert batches(running) == before, "nothing was ordered again"


def test_failed_lines_are_told_and_can_run_again(running: Gateway, tmp_path: Path) -> None:
    file = write(tmp_path, [LINE, {**LINE, "model": "builtin/fail-moderation"}, {**LINE, "prompt": "b"}])
    command = ("batch", "run", file, "-o", "out", "--url", running.url)
    done = safelight(*command, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == "2 of 3 lines are done; the pictures are in out/\n"
    assert "1 line failed" in done.stderr
    assert "line 2: this model of the built-in provider always ends so" in done.stderr
    job = next(line["job"] for line in collected(tmp_path / "out") if line["line"] == 2)
    assert safelight(*command, cwd=tmp_path).returncode == 1, "told again, not run again"
    assert safelight(*command, "--retry-failed", cwd=tmp_path).returncode == 1
    shown = json.loads(safelight("jobs", "show", job, "--url", running.url, "--json", cwd=tmp_path).stdout)
    assert shown["meta"]["attempts"] == 2
    assert [line["line"] for line in collected(tmp_path / "out")] == [1, 2, 3]


def test_goes_on_where_it_was_after_a_kill_and_a_restart_of_the_gateway(tmp_path: Path) -> None:
    lines = [{**LINE, "prompt": f"{n}", "model": "builtin/slow-1"} for n in range(70)]
    command = ("batch", "run", write(tmp_path, lines), "-o", "out", "--url")
    with gateway(tmp_path) as first:
        port = first.url.rpartition(":")[2]
        with started(*command, first.url, cwd=tmp_path) as process:
            until(lambda: (tmp_path / "out/results.jsonl").exists() and len(collected(tmp_path / "out")) >= 10)
            process.kill()
        first.process.kill()
    before = len(collected(tmp_path / "out"))
    with gateway(tmp_path, env={"SAFELIGHT_SERVER__PORT": port}) as second:
        done = safelight(*command, second.url, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        [batch] = batches(second)
        assert batch["counts"]["completed"] == 70
    results = collected(tmp_path / "out")
    assert 10 <= before < 70
    assert [line["line"] for line in results] == list(range(1, 71)), "each line once"
    assert len(list((tmp_path / "out").glob("*.png"))) == 70
    assert not list((tmp_path / "out").glob(".*.part"))


def until(true: Any) -> None:
    ended = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < ended
        time.sleep(0.02)  # another process has no event of ours


def test_runs_without_a_gateway_and_goes_on_after_ctrl_c(tmp_path: Path) -> None:
    lines = [{**LINE, "prompt": f"{n}", "model": "builtin/slow-1"} for n in range(80)]
    command = ("batch", "run", write(tmp_path, lines), "-o", "out")
    with started(*command, cwd=tmp_path) as process:
        until(lambda: (tmp_path / "out/results.jsonl").exists() and len(collected(tmp_path / "out")) >= 2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert "stays in the data folder; the same command goes on with it" in said
    assert "safelight batch cancel " in said
    assert len(collected(tmp_path / "out")) < 80
    done = safelight(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line["line"] for line in collected(tmp_path / "out")] == list(range(1, 81))


def test_is_shown_listed_and_cancelled(running: Gateway, tmp_path: Path) -> None:
    lines = [{**LINE, "prompt": f"{n}", "model": "builtin/handle-20"} for n in range(100)]
    where = ("--url", running.url)
    with started("batch", "run", write(tmp_path, lines), "-o", "out", *where, cwd=tmp_path) as process:
        assert process.stderr
        batch_id = process.stderr.readline().split()[1]
        shown = safelight("batch", "show", batch_id, *where, cwd=tmp_path)
        assert shown.stdout.splitlines()[1].split()[3:5] == ["running", "100"]
        cancelled = json.loads(safelight("batch", "cancel", batch_id, *where, "--json", cwd=tmp_path).stdout)
        assert (cancelled["status"], cancelled["counts"].get("pending", 0)) == ("cancelled", 0)
        assert cancelled["counts"]["failed"] >= 68, "those that had not started"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=WAIT_S)
        assert f"Batch {batch_id} goes on at the gateway" in said
    assert batch_id in safelight("batch", "list", *where, cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([LINE, "{"], "line 2: "),
        ([{"size": "16x16"}], "line 1: it has no prompt"),
        ([], "has no line"),
        ([LINE, {**LINE, "n": 99}], "line 2: n must be 1 to 10"),
    ],
)
def test_a_bad_line_is_told_before_anything_is_run(
    running: Gateway, tmp_path: Path, lines: Sequence[Any], told: str
) -> None:
    before = [batch["id"] for batch in batches(running)]
    done = safelight("batch", "run", write(tmp_path, lines), "-o", "out", "--url", running.url, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert [batch["id"] for batch in batches(running)] == before


def test_a_folder_is_kept_from_another_file(running: Gateway, tmp_path: Path) -> None:
    file, other = write(tmp_path, [LINE]), write(tmp_path, [{**LINE, "prompt": "b"}], "other.jsonl")
    where = ("-o", f"out{os.sep}", "--url", running.url)
    assert safelight("batch", "run", file, *where, cwd=tmp_path).returncode == 0
    done = safelight("batch", "run", other, *where, cwd=tmp_path)
    assert done.returncode == 2
    assert "holds the pictures of other orders" in done.stderr
    assert safelight("batch", "show", "nonsense", "--url", running.url, cwd=tmp_path).returncode == 1
