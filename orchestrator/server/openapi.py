"""The OpenAPI document of the served model, and a self-contained page that shows it."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import VERSION
from .config import ModelConfig
from .request import UNSUPPORTED_PARAMETERS
from .signature import Allowed, Signature, Tensor

__all__ = ["OPEN_PATHS", "docs_page", "openapi_document"]

OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})
"""Paths that need no token, because a kubelet's probes send none."""

_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}},
        "datatype": {"type": "string"},
    },
}
_OUTPUT = {
    **_TENSOR,
    "required": [*_TENSOR["required"], "data"],
    "properties": {**_TENSOR["properties"], "data": {"type": "array"}},  # type: ignore[dict-item]  # a plain JSON tree
}
_NOT_FINITE = {"enum": ["NaN", "Infinity", "-Infinity", None]}
"""What JSON lacks; null is NaN."""
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_STOPS = {
    "400": "The request is invalid.",
    "408": "The body arrived too slowly.",
    "413": "The body is too large.",
    "415": "The body is compressed, which is not supported.",
    "429": "Too many requests are waiting; try again.",
    "500": "The model failed.",
    "503": "The server is loading or stopping.",
    "504": "The request timed out.",
}


def openapi_document(model: ModelConfig, *, token: bool = False) -> dict[str, Any]:
    """The document that `GET /openapi.json` answers."""
    base = f"/v2/models/{model.name}"
    paths: dict[str, Any] = {
        "/v2": _get("Information about the server", _object("name", "version")),
        "/v2/health/live": _get("Whether the process is alive", _object("live")),
        "/v2/health/ready": _get("Whether the server accepts requests", _object("ready"), "503"),
        "/metrics": _get("Counters for Prometheus", None),
    }
    for path in (base, f"{base}/versions/{model.version}"):
        paths[path] = _get("The model's inputs and outputs", _object("name", "versions", "inputs", "outputs"))
        paths[f"{path}/ready"] = _get("Whether the model accepts requests", _object("ready"), "503")
        paths[f"{path}/infer"] = {"post": _infer(model.signature)}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": model.name,
            "version": model.version,
            "description": f"Open Inference Protocol v2, by mlo's server {VERSION}.",
        },
        "paths": paths,
    }
    if token:
        for path, methods in paths.items():
            for operation in methods.values():
                if path in OPEN_PATHS:
                    operation["security"] = []
                else:
                    operation["responses"]["401"] = _refusal("Missing or wrong token.")
        document["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
        document["security"] = [{"token": []}]
    return document


def _object(*required: str) -> dict[str, Any]:
    return {"type": "object", "required": list(required)}


def _get(summary: str, schema: Mapping[str, Any] | None, *not_ready: str) -> dict[str, Any]:
    content = {"text/plain": {}} if schema is None else {"application/json": {"schema": schema}}
    responses: dict[str, Any] = {"200": {"description": summary, "content": content}}
    for status in not_ready:
        responses[status] = {"description": "Not now.", "content": content}
    return {"get": {"summary": summary, "responses": responses}}


def _infer(signature: Signature) -> dict[str, Any]:
    named = {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"enum": list(signature.outputs)},
            "parameters": _parameters({"binary_data": {"type": "boolean"}}),
        },
    }
    request = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {
                "description": "`timeout`: microseconds after which the client no longer needs the answer.",
                **_parameters({"binary_data_output": {"type": "boolean"}}),
            },
            "inputs": _each_once(
                {name: _input(tensor, signature) for name, tensor in signature.inputs.items()}, at_least=1
            ),
            "outputs": {**_each_once(dict.fromkeys(signature.outputs, named), at_least=0), "type": ["array", "null"]},
        },
    }
    answer = {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": _OUTPUT},
        },
    }
    responses: dict[str, Any] = {
        "200": {
            "description": "The outputs. In a binary response, they follow the JSON, whose length in bytes is in the header "
            "Inference-Header-Content-Length.",
            "content": {
                "application/json": {"schema": answer},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    }
    for status, description in _STOPS.items():
        responses[status] = _refusal(description)
    return {
        "summary": "Run the model",
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": responses,
    }


def _refusal(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _ERROR}}}


def _each_once(items: Mapping[str, Mapping[str, Any]], at_least: int) -> dict[str, Any]:
    """A list with one object for each name, in any order; with `at_least` 0, for some of the names."""
    return {
        "type": "array",
        "minItems": len(items) * at_least,
        "maxItems": len(items),
        "items": {"anyOf": [item for number, item in enumerate(items.values()) if at_least or not number]},
        "allOf": [
            {
                "contains": {"type": "object", "properties": {"name": {"const": name}}, "required": ["name"]},
                "minContains": at_least,
                "maxContains": 1,
            }
            for name in items
        ],
    }


