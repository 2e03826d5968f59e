"""The shape of the code: imports go one way, frameworks stay in workers, the command line starts light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import orchestrator
from orchestrator.backends.table import BACKENDS
from orchestrator.optimize.sources import SOURCES
from orchestrator.targets.table import TARGETS

PACKAGE = Path(orchestrator.__file__).parent
LAYERS = [
    {"cli"},
    {"doctor"},
    {"engine"},
    {"release"},
    {"draft"},
    {"plan", "report"},
    {"optimize", "select", "verify", "measure", "render", "targets"},
    {"images"},
    {"backends"},
    {"artifacts"},
    {"machine"},
    {"steps"},
    {"spec"},
    {"store"},
    {"containers", "process"},
    {"errors", "diagnostics", "events", "visible", "__init__"},
]
FRAMEWORKS = (
    "torch",
    "tensorflow",
    "keras",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "safetensors",
    "transformers",
)
HEAVY = {*FRAMEWORKS, "numpy", "aiohttp", "docker", "kubernetes", "jinja2", "jsonschema", "psutil", "rich", "uvicorn"}
SPEC_MAY_IMPORT = {"orchestrator.backends.table", "orchestrator.targets.table", "orchestrator.targets.section"}
"""What the spec may take from above it: names of backends, and the targets' own sections for its `deploy:`."""
SECTIONS_MAY_IMPORT = (
    "orchestrator.diagnostics",
    "orchestrator.spec.strict",
    "orchestrator.spec.types",
    "orchestrator.targets.chart_schema",  # only where a spec sets what it checks
    "orchestrator.targets.cluster_settings",
    "orchestrator.targets.section",
)
NAMES_OF_RUNTIMES = {"frameworks", "server"}
"""Rooms in which such a name is that of the runtime or of its package, which some backends share."""
NAMES_OF_PACKAGES = {"machine/packages.py"}
PACKAGES_LIKE_TARGETS = {
    "docker": {"machine/packages.py", "doctor/checkup.py", "backends/tensorflow_serving/backend.py"},
    "kubernetes": {"machine/packages.py"},
}
"""A package, or mlo's extra with it, with the name of a target → the files that mean the package."""
ROOTS_OF_SOURCES = {
    "optimize/sources.py",
    "optimize/formats.py",
    "optimize/passes.py",
    "spec/source_models.py",
    "spec/model_files.py",
    "draft/detect.py",
}
"""The tables of source kinds and of what they are converted to, and how their files are recognized."""
AS_THE_SERVER_DOES = {"orchestrator.server.openvino_engine"}
"""What a runtime has to do exactly as the server does; the file imports nothing else of the server."""
MESSAGES = ("backends/wire.py", "orchestrator.server.open_inference_pb2")
"""The generated messages of the protocol, which clients share with the server; they import protobuf alone."""
STEP_FUNCTIONS_MAY_IMPORT = {"orchestrator.frameworks.source.runtime"}
"""The protocol of a runtime: it imports no framework itself."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def folder_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(folder: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if folder in layer)


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_go_one_way(path: Path) -> None:
    folder = folder_of(path)
    for name in imported(path):
        if not name.startswith("orchestrator."):
            continue
        target = name.split(".")[1]
        if folder == "server":
            pytest.fail(f"the server ships alone, but {path.name} imports {name}")
        if target == "__version__" or name == "orchestrator.__version__":
            continue
        if target in {"frameworks", "server"}:
            if folder == "frameworks" and name.startswith(tuple(AS_THE_SERVER_DOES)):
                continue
            if path.relative_to(PACKAGE).as_posix() == MESSAGES[0] and name in {"orchestrator.server", MESSAGES[1]}:
                continue
            if folder != target:
                assert folder in {"measure", "verify"}, f"{path} imports {name}"
                assert any(name.startswith(allowed) for allowed in STEP_FUNCTIONS_MAY_IMPORT), f"{path} imports {name}"
            continue
        if folder == "frameworks":
            assert target in {"steps", "artifacts", "process", "spec", "frameworks", "machine", "measure", "verify"}, (
                f"{path} imports {name}"
            )
            continue
        if folder == "spec" and any(name.startswith(allowed) for allowed in SPEC_MAY_IMPORT):
            continue
        assert layer_of(target) >= layer_of(folder), f"{path.relative_to(PACKAGE)} imports {name}, which lies above it"


SECTIONS = [*sorted(PACKAGE.glob("targets/**/section.py")), PACKAGE / "targets" / "cluster_settings.py"]


@pytest.mark.parametrize("path", SECTIONS, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_targets_section_imports_only_the_specs_types(path: Path) -> None:
    own = [name for name in imported(path) if name.startswith("orchestrator.")]
    assert all(name.startswith(SECTIONS_MAY_IMPORT) for name in own), own


def test_only_a_targets_folder_knows_its_name_or_its_section() -> None:
    named = "|".join(TARGETS)
    asks = re.compile(rf"""target\s*(==|!=|in|not in)\s*[({{\[]?["']({named})["']|targets\.({named})\b""")
    found = {
        path.relative_to(PACKAGE).as_posix(): match[0]
        for path in modules()
        if not any(path.is_relative_to(PACKAGE / "targets" / name) for name in (*TARGETS, "table.py"))
        and (match := asks.search(path.read_text(encoding="utf-8")))
    }
    assert not found


def asked_for(path: Path) -> Iterator[str]:
    """The strings that a file compares with, picks from a table by, or passes as `backend` or `target`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Compare(left=left, comparators=others):
                asked = [left, *others]
            case ast.MatchValue(value=value) | ast.Subscript(slice=value):
                asked = [value]
            case ast.Dict(keys=keys):
                asked = [key for key in keys if key is not None]
            case ast.keyword(arg="backend" | "target", value=value):
                asked = [value]
            case ast.Call(func=ast.Name(id="backend" | "serving_backend"), args=args):
                asked = [*args]
            case _:
                continue
        constants = (each for one in asked for each in ast.walk(one) if isinstance(each, ast.Constant))
        yield from (each.value for each in constants if isinstance(each.value, str))


def test_only_a_backends_own_folder_asks_for_its_name() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in modules()
        if not path.is_relative_to(PACKAGE / "backends") and folder_of(path) not in NAMES_OF_RUNTIMES
        for name in asked_for(path)
        if name in BACKENDS and path.relative_to(PACKAGE).as_posix() not in NAMES_OF_PACKAGES
    ]
    assert not found


def test_only_the_tables_of_sources_ask_for_the_name_of_a_kind() -> None:
    # Backends have rows by format, and some formats are called like the kind that is in it already.
    found = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in modules()
        if not path.is_relative_to(PACKAGE / "backends") and folder_of(path) not in NAMES_OF_RUNTIMES
        for name in asked_for(path)
        if name in SOURCES and path.relative_to(PACKAGE).as_posix() not in {*NAMES_OF_PACKAGES, *ROOTS_OF_SOURCES}
    ]
    assert not found


def test_only_a_targets_own_folder_asks_for_its_name() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in modules()
        if not path.is_relative_to(PACKAGE / "targets")
        for name in asked_for(path)
        if name in TARGETS and path.relative_to(PACKAGE).as_posix() not in PACKAGES_LIKE_TARGETS.get(name, ())
    ]
    assert not found


def test_what_asks_for_a_name_is_found(tmp_path: Path) -> None:
    file = tmp_path / "asks.py"
    file.write_text(
        "a == 'one'\nb in ('two', 'three')\nmatch c:\n    case 'four': pass\nT['five']\n{'six': 1}\n"
        "f(target='seven')\nbackend('eight')\n'nine'\n",
        encoding="utf-8",
    )
    assert sorted(asked_for(file)) == ["eight", "five", "four", "one", "seven", "six", "three", "two"]


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_frameworks_are_imported_only_where_workers_run(path: Path) -> None:
    if folder_of(path) in {"frameworks", "server"}:
        return
    names = {name.split(".")[0] for name in imported(path)}
    assert not names & set(FRAMEWORKS), path


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(sorted(m.split('.')[0] for m in sys.modules)))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.processes
def test_the_help_imports_nothing_heavy_and_no_spec() -> None:
    assert not loaded_by("import orchestrator.cli.main") & {*HEAVY, "pydantic", "yaml"}


SPEC = PACKAGE.parent / "specs" / "digits" / "digits.yaml"


@pytest.mark.processes
def test_a_command_with_models_does_not_import_what_only_a_search_for_plugins_needs() -> None:
    validate = f"from orchestrator.cli.main import cli\ncli(['validate', {str(SPEC)!r}], standalone_mode=False)"
    loaded = loaded_by(f"import os\nos.environ['PYDANTIC_DISABLE_PLUGINS'] = '__all__'\n{validate}")
    assert "pydantic" in loaded
    assert "email" not in loaded
    assert "email" in loaded_by(f"import os\nos.environ.pop('PYDANTIC_DISABLE_PLUGINS', None)\n{validate}"), (
        "with plugins on, pydantic looks for them"
    )


@pytest.mark.processes
def test_no_command_imports_a_framework() -> None:
    code = (
        "import importlib\n"
        "from orchestrator.cli.main import _COMMANDS\n"
        "for where, _ in _COMMANDS.values(): importlib.import_module(where.split(':')[0])"
    )
    assert not loaded_by(code) & set(FRAMEWORKS)


def test_locks_and_synchronized_writes_have_one_place_each() -> None:
    def users(word: str) -> set[str]:
        return {p.relative_to(PACKAGE).as_posix() for p in modules() if word in p.read_text(encoding="utf-8")}

    assert users("import fcntl") == {"store/locks.py"}
    assert users("os.fsync(") == {"store/atomic.py"}


@pytest.mark.processes
def test_every_file_states_its_job_first() -> None:
    silent = [
        path.relative_to(PACKAGE).as_posix()
        for path in modules()
        if not path.name.endswith(("_pb2.py", "_pb2_grpc.py"))
        and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert not silent
