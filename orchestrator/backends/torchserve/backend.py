"""TorchScript and exported programs on TorchServe 0.12, with safe settings instead of harmful defaults.

The settings and their reasons are in `config.py`, the handler in `frameworks/pytorch/torchserve_handler.py`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from orchestrator.backends.backend import InProcess, Launch, Server, ServingBackend, Unavailable
from orchestrator.backends.folder import copy_file, json_text, model_file, read_json, write_file
from orchestrator.backends.torchserve import config
from orchestrator.backends.torchserve.metrics import METRICS
from orchestrator.spec.signature import Signature

if TYPE_CHECKING:
    from orchestrator.backends.backend import ServingSettings

__all__ = ["TORCHSERVE", "TorchServe"]

_HANDLER = Path(__file__).parents[2] / "frameworks" / "pytorch" / "torchserve_handler.py"
_JAVA = 17
_BASE = "python:3.11-slim-bookworm"


def _stated_version(java: Path) -> str:
    """The file in which a Java runtime states its version, which takes no start of it; empty if there is none."""
    try:
        return (java.resolve().parents[1] / "release").read_text("utf-8", errors="replace")
    except (OSError, IndexError):
        return ""


@cache
def _printed_version(java: str) -> str:
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False)
    return answer.stderr + answer.stdout


class TorchServe(ServingBackend):
    """See `orchestrator.backends.backend.ServingBackend`."""

    name = "torchserve"
    enforces = True
    runtimes = MappingProxyType(
        {
            "torchscript": InProcess("orchestrator.frameworks.pytorch.runtime:open_torchscript", ("torch",)),
            "exported-program": InProcess("orchestrator.frameworks.pytorch.runtime:open_exported_program", ("torch",)),
        }
    )
    tools = ("torchserve", "torch", "numpy", "packaging", "pillow", "psutil", "pyyaml")
    least_startup = 120
    least_memory = 200 * 2**20  # of 250 for a process with PyTorch alone; Java needs more beside it
    maintained = False
    sources = (_HANDLER,)
    server = Server(
        dockerfile="torchserve.Dockerfile.jinja",
        base=_BASE,
        gpu_base=_BASE,
        port=8080,
        metrics_port=8082,
        metrics_path="/metrics",
        metrics=METRICS,
        live_path="/ping",  # fails with 500 if the worker does not restart
        protocol="JSON of the Open Inference Protocol v2",
        request_seconds=30,
        answers_after_sigterm=False,
        ready_failures=6,  # half a minute: a full queue refuses this request too
        readme="torchserve.md.jinja",
        notice="TorchServe gets no more security fixes: keep it behind a gateway.",
        runs_from_tmp=True,  # native libraries
    )

    def unavailable(self, devices: int = 0) -> Unavailable | None:
        """No Java or too old a Java, no package `torchserve`, or no way to count GPUs; each with what to do."""
        if importlib.util.find_spec("ts") is None:
            return Unavailable("the package torchserve is not installed", "pip install 'mlo[torchserve]'")
        if devices and (reason := _cannot_count_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))):
            return reason
        newer = f"install a Java runtime, version {_JAVA} or later"
        java = shutil.which("java")
        if java is None:
            return Unavailable("java is not on the PATH", newer)
        try:
            said = _stated_version(Path(java)) or _printed_version(java)
        except (OSError, subprocess.TimeoutExpired) as error:
            return Unavailable(f"{java} does not run: {error}", newer)
        found = re.search(r'(?:version |JAVA_VERSION=)"(?:1\.)?(\d+)', said)
        if found is None:
            return Unavailable(f"{java} does not print its version", newer)
        if int(found[1]) < _JAVA:
            return Unavailable(f"{java} is Java {found[1]}", newer)
        return None

    def present(self, devices: int = 0) -> bool:  # noqa: ARG002
        """Whether there is a Java; the server itself comes with a package."""
        return shutil.which("java") is not None

    def notes(self, devices: int = 0) -> tuple[str, ...]:  # noqa: ARG002
        """That it gets no security fixes."""
        note = "TorchServe is no longer maintained and gets no security fixes; it never wins a tie. To exclude it, set another"
        return (f"{note} `serving.backend` or use a platform rule",)

    def devices(self, folder: Path) -> int:
        """`number_of_gpu` of config.properties."""
        return config.number_of_gpu((folder / "config.properties").read_text(encoding="utf-8"))

    def signature(self, folder: Path, name: str) -> Signature:
        """The signature in `signature.json`, with which the handler checks requests."""
        return Signature.from_json(read_json(folder / "model-store" / name / "signature.json"))

    def queue(self, folder: Path, name: str) -> str:
        """`jobQueueSize` of the model's configuration."""
        text = (folder / "model-store" / name / "model-config.yaml").read_text(encoding="utf-8")
        return f"{config.queue_size(text)} requests"

    def refuses(self, signature: Signature) -> str | None:
        """Strings, because tensors of PyTorch only hold numbers."""
        texts = [tensor.name for tensor in signature.inputs if tensor.dtype == "string"]
        return f"the input {texts[0]} is a string, but PyTorch has no string tensors" if texts else None

    def write_folder(self, settings: ServingSettings, variant: Path, folder: Path) -> None:
        """Write the configuration and `model-store/NAME/`, an unpacked model archive."""
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
        """Java itself, without TorchServe's launcher, which neither forwards SIGTERM nor waits.

        Only inference listens on a known port; management and metrics listen on sockets inside `scratch`.
        """
        argv = [sys.executable, "-m", "orchestrator.backends.torchserve.start"]
        argv += [str(folder), str(scratch), str(port)]
        return Launch(argv=tuple(argv), env={"MLO_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}, cwd=scratch)

    def ready_path(self, name: str) -> str:
        """A request that goes through the worker, because `/ping` is "Healthy" long before a model is loaded."""
        return f"/predictions/{name}/1/ready"


def _cannot_count_gpus(visible: str | None) -> Unavailable | None:
    """Why TorchServe cannot count GPUs; `visible` is `CUDA_VISIBLE_DEVICES`, which it parses as numbers if it is set."""
    if visible:
        if all(number.isdecimal() for number in visible.split(",")):
            return None
        reason = f"TorchServe only accepts numbers in CUDA_VISIBLE_DEVICES, but it is {visible!r}"
        return Unavailable(reason, "set GPU numbers")
    if shutil.which("nvidia-smi") is None:
        reason = "nvidia-smi, with which TorchServe counts GPUs, is not on the PATH"
        return Unavailable(reason, "install it with NVIDIA's driver")
    return None


TORCHSERVE = TorchServe()
