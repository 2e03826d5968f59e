"""A deployment as files for Git: what a repository holds after each command, what stays, and what mlo never touches."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from orchestrator.cli.apply import apply
from orchestrator.errors import Busy, DeployFailed, SpecInvalid, UsageError
from orchestrator.release.live import wanted_target
from orchestrator.spec.load import load_spec
from orchestrator.store.home import Home
from orchestrator.store.state import Image
from orchestrator.store.store import Store
from orchestrator.targets.gitops.marker import MARKER
from orchestrator.targets.gitops.section import GitopsDeploy
from orchestrator.targets.gitops.target import GitopsTarget
from orchestrator.targets.table import placements_beside, target_at
from orchestrator.targets.target import Release, Site
from tests.render.conftest import Render, render_to  # noqa: F401 - a fixture

CHART = Path(__file__).parents[2] / "charts" / "mlo-model"
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


@pytest.fixture
def repository(tmp_path: Path, render_to: Render) -> Repository:  # noqa: F811
    return Repository(tmp_path / "repository", render_to)


@pytest.fixture
def target(repository: Repository) -> GitopsTarget:
    return repository.target()


def needs_helm() -> None:
    if shutil.which("helm") is None:
        pytest.skip("helm is not on the PATH")


def test_chart_and_values_name_the_image_by_its_digest_and_hold_no_weights(
    repository: Repository, target: GitopsTarget
) -> None:
    repository.put(target, 1, "one")

    files = repository.files()
    values = yaml.safe_load(files["values.yaml"])
    assert values["image"]["digest"] == image("one").digest
    assert b"Written by mlo" in files["values.yaml"].splitlines()[0], "comments stay"
    assert files["chart/Chart.yaml"] == (CHART / "Chart.yaml").read_bytes()
    assert not [file for file in files if "model.onnx" in file]
    assert sum(map(len, files.values())) < 200_000
    assert (target.observe().health, target.observe().revision) == ("healthy", 1)


def test_a_second_run_changes_no_byte_in_any_store(repository: Repository, target: GitopsTarget) -> None:
    repository.put(target, 1, "one")
    repository.commit("one")
    before = (repository.folder.stat().st_ino, repository.folder.stat().st_mtime_ns)

    repository.put(target, 2, "one")
    assert repository.is_clean()
    repository.put(repository.target("another-home"), 1, "one")
    assert repository.is_clean()
    assert (repository.folder.stat().st_ino, repository.folder.stat().st_mtime_ns) == before, "it was not written"


def test_a_rollback_restores_the_former_bytes(repository: Repository, target: GitopsTarget) -> None:
    repository.put(target, 1, "one")
    repository.commit("one")
    one = repository.files()
    repository.put(target, 2, "two")
    assert repository.git("diff", "--stat")
    repository.commit("two")

    repository.put(target, 1, "one")

    assert repository.files() == one
    assert not repository.git("diff", "HEAD~1")
    assert target.observe().revision == 1
    assert target.history() == (1, 2)


def test_a_rollback_takes_the_bytes_from_the_store_even_if_the_chart_would_give_others(
    repository: Repository, target: GitopsTarget
) -> None:
    repository.put(target, 1, "one")
    one = repository.files()
    repository.put(target, 2, "two")
    (repository.work / "rendered-one" / "chart" / "Chart.yaml").write_text("name: another\n")

    repository.put(target, 1, "one")

    assert repository.files() == one


def test_a_checkout_of_an_earlier_commit_is_seen(repository: Repository, target: GitopsTarget) -> None:
    repository.put(target, 1, "one")
    repository.commit("one")
    repository.put(target, 2, "two")
    repository.commit("two")
    repository.git("checkout", "--quiet", "HEAD~1")
    assert (target.observe().health, target.observe().revision) == ("healthy", 1)

    other = repository.target("another-home")
    assert other.observe().health == "degraded"
    assert "another store wrote, or another commit" in other.observe().reason


def test_files_changed_by_hand_are_drift_by_name_and_the_next_apply_repairs_them(
    repository: Repository, target: GitopsTarget
) -> None:
    repository.put(target, 1, "one")
    wanted = repository.files()
    (repository.folder / "values.yaml").write_text("replicas: {min: 9}\n")
    (repository.folder / "chart" / "templates" / "service.yaml").unlink()

    observed = target.observe()
    assert (observed.health, observed.revision) == ("degraded", 1)
    assert observed.reason == "chart/templates/service.yaml is missing, values.yaml was changed"

    repository.put(target, 2, "one")
    assert repository.files() == wanted
    assert target.observe().health == "healthy"


def test_files_of_others_stay_the_same_files(repository: Repository, target: GitopsTarget) -> None:
    repository.put(target, 1, "one")
    own = {
        "notes.md": repository.folder / "notes.md",
        "template": repository.folder / "chart" / "templates" / "own.yaml",
        "link": repository.folder / "link",
    }
    own["notes.md"].write_text("mine")
    own["template"].write_text("kind: ConfigMap")
    own["link"].symlink_to("notes.md")
    before = {name: path.lstat().st_ino for name, path in own.items()}

    repository.put(target, 2, "two")
    assert {name: path.lstat().st_ino for name, path in own.items()} == before
    assert own["link"].read_text() == "mine"
    assert target.observe().health == "healthy"

    assert target.stop() == ("except for files that mlo did not write",)
    assert {name: path.lstat().st_ino for name, path in own.items()} == before
    assert sorted(repository.files()) == ["chart/templates/own.yaml", "link", "notes.md"]
    for path in own.values():
        path.unlink()


def test_a_file_of_others_where_mlo_would_write_one_is_refused(repository: Repository, target: GitopsTarget) -> None:
    repository.put(target, 1, "one")
    (repository.folder / "application.yaml").write_text("mine")

    with pytest.raises(DeployFailed) as refused:
        repository.put(repository.target(argo={"repository": URL}), 2, "one")

    assert refused.value.diagnostics[0].code == "E671"
    assert "application.yaml is in the way" in refused.value.diagnostics[0].cause
    assert (repository.folder / "application.yaml").read_text() == "mine"
    assert target.observe().revision == 1


@pytest.mark.parametrize(
    "what", ["files of others", "a file in its place", "a link", "another deployment", "a conflict"]
)
def test_a_folder_that_is_not_ours_is_refused_before_anything_is_computed(
    repository: Repository, target: GitopsTarget, what: str
) -> None:
    folder = repository.folder
    folder.parent.mkdir()
    if what == "files of others":
        folder.mkdir()
        (folder / "mine.yaml").write_text("mine")
    elif what == "a file in its place":
        folder.write_text("mine")
    elif what == "a link":
        folder.symlink_to(repository.root)
    else:
        folder.mkdir()
        conflict = "<<<<<<< HEAD\n"
        other = json.dumps({"format": 1, "name": "faces", "files": {}})
        (folder / MARKER).write_text(other if what == "another deployment" else conflict)
    before = sorted(path.name for path in repository.root.rglob("*"))

    with pytest.raises(DeployFailed) as refused:
        target.check()

    diagnostic = refused.value.diagnostics[0]
    assert (diagnostic.code, diagnostic.at) == ("E671", ("deploy", "path"))
    assert diagnostic.remedy
    assert sorted(path.name for path in repository.root.rglob("*")) == before


def test_destroying_removes_the_folder_and_what_the_store_has(repository: Repository, target: GitopsTarget) -> None:
    repository.put(target, 1, "one")
    repository.commit("one")
    with target.lock():
        assert target.stop() == ()
    assert not repository.folder.exists()
    assert target.observe().health == "stopped"
    assert target.history() == ()
    repository.commit("removed")
    assert not repository.git("ls-files")


def test_nothing_runs_so_there_is_no_url_and_no_log(target: GitopsTarget) -> None:
    with pytest.raises(UsageError) as no_url:
        target.url()
    assert no_url.value.diagnostics[0].code == "E619"
    with pytest.raises(UsageError) as no_log:
        target.logs(10, follow=False)
    assert no_log.value.diagnostics[0].code == "E615"
    assert "kubectl --namespace default logs" in no_log.value.diagnostics[0].remedy


def test_an_image_without_digest_is_refused(repository: Repository, target: GitopsTarget) -> None:
    release = repository.release(1, "one")
    assert release.image is not None
    unpushed = Release(
        1, release.serving, "onnxruntime", "digits", 1, 60, release.image.model_copy(update={"digest": None})
    )
    target.prepare()
    with pytest.raises(DeployFailed) as refused:
        target.start(unpushed)
    assert refused.value.diagnostics[0].code == "E675"
    assert target.history() == ()
    assert not repository.folder.exists()


def test_values_that_name_another_image_are_a_bug_and_nothing_is_written(
    repository: Repository, target: GitopsTarget
) -> None:
    release = repository.release(1, "one")
    values = release.rendered / "values.yaml"
    values.write_text(values.read_text().replace("team/digits", "team/faces"))
    target.prepare()
    with pytest.raises(ValueError, match="team/faces"):
        target.start(release)
    assert not repository.folder.exists()


def test_what_is_written_otherwise_is_a_difference(repository: Repository, target: GitopsTarget) -> None:
    assert target.difference("") is None
    repository.put(target, 1, "one")
    assert target.difference("") is None
    assert repository.target(namespace="models", argo={"repository": URL}).difference("") == (
        "`deploy` differs in `namespace`, `argo`"
    )


def test_git_commands_wait_and_mlo_waits_for_them(
    repository: Repository, target: GitopsTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.targets.gitops.repository._SECONDS", 0.1)
    repository.put(target, 1, "one")
    held = repository.root / ".git" / "index.lock"
    held.touch()  # as a Git command that reads files for a commit
    with pytest.raises(Busy) as busy:
        repository.put(target, 2, "two")
    assert busy.value.diagnostics[0].code == "E605"
    assert str(held) in busy.value.diagnostics[0].cause
    assert held.exists()
    assert target.observe().revision == 1
    held.unlink()
    repository.put(target, 2, "two")
    assert not held.exists()


_DEPLOY = """
import sys
from pathlib import Path
from orchestrator.targets.target import Release
from tests.targets.test_gitops import Repository
repository = Repository.__new__(Repository)
repository.root, repository.work = Path(sys.argv[1]), Path(sys.argv[2])
target = repository.target()
if sys.argv[3] == "stop":
    with target.lock():
        target.stop()
