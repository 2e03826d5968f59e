"""A Git repository with one deployment for it, for tests of the target `gitops`."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.release.live import wanted_target
from orchestrator.spec.load import load_spec
from orchestrator.store.home import Home
from orchestrator.store.state import Image
from orchestrator.store.store import Store
from orchestrator.targets.gitops.section import GitopsDeploy
from orchestrator.targets.gitops.target import GitopsTarget
from orchestrator.targets.target import Release, Site
from tests.render.conftest import Render

CHART = Path(__file__).parents[2] / "charts" / "mlo-model"
FORMS = pytest.mark.parametrize("form", ["helm", "manifests", "kustomize"])
URL = "https://git.example.com/team/deployments.git"


def image(content: str) -> Image:
    digest = f"sha256:{content.encode().hex():0>64}"
    name = "registry.example.com/team/digits:0123456789abcdef"
    return Image(name=name, id=digest, digest=digest, platform="linux/amd64")


class Repository:
    """A Git repository with one deployment for it, whose revisions differ by the bytes of their model."""

    def __init__(self, root: Path, render: Render) -> None:
        self.root = root
        self.work = root.parent
        self.render = render
        root.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=mlo", "-c", "user.email=mlo@example.com", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", "-C", str(self.root), *identity, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def folder(self) -> Path:
        return self.root / "deployments" / "digits"

    def target(self, store: str = "home", **keys: Any) -> GitopsTarget:
        section = GitopsDeploy.model_validate({"target": "gitops", "path": "deployments/digits", **keys})
        home = Home(self.work / store)
        home.prepare()
        return GitopsTarget.wanted(section, self.root, Site(Store.open(home), "digits"))

    def release(self, revision: int, content: str) -> Release:
        rendered = self.work / f"rendered-{content}"
        if not rendered.exists():
            self.render("onnxruntime", rendered.name, model=content.encode())
        return Release(revision, rendered / "serving", "onnxruntime", "digits", 1, 60, image(content))

    def put(self, target: GitopsTarget, revision: int, content: str) -> None:
        target.prepare()
        with target.lock():
            target.start(self.release(revision, content))
            target.switch(revision)

    def files(self) -> dict[str, bytes]:
        found = self.folder.rglob("*") if self.folder.is_dir() else []
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in found if path.is_file()}

    def commit(self, message: str) -> None:
        self.git("add", "--all", ".")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)

    def is_clean(self) -> bool:
        return not self.git("status", "--porcelain")


def needs_helm() -> None:
    if shutil.which("helm") is None:
        pytest.skip("helm is not on the PATH")


ENVIRONMENTS = """\
  staging:
    deploy: {namespace: staging, service: {port: 8000}}
  prod:
    metadata: {labels: {stage: prod}}
    serving: {replicas: {min: 2, max: 8}}
    deploy: {namespace: models, pod: {node_selector: {disk: fast}}}
  edge:
    hardware: {cpus: 1}
    deploy: {path: ../edge}
"""


def with_environments(repository: Repository, environments: str, **keys: Any) -> GitopsTarget:
    """The target of a spec with environments, as `mlo apply` makes it."""
    folder = repository.root / "specs"
    folder.mkdir(exist_ok=True)
    deploy = (
        {"target": "gitops", "path": "../deployments/digits", **keys} if keys.get("target") != "kubernetes" else keys
    )
    (folder / "model.onnx").touch()
    (folder / "spec.yaml").write_text(
        "apiVersion: mlo/v1\nkind: ModelDeployment\nmetadata: {name: digits, labels: {team: vision}}\n"
        "model: {source: {kind: onnx, weights: model.onnx}}\nimage: {registry: registry.example.com/team}\n"
        f"deploy: {json.dumps(deploy)}\nenvironments:\n{environments}"
    )
    home = Home(repository.work / "home")
    home.prepare()
    target = wanted_target(load_spec(folder / "spec.yaml"), Store.open(home))
    assert isinstance(target, GitopsTarget)
    return target


def objects_by_name(text: str) -> dict[tuple[str, str], Any]:
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text) if each}
