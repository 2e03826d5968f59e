"""A receipt means done; anything else in its place means not done, with a reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StoreFailed
from orchestrator.store.digest import FileEntry, Manifest
from orchestrator.store.home import Home
from orchestrator.store.receipts import Receipt, Receipts
from orchestrator.store.user_code import UserCode

KEY = "ab" * 32
DONE = Receipt(
    key=KEY,
    step="convert.onnx-fp32",
    kind="convert",
    deployment="digits",
    outcome="done",
    parts={"kind": "convert", "tools": {"torch": "2.13.0"}, "inputs": {"weights": "00" * 32}},
    manifest=Manifest.of({"model.onnx": FileEntry("11" * 32, 5, executable=False)}),
    summary={"opset": 20, "nodes": [1, 2.5, None, "é"]},
    error=None,
    found=UserCode(
        files={"digits_model.py": "22" * 32}, distributions={"timm 1.0": "33" * 32}, found_in={"timm": "path"}
    ),
    seconds=1.25,
    peak_bytes=1 << 33,
    started="2026-01-02T03:04:05+00:00",
    version="0.1.0",
)
FAILED = DONE.model_copy(
    update={
        "outcome": "failed",
        "manifest": None,
        "peak_bytes": None,
        "error": Diagnostic("E410", "no", at=("model", "inputs", 0), notes=("more: this",)),
    }
)


@pytest.fixture
def receipts(home: Home) -> Receipts:
    return Receipts(home)


EXPLAINED = FAILED.model_copy(update={"manifest": DONE.manifest})


@pytest.mark.parametrize("receipt", [DONE, FAILED, EXPLAINED], ids=["done", "failed", "explained"])
def test_a_receipt_is_read_as_it_was_written(receipts: Receipts, receipt: Receipt) -> None:
    assert receipts.read(KEY) is None
    assert receipts.damage(KEY) == ""
    receipts.write(receipt)
    assert receipts.read(KEY) == receipt
    assert receipts.damage(KEY) == ""
    assert receipts.latest(receipt.step, "digits") == receipt
    assert list(receipts.all_keys()) == [KEY]


def _document(**changes: Any) -> bytes:
    return json.dumps({**json.loads(DONE.as_bytes()), **changes}).encode()


def _without(member: str) -> bytes:
    return json.dumps({n: v for n, v in json.loads(DONE.as_bytes()).items() if n != member}).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is damaged"),
        (_document()[:-100], "is damaged"),
        (b"\xff\xfe\x00", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b"[]", "input should be an object"),
        (_document(format=1), "format: input should be 3"),
        (_without("format"), "it names no format"),
        (_without("found"), "found: field required"),
        (_document(more=1), "more: extra inputs are not permitted"),
        (_document(parts=[]), "parts: input should be an object"),
        (_document(seconds="1"), "seconds: input should be a valid number"),
        (_document(manifest={"digest": "", "files": {}}), "the manifest's digest is not that of its files"),
        (_document(manifest=[]), "not a manifest"),
        (_document(manifest=None), "outcome, manifest and error contradict each other"),
        (_document(error={"code": "E410"}), "error.message: field required"),
        (_document(error=FAILED.model_dump()["error"]), "outcome, manifest and error contradict each other"),
        (_document(outcome="perhaps"), "outcome: input should be 'done' or 'failed'"),
        (_document(key="cd" * 32), "the receipt of another key"),
    ],
)
def test_a_torn_or_foreign_file_is_not_a_receipt_and_the_reason_is_given(
    home: Home, receipts: Receipts, content: bytes, said: str
) -> None:
    file = home.receipts / f"{KEY}.json"
    file.write_bytes(content)
    assert receipts.read(KEY) is None
    assert said in receipts.damage(KEY)
    assert str(file) in receipts.damage(KEY)
    receipts.write(DONE)
    assert receipts.read(KEY) == DONE


def test_the_latest_is_kept_for_each_deployment_and_step(receipts: Receipts) -> None:
    receipts.write(DONE)
    receipts.write(DONE.model_copy(update={"key": "cd" * 32}))
    receipts.write(DONE.model_copy(update={"key": "ef" * 32, "deployment": "other"}))
    latest = receipts.latest(DONE.step, "digits")
    assert latest is not None
    assert latest.key == "cd" * 32
    assert receipts.latest("convert.onnx-int8", "digits") is None
    assert receipts.indexed_keys() == {"cd" * 32, "ef" * 32}

    receipts.remember("digits", DONE.step, KEY)
    assert receipts.latest(DONE.step, "digits") == DONE


def test_a_damaged_index_explains_nothing_and_breaks_nothing(home: Home, receipts: Receipts) -> None:
    receipts.write(DONE)
    (file,) = (home.receipts / "latest").iterdir()
    for content in (b"", b"[]", b'{"key": 3}', b'{"key": "../../state"}'):
        file.write_bytes(content)
        assert receipts.latest(DONE.step, "digits") is None
        assert receipts.indexed_keys() == set()
    receipts.write(DONE)
    assert receipts.latest(DONE.step, "digits") == DONE


def test_recording_a_known_key_again_writes_nothing(home: Home, receipts: Receipts) -> None:
    receipts.write(DONE)
    (file,) = (home.receipts / "latest").iterdir()
    inode = file.stat().st_ino
    receipts.remember("digits", DONE.step, KEY)
    assert file.stat().st_ino == inode


@pytest.mark.parametrize("key", ["", "../state", "a/b", "a.b", "a" * 200])
def test_a_key_cannot_lead_out_of_the_folder(receipts: Receipts, key: str) -> None:
    with pytest.raises(ValueError):
        receipts.read(key)


def test_a_summary_that_is_not_json_is_an_error_and_leaves_no_receipt(receipts: Receipts) -> None:
    with pytest.raises(StoreFailed, match=r"convert\.onnx-fp32"):
        receipts.write(DONE.model_copy(update={"summary": {"p99": float("nan")}}))
    assert receipts.read(KEY) is None
