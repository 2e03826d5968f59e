"""`mlo init` writes a valid spec for any model, overwrites nothing, and says what the user must decide."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from orchestrator.spec.random_mark import is_random
from tests.cli.conftest import ROOT, conforms

if TYPE_CHECKING:
    from conftest import Mlo

pytestmark = pytest.mark.frameworks


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models of every kind, in a folder for each framework."""
    folder = tmp_path_factory.mktemp("zoo")
    for framework in ("torch", "tensorflow", "onnx"):
        (folder / framework).mkdir()
        script = str(ROOT / "tests" / "cli" / "model_zoo.py")
        done = subprocess.run(
            [sys.executable, script, framework, str(folder / framework)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests here: a model that one of them has had read need not be read for the next."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def mlo(mlo: Mlo, store: Path) -> Mlo:
    """`mlo` with that store."""
    return partial(mlo, MLO_HOME=str(store))


def drafted(mlo: Mlo, project: Path, model: Path, *options: str, **env: str) -> dict[str, Any]:
    """The spec that `mlo init` writes of the model, as plain values; it is called spec.yaml."""
    mlo("init", str(model), "--output", "spec.yaml", *options, **env)
    document: dict[str, Any] = yaml.safe_load((project / "spec.yaml").read_text())
    return document


@pytest.mark.parametrize(
    ("file", "kind", "inputs", "dims"),
    [
        ("torch/exported.pt2", "exported-program", [("input", "float32", ["batch", 1, 8, 8])], {"batch": (1, 16)}),
        ("tensorflow/whole.keras", "keras", [("image", "float32", ["batch", 8, 8, 1])], {"batch": (1, 64)}),
        ("tensorflow/whole.h5", "keras", [("image", "float32", ["batch", 8, 8, 1])], {"batch": (1, 64)}),
        ("tensorflow/exported", "saved-model", [("image", "float32", ["batch", 8, 8, 1])], {"batch": (1, 64)}),
        ("tensorflow/lite.tflite", "tflite", [("image", "float32", ["batch", 8, 8, 1])], {"batch": (1, 64)}),
        (
            "tensorflow/two.keras",
            "keras",
            [("words", "float32", ["batch", "words_1", 4]), ("flags", "int32", ["batch", 3])],
            {"batch": (1, 64), "words_1": (1, 128)},
        ),
        ("onnx/odd names.onnx", "onnx", [("serving_default_x_0", "float32", ["n", 4])], {"n": (1, 64)}),
    ],
)
def test_a_model_that_describes_its_inputs_gets_a_valid_spec_that_plans(
    mlo: Mlo,
    project: Path,
    zoo: Path,
    file: str,
    kind: str,
    inputs: list[tuple[str, str, list[int | str]]],
    dims: dict[str, tuple[int, int]],
) -> None:
    spec = drafted(mlo, project, zoo / file)
    assert spec["model"]["source"]["kind"] == kind
    assert [(each["name"], each["dtype"], each["shape"]) for each in spec["model"]["inputs"]] == inputs
    assert {name: (dim["min"], dim["max"]) for name, dim in spec["model"]["dims"].items()} == dims
    assert mlo("validate", "spec.yaml").stdout == "spec.yaml: valid\n"
    assert "import" in mlo("plan", "spec.yaml").stdout


def test_a_program_of_keyword_arguments_and_multiples_is_imported_with_its_spec(
    mlo: Mlo, project: Path, zoo: Path
) -> None:
    told = mlo("init", str(zoo / "torch" / "keywords.pt2"), "--output", "spec.yaml").stdout
    assert "the model was imported with this spec" in told
    text = (project / "spec.yaml").read_text()
    model = yaml.safe_load(text)["model"]
    assert [(each["name"], each["shape"]) for each in model["inputs"]] == [
        ("picture", ["batch", "picture_1", 3]),
        ("weight", ["batch"]),
    ]
    assert model["dims"] == {"batch": {"min": 1, "max": 16}, "picture_1": {"min": 8, "max": 64, "multiple_of": 4}}
    assert "QUESTION" not in text


def test_a_transformers_folder_gets_a_spec_that_is_valid_and_plans(mlo: Mlo, project: Path, zoo: Path) -> None:
    spec = drafted(mlo, project, zoo / "torch" / "bert")
    assert spec["model"]["source"]["kind"] == "transformers"
    assert "input_ids" in [each["name"] for each in spec["model"]["inputs"]]
    with np.load(project / "bert-samples.npz") as samples:
        assert (samples["attention_mask"].sum(axis=1) > 0).all()
        assert samples["input_ids"].max() > 1
    mlo("validate", "spec.yaml")
    assert "import" in mlo("plan", "spec.yaml").stdout


@pytest.mark.e2e
def test_a_drafted_spec_applies(mlo: Mlo, project: Path, zoo: Path) -> None:
    drafted(mlo, project, zoo / "onnx" / "odd names.onnx", "--name", "drafted")
    text = (project / "spec.yaml").read_text().replace("optimize_for:", "optimize: {time_budget: 5s}\noptimize_for:")
    (project / "spec.yaml").write_text(text)
    mlo("render", "spec.yaml", "--output", "rendered")
    assert (project / "rendered" / "docker").is_dir()


@pytest.mark.parametrize(
    ("file", "lines"),
    [
        ("torch/weights.safetensors", ["    factory:", "    - {name: input, dtype: float32, shape: }"]),
        ("torch/lightning.ckpt", ["    factory:", "    - {name: input, dtype: float32, shape: }"]),
        ("torch/traced.pt", ["    - {name: input, dtype: float32, shape: }"]),
    ],
)
def test_validate_points_exactly_at_the_lines_to_fill_in(
    mlo: Mlo, project: Path, zoo: Path, file: str, lines: list[str]
) -> None:
    told = mlo("init", str(zoo / file), "--output", "spec.yaml").stderr
    assert "`mlo validate` reports:" in told
    document = json.loads(mlo("validate", "spec.yaml", "--format", "json", code=65).stdout)
    assert [each["span"]["text"].partition("#")[0].rstrip() for each in document["specs"][0]["diagnostics"]] == lines
    assert not list(project.glob("*-samples.npz"))


def test_a_completed_spec_plans(mlo: Mlo, project: Path, zoo: Path) -> None:
    drafted(mlo, project, zoo / "torch" / "traced.pt")
    spec = project / "spec.yaml"
    spec.write_text(spec.read_text().replace("shape: }", "shape: [batch, 1, 8, 8]}"))
    assert "import" in mlo("plan", "spec.yaml").stdout


def test_a_checkpoint_shows_the_location_and_content_of_its_state_dict(mlo: Mlo, project: Path, zoo: Path) -> None:
    drafted(mlo, project, zoo / "torch" / "lightning.ckpt")
    text = (project / "spec.yaml").read_text()
    assert "weights_key: state_dict" in text
    assert "0.weight [4, 1, 3, 3], 2.weight [10, 144]" in text


def test_the_classes_beside_the_spec_are_proposed_as_the_factory(mlo: Mlo, project: Path) -> None:
    drafted(mlo, project, project / "digits.safetensors")
    assert "such as digits_model:DigitsNet" in (project / "spec.yaml").read_text()


def test_an_invalid_name_is_kept_beside_a_valid_one(mlo: Mlo, project: Path, zoo: Path) -> None:
    spec = drafted(mlo, project, zoo / "onnx" / "odd names.onnx")
    assert spec["metadata"]["name"] == "odd-names"
    assert spec["model"]["inputs"][0]["tensor"] == "serving_default_x:0"
    assert spec["model"]["outputs"][0] == {"name": "_1", "tensor": "1", "shape": ["n", 4]}


def test_random_samples_fit_the_model_and_are_called_random_everywhere(mlo: Mlo, project: Path, zoo: Path) -> None:
    done = mlo("init", str(zoo / "tensorflow" / "two.keras"))
    assert "two-samples.npz: written, random inputs" in done.stdout
    with np.load(project / "two-samples.npz") as samples:
        assert {name: (array.dtype.name, array.shape[1:]) for name, array in samples.items()} == {
            "words": ("float32", (32, 4)),
            "flags": ("int32", (3,)),
        }
    assert is_random(project / "two-samples.npz")
    text = (project / "two.yaml").read_text()
    assert "two-samples.npz contains random inputs" in text
    assert "samples" not in yaml.safe_load(text)["model"]
    assert "parity is proven on random inputs only" in mlo("plan", "two.yaml").stdout
    used = re.sub(r"# *samples: two-samples.npz", "samples: two-samples.npz", (project / "two.yaml").read_text())
    assert used != (project / "two.yaml").read_text()
    (project / "two.yaml").write_text(used)
    assert "the random ones of `mlo init`" in mlo("plan", "two.yaml").stdout


def test_given_samples_are_used_and_no_others_are_made(mlo: Mlo, project: Path, zoo: Path) -> None:
    np.savez(project / "real.npz", image=np.zeros((2, 8, 8, 1), np.float32))
    spec = drafted(mlo, project, zoo / "tensorflow" / "whole.keras", "--samples", "real.npz")
    assert spec["model"]["samples"] == "real.npz"
    assert not list(project.glob("*-samples.npz"))


def test_paths_are_relative_to_the_spec_wherever_the_model_lies(mlo: Mlo, project: Path, zoo: Path) -> None:
    (project / "specs").mkdir()
    shutil.copy(zoo / "tensorflow" / "lite.tflite", project / "lite.tflite")
    mlo("init", "lite.tflite", "--output", "specs")
    spec = yaml.safe_load((project / "specs" / "lite.yaml").read_text())
    assert spec["model"]["source"]["weights"] == "../lite.tflite"
    assert (project / "specs" / "lite-samples.npz").is_file()
    mlo("plan", "specs/lite.yaml")


def test_nothing_is_written_into_a_models_folder(mlo: Mlo, project: Path, zoo: Path) -> None:
    model = project / "ranker"
    shutil.copytree(zoo / "tensorflow" / "exported", model)
    before = sorted(model.rglob("*"))
    for options, env, told in (
        (("ranker", "--output", "ranker"), {}, "choose another --output"),
        (("ranker",), {"MLO_HOME": str(model / ".mlo")}, "set MLO_HOME to a folder outside of the model's"),
    ):
        said = mlo("init", *options, code=64, **env).stderr
        assert "error[E146]" in said
        assert told in said
    assert sorted(model.rglob("*")) == before
    mlo("init", "ranker", "--no-run")
    assert sorted(model.rglob("*")) == before


def test_standard_output_only_gets_the_spec(mlo: Mlo, project: Path, zoo: Path) -> None:
    before = {path.name for path in project.iterdir()}
    done = mlo("init", str(zoo / "tensorflow" / "lite.tflite"), "--output", "-")
    assert yaml.safe_load(done.stdout)["metadata"]["name"] == "lite"
    assert {path.name for path in project.iterdir()} == before


def test_json_follows_its_schema(mlo: Mlo, project: Path, zoo: Path) -> None:
    whole = json.loads(mlo("init", str(zoo / "tensorflow" / "lite.tflite"), "--json").stdout)
    weights = json.loads(mlo("init", "digits.safetensors", "--json", "--name", "bare").stdout)
    for document in (whole, weights):
        conforms(document, "init")
    assert (whole["spec"], whole["samples"], whole["valid"]) == ("lite.yaml", "lite-samples.npz", True)
    assert weights["valid"] is False
    assert [each["message"] for each in weights["diagnostics"]] == ["`factory` has no value", "`shape` has no value"]
    remedies = [each["remedy"] for each in weights["diagnostics"]]
    assert remedies == [
        "add a value, such as `factory: digits_model:DigitsNet`",
        "add a value, such as `shape: [batch, 3, 224, 224]`",
    ]


def test_shapes_that_the_file_does_not_have_are_those_of_the_samples(mlo: Mlo, project: Path) -> None:
    np.savez(project / "real.npz", image=np.zeros((3, 1, 8, 8)), labels=np.zeros(3, np.int64))
    whole = json.loads(mlo("init", "digits.safetensors", "--samples", "real.npz", "--json", "--name", "bare").stdout)
    assert [each["message"] for each in whole["diagnostics"]] == ["`factory` has no value"]
    spec = yaml.safe_load((project / "bare.yaml").read_text())
    assert spec["model"]["inputs"] == [{"name": "image", "dtype": "float32", "shape": ["batch", 1, 8, 8]}]
    assert spec["model"]["dims"] == {"batch": {"min": 1, "max": 64}}


def test_nothing_is_overwritten_without_force(mlo: Mlo, project: Path, zoo: Path) -> None:
    model = str(zoo / "tensorflow" / "lite.tflite")
    (project / "lite.yaml").write_text("mine")
    assert "lite.yaml already exists" in mlo("init", model, code=64).stderr
    assert (project / "lite.yaml").read_text() == "mine"
    mlo("init", model, "--force")
    (project / "lite.yaml").unlink()
    assert "lite-samples.npz already exists" in mlo("init", model, code=64).stderr
    mlo("init", model, "--force")


def test_real_samples_are_not_overwritten_at_all(mlo: Mlo, project: Path, zoo: Path) -> None:
    np.savez(project / "lite-samples.npz", image=np.zeros((2, 8, 8, 1), np.float32))
    told = mlo("init", str(zoo / "tensorflow" / "lite.tflite"), "--force", code=64).stderr
    assert "was not written by `mlo init`" in told
    assert "--samples lite-samples.npz" in told
    with np.load(project / "lite-samples.npz") as kept:
        assert kept["image"].shape == (2, 8, 8, 1)


def test_another_signature_of_a_saved_model_is_an_option(mlo: Mlo, project: Path, zoo: Path) -> None:
    model = zoo / "tensorflow" / "renamed"
    told = mlo("init", str(model), code=1).stderr
    assert "no signature `serving_default`" in told
    assert "--signature NAME" in told
    assert "-->" not in told
    spec = drafted(mlo, project, model, "--signature", "score")
    assert spec["model"]["source"]["signature"] == "score"
    mlo("plan", "spec.yaml")


def cut(file: Path, to: Path) -> Path:
    content = file.read_bytes()
    to.write_bytes(content[: len(content) * 2 // 3])
    return to


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("torch/exported.pt2", "E143"),
        ("torch/weights.safetensors", "E302"),
        ("tensorflow/whole.keras", "E143"),
        ("tensorflow/whole.h5", "E302"),
        ("tensorflow/lite.tflite", "E302"),
        ("onnx/odd names.onnx", "E302"),
    ],
)
def test_a_truncated_model_is_refused_and_nothing_is_written(
    mlo: Mlo, project: Path, zoo: Path, file: str, code: str
) -> None:
    damaged = cut(zoo / file, project / Path(file).name)
    told = mlo("init", damaged.name, code=64 if code == "E143" else 1).stderr
    assert f"error[{code}]" in told
    assert "= help" in told
    assert "-->" not in told
    assert not list(project.glob(f"{damaged.stem}*.yaml"))


def test_a_framework_that_is_missing_is_reported_with_its_extra(
    mlo: Mlo, project: Path, tmp_path: Path, zoo: Path
) -> None:
    # Python with mlo and without site-packages finds no framework.
    site = tmp_path / "site"
    site.mkdir()
    for package in ("click", "pydantic", "pydantic_core", "annotated_types", "typing_extensions.py", "yaml", "_yaml",
                    "typing_inspection", "psutil", "numpy", "numpy.libs", "wcwidth", "rich", "markdown_it", "mdurl",
                    "pygments", "jinja2", "markupsafe", "aiohttp"):  # fmt: skip
        found = Path(np.__file__).parents[1] / package
        if found.exists():
            (site / package).symlink_to(found)
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-m", "orchestrator.cli", "init", str(zoo / "tensorflow" / "whole.keras")],
        cwd=project,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{site}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "error[E202]: keras models need keras, " in done.stderr
    assert "pip install 'mlo[tensorflow]'" in done.stderr
