"""The lock of a deployment in its namespace, for all machines: a Lease that its holder renews, and that ends with its holder.

Clocks of machines differ, so the time in a Lease is never compared with a clock: it has ended once it was watched for its
duration and did not change.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import Busy, MloError
from orchestrator.targets.kubernetes.connection import Cluster, Json, Refused

__all__ = ["HeldLease", "held_lease", "holder_of"]

_SECONDS = 30
"""After which a Lease that was not renewed is taken over."""
_RENEWED = 5.0
_LOOK = 1.0
"""Seconds between looks at a Lease that another command holds."""


class HeldLease:
    """A Lease while this process holds it.

    Args:
        name: of the Lease.
        taken: when, by the monotonic clock.
    """

    def __init__(self, name: str, taken: float) -> None:
        self._name = name
        self._renewed = taken
        self._lost = False

    def require(self) -> None:
        """Whether it is still held, for what must not be done by two.

        Raises:
            Busy: E605 it was lost: another command has taken it, or somebody has removed it, or it could not be renewed in time.
        """
        if self._lost or time.monotonic() - self._renewed > _SECONDS - _RENEWED:
            raise Busy(
                Diagnostic(
                    "E605",
                    f"this command does not hold {self._name.removeprefix('mlo-')} any more",
                    cause=f"the Lease {self._name} was taken over or removed, or could not be renewed within {_SECONDS} s",
                    remedy="run the command again once no other command is deploying it, and this machine reaches the cluster",
                )
            )

    def renewed(self, at: float) -> None:
        """It was renewed by a request that began then, by the monotonic clock."""
        self._renewed = at

    def lose(self) -> None:
        """Another holds it, or nobody."""
        self._lost = True


@contextmanager
def held_lease(cluster: Cluster, namespace: str, name: str) -> Iterator[HeldLease | None]:
    """Hold the deployment's Lease for the block; None where there is no namespace, or soon none, and so nothing to lock.

    Raises:
        Busy: E605 another command holds it.
        Refused: the cluster does not let this user have Leases.
    """
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    holder = f"{os.uname().nodename}:{os.getpid()}:{_processes()}:{time.monotonic_ns()}"
    taken = _taken(cluster, path, f"mlo-{name}", holder)
    if taken is None:
        yield None
        return
    held = HeldLease(f"mlo-{name}", taken)
    ended = threading.Event()
    renewing = threading.Thread(
        target=_renew, args=(cluster, f"{path}/mlo-{name}", holder, held, ended), name="lease", daemon=True
    )
    renewing.start()
    try:
        yield held
    finally:
        ended.set()
        renewing.join()
        _release(cluster, f"{path}/mlo-{name}", holder)


def holder_of(cluster: Cluster, namespace: str, name: str) -> str:
    """Who holds a deployment's Lease, a clause; empty if nobody does, as far as that can be seen.

    Raises:
        DeployFailed: E652 the cluster does not answer.
    """
    try:
        found = cluster.find(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/mlo-{name}")
    except Refused:  # this user may not look
        return ""
    if found is None or _has_ended(found):
        return ""
    renewed = str(found.get("spec", {}).get("renewTime") or "").partition(".")[0]
    return f"{_by(found)} holds the Lease mlo-{name}, and renewed it at {renewed}Z; if it was killed, the next command settles it"


def _taken(cluster: Cluster, path: str, name: str, holder: str) -> float | None:
    """When it was taken, by the monotonic clock; None where there is no namespace."""
    for _ in range(3):
        found = cluster.find(f"{path}/{name}")
        if found is not None and not _has_ended(found) and _changes(cluster, f"{path}/{name}", found):
            raise _busy(name, found)
        now = time.monotonic()
        try:
            if found is None:
                cluster.call("POST", path, _lease(name, holder))
            else:
                cluster.call("PUT", f"{path}/{name}", _lease(name, holder) | {"metadata": found["metadata"]})
        except Refused as refused:
            if (refused.status == 404 and found is None) or "being terminated" in refused.message:
                return None
            if refused.status not in {404, 409}:  # else another command was faster: look again
                raise
        else:
            return now
    raise _busy(name, cluster.find(f"{path}/{name}") or {})


def _changes(cluster: Cluster, path: str, found: Json) -> bool:
    """Whether a Lease is renewed by its holder, who is elsewhere; it is watched until it changes, at most for its duration."""
    deadline = time.monotonic() + float(found.get("spec", {}).get("leaseDurationSeconds") or _SECONDS)
    while time.monotonic() < deadline:
        time.sleep(_LOOK)
        now = cluster.find(path)
        if now is None:  # given back, which the request that takes it over finds out
            return False
        if now.get("spec") != found.get("spec"):
            return not _has_ended(now)
    return False


def _lease(name: str, holder: str) -> Json:
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "mlo"}},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": _SECONDS, "acquireTime": now, "renewTime": now},
    }


def _has_ended(lease: Json) -> bool:
    """Whether nobody holds it, or its holder was a process of this machine that has ended."""
    host, process, processes = _holder(lease)
    here = bool(processes) and (host, processes) == (os.uname().nodename, _processes())
    return not host or (here and process.isdigit() and not _runs(int(process)))


def _holder(lease: Json) -> tuple[str, str, str]:
    """The host, the process and among which processes that number was given."""
    host, process, processes, *_ = [*str(lease.get("spec", {}).get("holderIdentity") or "").split(":"), "", "", ""]
    return host, process, processes


def _by(lease: Json) -> str:
    host, process, _ = _holder(lease)
    return f"process {process} on {host}" if host else "another machine"


def _processes() -> str:
    """By which this machine's processes, since it started and in this container, are told from all others; empty if nothing does so."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        own = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
    return hashlib.sha256(f"{boot} {own}".encode()).hexdigest()[:16]


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _renew(cluster: Cluster, path: str, holder: str, held: HeldLease, ended: threading.Event) -> None:
    """Renew it until the block ends. A cluster that does not answer for a moment is asked again; a Lease that is lost stays so."""
    while not ended.wait(_RENEWED):
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        began = time.monotonic()
        try:
            found = cluster.find(path)
            if found is None or found["spec"].get("holderIdentity") != holder:
                held.lose()
                return
            cluster.call("PUT", path, found | {"spec": found["spec"] | {"renewTime": now}})
            held.renewed(began)
        except (MloError, Refused):
            continue


def _release(cluster: Cluster, path: str, holder: str) -> None:
    """Give it back. Where that fails it ends by itself, and what the block raised matters more."""
    try:
        found = cluster.find(path)
        if found is not None and found["spec"].get("holderIdentity") == holder:
            cluster.call("DELETE", path)
    except (MloError, Refused):
        return


def _busy(name: str, lease: Json) -> Busy:
    return Busy(
        Diagnostic(
            "E605",
            f"another command is deploying {name.removeprefix('mlo-')}",
            cause=f"{_by(lease)} holds the Lease {name}",
            remedy=f"wait until it has ended, then run the command again; if it was killed, its Lease ends {_SECONDS} s later",
        )
    )
