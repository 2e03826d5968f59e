"""Receipts: a step that has one is done (or failed for good) and is not computed again."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import PlainSerializer, PlainValidator, StringConstraints, ValidationError, model_validator

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StoreFailed
from orchestrator.store.atomic import canonical_json, pretty_json, write_atomic
from orchestrator.store.crash_points import crash_point
from orchestrator.store.digest import Manifest, sha256_bytes
from orchestrator.store.failures import store_errors
from orchestrator.store.home import Home
from orchestrator.store.record import Record, first_problem
from orchestrator.store.user_code import UserCode

__all__ = ["Receipt", "Receipts"]

_FORMAT: Literal[3] = 3
_KEY = r"[0-9A-Za-z_-]{1,128}"


def _manifest(value: object) -> Manifest:
    return value if isinstance(value, Manifest) else Manifest.from_json(value)


class Receipt(Record):
    """What is known of a step that ended.

    Attributes:
        format: of the file.
        key: the step's key.
        step: its id in the plan that computed it.
        kind: its kind.
        deployment: the name of the deployment that it was computed for.
        outcome: `failed` only where the same step would fail again.
        parts: what the key was made from.
        manifest: of its output; None when it failed, unless it left documents that explain its refusal.
        summary: facts for people.
        error: why a step failed; only a refusal is kept.
        found: the user's code that it used, beyond what its key names.
        seconds: how long it took.
        peak_bytes: its largest resident memory.
        started: ISO time, UTC.
        version: of mlo.
    """

    format: Literal[3] = _FORMAT
    key: str
    step: str
    kind: str
    deployment: str
    outcome: Literal["done", "failed"]
    parts: dict[str, Any]
    manifest: Annotated[Manifest, PlainValidator(_manifest), PlainSerializer(Manifest.as_json)] | None
    summary: dict[str, Any]
    error: Diagnostic | None
    found: UserCode
    seconds: float
    peak_bytes: int | None
    started: str
    version: str

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        done = self.outcome == "done"
        if done is not (self.error is None) or (done and self.manifest is None):
            raise ValueError("outcome, manifest and error contradict each other")
        return self

    @classmethod
    def from_bytes(cls, data: bytes) -> Receipt:
        """The receipt that a file holds.

        Raises:
            ValueError: it is something else.
        """
        try:
            receipt = cls.model_validate_json(data)
        except ValidationError as error:
            raise ValueError(first_problem(error)) from error
        if "format" not in receipt.model_fields_set:
            raise ValueError("it names no format")
        return receipt

    def as_bytes(self) -> bytes:
        """The content of the file.

        Raises:
            ValueError, TypeError: the summary is no plain JSON.
        """
        return pretty_json(self.model_dump())


class _Latest(Record):
    """The last key of a deployment's step."""

    deployment: str
    step: str
    key: Annotated[str, StringConstraints(pattern=f"^{_KEY}$")]


