"""What the arrays of a samples file must be, as far as their headers say: read while planning, in milliseconds and without numpy.

The same rules hold when `import` has read the arrays themselves (`frameworks/source/samples.py`).
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import IO

from orchestrator.diagnostics import Diagnostic
from orchestrator.spec.signature import Signature, Tensor

__all__ = ["LABELS", "UNREADABLE", "ArrayHeader", "array_headers", "sample_problems"]

LABELS = "labels"
"""The array of an npz file with the expected classes; not an input."""

UNREADABLE = (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)
"""What reading a damaged, encrypted or foreign archive raises."""

_AT = ("model", "samples")
_STRING = "string"
_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 10_000
"""Bytes; numpy itself refuses longer ones."""

_KINDS = {"f": "float", "i": "int", "u": "uint", "c": "complex"}


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """The element type and shape of an array.

    Attributes:
        kind: numpy's letter: `f` float, `i` and `u` integers, `b` booleans, `U` and `S` texts, `O` Python objects, ...; `?` if
            its elements have several fields.
        dtype: as numpy shows it: `float32`, `<U8`.
        shape: of the array.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]


def array_headers(path: Path) -> dict[str, ArrayHeader]:
    """The headers of all arrays in an npz file, by name; entries that are no arrays are left out.

    Raises:
        Exception: one of `UNREADABLE`: the file cannot be read, or is no zip archive that Python reads.
    """
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as entry:
                header = _header(entry)
            if header is not None:
                headers[name.removesuffix(".npy")] = header
    return headers


def _header(entry: IO[bytes]) -> ArrayHeader | None:
    """See https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, versions 1.0 to 3.0."""
    start = entry.read(8)
    if len(start) < 8 or start[:6] != _MAGIC or start[6] not in {1, 2, 3}:
        return None
    length = int.from_bytes(entry.read(2 if start[6] == 1 else 4), "little")
    if length > _LONGEST_HEADER:
        return None
    text = entry.read(length).decode("latin-1" if start[6] < 3 else "utf-8", errors="replace")
    descr = re.search(r"'descr':\s*'(?P<order>[<>|=]?)(?P<kind>[A-Za-z])(?P<size>\d*)(?P<unit>\[\w*\])?'", text)
    shape = re.search(r"'shape':\s*\(([\d,\sL]*)\)", text)
    if shape is None:
        return None
    sizes = tuple(int(size.strip(" L")) for size in shape[1].split(",") if size.strip(" L"))
    return ArrayHeader("?", "structured", sizes) if descr is None else ArrayHeader(descr["kind"], _dtype(descr), sizes)


def _dtype(descr: re.Match[str]) -> str:
    kind, size = descr["kind"], int(descr["size"] or 0)
    if kind == "b":
        return "bool"
    return (
        f"{_KINDS[kind]}{8 * size}" if kind in _KINDS else f"{descr['order']}{kind}{descr['size']}{descr['unit'] or ''}"
    )


def sample_problems(headers: Mapping[str, ArrayHeader], signature: Signature) -> Iterator[Diagnostic]:
    """What does not fit the signature: E341 a missing array, E342 its type, E343 its shape, E344 and E345 numbers of rows."""
    sizes: dict[str, tuple[int, str]] = {}
    rows: dict[str, int] = {}
    for tensor in signature.inputs:
        header = headers.get(tensor.name)
        if header is None:
            yield _missing(tensor, headers)
            continue
        problem = _type_problem(tensor, header) or _shape_problem(tensor, header, signature, sizes)
        if problem is not None:
            yield problem
        elif header.shape:
            rows[tensor.name] = header.shape[0]
    if len(set(rows.values())) > 1:
        yield Diagnostic(
            "E344",
            "the samples' arrays have different numbers of rows",
            cause=", ".join(f"`{name}` has {count}" for name, count in rows.items()),
            remedy="give every input one entry per sample",
            at=_AT,
        )
    elif 0 in rows.values():
        yield Diagnostic("E344", "the samples have no rows", remedy="give at least one; a few dozen prove more", at=_AT)
    labels = headers.get(LABELS)
    if labels is not None and rows and all(tensor.name != LABELS for tensor in signature.inputs):
        count = next(iter(rows.values()))
        if not labels.shape or labels.shape[0] != count:
            yield Diagnostic(
                "E345",
                f"the samples' `{LABELS}` have the shape {list(labels.shape)}, but there are {count} rows",
                remedy="give one label per row, or leave them out",
                at=_AT,
            )


