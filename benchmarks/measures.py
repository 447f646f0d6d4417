"""The single measurements: rate, memory, latency, and the machine's own speed. Memory and CPU are read from /proc."""

import asyncio
import os
import sqlite3
import time
from pathlib import Path

import msgspec
import uvloop

from benchmarks.drive import ROUTE, HttpConnection, JobView, get_message, quantile_ms, submit_message
from benchmarks.subjects import Gateway, UpstreamProcess, drive, gateway

Figures = dict[str, float | None]

MODEL = "bench/any"
LARGE_IMAGE_BYTES = 8 * 1024 * 1024
WAITING_JOBS = 10_000
LATENCY_SAMPLES = 200
IDLE_S = 0.01
POLL_S = 0.002


def group_pids(leader: int) -> list[int]:
    """List the processes of a process group, and those that its leader has started in groups of their own."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        if leader in (int(fields[1]), int(fields[2])):
            found.append(int(stat.parent.name))
    return found


def cpu_s(leader: int) -> float:
    """Sum the group's user and system time so far."""
    ticks = 0
    for pid in group_pids(leader):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_bytes(leader: int, name: str) -> int:
    """Sum `VmRSS` (now) or `VmHWM` (the peak since the last reset) over the group."""
    total = 0
    for pid in group_pids(leader):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                total += int(line.split()[1]) * 1024
    return total


def reset_peak(leader: int) -> None:
    for pid in group_pids(leader):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def rate(name: str, upstream: UpstreamProcess, directory: Path, *, jobs: int, warmup: int, concurrency: int) -> Figures:
    """Submit to completed, polled; `upstream_calls_per_job` must be 1."""
    load = ["--jobs", str(jobs), "--concurrency", str(concurrency), "--model", MODEL]
    with gateway(name, upstream, directory) as running:
        drive(running.url, *load, "--jobs", str(warmup), "--warmup", "0")
        calls, used_s = upstream.state().calls, cpu_s(running.pid)
        figures: Figures = {**drive(running.url, *load, "--warmup", "0")}
        figures["upstream_calls_per_job"] = round((upstream.state().calls - calls) / jobs, 3)
        figures["gateway_cpu_ms_per_job"] = round((cpu_s(running.pid) - used_s) / jobs * 1000, 4)
        return figures


def memory(name: str, upstream: UpstreamProcess, directory: Path) -> Figures:
    """Resident memory around single jobs of one large image, and with many jobs waiting."""
    with gateway(name, upstream, directory / "large") as running:
        large = _memory_of_large_image(running, upstream)
    with gateway(name, upstream, directory / "waiting") as running:
        return large | _memory_of_waiting_jobs(running, upstream)


def _memory_of_large_image(running: Gateway, upstream: UpstreamProcess) -> Figures:
    drive(running.url, "--jobs", "200", "--concurrency", "8", "--warmup", "0", "--model", MODEL)
    image_bytes = upstream.control(f"image?bytes={LARGE_IMAGE_BYTES}").image_bytes
    figures: Figures = {"large_image_mib": _mib(image_bytes)}
    for label in ("first", "second"):
        before = memory_bytes(running.pid, "VmRSS")
        reset_peak(running.pid)
        drive(running.url, "--jobs", "1", "--concurrency", "1", "--warmup", "0", "--model", MODEL)
        growth = memory_bytes(running.pid, "VmHWM") - before
        figures[f"{label}_large_job_before_mib"] = _mib(before)
        figures[f"{label}_large_job_growth_mib"] = _mib(growth)
        figures[f"{label}_large_job_above_image_mib"] = _mib(growth - image_bytes)
    upstream.control("image?bytes=600")
    return figures


def _memory_of_waiting_jobs(running: Gateway, upstream: UpstreamProcess) -> Figures:
    drive(running.url, "--jobs", "500", "--concurrency", "64", "--warmup", "0", "--model", MODEL)
    before = memory_bytes(running.pid, "VmRSS")
    upstream.control("hold")
    drive(running.url, "--jobs", str(WAITING_JOBS), "--warmup", "0", "--model", MODEL, "--submit-only")
    after = memory_bytes(running.pid, "VmRSS")
    upstream.control("release")
    return {
        "waiting_jobs": WAITING_JOBS,
        "empty_mib": _mib(before),
        "with_waiting_mib": _mib(after),
        "waiting_growth_mib": _mib(after - before),
    }


def _mib(size_bytes: int) -> float:
    return round(size_bytes / 2**20, 2)


def latency(name: str, upstream: UpstreamProcess, directory: Path) -> Figures:
    """From one submit on an idle gateway to the provider call; both clocks are the machine's monotonic one."""
    with gateway(name, upstream, directory) as running:
        drive(running.url, "--jobs", "200", "--concurrency", "4", "--warmup", "0", "--model", MODEL)
        return uvloop.run(_idle_latency(running, upstream))


async def _idle_latency(running: Gateway, upstream: UpstreamProcess) -> Figures:
    connection = await HttpConnection.open("127.0.0.1", int(running.url.rpartition(":")[2]))
    control = await HttpConnection.open("127.0.0.1", upstream.port)
    samples = [await _one_sample(connection, control, number) for number in range(LATENCY_SAMPLES)]
    connection.close()
    control.close()
    columns = dict(zip(("submit", "submit_to_call", "accepted_to_call"), zip(*samples, strict=True), strict=True))
    return {
        f"{column}_{label}_ms": quantile_ms(list(values), quantile)
        for column, values in columns.items()
        for label, quantile in (("p50", 0.5), ("p99", 0.99))
    }


async def _one_sample(connection: HttpConnection, control: HttpConnection, number: int) -> tuple[float, float, float]:
    """Return the seconds from submit to 202, from submit to the provider call, from 202 to that call."""
    await asyncio.sleep(IDLE_S)
    sent_ns = time.monotonic_ns()
    _, body = await connection.request(submit_message(MODEL, number))
    accepted_ns = time.monotonic_ns()
    poll = get_message(f"{ROUTE}/{msgspec.json.decode(body, type=JobView).id}")
    while (await connection.request(poll))[0] == 202:  # noqa: ASYNC110 - what it waits for is in another process
        await asyncio.sleep(POLL_S)
    _, counted = await control.request(get_message("/count"))
    called_ns = msgspec.json.decode(counted)["arrived_ns"]
    return (accepted_ns - sent_ns) / 1e9, (called_ns - sent_ns) / 1e9, (called_ns - accepted_ns) / 1e9


def machine_speed(directory: Path) -> Figures:
    """Time a new small file, a durable SQLite commit and a piece of Python, to see what the machine gives now."""
    directory.mkdir(parents=True)
    started = time.perf_counter()
    for number in range(200):
        (directory / str(number)).write_bytes(b"x" * 300)
    files = time.perf_counter()
    connection = sqlite3.connect(directory / "probe.db", isolation_level=None)
    connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE probe (a)")
    before_commits = time.perf_counter()
    for number in range(200):
        connection.execute("INSERT INTO probe VALUES (?)", (number,))
    commits = time.perf_counter()
    connection.close()
    sum(range(5_000_000))
    return {
        "new_file_us": round((files - started) / 200 * 1e6, 1),
        "durable_commit_us": round((commits - before_commits) / 200 * 1e6, 1),
        "python_ms": round((time.perf_counter() - commits) * 1000, 1),
    }
