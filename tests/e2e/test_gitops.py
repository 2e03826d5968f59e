"""From a spec to files in a Git repository, with a real registry and engine; and what a real cluster says of the files."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.store.home import Home
from orchestrator.store.state import Image
from orchestrator.store.store import Store
from orchestrator.targets.gitops.section import GitopsDeploy
from orchestrator.targets.gitops.target import GitopsTarget
from orchestrator.targets.target import Release, Site
from tests.e2e.conftest import Mlo
from tests.render.conftest import render_to  # noqa: F401 - a fixture

pytestmark = [pytest.mark.e2e, pytest.mark.containers]

NAME = "gitops-doubling"
SPEC = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {{name: {name}}}
model:
  source: {{kind: onnx, weights: model.onnx}}
  dims: {{batch: {{min: 1, max: 8}}}}
optimize: {{precisions: [fp32], formats: [onnx], time_budget: 30s}}
benchmark: {{batch_sizes: [1]}}
hardware: {{cpus: 1, memory: 512Mi}}
slo: {{enforce: false}}
serving: {{backend: onnxruntime, replicas: {{min: 1, max: {replicas}}}}}
image: {{registry: "{registry}"}}
deploy:
  target: gitops
  path: ../deployments/doubling
  namespace: models
  argo: {{repository: "https://git.example.com/team/deployments.git", revision: main}}
"""


