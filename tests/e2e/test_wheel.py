"""The wheel, installed into a clean environment and run from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build leaves folders beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    for name in ("orchestrator", "templates", "charts"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, sources / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(sources)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return next(folder.glob("*.whl"))


def environment(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    return folder / "bin"


def run(program: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MLO_HOME")}
    return subprocess.run(
        [str(program), *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder that is not the checkout, with the digits example for ONNX alone."""
    for name in ("digits.npz", "digits.safetensors", "digits_model.py"):
        shutil.copy(ROOT / "specs" / "digits" / name, tmp_path / name)
    text = (ROOT / "specs" / "digits" / "digits.yaml").read_text(encoding="utf-8")
    text = text.replace("precisions: [fp32, bf16, int8]", "precisions: [fp32]\n  formats: [onnx]")
    text = text.replace("throughput: 200/s}", "throughput: 200/s, enforce: false}").replace("[1, 8, 32]", "[1]")
    text += "serving: {backend: onnxruntime, wire: json}\n"
    (tmp_path / "digits.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def test_the_core_needs_no_framework(wheel: Path, elsewhere: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    bin_ = environment(tmp_path_factory.mktemp("core") / "venv")
    install = [str(bin_ / "pip"), "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), str(wheel)]
    subprocess.run(install, check=True, timeout=280)
    installed = subprocess.run(
        [str(bin_ / "pip"), "list"], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert not {"torch", "tensorflow", "onnx", "onnxruntime"} & set(installed)
    assert run(bin_ / "mlo", elsewhere, "validate", "digits.yaml").stdout == "digits.yaml: valid\n"
    refused = run(bin_ / "mlo", elsewhere, "plan", "digits.yaml")
    assert refused.returncode == 65
    assert "pip install 'mlo[torch]'" in refused.stderr


def test_an_installed_mlo_renders_from_another_folder(
    wheel: Path, elsewhere: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bin_ = environment(tmp_path_factory.mktemp("full") / "venv")
    subprocess.run([str(bin_ / "pip"), "install", "--quiet", "--no-deps", str(wheel)], check=True, timeout=120)
    # The frameworks are taken from the environment that runs the tests; mlo itself is not, since a path that a .pth
    # file names is searched for packages only.
    site = next((bin_.parent / "lib").glob("python*/site-packages"))
    (site / "frameworks.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    where = run(bin_ / "python", elsewhere, "-P", "-c", "import orchestrator; print(orchestrator.__file__)")
    assert where.stdout.startswith(str(site))
    done = run(bin_ / "mlo", elsewhere, "render", "digits.yaml", "--output", "build")
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "build" / "docker" / "Dockerfile").is_file()
    assert (elsewhere / "build" / "chart" / "Chart.yaml").is_file()
    assert (elsewhere / "build" / "docker" / "mlo_server" / "__main__.py").is_file()
    told = run(bin_ / "mlo", elsewhere, "report", "digits.yaml", "--output", "report.html")
    assert told.returncode == 0, told.stderr
    assert "uPlot" in (elsewhere / "report.html").read_text(encoding="utf-8")
