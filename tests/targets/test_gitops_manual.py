"""The examples in docs/gitops.md: specs that are valid, and pipelines that commit and push what mlo has written."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli.apply import apply
from orchestrator.targets.gitops.section import GitopsDeploy
from tests.targets.gitops_case import (
    CHART,
)

MANUAL = CHART.parents[1] / "docs" / "gitops.md"
MLO = """\
#!/bin/sh
echo '{"deployments": [{"name": "digits", "changed": true}, {"name": "faces", "changed": false}]}'
[ -z "$WRITES" ] || { mkdir -p deployments/digits; echo "$WRITES" >deployments/digits/values.yaml; }
exit "$CODE"
"""
"""In place of mlo, which is tried elsewhere: what is tried here is what the pipelines make of its files and exit codes."""


def examples() -> list[Any]:
    """The YAML in the manual, each parsed strictly enough to notice a broken example."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", MANUAL.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(block) for block in blocks]


def pipelines() -> tuple[Any, Any]:
    """On GitHub, and on GitLab."""
    github, gitlab = (each for each in examples() if "target" not in each.get("deploy", {}))
    return github, gitlab


def scripts() -> dict[str, str]:
    """What their jobs run, as one script each, in the shells that they have."""
    github, gitlab = pipelines()
    (job,) = github["jobs"].values()
    return {
        "github": "\n".join(step["run"] for step in job["steps"] if "run" in step),
        "gitlab": "\n".join(gitlab["deploy"]["script"]),
    }


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


def test_pipelines_in_the_manual_run_commands_that_there_are() -> None:
    github, _ = pipelines()
    assert github[True] == {"push": {"branches": ["main"], "paths": ["specs/**"]}}, "YAML 1.1 reads `on` as true"
    options = {option for parameter in apply.params for option in parameter.opts}
    used = set(re.findall(r"(--[a-z-]+)", " ".join(re.findall(r"mlo apply ([^>]*)>", "\n".join(scripts().values())))))
    assert used == {"--yes", "--json", "--detailed-exitcode"}
    assert used <= options


@pytest.mark.parametrize("host", ["github", "gitlab"])
def test_a_pipeline_of_the_manual_commits_and_pushes_what_was_written(tmp_path: Path, host: str) -> None:
    if host == "github" and shutil.which("jq") is None:
        pytest.skip("jq is not on the PATH, so the pipeline for GitHub was not run")
    origin, clone, programs = tmp_path / "origin.git", tmp_path / "clone", tmp_path / "bin"
    programs.mkdir()
    for name, text in {"mlo": MLO, "pip": "#!/bin/sh\n", "docker": "#!/bin/sh\ncat >/dev/null\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    url = "https://mlo:push-word@git.example.com/team/deployments.git"
    (tmp_path / ".gitconfig").write_text(f'[url "{origin}"]\n  insteadOf = {url}\n[init]\n  defaultBranch = main\n')
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "REGISTRY_TOKEN": "registry-word",
        "PUSH_TOKEN": "push-word",
        "CI_SERVER_HOST": "git.example.com",
        "CI_PROJECT_PATH": "team/deployments",
        "CI_COMMIT_BRANCH": "main",
    }

    def bash(script: str, code: int = 0, **more: str) -> str:
        # As both hosts run it: GitLab's runner with these options in its first line, GitHub's as `bash -eo pipefail`.
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script],
            cwd=clone if clone.exists() else tmp_path,
            env={**environment, **more},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    def pushed() -> list[str]:
        return bash(f"git -C {origin} log --format=%s main").splitlines()

    bash(f"git init --quiet --bare {origin} && git clone --quiet {origin} clone 2>/dev/null")
    identity = "-c user.name=me -c user.email=me@example.com"
    bash(f"mkdir specs && touch specs/digits.yaml && git add . && git {identity} commit --quiet -m spec && git push -q")

    script = scripts()[host]
    bash(script, CODE="2", WRITES="one")
    message = {"github": "Deploy digits", "gitlab": "Deploy what changed"}[host]
    assert pushed() == [message, "spec"]
    assert bash(f"git -C {origin} show main:deployments/digits/values.yaml") == "one\n"
    bash(script, CODE="0", WRITES="")
    bash(script, CODE="2", WRITES="one")  # as with a store that was lost: written, and committed already
    assert pushed() == [message, "spec"]
    assert '"deployments"' in bash(script, code=1, CODE="1", WRITES="half")
    assert pushed() == [message, "spec"]
    assert "result.json" not in bash(f"git -C {origin} ls-tree -r --name-only main")
    if host == "gitlab":
        login = json.loads((tmp_path / ".docker" / "config.json").read_text())["auths"]["registry.example.com"]["auth"]
        assert base64.b64decode(login) == b"ci:registry-word"
