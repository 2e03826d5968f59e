"""Helm, the program: releases of one namespace, installed, upgraded, rolled back, repaired and removed."""

from __future__ import annotations

import json
import math
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.process.children import guarded
from orchestrator.targets.helm_program import helm_program

__all__ = ["Helm", "HelmFailed", "HelmRevision", "found_helm"]

CHART = "mlo-model"
"""The chart's name, by which a release of ours is told from others."""

_SECONDS = 120.0
"""For a command that waits for no pods."""
_ENDING = 60.0
"""Seconds that Helm gets for what is not waiting."""
_TERMINATION = 20.0
_LOOK = 0.5

_PENDING = ("pending-install", "pending-upgrade", "pending-rollback", "uninstalling")


_KLOG = re.compile(r"[IW]\d{4} ")
"""How lines of Kubernetes' own libraries begin that are no errors: a letter, the month and the day."""


class HelmFailed(Exception):
    """Helm ended with an error; the message is its last lines."""


@dataclass(frozen=True, slots=True)
class HelmRevision:
    """One revision of a release as Helm records it; its number is Helm's own, not mlo's.

    Attributes:
        number: Helm's.
        status: Helm's word, such as `deployed`.
        chart: name and version.
        description: what Helm, or mlo, wrote about it.
    """

    number: int
    status: str
    chart: str
    description: str

    @property
    def unsettled(self) -> bool:
        """Whether an operation is under way or has failed, or the client that began it died before it was rolled back."""
        return self.status in (*_PENDING, "failed")

    @property
    def ours(self) -> bool:
        """Whether it is a release of mlo's chart."""
        return self.chart.rpartition("-")[0] == CHART


