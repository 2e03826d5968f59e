"""What the handler answers to a batch of requests, without TorchServe around it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from orchestrator.backends.backend import ServingSettings
from orchestrator.backends.torchserve.backend import TORCHSERVE
from orchestrator.spec.signature import Allowed, Signature, Tensor

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]

SettingsFor = Callable[..., ServingSettings]


class Doubling(torch.nn.Module):  # type: ignore[misc] # torch comes without types
    """Doubles; fails on a row with a negative number; the largest batch that it saw can be asked for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x < 0).any()):
            raise ValueError("negative")
        return x * 2


class Context:
    """The part of TorchServe's context that the handler uses."""

    def __init__(self, folder: Path, requests: int = 0) -> None:
        self.model_name = "tiny-model"
        self.system_properties = {"model_dir": str(folder)}
        self.model_yaml_config = yaml.safe_load((folder / "model-config.yaml").read_text())
        self.codes = [200] * requests
        self.types = [""] * requests
        self.url_paths = [""] * requests

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.types[idx] = value

    def set_response_status(self, code: int, phrase: str, idx: int) -> None:
        self.codes[idx] = code

    def get_request_header(self, idx: int, key: str) -> str | None:
        return self.url_paths[idx] if key == "url_path" else None


class Served:
    """A handler with a model in it, and the sizes of the batches that the model saw."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        module = _load(folder / "handler.py")
        self.threads: list[int] = []
        monkeypatch.setattr(torch, "set_num_threads", self.threads.append)
        self.folder = folder
        self.handler: Any = module.Handler()
        self.handler.initialize(Context(folder))
        self.batches: list[int] = []
        model = self.handler.model

        def counted(*tensors: torch.Tensor) -> Any:
            self.batches.append(len(tensors[0]))
            return model(*tensors)

        self.handler.model = counted

    def __call__(self, *bodies: bytes) -> tuple[list[int], list[Any]]:
        context = Context(self.folder, len(bodies))
        answers = self.handler.handle([{"body": body} for body in bodies], context)
        assert set(context.types) == {"application/json"}
        return context.codes, [json.loads(answer) for answer in answers]


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("handler", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def served(settings_for: SettingsFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    return _serve(settings_for("torchserve", max_batch_size=4), Doubling(), tmp_path, monkeypatch)


def _serve(settings: ServingSettings, module: torch.nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    variant = folder / "variant"
    variant.mkdir()
    torch.jit.script(module).save(str(variant / "model.pt"))
    TORCHSERVE.write_folder(settings, variant, folder / "serving")
    return Served(folder / "serving" / "model-store" / settings.name, monkeypatch)


def _request(*rows: Sequence[float | None], **changes: Any) -> bytes:
    flat = [number for row in rows for number in row]
    tensor = {"name": "x", "shape": [len(rows), 3], "datatype": "FP32", "data": flat} | changes
    return json.dumps({"inputs": [tensor]}).encode()


@pytest.mark.parametrize(
    ("allowed", "rows", "told"),
    [
        (Allowed(range=(1, 9), enforce=True), [1, 9, 10], "input x: 10.0 is not allowed; every value must be from 1 to 9"),
        (Allowed(range=(0, 0.1), enforce=True), [0, 0.1, None], "input x: nan is not allowed; every value must be from 0 to 0.1"),
        (Allowed(values=(0.5, 2), enforce=True), [2, 0.5, 1], "input x: 1.0 is not allowed; every value must be one of 0.5, 2"),
        (Allowed(values=(0.5, 2)), [2, 0.5, 1], ""),
    ],
)  # fmt: skip
def test_values_that_the_spec_does_not_allow_are_refused_where_it_asks_for_that(
    settings_for: SettingsFor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    allowed: Allowed,
    rows: list[float | None],
    told: str,
) -> None:
    signature = Signature(
        (Tensor("x", "float32", ("batch", 3), allowed),),
        (Tensor("y", "float32", ("batch", 3)),),
        {"batch": (2, 8)},
        "batch",
        {"batch": 2},
    )
    served = _serve(settings_for("torchserve", signature=signature), Doubling(), tmp_path, monkeypatch)
    (code,), (answer,) = served(_request(rows, rows))
    assert (code, answer.get("error", "")) == ((400, told) if told else (200, ""))
    (code,), (answer,) = served(_request(rows, rows, rows))
    assert code == 400
    assert "dimension batch must be a multiple of 2, not 3" in answer["error"]


def test_the_module_has_the_one_class_that_torchserve_accepts() -> None:
    from orchestrator.frameworks.pytorch import torchserve_handler as module

    classes = [x for x in vars(module).values() if isinstance(x, type) and x.__module__ == module.__name__]
    assert [c.__name__ for c in classes] == ["Handler"]
    assert not hasattr(module, "handle")


def test_requests_are_batched_and_each_gets_its_own_rows(served: Served) -> None:
    codes, answers = served(_request([1, 2, 3]), _request([4, 5, 6], [7, 8, 9]))
    assert codes == [200, 200]
    assert served.batches == [3]
    assert answers[0]["model_name"] == "tiny-model"
    assert answers[0]["outputs"] == [{"name": "y", "shape": [1, 3], "datatype": "FP32", "data": [2.0, 4.0, 6.0]}]
    assert answers[1]["outputs"][0]["data"] == [8.0, 10.0, 12.0, 14.0, 16.0, 18.0]


def test_rows_are_counted_and_not_requests(served: Served) -> None:
    three = _request(*[[1.0, 1.0, 1.0]] * 3)
    codes, _ = served(three, three, _request([1, 1, 1]), _request(*[[1.0, 1.0, 1.0]] * 6))
    assert codes == [200] * 4
    assert served.batches == [3, 4, 6]


def test_a_bad_request_does_not_affect_others_in_its_batch(served: Served) -> None:
    codes, answers = served(_request([1, 2, 3]), b"{nope", _request([4, 5, 6]))
    assert codes == [200, 400, 200]
    assert "error" in answers[1]
    assert served.batches == [2]


def test_a_request_that_the_model_fails_on_fails_alone(served: Served) -> None:
    codes, answers = served(_request([1, 2, 3]), _request([-1, 0, 0]), _request([4, 5, 6]))
    assert codes == [200, 500, 200]
    assert answers[2]["outputs"][0]["data"] == [8.0, 10.0, 12.0]
    assert "Traceback" not in answers[1]["error"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "Expecting value"),
        (b"[1]", "expected a JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b"{}", "inputs"),
        (b'{"inputs": [1]}', "inputs"),
        (b'{"inputs": []}', "expected the inputs x, each once"),
        (b'{"inputs": [{"name": "z"}]}', "expected the inputs x, each once"),
        (b'{"inputs": [{"name": "x"}, {"name": "x"}]}', "expected the inputs x, each once"),
        (_request([1, 2, 3], datatype="INT64"), "expected datatype FP32"),
        (_request([1, 2, 3], shape=[1, 4]), "expected shape"),
        (_request([1, 2, 3], shape=[1, True]), "expected shape"),
        (_request([1, 2, 3], shape=[0, 3]), "must lie in [1, 64]"),
        (_request([1, 2, 3], shape=[10**12, 3]), "must lie in [1, 64]"),
        (_request([1, 2, 3], shape=[2, 3]), "needs 6 values, and data has 3"),
        (_request([1, 2, 3], data="123"), "data must be a list"),
        (_request([1, 2, 3], data=["1", "2", "3"]), "FP32 values"),
        (_request([1, 2, 3], data=[[1], 2, [3]]), "nested unevenly"),
        (_request([1, 2, 3], data=[1, 2, 10**400]), "too large"),
        (b'{"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [NaN, 1, 2]}]}', "NaN is not JSON"),
    ],
)
def test_mistakes_in_a_request_are_reported(served: Served, body: bytes, told: str) -> None:
    codes, answers = served(body)
    assert codes == [400]
    assert told in answers[0]["error"]
    assert served.batches == []


def test_a_form_is_not_a_request(served: Served) -> None:
    context = Context(served.folder, 1)
    assert b"expected a JSON body" in served.handler.handle([{"x": "1"}], context)[0]
    assert context.codes == [400]


@pytest.mark.parametrize("data", [[1, "NaN", "Infinity"], [[1, None, "Infinity"]]])
def test_nested_data_numbers_that_are_not_finite_and_the_id_are_supported(served: Served, data: list[Any]) -> None:
    document = json.loads(_request([1, 2, 3], data=data)) | {"id": "seven"}
    codes, answers = served(json.dumps(document).encode())
    assert codes == [200]
    assert answers[0]["id"] == "seven"
    assert answers[0]["outputs"][0]["data"] == [2.0, "NaN", "Infinity"]


def test_readiness_is_answered_without_the_model(served: Served) -> None:
    context = Context(served.folder, 1)
    context.url_paths = ["ready"]
    assert served.handler.handle([{"body": b""}], context) == [b'{"ready": true}']
    assert served.batches == []


def test_it_takes_the_threads_that_it_was_configured_with(
    settings_for: SettingsFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLO_THREADS", raising=False)
    assert _serve(settings_for("torchserve", cpus=3.0), Doubling(), tmp_path, monkeypatch).threads == [3]
    monkeypatch.setenv("MLO_THREADS", "1")
    assert Served(tmp_path / "serving" / "model-store" / "tiny-model", monkeypatch).threads == [1]


class Mean(torch.nn.Module):  # type: ignore[misc] # torch comes without types
    """Mixes the rows: its answer belongs to a whole call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(0)


