"""Wheels on this machine: fetched by pip with its own configuration and credentials, or found in a folder.

Whatever a private index needs stays here: the build gets files, never a credential, so no layer and no history can have one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.backends.versions import cpu_indexes
from orchestrator.store.digest import digest_file

if TYPE_CHECKING:
    from orchestrator.images.settings import BuildSettings

__all__ = ["MACHINES", "WheelsMissing", "fetch_wheels", "hashes_in_folder", "hashes_in_index"]

MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
"""Platform of an image → the machine in the names of its wheels."""

_MANYLINUX = tuple(
    f"manylinux{version}"
    for version in (
        "_2_36",
        "_2_35",
        "_2_34",
        "_2_31",
        "_2_28",
        "_2_27",
        "_2_26",
        "_2_24",
        "_2_17",
        "2014",
        "_2_12",
        "2010",
    )
)
"""What Debian 12's glibc 2.36 runs."""
_SECONDS = 600
_NO_FILE = re.compile(r"No matching distribution found for ([A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+)")
_NO_ANSWER = re.compile(
    r"Retrying \(Retry|Could not fetch URL|connection error|ProxyError|SSLError|timed out", re.IGNORECASE
)
_UNTRUSTED = re.compile(r"CERTIFICATE_VERIFY_FAILED|problem confirming the ssl certificate", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(https?://)[^/@\s]+@")


class WheelsMissing(Exception):
    """A wheel was not found, or the index could not be asked.

    Attributes:
        pin: the requirement without a file; empty if that is not the reason.
        untrusted: whether pip does not trust the certificate of the index.
    """

    def __init__(self, reason: str, pin: str = "", *, untrusted: bool = False) -> None:
        super().__init__(reason)
        self.pin = pin
        self.untrusted = untrusted


def fetch_wheels(requirements: Path, settings: BuildSettings, platform: str, folder: Path) -> None:
    """Fill `folder` with the wheels of a requirements.txt; with hashes in it, pip checks them.

    Raises:
        WheelsMissing: one is not there, or the index does not answer.
    """
    _pip(
        "download", "--no-deps", "--dest", str(folder), *_for(settings, platform), "--requirement", str(requirements)
    )  # fmt: skip


def hashes_in_index(pins: Sequence[str], settings: BuildSettings, platform: str) -> dict[str, str]:
    """`name==version` → the sha256 of the file that pip would install on this platform; nothing is downloaded but metadata.

    Raises:
        WheelsMissing: the index does not answer, or has no file of one of them.
    """
    with tempfile.TemporaryDirectory(prefix="mlo-wheels-") as work:
        listed, report = Path(work, "requirements.txt"), Path(work, "report.json")
        listed.write_text("".join(f"{pin}\n" for pin in pins), encoding="utf-8")
        _pip(
            "install", "--dry-run", "--ignore-installed", "--no-deps", "--target", work, "--report", str(report),
            *_for(settings, platform, pins), "--requirement", str(listed),
        )  # fmt: skip
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    by_name = {_normalised(each["metadata"]["name"]): each["download_info"]["archive_info"] for each in found}
    hashes = {pin: by_name.get(_name(pin), {}).get("hashes", {}).get("sha256", "") for pin in pins}
    if lacking := [pin for pin, sha256 in hashes.items() if not sha256]:
        raise WheelsMissing(f"the index has no hash for {lacking[0]}", lacking[0])
    return hashes


def hashes_in_folder(pins: Sequence[str], folder: Path) -> dict[str, tuple[str, ...]]:
    """`name==version` → the sha256 of its wheels in a folder; empty for a pin without one."""
    wheels: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(folder.glob("*.whl")):
        name, version, *_ = path.name.split("-")
        wheels.setdefault((_normalised(name), version), []).append(path)
    return {
        pin: tuple(sorted(digest_file(path) for path in wheels.get((_name(pin), pin.partition("==")[2]), ())))
        for pin in pins
    }


def _for(settings: BuildSettings, platform: str, pins: Sequence[str] = ()) -> list[str]:
    """Pip's options for wheels of that platform and of the base's Python, from the index of the settings."""
    options = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", settings.python]
    for kind in _MANYLINUX:
        options += ["--platform", f"{kind}_{MACHINES[platform]}"]
    if settings.pip_index is not None:
        options += ["--index-url", settings.pip_index]
    else:
        for index in cpu_indexes(_name(pin) for pin in pins):
            options += ["--extra-index-url", index]
    if settings.ca_bundle is not None:
        options += ["--cert", str(settings.ca_bundle)]
    return options


def _pip(command: str, *options: str) -> None:
    if find_spec("pip") is None:
        raise WheelsMissing(
            f"there is no pip beside {sys.executable}; install it with `python -m ensurepip` or `uv pip install pip`"
        )
    argv = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "--quiet", "--retries", "1"]
    argv += ["--timeout", "15"]
    environment = dict(os.environ)
    if "--cert" in options:  # which these variables would override; https://github.com/psf/requests/issues/3829
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            environment.pop(name, None)
    try:
        done = subprocess.run(
            [*argv, command, *options], capture_output=True, text=True, timeout=_SECONDS, check=False, env=environment
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:  # whose message has the command, and so an index with its password
        raise WheelsMissing(f"pip has not ended within {_SECONDS} s") from error
    except OSError as error:
        raise WheelsMissing(f"pip cannot be started: {error}") from error
    if done.returncode == 0:
        return
    said = _CREDENTIALS.sub(r"\1", done.stderr).strip().splitlines() or ["pip failed without a message"]
    if _UNTRUSTED.search(done.stderr):
        raise WheelsMissing("pip on this machine does not trust the certificate of the package index", untrusted=True)
    if _NO_ANSWER.search(done.stderr):  # pip then says that it found no file, which says nothing about the package
        raise WheelsMissing("the package index does not answer")
    if missing := _NO_FILE.search(done.stderr):
        raise WheelsMissing(f"the index has no wheel of {missing[1]}", missing[1])
    reasons = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")]
    raise WheelsMissing((reasons or said)[-1].rstrip("."))


def _name(pin: str) -> str:
    return _normalised(pin.partition("==")[0].partition("[")[0])


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
