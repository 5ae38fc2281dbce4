"""Statistics of arrays: resemblance of features, what can be read from them, ranks, intervals. No models, no files."""

from __future__ import annotations

from lashley.stats.alignment import Alignment, dimensional_alignment
from lashley.stats.cka import cka_profile, linear_cka, minibatch_cka
from lashley.stats.intervals import Interval, bootstrap, paired_bootstrap
from lashley.stats.probes import Reading, head_probe, linear_probe, mlp_probe, nearest_centre
from lashley.stats.ranks import auroc, rank_correlation

__all__ = [
    "Alignment",
    "Interval",
    "Reading",
    "auroc",
    "bootstrap",
    "cka_profile",
    "dimensional_alignment",
    "head_probe",
    "linear_cka",
    "linear_probe",
    "minibatch_cka",
    "mlp_probe",
    "nearest_centre",
    "paired_bootstrap",
    "rank_correlation",
]
