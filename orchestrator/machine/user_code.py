"""Finds the user's code that a process has imported, wherever it lies, and whether it is still the same on this machine.

Python finds modules in the spec's folder, in the folders of `model.source.path`, in those of PYTHONPATH, then among what is
installed, to which editable installs add folders. Everything that is imported from there counts, except the standard library
and mlo itself: files by their content, installed distributions by version and the digest of their RECORD, which lists the
digests of their files.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from orchestrator.store.digest import StatCache, digest_file
from orchestrator.store.user_code import UserCode

__all__ = ["ImportPath", "changed_code", "is_own", "reading", "used_code"]

_MLO = Path(__file__).resolve().parents[1]
_INSTALLED = ("site-packages", "dist-packages")
_ON_PATH = "@/"
_SUFFIXES = (".py", *EXTENSION_SUFFIXES)
_NOT_THE_USERS = ("/proc", "/sys", "/dev", "/usr")


class ImportPath:
    """Where modules are found, in order.

    Args:
        project: the spec's folder.
        roots: the folders of `model.source.path`, relative to it.
    """

    def __init__(self, project: Path, roots: Sequence[str]) -> None:
        self.project = project.resolve()
        given = [(self.project / root).resolve() for root in roots]
        shared = _shared_folders(os.environ.get("PYTHONPATH", ""), tuple(sys.path))
        self.folders = tuple(dict.fromkeys((self.project, *given, *shared)))
        self._names: dict[Path, frozenset[str]] = {}
        self._holders: dict[str, Path | None] = {}
        self._records: Mapping[str, Path] | None = None

    def holder(self, top: str) -> Path | None:
        """The folder in which a top-level module is found; None if it is in none, or a namespace over several."""
        if top not in self._holders:
            self._holders[top] = next((folder for folder in self.folders if top in self._modules(folder)), None)
        return self._holders[top]

    def found_in(self, top: str) -> str:
        """As in `UserCode.found_in`."""
        holder = self.holder(top)
        return "nowhere" if holder is None else "project" if holder == self.project else "path"

    def place(self, file: Path) -> str:
        """The name of a file in `UserCode.files`."""
        if file.is_relative_to(self.project):
            return file.relative_to(self.project).as_posix()
        around = [folder for folder in self.folders if file.is_relative_to(folder)]
        for folder in sorted(around, key=lambda each: len(each.parts), reverse=True):
            relative = file.relative_to(folder)
            if self.holder(_top(relative)) in {folder, None}:
                return f"{_ON_PATH}{relative.as_posix()}"
        return Path(os.path.relpath(file, self.project)).as_posix()

    def file(self, place: str) -> Path:
        """The file that has this name on this machine now; it need not exist."""
        if not place.startswith(_ON_PATH):
            return self.project / place
        relative = Path(place.removeprefix(_ON_PATH))
        holder = self.holder(_top(relative))
        folders = self.folders if holder is None else (holder,)
        return next((folder / relative for folder in folders if (folder / relative).is_file()), self.project / relative)

    @property
    def records(self) -> Mapping[str, Path]:
        """Name and version of every installed distribution that has a RECORD → that file."""
        if self._records is None:
            found: dict[str, Path] = {}
            for folder in self.folders:
                for name, record in _records_in(folder, _changed_at(folder)).items():
                    found.setdefault(name, record)
            self._records = found
        return self._records

    def _modules(self, folder: Path) -> frozenset[str]:
        if folder not in self._names:
            installed = any(part in _INSTALLED for part in folder.parts)
            self._names[folder] = _known_modules(folder, _changed_at(folder)) if installed else _modules_in(folder)
        return self._names[folder]


@cache
def _shared_folders(environment: str, path: tuple[str, ...]) -> tuple[Path, ...]:
    """The folders of PYTHONPATH and those of installed packages, which all projects share."""
    # What `site` adds comes after the standard library; what comes before it depends on how this process was started.
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    last = max((place for place, entry in enumerate(path) if entry in standard), default=-1)
    entries = [*environment.split(os.pathsep), *path[last + 1 :]]
    return tuple(Path(entry).resolve() for entry in entries if entry)


def _changed_at(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:  # an entry of the path that does not exist
        return 0


def _modules_in(folder: Path) -> frozenset[str]:
    """The top-level modules of a folder, except for namespaces."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(
                _top(Path(entry.name))
                for entry in entries
                if entry.name.endswith(_SUFFIXES) or (entry.is_dir() and Path(entry.path, "__init__.py").is_file())
            )
    except OSError:  # an entry of the path that is a file, or does not exist
        return frozenset()


@cache
def _known_modules(folder: Path, changed_at: int) -> frozenset[str]:
    """As `_modules_in`, once for a folder of hundreds of installed packages; installing one changes its time."""
    del changed_at
    return _modules_in(folder)


@cache
def _records_in(folder: Path, changed_at: int) -> Mapping[str, Path]:
    del changed_at
    found: dict[str, Path] = {}
    for record in folder.glob("*.dist-info/RECORD"):
        name, _, version = record.parent.name.removesuffix(".dist-info").rpartition("-")
        found.setdefault(f"{_normalized(name)} {version}", record)
    return found


