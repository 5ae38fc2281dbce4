"""Measures of what a model does and of what is left in its features, before an edit and after it.

Those of features and numbers are pure functions of arrays; the ones that need nothing else live in `lashley.stats`.
"""

from __future__ import annotations

from lashley.metrics.answers import Answers, Reference, answers, continuations, reference
from lashley.metrics.clusters import Clustering, clustering, nmi, nmi_labels
from lashley.metrics.membership import membership_attack, membership_features, mia_efficacies, mia_efficacy
from lashley.metrics.seeds import OverSeeds, over_seeds
from lashley.metrics.tow import accuracies, accuracy_gaps, tow, tow_mia
from lashley.stats import (
    Alignment,
    Reading,
    cka_profile,
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
    "Clustering",
    "OverSeeds",
    "Reading",
    "Reference",
    "accuracies",
    "accuracy_gaps",
    "answers",
    "cka_profile",
    "clustering",
    "continuations",
    "dimensional_alignment",
    "head_probe",
    "linear_cka",
    "linear_probe",
    "membership_attack",
    "membership_features",
    "mia_efficacies",
    "mia_efficacy",
    "minibatch_cka",
    "mlp_probe",
    "nearest_centre",
    "nmi",
    "nmi_labels",
    "over_seeds",
    "reference",
    "tow",
    "tow_mia",
]
