"""Golden requests through a server: answers within the gates pass, wrong ones stop the deployment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from orchestrator.artifacts.imported import SamplesKind
from orchestrator.errors import DeployFailed
from orchestrator.release.golden import check_golden
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.targets.client import infer
from tests.artifacts.made import imported as imported_model

if TYPE_CHECKING:
    from tests.targets.conftest import Deployment, StandIn

pytestmark = pytest.mark.processes

Served = Callable[..., "Deployment"]

_SIGNATURE = Signature(
    (Tensor("x", "float64", ("batch", 3)),), (Tensor("y", "float64", ("batch", 3)),), {"batch": (1, 8)}, "batch"
)


def _imported(
    folder: Path, signature: Signature = _SIGNATURE, x: Any = None, factor: float = 2.0, samples: SamplesKind = "real",
    classes: Sequence[str] = ("y",),
) -> Path:  # fmt: skip
    folder.mkdir()
    x = np.arange(60, dtype=np.float64).reshape(20, 3) if x is None else x
    np.savez(folder / "samples.npz", x=x, labels=np.zeros(len(x), np.int64))
    np.savez(folder / "baseline.npz", y=x * factor if x.dtype.kind == "f" else np.strings.multiply(x, int(factor)))
    imported_model(signature, samples=samples, classes=classes).write(folder)
    return folder


def test_correct_answers_pass_alone_and_in_batches(served: Served, stand_in: StandIn, tmp_path: Path) -> None:
    endpoint = served(factor=2).endpoint
    report = check_golden(endpoint, stand_in, "m", _imported(tmp_path / "import"), {}, precision="fp32", rows=5)
    # 5 alone, then 20 in calls of 8, 8 and 4.
    assert (report.requests, report.rows, report.samples) == (8, 20, "real")
    assert {result.gate for result in report.gates} >= {"finite", "max_abs_error", "min_cosine", "min_top1_agreement"}
    assert "20 samples in 8 requests" in report.summary()


def test_inputs_that_are_single_numbers_are_sent_without_dimensions(
    served: Served, stand_in: StandIn, tmp_path: Path
) -> None:
    lone = Signature((Tensor("x", "float64", ()),), (Tensor("y", "float64", ()),), {}, None)
    folder = _imported(tmp_path / "import", lone, x=np.arange(20, dtype=np.float64), classes=())
    report = check_golden(served(factor=2).endpoint, stand_in, "m", folder, {}, precision="fp32", rows=5)
    assert (report.requests, report.rows) == (5, 5)


def test_the_largest_value_of_an_embedding_is_not_judged_as_in_verify(
    served: Served, stand_in: StandIn, tmp_path: Path
) -> None:
    endpoint = served(factor=2).endpoint
    folder = _imported(tmp_path / "import", classes=())  # with labels all the same
    report = check_golden(endpoint, stand_in, "m", folder, {}, precision="fp32", rows=5)
    gates = {result.gate for result in report.gates}
    assert "min_cosine" in gates
    assert "min_top1_agreement" not in gates


def test_a_wrong_answer_names_output_measure_and_limit(
    deployment: Deployment, stand_in: StandIn, tmp_path: Path
) -> None:
    deployment.deploy(1, factor=2)
    private = deployment.start(2, factor=2.5)
    with pytest.raises(DeployFailed) as failure:
        check_golden(
            private, stand_in, "m", _imported(tmp_path / "import"), {"max_abs_error": 0.25}, precision="fp32", rows=2
        )
    diagnostic = failure.value.diagnostics[0]
    assert diagnostic.code == "E608"
    assert diagnostic.cause == "max_abs_error of output y is 29.5, above the limit 0.25 (samples 16 to 19 in one call)"
    assert "a wider limit in `verify:`" in diagnostic.remedy
    check_golden(private, stand_in, "m", tmp_path / "import", {"max_abs_error": 30}, precision="fp32", rows=2)
    deployment.target.drop(2)
    assert deployment.ask() == 2.0


def test_a_refusal_of_the_server_is_reported_with_its_message(
    served: Served, stand_in: StandIn, tmp_path: Path
) -> None:
    endpoint = served(fails=500).endpoint
    with pytest.raises(DeployFailed) as failure:
        check_golden(endpoint, stand_in, "m", _imported(tmp_path / "import"), {}, precision="fp32")
    diagnostic = failure.value.diagnostics[0]
    assert diagnostic.code == "E609"
    assert "sample" in diagnostic.message
    assert "status 500: the stand-in says no" in diagnostic.cause
    assert diagnostic.remedy.startswith("the server's log ends with the reason")
    check_golden(served(factor=2).endpoint, stand_in, "m", tmp_path / "import", {}, precision="fp32", rows=2)


def test_a_row_that_points_elsewhere_is_named(served: Served, stand_in: StandIn, tmp_path: Path) -> None:
    limits = {"max_abs_error": 1e6, "min_row_cosine": 0.9}
    endpoint, folder = served(factor=-2).endpoint, _imported(tmp_path / "import", classes=())
    with pytest.raises(DeployFailed) as failure:
        check_golden(endpoint, stand_in, "m", folder, limits, precision="int8", rows=1, batches=False)
    (diagnostic,) = failure.value.diagnostics
    assert diagnostic.cause == "min_row_cosine of output y: row 0 has -1, the limit is 0.9 (sample 0)"


def test_gates_over_all_samples_need_all_samples(
    served: Served, stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = served(factor=2).endpoint
    monkeypatch.setattr("orchestrator.release.golden._BATCHED_BYTES", 10 * 24)
    report = check_golden(endpoint, stand_in, "m", _imported(tmp_path / "import"), {}, precision="fp32", rows=1)
    assert (report.requests, report.rows) == (3, 10)
    assert "min_cosine" not in {result.gate for result in report.gates}


def test_a_model_that_takes_no_single_rows(served: Served, stand_in: StandIn, tmp_path: Path) -> None:
    endpoint = served(factor=2).endpoint
    signature = Signature(_SIGNATURE.inputs, _SIGNATURE.outputs, {"batch": (3, 8)}, "batch")
    x = np.arange(54, dtype=np.float64).reshape(18, 3)
    report = check_golden(endpoint, stand_in, "m", _imported(tmp_path / "import", signature, x), {}, precision="fp32")
    # Each sample with the two after it, then all in batches of which the last reaches back to three rows.
    assert (report.requests, report.rows) == (18 + 3, 18)


def test_fewer_samples_than_the_smallest_batch_are_repeated(
    deployment: Deployment, stand_in: StandIn, tmp_path: Path
) -> None:
    endpoint = deployment.deploy(1, factor=2)
    signature = Signature(_SIGNATURE.inputs, _SIGNATURE.outputs, {"batch": (4, 8)}, "batch")
    x = np.arange(9, dtype=np.float64).reshape(3, 3)
    report = check_golden(endpoint, stand_in, "m", _imported(tmp_path / "import", signature, x), {}, precision="fp32")
    assert (report.requests, report.rows) == (3 + 1, 3)


def test_the_last_of_several_calls_has_as_many_rows_as_the_model_takes(
    deployment: Deployment, stand_in: StandIn
) -> None:
    endpoint = deployment.deploy(1, factor=2)
    signature = Signature(_SIGNATURE.inputs, _SIGNATURE.outputs, {"batch": (3, 8)}, "batch")
    x = np.arange(51, dtype=np.float64).reshape(17, 3)
    np.testing.assert_array_equal(infer(endpoint, stand_in, "m", {"x": x}, signature=signature)["y"], 2 * x)


def test_a_model_without_a_batch_dimension(served: Served, stand_in: StandIn, tmp_path: Path) -> None:
    endpoint = served(factor=2).endpoint
    signature = Signature((Tensor("x", "float64", (3,)),), (Tensor("y", "float64", (3,)),), {}, None)
    folder = _imported(tmp_path / "import", signature, samples="random")
    report = check_golden(endpoint, stand_in, "m", folder, {}, precision="fp32", rows=4)
    assert (report.requests, report.rows) == (4, 4)
    assert "4 random inputs" in report.summary()


_TEXTS = Signature(
    (Tensor("x", "string", ("batch",)),), (Tensor("y", "string", ("batch",)),), {"batch": (1, 8)}, "batch"
)
_WORDS = np.array(["", "a", "schön", '"', "longer than the others", "\U0001f680"])


def test_texts_must_come_back_unchanged(served: Served, stand_in: StandIn, tmp_path: Path) -> None:
    endpoint = served(factor=2).endpoint
    folder = _imported(tmp_path / "import", _TEXTS, _WORDS)
    report = check_golden(endpoint, stand_in, "m", folder, {}, precision="fp32")
    assert (report.requests, report.rows) == (7, 6)
    assert {result.gate for result in report.gates} == {"finite", "min_top1_agreement"}


def test_other_texts_are_wrong_answers(served: Served, stand_in: StandIn, tmp_path: Path) -> None:
    endpoint = served(factor=3).endpoint
    with pytest.raises(DeployFailed) as failure:
        check_golden(endpoint, stand_in, "m", _imported(tmp_path / "import", _TEXTS, _WORDS), {}, precision="fp32")
    assert failure.value.diagnostics[0].cause.startswith("min_top1_agreement of output y is 0.1667, below the limit")


def test_more_rows_than_a_call_may_have_are_sent_in_several(served: Served, stand_in: StandIn) -> None:
    endpoint = served(factor=2).endpoint
    x = np.arange(60, dtype=np.float64).reshape(20, 3)
    answer = infer(endpoint, stand_in, "m", {"x": x}, signature=_SIGNATURE)
    np.testing.assert_array_equal(answer["y"], x * 2)
