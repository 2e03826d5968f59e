"""From a spec to files in a Git repository, with a real registry and engine; and what a real cluster says of the files."""

from __future__ import annotations

import json
import os
import re
import shutil
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
from tests.e2e.images_case import onnx_model, require_engine
from tests.e2e.registries import registry
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


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    """A real registry on loopback, which engines use without TLS."""
    require_engine()
    with registry(tmp_path / "registry") as there:
        yield there


@pytest.mark.timeout(900)
def test_what_is_committed_runs_what_was_pushed_and_changes_only_with_it(mlo: Mlo, host: str) -> None:
    root = mlo.folder / "repository"
    spec, folder = root / "specs" / "doubling.yaml", root / "deployments" / "doubling"
    spec.parent.mkdir(parents=True)
    (spec.parent / "model.onnx").write_bytes(onnx_model())
    spec.write_text(SPEC.format(name=NAME, replicas=1, registry=f"{host}/team"))

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
        asked = urllib.request.Request(f"http://{host}/v2/team/{NAME}/manifests/{digest}", headers={"Accept": kinds})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            assert answer.status == 200
        commit("one")
        assert not [file for file in git("ls-files", "deployments").split() if file.endswith(".onnx")]

        again = apply(code=0)
        assert (again["deployments"][0]["changed"], again["removed"]) == (False, [])
        assert not git("status", "--porcelain")

        spec.write_text(SPEC.format(name=NAME, replicas=3, registry=f"{host}/team"))
        (second,) = apply(code=2)["deployments"]
        assert second["image"] == first["image"], "the image does not depend on how many run it"
        assert set(git("diff", "--name-only", "deployments").split()) == {
            "deployments/doubling/.mlo-gitops.json",
            "deployments/doubling/values.yaml",
        }
        commit("two")

        back = mlo.run("rollback", NAME, "--yes").stdout
        assert f"then: git -C {root} add --all {folder} && git -C {root} commit" in back
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
            ["docker", "images", "--quiet", "--filter", f"reference={host}/team/{NAME}"],
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
@pytest.mark.parametrize("form", ["helm", "manifests", "kustomize"])
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

    folder, manifests = tmp_path / "deployments" / "digits", None
    how = {
        "helm": "--filename=-",
        "manifests": f"--filename={folder}/manifests",
        "kustomize": f"--kustomize={folder}/base",
    }
    if form == "helm":
        command = [
            *("helm", "template", "digits", str(folder / "chart"), f"--values={folder}/values.yaml"),
            *(f"--namespace={namespace}", f"--kube-version={section.kubernetes}", "--skip-tests"),
        ]
        manifests = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    done = subprocess.run(
        ["kubectl", "apply", "--dry-run=server", "--namespace", namespace, how[form]],
        input=manifests, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    taken = [line.split()[0].partition("/")[0].partition(".")[0] for line in done.stdout.splitlines()]
    assert {"deployment", "service", "serviceaccount", "networkpolicy", "horizontalpodautoscaler"} <= set(taken)
    assert all(line.endswith("(server dry run)") for line in done.stdout.splitlines())


MANUAL = Path(__file__).resolve().parents[2] / "docs" / "gitops.md"


def commands_for_an_autoscaler() -> list[str]:
    """The commands of the manual that give the number of pods another owner: for a client-side apply, for a server-side one."""
    (section,) = re.findall(r"^## From a fixed number.*?(?=^## )", MANUAL.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


@pytest.mark.kubernetes
@pytest.mark.parametrize(("how", "followed"), [("client", 0), ("server", 1), ("client", None)])
def test_the_number_of_pods_stays_when_an_autoscaler_takes_over_as_the_manual_says(
    namespace: str, how: str, followed: int | None
) -> None:
    def kubectl(*arguments: str, manifest: object = None) -> str:
        done = subprocess.run(
            ["kubectl", "--namespace", namespace, *arguments],
            input=None if manifest is None else json.dumps(manifest), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    labels = {"app": "digits"}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "server", "image": "none.invalid/none"}]},
    }
    spec = {"replicas": 4, "selector": {"matchLabels": labels}, "template": template}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "digits"}, "spec": spec}
    as_written = ("apply", "--filename=-", *(["--server-side", "--field-manager=flux"] if how == "server" else []))
    kubectl(*as_written, manifest=deployment)
    if followed is not None:
        script = commands_for_an_autoscaler()[followed].replace("NAMESPACE", namespace).replace("NAME", "digits")
        editing = {"KUBE_EDITOR": "sed -i /replicas:/d"}  # as somebody who removes the line
        subprocess.run(["bash", "-ec", script], env=os.environ | editing, check=True, capture_output=True, timeout=60)
    del spec["replicas"]
    kubectl(*as_written, manifest=deployment)
    left = json.loads(kubectl("get", "deployment", "digits", "--output=json"))["spec"]["replicas"]
    assert left == (4 if followed is not None else 1)
