"""PyTorch's archives: exported programs are checked for code before they are loaded, TorchScript loses its debug files.

`torch.export.load` (PyTorch 2.13) unpickles some entries without `weights_only`, opens compiled libraries, evaluates
symbolic expressions and guards that are stored as text, looks up operators by dotted name in `torch`, `math` and `_operator`,
and imports modules that the structure of inputs and outputs names. A model exported from tensors and operators needs little of
this; everything else is refused before the archive is loaded.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import torch

from orchestrator.frameworks.pytorch.stand_ins import class_without_stand_in
from orchestrator.steps.context import StepError, refuse_on
from orchestrator.steps.failures import is_out_of_memory, is_transient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["check_archive", "structures", "without_debug_files"]

_AT = ("model", "source", "weights")
_OPERATOR = re.compile(r"torch\.ops\.(?P<namespace>\w+)\.(?P<name>\w+)\.(?P<overload>\w+)")
_NAMESPACES = frozenset({"aten", "mkldnn", "onednn", "prims", "quantized"})
"""Of PyTorch's operators on tensors. Others of its namespaces start programs, load files or leave memory unchecked."""

_UNCHECKED = re.compile(r"\w*sparse\w*_unsafe|data_ptr|copy_strided")
"""Operators that trust the indices or sizes that they are given, or hand out addresses."""

_HIGHER_ORDER = frozenset(
    f"torch.ops.higher_order.{name}"
    for name in (
        "associative_scan", "auto_functionalized", "auto_functionalized_v2", "cond", "flex_attention", "hints_wrapper",
        "invoke_subgraph", "map_impl", "out_dtype", "scan", "strict_mode", "tag_activation_checkpoint", "while_loop", "with_effects",
        "wrap", "wrap_with_autocast", "wrap_with_set_grad_enabled",
    )
)  # fmt: skip
"""Operators that call a graph of the archive or another operator, which are checked like the rest."""

_ARITHMETIC = re.compile(
    r"torch\._?sym_\w+|math\.[a-z]\w*|"
    r"_operator\.(abs|add|and_|eq|floordiv|ge|gt|le|lshift|lt|mod|mul|ne|neg|not_|or_|pos|pow|rshift|sub|truediv)"
)
"""What a graph computes of sizes. Any other name in `_operator`, such as `methodcaller`, reaches Python's objects."""

_STRUCTURES = frozenset({"in_spec", "out_spec"})
_FACTORY_MODULES = frozenset({"builtins", "collections"})
_WORD = re.compile(r"[\w.+-]*")
_ATTRIBUTES = frozenset(
    {"device", "dim", "dtype", "inf", "isnan", "ndim", "nan", "shape", "size", "storage_offset", "stride"}
)
_FUNCTIONS = frozenset({"abs", "bool", "float", "int", "len", "max", "min"})
_SYNTAX = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Call, ast.keyword, ast.BinOp, ast.UnaryOp, ast.BoolOp,
    ast.Compare, ast.Tuple, ast.List, ast.Subscript, ast.Attribute, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip


def check_archive(path: Path) -> None:
    """Refuse an archive of `torch.export.save` with more than tensors, operators and arithmetic on sizes.

    Raises:
        StepError: E302 the archive is damaged, E303 it contains something that loading would run.
    """
    with (
        refuse_on(
            (
                zipfile.BadZipFile,
                zlib.error,
                AttributeError,
                EOFError,
                LookupError,
                OSError,
                RuntimeError,
                TypeError,
                ValueError,
            ),
            "E302",
            "the exported program is damaged",
            remedy="copy or save it again",
            at=_AT,
        ),
        zipfile.ZipFile(path) as archive,
    ):
        problem = next(_problems(archive), None)
    if problem is not None:
        raise StepError(
            "E303",
            "the exported program holds more than tensors and operators",
            cause=f"{problem}, and loading it could run code",
            remedy="export the model again with torch.export.save on this version of PyTorch, without custom operators or objects",
            at=_AT,
        )


def structures(path: Path) -> list[str]:
    """The structures of inputs and outputs in an archive of `torch.export.save`, as it writes them."""
    with zipfile.ZipFile(path) as archive:
        graphs = [name for name in archive.namelist() if name.partition("/")[2].startswith("models/")]
        documents = [json.loads(archive.read(name)) for name in graphs]
    return [
        value
        for document in documents
        for key, value in _entries(document)
        if key in _STRUCTURES and isinstance(value, str)
    ]


