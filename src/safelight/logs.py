"""Where log lines go, and how they look. Set up once, by the process that serves."""

import contextlib
import logging
import sys
from typing import IO, Any, BinaryIO, Literal, TextIO, cast

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
    stamps: list[Processor] = [
        add_context,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*stamps, *(_json() if as_json else _console(sys.stderr))],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.BytesLoggerFactory(cast("BinaryIO", _Unfailing(sys.stderr.buffer)))
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
        log.info("job_submitted", job_id=job.id, type=job.operation.value, model=str(job.request.target), **prompt)


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


def _json() -> list[Processor]:
    return [structlog.processors.format_exc_info, _to_json]


def _to_json(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    return _encode(event)


def _console(stream: TextIO) -> list[Processor]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, sort_keys=False
    )
    return [renderer]


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
