"""Starts one API and some workers of one settings file, and ends with them: `python -m benchmarks.cluster FILE WORKERS`."""

import os
import signal
import subprocess
import sys


def main() -> None:
    settings, workers = sys.argv[1], int(sys.argv[2])
    serve = [sys.executable, "-m", "safelight.cli", "serve", "--config", settings]
    children = [subprocess.Popen([*serve, "--role", "worker", "--port", "0"]) for _ in range(workers)]
    children.append(subprocess.Popen([*serve, "--role", "api"]))
    signal.signal(signal.SIGTERM, lambda *_: None)  # the children of the group get it too
    for child in children:
        child.wait()
    os._exit(0)


if __name__ == "__main__":
    main()
