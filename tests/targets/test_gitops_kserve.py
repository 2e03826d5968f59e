"""An InferenceService of KServe for Git."""

from __future__ import annotations

import pytest
import yaml

from orchestrator.errors import SpecInvalid
from tests.targets.gitops_case import (
    Repository,
    image,
    needs_helm,
    with_environments,
)


def test_an_inference_service_of_kserve_takes_the_place_of_the_deployment(repository: Repository) -> None:
    needs_helm()
    repository.put(repository.target(form="manifests", **{"as": "inference-service"}), 1, "one")
    files = repository.files()
    assert "manifests/deployment.yaml" not in files
    service = yaml.safe_load(files["manifests/inferenceservice.yaml"])
    (container,) = service["spec"]["predictor"]["containers"]
    assert container["image"] == image("one").reference
    assert {"name": "PROTOCOL", "value": "v2"} in container["env"]


def test_a_route_beside_an_inference_service_is_refused_until_the_remedy_is_followed(repository: Repository) -> None:
    kserve = {"as": "inference-service"}
    with pytest.raises(SpecInvalid) as refused:
        with_environments(repository, "  none: {}\n", ingress={"hosts": ["digits.example.com"]}, **kserve)
    (problem,) = (each for each in refused.value.diagnostics if each.code == "E678")
    assert problem.span is not None
    assert problem.remedy
    with_environments(repository, "  none: {}\n", **kserve).check()
