"""Integers without samples: those that PyTorch models look up, and those that they refuse."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.frameworks.pytorch.case import model, run, run_model, signature, traced

WORDS = signature({"words": ("int32", ["batch", 2]), "kinds": ("int64", ["batch", 2])})
MINUTES = signature({"minutes": ("int32", ["batch", 2])})


def test_embeddings_show_how_many_ids_there_are(tmp_path: Path) -> None:
    imported = run_model(tmp_path, "Embedded", WORDS)
    drawn = imported.arrays("samples.npz")
    assert (drawn["words"].min(), drawn["words"].max()) == (0, 49)
    assert (drawn["kinds"].min(), drawn["kinds"].max()) == (0, 2)
    assert "samples: `words` holds ids, which are drawn from 0 to 49, all that the model has" in imported.facts["notes"]
    assert imported.facts["edge_cases_left_out"] == []
    largest, _ = imported.edge("largest values, smallest batch")
    assert (largest["words"] == 49).all()


def test_embeddings_of_a_torchscript_archive_show_it_too(tmp_path: Path) -> None:
    ids = torch.zeros(2, 2, dtype=torch.int32), torch.zeros(2, 2, dtype=torch.int64)
    imported = run(tmp_path, {"kind": "torchscript"}, traced(model("Embedded"), tmp_path, *ids), WORDS)
    assert imported.arrays("samples.npz")["words"].max() == 49


def test_integers_that_the_model_refuses_are_not_drawn(tmp_path: Path) -> None:
    imported = run_model(tmp_path, "Hours", MINUTES)
    drawn = imported.arrays("samples.npz")["minutes"]
    assert (drawn.min(), drawn.max()) == (-525_600, 1_000_000)
    assert any("ValueError: minutes of the year before last" in note for note in imported.facts["notes"])
