"""From the moments of a site to an operator on its input, one small file per method. Tensors only."""

from __future__ import annotations

from lashley.estimators.base import DiagonalOperator, Estimator, OffsetEstimator, Operator, SiteMoments, Solution
from lashley.estimators.kodge import Kodge
from lashley.estimators.leace import Leace
from lashley.estimators.mean_direction import MeanDirection
from lashley.estimators.mixture import MixtureShift
from lashley.estimators.null_space import NullSpace
from lashley.estimators.projection import Projection
from lashley.estimators.ridge import Ridge

__all__ = [
    "DiagonalOperator",
    "Estimator",
    "Kodge",
    "Leace",
    "MeanDirection",
    "MixtureShift",
    "NullSpace",
    "OffsetEstimator",
    "Operator",
    "Projection",
    "Ridge",
    "SiteMoments",
    "Solution",
]
