"""The process that has TensorFlow, and the models of TensorFlow and LiteRT: built once for all workers of a run."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.frameworks.step_process import StepProcess
from tests.frameworks.tensorflow_case import CASES, Converted

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def tensorflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StepProcess]:
    """A process for everything that imports TensorFlow."""
    process = StepProcess(tmp_path_factory.mktemp("tensorflow"))
    yield process
    process.close()


@pytest.fixture(scope="session")
def keras_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what `build_keras.py` builds."""
    return _built("tensorflow/build_keras.py", tmp_path_factory)


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what `build_saved_models.py` builds."""
    return _built("tensorflow/build_saved_models.py", tmp_path_factory)


@pytest.fixture(scope="session")
def models_to_convert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what `build_models_to_convert.py` builds."""
    return _built("tensorflow/build_models_to_convert.py", tmp_path_factory)


@pytest.fixture(scope="session")
def converted(tensorflow: StepProcess, models_to_convert: Path) -> Callable[[str], Converted]:
    """Gives one of `CASES` by its name; its steps run when they are first asked for."""
    given: dict[str, Converted] = {}

    def case(name: str) -> Converted:
        return given.setdefault(name, Converted(CASES[name], tensorflow, models_to_convert))

    return case


def _built(script: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script builds, in a folder that the workers of a run share: the first that needs it runs the script."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / Path(script).stem
    with folder.with_suffix(".lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = tmp_path_factory.mktemp(folder.name)
            built = subprocess.run(
                [sys.executable, HERE / script, unfinished], capture_output=True, text=True, check=False
            )
            assert built.returncode == 0, built.stderr[-4000:]
            unfinished.rename(folder)
    return folder
