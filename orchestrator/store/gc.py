"""Removes what killed processes left behind, and what no deployment needs any more."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path

from orchestrator.store.atomic import TEMPORARY_PREFIX
from orchestrator.store.crash_points import crash_point
from orchestrator.store.failures import store_errors
from orchestrator.store.home import Home
from orchestrator.store.locks import lock, unless_held
from orchestrator.store.scratch import OWNER_SUFFIX, remove_tree
from orchestrator.store.store import Store

__all__ = ["collect", "sweep"]

# An entry of scratch without an owner file may still be in use; not after a day.
_UNOWNED_AGE = 24 * 3600.0  # seconds
_LOG_AGE = 30 * 24 * 3600.0  # seconds
# What was planned, rendered or drafted and not deployed is kept that long after its last use.
_UNUSED_AGE = 30 * 24 * 3600.0  # seconds


def sweep(store: Store) -> int:
    """Remove scratch folders and half-written files whose owner is dead. What is in use stays, so it is safe any time.

    Returns:
        How many bytes that freed.

    Raises:
        StoreFailed: something cannot be removed.
    """
    home = store.home
    with store_errors("clean up", home.root):
        return _sweep_scratch(home.scratch) + _sweep_temporaries(home)


def collect(store: Store, keep_receipts: Collection[str] = (), *, timeout: float = 0.0) -> int:
    """Remove the receipts that no deployment's step had last and the state does not need, then trees without a receipt.

    A step's last receipt is forgotten once its deployment is destroyed, once a run's plan no longer has the step, or once a
    name that is not deployed was not used for a month.

    Args:
        store: which one.
        keep_receipts: further keys to keep.
        timeout: seconds to wait for runs that use the store.

    Returns:
        How many bytes that freed.

    Raises:
        Busy: a run is using the store.
        StoreFailed: the state cannot be read (then nothing is removed), or something cannot be removed.
    """
    home, receipts, trees = store.home, store.receipts, store.trees
    with lock(home.in_use_lock, timeout=timeout, info={"what": "mlo gc"}):
        freed = sweep(store)
        deployments = store.state.read().deployments
        live = {digest for entry in deployments.values() for digest in entry.digests()}
        receipts.forget_unused(deployments.keys(), _UNUSED_AGE)
        wanted = receipts.indexed_keys() | set(keep_receipts)
        needed = set(live)
        crash_point("gc.before-receipts")
        # Receipts go first: a receipt must never exist without its tree.
        for key in receipts.all_keys():
            receipt = receipts.read(key)
            digest = receipt.manifest.digest if receipt is not None and receipt.manifest is not None else None
            if receipt is None or (key not in wanted and digest not in live):
                freed += receipts.discard(key)
            elif digest is not None:
                needed.add(digest)
        crash_point("gc.after-receipts")
        for digest in trees.digests():
            if digest not in needed:
                freed += trees.discard(digest)
        crash_point("gc.after-trees")
        with store_errors("clean up", home.locks):
            freed += _drop_lock_files(home)
        with store_errors("clean up", home.logs):
            freed += _drop_old_logs(home)
        with store_errors("clean up", home.root):
            freed += _drop_old_images(
                home, {entry.image.id for each in deployments.values() for entry in each.history if entry.image}
            )
        return freed


def _drop_old_logs(home: Home) -> int:
    """Remove the logs of steps that ran long ago; the folder of one step's run is named STEP-KEY."""
    return sum(remove_tree(entry) for entry in home.logs.iterdir() if entry.is_dir() and _age(entry) > _LOG_AGE)


def _drop_old_images(home: Home, deployed: Collection[str]) -> int:
    """Remove what is known of images that were built long ago and are not deployed, and what indexes said long ago."""
    old = [entry for folder in (home.images, home.hashes) for entry in folder.glob("*") if _age(entry) > _UNUSED_AGE]
    return sum(_remove(entry) for entry in old if f"sha256:{entry.name}" not in deployed)


def _drop_lock_files(home: Home) -> int:
    """Remove lock files without a holder: there is one for every key that was ever computed.

    A process that opened one just before notices, once it has the lock, that it is no longer at its path, and tries again.
    """
    freed = 0
    for file in home.locks.glob("*.lock"):
        if file != home.in_use_lock:
            with unless_held(file) as free:
                if free:
                    freed += _remove(file)
    return freed


def _sweep_scratch(scratch: Path) -> int:
    freed = 0
    names = {entry.name for entry in os.scandir(scratch)}
    for name in sorted(names):
        if name.endswith(OWNER_SUFFIX):
            with unless_held(scratch / name) as orphaned:
                if orphaned:
                    freed += remove_tree(scratch / name.removesuffix(OWNER_SUFFIX))
                    (scratch / name).unlink(missing_ok=True)
        elif f"{name}{OWNER_SUFFIX}" not in names and _is_old(scratch / name):
            freed += _remove(scratch / name)
    return freed


def _sweep_temporaries(home: Home) -> int:
    freed = 0
    for folder in (
        home.root,
        home.receipts,
        home.receipts / "latest",
        home.locks,
        *home.trees.glob("??"),
        *home.deployments.iterdir(),
    ):
        for file in folder.glob(f"{TEMPORARY_PREFIX}*"):
            with unless_held(file) as orphaned:
                if orphaned:
                    freed += _remove(file)
    return freed


def _is_old(path: Path) -> bool:
    try:
        return path.name.startswith("discarded-") or _age(path) > _UNOWNED_AGE
    except FileNotFoundError:
        return False


def _age(path: Path) -> float:
    """Seconds since it was last changed."""
    return time.time() - path.lstat().st_mtime


def _remove(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return remove_tree(path)
    size = path.lstat().st_size if path.exists() else 0
    path.unlink(missing_ok=True)
    return size
