"""The JSON Schema agrees with mlo."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml

import orchestrator
from orchestrator.errors import SpecInvalid
from orchestrator.spec.catalogue import codes, explain
from orchestrator.spec.document import read_document
from orchestrator.spec.platform import platform_schema
from orchestrator.spec.schema import json_schema
from orchestrator.spec.yaml_tree import SPEC
from tests.spec.conftest import BASE, Load

ROOT = Path(orchestrator.__file__).parents[1]


def test_the_committed_schema_is_current() -> None:
    committed = (ROOT / "docs" / "spec.schema.json").read_text(encoding="utf-8")
    assert committed == json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n", (
        "run: python -m orchestrator.spec.schema"
    )


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("file", sorted((ROOT / "specs").glob("*/*.yaml")), ids=lambda file: file.name)
def test_the_examples_are_valid(file: Path) -> None:
    jsonschema.validate(yaml.safe_load(file.read_text()), json_schema(), jsonschema.Draft202012Validator)


# What JSON Schema can express. Whether dimensions, files and ranges fit together is only checked by mlo.
CASES = [
    BASE,
    BASE + "optimize: {precisions: auto, formats: [onnx], time_budget: 5m}",
    BASE + "optimize: {precisions: []}",
    BASE + "optimize: {precisions: fp32}",
    BASE + "optimize: {precisions: [fp17]}",
    BASE + "optimize: {time_budget: 300}",
    BASE + "verify: {max_abs_error: 1.0e-4, min_cosine: {int8: 0.9}, min_top1_agreement: 1}",
    BASE + "verify: {max_abs_error: -1}",
    BASE + "verify: {min_cosine: {fp17: 0.9}}",
    BASE + "verify: {min_cosine: 2}",
    BASE + "verify: {accept_traced: ['net.py:9', 'acme/net.py:10']}",
    BASE + "verify: {accept_traced: [net.py]}",
    BASE.replace("    weights:", "    path: [..]\n    env: [RANKER_CONFIG]\n    weights:"),
    BASE.replace("    weights:", "    env: [A=B]\n    weights:"),
    BASE + "benchmark: {batch_sizes: [1, 2]}",
    BASE.replace("8, 8]}", "8, 8], range: [-1, 1.5], enforce: true}"),
    BASE.replace("8, 8]}", "8, 8], range: [1]}"),
    BASE.replace("8, 8]}", "8, 8], values: [1, 2.5]}"),
    BASE.replace("8, 8]}", "8, 8], values: [null]}"),
    BASE.replace("max: 64", "max: 64, multiple_of: 2"),
    BASE.replace("max: 64", "max: 64, multiple_of: 0"),
    BASE + "benchmark: {batch_sizes: []}",
    BASE + "benchmark: {batch_sizes: [0]}",
    BASE + "hardware: {cpus: 500m, memory: 512Mi}",
    BASE + "hardware: {cpus: 0.5, memory: 1073741824}",
    BASE + "hardware: {cpus: 0}",
    BASE + "hardware: {cpus: two}",
    BASE + "hardware: {memory: 2GB}",
    BASE + "hardware: {accelerator: cuda}",
    BASE + "hardware:",
    BASE + "slo: {p99_latency: 20ms, throughput: 200/s, enforce: false}",
    BASE + "slo: {p99_latency: null}",
    BASE + "slo: {p99_latency: 20}",
    BASE + "slo: {enforce: 'true'}",
    BASE + "serving: {backend: auto, batching: auto, replicas: {max: 3}}",
    BASE + "serving: {batching: {max_size: 8, max_delay: 0}}",
    BASE + "serving: {batching: {max_size: 8, max_delay: 2ms}}",
    BASE + "serving: {batching: {max_size: 8, max_delay: 2}}",
    BASE + "serving: {batching: {max_delay: 2ms}}",
    BASE + "serving: {batching: off}",
    BASE + "serving: {backend: triton}",
    BASE + "serving: {limits: {max_body: 16Mi, max_connections: 64, request_timeout: 10s, queue: 100}}",
    BASE + "serving: {limits: {max_body: 16MB}}",
    BASE + "serving: {limits: {max_connections: 15}}",
    BASE + "serving: {limits: {request_timeout: 10}}",
    BASE + "serving: {limits: {queue: 0}}",
    BASE + "serving: {limits: {rate: 10}}",
    BASE + "serving: {cors: {origins: ['https://app.example.com', 'http://localhost:3000']}}",
    BASE + "serving: {cors: {origins: ['*']}}",
    BASE + "serving: {cors: {origins: []}}",
    BASE + "serving: {cors: {origins: ['https://app.example.com/']}}",
    BASE + "serving: {cors: {origins: [app.example.com]}}",
    BASE + "serving: {cors: {}}",
    BASE + "deploy: {target: folder, path: out}\nserving: {auth: {token_file: /run/secrets/digits/token}}",
    BASE + "deploy: {target: folder, path: out}\nserving: {auth: {token_file: /srv/me/.tokens/digits, secret: digits-token}}",
    BASE + "serving: {auth: {token_file: /etc/token}}",
    BASE + "serving: {auth: {token_file: /run/token}}",
    BASE + "serving: {auth: {token_file: /run/secrets/../token}}",
    BASE + "serving: {auth: {token_file: 'C:/token'}}",
    BASE + "serving: {auth: {secret: digits-token}}",
    BASE + "serving: {auth: {token_file: /run/secrets/token, secret: Digits}}",
    BASE + "serving: {auth: {token: 0123456789abcdef}}",
    BASE + "deploy: {target: folder, path: out}\nserving: {tls: {certificate: /run/secrets/m/tls.crt, key: /run/secrets/m/tls.key}}",
    BASE + "deploy: {target: folder, path: out}\nserving: {tls: {certificate: /run/s/m/a.pem, key: /run/s/m/b.pem, secret: m-tls}}",
    BASE + "serving: {tls: {certificate: /run/secrets/m/tls.crt}}",
    BASE + "serving: {tls: {certificate: /etc/ssl/tls.crt, key: /etc/ssl/tls.key}}",
    BASE + "serving: {tls: {certificate: /run/secrets/m/tls.crt, key: /run/secrets/m/tls.key, client_ca: /run/secrets/m/ca.crt}}",
    BASE + "serving: {traces: {endpoint: 'http://collector.observability:4318', sample: 0.1}}",
    BASE + "serving: {traces: {endpoint: 'https://[2001:db8::1]:4318/otlp'}}",
    BASE + "serving: {traces: {endpoint: 'http://collector:4318/'}}",
    BASE + "serving: {traces: {endpoint: 'http://user:password@collector:4318'}}",
    BASE + "serving: {traces: {endpoint: 'http://collector:4318', sample: 1.5}}",
    BASE + "serving: {traces: {}}",
    BASE + "image: {registry: registry.example.com/team, base: 'python:3.11-slim'}",
    BASE + "image: {registry: 'https://registry.example.com'}",
    BASE + 'image: {base: "python\\nRUN x"}',
    BASE + "deploy: {target: local, port: 8080}",
    BASE + "deploy: {target: local, port: 80}",
    BASE + "deploy: {target: mainframe}",
    BASE + "optimize_for: cost",
    BASE + "optimize_for: speed",
    BASE + "unknown: 1",
    BASE + "environments: {prod: {hardware: {cpus: 4}, serving: {batching: {max_size: 4}}}}",
    BASE + "environments: {prod: {hardware: {cpu: 4}}}",
    BASE + "environments: {prod: {model: {samples: digits.npz}}}",
    BASE + "environments: {prod: {metadata: {name: other}}}",
    BASE + "environments: {Prod: {}}",
    BASE + "environments: {prod: 1}",
    BASE.replace("kind: pytorch", "kind: torchscript"),
    BASE.replace("kind: pytorch", "kind: keras"),
    BASE.replace("    kind: pytorch\n    weights: digits.safetensors\n    factory: digits_model:DigitsNet",
                 "    kind: exported-program\n    weights: digits.safetensors"),
    BASE.replace("DigitsNet", "DigitsNet\n    kwargs: {width: 3, layers: [1, {a: null}]}\n    weights_key: state.model"),
    BASE.replace("DigitsNet", "DigitsNet\n    kwargs: {a-b: 3}"),
    BASE.replace("digits_model:DigitsNet", "digits_model.DigitsNet"),
    BASE.replace("digits.safetensors", "s3://bucket/digits.safetensors"),
    BASE.replace("name: digits\n", "name: Digits\n"),
    BASE.replace("name: digits\n", "name: digits\n  labels: {team: vision, 'a b': c}\n"),
    BASE.replace("name: digits\n", "name: digits\n  labels: {version: 3.10}\n"),
    BASE.replace("name: digits\n", "name: digits\n  labels: {example.com/team: vision}\n"),
    BASE.replace("name: digits\n", "name: digits\n  labels: {Example.com/team: vision}\n"),
    BASE.replace("name: digits\n", "name: digits\n  labels: {a/b/c: vision}\n"),
    BASE + "image: {registry: registry.example.com/my__team, base: 'my__team/a--b/python:3.11'}",
    BASE + "image: {registry: registry.example.com/my___team}",
    BASE.replace("metadata:\n  name: digits\n", ""),
    BASE.replace("mlo/v1", "mlo/v2"),
    BASE.replace("float32", "bfloat16"),
    BASE.replace("[batch, 1, 8, 8]", "[batch, -1]"),
    BASE.replace("[batch, 1, 8, 8]", "[batch, 1.5]"),
    BASE.replace("[batch, 1, 8, 8]", "[Batch, 1]"),
    BASE.replace("[batch, 1, 8, 8]", "[batch, 1, 1, 1, 1, 1, 1, 1, 1]"),
    BASE.replace("min: 1, max: 64", "min: 1"),
    BASE.replace("min: 1, max: 64", "max: 0"),
]  # fmt: skip


@pytest.mark.parametrize("text", CASES)
def test_mlo_and_the_schema_agree(load: Load, text: str) -> None:
    told: list[str] = []
    try:
        load(text)
    except SpecInvalid as error:
        told = [each.message for each in error.diagnostics]
    # PyYAML reads some scalars otherwise than mlo, so the schema judges what mlo read.
    data = read_document("spec.yaml", SPEC).data
    problems = [each.message for each in jsonschema.Draft202012Validator(json_schema()).iter_errors(data)]
    assert bool(told) == bool(problems), (told, problems)


def test_every_code_that_is_used_is_explained() -> None:
    used: dict[str, str] = {}
    for file in (ROOT / "orchestrator").rglob("*.py"):
        if not file.name.startswith("catalogue_"):
            used |= dict.fromkeys(re.findall(r'"([EW]\d{3})"', file.read_text(encoding="utf-8")), str(file))
    assert {code: file for code, file in used.items() if code not in codes()} == {}
    mine = {code for code in codes() if code[1] == "1"}
    assert mine <= set(used), "a code that nothing raises is no longer explained"


def test_an_explanation_is_a_title_and_a_paragraph() -> None:
    title, empty, paragraph = explain("E101").split("\n")
    assert title == "E101: unknown key"
    assert empty == ""
    assert paragraph.endswith(".")


MANUAL = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8")


def test_the_manuals_examples_are_valid() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", MANUAL, re.DOTALL)
    spec, environments, platform = (yaml.safe_load(block) for block in blocks if not block.startswith("#"))
    for document, schema in (
        (spec, json_schema()),
        ({**spec, **environments}, json_schema()),
        (platform, platform_schema()),
    ):
        jsonschema.validate(document, schema, jsonschema.Draft202012Validator)


def test_the_manual_names_every_key() -> None:
    def keys(schema: object) -> Iterator[str]:
        if isinstance(schema, dict):
            for key, value in schema.items():
                if key == "properties":
                    yield from value
                yield from keys(value)
        elif isinstance(schema, list):
            for each in schema:
                yield from keys(each)

    every = {*keys(json_schema()), *keys(platform_schema())}
    assert len(every) > 40
    assert [key for key in sorted(every) if not re.search(rf"\b{key}\b", MANUAL)] == []