class Helm:
    """Helm for one namespace of one context.

    Args:
        context: of the kubeconfig; None for the cluster that this process runs in.
        namespace: of all releases.
        permit: is called before each command that changes a release; what it raises is raised.
    """

    def __init__(self, context: str | None, namespace: str, permit: Callable[[], None] = lambda: None) -> None:
        self._permit = permit
        self._place = ["--namespace", namespace, *([] if context is None else ["--kube-context", context])]

    def history(self, release: str) -> tuple[HelmRevision, ...]:
        """All revisions of a release, in ascending order; empty if there is none.

        Raises:
            HelmFailed: it cannot be read.
        """
        try:
            found = json.loads(self._run("history", release, "--output", "json"))
        except HelmFailed as failed:
            if "not found" in str(failed):
                return ()
            raise
        return tuple(
            HelmRevision(int(each["revision"]), each["status"], each["chart"], each.get("description", ""))
            for each in found
        )

    def manifest(self, release: str) -> str:
        """The manifests of the release as YAML documents; empty if there is none.

        Raises:
            HelmFailed: it cannot be read.
        """
        try:
            return self._run("get", "manifest", release)
        except HelmFailed as failed:
            if "not found" in str(failed):
                return ""
            raise

    def preview(self, release: str, chart: Path, values: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        """The objects that an upgrade would apply, for this cluster's version and APIs; changes nothing.

        Args:
            release: its name.
            chart: the chart's folder.
            values: of the chart.

        Raises:
            HelmFailed: the chart refuses the values, or the cluster lacks a kind.
        """
        with _values_file(values) as file:
            answer = self._run(
                *("upgrade", "--install", release, str(chart), "--values", str(file)),
                *("--reset-values", "--dry-run=server", "--output", "json"),
            )
        manifest = json.loads(answer)["manifest"]
        return tuple(each for each in yaml.safe_load_all(manifest) if isinstance(each, dict))

    def upgrade(
        self,
        release: str,
        chart: Path,
        values: Mapping[str, Any],
        *,
        description: str,
        seconds: float,
        watch: Callable[[], None],
    ) -> None:
        """Install or upgrade a release by server-side apply, and wait until its pods are ready.

        Args:
            release: its name.
            chart: the chart's folder.
            values: of the chart.
            description: for Helm's own history.
            seconds: that Helm waits.
            watch: called every half second; what it raises ends Helm and is raised.

        Raises:
            HelmFailed: it failed, or the pods are not ready in time. What was installed is left as it is.
        """
        self._permit()
        server_side = ["--server-side=true", "--force-conflicts"] if self._major() >= 4 else []
        with _values_file(values) as file:
            self._run(
                *("upgrade", "--install", release, str(chart), "--values", str(file)),
                *("--reset-values", "--history-max", "10", "--description", description),
                *("--wait", "--timeout", f"{math.ceil(seconds)}s", *server_side),
                watch=watch,
                seconds=seconds + _ENDING,
            )

    def rollback(self, release: str, number: int, seconds: float, *, wait: bool = True) -> None:
        """Return to one of Helm's revisions, or finish one that was interrupted.

        Raises:
            HelmFailed: it failed, or the pods are not ready in time.
        """
        self._permit()
        server_side = ["--server-side=true", "--force-conflicts"] if self._major() >= 4 else []
        waiting = ["--wait"] if wait else []
        arguments = ("rollback", release, str(number), *waiting, "--timeout", f"{math.ceil(seconds)}s", *server_side)
        self._run(*arguments, seconds=seconds + _ENDING)

    def uninstall(self, release: str) -> None:
        """Remove a release and all that it made; no error if there is none. Its pods end by themselves afterwards.

        Raises:
            HelmFailed: something of it cannot be removed.
        """
        self._permit()
        self._run("uninstall", release, "--ignore-not-found")

    def _major(self) -> int:
        version = self._run("version", "--template", "{{.Version}}", placed=False)
        number = version.strip().lstrip("v").partition(".")[0]
        return int(number) if number.isdigit() else 3

    def _run(
        self,
        *arguments: str,
        watch: Callable[[], None] | None = None,
        placed: bool = True,
        seconds: float | None = None,
    ) -> str:
        """Run Helm; what it printed on standard output.

        Helm limits how long it waits for pods, and not how long a server may take to answer: that is what `seconds` is for.
        """
        seconds = _SECONDS if seconds is None else seconds
        deadline = time.monotonic() + seconds
        with (
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            subprocess.Popen(
                guarded([found_helm(), *arguments, *(self._place if placed else ())]),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,  # Ctrl-C reaches mlo, which ends Helm in its own way
            ) as helm,
        ):
            try:
                while helm.poll() is None:
                    try:
                        helm.wait(_LOOK)
                    except subprocess.TimeoutExpired:
                        if time.monotonic() > deadline:
                            raise HelmFailed(_unfinished(arguments[0], seconds)) from None
                        if watch is not None:
                            watch()
            except BaseException:
                # Helm then notes in its record that the release failed, which a kill would leave pending.
                helm.terminate()
                try:
                    helm.wait(_TERMINATION)
                except subprocess.TimeoutExpired:
                    helm.kill()
                raise
            out.seek(0)
            err.seek(0)
            if helm.returncode == 0:
                return out.read().decode("utf-8", "replace")
            raise HelmFailed(_last_lines(err.read().decode("utf-8", "replace")))


@contextmanager
def _values_file(values: Mapping[str, Any]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mlo-helm-") as folder:
        file = Path(folder) / "values.json"  # JSON is YAML
        file.write_text(json.dumps(values), encoding="utf-8")
        yield file


def found_helm() -> str:
    """The path of the program.

    Raises:
        DeployFailed: E653 it is not installed.
    """
    path = helm_program()
    if path is None:
        raise DeployFailed(
            Diagnostic(
                "E653",
                "helm is not installed",
                cause="releases on a cluster are made by Helm, and neither PATH nor the folder of this Python has a program of that name",
                remedy="install Helm 3.14 or later (https://helm.sh/docs/intro/install), or run `make tools` in mlo's repository",
            )
        )
    return path


def _unfinished(command: str, seconds: float) -> str:
    return f"`helm {command}` timed out: it has not ended within {seconds:.0f} s; the API server may take requests and not answer"


def _last_lines(text: str, count: int = 6) -> str:
    """Helm's error without its warnings."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [
        line
        for line in lines
        if not line.startswith(("WARNING", "level=")) and not _KLOG.match(line) and "level=WARN" not in line
    ]
    return "\n".join((errors or lines)[-count:]).removeprefix("Error: ")
