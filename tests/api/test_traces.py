"""One trace for each job, as a collector gets it over OTLP."""

import gzip
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.api.client import SMALL, Client
from tests.api.serving import NO_RETRIES, ServedGateway, SimulatorThread, settings_for
from tests.api.test_metrics import scraped
from tests.receiver import Receiver
from tests.simulators.openai_compatible import OpenAICompatibleSimulator

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE}-b7ad6b7169203331-01"


class Collector:
    """Takes spans until it is closed."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                request = ExportTraceServiceRequest()
                request.ParseFromString(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
                spans.extend(
                    span for each in request.resource_spans for scope in each.scope_spans for span in scope.spans
                )
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def facts(span: Span) -> Mapping[str, Any]:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


async def traced(folder: Path, collector: Collector, upstream: OpenAICompatibleSimulator) -> Sequence[Span]:
    """Run two jobs, one at a server and one that fails; give the spans of the first's trace and of the other's."""
    local = {"type": "openai_compatible", "base_url": upstream.base_url, "retries": NO_RETRIES}
    settings = settings_for(folder, traces={"endpoint": collector.url}, providers={"gpu-box": local})
    with ServedGateway(settings) as gateway:
        async with Client(gateway.url) as client:
            await client.run(values={**SMALL, "model": "gpu-box/any"}, headers={"traceparent": CALLER})
            await client.run(values={**SMALL, "model": "builtin/fail-rejected"})
    return collector.spans


async def test_from_the_callers_trace_through_queue_and_call_to_the_end(tmp_path: Path, collector: Collector) -> None:
    with SimulatorThread(OpenAICompatibleSimulator()) as thread:
        spans = await traced(tmp_path / "data", collector, thread.simulator)
        sent = [exchange.headers for exchange in thread.simulator.exchanges]

    mine = {span.name: span for span in spans if span.trace_id.hex() == TRACE}
    assert mine.keys() >= {"POST /v1/async/images/generations", "queue", "generate_content any", "job"}
    server, call = mine["POST /v1/async/images/generations"], mine["generate_content any"]
    assert server.parent_span_id.hex() == "b7ad6b7169203331"
    for name in ("queue", "generate_content any", "job"):
        assert mine[name].parent_span_id == server.span_id
    assert (server.kind, call.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
    assert facts(server)["http.response.status_code"] == 202
    told = facts(call)
    assert told["gen_ai.operation.name"] == "generate_content"
    assert (told["gen_ai.provider.name"], told["gen_ai.request.model"]) == ("gpu-box", "any")
    assert (told["safelight.attempt"], told["safelight.call"]) == (1, "start")
    assert facts(mine["job"])["safelight.status"] == "completed"
    assert {headers["traceparent"] for headers in sent} == {f"00-{TRACE}-{call.span_id.hex()}-01"}


async def test_a_webhook_is_part_of_the_jobs_trace(tmp_path: Path, collector: Collector) -> None:
    async with Receiver() as receiver:
        hook = {"name": "orders", "url": receiver.url, "allow_private_network": True}
        settings = settings_for(tmp_path / "data", traces={"endpoint": collector.url}, webhooks=[hook])
        with ServedGateway(settings) as gateway:
            async with Client(gateway.url) as client:
                await client.run(headers={"traceparent": CALLER, "x-bf-async-webhook": "orders"})
                (call,) = await receiver.received(1)
                while not (await scraped(client))("webhook_deliveries_total", outcome="delivered"):
                    pass  # it is counted once the answer is there

    (span,) = [span for span in collector.spans if span.name == "webhook"]
    assert span.trace_id.hex() == TRACE
    assert call.headers["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"


async def test_a_failure_is_marked_and_no_prompt_is_told(tmp_path: Path, collector: Collector) -> None:
    with SimulatorThread(OpenAICompatibleSimulator()) as thread:
        spans = await traced(tmp_path / "data", collector, thread.simulator)

    (call,) = [span for span in spans if span.name == "generate_content fail-rejected"]
    assert facts(call)["error.type"] == "rejected"
    assert call.status.code == call.status.STATUS_CODE_ERROR
    assert len({span.trace_id for span in spans}) == 2
    assert Counter(span.name for span in spans)["job"] == 2
    assert not [span for span in spans if str(SMALL["prompt"]) in str(span)]


async def test_polls_make_no_trace_of_their_own(tmp_path: Path, collector: Collector) -> None:
    with SimulatorThread(OpenAICompatibleSimulator()) as thread:
        spans = await traced(tmp_path / "data", collector, thread.simulator)

    assert not [span.name for span in spans if span.name.startswith("GET ")]
