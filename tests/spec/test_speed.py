"""Reading specs costs little more than parsing them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from orchestrator.spec.load import load_spec
from tests.spec.conftest import BASE

pytestmark = pytest.mark.processes


@pytest.mark.alone
def test_a_spec_is_read_and_checked_in_the_time_that_parsing_its_text_takes_twice(folder: Path) -> None:
    files = [folder / f"spec{i}.yaml" for i in range(200)]
    for i, file in enumerate(files):
        file.write_text(BASE.replace("name: digits\n", f"name: digits-{i}\n"))
    ratios = []
    for part in range(0, len(files), 50):  # in turns, since the machine's speed may change meanwhile
        started = time.process_time()
        for file in files[part : part + 50]:
            yaml.load(file.read_text(), yaml.SafeLoader)
        parsed = time.process_time()
        digests = {load_spec(file).digest for file in files[part : part + 50]}
        ratios.append((time.process_time() - parsed) / (parsed - started))
        assert len(digests) == 50
    assert min(ratios) < 2, ratios


def test_loading_imports_nothing_heavy_and_prints_nothing(folder: Path) -> None:
    (folder / "spec.yaml").write_text(BASE)
    code = (
        "import sys; from orchestrator.spec.load import load_spec; load_spec('spec.yaml');"
        "heavy = {'numpy', 'torch', 'onnx', 'onnxruntime', 'aiohttp', 'jinja2', 'psutil', 'click', 'jsonschema', 'wcwidth',"
        "'difflib', 'ssl', 'orchestrator.spec.platform'};"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder,
                          env={"PYTHONPATH": str(Path(__file__).parents[2])})  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
