"""Shared by all tests: exclusive use of the machine for tests that need it, and a summary of what was not tested."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# A shell starts what runs in its background with Ctrl-C ignored, and so all that tests would start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Programs that `make tools` installs are beside the interpreter.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"

_REMEDIES = {
    "cluster": "set KUBECONFIG to one whose nodes use this machine's Docker Engine, such as that of minikube's driver none",
    "helm": "make tools",
    "kubectl": "make tools",
    "hadolint": "make tools",
    "docker-registry": "apt-get install docker-registry",
    "docker": "apt-get install docker.io, then start it",
    "Docker Engine": "apt-get install docker.io, then start it",
    "promtool": "apt-get install prometheus",
    "prometheus": "apt-get install prometheus",
    "chromium": "apt-get install chromium",
    "Java": "apt-get install openjdk-17-jre-headless",
}
"""A word in the reason of a skipped test → the command that installs what it needs."""


@pytest.fixture(autouse=True, scope="session")
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder in which the names that these tests serve are not those of the user; the rest is the user's.

    Measurements still take turns with those of other runs on this machine.
    """
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = own_cache(tmp_path_factory.mktemp("cache"), users)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


def own_cache(folder: Path, users: Path) -> Path:
    """Fill a folder with links to what is in the user's cache, except for the names that are served."""
    (users / "mlo" / "measuring.queue").mkdir(parents=True, exist_ok=True)
    (folder / "mlo").mkdir(parents=True)
    for name in ("measuring.queue", "measuring.lock"):
        (folder / "mlo" / name).symlink_to(users / "mlo" / name)
    for entry in users.iterdir():
        if entry.name != "mlo":
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let the workers of a run share the machine, but give it to a test that is marked `alone` for itself.

    `MLO_TESTS_RUN` names several runs of pytest that share a machine in the same way.
    """
    run = os.environ.get("MLO_TESTS_RUN") or os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        return (yield)
    folder = Path(tempfile.gettempdir(), f"mlo-tests-{run}")
    folder.mkdir(exist_ok=True)
    with _locked(folder / "turnstile.lock", fcntl.LOCK_EX) as passed:
        # A test that needs to run alone waits in the turnstile, so that later tests do not overtake it.
        alone = item.get_closest_marker("alone") is not None
        with _locked(folder / "machine.lock", fcntl.LOCK_EX if alone else fcntl.LOCK_SH):
            fcntl.flock(passed, fcntl.LOCK_UN)
            return (yield)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin no end-to-end test after `MLO_TESTS_END`, in seconds since 1970: the whole run has a limit that it must keep."""
    end = os.environ.get("MLO_TESTS_END")
    if end is not None and time.time() > float(end) and item.get_closest_marker("e2e") is not None:
        pytest.skip("the time of this run was over: .ci/run says how much it has")


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, kind)
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests measured, what was not tested here, and which command installs what it needs."""
    _print_measured(terminalreporter)
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", ()):
        where = report.longrepr
        reason = where[2] if isinstance(where, tuple) else str(where)
        reasons[reason.removeprefix("Skipped: ")] += 1
    if not reasons:
        return
    terminalreporter.section("not tested here")
    for reason, count in reasons.most_common():
        remedy = next((command for word, command in _REMEDIES.items() if word in reason), None)
        brings = f"; to test it: {remedy}" if remedy else ""
        terminalreporter.write_line(
            f"{count:4} tests: {reason}{brings}" if count > 1 else f"   1 test:  {reason}{brings}"
        )


def _print_measured(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures that tests gave to the fixture `record_property` as `measured`, whether or not they passed."""
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, ())]
    told = [str(value) for each in reports for name, value in each.user_properties if name == "measured"]
    if told:
        terminalreporter.section("measured here")
        for line in told:
            terminalreporter.write_line(line)
