"""Checks Python and its packages: what is installed, which extra of mlo provides the rest, and what is affected."""

from __future__ import annotations

import platform
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from orchestrator import __version__
from orchestrator.doctor.finding import Finding
from orchestrator.machine.packages import PACKAGES, Package

__all__ = ["core", "extras", "served", "server"]

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[^\]]*\])?\s*(>=\s*(?P<least>[\w.]+))?[^;]*(;(?P<marker>.*))?")
_EXTRA = re.compile(r"extra == [\"']([\w-]+)[\"']")
_NOT_FOR_USERS = ("all", "dev")


@dataclass(frozen=True, slots=True)
class _Requirement:
    package: str
    least: str
    extra: str

    def problem(self) -> str | None:
        """Why the package cannot be used, or None."""
        found = _version(self.package)
        if found is None:
            return f"{self.package} is not installed"
        if _numbers(found) < _numbers(self.least):
            return f"{self.package} {found} is older than {self.least}"
        return None


def core() -> list[Finding]:
    """Python, mlo, and the packages that every command needs."""
    rows = [Finding("python", "ok", f"{platform.python_version()} at {sys.executable}", essential=True)]
    needed = [each for each in _requirements() if not each.extra]
    if not needed:
        found = f"{__version__}, run from its source folder, so that its requirements are unknown"
        return [*rows, Finding("mlo", "limited", found, remedy="pip install -e . in that folder")]
    problems = [problem for each in needed if (problem := each.problem())]
    if problems:
        lost = "commands that need it fail"
        return [
            *rows,
            Finding("mlo", "missing", "; ".join(problems), lost, "pip install --upgrade mlo", essential=True),
        ]
    return [*rows, Finding("mlo", "ok", f"{__version__} and all its requirements", essential=True)]


def extras() -> list[Finding]:
    """A finding for each extra of mlo: what it provides, or what is affected without it."""
    provided: dict[str, list[_Requirement]] = defaultdict(list)
    for each in _requirements():
        if each.extra and each.extra not in _NOT_FOR_USERS and each.package != "mlo":
            provided[each.extra].append(each)
    return [_extra(name, needed) for name, needed in provided.items()]


def _extra(name: str, needed: list[_Requirement]) -> Finding:
    problems = [problem for each in needed if (problem := each.problem())]
    if not problems:
        return Finding(name, "ok", ", ".join(f"{each.package} {_version(each.package)}" for each in needed))
    there = [each for each in needed if _version(each.package) is not None]
    return Finding(
        name,
        "limited" if len(there) == len(needed) else "missing",
        "; ".join(problems),
        costs=extra_costs(name),
        remedy=f"pip install --upgrade 'mlo[{name}]'" if there else f"pip install 'mlo[{name}]'",
    )


def extra_costs(extra: str) -> str:
    """What an extra is needed for: source kinds, formats and backends whose tools it provides."""
    from orchestrator.backends.table import (  # noqa: PLC0415 - imports numpy, which core() checks first
        BACKENDS,
        backend,
        backends_of,
    )
    from orchestrator.optimize.formats import FORMATS  # noqa: PLC0415
    from orchestrator.optimize.sources import SOURCES  # noqa: PLC0415
    from orchestrator.targets.table import TARGETS  # noqa: PLC0415

    def lost(tools: dict[str, tuple[str, ...]]) -> str:
        return ", ".join(
            name for name, needed in tools.items() if extra in {PACKAGES.get(tool, Package()).extra for tool in needed}
        )

    kinds = lost({kind: source.tools for kind, source in SOURCES.items()})
    usual = {name: backend(backends_of(name)[0]).runtimes[name] for name in FORMATS}
    formats = lost({name: opener.tools for name, opener in usual.items()})
    targets = ", ".join(name for name, row in TARGETS.items() if row.section.extra == extra)
    servers = lost({name: backend(name).tools for name in served()})
    parts = [
        f"models of kind {kinds}" if kinds else "",
        f"variants in format {formats}" if formats else "",
        f"serving with {servers}" if servers else "",
        f"deploying to {targets}" if targets else "",
    ]
    features = dict.fromkeys(backend(name).extras.get(extra, "") for name in BACKENDS)  # some backends share a server
    return "; ".join(part for part in (*parts, *features) if part)


def served() -> list[str]:
    """The backends that have a server."""
    from orchestrator.backends.table import SERVERS  # noqa: PLC0415 - after the checks of core()

    return list(SERVERS)


def server(name: str) -> list[Finding]:
    """Whether a backend's server can run on this machine."""
    from orchestrator.backends.table import serving_backend  # noqa: PLC0415 - imports numpy, which core() checks first

    known = serving_backend(name)
    lacking = known.unavailable()
    if lacking is None:
        return [Finding(name, "ok", f"can run; serves {', '.join(known.formats)}")]
    lost = f"{', '.join(known.formats)} variants are neither measured in their server nor deployed on this machine"
    return [Finding(name, "missing", lacking.reason, lost, lacking.remedy)]


def _requirements() -> Iterator[_Requirement]:
    try:
        required = metadata.requires("mlo") or []
    except metadata.PackageNotFoundError:
        return
    for line in required:
        match = _REQUIREMENT.match(line)
        if match is not None:
            extra = _EXTRA.search(match["marker"] or "")
            yield _Requirement(match["name"], match["least"] or "0", extra[1] if extra else "")


def _version(package: str) -> str | None:
    """The installed version of a package, or of another build of it, which installs the same modules."""
    builds = next((row.builds for row in PACKAGES.values() if package in row.builds), ())
    for name in (package, *builds):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0]))