def doubling() -> bytes:
    """y = x + x."""
    from onnx import TensorProto, checker, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubling", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _answers(address: str) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", int(address.partition(":")[2]))) == 0


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A real registry on loopback, which engines use without TLS."""
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not on the PATH, so nothing was pushed for Git")
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no Docker Engine answers, so no image was built for Git")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": address},
    }
    (tmp_path / "registry.yaml").write_text(yaml.safe_dump(settings))
    with (
        (tmp_path / "registry.log").open("wb") as log,
        subprocess.Popen(
            ["docker-registry", "serve", str(tmp_path / "registry.yaml")], stdout=log, stderr=log
        ) as process,
    ):
        try:
            until = time.monotonic() + 30
            while not _answers(address):
                assert time.monotonic() < until, (tmp_path / "registry.log").read_text()
                time.sleep(0.1)
            yield address
        finally:
            process.terminate()


@pytest.mark.timeout(900)
def test_what_is_committed_runs_what_was_pushed_and_changes_only_with_it(mlo: Mlo, registry: str) -> None:
    root = mlo.folder / "repository"
    spec, folder = root / "specs" / "doubling.yaml", root / "deployments" / "doubling"
    spec.parent.mkdir(parents=True)
    (spec.parent / "model.onnx").write_bytes(doubling())
    spec.write_text(SPEC.format(name=NAME, replicas=1, registry=f"{registry}/team"))

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=mlo", "-c", "user.email=mlo@example.com", "-c", "commit.gpgsign=false")
        return subprocess.run(
            ["git", "-C", str(root), *identity, *arguments], capture_output=True, text=True, check=True
        ).stdout

    def commit(message: str) -> None:
        git("add", "--all", ".")
        git("commit", "--quiet", "--message", message)

    def apply(*more: str, code: int) -> Any:
        done = mlo.run("apply", str(spec), "--yes", "--json", "--detailed-exitcode", *more, code=code)
        return json.loads(done.stdout)

    git("init", "--quiet", "--initial-branch=main")
    try:
        (first,) = apply(code=2)["deployments"]
        assert first["changed"] is True
        repository, _, digest = first["image"].partition("@")
        values = yaml.safe_load((folder / "values.yaml").read_text())["image"]
        assert (values["repository"], values["digest"]) == (repository, digest)
        kinds = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
        asked = urllib.request.Request(
            f"http://{registry}/v2/team/{NAME}/manifests/{digest}", headers={"Accept": kinds}
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:
            assert answer.status == 200
        commit("one")
        assert not [file for file in git("ls-files", "deployments").split() if file.endswith(".onnx")]

        again = apply(code=0)
        assert (again["deployments"][0]["changed"], again["removed"]) == (False, [])
        assert not git("status", "--porcelain")

        spec.write_text(SPEC.format(name=NAME, replicas=3, registry=f"{registry}/team"))
        (second,) = apply(code=2)["deployments"]
        assert second["image"] == first["image"], "the image does not depend on how many run it"
        assert set(git("diff", "--name-only", "deployments").split()) == {
            "deployments/doubling/.mlo-gitops.json",
            "deployments/doubling/values.yaml",
        }
        commit("two")

        back = mlo.run("rollback", NAME, "--yes").stdout
        assert f"then: git add --all {folder}" in back
        assert not git("diff", "HEAD~1", "--", "deployments")
        git("checkout", "--quiet", "--", "deployments")
        assert mlo.json("status", NAME, "--json")["deployments"][0]["revision"] == 2

        (folder / "values.yaml").write_text("replicas: {min: 9}\n")
        assert mlo.json("status", NAME, "--json", code=1)["deployments"][0]["reason"] == "values.yaml was changed"
        assert "E615" in mlo.run("logs", NAME, code=64).stderr

        old = folder.with_name("old")
        old.mkdir()
        (old / ".mlo-gitops.json").write_text(json.dumps({"format": 1, "name": "old", "files": {}}))
        pruned = apply("--prune", code=2)
        assert pruned["removed"] == [{"name": "old", "endpoint": str(old)}]
        assert not old.exists()
        assert mlo.json("status", NAME, "--json")["deployments"][0]["health"] == "healthy"

        mlo.run("destroy", NAME, "--yes")
        assert not folder.exists()
        commit("removed")
        assert not git("ls-files", "deployments")
    finally:
        names = subprocess.run(
            ["docker", "images", "--quiet", "--filter", f"reference={registry}/team/{NAME}"],
            capture_output=True, text=True, check=False,
        ).stdout.split()  # fmt: skip
        if names:
            subprocess.run(["docker", "rmi", "--force", *names], capture_output=True, check=False)


@pytest.fixture
def namespace() -> Iterator[str]:
    if "KUBECONFIG" not in os.environ:  # the user's own clusters, of ~/.kube/config, are left alone
        pytest.skip("there is no cluster: KUBECONFIG is not set, so files for Git were not shown to one")
    for program in ("helm", "kubectl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not on the PATH, so files for Git were not shown to a cluster")
    if subprocess.run(["kubectl", "version", "--request-timeout=10s"], capture_output=True, check=False).returncode:
        pytest.skip("kubectl reaches no Kubernetes cluster, so files for Git were not shown to one")
    name = f"mlo-gitops-{time.time_ns() % 10**9}"
    subprocess.run(["kubectl", "create", "namespace", name], check=True, capture_output=True)
    yield name
    subprocess.run(["kubectl", "delete", "namespace", name, "--wait=false"], check=True, capture_output=True)


@pytest.mark.kubernetes
@pytest.mark.parametrize("form", ["manifests", "kustomize"])
def test_a_cluster_takes_what_is_written(
    tmp_path: Path,
    namespace: str,
    render_to: Callable[..., Path],  # noqa: F811
    form: str,
) -> None:
    version = json.loads(
        subprocess.run(["kubectl", "version", "--output=json"], capture_output=True, text=True, check=True).stdout
    )["serverVersion"]
    section = GitopsDeploy.model_validate(
        {
            "target": "gitops", "path": "deployments/digits", "form": form, "namespace": namespace,
            "kubernetes": f"{version['major']}.{version['minor'].rstrip('+')}",
        }
    )  # fmt: skip
    home = Home(tmp_path / "home")
    home.prepare()
    target = GitopsTarget.wanted(section, tmp_path, Site(Store.open(home), "digits"))
    digest = f"sha256:{'0' * 64}"
    image = Image(name="registry.example.com/team/digits:1", id=digest, digest=digest, platform="linux/amd64")
    rendered = render_to("onnxruntime", min_replicas=2, max_replicas=4)
    target.prepare()
    target.start(Release(1, rendered / "serving", "onnxruntime", "digits", 1, 60, image))
    target.switch(1)

    how, place = ("--filename", "manifests") if form == "manifests" else ("--kustomize", "base")
    done = subprocess.run(
        ["kubectl", "apply", "--dry-run=server", how, str(tmp_path / "deployments" / "digits" / place)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    taken = [line.split()[0].partition("/")[0].partition(".")[0] for line in done.stdout.splitlines()]
    assert {"deployment", "service", "serviceaccount", "networkpolicy", "horizontalpodautoscaler"} <= set(taken)
    assert all(line.endswith("(server dry run)") for line in done.stdout.splitlines())
