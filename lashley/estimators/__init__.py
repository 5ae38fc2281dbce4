"""From the moments of a site to an operator on its input, one small file per method. Tensors only."""

from __future__ import annotations

from lashley.estimators.base import Estimator, Operator, SiteMoments, Solution
from lashley.estimators.projection import Projection
from lashley.estimators.ridge import Ridge

__all__ = ["Estimator", "Operator", "Projection", "Ridge", "SiteMoments", "Solution"]
