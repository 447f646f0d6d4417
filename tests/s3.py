"""An S3 that is real but for its disks: moto, over HTTP, with faults on demand."""

import re
import threading
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any, Self

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "pictures"
_UNAVAILABLE = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)

Start = Callable[..., Any]


class S3:
    """`fault` is the status that every request to the bucket gets, `faults` those of the next ones."""

    def __init__(self) -> None:
        self.fault: int | None = None
        self.faults: list[int] = []
        self.delay_s = 0.0
        self.requests: list[tuple[str, str]] = []
        self._go_on = threading.Event()
        self._moto: Any = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Silent)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.endpoint = f"http://127.0.0.1:{self._server.port}"
        self.url = f"s3://{BUCKET}/gateway"
        self.options = {
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key_id": "who",
            "secret_access_key": "secret",
        }

    def _answer(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        if self.delay_s:
            self._go_on.wait(self.delay_s)
        status = self.faults.pop(0) if self.faults else self.fault
        if status is not None:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start(f"{status} Fault", [("Content-Type", "application/xml"), ("Content-Length", str(len(_UNAVAILABLE)))])
            return [_UNAVAILABLE]
        answer: Iterable[bytes] = self._moto(environ, start)
        return answer

    def make_bucket(self) -> None:
        self._call("PUT", f"/{BUCKET}")

    def forget(self) -> None:
        """Begin anew, with an empty bucket and no faults."""
        self.fault, self.faults, self.delay_s = None, [], 0.0
        self._call("POST", "/moto-api/reset")
        self.make_bucket()
        self.requests.clear()

    def unfinished(self) -> list[str]:
        """Uploads in parts that were neither completed nor aborted."""
        return re.findall(r"<Key>(.*?)</Key>", self._call("GET", f"/{BUCKET}?uploads"))

    def _call(self, method: str, path: str) -> str:
        request = urllib.request.Request(self.endpoint + path, method=method)  # noqa: S310 - our own
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - as above
            return str(answer.read(), "utf-8")

    def __enter__(self) -> Self:
        self._thread.start()
        self.make_bucket()
        return self

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Silent(WSGIRequestHandler):
    def log(self, *_: object, **__: object) -> None:
        """Say nothing."""
