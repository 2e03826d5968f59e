"""Documents come back as they were written, and what is anything else is refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import orchestrator
from orchestrator.artifacts.container import ContainerSettings
from orchestrator.artifacts.decision import Decision
from orchestrator.artifacts.document import Document, DocumentRefused
from orchestrator.artifacts.fates import Fates, StepFate
from orchestrator.artifacts.probed import Probed, ProbedDim, ProbedInput
from orchestrator.artifacts.round_report import RoundReport, RoundResult, RoundTimes
from orchestrator.artifacts.schemas import DOCUMENTS, schema_texts
from orchestrator.artifacts.verdict import GateResult, Verdict
from orchestrator.artifacts.winner import Winner
from orchestrator.diagnostics import Diagnostic
from orchestrator.select.step import select
from orchestrator.steps.context import Ending
from tests.artifacts.made import facts, imported, inspection, sizing, verdict, winner
from tests.optimize.select_case import (
    MEASURED_ON,
    candidate,
    context,
    not_served,
    not_timed,
    runtime_candidate,
    runtime_report,
    server_candidate,
    server_report,
)

GATE = GateResult("min_cosine", "y", 0.999, 0.5, passed=False, case="all samples")
FOUND = {
    "inputs": [{"tensor": "x:0", "dtype": "float32", "shape": ["N", None, 3]}],
    "outputs": [{"tensor": "y:0", "dtype": "float32", "shape": None}],
    "ranges": {"N": [1, 8]},
}
EXAMPLES: list[Document] = [
    inspection(FOUND),
    Probed(
        dims={
            "height": ProbedDim(32, 640, 32, "a multiple of 32"),
            "state_1": ProbedDim(1, 128, 1, "assumed", "batch"),
        },
        inputs={
            "ids": ProbedInput((0, 256), None, "ids"),
            "rate": ProbedInput(None, (8000,), "compared", question=True),
        },
        misdeclared={"y": "it has 2 dimensions, such as [1, 4]"},
        batch=None,
        why_batch="the order along the first dimension counts",
        questions=("`width` may be more",),
        calls=40,
    ),
    imported(edges=["zeros"]),
    sizing(),
    facts("onnx", "int8", reduce_range=True, method="static", notes=("a note",)),
    verdict(passed=False, gates=[GATE]),
    RoundReport(
        measured_on=MEASURED_ON,
        batch_sizes=(1, 8),
        seconds=12.5,
        candidates=(
            RoundResult(
                candidate="onnx-fp32",
                variant="onnx-fp32",
                format="onnx",
                precision="fp32",
                backend="onnxruntime",
                fate="measured",
                reason="",
                error=None,
                same_as=None,
                times=(RoundTimes(number=0, call=0.002, row=0.001),),
            ),
        ),
    ),
    runtime_report(
        [
            runtime_candidate("onnx-fp32"),
            not_timed("onnx-int8", "failed", error=Diagnostic("E420", "no such operator at load")),
        ]
    ),
    server_report([server_candidate("onnx-fp32"), not_served("onnx-int8", "not a finalist", "it is slow")]),
    Fates(
        steps={
            "convert.onnx": StepFate.of("convert", "failed", Ending.REFUSED, Diagnostic("E422", "it does not convert"))
        }
    ),
    winner(),
    ContainerSettings(
        port=8080,
        grpc_port=8081,
        ready_path="/v2/health/ready",
        user="65532:65532",
        read_only=True,
        tmpfs={"/tmp": "size=64m,mode=1777"},
        cap_drop=("ALL",),
        no_new_privileges=True,
        memory=2**31,
        memory_request=2**30,
        cpus=1.5,
        processes=512,
        devices=0,
        token_file=None,
        tls_folder=None,
        egress=False,
        stop_seconds=40,
        at_once=("--drain-seconds", "0"),
    ),
]
each = pytest.mark.parametrize("document", EXAMPLES, ids=lambda document: document.NAME)


@each
def test_a_document_is_read_as_it_was_written(document: Document, tmp_path: Path) -> None:
    document.write(tmp_path)
    read = type(document).read(tmp_path)
    assert read == document
    assert read.as_bytes() == document.as_bytes()


@each
def test_the_file_names_its_schema_and_version(document: Document, tmp_path: Path) -> None:
    document.write(tmp_path)
    content = json.loads((tmp_path / document.FILE).read_bytes())
    assert (content["document"], content["version"]) == (document.NAME, document.VERSION)


@each
def test_the_file_is_as_its_schema_says(document: Document) -> None:
    jsonschema.validate(json.loads(document.as_bytes()), document.json_schema(), jsonschema.Draft202012Validator)


def test_a_decision_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = context(
        tmp_path, [candidate("onnx-fp32")], [runtime_candidate("onnx-fp32")], [server_candidate("onnx-fp32")]
    )
    select(made)
    written = (made.output / Decision.FILE).read_bytes()
    decision = Decision.read(made.output)
    assert decision.as_bytes() == written
    jsonschema.validate(json.loads(written), Decision.json_schema(), jsonschema.Draft202012Validator)


def test_every_document_has_an_example_here_and_a_schema_of_its_own() -> None:
    assert {type(example) for example in EXAMPLES} | {Decision} == set(DOCUMENTS)
    assert len({document.NAME for document in DOCUMENTS}) == len(DOCUMENTS)


def test_the_committed_schemas_are_current() -> None:
    folder = Path(orchestrator.__file__).parents[1] / "docs" / "schemas" / "documents"
    committed = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}
    assert committed == schema_texts(), "run: python -m orchestrator.artifacts.schemas"


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    content = json.loads(winner().as_bytes())
    change(content)
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"{", "it is not JSON"),
        (b"[]", "it is not a JSON object"),
        (b"{}", f"it is not a document of mlo, but this version of mlo reads version {Winner.VERSION} of `winner`"),
        (
            changed(lambda c: c.update(version=3)),
            f"it is version 3 of `winner`, but this version of mlo reads version {Winner.VERSION} of `winner`",
        ),
        (
            verdict().as_bytes(),
            f"it is version {Verdict.VERSION} of `verdict`, but this version of mlo reads version {Winner.VERSION} of `winner`",
        ),
        (changed(lambda c: c.update(more=1)), "more: extra inputs are not permitted"),
        (changed(lambda c: c.pop("backend")), "backend: field required"),
        (changed(lambda c: c.update(max_batch_size="8")), "max_batch_size: input should be a valid integer"),
        (changed(lambda c: c["signature"].update(more=1)), "signature.more: unexpected keyword argument"),
        (changed(lambda c: c["signature"]["inputs"][0].pop("shape")), "signature.inputs.0.shape: field required"),
    ],
)
def test_what_is_not_the_document_is_refused_with_the_reason(data: bytes, cause: str) -> None:
    with pytest.raises(DocumentRefused) as refused:
        Winner.from_bytes(data, "winner.json")
    diagnostic = refused.value.diagnostics[0]
    assert diagnostic.code == "E714"
    assert diagnostic.message == "cannot read winner.json as the document `winner`"
    assert diagnostic.cause.startswith(cause)


def test_a_missing_document_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DocumentRefused, match=r"cannot read .*verdict\.json"):
        Verdict.read(tmp_path)
