"""Faulty specs, what is said about them, and what a reader does who follows it to the letter.

What is put into the spec is taken from the message: a case fails when the message does not hold it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.diagnostics import Diagnostic
from tests.spec.conftest import BASE

__all__ = ["SPEC_CASES", "SpecCase", "advice"]

Follow = Callable[[str, Diagnostic], str]


@dataclass(frozen=True)
class SpecCase:
    """One of them.

    Attributes:
        code: what the fault is reported as.
        text: of the spec.
        told: a part of the advice.
        follow: the spec's text and the diagnostic → the text of the mended spec.
        environment: that it is read for.
        mended: that the mended one is read for.
        platform: of the platform file.
    """

    code: str
    text: str
    told: str
    follow: Follow
    environment: str | None = None
    mended: str | None = None
    platform: str = ""


def advice(found: Diagnostic) -> str:
    """All that says what to do: what stands at the caret, then the help; the message where neither does."""
    return " ".join(filter(None, (found.label, found.remedy))) or found.message


def _at_span(text: str, found: Diagnostic, replacement: str) -> str:
    assert found.span is not None
    lines = text.splitlines(keepends=True)
    line = lines[found.span.line - 1]
    assert found.span.line == found.span.end_line
    lines[found.span.line - 1] = line[: found.span.column - 1] + replacement + line[found.span.end_column - 1 :]
    return "".join(lines)


def _said(pattern: str) -> Follow:
    """Put what the pattern finds in the advice where the caret stands."""

    def follow(text: str, found: Diagnostic) -> str:
        match = re.search(pattern, advice(found))
        assert match, advice(found)
        return _at_span(text, found, match[1])

    return follow


_meant = _said(r"did you mean `([^`]+)`\?")


def _added(pattern: str, before: str, indent: str = "") -> Follow:
    """Write the line that the pattern finds in the advice before the line that begins so."""

    def follow(text: str, found: Diagnostic) -> str:
        match = re.search(pattern, advice(found))
        assert match, advice(found)
        assert before in text
        return text.replace(before, f"{indent}{match[1]}\n{before}", 1)

    return follow


def _without(part: str) -> Follow:
    """Remove what the caret marks; `part` is that with what belongs to it."""

    def follow(text: str, found: Diagnostic) -> str:
        assert found.span is not None
        assert found.span.text[found.span.column - 1 : found.span.end_column - 1] in part
        assert text.count(part) == 1
        return text.replace(part, "")

    return follow


def _changed(old: str, new: str) -> Follow:
    """For advice in words."""

    def follow(text: str, _: Diagnostic) -> str:
        assert text.count(old) == 1
        return text.replace(old, new)

    return follow


def _extended(text: str, found: Diagnostic) -> str:
    """`extend KEY on line N`: raise the `max` there until it covers the size that the caret marks."""
    match = re.search(r"extend `model\.dims\.batch` on line (\d+)", advice(found))
    assert match, advice(found)
    assert found.span is not None
    size = found.span.text[found.span.column - 1 : found.span.end_column - 1]
    lines = text.splitlines(keepends=True)
    lines[int(match[1]) - 1] = re.sub(r"max: \d+", f"max: {size}", lines[int(match[1]) - 1])
    return "".join(lines)


_DIMS = "  dims: {batch: {min: 1, max: 64}}\n"
_IMAGE = "shape: [batch, 1, 8, 8]}"
_FACTORY = "    factory: digits_model:DigitsNet\n"
_CONFLICT = "<<<<<<< a\nslo: {enforce: true}\n=======\nslo: {enforce: false}\n>>>>>>> b\n"
_PLATFORM = "apiVersion: mlo/v1\nkind: Platform\n"


_TLS = "serving: {{tls: {{certificate: /run/digits/tls.crt, key: {key}}}}}\n"
_ELSEWHERE = "deploy: {target: folder, path: shelf}\n"
_KSERVE = "deploy: {target: kubernetes, as: inference-service}\n"
_IN_GIT = "image: {{registry: registry.example.com}}\ndeploy: {{target: gitops, path: out, {}}}\n"
_STEPS = "deploy: {{{}, strategy: {{canary: {{steps: [{}]}}}}}}\n"
_ROUTE = "ingress: {class_name: nginx, hosts: [a.example.com], from_namespace: edge, gateway: {name: public}}"


def _image(more: str) -> str:
    return BASE.replace(_IMAGE, f"{_IMAGE[:-1]}, {more}}}")


SPEC_CASES = [
    SpecCase("E101", BASE.replace("    weights:", "    weigths:"), "did you mean `weights`?", _meant),
    SpecCase("E101", BASE + "cpus: 2\n", "hardware", lambda text, found: text.replace("cpus: 2", re.findall(r"did you mean `(.+?)`", advice(found))[0].replace("...", "2"))),
    SpecCase(
        "E101",
        BASE + "deploy: {path: shelf}\n",
        "is a key of that kind",
        lambda text, found: text.replace("{path", "{" + re.findall(r"add `(.+?)`", advice(found))[0] + ", path"),
    ),
    SpecCase("E101", BASE.replace("name: image,", "name: image, tensor: x,"), "remove it", _without(" tensor: x,")),
    SpecCase("E102", BASE.replace(_FACTORY, ""), "add", _added(r"add `(factory: .+?)`", "  inputs:", "    ")),
    SpecCase("E103", BASE.replace("kind: pytorch", "kind: pytorh"), "did you mean", _meant),
    SpecCase(
        "E104",
        BASE.replace("factory: digits_model:DigitsNet", "factory:"),
        "add a value",
        lambda text, found: text.replace("factory:", re.findall(r"such as `(.+?)`", advice(found))[0]),
    ),
    SpecCase("E104", BASE + "slo: {enforce: yes}\n", "did you mean `true`?", _meant),
    SpecCase("E105", BASE + "slo: {p99_latency: 20}\n", "with a unit", _said(r"such as (\w+),")),
    SpecCase("E105", BASE + "hardware: {memory: 2GB}\n", "with a unit", _said(r"such as (\w+) or")),
    SpecCase("E106", BASE + "verify: {max_abs_error: -1}\n", "at least 0", _said(r"at least (\d+)")),
    SpecCase("E107", BASE + "optimize: {precisions: []}\n", "at least 1 entry", _changed("[]", "[fp32]")),
    SpecCase("E108", BASE + "kind: ModelDeployment\n", "keep one of the two", lambda text, _: text.removesuffix("kind: ModelDeployment\n")),
    SpecCase("E109", BASE.replace("  inputs", "\tinputs"), "indent with spaces", _changed("\tinputs", "  inputs")),
    SpecCase("E109", BASE + _CONFLICT, "keep one side", _changed(_CONFLICT, "slo: {enforce: true}\n")),
    SpecCase("E113", BASE + "slo: {enforce: True}\n", "write `true`", _said(r"write `(\w+)`")),
    SpecCase(
        "E120",
        BASE.replace(_DIMS, "  dims: {}\n"),
        "to `model.dims`",
        lambda text, found: text.replace("{}", "{" + re.findall(r"add `(.+?)` to", advice(found))[0] + "}"),
    ),
    SpecCase(
        "E121", BASE.replace("min: 1, max", "min: 65, max"), "raise `max`", _changed("min: 65, max: 64", "min: 65, max: 65")
    ),
    SpecCase(
        "E121",
        BASE.replace("min: 1, max: 64", "min: 5, max: 7, multiple_of: 8"),
        "extend the range",
        lambda text, found: text.replace("max: 7", re.findall(r"as to `(.+?)`", advice(found))[0]),
    ),
    SpecCase(
        "E121", BASE + "serving: {replicas: {min: 2}}\n", "defaults to 1; set it", _changed("min: 2", "min: 2, max: 2")
    ),
    SpecCase("E121", _image("range: [1, 0]"), "smallest first", _said(r"`range: (.+?)`")),
    SpecCase("E122", BASE + "optimize: {precisions: [fp32, fp32]}\n", "remove it", _changed("[fp32, fp32]", "[fp32]")),
    SpecCase("E123", BASE + "benchmark: {batch_sizes: [1, 65]}\n", "remove it, or extend", _extended),
    SpecCase(
        "E124",
        BASE.replace("digits.safetensors", "digit.safetensors"),
        "did you mean `digits.safetensors`?",
        _meant,
    ),
    SpecCase(
        "E125",
        BASE.replace("digits.safetensors", "s3://b/digits.safetensors"),
        "download the file and write its path here",
        _changed("s3://b/digits.safetensors", "digits.safetensors"),
    ),
    SpecCase("E126", BASE + "serving: {batching: {max_size: 65}}\n", "or extend `model.dims.batch`", _extended),
    SpecCase(
        "E130",
        BASE + "serving: {backend: torchserve}\n",
        "allowed: onnxruntime",
        _said(r"allowed: (\w+)"),
        platform=_PLATFORM + "rules: {backends: [onnxruntime]}\n",
    ),
    SpecCase(
        "E131",
        BASE + "hardware: {cpus: 4}\n",
        "or less",
        _said(r"set it to (\S+) or less"),
        platform=_PLATFORM + "limits: {cpus: 2}\n",
    ),
    SpecCase(
        "E132",
        BASE,
        "under `metadata`",
        lambda text, found: text.replace(
            "metadata:\n", f"metadata:\n  {re.findall(r'add `(.+?)` under', advice(found))[0].replace('...', 'vision')}\n"
        ),
        platform=_PLATFORM + "rules: {required_labels: [team]}\n",
    ),
    SpecCase(
        "E133",
        BASE + "hardware: {count: 2}\n",
        "set `hardware: {accelerator: cuda}`",
        lambda text, found: text.replace("{count", re.findall(r"hardware: (\{accelerator: cuda)", advice(found))[0] + ", count"),
    ),
    SpecCase(
        "E134",
        BASE + "environments: {staging: {hardware: {cpus: 1}}}\n",
        "did you mean `staging`?",
        lambda text, _: text,
        environment="stagin",
        mended="staging",
    ),
    SpecCase("E134", BASE, "omit `--environment`", lambda text, _: text, environment="staging"),
    SpecCase(
        "E135",
        BASE + "environments: {staging: {metadata: {name: other}}}\n",
        "set it in the spec itself",
        lambda text, _: text.replace("environments: {staging: {metadata: {name: other}}}\n", "").replace(
            "name: digits\n", "name: other\n"
        ),
    ),
    SpecCase("E137", _image("enforce: true"), "or `values: [...]`", _changed("enforce: true", "enforce: true, range: [0, 1]")),
    SpecCase("E137", _image("range: [0, 1], values: [1]"), "remove one", _without(", values: [1]")),
    SpecCase(
        "E480",
        BASE + _TLS.format(key="/run/other/tls.key") + _ELSEWHERE,
        "put the key beside the certificate",
        _said(r"such as (\S+)$"),
    ),
    SpecCase(
        "E679",
        BASE + _TLS.format(key="/run/digits/tls.key") + _KSERVE,
        "remove it",
        _changed(_TLS.format(key="/run/digits/tls.key"), ""),
    ),
    SpecCase(
        "E679",
        BASE + _TLS.format(key="/run/digits/tls.key") + _KSERVE,
        "deploy `as: deployment`",
        _changed("as: inference-service", "as: deployment"),
    ),
    SpecCase("E623", BASE + _STEPS.format("target: local", "50%"), "remove it", _changed(_STEPS.format("target: local", "50%"), "")),
    SpecCase(
        "E623",
        BASE + _STEPS.format("target: kubernetes, as: inference-service", "50%"),
        "deploy `as: deployment`",
        _changed("as: inference-service", "as: deployment"),
    ),
    SpecCase(
        "E623", BASE + _STEPS.format("target: local", "50%"), "deploy with `target: kubernetes`", _changed("target: local", "target: kubernetes")
    ),
    SpecCase(
        "E283",
        BASE + _IN_GIT.format("values: {service: {port: 8080}}"),
        "set `deploy: service: port:` in its place",
        _changed("values: {service: {port: 8080}}", "service: {port: 8080}"),
    ),
    SpecCase(
        "W105",
        BASE + _IN_GIT.format("ingress: {hosts: [a.example.com]}"),
        "set its `from_namespace`",
        _changed("[a.example.com]", "[a.example.com], from_namespace: edge"),
    ),
    SpecCase(
        "W105",
        BASE + _IN_GIT.format("service: {type: LoadBalancer}"),
        "set `requests_from` beside it",
        lambda text, found: text.replace(
            "LoadBalancer", f"LoadBalancer, requests_from: {re.findall(r'such as `(.+)`$', found.remedy)[0]}"
        ),
    ),
    SpecCase(
        "E138",
        BASE + "image: {build: {wheelhouse: /, pip_index: 'https://pypi.example.com/simple'}}\n",
        "remove one of them",
        _changed("wheelhouse: /, ", ""),
    ),
    SpecCase("E280", BASE + _IN_GIT.format("values: {podLabelz: {}}"), "did you mean `podLabels`?", _meant),
    SpecCase("E280", BASE + _IN_GIT.format("values: {shutdown: {drain: 5}}"), "drainSeconds", _said(r"(drainSeconds)")),
    SpecCase("E280", BASE + _IN_GIT.format("values: {podLabels: {a b: c}}"), "such as `example.com/team`", _said(r"such as `(.+?)`")),
    SpecCase("E281", BASE + _IN_GIT.format("values: {image: {digest: x}, podLabels: {}}"), "remove it", _changed("image: {digest: x}, ", "")),
    SpecCase("E282", BASE + _IN_GIT.format(_ROUTE), "remove `class_name`", _changed("class_name: nginx, ", "")),
    SpecCase("E282", BASE + _IN_GIT.format(_ROUTE), "or remove `gateway`", _changed(", gateway: {name: public}", "")),
    SpecCase(
        "E670",
        BASE + "deploy: {target: gitops, path: out}\n",
        "add `image: {registry:",
        lambda text, found: text + re.findall(r"add `(image: .+?)`", advice(found))[0] + "\n",
    ),
    SpecCase(
        "W106",
        BASE + _STEPS.format("target: kubernetes", "10%"),
        "min: 9, max: 9",
        lambda text, found: text + re.findall(r"add `(.+?)`", found.remedy)[0] + "\n",
    ),
    SpecCase("W106", BASE + _STEPS.format("target: kubernetes", "10%"), "begin with `50%`", _changed("10%", "50%")),
    SpecCase("W101", BASE.replace("max: 64}}", "max: 64}, width: {max: 8}}"), "remove it", _without(", width: {max: 8}")),
    SpecCase(
        "W102",
        BASE + "optimize: {precisions: [int8]}\n",
        "under `model`",
        lambda text, found: text.replace(
            _DIMS, _DIMS + f"  {re.findall(r'add `(.+?)`', advice(found))[0].replace('FILE', 'digits')}\n"
        ),
    ),
    SpecCase("W103", BASE.replace(_FACTORY, f"{_FACTORY}    kwargs: {{bias: no}}\n"), "quotes", _changed("bias: no", "bias: 'no'")),
    SpecCase(
        "W104",
        BASE.replace("pytorch", "tflite").replace(_FACTORY, "").replace("digits.safetensors", "digits.npz")
        + "optimize: {formats: [tflite]}\ndeploy: {target: folder, path: shelf}\nimage: {base: 'python:3.11'}\n",
        "remove it",
        _without("image: {base: 'python:3.11'}\n"),
    ),
]  # fmt: skip
