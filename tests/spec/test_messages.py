"""What is wrong with a spec, as the user sees it: line, caret, suggestion, several at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.backends.table import SERVERS
from orchestrator.errors import SpecInvalid
from orchestrator.spec.gates import PRECISIONS
from tests.spec.conftest import BASE, Load, Shown

_PRECISIONS, _SERVED = ", ".join(PRECISIONS), ", ".join(SERVERS)


def codes(load: Load, text: str) -> list[str]:
    try:
        return [each.code for each in load(text).warnings]
    except SpecInvalid as error:
        return [each.code for each in error.diagnostics]


def test_several_mistakes_are_shown_at_once_in_the_order_of_the_file(shown: Shown) -> None:
    text = (
        BASE.replace("    weights:", "    weigths:").replace("float32", "float")
        + "optimize:\n  precisions: [fp32, e4m3]\n"
    )
    assert shown(text) == (
        "error[E101]: unknown key `weigths`\n"
        " --> spec.yaml:8:5\n"
        "  |\n"
        "8 |     weigths: digits.safetensors\n"
        "  |     ^^^^^^^ did you mean `weights`?\n"
        "\n"
        "error[E103]: `float` is not one of float32, float64, float16, int64, int32, int16, int8, uint8,\n"
        "  bool, string\n"
        "  --> spec.yaml:11:28\n"
        "   |\n"
        "11 |     - {name: image, dtype: float, shape: [batch, 1, 8, 8]}\n"
        "   |                            ^^^^^ did you mean `float32`?\n"
        "\n"
        f"error[E103]: `e4m3` is not one of {_PRECISIONS}\n"
        "  --> spec.yaml:16:22\n"
        "   |\n"
        "16 |   precisions: [fp32, e4m3]\n"
        "   |                      ^^^^"
    )


def test_a_missing_key_shows_the_line_to_add(shown: Shown) -> None:
    assert shown(BASE.replace("    factory: digits_model:DigitsNet\n", "")) == (
        "error[E102]: missing key `factory`\n"
        " --> spec.yaml:6:3\n"
        "  |\n"
        "6 |   source:\n"
        "  |   ^^^^^^ add `factory: digits_model:DigitsNet`"
    )


def test_the_tag_of_a_union_is_where_the_caret_stands(shown: Shown) -> None:
    assert shown(BASE.replace("kind: pytorch", "kind: pytorh")) == (
        "error[E103]: `pytorh` is not one of pytorch, torchscript, exported-program, keras, saved-model,\n"
        "  onnx, tflite, transformers\n"
        " --> spec.yaml:7:11\n"
        "  |\n"
        "7 |     kind: pytorh\n"
        "  |           ^^^^^^ did you mean `pytorch`?"
    )


def test_a_key_of_a_missing_kind_names_the_kind(shown: Shown) -> None:
    assert shown(BASE + "deploy: {path: shelf}\n") == (
        "error[E101]: unknown key `path`\n"
        "  --> spec.yaml:15:10\n"
        "   |\n"
        "15 | deploy: {path: shelf}\n"
        "   |          ^^^^ `target: folder` is missing\n"
        "   = help: add `target: folder`; `path` is a key of that kind"
    )
    assert "did you mean `port`?" in shown(BASE + "deploy: {prot: 8080}\n")
    assert "is missing" not in shown(BASE + "deploy: {target: local, path: shelf}\n")


def test_keys_are_suggested_from_the_chosen_kind_of_source(shown: Shown) -> None:
    text = BASE.replace("factory:", "factry:").replace("kind: pytorch", "kind: torchscript")
    assert "allowed here: kind, weights, sha256" in shown(text)
    assert "did you mean `factory`?" in shown(BASE.replace("factory:", "factry:"))


def test_a_required_key_without_a_value_is_shown_with_an_example(shown: Shown) -> None:
    text = shown(re.sub(r"factory: .*", "factory:", BASE))
    assert "`factory` has no value" in text
    assert "add a value, such as `factory: digits_model:DigitsNet`" in text
    assert "remove the key" not in text


@pytest.mark.parametrize(
    ("addition", "message", "label"),
    [
        ("slo: {enforce: yes}", "`enforce` must be `true` or `false`, not `yes`", "did you mean `true`?"),
        ("slo: {p99_latency: 20}", "`20` is not a valid value for `p99_latency`", "expected a duration with a unit, such as 20ms, 5s or 5m"),
        ("slo: {p99_latency: 0ms}", "`0ms` is not a valid value for `p99_latency`", "expected a duration greater than zero and at most 168h"),
        ("slo: {throughput: 200}", "`200` is not a valid value for `throughput`", "expected a rate per second, minute or hour, such as 200/s"),
        ("slo: {p99_latncy: 20ms}", "unknown key `p99_latncy`", "did you mean `p99_latency`?"),
        ("hardware: {memory: 2GB}", "`2GB` is not a valid value for `memory`", "expected a size in bytes with a unit, such as 512Mi or 2Gi"),
        ("hardware: {cpus: two}", "`two` is not a valid value for `cpus`", "expected a number of CPUs, such as 2, 0.5 or 500m"),
        ("hardware: {cpus: 0}", "`0` is not a valid value for `cpus`", "expected a number of CPUs greater than zero and at most 1024"),
        ("hardware:", "`hardware` has no value", "the value is missing"),
        ("hardware: 2", "`hardware` must be a mapping of keys to values, not `2`", ""),
        ("cpus: 2", "unknown key `cpus`", "did you mean `hardware: {cpus: ...}`?"),
        ("optimize: {precisions: int8}", f"`int8` is not one of auto, or a list of {_PRECISIONS}", "did you mean `[int8]`?"),
        ("optimize: {precisions: []}", "`precisions` must have at least 1 entry, not 0", ""),
        ("optimize_for: latncy", "`latncy` is not one of latency, throughput, cost", "did you mean `latency`?"),
        ("verify: {max_abs_error: -1}", "`max_abs_error` must be at least 0, not `-1`", ""),
        ("verify: {max_abs_error: {e4m3: 1}}", f"`e4m3` is not one of {_PRECISIONS}", ""),
        ("verify: {max_abs_error: low}", "`max_abs_error` must be a number or a mapping of keys to values, not `low`", ""),
        ("serving: {backend: torchsrve}", f"`torchsrve` is not one of {_SERVED}, auto", "did you mean `torchserve`?"),
        ("serving: {limits: {max_body: 1000}}", "`1000` is not a valid value for `max_body`", "expected a size from 1Ki to 2Gi"),
        ("serving: {limits: {request_timeout: 2h}}", "`2h` is not a valid value for `request_timeout`", "expected a duration from 1ms to 1h"),
        ("serving: {auth: {token_file: /run/secrets/no-such/token}}", "there is no file `/run/secrets/no-such/token` with tokens", ""),
        ("serving: {batching: {max_size: 0}}", "`max_size` must be at least 1, not `0`", ""),
        ("serving: {batching: {max_size: '8'}}", "`max_size` must be a whole number, not `8`", "a value in quotes is text, not a number"),
        ("benchmark: {batch_sizes: 8}", "`batch_sizes` must be a list, not `8`", "for a list with one entry, write `[8]`"),
        ("benchmark: {batch_sizes: [1.5]}", "`batch_sizes[0]` must be a whole number, not `1.5`", ""),
        ("deploy: {port: 80}", "`port` must be at least 1024, not `80`", ""),
        ("image: {base: 'a\\nRUN x'}", "`a\\nRUN x` is not a valid value for `base`", ""),
        ('image: {base: "a\\nRUN x"}', "`a\\nRUN x` is not a valid value for `base`", ""),
        (f"deploy: {{target: folder, path: {'a' * 1025}}}", f"`{'a' * 57}...` is not a valid value for `path`", "expected at most 1024 characters"),
        ("image: {registry: 'https://x'}", "`https://x` is not a valid value for `registry`", ""),
    ],
)  # fmt: skip
def test_every_kind_of_mistake_has_its_message(load: Load, addition: str, message: str, label: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        load(f"{BASE}{addition}\n")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.message == message
    assert label in diagnostic.label
    assert diagnostic.span is not None
    assert diagnostic.span.line == 15


def test_names_and_labels_are_strict(load: Load, shown: Shown) -> None:
    assert "did you mean `my-model`?" in shown(BASE.replace("name: digits\n", "name: My_Model\n"))
    for name in ("a\\nb", "a b", "-a", "a-", "A", "é", "a" * 41, "a;b", "../a", "a\\n"):
        with pytest.raises(SpecInvalid):
            load(BASE.replace("name: digits\n", f'name: "{name}"\n'))
    labels = shown(BASE.replace("name: digits\n", "name: digits\n  labels: {release: 3.10}\n"))
    assert "`release` must be text, not `3.10`" in labels
    assert 'to make it text, put quotes around it: "3.10"' in labels


def test_a_gate_is_one_number_or_one_for_each_precision(load: Load) -> None:
    spec = load(BASE + "verify: {max_abs_error: 1e-4, min_cosine: {int8: 0.99}}\n").spec
    assert spec.verify.limits("bf16") == {"max_abs_error": 1e-4}
    assert spec.verify.limits("int8") == {"max_abs_error": 1e-4, "min_cosine": 0.99}


def test_units_are_read(load: Load) -> None:
    text = "hardware: {cpus: 500m, memory: 1Gi}\nslo: {p99_latency: 20ms, throughput: 120/m}\n"
    spec = load(
        BASE
        + text
        + "serving: {batching: {max_size: 8, max_delay: 0}}\noptimize: {time_budget: 2m, precisions: auto}\n"
    ).spec
    assert (spec.hardware.cpus, spec.hardware.memory) == (0.5, 2**30)
    assert spec.slo.p99_latency == pytest.approx(0.02)
    assert spec.slo.throughput == pytest.approx(2)
    assert spec.serving.batching != "auto"
    assert spec.serving.batching.max_delay == 0
    assert (spec.optimize.time_budget, spec.optimize.precisions) == (120, "auto")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(BASE.replace("[batch, 10]", "[bacth, 10]"), ["E120"], id="misspelled dimension"),
        pytest.param(BASE.replace("dims: {batch: {min: 1, max: 64}}", "dims: {}"), ["E120", "E120"], id="no range"),
        pytest.param(BASE.replace("max: 64}}", "max: 64}, width: {max: 8}}"), ["W101"], id="unused dimension"),
        pytest.param(BASE.replace("min: 1, max: 64", "min: 65, max: 64"), ["E121"], id="empty range"),
        pytest.param(BASE + "serving: {replicas: {min: 2}}", ["E121"], id="replicas"),
        pytest.param(BASE + "benchmark: {batch_sizes: [1, 65]}", ["E123"], id="batch size too large"),
        pytest.param(BASE + "benchmark: {batch_sizes: [1, 1]}", ["E122"], id="batch size twice"),
        pytest.param(BASE + "optimize: {precisions: [fp32, fp32]}", ["E122"], id="precision twice"),
        pytest.param(BASE + "optimize: {formats: [onnx, onnx]}", ["E122"], id="format twice"),
        pytest.param(BASE.replace("  dims:", "    - {name: logits}\n  dims:"), ["E122"], id="output twice"),
        pytest.param(BASE + "serving: {batching: {max_size: 65}}", ["E126"], id="batching too large"),
        pytest.param(BASE + "optimize: {precisions: [int8]}", ["W102"], id="int8 without samples"),
        pytest.param(BASE.replace("digits.safetensors", "s3://b/digits.safetensors"), ["E125"], id="remote"),
        pytest.param(BASE.replace("digits.safetensors", "https://x/y"), ["E125"], id="web"),
        pytest.param(BASE.replace("digits.safetensors", "missing.safetensors"), ["E124"], id="missing weights"),
        pytest.param(BASE + "", [], id="valid"),
        pytest.param(BASE.replace("[batch, ", "[3, "), ["W101"], id="no batch dimension"),
        pytest.param(BASE.replace("[batch, ", "[3, ") + "benchmark: {batch_sizes: [2]}", ["W101", "E123"], id="batches without batch"),
        pytest.param(BASE.replace("DigitsNet", "DigitsNet\n    kwargs: {bias: no}"), ["W103"], id="no in kwargs"),
        pytest.param(BASE.replace("DigitsNet", "DigitsNet\n    kwargs: {bias: 'no'}"), [], id="quoted no in kwargs"),
    ],
)  # fmt: skip
def test_contradictions_are_found(load: Load, text: str, expected: list[str]) -> None:
    assert codes(load, text) == expected


def test_a_missing_file_shows_where_it_was_looked_for_and_the_similar_one(folder: Path, shown: Shown) -> None:
    text = shown(BASE.replace("digits.safetensors", "digit.safetensors"))
    assert " ".join(text.rpartition("= cause: ")[2].split()) == f"looked for {folder}/digit.safetensors"
    assert text.startswith(
        "error[E124]: file `digit.safetensors` does not exist\n"
        " --> spec.yaml:8:14\n"
        "  |\n"
        "8 |     weights: digit.safetensors\n"
        "  |              ^^^^^^^^^^^^^^^^^ did you mean `digits.safetensors`?\n"
    )


def test_a_batch_size_outside_the_range_names_the_range(shown: Shown) -> None:
    assert shown(BASE + "benchmark:\n  batch_sizes: [1, 128]\n") == (
        "error[E123]: batch size 128 is outside the range of `batch`\n"
        "  --> spec.yaml:16:20\n"
        "   |\n"
        "16 |   batch_sizes: [1, 128]\n"
        "   |                    ^^^ `batch` ranges from 1 to 64\n"
        "   = help: remove it, or extend `model.dims.batch` on line 14"
    )


def test_file_urls_are_paths(load: Load, folder: Path) -> None:
    loaded = load(BASE.replace("digits.safetensors", f"file://{folder}/digits.safetensors"))
    assert loaded.spec.model.source.weights == f"{folder}/digits.safetensors"


def test_default_batch_sizes_fit_the_range(load: Load) -> None:
    assert load(BASE).spec.benchmark.batch_sizes == [1, 8, 32]
    assert load(BASE.replace("max: 64", "max: 4")).spec.benchmark.batch_sizes == [1, 4]
    assert load(BASE.replace("[batch, ", "[3, ")).spec.benchmark.batch_sizes == [1]


def test_messages_contain_no_control_characters(shown: Shown) -> None:
    text = shown(BASE + 'optimize_for: "\\e[2J\\u202e"\nkind\u202e: 1\n')
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_roots_of_modules_are_folders_near_the_spec(load: Load, shown: Shown, folder: Path) -> None:
    (folder / "src").mkdir()
    (folder / "digits_model.py").touch()
    named = "    factory: digits_model:DigitsNet\n    path: [ROOT]\n    env: [RANKER_CONFIG]\n"
    text = BASE.replace("    factory: digits_model:DigitsNet\n", named)
    assert load(text.replace("ROOT", "src")).spec.model.source.model_dump()["path"] == ["src"]
    told = shown(text.replace("ROOT", "srcs"))
    assert "error[E124]: folder `srcs` does not exist" in told
    assert "did you mean `src`?" in told
    assert "error[E124]: folder `digits_model.py` is a file" in shown(text.replace("ROOT", "digits_model.py"))


def test_a_variable_is_named_without_its_value(shown: Shown) -> None:
    text = BASE.replace("    factory: digits_model:DigitsNet\n", "    factory: a:B\n    env: [RANKER_CONFIG=/etc/x]\n")
    assert "expected the name of an environment variable" in shown(text)


def test_an_accepted_line_is_a_file_and_a_number(shown: Shown) -> None:
    assert "expected a file and a line of the model's code, such as net.py:9" in shown(
        BASE + "verify: {accept_traced: [net.py]}"
    )
