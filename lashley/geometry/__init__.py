"""Shapes of engrams and of the operators that make them. Tensors only; `lashley.anatomy` reads a recording with them.

*vectors* how many directions a matrix uses, how long it is, and how much two engrams overlap.
*shares*  what a concept owns of the directions of a layer's input: the spectrum of its operator.
*outputs* who makes a layer's outputs: the concept's engram, those of others, or what no engram reaches.
*fisher*  the engram as a natural-gradient step, and what a curvature of the outputs would change.
"""

from __future__ import annotations

from lashley.geometry.fisher import Agreement, agreement, normal_residual, output_step, spared
from lashley.geometry.outputs import Energy, complement_energy, energy, engram_of
from lashley.geometry.shares import Ownership, Share, cosines, raw_non_idempotence
from lashley.geometry.vectors import effective_rank, frobenius, overlap

__all__ = [
    "Agreement",
    "Energy",
    "Ownership",
    "Share",
    "agreement",
    "complement_energy",
    "cosines",
    "effective_rank",
    "energy",
    "engram_of",
    "frobenius",
    "normal_residual",
    "output_step",
    "overlap",
    "raw_non_idempotence",
    "spared",
]
