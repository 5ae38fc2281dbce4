"""Linear CKA: whether two networks put the same samples in the same places, up to rotation and scale.

Legend: ``X [n, p]`` and ``Y [n, q]`` are features of the same n samples with their mean subtracted, ``K = X X^T`` and
``L = Y Y^T`` their Gram matrices; ``K~`` is K with a diagonal of zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from lashley.errors import DataError
from lashley.stats.inputs import Array, matrix

_ROUNDING = 1e-6  # a spread below this part of the biased one, in features of float32

__all__ = ["cka_profile", "linear_cka", "minibatch_cka", "spreads"]


def linear_cka(x: Array, y: Array, *, unbiased: bool = False) -> float:
    """``||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F)``, the same as ``tr(K L) / sqrt(tr(K K) tr(L L))``.

    Direction: the target is what two retrained networks of different seeds have between them. Range: [0, 1], and 1 for
    features that are equal up to a rotation and a scale; the unbiased form may be below 0. The biased form grows with
    features and falls with samples: 512 samples of 512 independent features have about 1/2. CKA moves easily without
    any change of function (Davari et al. 2023): read it beside a probe.

    Args:
        x, y: ``[n, p]`` and ``[n, q]``, row i of both from the same sample.
        unbiased: with HSIC_1 (Song et al. 2012) for each of the three products, which is 0 on average for independent
            features:
            ``[tr(K~ L~) + 1^T K~ 1 1^T L~ 1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1^T K~ L~ 1] / (n (n - 3))``.

    Source: Kornblith et al. 2019.

    Raises:
        DataError: other numbers of samples, fewer than 2 (4 when unbiased), values that are not finite, features that
            are the same for every sample.
    """
    return _ratio(_products(x, y, unbiased), "")


def minibatch_cka(pairs: Iterable[tuple[Array, Array]], *, unbiased: bool = True) -> float:
    """CKA of features that come in batches.

    Args:
        pairs: ``(x, y)`` of one batch of samples after another, as `linear_cka` takes them.
        unbiased: the default averages HSIC_1 of XY, XX and YY over the batches and then takes the ratio (Nguyen et al.
            2021). False is the mean of each batch's biased value, as Kim et al. report it for batches of 512. That is
            above the value of all samples together, the more the smaller the batch: say its size beside the number.
            Either way every batch counts the same, a small last one too.

    Direction and range as `linear_cka`.

    Raises:
        DataError: no batch, or one that `linear_cka` refuses.
    """
    found = []
    for number, (x, y) in enumerate(pairs):
        products = _products(x, y, unbiased, f" of batch {number}")
        found.append(products.cpu() if unbiased else products.new_tensor(_ratio(products, f" of batch {number}")).cpu())
    if not found:
        raise DataError("Expected at least one batch, got none.")
    mean = torch.stack(found).mean(0)
    return _ratio(mean, "") if unbiased else mean.item()


def cka_profile(x: Mapping[str, Array], y: Mapping[str, Array], *, unbiased: bool = False) -> dict[str, float]:
    """`linear_cka` of two networks layer by layer, in the order of ``x``.

    Raises:
        DataError: other layers in ``y``, or features that `linear_cka` refuses.
    """
    if set(x) != set(y):
        raise DataError(f"Expected features of the same layers, got {sorted(x)} and {sorted(y)}.")
    return {layer: linear_cka(features, y[layer], unbiased=unbiased) for layer, features in x.items()}


def spreads(x: Array, y: Array) -> Tensor:
    """``[3]``, on the host: HSIC_1 of XY, XX and YY, whose means over batches `minibatch_cka` divides. One of the last
    two that is nothing but rounding makes all three 0: the batch is too small to tell.
    """
    unbiased, biased = _products(x, y, True).cpu(), _products(x, y, False).cpu()
    spread = biased[1:] / (len(x) - 1) ** 2
    return torch.zeros_like(unbiased) if bool((unbiased[1:] <= _ROUNDING * spread).any()) else unbiased


def _products(x: Array, y: Array, unbiased: bool, where: str = "") -> Tensor:
    """``[3]``: the (biased or unbiased) HSIC of XY, XX and YY, the biased ones times ``(n - 1)^2``."""
    least = 4 if unbiased else 2
    a, b = matrix(x, f"x{where}", least), matrix(y, f"y{where}", least)
    if len(a) != len(b):
        raise DataError(f"Expected features of the same samples, got {len(a)} in x{where} and {len(b)} in y{where}.")
    for name, features in (("x", a), ("y", b)):
        if bool((features == features[0]).all()):
            raise DataError(f"Expected features that differ between samples, got one row repeated in {name}{where}.")
    hsic: Callable[[Tensor, Tensor], Tensor] = _hsic_1 if unbiased else _trace
    a, b = a - a.mean(0), (b - b.mean(0)).to(a.device)  # HSIC_1 does not see the mean either, but loses digits to it
    return torch.stack([hsic(a, b), hsic(a, a), hsic(b, b)])


def _trace(a: Tensor, b: Tensor) -> Tensor:
    """``tr(K L)``, by the features or by the Gram matrices, whichever are smaller."""
    if a.shape[1] * b.shape[1] <= len(a) ** 2:
        return (a.T @ b).square().sum()
    return ((a @ a.T) * (b @ b.T)).sum()


def _hsic_1(a: Tensor, b: Tensor) -> Tensor:
    """HSIC_1, without forming a Gram matrix that the features do not need."""
    n = len(a)
    diagonals = [features.square().sum(1) for features in (a, b)]
    # K 1 is X (X^T 1); the diagonal taken off leaves the row sums of K~.
    rows = [features @ features.sum(0) - own for features, own in zip((a, b), diagonals, strict=True)]
    trace = _trace(a, b) - diagonals[0].dot(diagonals[1])
    whole = rows[0].sum() * rows[1].sum()
    return (trace + whole / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows[0].dot(rows[1])) / (n * (n - 3))


def _ratio(products: Tensor, where: str) -> float:
    xy, xx, yy = products.tolist()
    if not (xx > 0 and yy > 0):
        raise DataError(f"Expected enough samples to estimate the spread of both features, got too few{where}.")
    return float(xy / (xx * yy) ** 0.5)
