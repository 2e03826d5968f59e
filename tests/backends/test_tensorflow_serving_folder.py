"""The folder that TensorFlow Serving is started from, read back with its own messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from orchestrator.backends.backend import ServingSettings
from orchestrator.backends.tensorflow_serving.backend import TENSORFLOW_SERVING
from orchestrator.backends.tensorflow_serving.config import (
    METRICS_PATH,
    Models,
    batch_sizes,
    batching,
    changed_flags,
    flag_values,
    flags,
    max_batch_rows,
    models_config,
    monitoring,
    read_models_config,
)
from orchestrator.backends.tensorflow_serving.messages_pb2 import BatchingParameters
from orchestrator.backends.tensorflow_serving.warmup import MOST_BYTES, crc32c, warmup_records
from orchestrator.spec.signature import Signature, Tensor

SettingsFor = Callable[..., ServingSettings]
Parse = Callable[..., list[Any]]

_WARMUP = "models/tiny-model/1/assets.extra/tf_serving_warmup_requests"
_ODD = [
    "/plain",
    "/with space",
    "/quote\"quote'",
    "/back\\slash",
    "/new\nline",
    "/ümlaut/日本",
    "/\x7f\x01",
    "/a?b%20c,d",
]


@pytest.fixture
def settings(settings_for: SettingsFor, tmp_path: Path) -> ServingSettings:
    np.savez(tmp_path / "samples.npz", x=np.arange(18, dtype=np.float32).reshape(6, 3))
    return settings_for("tensorflow-serving", samples=tmp_path / "samples.npz")


@pytest.fixture
def folder(settings: ServingSettings, placeholder_variant: Path, tmp_path: Path) -> Path:
    TENSORFLOW_SERVING.write_folder(settings, placeholder_variant, tmp_path / "serving")
    return tmp_path / "serving"


def _signature(*shape: int | str, dtype: str = "float32", output: tuple[int | str, ...] | None = None) -> Signature:
    dims = {dim: (1, 64) for dim in shape if isinstance(dim, str)}
    outputs = (Tensor("y", "float32", shape if output is None else output),)
    return Signature((Tensor("x", dtype, shape),), outputs, dims, "batch" if "batch" in dims else None)


def test_the_model_lies_in_a_numbered_folder_beside_its_configuration(folder: Path) -> None:
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "batching.config",
        "flags.txt",
        "models.config",
        _WARMUP,
        "models/tiny-model/1/saved_model.pb",
        "models/tiny-model/1/variables/variables.index",
        "monitoring.config",
        "server.json",
    ]
    server = json.loads((folder / "server.json").read_text())
    assert server["model"]["signature"]["batch"] == "batch"
    assert server["memory"] == 2**31


@pytest.mark.frameworks
def test_the_servers_own_messages_contain_what_was_written(folder: Path, parse: Parse) -> None:
    models, batch, monitoring, warmup = parse(
        *((name, (folder / f"{name}.config").read_bytes()) for name in ("models", "batching", "monitoring")),
        ("warmup", (folder / _WARMUP).read_bytes()),
    )
    assert models["model_config_list"]["config"] == [
        {
            "name": "tiny-model",
            "base_path": "/opt/mlo/serving/models/tiny-model",
            "model_platform": "tensorflow",
            "model_version_policy": {"specific": {"versions": ["1"]}},
            "version_labels": {"stable": "1"},
        }
    ]
    assert batch == {
        "max_batch_size": "64",
        "max_execution_batch_size": "8",
        "enable_large_batch_splitting": True,
        "batch_timeout_micros": "5000",
        "num_batch_threads": "1",
        "max_enqueued_batches": "32",
        "thread_pool_name": "batches",
        "allowed_batch_sizes": ["1", "2", "4", "8", "64"],
    }
    assert monitoring == {"prometheus_config": {"enable": True, "path": "/monitoring/prometheus/metrics"}}
    assert [record["inputs"]["x"]["shape"][0] for record in warmup] == [1, 8, 2, 4]
    assert warmup[0] == {
        "name": "tiny-model",
        "signature": "serving_default",
        "inputs": {"x": {"dtype": "float32", "shape": [1, 3], "values": [0.0, 1.0, 2.0]}},
    }
    # There are six samples; the seventh row is the first again.
    assert warmup[1]["inputs"]["x"]["values"] == [*map(float, range(18)), 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.frameworks
def test_every_path_and_label_survives_a_round_trip(parse: Parse) -> None:
    written = [Models("m", path, (3, 12), {"stable": 12, "Previous_1": 3}) for path in _ODD]
    texts = [models_config(models) for models in written]
    assert [read_models_config(text) for text in texts] == written
    for path, found in zip(_ODD, parse(*(("models", text) for text in texts)), strict=True):
        (config,) = found["model_config_list"]["config"]
        assert config["base_path"] == path
        assert config["version_labels"] == {"Previous_1": "3", "stable": "12"}
        assert config["model_version_policy"] == {"specific": {"versions": ["3", "12"]}}
    (everything,) = parse(("models", models_config(Models("m", "/m"))))
    assert everything["model_config_list"]["config"][0]["model_version_policy"] == {"all": {}}


@pytest.mark.parametrize(
    "models",
    [
        Models('m" base_path: "/etc', "/m"),
        Models("m\n", "/m"),
        Models("M", "/m"),
        Models("", "/m"),
        Models("m", "relative"),
        Models("m", "/m", (0,)),
        Models("m", "/m", (True,)),
        Models("m", "/m", (2**63,)),
        Models("m", "/m", labels={'stable" value: 9 key: "x': 1}),
        Models("m", "/m", labels={"": 1}),
        Models("m", "/m", labels={"stable": -1}),
    ],
)
def test_values_that_could_inject_text_are_refused(models: Models) -> None:
    with pytest.raises(ValueError, match=r"is no|not absolute"):
        models_config(models)


@pytest.mark.parametrize("text", ["", "model_config_list {}", models_config(Models("m", "/m")) + "#", 'name: "m"'])
def test_a_foreign_configuration_is_recognized(text: str) -> None:
    with pytest.raises(ValueError, match="not a file that mlo writes"):
        read_models_config(text)


def test_threads_are_those_of_the_spec_and_dangerous_features_are_off(settings: ServingSettings) -> None:
    values = flag_values(flags(replace(settings, cpus=3.7)))
    assert values["tensorflow_intra_op_parallelism"] == values["tensorflow_inter_op_parallelism"] == "3"
    assert "tensorflow_session_parallelism" not in values, "the server refuses to start with all three"
    assert (values["port"], values["rest_api_port"]) == ("0", "8501")
    assert values["grpc_socket_path"].startswith("/tmp/")
    assert values["enable_profiler"] == "false"
    assert values["allow_version_labels_for_unavailable_models"] == "true", "otherwise no server with labels starts"
    assert values["max_num_load_retries"] == "0"
    assert values["file_system_poll_wait_seconds"] == values["model_config_file_poll_wait_seconds"] == "0"
    assert values["rest_api_timeout_in_ms"] == "30000"


@pytest.mark.parametrize(
    ("signature", "why"),
    [
        (_signature(1, 3), "it has no batch dimension"),
        (_signature("batch", "length"), "requests of different lengths would fail each other"),
        (_signature("batch", 3, output=(3,)), "its answer belongs to the whole call"),
        (replace(_signature("batch", 3), outputs=(Tensor("y", "float32", None),)), "nobody knows what it answers"),
        (replace(_signature("batch", 3), dims={"batch": (16, 32)}), "eight rows are fewer than it takes"),
    ],
)
def test_rows_that_must_not_be_batched_are_not(settings: ServingSettings, signature: Signature, why: str) -> None:
    alone = replace(settings, signature=signature)
    assert max_batch_rows(alone) == 1, why
    assert batching(alone) is None
    values = flag_values(flags(alone))
    assert values["enable_batching"] == "false"
    assert "batching_parameters_file" not in values, "the server refuses to start with the file and without the flag"
    assert int(values["rest_api_num_threads"]) >= 2, "one thread runs the event loop of the port"


@pytest.mark.parametrize(
    ("wanted", "least", "most", "sizes", "allowed"),
    [
        (8, 1, 64, (1, 2, 4, 8), "1 2 4 8 64"),
        (12, 1, 64, (1, 2, 4, 8, 12), "1 2 4 8 12 64"),
        (64, 1, 16, (1, 2, 4, 8, 16), "1 2 4 8 16"),
        (8, 3, 64, (3, 6, 8), "3 6 8 64"),
        (8, 4, 4, None, ""),
        (3, 2, 3, (2, 3), "2 3"),
        (2, 1, 2, (1, 2), "1 2"),
    ],
)
def test_batches_have_sizes_that_the_model_takes(
    settings: ServingSettings, wanted: int, least: int, most: int, sizes: tuple[int, ...] | None, allowed: str
) -> None:
    signature = replace(_signature("batch", 3), dims={"batch": (least, most)})
    chosen = replace(settings, signature=signature, max_batch_size=wanted)
    text = batching(chosen)
    assert text is not None
    found = [line.removeprefix("allowed_batch_sizes: ") for line in text.splitlines() if "allowed" in line]
    if sizes is None:
        sizes, allowed = (4,), "4"
    assert batch_sizes(chosen) == sizes
    assert " ".join(found) == allowed
    parameters = text_format.Parse(text, BatchingParameters())
    assert parameters.max_batch_size.value == int(found[-1])
    assert parameters.max_execution_batch_size.value == sizes[-1]


@pytest.mark.parametrize("rows", [2, 8, 64, 256, 1024])
@pytest.mark.parametrize("cpus", [1.0, 4.0, 32.0])
def test_the_queue_refuses_before_the_threads_run_out(settings: ServingSettings, rows: int, cpus: float) -> None:
    signature = replace(_signature("batch", 3), dims={"batch": (1, rows)})
    chosen = replace(settings, signature=signature, max_batch_size=rows, cpus=cpus)
    threads = int(flag_values(flags(chosen))["rest_api_num_threads"])
    text = batching(chosen)
    assert text is not None
    parameters = text_format.Parse(text, BatchingParameters())
    waiting = parameters.max_enqueued_batches.value
    held = rows * (parameters.num_batch_threads.value + waiting)
    assert waiting * rows >= 2 * parameters.max_batch_size.value, "two of the longest calls fit"
    assert threads <= 512
    assert threads > held or threads == 512, "as many as there may be"


def test_flags_move_with_the_folder() -> None:
    given = ("--port=0", "--model_config_file=/opt/mlo/serving/models.config", "--port=1")
    moved = changed_flags(given, PurePosixPath("/my models"), model_config_file_poll_wait_seconds=2)
    assert moved == (
        "--port=1",
        "--model_config_file=/my models/models.config",
        "--model_config_file_poll_wait_seconds=2",
    )
    for wrong in ("port=0", "--port", "models.config"):
        with pytest.raises(ValueError, match="is not a flag"):
            flag_values([wrong])


@pytest.mark.frameworks
def test_records_of_every_dtype_and_of_texts_can_be_read(parse: Parse) -> None:
    dtypes = ["float32", "float64", "int32", "uint8", "int16", "int8", "int64", "bool", "uint32", "uint64"]
    tensors = [Tensor(f"in_{dtype}", dtype, ("batch", 2)) for dtype in dtypes] + [Tensor("a.b_", "string", ("batch",))]
    tensors.append(Tensor("rate", "int32", ("batch",)))
    signature = Signature(tuple(tensors), (), {"batch": (1, 4)}, "batch")
    samples: dict[str, Any] = {f"in_{dtype}": np.array([[0, 1], [1, 1]]).astype(dtype) for dtype in dtypes}
    samples["a.b_"] = np.array(["", "grüße, 日本"])
    samples["rate"] = np.array([8000, 16000], np.int32)
    whole = replace(signature, batch=None, inputs=tuple(replace(t, shape=t.shape[1:]) for t in tensors if t.shape))
    two, one = parse(
        ("warmup", warmup_records(samples, signature, "odd-name", (2,))),
        ("warmup", warmup_records(samples, whole, "odd-name", ())),
    )
    (record,) = two
    assert record["name"] == "odd-name"
    for dtype in dtypes:
        found = record["inputs"][f"in_{dtype}"]
        assert found == {"dtype": dtype, "shape": [2, 2], "values": samples[f"in_{dtype}"].ravel().tolist()}
    assert record["inputs"]["a.b_"] == {"dtype": "string", "shape": [2], "values": ["", "grüße, 日本"]}
    (record,) = one
    assert record["inputs"]["in_int64"] == {"dtype": "int64", "shape": [2], "values": [0, 1]}
    assert record["inputs"]["a.b_"]["shape"] == []
    assert record["inputs"]["rate"] == {"dtype": "int32", "shape": [], "values": [8000]}


@pytest.mark.processes
def test_records_are_few_and_small_but_one_is_always_there() -> None:
    signature = _signature("batch", MOST_BYTES // 8)
    samples = {"x": np.zeros((1, MOST_BYTES // 8), np.float32)}
    half = warmup_records(samples, signature, "m", (1, 2, 4, 8))
    assert MOST_BYTES // 2 < len(half) <= MOST_BYTES
    width = MOST_BYTES // 4 + 1
    only = warmup_records({"x": np.zeros((1, width), np.float32)}, _signature("batch", width), "m", (1, 2))
    assert MOST_BYTES < len(only) < 2 * MOST_BYTES


@pytest.mark.parametrize("length", [0, 1, 3, 4, 9, 63, 64, 65, 1000, 4097])
def test_the_checksum_is_that_of_its_definition(length: int) -> None:
    data = np.random.default_rng(length).integers(0, 256, length, dtype=np.uint8).tobytes()
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    assert crc32c(data) == crc ^ 0xFFFFFFFF
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the catalogues


def test_records_that_came_with_the_model_are_removed(
    settings: ServingSettings, placeholder_variant: Path, tmp_path: Path
) -> None:
    extra = placeholder_variant / "saved_model" / "assets.extra"
    extra.mkdir()
    (extra / "tf_serving_warmup_requests").write_bytes(b"of another signature")
    (extra / "labels.txt").write_text("cat")
    TENSORFLOW_SERVING.write_folder(replace(settings, samples=None), placeholder_variant, tmp_path / "serving")
    version = tmp_path / "serving" / "models" / "tiny-model" / "1"
    assert [path.name for path in (version / "assets.extra").iterdir()] == ["labels.txt"]


@pytest.mark.parametrize("dtype", ["float16", "uint16"])
@pytest.mark.parametrize("what", ["input", "output"])
def test_a_dtype_that_rest_does_not_support_is_refused(
    settings: ServingSettings, placeholder_variant: Path, tmp_path: Path, dtype: str, what: str
) -> None:
    signature = settings.signature
    wrong = (Tensor("z", dtype, ("batch", 3)),)
    signature = replace(signature, inputs=wrong) if what == "input" else replace(signature, outputs=wrong)
    refusal_text = f"the {what} z is {dtype}, which TensorFlow Serving's REST API does not support"
    assert TENSORFLOW_SERVING.refuses(signature) == refusal_text
    with pytest.raises(ValueError, match="does not support"):
        TENSORFLOW_SERVING.write_folder(
            replace(settings, signature=signature), placeholder_variant, tmp_path / "serving"
        )


def test_supported_dtypes_are_accepted_and_unknown_outputs_too(settings: ServingSettings) -> None:
    unknown = replace(settings.signature, outputs=(Tensor("y", "", ("batch", 3)),))
    text = replace(settings.signature, inputs=(Tensor("x", "string", ("batch",)),))
    assert TENSORFLOW_SERVING.refuses(unknown) is None
    assert TENSORFLOW_SERVING.refuses(text) is None


def test_metrics_have_the_path_that_the_chart_scrapes() -> None:
    assert f'path: "{METRICS_PATH}"' in monitoring()
