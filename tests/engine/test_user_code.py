"""What the user's code imports and reads is part of the keys, wherever it lies; variables of its environment too."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.errors import StepFailed
from orchestrator.machine.fingerprint import fingerprint
from orchestrator.machine.here import Here
from orchestrator.plan.resolve import Outcome, Resolver
from orchestrator.plan.step import Plan, Step, StepOutput
from orchestrator.steps.parameters import CodeAccess
from orchestrator.store.digest import sha256_bytes
from orchestrator.store.user_code import UserCode

if TYPE_CHECKING:
    from conftest import Project

FROM_TEAM = "from team import WORD\ndef make():\n    return WORD\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def steps(project: Project, access: CodeAccess = CodeAccess()) -> tuple[Step, ...]:  # noqa: B008 - frozen
    """The import step, and a later one that runs the code in a process of its own, as the benchmark of the baseline does."""
    params = {"path": list(access.path), "env": list(access.env)}
    return (
        project.step("import", "builds", params=params, user_code=access),
        project.step("later", "join", inputs={"import": StepOutput("import")}, user_code=access),
        project.step("unconcerned", "join", inputs={"import": StepOutput("import")}),
    )


def found(outcomes: dict[str, Outcome]) -> UserCode:
    receipt = outcomes["import"].receipt
    assert receipt is not None
    return receipt.found


def statuses(project: Project, *chosen: Step, **variables: str | None) -> dict[str, tuple[str, str]]:
    """What a plan says of the steps: status and reason."""
    plan = Plan("small", chosen, (), project.folder, Here(fingerprint(), {}, variables=variables))
    resolver = Resolver(project.loaded, plan, project.store)
    outcomes: dict[str, Outcome] = {}
    told = {}
    for step in chosen:
        resolved = resolver.resolve(step, outcomes)
        if resolved is None:
            told[step.id] = ("known after run", "")
            continue
        told[step.id] = (resolved.status, resolved.reason)
        if resolved.outcome is not None:
            outcomes[step.id] = resolved.outcome
    return told


@pytest.fixture
def team(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package outside of the spec's folder, on PYTHONPATH."""
    write(project.folder / "blocks.py", FROM_TEAM)
    folder = tmp_path / "lib"
    write(folder / "team" / "__init__.py", "from team.words import WORD\n")
    write(folder / "team" / "words.py", "WORD = 'one'\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ["PYTHONPATH"]]))
    return folder


def test_a_module_elsewhere_on_the_path_is_part_of_the_keys(project: Project, team: Path) -> None:
    outcomes = project.run(*steps(project))
    assert project.text(outcomes, "import") == "one"
    assert {"blocks.py", "@/team/__init__.py", "@/team/words.py"} <= found(outcomes).files.keys()
    assert {status for status, _ in statuses(project, *steps(project)).values()} == {"cached"}

    write(team / "team" / "words.py", "WORD = 'two'\n")
    assert statuses(project, *steps(project))["import"] == ("run", "team/words.py changed")
    assert project.text(project.run(*steps(project)), "import") == "two"


def test_a_later_step_meets_no_older_code(project: Project, team: Path) -> None:
    """The output of `import` is the same, so only the code in its key makes the baseline be measured again."""
    before = project.run(*steps(project))
    write(team / "team" / "words.py", "WORD = 'on' + 'e'\n")
    after = project.run(*steps(project))
    kept = {step: before[step].receipt == after[step].receipt for step in before}
    assert kept == {"import": False, "later": False, "unconcerned": True}
    receipt = after["later"].receipt
    assert receipt is not None
    assert receipt.parts["code"]["@/team/words.py"] == sha256_bytes(b"WORD = 'on' + 'e'\n")


def test_roots_of_the_spec_are_imported_from(project: Project, tmp_path: Path) -> None:
    write(project.folder / "blocks.py", FROM_TEAM)
    module = write(tmp_path / "src" / "team.py", "WORD = 'one'\n")
    with pytest.raises(StepFailed) as caught:
        project.run(*steps(project))
    assert caught.value.diagnostics[0].remedy == "it is in ../src: add `path: [../src]` to `model.source`"

    access = CodeAccess(path=("../src",))
    assert project.text(project.run(*steps(project, access)), "import") == "one"
    module.write_text("WORD = 'two'\n", encoding="utf-8")
    assert statuses(project, *steps(project, access))["import"] == ("run", "team.py changed")


def test_a_module_that_comes_to_lie_before_another_is_found(project: Project, team: Path) -> None:
    project.run(*steps(project))
    write(project.folder / "team.py", "WORD = 'nearer'\n")
    status, reason = statuses(project, *steps(project))["import"]
    assert status == "run"
    assert "the module team is found elsewhere than before" in reason
    assert project.text(project.run(*steps(project)), "import") == "nearer"


def test_a_folder_that_the_code_itself_puts_on_the_path_counts(project: Project, tmp_path: Path) -> None:
    where = "import sys, pathlib\nsys.path.insert(0, str(pathlib.Path(__file__).parent.parent / 'own'))\n"
    write(project.folder / "blocks.py", where + FROM_TEAM)
    module = write(tmp_path / "own" / "team.py", "WORD = 'one'\n")
    outcomes = project.run(*steps(project))
    assert "../own/team.py" in found(outcomes).files
    module.write_text("WORD = 'two'\n", encoding="utf-8")
    assert statuses(project, *steps(project))["import"] == ("run", "../own/team.py changed")


def test_a_file_that_the_factory_reads_counts(project: Project, tmp_path: Path) -> None:
    config = write(tmp_path / "etc" / "words.txt", "one")
    write(
        project.folder / "blocks.py",
        f"from pathlib import Path\ndef make():\n    return Path({str(config)!r}).read_text()\n",
    )
    outcomes = project.run(*steps(project))
    assert "../etc/words.txt" in found(outcomes).files
    config.write_text("two", encoding="utf-8")
    assert project.text(project.run(*steps(project)), "import") == "two"


def test_an_installed_distribution_counts_by_version_and_record(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project.folder / "blocks.py", FROM_TEAM)
    site = tmp_path / "site-packages"
    write(site / "team.py", "WORD = 'one'\n")
    info = site / "Team_Words-1.0.dist-info"
    write(info / "METADATA", "Metadata-Version: 2.1\nName: Team-Words\nVersion: 1.0\n")
    write(info / "RECORD", "team.py,sha256=1,13\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ["PYTHONPATH"]]))
    outcomes = project.run(*steps(project))
    assert found(outcomes).distributions["team-words 1.0"] == sha256_bytes(b"team.py,sha256=1,13\n")
    assert "@/team.py" not in found(outcomes).files
    assert statuses(project, *steps(project))["import"][0] == "cached"

    write(info / "RECORD", "team.py,sha256=2,13\n")
    assert statuses(project, *steps(project))["import"] == ("run", "the files of team-words 1.0 changed")
    info.rename(site / "Team_Words-1.1.dist-info")
    assert statuses(project, *steps(project))["import"] == ("run", "team-words 1.0 is no longer installed")


def test_a_module_without_a_record_counts_by_its_content(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project.folder / "blocks.py", FROM_TEAM)
    write(tmp_path / "dist-packages" / "team.py", "WORD = 'one'\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "dist-packages"), os.environ["PYTHONPATH"]]))
    assert "@/team.py" in found(project.run(*steps(project))).files


READS_A_VARIABLE = "import os\ndef make():\n    return os.environ['RANKER_CONFIG']\n"


def test_a_variable_that_the_spec_does_not_name_is_named_by_the_error(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANKER_CONFIG", "secret-value")
    write(project.folder / "blocks.py", READS_A_VARIABLE)
    with pytest.raises(StepFailed) as caught:
        project.run(*steps(project))
    assert "`model.source.env: [RANKER_CONFIG]`" in caught.value.diagnostics[0].remedy


def test_a_variable_is_passed_on_and_part_of_the_keys_by_its_digest(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = CodeAccess(env=("RANKER_CONFIG",))
    write(project.folder / "blocks.py", READS_A_VARIABLE.replace("return os.environ['RANKER_CONFIG']", "return str(len(os.environ['RANKER_CONFIG']))"))  # fmt: skip

    def run(value: str) -> dict[str, Outcome]:
        monkeypatch.setenv("RANKER_CONFIG", value)
        project.variables = {"RANKER_CONFIG": sha256_bytes(value.encode())}
        outcomes: dict[str, Outcome] = project.run(*steps(project, access))
        return outcomes

    first, second = run("secret-value"), run("another-secret")
    assert (project.text(first, "import"), project.text(second, "import")) == ("12", "14")
    keys: list[Any] = [outcomes["later"].receipt for outcomes in (first, second)]
    assert keys[0].key != keys[1].key
    assert keys[0].parts["env"] == {"RANKER_CONFIG": sha256_bytes(b"secret-value")}
    written = [path for path in project.home.root.rglob("*") if path.is_file()]
    assert not [path for path in written if b"secret-value" in path.read_bytes()]
    assert any(b"RANKER_CONFIG" in path.read_bytes() for path in written if path.name == "reproduce.sh")


def test_a_variable_that_is_not_set_is_said_to_be(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANKER_CONFIG", raising=False)
    write(project.folder / "blocks.py", READS_A_VARIABLE)
    project.variables = {"RANKER_CONFIG": None}
    with pytest.raises(StepFailed) as caught:
        project.run(*steps(project, CodeAccess(env=("RANKER_CONFIG",))))
    assert "set RANKER_CONFIG in the environment of mlo" in caught.value.diagnostics[0].remedy