def test_a_model_whose_answer_has_no_rows_gets_each_request_alone(
    settings_for: SettingsFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature = Signature(
        (Tensor("x", "float32", ("batch", 3)),), (Tensor("y", "float32", (3,)),), {"batch": (1, 64)}, "batch"
    )
    served = _serve(settings_for("torchserve", signature=signature), Mean(), tmp_path, monkeypatch)
    codes, answers = served(_request([1, 1, 1], [3, 3, 3]), _request([5, 5, 5]))
    assert codes == [200, 200]
    assert [answer["outputs"][0]["data"] for answer in answers] == [[2.0] * 3, [5.0] * 3]
    assert served.batches == [2, 1]


class Overwriting(torch.nn.Module):  # type: ignore[misc] # torch comes without types
    """Halves its input in place, and answers with memory of its own; fails on rows that differ."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("answer", torch.zeros(64, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x != x[:1]).any()):
            raise ValueError("rows differ")
        x.div_(2)
        answer = self.answer[: x.shape[0]]
        answer.copy_(x)
        return answer


def test_a_request_is_not_answered_with_what_the_model_wrote_for_another(
    settings_for: SettingsFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = _serve(settings_for("torchserve"), Overwriting(), tmp_path, monkeypatch)
    codes, answers = served(_request([2, 4, 6]), _request([8, 10, 12]))
    assert codes == [200, 200]
    assert [answer["outputs"][0]["data"] for answer in answers] == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


class SingleNumbers(torch.nn.Module):  # type: ignore[misc] # torch comes without types
    """Scales rows by one number and shifts them by another; answers with their sum too."""

    def forward(self, x: torch.Tensor, gain: torch.Tensor, step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = x * gain + step
        return y, y.sum()


def test_inputs_and_outputs_that_are_single_numbers_have_no_dimensions(
    settings_for: SettingsFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature = Signature(
        (Tensor("x", "float32", ("length", 2)), Tensor("gain", "float32", ()), Tensor("step", "int64", ())),
        (Tensor("y", "float32", ("length", 2)), Tensor("sum", "float32", ())),
        {"length": (1, 4)},
        None,
    )
    served = _serve(settings_for("torchserve", signature=signature), SingleNumbers(), tmp_path, monkeypatch)

    def request(gain: float, step: int, shape: list[int]) -> bytes:
        tensors = [
            {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]},
            {"name": "gain", "shape": [], "datatype": "FP32", "data": [gain]},
            {"name": "step", "shape": shape, "datatype": "INT64", "data": [step]},
        ]
        return json.dumps({"inputs": tensors}).encode()

    codes, answers = served(request(2.5, 1, []), request(1, 3, []), request(1, 3, [1]))
    assert codes == [200, 200, 400]
    assert [[tensor["data"] for tensor in answer["outputs"]] for answer in answers[:2]] == [
        [[3.5, 6.0], [9.5]],
        [[4.0, 5.0], [9.0]],
    ]
    assert answers[0]["outputs"][1]["shape"] == []
    assert "input step: expected shape []" in answers[2]["error"]


class Wide(torch.nn.Module):  # type: ignore[misc] # torch comes without types
    """Two inputs, two outputs, a second named dimension, integers."""

    def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return ids.float() * scale, ids.sum(1)


def test_requests_of_other_inner_shapes_go_in_batches_of_their_own(
    settings_for: SettingsFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature = Signature(
        (Tensor("ids", "int64", ("batch", "length")), Tensor("scale", "float32", ("batch", 1))),
        (Tensor("scaled", "float32", ("batch", "length")), Tensor("sum", "int64", ("batch",))),
        {"batch": (1, 64), "length": (1, 5)},
        "batch",
    )
    served = _serve(settings_for("torchserve", signature=signature), Wide(), tmp_path, monkeypatch)

    def request(ids: list[int], rows: int = 1) -> bytes:
        return json.dumps(
            {
                "inputs": [
                    {"name": "scale", "shape": [rows, 1], "datatype": "FP32", "data": [2.0] * rows},
                    {"name": "ids", "shape": [1, len(ids)], "datatype": "INT64", "data": ids},
                ]
            }
        ).encode()

    codes, answers = served(
        request([1, 2]), request([1, 2, 3]), request([3, 4]), request([1], rows=2), request([2**70]), request([])
    )
    assert codes == [200, 200, 200, 400, 400, 400]
    assert served.batches == [2, 1]
    assert [answer["outputs"][1]["data"] for answer in answers[:3]] == [[3], [6], [7]]
    assert "batch is 1 in one place and 2 in another" in answers[3]["error"]


def test_an_exported_program_is_served_too(
    settings_for: SettingsFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Half(torch.nn.Module):  # type: ignore[misc] # torch comes without types
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x / 2).to(torch.bfloat16)

    variant = tmp_path / "variant"
    variant.mkdir()
    rows = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Half(), (torch.zeros(2, 3),), dynamic_shapes={"x": {0: rows}})
    torch.export.save(program, str(variant / "model.pt2"))
    settings = settings_for("torchserve", format="exported-program", variant="exported-program-bf16")
    TORCHSERVE.write_folder(settings, variant, tmp_path / "serving")
    served = Served(tmp_path / "serving" / "model-store" / "tiny-model", monkeypatch)
    codes, answers = served(_request([1, 2, 3]))
    assert codes == [200]
    assert answers[0]["outputs"][0] == {"name": "y", "shape": [1, 3], "datatype": "FP32", "data": [0.5, 1.0, 1.5]}
