"""Layers brought to one form, ``z = W x + b``, once. Nothing later asks what kind of layer it was.

Importing this package registers the types it speaks for: `torch.nn.Linear` and Hugging Face `Conv1D` (`linear`),
`torch.nn.Conv1d`, `Conv2d` and `Conv3d` (`conv`). To add one, subclass `Layer`; see ``docs/layers.md``.
"""

from __future__ import annotations

from lashley.layers.base import Layer, describe, layer_type, unwrap
from lashley.layers.check import deviation
from lashley.layers.conv import ConvLayer
from lashley.layers.linear import LinearLayer, TransposedLinearLayer

__all__ = [
    "ConvLayer",
    "Layer",
    "LinearLayer",
    "TransposedLinearLayer",
    "describe",
    "deviation",
    "layer_type",
    "unwrap",
]
