"""The folder of `mlo render`: what an earlier render wrote is replaced, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator.cli.render import _check_output, _replace
from orchestrator.errors import UsageError


def rendered(root: Path, *names: str, content: str = "rendered") -> Path:
    """A rendered tree as the store holds it."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".mlo-rendered"
    }


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The folder after a first render."""
    _replace(rendered(tmp_path / "first", "docker/Dockerfile", "former.yaml", content="first"), tmp_path / "output")
    return tmp_path / "output"


def test_a_second_render_replaces_the_files_of_the_first_and_keeps_others(output: Path, tmp_path: Path) -> None:
    rendered(output, "docker/mine.txt", content="mine")
    _replace(rendered(tmp_path / "second", "docker/Dockerfile", "chart/values.yaml", "run.sh"), output)
    assert files(output) == {
        "docker/Dockerfile": "rendered",
        "chart/values.yaml": "rendered",
        "run.sh": "rendered",
        "docker/mine.txt": "mine",
    }
    assert (output / ".mlo-rendered").read_text() == "chart/values.yaml\ndocker/Dockerfile\nrun.sh\n"


@pytest.mark.parametrize(
    ("mine", "refused"),
    [
        ("values.yaml", "values.yaml"),
        ("values.yaml/notes.txt", "values.yaml"),
        ("chart", "chart"),
        ("docker/entry.sh", "docker/entry.sh"),
    ],
)
def test_what_the_user_put_in_the_place_of_a_rendered_file_is_not_replaced(
    output: Path, tmp_path: Path, mine: str, refused: str
) -> None:
    rendered(output, mine, content="mine")
    before = files(output)
    second = rendered(tmp_path / "second", "docker/Dockerfile", "docker/entry.sh", "chart/Chart.yaml", "values.yaml")
    with pytest.raises(UsageError) as failure:
        _replace(second, output)
    diagnostic = failure.value.diagnostics[0]
    assert (diagnostic.code, diagnostic.message) == ("E218", f"{output / refused} was not written by `mlo render`")
    assert files(output) == before


@pytest.mark.parametrize("link", ["chart", "values.yaml", "missing.yaml"])
def test_nothing_is_written_through_a_link(output: Path, tmp_path: Path, link: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    rendered(elsewhere, "values.yaml", "Chart.yaml", content="mine")
    (output / link).symlink_to(elsewhere if link == "chart" else elsewhere / link)
    second = rendered(tmp_path / "second", "chart/Chart.yaml", "values.yaml", "missing.yaml")
    with pytest.raises(UsageError, match="was not written by `mlo render`"):
        _replace(second, output)
    assert files(elsewhere) == {"values.yaml": "mine", "Chart.yaml": "mine"}


def test_a_rendered_file_that_became_a_link_is_replaced_itself(output: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("mine")
    (output / "former.yaml").unlink()
    (output / "former.yaml").symlink_to(mine)
    _replace(rendered(tmp_path / "second", "former.yaml"), output)
    assert not (output / "former.yaml").is_symlink()
    assert (files(output), mine.read_text()) == ({"former.yaml": "rendered"}, "mine")


@pytest.mark.parametrize("first", [True, False])
def test_a_render_that_is_interrupted_can_be_done_again(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    folder = tmp_path / "new" if first else output
    second = rendered(tmp_path / "second", "a.yaml", "b.yaml")
    copy = shutil.copyfile

    def interrupted(source: Path, target: Path) -> None:
        if target.name == "b.yaml":
            raise KeyboardInterrupt
        copy(source, target)

    with monkeypatch.context() as during:
        during.setattr("shutil.copyfile", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _replace(second, folder)
    assert "a.yaml" in files(folder)

    _check_output(folder, force=True)
    _replace(second, folder)
    assert files(folder) == {"a.yaml": "rendered", "b.yaml": "rendered"}


def test_without_the_model_what_can_be_committed_is_left(output: Path, tmp_path: Path) -> None:
    second = rendered(
        tmp_path / "second", "docker/Dockerfile", "docker/serving/model.onnx", "serving/model.onnx", "chart/values.yaml"
    )
    assert _replace(second, output, without=("serving/", "docker/")) == 1
    assert files(output) == {"chart/values.yaml": "rendered"}
    assert (output / ".mlo-rendered").read_text() == "chart/values.yaml\n"
    assert _replace(second, output) == 4
