"""Whether forget and retain features fall into clusters of their own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lashley.errors import DataError
from lashley.metrics.needed import needed
from lashley.stats.inputs import Array, Labels, label_list, matrix, same_width

__all__ = ["Clustering", "clustering", "nmi", "nmi_labels"]

AVERAGES = ("arithmetic", "geometric", "min", "max", "labels")
VARIANTS = ("balanced_k2", "homogeneity_kC")


@dataclass(frozen=True)
class Clustering:
    """How well k-means tells forget from retain features, averaged over runs.

    Attributes:
        nmi: the mutual information divided by the mean of both entropies.
        homogeneity: the same divided by the entropy of the labels.
        runs: the NMI of each run.
    """

    nmi: float
    homogeneity: float
    runs: tuple[float, ...]


def nmi_labels(labels: Labels, clusters: Labels, average: str = "arithmetic") -> float:
    """``MI(labels, clusters) / mean(H(labels), H(clusters))``, natural logarithms.

    Range: [0, 1]; 1 where each says the other, names apart.

    Args:
        labels, clusters: ``[N]`` each, whole numbers or strings.
        average: of the two entropies: "arithmetic", "geometric", "min" or "max". "labels" divides by H(labels) alone,
            which is homogeneity.

    Source: scikit-learn's ``normalized_mutual_info_score`` and ``homogeneity_score``.

    Raises:
        DataError: other lengths, one label only, an unknown average, no scikit-learn.
    """
    if average not in AVERAGES:
        raise DataError(f"Expected average to be one of {', '.join(AVERAGES)}, got {average!r}.")
    own = label_list(labels, "labels")
    found = label_list(clusters, "clusters", len(own))
    if len(set(own)) < 2:
        raise DataError(f"Expected at least 2 different labels, got {len(set(own))} in {len(own)} samples.")
    metrics = needed("sklearn.metrics", "Mutual information")
    if average == "labels":
        return float(metrics.homogeneity_score(own, found))
    return float(metrics.normalized_mutual_info_score(own, found, average_method=average))


def nmi(
    forget_features: Array,
    retain_features: Array,
    *,
    seed: int = 0,
    variant: str = "balanced_k2",
    classes: int | None = None,
    runs: int = 5,
) -> float:
    """How separate forget and retain features are: NMI of the two labels with the clusters of k-means.

    Direction: the target is the retrained network's value; lower means less separate. Range: [0, 1].

    Which variant: table 2 of *AI Engram* (arXiv 2606.14997) reports the measure without number of clusters, algorithm
    or sets. "balanced_k2", our reading: as many forget as retain features, k = 2, arithmetic mean. It is the reading
    that can reach the table's .996: ten equal clusters, one of them to forget, cannot exceed .2474, and two clusters of
    unbalanced sets stay far below 1 where the forgotten class is apart from all the others but shares its cluster with
    some of them. "homogeneity_kC": all features, a cluster per class, divided by the entropy of forget against retain;
    the only other one found that can reach 1. Say which beside the number.

    Args:
        forget_features, retain_features: ``[N, D]`` of one network; the inputs of its classifier head are meant.
        seed: of samples drawn and of k-means; the caller's generators are left alone.
        variant: "balanced_k2" or "homogeneity_kC".
        classes: the number of clusters of "homogeneity_kC".
        runs: how many draws of samples and starts of k-means are averaged, because two clusters among several classes
            that are equally far apart are unstable. Each run takes the best of ten starts (k-means++).

    Raises:
        DataError: features of different widths, none or not finite, an unknown variant, classes missing or where they
            are not used, no scikit-learn.
    """
    found = clustering(forget_features, retain_features, seed=seed, variant=variant, classes=classes, runs=runs)
    return found.nmi if variant == "balanced_k2" else found.homogeneity


def clustering(
    forget_features: Array,
    retain_features: Array,
    *,
    seed: int = 0,
    variant: str = "balanced_k2",
    classes: int | None = None,
    runs: int = 5,
) -> Clustering:
    """`nmi` with homogeneity and every run beside it; arguments and errors are the same."""
    if variant not in VARIANTS:
        raise DataError(f"Expected variant to be one of {', '.join(VARIANTS)}, got {variant!r}.")
    balanced = variant == "balanced_k2"
    if balanced != (classes is None):
        raise DataError(
            'Expected classes= with variant="homogeneity_kC", the number of clusters, and only there; '
            f"got classes={classes} with {variant!r}."
        )
    if runs < 1:
        raise DataError(f"Expected at least 1 run, got {runs}.")
    pair = same_width(matrix(forget_features, "forget_features"), matrix(retain_features, "retain_features"))
    forget, retain = (features.cpu().numpy() for features in pair)
    k = 2 if classes is None else classes
    if not 2 <= k <= len(forget) + len(retain):
        raise DataError(f"Expected between 2 clusters and one per sample ({len(forget) + len(retain)}), got {k}.")
    generator = np.random.default_rng(seed)
    values, homogeneous = [], []
    for _ in range(runs):
        parts = [forget, retain]
        if balanced:
            size = min(len(forget), len(retain))
            parts = [part[generator.permutation(len(part))[:size]] for part in parts]
        labels = [1] * len(parts[0]) + [0] * len(parts[1])
        clusters = _clusters(np.concatenate(parts), k, int(generator.integers(2**31)))
        values.append(nmi_labels(labels, clusters))
        homogeneous.append(nmi_labels(labels, clusters, "labels"))
    return Clustering(sum(values) / runs, sum(homogeneous) / runs, tuple(values))


def _clusters(features: np.ndarray, k: int, seed: int) -> np.ndarray:
    # An edit can silence features until few different rows are left; those are then the clusters.
    k = min(k, _distinct(features, k))
    means = needed("sklearn.cluster", "k-means").KMeans(k, init="k-means++", n_init=10, random_state=seed)
    found: np.ndarray = means.fit_predict(features)
    return found


def _distinct(rows: np.ndarray, most: int) -> int:
    """How many different rows there are, counted no further than ``most``."""
    count = 0
    while count < most and len(rows):
        rows = rows[(rows != rows[0]).any(1)]
        count += 1
    return count
