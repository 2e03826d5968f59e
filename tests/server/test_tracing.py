"""OpenTelemetry spans reach a collector over OTLP, and continue the client's trace."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.server.collector import collector, spans
from tests.server.conftest import Start, add_model, launch

pytestmark = pytest.mark.frameworks

X = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


def test_a_request_is_a_span_with_its_waiting_and_its_run_below(tmp_path: Path, start: Start) -> None:
    with collector() as (endpoint, sent):
        server = start(add_model(tmp_path, traces={"endpoint": endpoint}))
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        assert server.infer({"inputs": [X, X | {"name": "y"}]}, headers=headers).status == 200
        assert server.infer({"inputs": [X]}, headers=headers).status == 400
        assert server.infer({"inputs": [X]}, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"}).status == 400
        assert server.stop() == 0  # what is left is sent before the end
    found = spans(sent, "m")
    assert sorted(span.name for span in found) == ["infer", "infer", "queue", "run"]  # the unsampled one is missing
    assert {span.trace_id.hex() for span in found} == {TRACE}
    answered, refused = sorted(
        (span for span in found if span.name == "infer"), key=lambda span: span.start_time_unix_nano
    )
    assert {answered.parent_span_id.hex(), refused.parent_span_id.hex()} == {PARENT}
    attributes = {a.key: a.value.int_value or a.value.string_value for a in answered.attributes}
    assert attributes == {
        "mlo.model": "m",
        "network.protocol.name": "http",
        "mlo.status": 200,
        "mlo.rows": 1,
        "mlo.batch_rows": 1,
    }
    below = {span.name: span for span in found if span.name != "infer"}
    for span in below.values():
        assert span.parent_span_id == answered.span_id
    assert answered.start_time_unix_nano <= below["queue"].start_time_unix_nano
    assert below["queue"].end_time_unix_nano == below["run"].start_time_unix_nano
    assert below["run"].end_time_unix_nano <= answered.end_time_unix_nano


def test_the_environment_names_another_collector(tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as (endpoint, sent), collector() as (unused, others):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        server = start(add_model(tmp_path, traces={"endpoint": unused}))
        assert server.infer({"inputs": [X, X | {"name": "y"}]}).status == 200
        assert server.stop() == 0
    assert [span.name for span in spans(sent, "m")].count("infer") == 1
    assert not others


def test_the_fraction_counts_for_traces_that_begin_here(tmp_path: Path, start: Start) -> None:
    with collector() as (endpoint, sent):
        server = start(add_model(tmp_path, traces={"endpoint": endpoint, "sample": 0}))
        request = {"inputs": [X, X | {"name": "y"}]}
        assert server.infer(request).status == 200
        assert server.infer(request, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"}).status == 200
        assert server.stop() == 0
    assert {span.trace_id.hex() for span in spans(sent, "m")} == {TRACE}


def test_without_the_packages_a_server_that_should_trace_ends_with_69(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['opentelemetry'] = None; from orchestrator.server.__main__ import main; "
    config = add_model(tmp_path, traces={"endpoint": "http://127.0.0.1:4318"})
    server = launch([sys.executable, "-c", f"{hidden} sys.exit(main())", "--config", str(config)])
    assert server.wait_end() == 69
    assert "opentelemetry-exporter-otlp-proto-http" in server.log[-1]["message"]


def test_the_log_carries_the_trace_of_a_refused_request(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path))
    parent = f"00-{TRACE}-{PARENT}-01"
    server.ask("POST", "/v2/models/m/infer", json.dumps({"inputs": []}), {"traceparent": parent})
    assert server.wait_for_log("input 'x' is missing")["traceparent"] == parent
