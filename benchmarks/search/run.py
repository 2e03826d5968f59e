"""Compares the search with an exhaustive one: how near its result comes, and in how much of the time.

    python benchmarks/search/run.py [MODEL ...] [--keep FOLDER] [--short] [--check]

Models are `digits` (the CNN of specs/digits), `minilm` (all-MiniLM-L6-v2, real sentences) and `resnet50` (random weights). Each is made
into ONNX and optimized for latency at batch 1 on two CPUs, on ONNX Runtime and OpenVINO:

1. The search, as `mlo apply` runs it, up to the runtime benchmark of its finalists, with a time budget that is longer than it needs.
2. The exhaustive search. Every variant is made and verified on the backends that run it: each set of passes, each option worth trying
   of a pass, and what results if two of all those are combined; and what failed its gates also with layers left in float32.
   Every one that holds its gates is then measured with every combination of the options of its runtime (threads, and for ONNX
   Runtime spinning, graph optimization and memory arena; without spinning on one thread, which has nothing to spin for). All
   are measured alike: the plain model and a group of combinations in twenty turns, so that groups are compared by ratios to it.
3. The eight fastest of 2 and the result of 1 once more, in turns. This time counts for neither.

The time of a search is that during which its steps ran. In 2, what is refused and what fails does not count, and each combination gets
about a second, no more than the search gives to one: with longer measurements, the search's share of the time would only be less.

`--keep FOLDER` keeps all finished steps there: run the same command again after an interruption, and it goes on (with another folder once
anything has changed). `--short` tries the script: no combinations, and only the threads of the runtime; its result is not kept. `--check`
fails unless results are within 5 % in at most 30 % of the time.

The result of each model is kept in results/MODEL.json, so that models can be run one at a time, and results.md and the README's
table are written from all of them.
A quiet machine with 8 GiB; about 20 minutes for digits, 35 for minilm, 60 for resnet50.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE.parent / "server"), str(HERE.parent)]  # the scripts of these folders are no package

from bench import Bench, Found, exhaustive, finals, searched  # noqa: E402
from marked import write_marked  # noqa: E402
from models import resnet50  # noqa: E402
from results import Result, Side, load_average, read_all, table  # noqa: E402

SPEC = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {{name: {name}}}
model:
{model}
optimize: {{formats: [onnx], precisions: [fp32, int8], time_budget: {budget}, search: {search}}}
benchmark: {{batch_sizes: [1]}}
hardware: {{cpus: 2, memory: 4Gi}}
slo: {{enforce: false}}
optimize_for: latency
deploy: {{target: folder, path: served}}
"""


@dataclass(frozen=True)
class Model:
    """A model, as a spec describes it.

    Attributes:
        text: of `model:`, indented.
        budget: of the search; longer than it needs, so that what is compared is the search and not its budget.
        group_size: combinations that are measured in turns; each is a process with the model in memory.
    """

    name: str
    text: str
    budget: str
    group_size: int

    def spec(self, folder: Path, *, search: bool) -> Path:
        """Write the spec."""
        path = folder / ("search.yaml" if search else "plain.yaml")
        text = SPEC.format(name=self.name, model=self.text, budget=self.budget, search=str(search).lower())
        path.write_text(text, encoding="utf-8")
        return path


MODELS = {
    "digits": Model(
        "digits",
        "  source: {kind: pytorch, weights: digits.safetensors, factory: digits_model:DigitsNet}\n"
        "  inputs: [{name: image, dtype: float32, shape: [batch, 1, 8, 8]}]\n"
        "  outputs: [{name: logits, shape: [batch, 10]}]\n"
        "  dims: {batch: {min: 1, max: 64}}\n"
        "  samples: digits.npz",
        "15m",
        24,
    ),
    "minilm": Model(
        "minilm",
        "  source: {kind: transformers, weights: model}\n"
        "  dims: {batch: {min: 1, max: 64}, sequence: {min: 1, max: 128}}\n"
        "  samples: samples.npz",
        "30m",
        16,
    ),
    "resnet50": Model(
        "resnet50",
        "  source: {kind: onnx, weights: model.onnx}\n  dims: {batch: {min: 1, max: 8}}\n  samples: samples.npz",
        "60m",
        12,
    ),
}


def prepare(name: str, folder: Path) -> None:
    """Write the model's files into the folder, unless an earlier run has."""
    if folder.is_dir():
        return
    partly = folder.with_name(f"{folder.name}.partly")
    shutil.rmtree(partly, ignore_errors=True)
    partly.mkdir(parents=True)
    specs = ROOT / "specs"
    if name == "digits":
        for each in ("digits.safetensors", "digits_model.py", "digits.npz"):
            shutil.copy(specs / "digits" / each, partly / each)
    elif name == "minilm":
        if not (specs / "minilm" / "samples.npz").is_file():
            subprocess.run([sys.executable, str(specs / "minilm" / "fetch.py")], check=True)
        shutil.copytree(specs / "minilm" / "model", partly / "model")
        shutil.copy(specs / "minilm" / "samples.npz", partly / "samples.npz")
    else:
        resnet50(partly / "model.onnx")
        images = np.random.default_rng(1).standard_normal((8, 3, 224, 224), np.float32)
        np.savez(partly / "samples.npz", x=images)
    partly.rename(folder)


def measure(model: Model, folder: Path, *, short: bool) -> Result:
    """Both searches for one model, each with a store of its own in the folder."""
    load = load_average()
    if load > 0.5:
        print(f"the load average is {load:.1f}: on a machine with other work, times say little", flush=True)
    prepare(model.name, folder / "model")
    specs = [model.spec(folder / "model", search=search) for search in (True, False)]
    search = searched(Bench(specs[0], specs[1], folder / "searched", model.name))
    bench = Bench(specs[0], specs[1], folder / "exhaustive", model.name)
    every = exhaustive(bench, group_size=model.group_size, short=short)
    best, times = finals(bench, search.best[0], every.best)
    return Result.now(
        model.name,
        _side(search, search.best[0].name),
        _side(every, best.name),
        (times.ratio, times.low, times.high),
        load,
    )


def _side(found: Found, candidate: str) -> Side:
    return Side(candidate, found.made, found.measured, round(found.seconds, 1))


def main() -> int:
    """Measure, keep the results, and print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[[], *MODELS], metavar="MODEL", help="all without any")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for finished steps, so that a second run goes on")
    parser.add_argument("--short", action="store_true", help="try the script")
    parser.add_argument("--check", action="store_true", help="fail if a limit is not kept")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(prefix="mlo-search-") as temporary:
        folder = Path(temporary) if arguments.keep is None else arguments.keep.resolve()
        for name in arguments.models or MODELS:
            results.append(measure(MODELS[name], folder / name, short=arguments.short))
            if not arguments.short:
                results[-1].write(HERE / "results")
    print(table(results))
    if not arguments.short:
        kept = read_all(HERE / "results", list(MODELS))
        text = table(kept, missing=[name for name in MODELS if name not in {each.model for each in kept}])
        (HERE / "results.md").write_text(
            f"# The search against an exhaustive one\n\nWritten by `make searchbench`.\n\n{text}", encoding="utf-8"
        )
        write_marked(ROOT / "README.md", "search", text.rstrip("\n"))
    return int(arguments.check and not all(each.kept for each in results))


if __name__ == "__main__":
    sys.exit(main())
