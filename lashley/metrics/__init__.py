"""Measures of what a model does, before an edit and after it."""

from __future__ import annotations

from lashley.metrics.answers import Answers, Reference, answers, continuations, reference
from lashley.metrics.clusters import nmi, nmi_labels
from lashley.metrics.membership import membership_features, mia_efficacy
from lashley.metrics.tow import accuracy_gaps, tow, tow_mia
from lashley.stats import (
    Alignment,
    Reading,
    dimensional_alignment,
    head_probe,
    linear_cka,
    linear_probe,
    minibatch_cka,
    mlp_probe,
    nearest_centre,
)

__all__ = [
    "Alignment",
    "Answers",
    "Reading",
    "Reference",
    "accuracy_gaps",
    "answers",
    "continuations",
    "dimensional_alignment",
    "head_probe",
    "linear_cka",
    "linear_probe",
    "membership_features",
    "mia_efficacy",
    "minibatch_cka",
    "mlp_probe",
    "nearest_centre",
    "nmi",
    "nmi_labels",
    "reference",
    "tow",
    "tow_mia",
]
