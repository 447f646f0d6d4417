"""The commands as people and scripts run them: real processes, real HTTP, exit codes, files."""

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from tests.acceptance.processes import (
    COMMAND,
    ROOT,
    WAIT_S,
    Gateway,
    accepted,
    environment,
    gateway,
    safelight,
    started,
)

KEY = "sk-made-up-for-this-test"
PROMPT = "an owl that nobody may hear of"
SMALL = ("--size", "64x48")
CTRL_C = "^C"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("running")) as it:
        yield it
        assert it.stop() == 0


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "grey.png"
    Image.new("RGB", (64, 48), "grey").save(path)
    return path


def pixels(path: Path) -> tuple[str | None, tuple[int, int]]:
    with Image.open(path) as picture:
        picture.load()
        return picture.format, picture.size


def interrupt(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=WAIT_S)
    return said


def test_greets_with_what_people_need_and_logs_neither_keys_nor_prompts(tmp_path: Path) -> None:
    with gateway(tmp_path, "--log-format", "json", env={"OPENAI_API_KEY": KEY}) as it:
        with urllib.request.urlopen(f"{it.url}/docs", timeout=WAIT_S) as docs:  # noqa: S310 - our own address
            assert docs.status == 200
        chain = ("--model", "builtin/fail-model", "--fallback", "builtin/sketch")
        assert safelight("generate", PROMPT, *SMALL, *chain, "--url", it.url, cwd=tmp_path).returncode == 0
        assert it.stop() == 0
    assert f"{it.url}/docs" in it.said
    assert str(it.data_dir) in it.said
    assert "builtin, openai\n" in it.said
    assert "more: `safelight doctor` says how to switch them on" in it.said
    events = [json.loads(line) for line in it.log.splitlines()]
    about_jobs = [event["event"] for event in events if "job_id" in event]
    ends = [event for event in about_jobs if event.endswith("_ended")]
    assert ends == ["attempt_ended", "job_ended"], "a failure, and the end; success is told once"
    assert events[-1]["event"] == "shutting_down"
    assert KEY not in it.said + it.log
    assert PROMPT not in it.said + it.log


def test_a_held_data_folder_cannot_be_served_twice(running: Gateway, tmp_path: Path) -> None:
    done = safelight("serve", "--port", "0", "--data-dir", running.data_dir, cwd=tmp_path)
    assert done.returncode == 2
    assert f"in use by process {running.process.pid} at {running.url}" in done.stderr
    assert "Traceback" not in done.stderr


