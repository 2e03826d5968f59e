"""What three well-known models weigh in each format, and whether the usual claims about formats hold here: `make formatbench`.

Writes results.md and the README's tables. The sizes are the same everywhere; the times are of this machine, as ratios within one run, so it should be quiet.
About ten minutes, and 4 GB of disk for a while.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]  # the scripts of that folder are no package

from marked import write_marked  # noqa: E402

from orchestrator.measure.statistics import compare_rounds  # noqa: E402

MODELS = {"resnet-50": "ResNet-50", "bert-base": "BERT Base", "gpt-2": "GPT-2 Small"}
FORMATS = {
    "state-dict": "PyTorch",
    "saved-model": "TensorFlow",
    "onnx": "ONNX",
    "torchscript": "TorchScript",
    "int8": "int8 (ONNX)",
}
CLAIMED = {
    "resnet-50": (98, 99, 97, 98, 25),
    "bert-base": (440, 438, 438, 440, 110),
    "gpt-2": (548, 550, 548, 548, 137),
}
"""MB, in the order of `FORMATS`, as the table of a lesson on model formats has them."""
NEAR = 0.06
TIMED = ("resnet-50", "bert-base")


def run(script: str, *arguments: str) -> None:
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{script} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def size_cell(found: int, claimed: int) -> str:
    """In MB of 10^6 bytes, and whether it is what is claimed in either kind of MB."""
    near = any(abs(found / unit - claimed) <= NEAR * claimed for unit in (1e6, 2**20))
    return f"{found / 1e6:.0f} MB" if near else f"{found / 1e6:.0f} MB (claimed: {claimed})"


def sizes_table(sizes: Mapping[str, Mapping[str, int]]) -> list[str]:
    lines = [f"| | {' | '.join(FORMATS.values())} |", f"|---|{'---|' * len(FORMATS)}"]
    for name, title in MODELS.items():
        cells = [size_cell(sizes[name][kind], claimed) for kind, claimed in zip(FORMATS, CLAIMED[name], strict=True)]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def ratio(slow: Sequence[float], fast: Sequence[float]) -> tuple[str, float]:
    """How many times as fast the second is, with its 95 % interval."""
    found = compare_rounds(slow, fast)
    high = "?" if found.high is None else f"{found.high:.2f}"
    return f"{found.ratio:.2f} times ({found.low:.2f} to {high})", found.ratio


def holds(found: float, least: float, most: float) -> str:
    return "yes" if least <= found <= most else "**no**: less" if found < least else "**no**: more"


def claims(sizes: Mapping[str, Mapping[str, int]], timings: Mapping[str, Any]) -> list[str]:
    """One line for each claim and model."""
    lines = ["| claim | model | measured | holds |", "|---|---|---|---|"]

    def line(claim: str, name: str, text: str, verdict: str) -> None:
        lines.append(f"| {claim} | {MODELS[name]} | {text} | {verdict} |")

    for name, timing in timings.items():
        single = timing["single"]
        text, found = ratio(single["eager"], single["torchscript"])
        line("TorchScript is 10 to 30 % faster", name, f"{text} as fast as eager", holds(found, 1.1, 1.3))
    for name in MODELS:
        found = sizes[name]["onnx"] / sizes[name]["int8"]
        line("int8 is 4 times smaller", name, f"{found:.2f} times smaller than ONNX in fp32", holds(found, 3.6, 4.4))
    for name, timing in timings.items():
        text, found = ratio(timing["single"]["onnx"], timing["single"]["int8"])
        line("int8 is 2 to 4 times faster", name, f"{text} as fast as ONNX in fp32", holds(found, 2, 4))
    for name, timing in timings.items():
        rows = [int(each) for each in timing["batches"]]
        times = {each: statistics.median(timing["batches"][str(each)]) for each in rows}
        best = max(rows, key=lambda each: each / times[each])
        found = best / times[best] * times[1]
        line(
            "batches give 3 to 10 times the throughput",
            name,
            f"{found:.2f} times with {best} rows",
            holds(found, 3, 10),
        )
    for name, timing in timings.items():
        for kind in ("eager", "onnx"):
            first = timing["first"][kind]
            found = first["first"] / first["steady"]
            line(
                f"the first call takes 10 to 100 times as long ({kind})",
                name,
                f"{found:.1f} times",
                holds(found, 10, 100),
            )
    for name in MODELS:
        found = sizes[name]["state-dict"] / sizes[name]["whole"]
        text = f"{found:.4f} of it: {sizes[name]['whole'] - sizes[name]['state-dict']:,} bytes less"
        line("a state dict is smaller than a whole model", name, text, "yes" if found < 1 else "**no**")
    return lines


def processor() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return next(
        (line.partition(": ")[2] for line in text.splitlines() if line.startswith("model name")), platform.machine()
    )


def main() -> None:
    """Make the files, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="a folder for the files, used again if they are there")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="mlo-formats-") as scratch:
        folder = options.keep or Path(scratch)
        sizes: dict[str, dict[str, int]] = {}
        timings: dict[str, Any] = {}
        for name in MODELS:
            own = folder / name
            for script, made in (("torch_files.py", "int8"), ("tensorflow_files.py", "saved-model")):
                if not any((own / made).rglob("*.*")):
                    print(f"{name}: {script}", flush=True)
                    run(script, name, str(own))
            sizes[name] = {kind: size(own / kind) for kind in (*FORMATS, "whole")}
        for name in TIMED:
            print(f"{name}: timing", flush=True)
            result = Path(scratch, f"{name}.json")
            run("timing.py", name, str(folder / name), str(result))
            timings[name] = json.loads(result.read_text(encoding="utf-8"))
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    extensions = [each for each in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8") if f" {each} " in flags]
    machine = (
        f"{processor()}, {os.cpu_count()} CPUs ({', '.join(extensions)}), two threads, load average {load:.1f} before; "
        f"Python {platform.python_version()}. Random weights. 1 MB is 10^6 bytes; a size counts as the claimed one if it is "
        "within 6 % of it in MB or MiB."
    )
    text = "\n".join([machine, "", *sizes_table(sizes), "", *claims(sizes, timings)])
    (HERE / "results.md").write_text(f"Written by `make formatbench`.\n\n{text}\n", encoding="utf-8")
    write_marked(HERE.parents[1] / "README.md", "formats", text)
    print(text)


if __name__ == "__main__":
    main()
