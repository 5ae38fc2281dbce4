"""Linear CKA: whether two networks put the same samples in the same places, up to rotation and scale.

Legend: ``X [n, p]``, ``Y [n, q]`` features of the same n samples; ``K = X X^T``, ``L = Y Y^T``; a tilde sets the diagonal
to zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lashley.errors import DataError
from lashley.stats.inputs import Array, matrix

__all__ = ["cka_profile", "linear_cka", "minibatch_cka"]


def linear_cka(x: Array, y: Array, *, unbiased: bool = False) -> float:
    """``||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F)`` of the centred columns.

    Direction: the retrained network is the target. 1 for features equal up to a rotation and a scale; biased it lies in
    [0, 1] and grows with few samples and many features, unbiased it is 0 on average for independent features and may be
    below 0. It moves easily without any change of function (Davari et al. 2023): read it beside a probe.

    Args:
        x, y: ``[n, p]`` and ``[n, q]``, row i of both from the same sample.
        unbiased: HSIC_1 (Song et al. 2012; Nguyen et al. 2021) for each of the three products; n of at least 4.

    Source: Kornblith et al. 2019. Equal to the HSIC of the Gram matrices.

    Raises:
        DataError: other numbers of samples, too few, not finite, or features that are the same for every sample.
    """
    a, b = _pair(x, y, unbiased)
    products = _hsic_1(a, b) if unbiased else _hsic_0(a, b)
    return _ratio(products)


def minibatch_cka(pairs: Iterable[tuple[Array, Array]], *, unbiased: bool = True) -> float:
    """CKA of features that come in batches.

    Args:
        pairs: ``(x, y)`` of one batch of samples after another.
        unbiased: HSIC_1 of XY, XX and YY each averaged over the batches, then the ratio (Nguyen et al. 2021): the batch
            size drops out on average. False: the mean of each batch's biased `linear_cka`, as Kim et al. report it
            with 512 a batch; higher than the value of all samples together, so say the batch size beside it. Every
            batch counts the same, the last small one too.

    Raises:
        DataError: no batch, or one that `linear_cka` refuses.
    """
    found = []
    for number, (x, y) in enumerate(pairs):
        a, b = _pair(x, y, unbiased, f" of batch {number}")
        found.append(_hsic_1(a, b).cpu() if unbiased else torch.tensor(_ratio(_hsic_0(a, b)), dtype=torch.float64))
    if not found:
        raise DataError("Expected at least one batch, got none.")
    mean = torch.stack(found).mean(0)
    return _ratio(mean) if unbiased else mean.item()


def cka_profile(x: Mapping[str, Array], y: Mapping[str, Array], *, unbiased: bool = False) -> dict[str, float]:
    """`linear_cka` layer by layer, in the order of ``x``.

    Raises:
        DataError: other layers in ``y``, or features that `linear_cka` refuses.
    """
    if set(x) != set(y):
        raise DataError(f"Expected the features of the same layers, got {sorted(x)} and {sorted(y)}.")
    return {layer: linear_cka(features, y[layer], unbiased=unbiased) for layer, features in x.items()}


def _pair(x: Array, y: Array, unbiased: bool, where: str = "") -> tuple[Tensor, Tensor]:
    least = 4 if unbiased else 2
    a, b = matrix(x, f"x{where}", least), matrix(y, f"y{where}", least)
    if len(a) != len(b):
        raise DataError(f"Expected features of the same samples, got {len(a)} in x{where} and {len(b)} in y{where}.")
    for name, features in (("x", a), ("y", b)):
        if bool((features == features[0]).all()):
            raise DataError(f"Expected features that differ between samples, got one row repeated in {name}{where}.")
    return a - a.mean(0), b.to(a.device) - b.to(a.device).mean(0)


def _hsic_0(a: Tensor, b: Tensor) -> Tensor:
    """``[3]``: XY, XX, YY; up to a constant factor that drops out of the ratio."""
    return torch.stack([(v.T @ u).square().sum() for u, v in ((a, b), (a, a), (b, b))])


def _hsic_1(a: Tensor, b: Tensor) -> Tensor:
    """``[3]``: XY, XX, YY. The estimate does not see the mean; centred features lose fewer digits."""
    n = len(a)
    k, l = (features @ features.T for features in (a, b))
    k.fill_diagonal_(0)
    l.fill_diagonal_(0)

    def one(p: Tensor, q: Tensor) -> Tensor:
        rows_p, rows_q = p.sum(0), q.sum(0)
        trace = (p * q).sum()
        return trace + rows_p.sum() * rows_q.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows_p.dot(rows_q)

    return torch.stack([one(k, l), one(k, k), one(l, l)]) / (n * (n - 3))


def _ratio(products: Tensor) -> float:
    xy, xx, yy = products
    return (xy / (xx * yy).sqrt()).item()