def test_draws_without_a_gateway(tmp_path: Path) -> None:
    done = safelight("generate", PROMPT, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [name] = done.stdout.splitlines()
    assert name.startswith("an-owl-that-nobody-may-hear-of-")
    assert pixels(tmp_path / name) == ("PNG", (64, 48))
    assert not list(tmp_path.glob(".*.part"))

    shown = json.loads(safelight("jobs", "show", name[-12:-4], "--json", cwd=tmp_path).stdout)
    assert shown["status"] == "completed"
    assert [attempt["state"] for attempt in shown["ledger"]] == ["succeeded"]
    assert [(image["width"], image["height"]) for image in shown["images"]] == [(64, 48)]
    assert PROMPT not in json.dumps(shown)


def test_draws_through_the_gateway_that_holds_the_data_folder(running: Gateway, tmp_path: Path) -> None:
    command = ("generate", PROMPT, *SMALL, "-n", "2", "-o", "new/owl.webp", "--data-dir", running.data_dir)
    done = safelight(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"accepted by {running.url}" in done.stderr
    assert done.stdout.splitlines() == ["new/owl-1.webp", "new/owl-2.webp"]
    assert pixels(tmp_path / "new/owl-1.webp") == ("WEBP", (64, 48))

    again = safelight(*command, cwd=tmp_path)
    assert again.returncode == 2
    assert "new/owl-1.webp exists already" in again.stderr


def test_draws_at_an_address_and_tells_scripts(running: Gateway, tmp_path: Path) -> None:
    done = safelight(
        "generate",
        PROMPT,
        *SMALL,
        *("--seed", "7", "--model", "builtin/fail-model", "--fallback", "builtin/sketch", "--json", "-o", "fox.png"),
        cwd=tmp_path,
        env={"SAFELIGHT_URL": f"{running.url}/v1"},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["files"] == ["fox.png"]
    assert told["status"] == "completed"
    assert told["meta"]["attempts"] == 2

    shown = safelight("jobs", "show", told["id"], "--url", running.url, cwd=tmp_path)
    assert shown.returncode == 0
    assert "completed" in shown.stdout


def test_edits_inside_a_mask_and_varies(running: Gateway, image: Path, tmp_path: Path) -> None:
    mask = Image.new("RGBA", (64, 48), "black")
    ImageDraw.Draw(mask).rectangle((32, 0, 63, 47), fill=(0, 0, 0, 0))
    mask.save(tmp_path / "mask.png")
    place = ("--url", running.url, "--force", "-o")
    edited = safelight("edit", image, "--prompt", "a red balloon", "--mask", "mask.png", *place, "e.png", cwd=tmp_path)
    assert edited.returncode == 0, edited.stderr
    with Image.open(tmp_path / "e.png") as picture:
        assert picture.convert("RGB").crop((0, 0, 30, 48)).getcolors() == [(30 * 48, (128, 128, 128))]
        assert picture.convert("RGB").crop((34, 0, 64, 48)).getcolors(1) is None, "more than one colour"

    varied = safelight("vary", image, "--url", running.url, cwd=tmp_path)
    assert varied.returncode == 0, varied.stderr
    [name] = varied.stdout.splitlines()
    assert name.startswith("grey-variation-")
    assert pixels(tmp_path / name) == ("PNG", (64, 48))


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--model", "builtin/fail-moderation"), 1, "moderation_blocked"),
        (("--size", "9999x9999"), 2, "unsupported_feature"),
        (("--url", "http://127.0.0.1:1"), 3, "no gateway answers at http://127.0.0.1:1"),
    ],
)
def test_ends_with_a_reason_and_its_code(
    running: Gateway, tmp_path: Path, arguments: tuple[str, ...], code: int, told: str
) -> None:
    url = () if "--url" in arguments else ("--url", running.url)
    done = safelight("generate", PROMPT, "--json", *arguments, *url, cwd=tmp_path)
    assert done.returncode == code
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert json.loads(done.stdout)["error"]["code"] == told
    assert not list(tmp_path.glob("*.png"))


def test_interrupted_at_a_gateway_the_job_goes_on(running: Gateway, tmp_path: Path) -> None:
    held = running.data_dir
    with started("generate", PROMPT, "--model", "builtin/slow-30", "--data-dir", held, cwd=tmp_path) as process:
        job_id = accepted(process)
        said = interrupt(process)
    assert process.returncode == 130
    assert "goes on at the gateway" in said
    assert f"safelight jobs show {job_id} --data-dir {held}" in said
    shown = safelight("jobs", "show", job_id, "--json", "--data-dir", held, cwd=tmp_path)
    assert json.loads(shown.stdout)["status"] == "processing"
    assert running.process.poll() is None


def test_interrupted_without_a_gateway_the_job_is_kept_and_can_be_fetched(tmp_path: Path) -> None:
    with started("generate", PROMPT, *SMALL, "--model", "builtin/handle-2", cwd=tmp_path) as process:
        job_id = accepted(process)
        said = interrupt(process)
    assert process.returncode == 130
    assert f"Job {job_id} stays in the data folder" in said
    assert f"safelight jobs fetch {job_id}\n" in said
    done = safelight("jobs", "fetch", job_id[:8], "-o", "late.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "late.png\n"
    assert pixels(tmp_path / "late.png") == ("PNG", (64, 48))


def test_a_slow_repeatable_call_does_not_hold_up_an_interrupted_command(tmp_path: Path) -> None:
    with started("generate", PROMPT, "--model", "builtin/slow-30", cwd=tmp_path) as process:
        accepted(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130


def test_whoever_shared_the_engine_of_another_command_takes_over(tmp_path: Path) -> None:
    with started("generate", PROMPT, "--model", "builtin/slow-30", cwd=tmp_path) as first:
        accepted(first)
        command = ("generate", PROMPT, *SMALL, "--model", "builtin/slow-2", "-o", "second.png")
        with started(*command, cwd=tmp_path) as second:
            accepted(second)
            interrupt(first)
            assert second.wait(timeout=WAIT_S) == 0
    assert pixels(tmp_path / "second.png") == ("PNG", (64, 48))
    with closing(sqlite3.connect(tmp_path / ".safelight/safelight.db")) as database:
        states = database.execute("SELECT state FROM attempts WHERE model = 'slow-2' ORDER BY number").fetchall()
    assert states == [("unknown",), ("succeeded",)]


def test_an_interrupted_command_waits_for_a_call_that_costs_money(tmp_path: Path) -> None:
    with started(cwd=ROOT, command=(sys.executable, "-m", "tests.simulators.openai", "--port", "0")) as simulator:
        assert simulator.stdout
        address = simulator.stdout.readline().rpartition(" on ")[2].strip().removesuffix("/v1")
        control(address, "faults", {"push": [{"hold": True}]})
        provider = {"base_url": f"{address}/v1", "keys": [{"value": KEY}], "repeatable": False}
        (tmp_path / "paid.json").write_text(json.dumps({"providers": {"openai": provider}}), encoding="utf-8")
        arguments = ("generate", PROMPT, "--model", "openai/gpt-image-2", "--config", "paid.json")
        with started(*arguments, cwd=tmp_path) as process:
            assert process.stderr
            job_id = accepted(process)
            control(address, "exchanges?submissions=1")
            process.send_signal(signal.SIGINT)
            assert "which may cost money: waiting up to 30 s" in process.stderr.readline()
            control(address, "release", {})
            _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130, said
    shown = safelight("jobs", "show", job_id, cwd=tmp_path)
    assert "completed" in shown.stdout
    assert KEY not in said + shown.stdout


def control(address: str, what: str, body: Any = None) -> None:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310 - our own address
        f"{address}/_control/{what}", data=data, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:  # noqa: S310 - as above
        assert answer.status < 300


def test_shows_its_progress_in_a_terminal(running: Gateway, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    arguments = ("generate", PROMPT, *SMALL, "--model", "builtin/slow-1", "--url", running.url)
    with subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=tmp_path,
        env=environment(TERM="xterm"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    ) as process:
        os.close(theirs)
        with ThreadPoolExecutor() as threads:
            screen = threads.submit(drained, ours)
            printed, _ = process.communicate(timeout=WAIT_S)
    os.close(ours)
    assert process.returncode == 0
    assert printed.endswith(".png\n")
    assert "processing" in screen.result()


def drained(terminal: int) -> str:
    """All that was written; a terminal ends with an error."""
    seen = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:
            return seen.decode()
        seen += piece
        if not piece:
            return seen.decode()


def in_a_terminal(
    *arguments: str | Path, cwd: Path, answers: Mapping[str, str], **variables: str
) -> tuple[int, str, str]:
    """Run a command in a terminal; when a text appears on it, type the answer. Gives exit code, output and screen."""
    ours, theirs = pty.openpty()
    waiting, seen = dict(answers), ""
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(TERM="xterm-256color", **variables),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    ) as process:
        os.close(theirs)
        for piece in pieces(ours):
            seen += piece
            for text in [text for text in waiting if text in seen]:
                if (answer := waiting.pop(text)) == CTRL_C:
                    process.send_signal(signal.SIGINT)
                else:
                    os.write(ours, answer.encode())
        assert process.stdout
        printed = process.stdout.read()
        code = process.wait(timeout=WAIT_S)
    os.close(ours)
    return code, printed, seen


def pieces(terminal: int) -> Iterator[str]:
    """What is written; a terminal ends with an error."""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            return
        if not piece:
            return
        yield piece.decode(errors="replace")


def test_ctrl_c_asks_whether_to_cancel_and_does_so(running: Gateway, tmp_path: Path) -> None:
    command = ("generate", PROMPT, *SMALL, "--model", "builtin/handle-5", "--url", running.url)
    code, printed, screen = in_a_terminal(*command, cwd=tmp_path, answers={"processing": CTRL_C, "? [y/N]": "y\n"})
    assert code == 1, screen
    assert printed == ""
    assert "Cancel job" in screen
    assert "job_cancelled" in screen
    assert not list(tmp_path.glob("*.png"))


def test_ctrl_c_and_no_leaves_the_job(running: Gateway, tmp_path: Path) -> None:
    command = ("generate", PROMPT, *SMALL, "--model", "builtin/handle-5", "--url", running.url)
    code, _, screen = in_a_terminal(*command, cwd=tmp_path, answers={"processing": CTRL_C, "? [y/N]": "n\n"})
    assert code == 130, screen
    assert "goes on at the gateway" in screen


def test_a_terminal_with_the_colours_shows_the_picture(running: Gateway, tmp_path: Path) -> None:
    command = ("generate", PROMPT, *SMALL, "-o", "owl.png", "--url", running.url)
    _, printed, screen = in_a_terminal(*command, cwd=tmp_path, answers={}, COLORTERM="truecolor")
    assert printed == "owl.png\n"
    assert screen.count("\u2580") > 500
    _, _, screen = in_a_terminal(*command, "-f", "--no-preview", cwd=tmp_path, answers={}, COLORTERM="truecolor")
    assert "\u2580" not in screen
    _, _, screen = in_a_terminal(*command, "-f", cwd=tmp_path, answers={})
    assert "\u2580" not in screen, "too few colours"


def test_jobs_are_listed_cancelled_run_again_and_deleted_at_an_address(running: Gateway, tmp_path: Path) -> None:
    where = ("--url", running.url)
    with started("generate", PROMPT, *SMALL, "--model", "builtin/handle-6", *where, cwd=tmp_path) as process:
        job_id = accepted(process)
        cancelled = safelight("jobs", "cancel", job_id, *where, cwd=tmp_path)
        assert cancelled.returncode == 0, cancelled.stderr
        assert cancelled.stdout.startswith(f"Job {job_id} is cancelled; charged: ")
        assert process.wait(timeout=WAIT_S) == 1
    again = safelight("jobs", "cancel", job_id, "--json", *where, cwd=tmp_path)
    assert json.loads(again.stdout)["meta"]["cancelled"] is True, "nothing was deleted"

    assert f"Job {job_id} runs again" in safelight("jobs", "retry", job_id, *where, cwd=tmp_path).stdout
    assert safelight("jobs", "fetch", job_id, "-o", "owl.png", *where, cwd=tmp_path).returncode == 0
    refused = safelight("jobs", "retry", job_id, *where, cwd=tmp_path)
    assert (refused.returncode, "only a failed job can be run again" in refused.stderr) == (1, True)

    assert safelight("jobs", "delete", job_id, *where, cwd=tmp_path).stdout == f"Job {job_id} is deleted\n"
    gone = safelight("jobs", "show", job_id, *where, cwd=tmp_path)
    assert (gone.returncode, "job not found or expired" in gone.stderr) == (1, True)


def test_jobs_of_a_data_folder_are_ended_without_a_gateway(tmp_path: Path) -> None:
    failed = safelight("generate", PROMPT, *SMALL, "--model", "builtin/fail-moderation", cwd=tmp_path)
    job_id = json.loads(safelight("jobs", "list", "--json", cwd=tmp_path).stdout)["jobs"][0]["id"]
    assert failed.returncode == 1
    assert f"Job {job_id} had ended before: failed" in safelight("jobs", "cancel", job_id[:8], cwd=tmp_path).stdout
    assert f"Job {job_id} runs again" in safelight("jobs", "retry", job_id[:8], cwd=tmp_path).stdout
    assert safelight("jobs", "fetch", job_id[:8], cwd=tmp_path).returncode == 1, "it failed once more"
    assert safelight("jobs", "delete", job_id[:8], cwd=tmp_path).stdout == f"Job {job_id} is deleted\n"
    assert safelight("jobs", "delete", job_id[:8], cwd=tmp_path).returncode == 1


def test_a_job_is_watched_to_its_end(running: Gateway, tmp_path: Path) -> None:
    chain = ("--model", "builtin/fail-model", "--fallback", "builtin/sketch", "--url", running.url)
    job_id = json.loads(safelight("generate", PROMPT, *SMALL, *chain, "--json", cwd=tmp_path).stdout)["id"]
    done = safelight("jobs", "watch", job_id, "--url", running.url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[2] for line in lines][:2] == ["job", "job"]
    assert lines[0][3] == "pending"
    assert lines[-1][3] == "completed"
    assert any("model_not_found" in line for line in lines), done.stdout
    objects = safelight("jobs", "watch", job_id, "--json", "--url", running.url, cwd=tmp_path).stdout.splitlines()
    assert [json.loads(line)["id"] for line in objects] == sorted({json.loads(line)["id"] for line in objects}, key=int)
    assert PROMPT not in done.stdout
