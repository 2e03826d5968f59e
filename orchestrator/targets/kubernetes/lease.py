"""The lock of a deployment in its namespace, for all machines: a Lease that its holder renews, and that ends with its holder."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import Busy, MloError
from orchestrator.targets.kubernetes.connection import Cluster, Json, Refused

__all__ = ["held_lease"]

_SECONDS = 30
"""After which a Lease that was not renewed is taken over."""
_RENEWED = 5.0


@contextmanager
def held_lease(cluster: Cluster, namespace: str, name: str) -> Iterator[bool]:
    """Hold the deployment's Lease for the block; False where there is no namespace, or soon none, and so nothing to lock.

    Raises:
        Busy: E605 another command holds it.
        Refused: the cluster does not let this user have Leases.
    """
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    holder = f"{os.uname().nodename}:{os.getpid()}:{time.monotonic_ns()}"
    if not _take(cluster, path, f"mlo-{name}", holder):
        yield False
        return
    ended = threading.Event()
    renewing = threading.Thread(
        target=_renew, args=(cluster, f"{path}/mlo-{name}", holder, ended), name="lease", daemon=True
    )
    renewing.start()
    try:
        yield True
    finally:
        ended.set()
        renewing.join()
        _release(cluster, f"{path}/mlo-{name}", holder)


def _take(cluster: Cluster, path: str, name: str, holder: str) -> bool:
    """Whether it is held now; False where there is no namespace."""
    for _ in range(3):
        try:
            found = cluster.find(f"{path}/{name}")
            if found is None:
                cluster.call("POST", path, _lease(name, holder))
            else:
                if not _is_over(found):
                    raise _busy(name, found)
                cluster.call("PUT", f"{path}/{name}", _lease(name, holder) | {"metadata": found["metadata"]})
        except Refused as refused:
            if refused.status == 404 or "being terminated" in refused.message:
                return False
            if refused.status != 409:  # else another command was faster: look again
                raise
        else:
            return True
    raise _busy(name, cluster.find(f"{path}/{name}") or {})


def _lease(name: str, holder: str) -> Json:
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "mlo"}},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": _SECONDS, "acquireTime": now, "renewTime": now},
    }


def _is_over(lease: Json) -> bool:
    """Whether its holder gave it back, died on this machine, or has not renewed it in time."""
    spec = lease.get("spec", {})
    host, _, rest = str(spec.get("holderIdentity") or "").partition(":")
    process = rest.partition(":")[0]
    if not host:
        return True
    if host == os.uname().nodename and process.isdigit() and not _runs(int(process)):
        return True
    try:
        renewed = datetime.fromisoformat(str(spec.get("renewTime")))
    except ValueError:
        return True
    return (datetime.now(UTC) - renewed).total_seconds() > int(spec.get("leaseDurationSeconds") or _SECONDS)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _renew(cluster: Cluster, path: str, holder: str, ended: threading.Event) -> None:
    """Renew it until the block ends. A cluster that does not answer for a moment is asked again; a Lease that is lost stays so."""
    while not ended.wait(_RENEWED):
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        try:
            found = cluster.get(path)
            if found["spec"].get("holderIdentity") != holder:
                return
            cluster.call("PUT", path, found | {"spec": found["spec"] | {"renewTime": now}})
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
    host, _, rest = str(lease.get("spec", {}).get("holderIdentity") or "").partition(":")
    by = f"process {rest.partition(':')[0]} on {host}" if host else "another machine"
    return Busy(
        Diagnostic(
            "E605",
            f"another command is deploying {name.removeprefix('mlo-')}",
            cause=f"{by} holds the Lease {name}",
            remedy=f"wait until it has ended, then run the command again; if it was killed, its Lease ends {_SECONDS} s later",
        )
    )