else:
    repository.put(target, int(sys.argv[3]), sys.argv[4])
"""


def killed_at(point: str, repository: Repository, *arguments: str) -> None:
    for content in arguments[1:]:
        repository.release(1, content)
    killed = subprocess.run(
        [sys.executable, "-c", _DEPLOY, str(repository.root), str(repository.work), *arguments],
        env={**os.environ, "MLO_CRASH_AT": point},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL


@pytest.mark.processes
@pytest.mark.parametrize("point", ["gitops.started", "gitops.staged", "gitops.exchanged", "gitops.switched"])
def test_a_commit_after_a_kill_at_any_point_holds_the_former_or_the_new_files(
    repository: Repository, target: GitopsTarget, point: str
) -> None:
    repository.put(target, 1, "one")
    one = repository.files()
    (repository.folder / "notes.md").write_text("mine")
    killed_at(point, repository, "2", "two")

    repository.commit("after the kill")
    after = repository.files()
    assert after.pop("notes.md") == b"mine"
    committed = repository.git("ls-files").splitlines()
    assert sorted(committed) == sorted(f"deployments/digits/{file}" for file in [*after, "notes.md"]), "nothing else"
    assert target.observe().health == "healthy"
    assert target.observe().revision == (1 if after == one else 2)

    repository.put(target, 3, "three")
    assert target.observe().revision == 3
    assert sorted(path.name for path in repository.folder.parent.iterdir()) == ["digits"], "nothing is left"
    assert (repository.folder / "notes.md").read_text() == "mine"


@pytest.mark.processes
@pytest.mark.parametrize("point", ["gitops.rest-staged", "gitops.cleared"])
def test_a_removal_that_is_killed_is_whole_or_was_not_begun(
    repository: Repository, target: GitopsTarget, point: str
) -> None:
    repository.put(target, 1, "one")
    killed_at(point, repository, "stop")
    assert repository.files() == {} or target.observe().health == "healthy"
    with target.lock():
        target.stop()
    assert not repository.folder.parent.exists() or not any(repository.folder.parent.iterdir())


@pytest.mark.processes
def test_without_an_exchange_of_folders_a_kill_between_two_renames_is_settled(
    repository: Repository, target: GitopsTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.targets.gitops.swap._EXCHANGE", 1 << 30)  # as on NFS: EINVAL
    repository.put(target, 1, "one")
    repository.put(target, 2, "two")
    assert target.observe().revision == 2
    repository.put(target, 3, "three")
    two = repository.target()

    def killed(point: str) -> None:
        if point == "gitops.between-renames":
            raise KeyboardInterrupt

    with monkeypatch.context() as dies:
        dies.setattr("orchestrator.targets.gitops.swap.crash_point", killed)
        with pytest.raises(KeyboardInterrupt):
            repository.put(two, 4, "four")
    assert two.observe().revision == 3
    assert not (repository.root / ".git" / "index.lock").exists()


@pytest.mark.processes
def test_commits_that_are_made_all_the_while_never_hold_half_of_a_change(
    repository: Repository, target: GitopsTarget
) -> None:
    repository.put(target, 1, "one")
    repository.commit("one")
    repository.put(target, 2, "two")
    repository.commit("two")
    whole = {repository.git("rev-parse", f"{commit}:deployments/digits").strip() for commit in ("HEAD", "HEAD~1")}
    script = (
        "while [ ! -e stop ]; do git add --all deployments && git write-tree; done 2>/dev/null | sort | uniq > trees"
    )
    with subprocess.Popen(["bash", "-c", script], cwd=repository.root) as adding:
        for revision in range(3, 23):
            repository.put(target, revision, "one" if revision % 2 else "two")
        (repository.root / "stop").touch()
        adding.wait(timeout=60)
    trees = (repository.root / "trees").read_text().split()
    assert {repository.git("rev-parse", f"{tree}:deployments/digits").strip() for tree in trees} == whole


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


SCHEMAS = [above / "shared" / "schemas" for above in CHART.parents[2:5]]
"""Where the schemas of Argo CD's and Flux' objects may be: beside the project, or beside a folder with several of its work trees."""
SCHEMA_OF = {
    "Application": "argoproj.io_application_v1alpha1",
    "GitRepository": "source.toolkit.fluxcd.io_gitrepository_v1",
    "HelmRelease": "helm.toolkit.fluxcd.io_helmrelease_v2",
    "Kustomization": "kustomize.toolkit.fluxcd.io_kustomization_v1",
}


def fits_its_schema(document: dict[str, Any]) -> None:
    name = f"{SCHEMA_OF[document['kind']]}.json"
    file = next((folder / name for folder in SCHEMAS if (folder / name).is_file()), None)
    if file is None:
        pytest.skip("the schemas of Argo CD and Flux are not in ../shared/schemas")
    jsonschema.validate(document, strict(json.loads(file.read_text())), format_checker=jsonschema.FormatChecker())


def strict(schema: Any) -> Any:
    """The same schema, which refuses keys that it does not know wherever it names some."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    refused = {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {}
    return {**refused, **{key: strict(value) for key, value in schema.items()}}