def _problems(archive: zipfile.ZipFile) -> Iterator[str]:
    names = archive.namelist()
    if len(set(names)) < len(names):
        yield "it holds two entries of the same name"
    if "serialized_exported_program.json" in names:
        yield "it is in the format of PyTorch 2.7 and older, whose parts are pickled"
    for name in names:
        inner = name.partition("/")[2]
        if inner.startswith("data/aotinductor/"):
            yield "it holds compiled code"
        elif inner.endswith(".pt"):
            if not _is_data(archive.read(name)):
                yield f"`{inner}` holds pickled Python objects"
        elif inner.endswith("_config.json"):
            for key, entry in json.loads(archive.read(name)).get("config", {}).items():
                if entry.get("use_pickle") or entry.get("path_name", "").startswith("custom_obj"):
                    yield f"`{key}` is a pickled Python object"
        elif inner.startswith("models/"):
            yield from _graph_problems(json.loads(archive.read(name)))


def _is_data(content: bytes) -> bool:
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    # Whatever error the unpickler raises, the entry is not plain data, unless the machine is behind it.
    except Exception as error:
        if is_out_of_memory(error) or is_transient(error):
            raise
        return False
    return True


def _graph_problems(document: Any) -> Iterator[str]:
    for key, value in _entries(document):
        # An operator may also be an argument of another.
        if key in {"target", "as_operator"} and isinstance(value, str):
            if value and not _is_operator(value):
                yield f"its graph calls `{value[:80]}`, which is none of this PyTorch's own operators on tensors"
        elif key in _STRUCTURES and isinstance(value, str):
            yield from _structure_problems(value)
        elif key == "expr_str" and isinstance(value, str) and not _is_arithmetic(value):
            yield f"it holds the expression `{value[:80]}`"
        elif key == "guards_code" and isinstance(value, list):
            for guard in value:
                if not isinstance(guard, str) or not _is_arithmetic(guard):
                    yield f"it holds the guard `{str(guard)[:80]}`"


def _entries(document: Any) -> Iterator[tuple[str, Any]]:
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _is_operator(target: str) -> bool:
    """Whether it is arithmetic, or an operator of PyTorch that only computes."""
    if target in _HIGHER_ORDER or _ARITHMETIC.fullmatch(target):
        return True
    match = _OPERATOR.fullmatch(target)
    if match is None or match["namespace"] not in _NAMESPACES or _UNCHECKED.fullmatch(match["name"]):
        return False
    packet = getattr(getattr(torch.ops, match["namespace"]), match["name"], None)
    if not isinstance(packet, torch._ops.OpOverloadPacket) or match["overload"] not in packet.overloads():  # noqa: SLF001 - has no other name
        return False
    # aten::from_file and aten::save read and write files by name.
    return all(argument.name != "filename" for argument in getattr(packet, match["overload"])._schema.arguments)  # noqa: SLF001 - public in all but name


def _structure_problems(text: str) -> Iterator[str]:
    """What loading a description of nested inputs or outputs would import; it is JSON, with texts of JSON in it."""
    waiting = [json.loads(text)]
    while waiting:
        for key, value in _entries(waiting.pop()):
            if key == "__enum__" or (key == "default_factory_module" and value not in _FACTORY_MODULES):
                yield "the structure of its inputs or outputs names Python classes"
                return
            elif key == "context" and isinstance(value, str):
                waiting.append(json.loads(value))
    if unknown := class_without_stand_in(text):
        yield f"its inputs or outputs are objects of `{unknown[:80]}`, a class that is not here"


def _is_arithmetic(text: str) -> bool:
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, RecursionError):
        return False
    return all(_is_harmless(node) for node in nodes)


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        # Strings are numbers and names of symbols and inputs; sympy would evaluate all others.
        return _WORD.fullmatch(node.value) is not None and "__" not in node.value
    if isinstance(node, ast.Name):
        return "__" not in node.id
    if isinstance(node, ast.Attribute):
        return node.attr in _ATTRIBUTES
    if isinstance(node, ast.Call):
        called = node.func
        # Constructors of symbolic expressions begin with a capital: Add, Mul, FloorDiv, Symbol, ...
        return not isinstance(called, ast.Name) or called.id in _FUNCTIONS or called.id[:1].isupper()
    return isinstance(node, _SYNTAX)


_HEADER = 30  # bytes of a zip entry's local header before its name (APPNOTE.TXT, 4.3.7)
_ALIGNMENT = 64  # PyTorch aligns tensors so that an archive can be mapped into memory


def without_debug_files(path: Path) -> None:
    """Drop the `.debug_pkl` entries of a TorchScript archive, which map its code to source files, in place.

    Entries stay uncompressed, aligned and in their order; they have no time.
    """
    smaller = path.with_name(path.name + ".new")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(smaller, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            if entry.filename.endswith(".debug_pkl"):
                continue
            kept = zipfile.ZipInfo(entry.filename, date_time=(1980, 1, 1, 0, 0, 0))
            assert new.fp is not None, "open until the block ends"
            start = new.fp.tell() + _HEADER + len(entry.filename.encode()) + 4
            padding = -start % _ALIGNMENT
            kept.extra = b"FB" + padding.to_bytes(2, "little") + bytes(padding)
            new.writestr(kept, old.read(entry))
    smaller.replace(path)
