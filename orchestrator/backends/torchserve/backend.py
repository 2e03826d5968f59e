"""TorchScript and exported programs on TorchServe 0.12, with every default that bites set to what holds.

The settings and their reasons stand in `config.py`, the handler in `frameworks/pytorch/torchserve_handler.py`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.backends.backend import InProcess, Launch, Program
from orchestrator.backends.folder import copy_file, json_text, model_file, write_file
from orchestrator.backends.torchserve import config
from orchestrator.backends.wire import decode_json, encode_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from orchestrator.backends.backend import ServingSettings
    from orchestrator.spec.signature import Signature

__all__ = ["TORCHSERVE", "TorchServe"]

_HANDLER = Path(__file__).parents[2] / "frameworks" / "pytorch" / "torchserve_handler.py"
_JAVA = 17


class TorchServe:
    """See `orchestrator.backends.backend.Backend`."""

    name = "torchserve"
    formats: tuple[str, ...] = ("torchscript", "exported-program")
    runtimes: Mapping[str, InProcess] = MappingProxyType(
        {
            "torchscript": InProcess("orchestrator.frameworks.pytorch.runtime:open_torchscript", ("torch",)),
            "exported-program": InProcess("orchestrator.frameworks.pytorch.runtime:open_exported_program", ("torch",)),
        }
    )
    tools: tuple[str, ...] = ("torchserve", "torch", "numpy", "packaging", "pillow", "psutil", "pyyaml")
    least_startup = 120

    def unavailable(self, devices: int = 0) -> str | None:
        """No Java, a Java that is too old, no package `torchserve`, or no way to count GPUs, each with what to do."""
        if importlib.util.find_spec("ts") is None:
            return "the package torchserve is not installed; run: pip install 'mlo[torchserve]'"
        if devices and (reason := _no_count(os.environ.get("CUDA_VISIBLE_DEVICES"))):
            return reason
        java = shutil.which("java")
        if java is None:
            return f"there is no java on the PATH; install a Java runtime, version {_JAVA} or later"
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False)
        found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
        if found is None:
            return f"{java} does not say its version; install a Java runtime, version {_JAVA} or later"
        if int(found[1]) < _JAVA:
            return f"{java} is Java {found[1]}; install a Java runtime, version {_JAVA} or later"
        return None

    def program(self, devices: int = 0) -> Program | None:  # noqa: ARG002
        """None: the server comes in a package; whichever Java runs it."""
        return None

    def notes(self, devices: int = 0) -> tuple[str, ...]:  # noqa: ARG002
        """Nothing."""
        return ()

    def devices(self, folder: Path) -> int:
        """`number_of_gpu` of config.properties."""
        return config.number_of_gpu((folder / "config.properties").read_text(encoding="utf-8"))

    def refuses(self, signature: Signature) -> str | None:
        """Strings, since tensors of PyTorch hold numbers only."""
        texts = [tensor.name for tensor in signature.inputs if tensor.dtype == "string"]
        return f"the input {texts[0]} is a string, and PyTorch has no tensors of strings" if texts else None

    def write_folder(self, settings: ServingSettings, variant: Path, folder: Path) -> None:
        """Leave the configuration and `model-store/NAME/`, a model that needs no unpacking when it starts."""
        source = model_file(settings.format, variant)
        model = folder / "model-store" / settings.name
        copy_file(source, model / source.name)
        copy_file(_HANDLER, model / "handler.py")
        write_file(model / "signature.json", json_text(settings.signature.as_json()))
        write_file(model / "model-config.yaml", config.model_config(settings, source.name))
        write_file(model / "MAR-INF" / "MANIFEST.json", json_text(config.manifest(settings)))
        write_file(folder / "config.properties", config.properties(settings))
        write_file(folder / "log4j2.xml", config.LOG4J)
        write_file(folder / "jvm.options", config.jvm_options(settings))

    def launch(self, folder: Path, *, port: int, scratch: Path, threads: int) -> Launch:
        """Java itself, without TorchServe's own launcher, which neither forwards SIGTERM nor waits.

        Only inference listens on a port that is known; management and metrics listen on sockets inside `scratch`.
        """
        argv = [sys.executable, "-m", "orchestrator.backends.torchserve.start"]
        argv += [str(folder), str(scratch), str(port)]
        return Launch(argv=tuple(argv), env={"MLO_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}, cwd=scratch)

    def ready_path(self, name: str) -> str:
        """A request that goes through the worker: `/ping` is "Healthy" long before a model is loaded."""
        return f"/predictions/{name}/1/ready"

    def infer_path(self, name: str) -> str:
        """The protocol's path, which TorchServe knows too."""
        return f"/v2/models/{name}/infer"

    def encode(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> tuple[bytes, Mapping[str, str]]:
        """A call as JSON."""
        return encode_json(inputs)

    def decode(
        self,
        body: bytes,
        headers: Mapping[str, str],  # noqa: ARG002
        signature: Signature,  # noqa: ARG002
    ) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs; the handler answers JSON."""
        return decode_json(body)


def _no_count(visible: str | None) -> str | None:
    """Why TorchServe cannot count GPUs; `visible` is `CUDA_VISIBLE_DEVICES`, which it reads as numbers where it is set."""
    if visible:
        if all(number.isdecimal() for number in visible.split(",")):
            return None
        return f"TorchServe reads CUDA_VISIBLE_DEVICES as numbers, and it is {visible!r}"
    if shutil.which("nvidia-smi") is None:
        return "there is no nvidia-smi on the PATH, by which TorchServe counts GPUs; NVIDIA's driver brings it"
    return None


TORCHSERVE = TorchServe()
