"""The spec that plans are made of without a framework: a model whose tensors the spec declares."""

from __future__ import annotations

__all__ = ["DECLARED"]

DECLARED = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {name: digits}
model:
  source: {kind: torchscript, weights: digits.pt}
  inputs: [{name: image, dtype: float32, shape: [batch, 8]}]
  outputs: [{name: logits, shape: [batch, 10]}]
  dims: {batch: {min: 1, max: 64}}
"""
