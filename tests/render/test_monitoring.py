"""The alert rules and the dashboard of the chart, as Prometheus and its operator read them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from orchestrator.backends.table import SERVERS, serving_backend
from tests.render.served import negative, serving

Render = Callable[..., Path]
Documents = Callable[..., list[dict[str, Any]]]
Promtool = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.processes

SCHEMA = "monitoring.coreos.com_prometheusrule_v1.json"
SCHEMAS = [above / "shared" / "schemas" / SCHEMA for above in Path(__file__).resolve().parents[2:5]]
OPERATOR = ("monitoring.coreos.com/v1/ServiceMonitor", "monitoring.coreos.com/v1/PrometheusRule")
LIMIT = 0.02

each = pytest.mark.parametrize("backend", SERVERS)


@pytest.fixture
def documents(render_to: Render, run_tool: Callable[..., str]) -> Documents:
    """`documents("torchserve", "--set", ...)`: what Helm sends to a cluster with Prometheus's operator."""

    def run(
        backend: str, *more: str, apis: tuple[str, ...] = OPERATOR, limit: float | None = LIMIT
    ) -> list[dict[str, Any]]:
        folder = render_to(backend, f"{backend}-{limit}-{len(more)}-{len(apis)}", p99_limit=limit)
        text = run_tool(
            "helm", "template", "prod", str(folder / "chart"), "--values", str(folder / "values.yaml"), "--namespace", "models",
            *(part for api in apis for part in ("--api-versions", api)), *more,
        )  # fmt: skip
        return [document for document in yaml.safe_load_all(text) if document]

    return run