class Receipts:
    """The receipts of one home.

    Args:
        home: where they are kept.
    """

    def __init__(self, home: Home) -> None:
        self._folder = home.receipts
        self._index = home.receipts / "latest"

    def read(self, key: str) -> Receipt | None:
        """The receipt of `key`; None when it is missing or unusable (`damage` says which)."""
        found = self._examine(key)
        return found if isinstance(found, Receipt) else None

    def damage(self, key: str) -> str:
        """Why the file for `key` is not a usable receipt; empty when it is one, or when there is no file."""
        found = self._examine(key)
        return found if isinstance(found, str) else ""

    def write(self, receipt: Receipt) -> None:
        """Keep a receipt: from now on the step is done. Its tree must be committed already.

        Raises:
            StoreFailed: the disk is full or cannot be written.
        """
        file, document = self._file(receipt.key), _document(receipt)
        crash_point("receipt.before-latest")
        # The receipt is written last: once it exists nothing is left to do, and garbage collection knows its deployment.
        self.remember(receipt.deployment, receipt.step, receipt.key)
        crash_point("receipt.before-write")
        write_atomic(file, document)
        crash_point("receipt.after-write")

    def remember(self, deployment: str, step: str, key: str) -> None:
        """Record that `step` of `deployment` now has this key, computed or cached; if it is recorded, only the time changes.

        Raises:
            StoreFailed: the disk is full or cannot be written.
        """
        file = self._latest_file(deployment, step)
        entry = pretty_json(_Latest(deployment=deployment, step=step, key=key).model_dump())
        with store_errors("write", file):
            if file.exists() and file.read_bytes() == entry:
                os.utime(file)
                return
            self._index.mkdir(mode=0o700, exist_ok=True)
        write_atomic(file, entry)

    def latest(self, step: str, deployment: str) -> Receipt | None:
        """The receipt that `step` of `deployment` had last, to explain what has changed since."""
        entry = _entry(self._latest_file(deployment, step))
        return self.read(entry.key) if entry is not None else None

    def all_keys(self) -> Iterator[str]:
        """The keys of all receipts, usable or not."""
        return (file.stem for file in sorted(self._folder.glob("*.json")))

    def indexed_keys(self) -> set[str]:
        """The keys that some step of some deployment had last."""
        return {entry.key for _, entry in self._entries()}

    def forget(self, deployment: str, *, but: Collection[str] = ()) -> None:
        """Remove the index entries of a deployment's steps; garbage collection then removes what nothing else needs.

        Args:
            deployment: its name.
            but: ids of steps whose entries stay.

        Raises:
            StoreFailed: an entry cannot be removed.
        """
        for file, entry in self._entries():
            if entry.deployment == deployment and entry.step not in but:
                self._remove_entry(file)

    def forget_unused(self, deployed: Collection[str], seconds: float) -> None:
        """Remove the index entries that were last recorded so long ago, except those of the deployed names.

        Raises:
            StoreFailed: an entry cannot be removed.
        """
        for file, entry in self._entries():
            if entry.deployment not in deployed and time.time() - file.stat().st_mtime > seconds:
                self._remove_entry(file)

    def discard(self, key: str) -> int:
        """Remove a receipt.

        Returns:
            How many bytes that freed; 0 if it was not there.

        Raises:
            StoreFailed: it cannot be removed.
        """
        file = self._file(key)
        with store_errors("remove", file):
            try:
                size = file.stat().st_size
                file.unlink()
            except FileNotFoundError:
                return 0
            return size

    def _entries(self) -> Iterator[tuple[Path, _Latest]]:
        for file in sorted(self._index.glob("*.json")):
            if (entry := _entry(file)) is not None:
                yield file, entry

    @staticmethod
    def _remove_entry(file: Path) -> None:
        with store_errors("remove", file):
            file.unlink(missing_ok=True)

    def _examine(self, key: str) -> Receipt | str | None:
        file = self._file(key)
        try:
            receipt = Receipt.from_bytes(file.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"{file} cannot be read: {error.strerror}"
        except ValueError as error:
            return f"{file} is damaged: {error}"
        return receipt if receipt.key == key else f"{file} is the receipt of another key"

    def _file(self, key: str) -> Path:
        if not re.fullmatch(_KEY, key):
            raise ValueError(f"not a key: {key!r}")
        return self._folder / f"{key}.json"

    def _latest_file(self, deployment: str, step: str) -> Path:
        return self._index / f"{sha256_bytes(canonical_json([deployment, step]))}.json"


def _document(receipt: Receipt) -> bytes:
    try:
        return receipt.as_bytes()
    except (ValueError, TypeError) as error:
        raise StoreFailed(
            Diagnostic(
                code="E709",
                message=f"the receipt of {receipt.step} is not JSON",
                cause=str(error),
                remedy="this is a bug in the step, whose summary must be plain JSON without NaN; please report it",
            )
        ) from error


def _entry(file: Path) -> _Latest | None:
    try:
        return _Latest.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):  # none yet, or damaged: nothing can be explained
        return None
