"""Checks across fields: dimensions, ranges, names and files that must fit each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from orchestrator.diagnostics import Diagnostic
from orchestrator.spec.allowed_values import allowed_problems
from orchestrator.spec.batch_dimension import declared_batch
from orchestrator.spec.batches import batch_problems
from orchestrator.spec.document import SpecPath, find, span_of
from orchestrator.spec.model_files import describe, file_kind
from orchestrator.spec.models import ModelDeployment, TensorIn, TensorOut
from orchestrator.spec.places import did_you_mean
from orchestrator.spec.quantities import percent_text
from orchestrator.spec.scalars import LOOKS_BOOLEAN
from orchestrator.spec.signature import multiples_of
from orchestrator.spec.source_models import FOLDERS, KIND_OF_FILE, SAY_NOTHING, PytorchSource
from orchestrator.spec.source_text import similar_file
from orchestrator.spec.tls_checks import tls_problems
from orchestrator.spec.yaml_tree import Node, quoted

__all__ = ["checked"]


def checked(spec: ModelDeployment, root: Node, folder: Path) -> list[Diagnostic]:
    """All errors and warnings.

    Args:
        spec: the effective spec.
        root: the tree that it was built from.
        folder: the spec's folder; its paths are relative to it.
    """
    return [
        *_tensors(spec, root),
        *_dimensions(spec, root),
        *_ranges(spec, root),
        *allowed_problems(spec, root),
        *_repeated(spec, root),
        *_batches(spec, root),
        *_accelerators(spec, root),
        *_files(spec, root, folder),
        *_tokens(spec, root),
        *_registry(spec, root),
        *tls_problems(spec, root),
        *_import_roots(spec, root, folder),
        *_wheels(spec, root, folder),
        *_doubtful(spec, root),
        *_coarse_steps(spec, root),
        *_without_effect(spec, root),
        *spec.deploy.problems(partial(span_of, root)),
    ]


def _tensors(spec: ModelDeployment, root: Node) -> Iterator[Diagnostic]:
    kind = spec.model.source.kind
    if kind not in SAY_NOTHING:
        return
    declared: list[tuple[str, Sequence[TensorIn | TensorOut], str]] = [
        ("inputs", spec.model.inputs, "{name: image, dtype: float32, shape: [batch, 3, 224, 224]}"),
        ("outputs", spec.model.outputs, "{name: logits}"),
    ]
    for key, tensors, example in declared:
        if not tensors:
            yield Diagnostic(
                "E102",
                f"missing key `{key}`",
                span_of(root, ("model",), key=True),
                label=f"add `{key}: [{example}]`",
                cause=f"a model of `kind: {kind}` does not describe its {key}",
            )
        for index, tensor in enumerate(tensors):
            if tensor.tensor is not None:
                yield Diagnostic(
                    "E101",
                    "`tensor` is not allowed here",
                    span_of(root, ("model", key, index, "tensor"), key=True),
                    label=f"tensors of `kind: {kind}` are identified by position",
                    remedy="remove it",
                )


def _dimensions(spec: ModelDeployment, root: Node) -> Iterator[Diagnostic]:
    model, used = spec.model, set[str]()
    shapes: list[tuple[SpecPath, list[int | str]]] = [
        *((("model", "inputs", i, "shape"), t.shape) for i, t in enumerate(model.inputs)),
        *((("model", "outputs", i, "shape"), t.shape) for i, t in enumerate(model.outputs) if t.shape is not None),
    ]
    for path, shape in shapes:
        for axis, size in enumerate(shape):
            if isinstance(size, str):
                used.add(size)
                if size not in model.dims:
                    yield Diagnostic(
                        "E120",
                        f"dimension `{size}` has no range",
                        span_of(root, (*path, axis)),
                        label=did_you_mean(size, model.dims) or "not in `dims`",
                        remedy=f"add `{size}: {{min: 1, max: 64}}` to `model.dims`, with the sizes that you expect",
                    )
    read_from_model = not model.inputs or not model.outputs
    for name in model.dims:
        if name not in used and not read_from_model:
            yield Diagnostic(
                "W101",
                f"dimension `{name}` is not used in any shape",
                span_of(root, ("model", "dims", name), key=True),
                remedy="remove it, or use it in the shape of an input or output",
                severity="warning",
            )


def _ranges(spec: ModelDeployment, root: Node) -> Iterator[Diagnostic]:
    ranges: list[tuple[SpecPath, int, int]] = [
        (("serving", "replicas"), spec.serving.replicas.min, spec.serving.replicas.max),
        *((("model", "dims", name), dim.min, dim.max) for name, dim in spec.model.dims.items()),
    ]
    for path, smallest, largest in ranges:
        if smallest > largest:
            at = (*path, "min") if find(root, (*path, "min")).depth == len(path) + 1 else path
            message = f"`{path[-1]}` ranges from {smallest} to {largest}"
            remedy = (
                "`max` defaults to 1; set it"
                if "max" not in find(root, path).node.data
                else "raise `max`, or lower `min`"
            )
            yield Diagnostic("E121", message, span_of(root, at), label="`min` is greater than `max`", remedy=remedy)
    for name, dim in spec.model.dims.items():
        (low, high), step = dim.bounds, dim.multiple_of
        if dim.min <= dim.max and low > high:
            yield Diagnostic(
                "E121",
                f"`{name}` has no size from {dim.min} to {dim.max} that is a multiple of {step}",
                span_of(root, ("model", "dims", name, "multiple_of")),
                label=f"the nearest are {high} and {low}" if high else f"the nearest is {low}",
                remedy=f"extend the range, as to `max: {low}`, or lower `multiple_of`",
            )


def _repeated(spec: ModelDeployment, root: Node) -> Iterator[Diagnostic]:
    optimize, model = spec.optimize, spec.model
    lists: list[tuple[str, list[SpecPath], list[str]]] = [
        ("input", [("model", "inputs", i, "name") for i in range(len(model.inputs))], [t.name for t in model.inputs]),
        (
            "output",
            [("model", "outputs", i, "name") for i in range(len(model.outputs))],
            [t.name for t in model.outputs],
        ),
    ]
    for key, values in (("precisions", optimize.precisions), ("formats", optimize.formats)):
        if values != "auto":
            lists.append((key[:-1], [("optimize", key, i) for i in range(len(values))], list(values)))
    sizes = spec.benchmark.batch_sizes
    places: list[SpecPath] = [("benchmark", "batch_sizes", i) for i in range(len(sizes))]
    lists.append(("batch size", places, [str(size) for size in sizes]))
    for what, paths, names in lists:
        for index, name in enumerate(names):
            if (first := names.index(name)) < index:
                yield Diagnostic(
                    "E122",
                    f"duplicate {what} `{name}`",
                    span_of(root, paths[index]),
                    label=f"first listed on line {find(root, paths[first]).node.line}",
                    remedy="give each one its own name" if what in {"input", "output"} else "remove it",
                )


def _batches(spec: ModelDeployment, root: Node) -> Iterator[Diagnostic]:
    if not spec.model.inputs:
        return  # known once the model has been read; `plan/found.py` then checks the same
    used = {dim for tensor in spec.model.inputs for dim in tensor.shape if isinstance(dim, str)}
    declared = {name: dim for name, dim in spec.model.dims.items() if name in used}
    dims = {name: dim.bounds for name, dim in declared.items() if dim.bounds[0] <= dim.bounds[1]}
    yield from batch_problems(spec, root, declared_batch(spec), dims, multiples_of(declared))


def _accelerators(spec: ModelDeployment, root: Node) -> Iterator[Diagnostic]:
    if spec.hardware.accelerator != "none":
        return
    given: list[tuple[SpecPath, bool]] = [
        (("hardware", "count"), spec.hardware.count > 1),
        (("serving", "cuda_graphs"), spec.serving.cuda_graphs),
    ]
    for path, asked in given:
        if asked:
            yield Diagnostic(
                "E133",
                f"`{'.'.join(map(str, path))}` needs an accelerator",
                span_of(root, path),
                label="`hardware.accelerator` is none",
                remedy="set `hardware: {accelerator: cuda}`, or remove this key",
            )


def _files(spec: ModelDeployment, root: Node, folder: Path) -> Iterator[Diagnostic]:
    named: list[tuple[SpecPath, str | None]] = [
        (("model", "source", "weights"), spec.model.source.weights),
        (("model", "samples"), spec.model.samples),
    ]
    for path, name in named:
        if name is None:
            continue
        file = spec.path(name, folder)
        kind = spec.model.source.kind
        of_folders = path[-1] == "weights" and kind in FOLDERS
        try:
            if file.is_dir() if of_folders else file.is_file():
                if of_folders and folder.resolve().is_relative_to(file.resolve()):
                    yield _inside(root, path, file)
                continue
            exists = file.exists()
            problem = "does not exist" if not exists else "is a folder" if file.is_dir() else "is a file"
        except OSError as error:
            exists, problem = None, f"cannot be read: {error.strerror}"
        if path[-1] == "weights" and exists:
            yield _other_kind(root, path, file, kind, of_folders=of_folders)
            continue
        near = similar_file(file) if exists is False else None
        yield Diagnostic(
            "E124",
            f"file {quoted(name)} {problem}",
            span_of(root, path),
            label="" if near is None else f"did you mean {quoted(near.name if '/' not in name else near)}?",
            cause=f"looked for {file}",
            remedy="paths are relative to the spec's folder" if near is None else "",
        )


def _tokens(spec: ModelDeployment, root: Node) -> Iterator[Diagnostic]:
    """The file with the tokens, if a server is started on this machine; elsewhere it may be another one."""
    if spec.serving.auth is None or not spec.deploy.starts_here or Path(spec.serving.auth.token_file).is_file():
        return
    yield Diagnostic(
        "E124",
        f"there is no file {quoted(spec.serving.auth.token_file)} with tokens",
        span_of(root, ("serving", "auth", "token_file")),
        cause="the server on this machine reads it, and `mlo` for its own requests",
        remedy="write the accepted tokens into it, one per line, each of at least 16 characters",
    )


def _registry(spec: ModelDeployment, root: Node) -> Iterator[Diagnostic]:
    if spec.deploy.needs_registry and spec.image.registry is None:
        target = spec.deploy.target
        yield Diagnostic(
            "E670",
            f"the target `{target}` needs `image.registry`",
            span_of(root, ("deploy", "target")),
            label="names images by the digest that a registry gave them",
            remedy="add `image: {registry: registry.example.com/team}`, to which this machine may push",
        )


def _import_roots(spec: ModelDeployment, root: Node, folder: Path) -> Iterator[Diagnostic]:
    source = spec.model.source
    if not isinstance(source, PytorchSource):
        return
    for index, name in enumerate(source.path):
        place = spec.path(name, folder)
        if place.is_dir():
            continue
        near = None if place.exists() else similar_file(place, folders=True)
        yield Diagnostic(
            "E124",
            f"folder {quoted(name)} {'is a file' if place.exists() else 'does not exist'}",
            span_of(root, ("model", "source", "path", index)),
            label="" if near is None else f"did you mean {quoted(near.name if '/' not in name else near)}?",
            cause=f"looked for {place}",
            remedy="name folders that modules are imported from, relative to the spec's folder" if near is None else "",
        )


def _wheels(spec: ModelDeployment, root: Node, folder: Path) -> Iterator[Diagnostic]:
    build = spec.image.build
    if build.wheelhouse is not None and build.pip_index is not None:
        yield Diagnostic(
            "E138",
            "`wheelhouse` and `pip_index` exclude each other",
            span_of(root, ("image", "build", "pip_index")),
            cause="from a wheelhouse, everything is installed without an index",
            remedy="remove one of them",
        )
    for key, name, of_folders in (("wheelhouse", build.wheelhouse, True), ("ca_bundle", build.ca_bundle, False)):
        if name is None:
            continue
        place = spec.path(name, folder)
        if place.is_dir() if of_folders else place.is_file():
            continue
        near = None if place.exists() else similar_file(place, folders=of_folders)
        kind, other = ("folder", "file") if of_folders else ("file", "folder")
        yield Diagnostic(
            "E124",
            f"{kind} {quoted(name)} {f'is a {other}' if place.exists() else 'does not exist'}",
            span_of(root, ("image", "build", key)),
            label="" if near is None else f"did you mean {quoted(near.name if '/' not in name else near)}?",
            cause=f"looked for {place}",
            remedy="paths are relative to the spec's folder" if near is None else "",
        )


def _inside(root: Node, path: SpecPath, file: Path) -> Diagnostic:
    return Diagnostic(
        "E136",
        "the spec is inside the model's folder",
        span_of(root, path),
        cause=f"all files in {file} belong to the model, including this spec and mlo's own files beside it",
        remedy="move the spec out of the folder, and set `weights` to the folder",
    )


def _other_kind(root: Node, path: SpecPath, file: Path, kind: str, *, of_folders: bool) -> Diagnostic:
    """A file where the kind takes a folder, or the other way round."""
    fitting = KIND_OF_FILE.get(file_kind(file))
    return Diagnostic(
        "E124",
        f"`kind: {kind}` needs a {'folder' if of_folders else 'file'}, but {quoted(file.name)} is "
        f"{'a file' if of_folders else 'a folder'}",
        span_of(root, path),
        cause=f"it looks like {describe(file)}",
        remedy=f"name the {'folder' if of_folders else 'file'} of the model"
        if fitting is None
        else f"write `kind: {fitting}`",
    )


def _doubtful(spec: ModelDeployment, root: Node) -> Iterator[Diagnostic]:
    precisions = spec.optimize.precisions
    if precisions != "auto" and "int8" in precisions and spec.model.samples is None:
        yield Diagnostic(
            "W102",
            "int8 is calibrated on random inputs",
            span_of(root, ("optimize", "precisions", precisions.index("int8"))),
            cause="without `model.samples`, calibration and verification use no real inputs",
            remedy="add `samples: FILE.npz` under `model`",
            severity="warning",
        )
    if isinstance(spec.model.source, PytorchSource):
        for key in spec.model.source.kwargs:
            node = find(root, ("model", "source", "kwargs", key)).node
            if node.plain and node.data in LOOKS_BOOLEAN:
                yield Diagnostic(
                    "W103",
                    f"{quoted(node.data)} is text here, not a boolean",
                    node.span,
                    label=f"the factory receives the text {node.data!r}",
                    remedy="write `true` or `false`, or put quotes around the text",
                    severity="warning",
                )


def _coarse_steps(spec: ModelDeployment, root: Node) -> Iterator[Diagnostic]:
    """A first step that is far from what one pod beside the replicas takes; where pods are the weights."""
    deploy, replicas = spec.deploy, spec.serving.replicas.min
    if deploy.strategy is None or not deploy.takes_shares or spec.slo.total_throughput is not None:
        return  # how many replicas a throughput takes is known only once it is measured
    first, least = deploy.strategy.canary.steps[0], 1 / (replicas + 1)
    if deploy.weighs_requests or least < 2 * first:
        return
    at = ("deploy", "strategy", "canary", "steps", 0)
    beside = "1 replica" if replicas == 1 else f"{replicas} replicas"
    yield Diagnostic(
        "W106",
        f"a new revision cannot take only {percent_text(first)} of the traffic beside {beside}",
        span_of(root, at),
        label=f"one pod takes {least:.0%} then",
        cause="a Service sends each pod as many connections as the others, and there is at least one new pod",
        remedy=f"add `serving: {{replicas: {{min: {round(1 / first - 1)}, max: {round(1 / first - 1)}}}}}`; or begin with"
        f" `{least:.0%}`, or reach it by `deploy: ingress: gateway:`, whose weights are exact",
        severity="warning",
        at=at,
    )


def _without_effect(spec: ModelDeployment, root: Node) -> Iterator[Diagnostic]:
    if not spec.only_for_devices:
        return
    paths: list[SpecPath] = [
        *(
            ("serving", key)
            for key in ("batching", "cuda_graphs", "grpc", "limits", "auth", "tls", "cors", "traces", "replicas")
        ),
        *(("image", key) for key in ("registry", "base", "build")),
    ]
    for path in paths:
        found = find(root, path)
        # Defaults of the platform apply to all specs; they are not a mistake in this one.
        if found.depth == len(path) and found.node.layer.kind != "platform":
            yield Diagnostic(
                "W104",
                f"`{'.'.join(map(str, path))}` has no effect here",
                span_of(root, path, key=True),
                cause="this spec only produces models for devices: no server is started and no image is built",
                remedy="remove it",
                severity="warning",
            )
