"""Checkpoints of PyTorch Lightning: the model's tensors are taken, and nothing else in them is made or run."""

from __future__ import annotations

import argparse
import functools
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from orchestrator.frameworks.pytorch.weights import find_state_dict
from orchestrator.steps.context import StepError
from tests.frameworks.pytorch.case import model, run, saved

pytestmark = pytest.mark.frameworks

LINEAR = {"kind": "pytorch", "factory": "source_models:Linear", "kwargs": {}}
KEY = "state_dict.model"
PLAIN = {"width": 3, "name": "linear", "rates": [0.1, 0.2]}


class Payload:
    """What a malicious file would hold: unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


class Chained(Payload):
    """One that calls what another call has given."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class System(Payload):
    """One from a module that PyTorch blocks altogether."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def checkpoint(folder: Path, hyper_parameters: dict[str, Any], prefix: str = "model.", **further: Any) -> Path:
    """A file as `Trainer.save_checkpoint` writes it, of a module that holds the network, its loss and a metric."""
    network = model("Linear")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    network(torch.ones(2, 4)).sum().backward()  # so that the optimizer has a state of its own
    network_state = {f"{prefix}{name}": tensor for name, tensor in model("Linear").state_dict().items()}
    optimizer.step()
    progress = {"total": {"ready": 8, "started": 8, "processed": 8, "completed": 8}, "current": {"ready": 4}}
    content = {
        "epoch": 1,
        "global_step": 8,
        "pytorch-lightning_version": "2.5.1",
        "state_dict": OrderedDict({**network_state, "loss.weight": torch.ones(3), "accuracy.total": torch.tensor(4)}),
        "loops": {
            "fit_loop": {"state_dict": {}, "epoch_loop.batch_progress": {**progress, "is_last_batch": True}},
            "validate_loop": {"state_dict": {}, "epoch_loop.state_dict": {}},
        },
        "callbacks": {
            "ModelCheckpoint{'monitor': 'val_loss', 'mode': 'min'}": {
                "best_model_score": torch.tensor(0.1),
                "best_model_path": "/home/somebody/epoch=1.ckpt",
                "best_k_models": {"/home/somebody/epoch=1.ckpt": torch.tensor(0.1)},
            }
        },
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"base_lrs": [1e-3], "last_epoch": 2, "_step_count": 3}],
        "hparams_name": "kwargs",
        "hyper_parameters": hyper_parameters,
        **further,
    }
    torch.save(content, folder / "epoch=1-step=8.ckpt")
    return folder / "epoch=1-step=8.ckpt"


def answers(folder: Path, weights: Path, **source: Any) -> Any:
    folder.mkdir(exist_ok=True)
    return run(folder, {**LINEAR, **source}, weights).arrays("baseline.npz")["y"]


def refused(folder: Path, weights: Path, **source: Any) -> StepError:
    with pytest.raises(StepError) as caught:
        answers(folder, weights, **source)
    return caught.value


@pytest.fixture
def expected(tmp_path: Path) -> Any:
    """The answers of the same network, stored as safetensors."""
    folder = tmp_path / "expected"
    folder.mkdir()
    return answers(folder, saved("Linear", folder))


def objects(ran: Path) -> dict[str, Any]:
    """Hyperparameters that are no plain data, one of which would make the file `ran`."""
    return {
        "path": Path("/data"),
        "arguments": argparse.Namespace(width=3),
        "activation": functools.partial(torch.nn.ReLU, inplace=True),
        "optimizer": torch.optim.Adam,
        "rate": np.float64(0.1),
        "encoder": torch.nn.Linear(2, 2),
        "payload": Payload(ran),
    }


@pytest.mark.parametrize("prefix", ["model.", "net.", "_orig_mod."])
def test_the_weights_below_a_prefix_are_used(tmp_path: Path, expected: Any, prefix: str) -> None:
    weights = checkpoint(tmp_path, PLAIN, prefix)

    found = answers(tmp_path / "run", weights, weights_key=f"state_dict.{prefix[:-1]}")

    np.testing.assert_array_equal(found, expected)


def test_objects_beside_the_weights_are_neither_created_nor_run(tmp_path: Path, expected: Any) -> None:
    ran = tmp_path / "ran"
    weights = checkpoint(tmp_path, objects(ran), datamodule=Payload(ran))

    found = answers(tmp_path / "run", weights, weights_key=KEY)

    np.testing.assert_array_equal(found, expected)
    assert not ran.exists()


@pytest.mark.parametrize("payload", [Chained, System])
def test_objects_that_placeholders_cannot_replace_are_refused(tmp_path: Path, payload: type[Payload]) -> None:
    ran = tmp_path / "ran"

    error = refused(tmp_path / "run", checkpoint(tmp_path, {"payload": payload(ran)}), weights_key=KEY)

    assert error.code == "E303"
    assert "save_file(model.state_dict()" in error.remedy
    assert not ran.exists()


@pytest.mark.parametrize("plain", [True, False])
def test_a_missing_key_is_reported(tmp_path: Path, plain: bool) -> None:
    weights = checkpoint(tmp_path, PLAIN if plain else objects(tmp_path / "ran"))

    error = refused(tmp_path / "run", weights)

    assert error.code == "E304"
    assert "write `weights_key: state_dict`" in error.remedy
    assert not (tmp_path / "ran").exists()


def test_a_missing_prefix_is_reported_with_what_to_write(tmp_path: Path, expected: Any) -> None:
    weights = checkpoint(tmp_path, PLAIN)

    error = refused(tmp_path / "run", weights, weights_key="state_dict")

    assert error.code == "E305"
    assert "begin with `model.`" in error.remedy
    assert error.remedy.endswith(f"write `weights_key: {KEY}`")
    np.testing.assert_array_equal(answers(tmp_path / "again", weights, weights_key=KEY), expected)


def test_a_prefix_of_no_name_is_reported(tmp_path: Path) -> None:
    error = refused(tmp_path / "run", checkpoint(tmp_path, PLAIN), weights_key="state_dict.network")

    assert error.code == "E304"
    assert "`model.linear.weight`" in error.cause


def test_weights_that_are_objects_themselves_are_refused(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    weights = checkpoint(tmp_path, PLAIN, state_dict={"model.linear.weight": Payload(ran)})

    error = refused(tmp_path / "run", weights, weights_key=KEY)

    assert error.code == "E308"
    assert "`linear.weight` (PythonObject)" in error.cause
    assert not ran.exists()


def test_a_single_object_among_the_weights_is_refused(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    state = {**model("Linear").state_dict(), "extra": Payload(ran)}
    weights = checkpoint(tmp_path, PLAIN, state_dict=state, ema={"linear.weight": torch.ones(1)})

    error = refused(tmp_path / "run", weights, weights_key="state_dict")

    assert error.code == "E308"
    assert "`extra`" in error.cause
    assert not ran.exists()


def test_a_damaged_checkpoint_is_reported(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path, PLAIN)
    weights.write_bytes(weights.read_bytes()[:-200])

    assert refused(tmp_path / "run", weights, weights_key=KEY).code in {"E301", "E302"}


def test_the_key_is_found_for_a_spec_that_is_being_drafted(tmp_path: Path) -> None:
    key, tensors = find_state_dict(checkpoint(tmp_path, objects(tmp_path / "ran")))

    assert key == "state_dict"
    assert "model.linear.weight" in tensors


def test_safetensors_may_have_a_prefix_too(tmp_path: Path, expected: Any) -> None:
    state = {f"model.{name}": tensor.clone() for name, tensor in model("Linear").state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")

    np.testing.assert_array_equal(
        answers(tmp_path / "run", tmp_path / "weights.safetensors", weights_key="model"), expected
    )
