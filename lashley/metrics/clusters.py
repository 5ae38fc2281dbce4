"""Whether forget and retain features fall into clusters of their own."""

from __future__ import annotations

from lashley.errors import DataError
from lashley.stats.inputs import Array, Labels, label_list, matrix

__all__ = ["nmi", "nmi_labels"]


def nmi_labels(labels: Labels, clusters: Labels, average: str = "arithmetic") -> float:
    from sklearn.metrics import homogeneity_score, normalized_mutual_info_score

    own = label_list(labels, "labels")
    found = label_list(clusters, "clusters", len(own))
    if average == "labels":
        return float(homogeneity_score(own, found))
    return float(normalized_mutual_info_score(own, found, average_method=average))


def nmi(forget_features: Array, retain_features: Array, *, seed: int = 0) -> float:
    import numpy as np
    from sklearn.cluster import KMeans

    forget, retain = matrix(forget_features, "forget_features"), matrix(retain_features, "retain_features")
    if forget.shape[1] != retain.shape[1]:
        raise DataError(
            f"Expected features of one network, got {forget.shape[1]} and {retain.shape[1]} features a sample."
        )
    values = []
    for number in range(5):
        generator = np.random.default_rng(seed + number)
        size = min(len(forget), len(retain))
        a, b = (x.cpu().numpy()[generator.permutation(len(x))[:size]] for x in (forget, retain))
        clusters = KMeans(2, n_init=10, random_state=seed + number).fit_predict(np.concatenate([a, b]))
        values.append(nmi_labels([1] * size + [0] * size, clusters))
    return sum(values) / len(values)
