"""What is written for Git: chart, manifests or a Kustomize base, with overlays, and the files of Argo CD and Flux."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from orchestrator.errors import DeployFailed
from orchestrator.targets.gitops.section import GitopsDeploy
from tests.targets.gitops_case import (
    CHART,
    ENVIRONMENTS,
    FORMS,
    URL,
    Repository,
    image,
    needs_helm,
    objects_by_name,
    with_environments,
)

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


def test_a_link_above_the_folder_leads_to_the_repository_that_git_would_take(
    tmp_path: Path, repository: Repository
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "apps").mkdir(parents=True)
    (repository.root / "deployments").symlink_to(elsewhere / "apps")
    target = repository.target(argo={"repository": URL})
    with pytest.raises(DeployFailed) as refused:
        target.check()
    assert refused.value.diagnostics[0].code == "E672"
    assert str(elsewhere / "apps" / "digits") in refused.value.diagnostics[0].message

    (elsewhere / ".git").mkdir()
    repository.put(target, 1, "one")
    application = yaml.safe_load((elsewhere / "apps" / "digits" / "application.yaml").read_text())
    assert application["spec"]["source"]["path"] == "apps/digits/chart"


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("https://git.example.com/team/deployments.git", True),
        ("ssh://git@git.example.com:2222/team/deployments.git", True),
        ("git@git.example.com:team/deployments.git", True),
        ("https://mlo:a-token@git.example.com/team/deployments.git", False),
        ("https://a-token@git.example.com/team/deployments.git", False),
        ("ssh://git:a-word@git.example.com/team/deployments.git", False),
    ],
)
def test_no_password_gets_into_a_repository_by_its_url(url: str, taken: bool) -> None:
    keys: tuple[dict[str, Any], ...] = ({"argo": {"repository": url}}, {"flux": {"repository": url}})
    for key in keys:
        section = {"target": "gitops", "path": "deployments/digits", **key}
        if taken:
            GitopsDeploy.model_validate(section)
        else:
            with pytest.raises(ValidationError, match="pattern"):
                GitopsDeploy.model_validate(section)


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
    with pytest.raises(DeployFailed) as refused:
        repository.target(form="manifests").check()
    diagnostic = refused.value.diagnostics[0]
    assert (diagnostic.code, diagnostic.at) == ("E673", ("deploy", "form"))
    (form,) = re.findall(r"or use `form: (\w+)`", diagnostic.remedy)
    repository.target(form=form).check()


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
    assert "change what the cause names" in refused.value.diagnostics[0].remedy
    values.write_text(values.read_text().replace("min: 9", "min: 1"))
    target.start(release)


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
    assert "give it a `deploy.path` of its own, and apply it with `--environment edge`" in diagnostic.remedy
    own = environment.removesuffix("}") + ", deploy: {path: out/edge}}"
    if "deploy:" in environment:
        own = environment.replace("{form:", "{path: out/edge, form:")
    with_environments(repository, f"  edge: {own}\n").check()
