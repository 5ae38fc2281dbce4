"""Layers brought to one form, ``z = W x + b``, once. Nothing later asks what kind of layer it was.

Importing this package registers the types it speaks for: `torch.nn.Linear` and Hugging Face `Conv1D` (`linear`),
`torch.nn.Conv1d`, `Conv2d`, `Conv3d` (`conv`) and their transposes (`conv_transpose`), `torch.nn.MultiheadAttention`
(`attention`), linear layers that PEFT put LoRA around (`adapted`) and, when asked for by name, `torch.nn.Embedding`
(`embedding`). To add one, subclass `Layer`; see
``docs/layers.md``.
"""

from __future__ import annotations

from lashley.layers.adapted import AdaptedLayer
from lashley.layers.attention import AttentionLayer
from lashley.layers.base import Layer, describe, layer_type, named_modules, outermost, places, unwrap
from lashley.layers.check import deviation
from lashley.layers.conv import ConvLayer
from lashley.layers.conv_transpose import ConvTransposeLayer
from lashley.layers.embedding import EmbeddingLayer
from lashley.layers.linear import LinearLayer, TransposedLinearLayer

__all__ = [
    "AdaptedLayer",
    "AttentionLayer",
    "ConvLayer",
    "ConvTransposeLayer",
    "EmbeddingLayer",
    "Layer",
    "LinearLayer",
    "TransposedLinearLayer",
    "describe",
    "deviation",
    "layer_type",
    "named_modules",
    "outermost",
    "places",
    "unwrap",
]