def _top(relative: Path) -> str:
    return relative.parts[0].partition(".")[0]


class _Opened(threading.local):
    active = False


_OPENED: list[str] = []
_opened = _Opened()
_hooked: list[bool] = []


@contextmanager
def reading() -> Iterator[None]:
    """Note the files that Python opens for reading in this block: the user's code runs in it."""
    if not _hooked:
        sys.addaudithook(_note_opened)
        _hooked.append(True)
    before, _opened.active = _opened.active, True
    try:
        yield
    finally:
        _opened.active = before


def _note_opened(event: str, arguments: tuple[object, ...]) -> None:
    if event != "open" or not _opened.active:
        return
    path, mode, flags = arguments
    reads = (
        mode == "r"
        or (isinstance(mode, str) and not set(mode) & set("wax+"))
        or (mode is None and isinstance(flags, int) and flags & os.O_ACCMODE == os.O_RDONLY)
    )
    if reads and isinstance(path, (str, bytes, os.PathLike)):
        _OPENED.append(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100 - a Path may open files by itself


def used_code(path: ImportPath, left_out: Iterable[Path], since: float) -> tuple[UserCode, str | None]:
    """What this process has imported and read of the user's, and a file of it that has changed meanwhile.

    Args:
        path: where modules are found.
        left_out: the step's own folders and inputs.
        since: when this process began, seconds since the epoch.
    """
    files: dict[str, str] = {}
    names: dict[str, set[str]] = {}
    changed = None
    packages, records = metadata.packages_distributions(), path.records
    for name, module in list(sys.modules.items()):
        origin = getattr(module, "__file__", None)
        if not isinstance(origin, str) or not _is_the_users(Path(origin)):
            continue
        top = name.partition(".")[0]
        if top not in names:
            installed = {f"{_normalized(each)} {metadata.version(each)}" for each in packages.get(top, ())}
            names[top] = installed & records.keys()
        if names[top] and not is_own(Path(origin)):
            continue
        changed = _add(files, path, Path(origin), since) or changed
    own = [folder.resolve() for folder in left_out]
    for opened in dict.fromkeys(_OPENED):
        file = Path(opened)
        if _is_data(file) and not any(file.resolve().is_relative_to(folder) for folder in own):
            changed = _add(files, path, file, since) or changed
    used = UserCode(
        files=dict(sorted(files.items())),
        distributions={name: digest_file(records[name]) for name in sorted(set().union(*names.values()))},
        found_in={top: path.found_in(top) for top in sorted(names)},
    )
    return used, changed


def _is_the_users(file: Path) -> bool:
    """Whether an imported module is neither of the standard library nor of mlo."""
    if file.resolve().is_relative_to(_MLO) or not file.is_absolute():
        return False
    if any(part in _INSTALLED for part in file.parts):
        return True
    standard = (Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("platstdlib")))
    return not any(
        file.is_relative_to(folder) or file.resolve().is_relative_to(folder.resolve()) for folder in standard
    )


def is_own(file: Path) -> bool:
    """Whether a file of Python's is the user's own: not installed, and neither of the standard library nor of mlo."""
    return _is_the_users(file) and not any(part in _INSTALLED for part in file.parts)


def _is_data(file: Path) -> bool:
    if file.suffix == ".pyc" or any(
        file.is_relative_to(folder) for folder in (*_NOT_THE_USERS, sys.prefix, sys.base_prefix)
    ):
        return False
    return is_own(file) and file.is_file()


def _add(files: dict[str, str], path: ImportPath, file: Path, since: float) -> str | None:
    """Add a file; its name if it has changed since. What the code itself wrote elsewhere, such as a cache, is no input."""
    file = file.resolve()
    while not file.is_file() and file != file.parent:  # a module in an archive
        file = file.parent
    if not file.is_file():
        return None
    place, is_new = path.place(file), file.stat().st_ctime > since
    if is_new and place.startswith(".."):
        return None
    files[place] = hashlib.sha256(file.read_bytes()).hexdigest()
    return place if is_new else None


def changed_code(code: UserCode, path: ImportPath, cache: StatCache | None = None) -> str | None:
    """The first of the files and distributions that is another on this machine now, in words; None if all are the same."""
    for top, before in code.found_in.items():
        if (now := path.found_in(top)) != before:
            return f"the module {top} is found elsewhere than before (in {now}, was {before})"
    for place, recorded in code.files.items():
        try:
            if digest_file(path.file(place), cache) != recorded:
                return f"{place.removeprefix(_ON_PATH)} changed"
        except OSError:
            return f"{place.removeprefix(_ON_PATH)} is gone"
    for name, recorded in code.distributions.items():
        if name not in path.records:
            return f"{name} is no longer installed"
        if digest_file(path.records[name], cache) != recorded:
            return f"the files of {name} changed"
    return None


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
