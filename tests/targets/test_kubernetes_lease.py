"""The Lease of a deployment: who may take it over and when, and what its loss keeps the holder from."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import Any, cast

import pytest

from orchestrator.errors import Busy
from orchestrator.targets.kubernetes import lease
from orchestrator.targets.kubernetes.connection import Cluster, Refused
from orchestrator.targets.kubernetes.helm import Helm
from orchestrator.targets.kubernetes.lease import held_lease

HOST = os.uname().nodename
LONG_AGO, IN_THE_FUTURE = "2001-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"


class Leases:
    """A cluster with one Lease, whose versions it counts, as the API server does."""

    def __init__(self, spec: dict[str, Any] | None = None) -> None:
        self.spec = spec
        self.version = 1
        self.namespace = True

    def find(self, path: str) -> Any:
        del path
        return (
            None if self.spec is None else {"metadata": {"resourceVersion": str(self.version)}, "spec": dict(self.spec)}
        )

    def call(self, method: str, path: str, body: Any = None) -> Any:
        del path
        if not self.namespace:
            raise Refused(404, "NotFound", "no namespace")
        if method == "PUT" and self.spec is None:
            raise Refused(404, "NotFound", "no Lease")
        taken = method == "POST" and self.spec is not None
        if taken or (method == "PUT" and body["metadata"]["resourceVersion"] != str(self.version)):
            raise Refused(409, "Conflict", "changed")
        self.spec, self.version = (None if body is None else body["spec"]), self.version + 1
        return {}

    def hold(self) -> Any:
        return held_lease(cast("Cluster", self), "models", "digits")


def held_by(holder: str, renewed: str = IN_THE_FUTURE, seconds: float = 0.2) -> dict[str, Any]:
    return {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": seconds}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_LOOK", 0.02)
    monkeypatch.setattr(lease, "_RENEWED", 0.02)


@pytest.fixture
def ended() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_it_is_taken_renewed_and_given_back() -> None:
    cluster = Leases()
    with cluster.hold() as held:
        first = cluster.version
        deadline = time.monotonic() + 10
        while cluster.version < first + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert cluster.version >= first + 2
        held.require()
    assert cluster.spec is None


def test_the_clock_of_another_machine_does_not_matter() -> None:
    """A holder who renews keeps it however old its time looks, and one who does not loses it however new that looks."""
    alive = Leases(held_by("elsewhere:1:x:1", LONG_AGO, 20))
    done = threading.Event()

    def renew() -> None:
        for second in range(1000):
            if done.wait(0.01):
                return
            alive.spec = held_by("elsewhere:1:x:1", f"2001-01-01T00:00:{second}Z", 20)
            alive.version += 1

    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        with pytest.raises(Busy, match="another command"), alive.hold():
            pass
    finally:
        done.set()
        renewing.join()
    silent = Leases(held_by("elsewhere:1:x:1"))
    with silent.hold():
        assert silent.spec is not None
        assert silent.spec["holderIdentity"].startswith(f"{HOST}:{os.getpid()}:")


def test_a_process_that_ended_is_only_known_among_its_own(ended: int, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Leases(held_by(f"{HOST}:{ended}:{lease._processes()}:1"))
    monkeypatch.setattr(lease, "_changes", lambda *_: True)
    with here.hold():
        pass
    for other in (f"{HOST}:{ended}:another-container:1", f"{HOST}:{ended}:1", f"{HOST}:{ended}"):
        with pytest.raises(Busy), Leases(held_by(other)).hold():
            pass


def test_one_that_is_given_back_while_it_is_watched_is_taken() -> None:
    class GivenBack(Leases):
        looks = 0

        def find(self, path: str) -> Any:
            self.looks += 1
            if self.looks == 2:
                self.spec = None
            return super().find(path)

    with GivenBack(held_by("elsewhere:1:x:1")).hold() as held:
        assert held is not None


def test_without_a_namespace_there_is_nothing_to_lock() -> None:
    cluster = Leases()
    cluster.namespace = False
    with cluster.hold() as held:
        assert held is None


@pytest.mark.parametrize("spec", [None, held_by("elsewhere:1:x:1")])
def test_who_has_lost_it_changes_no_release_any_more(
    spec: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Leases()
    ran: list[str] = []

    def run(_: Helm, command: str, *__: object, **___: object) -> str:
        ran.append(command)
        return "v3.14.0"

    monkeypatch.setattr(Helm, "_run", run)
    with cluster.hold() as held:
        release = Helm(None, "models", held.require)
        release.uninstall("digits")
        assert ran == ["uninstall"]
        cluster.spec, cluster.version = spec, cluster.version + 1
        deadline = time.monotonic() + 10
        while not held._lost and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(Busy, match="does not hold digits any more"):
            release.uninstall("digits")
        with pytest.raises(Busy, match="does not hold digits any more"):
            release.rollback("digits", 1, 1.0)
    assert ran == ["uninstall"]
    assert cluster.spec == spec, "what another holds is not given back"


def test_one_that_could_not_be_renewed_for_its_duration_counts_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    held = lease.HeldLease("mlo-digits", time.monotonic())
    held.require()
    monkeypatch.setattr(lease, "_SECONDS", 0.0)
    with pytest.raises(Busy):
        held.require()