def _missing(tensor: Tensor, headers: Mapping[str, ArrayHeader]) -> Diagnostic:
    close = get_close_matches(tensor.name, headers, n=1)
    return Diagnostic(
        "E341",
        f"the samples have no array for the input `{tensor.name}`",
        cause=f"the file holds {', '.join(f'`{name}`' for name in headers) or 'no array'}",
        remedy=(f"rename `{close[0]}`, or " if close else "")
        + f"save it with numpy.savez(path, {tensor.name}=...), one row per sample",
        at=_AT,
    )


def _type_problem(tensor: Tensor, header: ArrayHeader) -> Diagnostic | None:
    """Types that no value makes right; whether the values of others can be cast, only the array itself says."""
    if header.kind == "O":
        return Diagnostic(
            "E340",
            f"the samples' array `{tensor.name}` cannot be read",
            cause="it holds Python objects, which would have to be unpickled",
            remedy="save plain numbers, or texts as array.astype(str)",
            at=_AT,
        )
    if tensor.dtype == _STRING:
        if header.kind in "US":
            return None
        return Diagnostic(
            "E342",
            f"the samples' array `{tensor.name}` does not hold texts, but the input is declared string",
            cause=f"it is {header.dtype}, which is not text",
            remedy="save it as array.astype(str), or declare its type in `inputs:`",
            at=_AT,
        )
    if header.kind in "iub" or (header.kind == "f" and tensor.dtype.startswith("float")) or header.kind == "V":
        return None
    return Diagnostic(
        "E342",
        f"the samples' array `{tensor.name}` is {header.dtype}, but the input is declared {tensor.dtype}",
        cause="the values cannot be cast without changing them",
        remedy=f"save it as {tensor.dtype}, or declare its type in `inputs:`",
        at=_AT,
    )


def _shape_problem(
    tensor: Tensor, header: ArrayHeader, signature: Signature, seen: dict[str, tuple[int, str]]
) -> Diagnostic | None:
    assert tensor.shape is not None, "inputs always have a shape"
    dims = tensor.shape if signature.batch is None else tensor.shape[1:]
    counted = "requests" if signature.batch is None else "rows"
    problem = ""
    if len(header.shape) != len(dims) + 1:
        problem = f"it has {len(header.shape)} dimensions, but {len(dims) + 1} are expected"
    for axis, (size, dim) in enumerate(zip(header.shape[1:], dims, strict=False), start=1):
        if problem:
            break
        if isinstance(dim, int):
            if size != dim:
                problem = f"dimension {axis} is {size}, but {dim} is declared"
            continue
        low, high = signature.dims[dim]
        other, owner = seen.setdefault(dim, (size, tensor.name))
        if not low <= size <= high:
            problem = f"dimension {axis} is {size}, but `{dim}` ranges from {low} to {high}"
        elif size % (step := signature.multiples.get(dim, 1)):
            problem = f"dimension {axis} is {size}, but `{dim}` is a multiple of {step}"
        elif size != other:
            problem = f"`{dim}` is {size} here, but {other} in `{owner}`"
    if not problem:
        return None
    wanted = ", ".join(map(str, (counted, *dims)))
    return Diagnostic(
        "E343",
        f"the samples' array `{tensor.name}` has the shape {list(header.shape)}, but [{wanted}] is expected",
        cause=problem,
        remedy=f"the first dimension of every array counts the {counted}; correct the samples or `inputs:`",
        at=_AT,
    )