FORMS = pytest.mark.parametrize("form", ["helm", "manifests", "kustomize"])


@FORMS
def test_the_application_of_argo_cd_deploys_what_is_written(repository: Repository, form: str) -> None:
    target = repository.target(form=form, namespace="models", argo={"repository": URL, "revision": "main"})
    if form != "helm":
        needs_helm()
    repository.put(target, 1, "one")

    application = yaml.safe_load(repository.files()["application.yaml"])
    fits_its_schema(application)
    spec = application["spec"]
    assert spec["source"]["repoURL"] == URL
    assert spec["source"]["targetRevision"] == "main"
    assert spec["destination"]["namespace"] == "models"
    place = repository.root / spec["source"]["path"]
    if form == "helm":
        assert (place / "Chart.yaml").is_file()
        (values,) = spec["source"]["helm"]["valueFiles"]
        assert (place / values).resolve() == repository.folder / "values.yaml"
    else:
        assert (place / "deployment.yaml").is_file()


@FORMS
def test_the_objects_of_flux_deploy_what_is_written(repository: Repository, form: str) -> None:
    target = repository.target(
        form=form, namespace="models", flux={"repository": f"ssh://git@git.example.com/{form}", "source": "models"}
    )
    if form != "helm":
        needs_helm()
    repository.put(target, 1, "one")

    source, release = yaml.safe_load_all(repository.files()["flux.yaml"])
    for document in (source, release):
        fits_its_schema(document)
    assert source["metadata"]["name"] == "models"
    if form == "helm":
        chart = release["spec"]["chart"]["spec"]
        assert chart["sourceRef"]["name"] == "models"
        assert (repository.root / chart["chart"] / "Chart.yaml").is_file()
        assert [(repository.root / file).is_file() for file in chart["valuesFiles"]] == [True]
        assert release["spec"]["targetNamespace"] == "models"
    else:
        assert release["kind"] == "Kustomization"
        assert (repository.root / release["spec"]["path"] / "deployment.yaml").is_file()


