"""Which candidates are left where the spec asks to enforce what an input may hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.backends.table import BACKENDS
from orchestrator.optimize.candidates import candidates
from orchestrator.optimize.variants import RefusedCandidate
from orchestrator.spec.models import ModelDeployment
from orchestrator.spec.signature import Allowed
from tests.optimize.test_grpc import SIGNATURE, SPEC


@pytest.mark.parametrize("enforce", [False, True])
def test_a_server_that_takes_any_value_is_refused_only_where_the_spec_asks_to_enforce(enforce: bool) -> None:
    (x,) = SIGNATURE.inputs
    signature = replace(SIGNATURE, inputs=(replace(x, allowed=Allowed(range=(0, 1), enforce=enforce)),))
    spec = ModelDeployment.model_validate(
        SPEC
        | {
            "model": SPEC["model"] | {"source": {"kind": "saved-model", "weights": "m"}},
            "deploy": {"target": "folder", "path": "out"},
        }
    )
    found = {each.backend: each for each in candidates(spec, signature, {})}
    assert found.keys() >= {"onnxruntime", "tensorflow-serving", "litert"} & BACKENDS.keys()
    refused = {
        name: each.reason
        for name, each in found.items()
        if isinstance(each, RefusedCandidate) and "enforce" in each.reason
    }
    assert refused.keys() == ({"tensorflow-serving", "litert"} if enforce else set())
    if enforce:
        assert refused["litert"] == (
            "`inputs` asks to enforce what `x` may hold, but litert takes any value; onnxruntime and openvino and torchserve enforce it"
        )
