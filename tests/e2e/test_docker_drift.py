"""What was changed by hand at a real Docker Engine: it is named, and the next command mends it."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from orchestrator.cli.diff import diff
from orchestrator.store.state import Deployment
from orchestrator.targets.docker.reach import choose_port
from orchestrator.targets.docker.target import DockerTarget
from tests.e2e.docker_engine import ON_ENGINE, Engine, ask, eventually

pytestmark = [*ON_ENGINE, pytest.mark.timeout(300)]


DRIFT: dict[str, tuple[Callable[[Engine, str, str], object], Callable[[Engine, str, str], object] | None, str, str]] = {
    "another limit": (
        lambda e, model, _: e.api.update_container(model, mem_limit="80m", memswap_limit="80m"),
        lambda e, model, _: e.api.update_container(model, mem_limit="64m", memswap_limit="64m"),
        "degraded",
        "its memory limit is 80 MiB instead of 64 MiB",
    ),
    "another restart policy": (
        lambda e, model, _: e.api.update_container(model, restart_policy={"Name": "no"}),
        lambda e, model, _: e.api.update_container(model, restart_policy={"Name": "unless-stopped"}),
        "degraded",
        "its restart policy is no instead of unless-stopped",
    ),
    "off the network": (
        lambda e, model, _: e.api.disconnect_container_from_network(model, f"mlo-{e.name}"),
        lambda e, model, _: e.api.connect_container_to_network(model, f"mlo-{e.name}"),
        "degraded",
        "it is not in the network",
    ),
    "paused": (lambda e, model, _: e.api.pause(model), None, "degraded", "is paused"),
    "stopped": (lambda e, model, _: e.api.stop(model, timeout=1), None, "stopped", "was stopped"),
    "removed": (lambda e, model, _: e.api.remove_container(model, force=True), None, "stopped", "was removed"),
    "front stopped": (
        lambda e, _, front: e.api.stop(front, timeout=1),
        None,
        "stopped",
        "which publishes the port, was stopped",
    ),
    "front removed": (
        lambda e, _, front: e.api.remove_container(front, force=True, v=True),
        None,
        "stopped",
        "the container that publishes its port was removed",
    ),
}
"""What somebody does by hand, how it is undone by hand, and what is then said; without an undoing, the next command mends it."""


def differences(here: Engine, target: DockerTarget) -> tuple[int, str]:
    """The exit code and the output of `mlo diff` where the state records revision 1."""
    deployment = Deployment(
        name=here.name, placement=target.placement, revision=1, highest=1, backend="onnxruntime", variant="onnx-fp32",
        endpoint=target.describe().where, spec_file="/digits.yaml", spec_digest="01", decision_digest="02",
        model_digest="03", rendered_digest="04",
    )  # fmt: skip
    store = here.site.store
    store.state.update(lambda state: state.with_deployment(deployment))
    env = {"MLO_HOME": str(store.home.root)}
    done = CliRunner().invoke(diff, [here.name], env=env, catch_exceptions=False)
    return done.exit_code, done.stdout


def test_drift_is_named_and_mended_by_the_next_command(here: Engine) -> None:
    target = here.target()
    first = here.release(1)
    endpoint = target.prepare()
    target.start(first)
    target.switch(1)
    model = f"mlo-{here.name}-r1"
    front = next(name for name in here.containers() if "-front-" in name)
    for kind, (change, undo, health, reason) in DRIFT.items():
        change(here, model, front)
        observed = target.observe()
        assert (observed.health, reason in observed.reason) == (health, True), f"{kind}: {observed.reason}"
        code, told = differences(here, target)
        assert (code, reason in told) == (1, True), f"{kind}: {told}"
        if undo is not None:
            undo(here, model, front)
        assert target.prepare(first) == endpoint, kind
        eventually(lambda: target.observe().health == "healthy")
        assert ask(endpoint) == "1", kind
        assert len(here.containers()) == 2, kind
    assert differences(here, target) == (0, f"{here.name}: as revision 1 was deployed\n")


def test_drift_of_the_front_is_mended_by_the_next_revision(here: Engine) -> None:
    endpoint = here.deploy(here.target(), 1)
    front = next(name for name in here.containers() if "-front-" in name)
    policy, limit = {"Name": "no"}, "300m"
    here.api.update_container(front, mem_limit=limit, memswap_limit=limit, restart_policy=policy)
    observed = here.target().observe()
    assert observed.health == "degraded"
    assert observed.reason == (
        f"{front}: its memory limit is 300 MiB instead of 256 MiB; {front}: its restart policy is no instead of unless-stopped"
    )
    target = here.target()
    assert here.deploy(target, 2) == endpoint
    eventually(lambda: target.observe().health == "healthy")
    assert ask(endpoint) == "2"
    assert here.containers() == [front, f"mlo-{here.name}-r2"]


def test_a_front_that_was_created_anew_with_other_ports_is_mended_by_the_next_revision(here: Engine) -> None:
    endpoint = here.deploy(here.target(), 1)
    front = next(name for name in here.containers() if "-front-" in name)
    former = here.api.inspect_container(front)
    port, another = urlsplit(endpoint).port or 0, choose_port(here.name, here.api.containers(), "", "127.0.0.1")
    here.api.rename(front, f"{front}-by-hand")
    here.api.stop(front := f"{front}-by-hand", timeout=1)
    host = here.api.create_host_config(
        port_bindings={"8080/tcp": ("127.0.0.1", another)},
        volumes_from=[front],
        tmpfs={"/run/front": "mode=0700,uid=65532,gid=65532"},
        restart_policy={"Name": "unless-stopped"},
    )
    made = here.api.create_container(
        former["Image"], name=former["Name"][1:], hostname=former["Name"][1:], labels=former["Config"]["Labels"],
        ports=[8080], host_config=host,
    )  # fmt: skip
    here.api.connect_container_to_network(made, f"mlo-{here.name}")
    here.api.remove_container(front, force=True)
    here.api.start(made)
    observed = here.target().observe()
    assert (observed.health, observed.endpoint) == ("degraded", endpoint)
    changed = (
        f"its published ports are 8080/tcp at 127.0.0.1:{another} instead of 8080/tcp at 127.0.0.1:{port}, 8090/tcp"
    )
    assert changed in observed.reason
    target = here.target()
    assert here.deploy(target, 2) == endpoint, "not the port that somebody chose"
    eventually(lambda: target.observe().health == "healthy")
    assert ask(endpoint) == "2"
    assert len(here.containers()) == 2


def test_the_front_follows_the_revisions_to_another_network(here: Engine) -> None:
    endpoint = here.deploy(here.target(), 1)
    target = here.target()
    here.deploy(target, 2, egress=True)
    eventually(lambda: target.observe().health == "healthy")
    assert ask(endpoint) == "2"
    assert here.networks() == [f"mlo-{here.name}.out"]
    front = next(name for name in here.containers() if "-front-" in name)
    here.api.disconnect_container_from_network(front, f"mlo-{here.name}.out")
    assert f"{front}: it is not in the network mlo-{here.name}.out" in target.observe().reason


def test_another_image_and_command_under_the_same_name_are_drift(here: Engine) -> None:
    target = here.target()
    here.deploy(target, 1)
    name = f"mlo-{here.name}-r1"
    labels = here.api.inspect_container(name)["Config"]["Labels"]
    here.api.remove_container(name, force=True)
    other = here.image(answer=7)
    host = here.api.create_host_config(network_mode=f"mlo-{here.name}", restart_policy={"Name": "unless-stopped"})
    made = here.api.create_container(
        other.id, name=name, labels=labels, host_config=host, command=["--more"], user="0:0", ports=[8080]
    )
    here.api.start(made)
    reason = target.observe().reason
    assert f"its image is {other.id[7:19]} instead of" in reason
    assert "its command is python3 /server.py --more instead of python3 /server.py" in reason
    assert "its read-only file system is off instead of on" in reason
    assert "its memory limit is none instead of 64 MiB" in reason


def test_a_live_container_that_runs_out_of_memory_is_named_as_such(here: Engine) -> None:
    target = here.target()
    here.deploy(target, 1)
    name = f"mlo-{here.name}-r1"
    # The kernel ends the largest process, which is not the server.
    run = here.api.exec_create(name, ["python3", "-c", "b = bytearray(90 << 20); b[::4096] = bytes(len(b[::4096]))"])
    here.api.exec_start(run["Id"])
    here.api.kill(name, "SIGSTOP")  # what does not answer, is asked why
    eventually(lambda: "it has run out of memory, the limit is 64 MiB" in target.observe().reason)


def test_it_serves_again_after_its_containers_were_killed_and_restarted(here: Engine) -> None:
    target = here.target()
    endpoint = here.deploy(target, 1)
    front = next(name for name in here.containers() if "-front-" in name)
    here.api.restart(front, timeout=0)
    here.api.restart(f"mlo-{here.name}-r1", timeout=0)
    assert ask(endpoint) == "1"
    assert target.observe().health == "healthy"