def test_files_for_argo_cd_and_flux_need_a_repository(tmp_path: Path, repository: Repository) -> None:
    shutil.rmtree(repository.root / ".git")
    target = repository.target(argo={"repository": URL})
    with pytest.raises(DeployFailed) as refused:
        target.check()
    assert refused.value.diagnostics[0].code == "E672"
    repository.target().check()


@FORMS
def test_what_deploy_sets_of_the_chart_is_written_too(repository: Repository, form: str) -> None:
    needs_helm()
    keys: dict[str, Any] = {
        "service": {"port": 8000},
        "pod": {"node_selector": {"disk": "fast"}},
        "values": {"labels": {"more": "yes"}},
    }
    repository.put(repository.target(form=form, argo={"repository": URL}, flux={}, **keys), 1, "one")
    files = repository.files()
    if form != "helm":
        place = "manifests" if form == "manifests" else "base"
        assert yaml.safe_load(files[f"{place}/service.yaml"])["spec"]["ports"][0]["port"] == 8000
        return
    values = yaml.safe_load(files["values-deploy.yaml"])
    assert values["service"]["port"] == 8000
    assert values["nodeSelector"] == {"disk": "fast"}
    application = yaml.safe_load(files["application.yaml"])["spec"]["source"]
    assert application["helm"]["valueFiles"] == ["../values.yaml", "../values-deploy.yaml"]
    chart = yaml.safe_load(files["flux.yaml"])["spec"]["chart"]["spec"]
    assert chart["valuesFiles"][1] == "./deployments/digits/values-deploy.yaml"


