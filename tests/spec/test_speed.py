"""Reading specs costs milliseconds."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.spec.load import load_spec
from tests.spec.conftest import BASE

pytestmark = pytest.mark.processes


@pytest.mark.alone
def test_a_thousand_specs_load_within_five_seconds_of_cpu_time(folder: Path) -> None:
    files = [folder / f"spec{i}.yaml" for i in range(1000)]
    for i, file in enumerate(files):
        file.write_text(BASE.replace("name: digits\n", f"name: digits-{i}\n"))
    started = time.process_time()
    digests = {load_spec(file).digest for file in files}
    assert time.process_time() - started < 5
    assert len(digests) == 1000


def test_loading_imports_nothing_heavy_and_prints_nothing(folder: Path) -> None:
    (folder / "spec.yaml").write_text(BASE)
    code = (
        "import sys; from orchestrator.spec.load import load_spec; load_spec('spec.yaml');"
        "heavy = {'numpy', 'torch', 'onnx', 'onnxruntime', 'aiohttp', 'jinja2', 'psutil', 'click', 'jsonschema', 'wcwidth',"
        "'difflib', 'orchestrator.spec.platform'};"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder,
                          env={"PYTHONPATH": str(Path(__file__).parents[2])})  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