@pytest.fixture
def promtool(tmp_path: Path) -> Promtool:
    """`promtool("check", "rules", content)`: the program's result for a file with this content."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not on the PATH: expressions of alerts are not parsed")

    def run(
        command: str, kind: str, content: dict[str, Any], **others: dict[str, Any]
    ) -> subprocess.CompletedProcess[str]:
        for name, other in {"given": content, **others}.items():
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(other), encoding="utf-8")
        return subprocess.run(
            [program, command, kind, str(tmp_path / "given.yaml")],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def rule(found: list[dict[str, Any]]) -> dict[str, Any]:
    (document,) = (each for each in found if each["kind"] == "PrometheusRule")
    return document


def dashboard(found: list[dict[str, Any]]) -> dict[str, Any]:
    (document,) = (each for each in found if each["kind"] == "ConfigMap" and "dashboard" in each["metadata"]["name"])
    (content,) = document["data"].values()
    shown: dict[str, Any] = json.loads(content)
    return shown


def expressions(found: list[dict[str, Any]]) -> list[str]:
    """Of all alerts and all panels, as Prometheus gets them."""
    alerts = [each["expr"] for group in rule(found)["spec"]["groups"] for each in group["rules"]]
    queries = [target["expr"] for panel in dashboard(found)["panels"] for target in panel["targets"]]
    return [*alerts, *(query.replace("$__rate_interval", "5m") for query in queries)]


@each
def test_the_rule_fits_the_operators_schema(documents: Documents, backend: str) -> None:
    file = next((each for each in SCHEMAS if each.is_file()), None)
    if file is None:
        pytest.skip(
            "the schema of PrometheusRule is not in ../shared/schemas: the alert rules are not checked against it"
        )
    # Not `validate`, which refuses the schema for a pattern that only Go reads.
    jsonschema.Draft202012Validator(json.loads(file.read_text(encoding="utf-8"))).validate(rule(documents(backend)))


@each
def test_every_expression_is_promql(documents: Documents, promtool: Promtool, backend: str) -> None:
    found = documents(backend)
    checked = promtool("check", "rules", rule(found)["spec"])
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "2 rules found" in checked.stdout
    recorded = [{"record": f"r{number}", "expr": each} for number, each in enumerate(expressions(found))]
    checked = promtool("check", "rules", {"groups": [{"name": "panels", "rules": recorded}]})
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_broken_expression_is_noticed(promtool: Promtool) -> None:
    broken = {"groups": [{"name": "g", "rules": [{"record": "r", "expr": "sum(rate(x[5m])"}]}]}
    assert promtool("check", "rules", broken).returncode != 0


def _samples(slow: int, fast_bound: str, slow_bound: str) -> list[dict[str, str]]:
    """Two hours of 100 requests per minute, of which `slow` are above one bound and all are below the other."""
    labels = 'namespace="models",service="prod-digits",pod="a"'
    histogram = 'mlo_request_seconds_bucket{stage="total",le="%s",' + labels + "}"
    return [
        {"series": histogram % "0.001", "values": "0x120"},
        {"series": histogram % fast_bound, "values": f"0+{100 - slow}x120"},
        {"series": histogram % slow_bound, "values": "0+100x120"},
        {"series": histogram % "+Inf", "values": "0+100x120"},
        {"series": 'mlo_requests_total{code="200",' + labels + "}", "values": "0+100x120"},
    ]


@pytest.mark.parametrize(
    ("slow", "bounds", "limit", "fires"),
    [
        (2, ("0.02", "0.025"), 0.02, True),
        (1, ("0.02", "0.025"), 0.02, False),
        (0, ("0.02", "0.025"), 0.02, False),
        # All take between 20 and 25 ms. Interpolated that is a p99 of 24.9 ms, but it may be less than 22 ms.
        (100, ("0.02", "0.025"), 0.022, False),
        (2, ("0.025", "0.0315"), 0.022, True),
    ],
)  # fmt: skip
def test_the_alert_fires_if_more_than_one_of_100_requests_is_too_slow_and_never_for_less(
    documents: Documents, promtool: Promtool, slow: int, bounds: tuple[str, str], limit: float, fires: bool
) -> None:
    spec = rule(documents("onnxruntime", limit=limit))["spec"]
    assert _alerts(promtool, spec, _samples(slow, *bounds), "ModelTooSlow", "110m") == fires


@pytest.mark.parametrize(("refused", "fires"), [(1, False), (3, True)])
def test_refused_requests_count_as_missed(documents: Documents, promtool: Promtool, refused: int, fires: bool) -> None:
    spec = rule(documents("onnxruntime"))["spec"]
    labels = 'namespace="models",service="prod-digits",pod="a"'
    samples = [
        {"series": 'mlo_requests_total{code="200",protocol="rest",' + labels + "}", "values": f"0+{200 - refused}x120"},
        {"series": 'mlo_requests_total{code="429",protocol="rest",' + labels + "}", "values": f"0+{refused}x120"},
        {"series": 'mlo_requests_total{code="400",protocol="rest",' + labels + "}", "values": "0+500x120"},
    ]
    assert _alerts(promtool, spec, samples, "ModelRequestsFail", "110m") == fires


def test_another_releases_requests_do_not_count(documents: Documents, promtool: Promtool) -> None:
    spec = rule(documents("onnxruntime"))["spec"]
    others = [
        {**each, "series": each["series"].replace("prod-digits", "test-digits")}
        for each in _samples(50, "0.02", "0.025")
    ]
    assert not _alerts(promtool, spec, others, "ModelTooSlow", "110m")


def test_the_alert_ends_when_it_is_over(documents: Documents, promtool: Promtool) -> None:
    spec = rule(documents("onnxruntime"))["spec"]
    labels = 'stage="total",namespace="models",service="prod-digits",pod="a"'
    name = "mlo_request_seconds_bucket"
    samples = [  # an hour in which all are slow, then ten minutes in which none is
        {"series": f'{name}{{le="0.02",{labels}}}', "values": "0x60 100+100x30"},
        {"series": f'{name}{{le="0.025",{labels}}}', "values": "0+100x91"},
        {"series": f'{name}{{le="+Inf",{labels}}}', "values": "0+100x91"},
    ]
    assert _alerts(promtool, spec, samples, "ModelTooSlow", "59m")
    assert not _alerts(promtool, spec, samples, "ModelTooSlow", "71m")


def _alerts(promtool: Promtool, spec: dict[str, Any], samples: list[dict[str, str]], name: str, when: str) -> bool:
    """Whether the alert fires, by whether `promtool` finds one that does not."""
    test = {
        "interval": "1m",
        "input_series": samples,
        "alert_rule_test": [{"eval_time": when, "alertname": name, "exp_alerts": []}],
    }
    done = promtool("test", "rules", {"rule_files": ["rules.yaml"], "tests": [test]}, rules=spec)
    fired = f'alertname="{name}"' in done.stdout + done.stderr
    assert fired == (done.returncode != 0), done.stdout + done.stderr
    return fired


@each
def test_without_a_service_level_only_failures_alert(documents: Documents, backend: str) -> None:
    (group,) = rule(documents(backend, limit=None))["spec"]["groups"]
    assert [each["alert"] for each in group["rules"]] == ["ModelRequestsFail"]


@each
def test_without_the_operator_there_is_neither(documents: Documents, backend: str) -> None:
    kinds = {each["kind"] for each in documents(backend, apis=())}
    assert not kinds & {"PrometheusRule", "ConfigMap"}


def test_both_can_be_turned_off_and_labelled(documents: Documents) -> None:
    off = documents("onnxruntime", "--set", "prometheusRule.enabled=false", "--set", "dashboard.enabled=false")
    assert not {each["kind"] for each in off} & {"PrometheusRule", "ConfigMap"}
    found = documents("onnxruntime", "--set", "prometheusRule.labels.release=monitoring")
    assert rule(found)["metadata"]["labels"]["release"] == "monitoring"


@each
def test_the_dashboard_is_what_grafana_reads(documents: Documents, backend: str) -> None:
    found = documents(backend)
    (config,) = (each for each in found if each["kind"] == "ConfigMap")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    shown = dashboard(found)
    assert shown["title"] == "prod-digits (models)"
    assert re.fullmatch(r"[0-9a-f]{40}", shown["uid"])
    assert (
        len({panel["id"] for panel in shown["panels"]})
        == len(shown["panels"])
        == len(serving_backend(backend).server.metrics.panels)
    )
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in shown["panels"]]
    assert len(set(places)) == len(places)
    assert {x for x, _ in places} <= {0, 12}
    for panel in shown["panels"]:
        assert panel["type"] == "timeseries"
        refs = [target["refId"] for target in panel["targets"]]
        assert refs == [chr(ord("A") + number) for number in range(len(refs))]
        for target in panel["targets"]:
            assert "SELECTOR" not in target["expr"]
            assert "WINDOW" not in target["expr"]
            assert 'namespace="models",service="prod-digits"' in target["expr"]
    (limit,) = shown["panels"][0]["fieldConfig"]["defaults"]["thresholds"]["steps"][1:]
    assert limit["value"] == LIMIT


@pytest.mark.parametrize(
    ("limit", "above"), [(0.02, 0.02), (0.022, 0.025), (0.05, 0.05), (0.3, 0.315), (1.0, 1.0), (90.0, 90.0)]
)
def test_what_alerts_is_the_next_bound(limit: float, above: float) -> None:
    assert serving_backend("onnxruntime").server.metrics.alert_above(limit) == above


@pytest.mark.e2e
def test_a_real_prometheus_scrapes_a_real_server_and_fires_the_alert(
    render_to: Render, run_tool: Callable[..., str], tmp_path: Path
) -> None:
    """Its service level, 0.1 ms over HTTP, cannot be held; the windows are seconds instead of an hour."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not on the PATH: no alert is fired for real")
    folder = render_to("onnxruntime", model=negative(), p99_limit=0.0001)
    short = {"window": "20s", "shortWindow": "10s", "for": "0s"}
    text = run_tool(
        "helm", "template", "prod", str(folder / "chart"), "--values", str(folder / "values.yaml"), "--namespace", "models",
        *(part for api in OPERATOR for part in ("--api-versions", api)),
        *(part for key, value in short.items() for part in ("--set", f"prometheusRule.{key}={value}")),
    )  # fmt: skip
    work = tmp_path / "prometheus"
    work.mkdir()
    found = rule([document for document in yaml.safe_load_all(text) if document])
    (work / "rules.yaml").write_text(yaml.safe_dump(found["spec"]), encoding="utf-8")
    (tmp_path / "scratch").mkdir()
    with serving(folder, tmp_path / "scratch", run_tool) as served:
        scraped = {"targets": [f"127.0.0.1:{served.port}"], "labels": {"namespace": "models", "service": "prod-digits"}}
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "mlo", "static_configs": [scraped]}],
        }
        (work / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        argv = [
            program, "--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.path=data",
        ]  # fmt: skip
        with (work / "log").open("wb") as log:
            process = subprocess.Popen(argv, cwd=work, stdout=log, stderr=log)
        try:
            firing: set[str] = set()
            deadline = time.monotonic() + 90
            while "ModelTooSlow" not in firing:
                assert time.monotonic() < deadline, (work / "log").read_text()[-3000:]
                assert process.poll() is None, (work / "log").read_text()[-3000:]
                assert served.status() == 200
                time.sleep(0.2)
                firing = _firing(port)
            assert firing == {"ModelTooSlow"}
        finally:
            process.terminate()
            process.wait(30)


def _firing(port: int) -> set[str]:
    """The names of the alerts that fire; none while Prometheus starts."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/alerts", timeout=10) as answer:
            alerts = json.load(answer)["data"]["alerts"]
    except OSError:
        return set()
    return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}