@pytest.mark.parametrize("form", ["manifests", "kustomize"])
def test_manifests_are_the_objects_that_helm_would_send(repository: Repository, form: str) -> None:
    needs_helm()
    repository.put(repository.target(form=form, namespace="models", kubernetes="1.33"), 1, "one")
    place = "manifests" if form == "manifests" else "base"
    files = {file: text for file, text in repository.files().items() if file.startswith(f"{place}/")}
    found = [yaml.safe_load(text) for file, text in files.items() if not file.endswith("kustomization.yaml")]
    sent = subprocess.run(
        ["helm", "template", "digits", str(CHART), "--namespace", "models", "--kube-version", "1.33.0", "--skip-tests",
         "--values", str(repository.work / "rendered-one" / "values.yaml"),
         "--set", f"image.digest={image('one').digest}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    wanted = [each for each in yaml.safe_load_all(sent) if each]
    for each in wanted:
        each["metadata"]["namespace"] = "models"
    in_order = lambda each: (each["kind"], each["metadata"]["name"])  # noqa: E731 - for two sorts
    assert sorted(found, key=in_order) == sorted(wanted, key=in_order)
    (deployment,) = (each for each in found if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == image("one").reference


def test_a_kustomize_base_is_built_by_kubectl(repository: Repository) -> None:
    needs_helm()
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on the PATH")
    repository.put(repository.target(form="kustomize", namespace="models"), 1, "one")
    built = subprocess.run(
        ["kubectl", "kustomize", str(repository.folder / "base")], capture_output=True, text=True, check=True
    ).stdout
    kinds = sorted(each["kind"] for each in yaml.safe_load_all(built))
    assert {"Deployment", "NetworkPolicy", "Service", "ServiceAccount"} <= set(kinds)


def test_objects_behind_an_api_of_the_cluster_are_written_where_the_spec_names_it(repository: Repository) -> None:
    needs_helm()
    repository.put(repository.target(form="manifests", apis=["monitoring.coreos.com/v1/ServiceMonitor"]), 1, "one")
    assert "manifests/servicemonitor.yaml" in repository.files()


def test_without_helm_manifests_are_refused_before_anything_is_computed(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(repository.root))
    repository.target().check()
    with pytest.raises(DeployFailed) as refused:
        repository.target(form="manifests").check()
    diagnostic = refused.value.diagnostics[0]
    assert (diagnostic.code, diagnostic.at) == ("E673", ("deploy", "form"))


def test_what_helm_says_of_a_chart_that_it_refuses_is_the_cause(repository: Repository) -> None:
    needs_helm()
    release = repository.release(1, "one")
    values = release.rendered / "values.yaml"
    values.write_text(values.read_text().replace("min: 1", "min: 9"))
    target = repository.target(form="manifests")
    target.prepare()
    with pytest.raises(DeployFailed) as refused:
        target.start(release)
    assert refused.value.diagnostics[0].code == "E674"
    assert "max must not be less" in refused.value.diagnostics[0].cause
    assert not repository.folder.exists()


def objects_by_name(text: str) -> dict[tuple[str, str], Any]:
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text) if each}


def test_an_overlay_gives_the_objects_that_helm_would_send_to_its_environment(repository: Repository) -> None:
    needs_helm()
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on the PATH")
    repository.put(with_environments(repository, ENVIRONMENTS, form="kustomize"), 1, "one")
    files = repository.files()
    assert sorted({file.split("/")[1] for file in files if file.startswith("overlays/")}) == ["prod", "staging"]

    for form, path in (("kustomize", "overlays/{}"), ("manifests", "manifests/{}")):
        repository.put(with_environments(repository, ENVIRONMENTS, form=form), 2, "one")
        for environment in ("staging", "prod"):
            folder = repository.folder / path.format(environment)
            if form == "kustomize":
                text = subprocess.run(
                    ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True
                ).stdout
            else:
                text = "---\n".join(file.read_text() for file in folder.iterdir())
            (repository.work / f"{form}-{environment}").write_text(text)
    for environment in ("staging", "prod"):
        by_overlay, by_helm = (
            objects_by_name((repository.work / f"{form}-{environment}").read_text())
            for form in ("kustomize", "manifests")
        )
        assert by_overlay == by_helm
    prod = objects_by_name((repository.work / "kustomize-prod").read_text())
    assert ("HorizontalPodAutoscaler", "digits") in prod
    assert {each["metadata"]["namespace"] for each in prod.values()} == {"models"}
    assert prod["Deployment", "digits"]["metadata"]["labels"]["stage"] == "prod"
    assert prod["Deployment", "digits"]["spec"]["template"]["spec"]["nodeSelector"] == {"disk": "fast"}
    staging = objects_by_name((repository.work / "kustomize-staging").read_text())
    assert staging["Service", "digits"]["spec"]["ports"][0]["port"] == 8000


@FORMS
def test_every_environment_of_the_folder_has_its_application_and_release(repository: Repository, form: str) -> None:
    needs_helm()
    keys: dict[str, Any] = {"form": form, "argo": {"repository": URL}, "flux": {}}
    repository.put(with_environments(repository, ENVIRONMENTS, **keys), 1, "one")
    applications = list(yaml.safe_load_all(repository.files()["application.yaml"]))
    releases = list(yaml.safe_load_all(repository.files()["flux.yaml"]))
    for documents in (applications, releases):
        assert [each["metadata"]["name"] for each in documents] == ["digits-staging", "digits-prod"]
        for document in documents:
            fits_its_schema(document)
    assert [each["spec"]["destination"]["namespace"] for each in applications] == ["staging", "models"]
    if form == "helm":
        of_staging, of_prod = (each["spec"]["source"] for each in applications)
        for source in (of_staging, of_prod):
            assert all((repository.root / source["path"] / file).is_file() for file in source["helm"]["valueFiles"])
        assert of_prod["helm"]["valueFiles"][-1] == "../values-prod.yaml"
        assert yaml.safe_load(repository.files()["values-prod.yaml"])["replicas"] == {"min": 2, "max": 8}
    else:
        assert all((repository.root / each["spec"]["source"]["path"]).is_dir() for each in applications)


@pytest.mark.parametrize(
    ("environment", "changed"),
    [
        ("{hardware: {cpus: 4}}", "`hardware`"),
        ("{slo: {p99_latency: 5ms}}", "`slo`"),
        ("{serving: {grpc: true, replicas: {max: 2}}}", "`serving`"),
        ("{deploy: {form: kustomize}}", "`deploy.form`"),
    ],
)
def test_an_environment_that_needs_a_decision_of_its_own_is_refused(
    repository: Repository, environment: str, changed: str
) -> None:
    with pytest.raises(DeployFailed) as refused:
        with_environments(repository, f"  edge: {environment}\n").check()
    diagnostic = refused.value.diagnostics[0]
    assert diagnostic.code == "E676"
    assert f"it changes {changed};" in diagnostic.cause
    assert "--environment edge" in diagnostic.remedy


def test_an_inference_service_of_kserve_takes_the_place_of_the_deployment(repository: Repository) -> None:
    needs_helm()
    repository.put(repository.target(form="manifests", **{"as": "inference-service"}), 1, "one")
    files = repository.files()
    assert "manifests/deployment.yaml" not in files
    service = yaml.safe_load(files["manifests/inferenceservice.yaml"])
    (container,) = service["spec"]["predictor"]["containers"]
    assert container["image"] == image("one").reference
    assert {"name": "PROTOCOL", "value": "v2"} in container["env"]


def test_what_lies_beside_and_is_of_no_given_spec_is_found_by_its_marker(
    repository: Repository, target: GitopsTarget
) -> None:
    repository.put(target, 1, "one")
    parent = repository.folder.parent
    for name, text in (("old", '{"format": 1, "name": "old", "files": {}}'), ("mine", ""), ("damaged", "{")):
        (parent / name).mkdir()
        (parent / name / (MARKER if text else "notes.md")).write_text(text)
    found = placements_beside(target.placement)
    assert list(found) == ["old"]
    site = Site(Store.open(Home(repository.work / "home")), "old")
    old = target_at(found["old"], site)
    with old.lock():
        assert old.stop() == ()
    assert sorted(path.name for path in parent.iterdir()) == ["damaged", "digits", "mine"]
    assert target.observe().health == "healthy"


MANUAL = CHART.parents[1] / "docs" / "gitops.md"


def examples() -> list[Any]:
    """The YAML in the manual, each parsed strictly enough to notice a broken example."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", MANUAL.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(block) for block in blocks]


def test_specs_in_the_manual_are_valid() -> None:
    specs = [each for each in examples() if "deploy" in each and "target" in each["deploy"]]
    assert len(specs) == 2
    for spec in specs:
        sections = [
            spec["deploy"],
            *({**spec["deploy"], **each.get("deploy", {})} for each in spec.get("environments", {}).values()),
        ]
        for section in sections:
            GitopsDeploy.model_validate(section)


def test_pipelines_in_the_manual_are_valid_and_run_commands_that_there_are() -> None:
    on_github, on_gitlab = (each for each in examples() if "target" not in each.get("deploy", {}))
    assert on_github[True] == {"push": {"branches": ["main"], "paths": ["specs/**"]}}, "YAML 1.1 reads `on` as true"
    (job,) = on_github["jobs"].values()
    assert all(step.keys() & {"run", "uses"} for step in job["steps"])
    scripts = ["\n".join(on_gitlab["deploy"]["script"]), *(step["run"] for step in job["steps"] if "run" in step)]
    for script in scripts:
        subprocess.run(["bash", "-n", "-c", script], check=True)
    options = {option for parameter in apply.params for option in parameter.opts}
    used = set(re.findall(r"(--[a-z-]+)", " ".join(re.findall(r"mlo apply ([^>]*)>", "\n".join(scripts)))))
    assert used == {"--yes", "--json", "--detailed-exitcode"}
    assert used <= options


@pytest.mark.parametrize(
    ("section", "code", "mended"),
    [
        ({"target": "kubernetes"}, "E677", {"target": "gitops", "path": "../deployments/digits"}),
        ({"ingress": {"hosts": ["digits.example.com"]}}, "E678", {}),
    ],
)
def test_what_does_not_go_with_an_inference_service_is_refused_until_the_remedy_is_followed(
    repository: Repository, section: dict[str, Any], code: str, mended: dict[str, Any]
) -> None:
    kserve = {"as": "inference-service"}
    with pytest.raises(SpecInvalid) as refused:
        with_environments(repository, "  none: {}\n", **section, **kserve)
    (problem,) = (each for each in refused.value.diagnostics if each.code == code)
    assert problem.span is not None
    assert problem.remedy
    with_environments(repository, "  none: {}\n", **mended, **kserve).check()