def _parameters(known: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of any name, but none of those that are refused."""
    refused = dict.fromkeys((*UNSUPPORTED_PARAMETERS, "binary_data_size"), False)
    return {"type": ["object", "null"], "properties": {**refused, **known}}


def _input(tensor: Tensor, signature: Signature) -> dict[str, Any]:
    ranges = [(dim, dim) if isinstance(dim, int) else signature.dims[dim] for dim in tensor.shape or ()]
    least, most = math.prod(low for low, _ in ranges), math.prod(high for _, high in ranges)
    sizes: list[dict[str, Any]] = [{"type": "integer", "minimum": low, "maximum": high} for low, high in ranges]
    for size, dim in zip(sizes, tensor.shape or (), strict=True):
        if isinstance(dim, str) and dim in signature.multiples:
            size["multipleOf"] = signature.multiples[dim]
    return {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"const": tensor.name},
            "datatype": {"const": tensor.datatype},
            "shape": {"type": "array", "prefixItems": sizes, "minItems": len(sizes), "maxItems": len(sizes)},
            "data": {
                "description": "As many elements as the shape holds, in row-major order; nested lists are read as well.",
                "type": "array",
                "items": _allowed_element(tensor),
                "minItems": least,
                "maxItems": most,
            },
            "parameters": _parameters({}),
        },
    }


def _allowed_element(tensor: Tensor) -> dict[str, Any]:
    """An element that the server takes; what is only meant and not enforced is a description."""
    element, allowed = _element(tensor.dtype), tensor.allowed
    if allowed is None:
        return element
    if not allowed.enforce:
        return {**element, "description": f"The model is made for values {_meant(allowed)}."}
    if allowed.range is None:
        return {"enum": list(allowed.values or ())}
    kind = "integer" if element.get("type") == "integer" else "number"
    return {"type": kind, "minimum": allowed.range[0], "maximum": allowed.range[1]}


def _meant(allowed: Allowed) -> str:
    return str(allowed) if allowed.range is not None else f"that are {allowed}"


def _element(dtype: str) -> dict[str, Any]:
    if dtype == "string":
        return {"type": "string"}
    if dtype == "bool":
        return {"type": "boolean"}
    if dtype.startswith("float"):
        if dtype == "float64":
            return {"anyOf": [{"type": "number"}, _NOT_FINITE]}
        # A number above the largest is still rounded to it if it is nearer to it than half its last place.
        largest = np.finfo(dtype).max
        limit = float(largest) + (float(largest) - float(np.nextafter(largest, largest.dtype.type(0)))) / 2
        return {"anyOf": [{"type": "number", "exclusiveMinimum": -limit, "exclusiveMaximum": limit}, _NOT_FINITE]}
    whole = np.iinfo(dtype)
    return {"type": "integer", "minimum": int(whole.min), "maximum": int(whole.max)}


def docs_page(model: ModelConfig) -> bytes:
    """A page with the model, its tensors and an example request."""

    def rows(tensors: Mapping[str, Tensor]) -> str:
        cells = ((t.name, t.datatype, "unknown" if t.shape is None else str(list(t.shape))) for t in tensors.values())
        return "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in cells)

    signature = model.signature
    sizes = [
        (
            name,
            f"{low} to {high}"
            + (f", a multiple of {signature.multiples[name]}" if name in signature.multiples else ""),
        )
        for name, (low, high) in signature.dims.items()
    ]
    values = [
        (name, f"values {_meant(tensor.allowed)}" + ("; others are refused" if tensor.allowed.enforce else ""))
        for name, tensor in signature.inputs.items()
        if tensor.allowed is not None
    ]
    ranges = "".join(
        f"<li><code>{html.escape(name)}</code>: {html.escape(text)}</li>" for name, text in (*sizes, *values)
    )
    labels = "".join(
        f"<tr><td>{html.escape(name)}</td><td><code>{html.escape(value)}</code></td></tr>"
        for name, value in model.labels.items()
    )
    head = "<tr><th>name</th><th>datatype</th><th>shape</th></tr>"
    one_by_one = "" if signature.splits else "<p>Each request is one call of the model; requests are not batched.</p>"
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(model.name)}</title>
<style>body{{font:16px system-ui;max-width:50em;margin:2em auto;padding:0 1em}}td,th{{text-align:left;padding:.2em 1em .2em 0}}
code,pre{{background:#8882;padding:.1em .3em}}pre{{padding:1em;overflow:auto}}</style>
<h1>{html.escape(model.name)}</h1>
<p>Open Inference Protocol v2. Machine-readable: <a href="openapi.json">openapi.json</a>, <a href="metrics">metrics</a>,
<a href="v2/models/{html.escape(model.name)}">metadata</a>.</p>{one_by_one}
<h2>Inputs</h2><table>{head}{rows(signature.inputs)}</table><ul>{ranges}</ul>
<h2>Outputs</h2><table>{head}{rows(signature.outputs)}</table>
<h2>A request</h2>
<pre>curl -d '{html.escape(_example(signature))}' \\
  http://HOST:PORT/v2/models/{html.escape(model.name)}/infer</pre>
<h2>Where it comes from</h2><table>{labels}</table>
</html>
""".encode()


def _example(signature: Signature) -> str:
    inputs = []
    for tensor in signature.inputs.values():
        shape = [dim if isinstance(dim, int) else signature.dims[dim][0] for dim in tensor.shape or ()]
        inputs.append(f'{{"name": "{tensor.name}", "datatype": "{tensor.datatype}", "shape": {shape}, "data": [...]}}')
    return f'{{"inputs": [{", ".join(inputs)}]}}'
