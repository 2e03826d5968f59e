"""Which candidates the settings under `serving:` leave, and that the render step gets them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine.observing import observe_here
from orchestrator.errors import SpecInvalid
from orchestrator.optimize.candidates import candidates
from orchestrator.optimize.variants import Candidate, RefusedCandidate
from orchestrator.plan.compile import plan_of
from orchestrator.plan.found import planned_model
from orchestrator.plan.step import Plan
from orchestrator.plan.steps.release import require_server_tools
from orchestrator.spec.load import LoadedSpec, load_spec
from orchestrator.spec.models import ModelDeployment
from orchestrator.steps.parameters import RenderParameters, ServerBenchmarkParameters
from orchestrator.steps.server_options import ServerAuth, ServerLimits, ServerTls, ServerTraces
from tests.optimize.test_grpc import SIGNATURE, SPEC
from tests.plan.spec_text import DECLARED


def _reasons(serving: dict[str, Any]) -> dict[str, str | None]:
    """Backend → why its candidate is refused; None where it is tried."""
    spec = ModelDeployment.model_validate(SPEC | {"serving": serving})
    found = [each for each in candidates(spec, SIGNATURE, {}) if each.variant.format != "tflite"]
    return {each.backend: each.reason if isinstance(each, RefusedCandidate) else None for each in found}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("limits", {"queue": 8}),
        ("auth", {"token_file": "/run/secrets/m/token"}),
        ("tls", {"certificate": "/run/secrets/m/tls.crt", "key": "/run/secrets/m/tls.key"}),
        ("cors", {"origins": ["*"]}),
        ("traces", {"endpoint": "http://collector:4318"}),
    ],
)
def test_servers_without_the_setting_are_refused(key: str, value: Any) -> None:
    reasons = _reasons({key: value})
    expected = f"`serving.{key}` is set, but mlo cannot set it for torchserve; onnxruntime and openvino obey it"
    assert reasons["torchserve"] == expected
    assert reasons["onnxruntime"] is None
    assert reasons["openvino"] is None
    assert _reasons({})["torchserve"] is None


def test_a_body_limit_that_the_smallest_request_exceeds_is_refused() -> None:
    wide = SPEC["model"] | {"inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3000]}]}
    assert _reasons({"limits": {"max_body": "1Ki"}})["onnxruntime"] is None
    spec = ModelDeployment.model_validate(SPEC | {"model": wide, "serving": {"limits": {"max_body": "64Ki"}}})
    signature = SIGNATURE.from_json(SIGNATURE.as_json() | {"inputs": [wide["inputs"][0]]})
    (reason,) = {
        each.reason
        for each in candidates(spec, signature, {})
        if isinstance(each, RefusedCandidate) and each.backend == "onnxruntime"
    }
    assert reason == "`serving.limits.max_body` is 64Ki, but the smallest request needs up to 83Ki as JSON"


_TEXT = DECLARED + "optimize: {formats: [onnx], precisions: [fp32]}\nserving:\n"


def _loaded(tmp_path: Path, serving: str) -> LoadedSpec:
    (tmp_path / "digits.pt").write_bytes(b"a model")
    (tmp_path / "spec.yaml").write_text(_TEXT + f"  {serving}\n", encoding="utf-8")
    return load_spec(tmp_path / "spec.yaml")


def _rendered(tmp_path: Path, serving: str) -> RenderParameters:
    _loaded(tmp_path, serving)
    return RenderParameters.from_json(_plan(tmp_path).step("render").params)


def _plan(tmp_path: Path) -> Plan:
    """Of the spec that `_loaded` has written."""
    loaded = load_spec(tmp_path / "spec.yaml")
    model, observed = planned_model(loaded, None), observe_here(loaded)
    here = replace(observed, packages=dict.fromkeys(observed.packages, "1.0"))
    found = [each for each in candidates(loaded.spec, model.signature) if isinstance(each, Candidate)]
    return plan_of(loaded, model, here, found, ())


def test_the_limits_reach_the_render_step(tmp_path: Path) -> None:
    found = _rendered(tmp_path, "limits: {max_body: 16Mi, max_connections: 64, request_timeout: 250ms, queue: 100}")
    assert found.settings.limits == ServerLimits(2**24, 64, 0.25, 100)
    assert _rendered(tmp_path, "backend: auto").settings.limits == ServerLimits()


def test_the_place_of_the_tokens_reaches_the_render_step(tmp_path: Path) -> None:
    elsewhere = "\ndeploy: {target: folder, path: out}"  # where no server starts here, the file need not be here
    found = _rendered(tmp_path, "auth: {token_file: /run/secrets/no-such/token}" + elsewhere)
    assert found.settings.auth == ServerAuth("/run/secrets/no-such/token", "digits-token")
    found = _rendered(tmp_path, "auth: {token_file: /run/secrets/no-such/token, secret: mine}" + elsewhere)
    assert found.settings.auth == ServerAuth("/run/secrets/no-such/token", "mine")
    assert _rendered(tmp_path, "backend: auto").settings.auth is None


def test_the_origins_reach_the_render_step(tmp_path: Path) -> None:
    found = _rendered(tmp_path, "cors: {origins: ['https://app.example.com', 'http://localhost:3000']}")
    assert found.settings.cors_origins == ("https://app.example.com", "http://localhost:3000")
    assert _rendered(tmp_path, "backend: auto").settings.cors_origins == ()


def test_the_collector_reaches_the_render_step(tmp_path: Path) -> None:
    found = _rendered(tmp_path, "traces: {endpoint: 'http://collector:4318', sample: 0.25}")
    assert found.settings.traces == ServerTraces("http://collector:4318", 0.25)
    assert _rendered(tmp_path, "backend: auto").settings.traces is None


def test_a_missing_package_for_traces_is_told_while_planning(tmp_path: Path) -> None:
    loaded = _loaded(tmp_path, "traces: {endpoint: 'http://collector:4318'}")
    observed = observe_here(loaded)
    here = replace(observed, packages={**observed.packages, "opentelemetry-exporter-otlp-proto-http": None})
    with pytest.raises(SpecInvalid) as refused:
        require_server_tools(loaded, here)
    (error,) = refused.value.diagnostics
    assert (error.code, error.remedy) == ("E202", "pip install 'mlo[traces]'")
    assert error.message == "`serving.traces` needs opentelemetry-exporter-otlp-proto-http, which is not installed"
    assert error.span is not None
    require_server_tools(_loaded(tmp_path, "backend: auto"), here)
    require_server_tools(loaded, observed)  # where it is installed, as it is here


def test_the_places_of_the_certificate_reach_the_render_step_and_the_benchmark(tmp_path: Path) -> None:
    elsewhere = "\ndeploy: {target: folder, path: out}"
    files = "certificate: /run/secrets/d/tls.crt, key: /run/secrets/d/tls.key"
    found = _rendered(tmp_path, f"tls: {{{files}}}{elsewhere}")
    assert found.settings.tls == ServerTls("/run/secrets/d/tls.crt", "/run/secrets/d/tls.key", "digits-tls")
    found = _rendered(tmp_path, f"tls: {{{files}, secret: mine}}{elsewhere}")
    assert found.settings.tls is not None
    assert found.settings.tls.secret == "mine"
    assert ServerBenchmarkParameters.from_json(_plan(tmp_path).step("benchmark.server").params).tls
    assert _rendered(tmp_path, "backend: auto").settings.tls is None
    assert not ServerBenchmarkParameters.from_json(_plan(tmp_path).step("benchmark.server").params).tls


def test_a_missing_package_for_tls_is_told_while_planning(tmp_path: Path) -> None:
    elsewhere = "\ndeploy: {target: folder, path: out}"
    loaded = _loaded(tmp_path, f"tls: {{certificate: /run/secrets/d/tls.crt, key: /run/secrets/d/tls.key}}{elsewhere}")
    observed = observe_here(loaded)
    with pytest.raises(SpecInvalid) as refused:
        require_server_tools(loaded, replace(observed, packages={**observed.packages, "cryptography": None}))
    (error,) = refused.value.diagnostics
    assert (error.code, error.remedy) == ("E202", "pip install 'mlo[tls]'")
