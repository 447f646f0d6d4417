"""The report: floor and Safelight in alternating runs on one machine, and the ratio of the two.

`python -m benchmarks.run` measures rates; `--memory`, `--latency`, `--webhooks` and `--waiting` measure those instead. See README.md.
"""

import argparse
import contextlib
import fcntl
import os
import platform
import statistics
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks import measures
from benchmarks.measures import Figures
from benchmarks.subjects import DATABASE_URL, SUBJECTS, StartError, UpstreamProcess, upstream_process
from benchmarks.waiting import waiting
from benchmarks.webhooks import webhooks
from tests.postgres import OwnServer

SLOW_NEW_FILE_US = 200
GET_FLAGS, SET_FLAGS, TOP_DIRECTORY = 0x80086601, 0x40086602, 0x00020000  # ioctl_iflags(2), `chattr +T`


def alternating(count: int, rounds: int) -> Iterator[tuple[int, int]]:
    """Yield (round, subject): forwards, then backwards, so that a drift of the machine hits all alike."""
    for number in range(rounds):
        order = range(count) if number % 2 == 0 else reversed(range(count))
        yield from ((number, subject) for subject in order)


def rates(options: argparse.Namespace, upstream: UpstreamProcess, directory: Path) -> list[list[Figures]]:
    """Return each subject's runs, in the order of the rounds."""
    runs: list[list[Figures]] = [[] for _ in options.subjects]
    load = {"jobs": options.jobs, "warmup": options.warmup, "concurrency": options.concurrency}
    for number, subject in alternating(len(options.subjects), options.rounds):
        name = options.subjects[subject]
        figures = measures.rate(name, upstream, directory / f"{number}-{subject}-{name}", **load)
        print(f"round {number + 1}: {name:14} {figures['jobs_per_s']:>8} jobs/s", file=sys.stderr)
        runs[subject].append(figures)
    return runs


def medians(runs: list[Figures]) -> Figures:
    return {
        name: round(statistics.median(value for run in runs if (value := run[name]) is not None), 3) for name in runs[0]
    }


def ratio(runs: list[Figures], base: list[Figures]) -> dict[str, float]:
    """Compare rates; the paired ratio (each round's own) is the steadier one on a noisy machine."""
    mine, theirs = ([run["jobs_per_s"] or 0.0 for run in side] for side in (runs, base))
    return {
        "of_medians": round(statistics.median(mine) / statistics.median(theirs), 3),
        "paired_median": round(statistics.median(a / b for a, b in zip(mine, theirs, strict=True)), 3),
    }


def rate_report(options: argparse.Namespace, upstream: UpstreamProcess, directory: Path) -> dict[str, object]:
    runs = rates(options, upstream, directory)
    subjects = [
        {"name": name, "median": medians(each), "beside_first": ratio(each, runs[0]), "runs": each}
        for name, each in zip(options.subjects, runs, strict=True)
    ]
    for subject in subjects:
        print(f"{subject['name']}: {subject['median']}\n  beside {options.subjects[0]}: {subject['beside_first']}")
    return {"mode": "rate", "subjects": subjects}


def single_report(options: argparse.Namespace, upstream: UpstreamProcess, directory: Path) -> dict[str, object]:
    """Measure memory, latency or webhooks of each subject once."""
    measure = {"memory": measures.memory, "latency": measures.latency, "webhooks": webhooks, "waiting": waiting}[
        options.mode
    ]
    subjects = []
    for number, name in enumerate(options.subjects):
        figures = measure(name, upstream, directory / f"{number}-{name}")
        print(f"{name}: {figures}")
        subjects.append({"name": name, "figures": figures})
    return {"mode": options.mode, "subjects": subjects}


def spread(directory: Path) -> None:
    """Ask ext4 to place each directory made in this one elsewhere on the disk.

    Without a journal it makes new files slowly (600 µs, not 30) for minutes near many deleted ones: those of the
    last report. Other file systems do not know the flag, nor the trouble.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    with contextlib.suppress(OSError):
        (flags,) = struct.unpack("i", fcntl.ioctl(descriptor, GET_FLAGS, bytes(4)))
        fcntl.ioctl(descriptor, SET_FLAGS, struct.pack("i", flags | TOP_DIRECTORY))
    os.close(descriptor)


def machine(directory: Path) -> dict[str, object]:
    speed = measures.machine_speed(directory / "probe")
    if (speed["new_file_us"] or 0) > SLOW_NEW_FILE_US:
        print(f"new files are slow here now ({speed['new_file_us']} µs): see README.md", file=sys.stderr)
    return {"cpus": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version(), **speed}


def subject_names(text: str) -> list[str]:
    names = text.split(",")
    unknown = sorted(set(names) - set(SUBJECTS))
    if unknown:
        raise argparse.ArgumentTypeError(f"no such subject: {', '.join(unknown)} (there are {', '.join(SUBJECTS)})")
    return names


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=subject_names, default=["floor", "safelight"], help="the first is the base")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=3000)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--dir", type=Path, help="where the data goes (default: the current folder; a real disk)")
    parser.add_argument("--out", type=Path, help="write the JSON report here")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--memory", dest="mode", action="store_const", const="memory", default="rate")
    modes.add_argument("--latency", dest="mode", action="store_const", const="latency")
    modes.add_argument("--webhooks", dest="mode", action="store_const", const="webhooks")
    modes.add_argument("--waiting", dest="mode", action="store_const", const="waiting")
    return parser.parse_args()


def main() -> int:
    options = parse()
    report = rate_report if options.mode == "rate" else single_report
    with contextlib.ExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix=".bench-", dir=options.dir or Path.cwd()))
        )
        spread(directory)
        about = machine(directory)
        upstream = stack.enter_context(upstream_process(directory))
        if any("postgres" in name for name in options.subjects) and DATABASE_URL not in os.environ:
            os.environ[DATABASE_URL] = stack.enter_context(OwnServer(settings=())).url
        try:
            result = {"machine": about, **report(options, upstream, directory)}
        except StartError as error:
            print(error, file=sys.stderr)
            return 1
    if options.out:
        options.out.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
