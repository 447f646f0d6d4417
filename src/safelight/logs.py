"""Where log lines go, and how they look. Set up once, by the process that serves."""

import asyncio
import atexit
import contextlib
import logging
import sys
import threading
from datetime import UTC, datetime
from typing import IO, Any, Literal, TextIO, cast

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from safelight.application.observer import Deaf
from safelight.domain.job import Job
from safelight.log_context import add_context

log = structlog.get_logger(__name__)

_encode = msgspec.json.Encoder(enc_hook=str).encode


def configure(*, style: Literal["auto", "console", "json"], level: str) -> None:
    """Log to standard error from `level` on: one JSON object a line, or for reading; `auto` sees whether somebody reads.

    Traces are plain in both styles: those of rich and of structlog show local variables, and keys and prompts with them.
    """
    least = logging.getLevelNamesMapping()[level.upper()]
    as_json = style == "json" or (style == "auto" and not sys.stderr.isatty())
    lines = _Lines(_Unfailing(sys.stderr.buffer))
    structlog.configure(
        processors=[add_context, structlog.processors.add_log_level, *(_json() if as_json else _console(sys.stderr))],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=(lambda *_: lines)
        if as_json
        else structlog.WriteLoggerFactory(cast("TextIO", _Unfailing(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    _take_over_libraries(max(least, logging.WARNING))


class JobLog(Deaf):
    """Writes down what was accepted; `Advance` writes down what became of it."""

    def __init__(self, *, prompts: bool) -> None:
        """`prompts`: whether the operator asked for them; they may say what is nobody's business."""
        self._prompts = prompts

    def submitted(self, job: Job) -> None:
        """See `Observer.submitted`."""
        prompt = {"prompt": job.request.prompt} if self._prompts else {}
        log.info("job_submitted", job_id=job.id, type=job.operation, model=str(job.request.target), **prompt)


class _Unfailing:
    """A stream whose faults are passed over: a full disk or a reader who left must not fail what is told of.

    `structlog` asks no more of its stream than this.
    """

    def __init__(self, stream: IO[Any]) -> None:
        self._stream = stream

    def write(self, text: str | bytes) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


class _Lines:
    """Writes the lines of one turn of the event loop at once: each write lets other threads of the interpreter go first.

    What warns does not wait, and takes along what does; nor does what other threads tell, or what is told before and
    after the loop.
    """

    def __init__(self, stream: _Unfailing) -> None:
        self._stream = stream
        self._waiting: list[bytes] = []
        self._lock = threading.RLock()  # what the garbage collector drops may have something to tell in between
        atexit.register(self._flush)

    def info(self, line: bytes) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.warning(line)
            return
        with self._lock:
            if not self._waiting:
                loop.call_soon(self._flush)
            self._waiting.append(line)

    def warning(self, line: bytes) -> None:
        with self._lock:
            self._waiting.append(line)
            self._flush()

    debug = info
    error = critical = warning

    def _flush(self) -> None:
        with self._lock:
            text = b"".join(self._waiting)
            self._waiting.clear()
            self._stream.write(text)
            self._stream.flush()


def _json() -> list[Processor]:
    return [_stamp, structlog.processors.format_exc_info, _to_json]


def _stamp(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["timestamp"] = datetime.now(UTC)
    return event


def _to_json(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    return _encode(event) + b"\n"


def _console(stream: TextIO) -> list[Processor]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, sort_keys=False
    )
    return [structlog.processors.TimeStamper(fmt="iso", utc=True), renderer]


class _Forwarder(logging.Handler):
    """Brings what libraries log into our own stream, so that it has one shape."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info or None
        )


def _take_over_libraries(least: int) -> None:
    root = logging.getLogger()
    root.handlers = [_Forwarder()]
    root.setLevel(least)
    logging.captureWarnings(capture=True)
