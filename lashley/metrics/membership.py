"""Membership inference: does the network treat what it should have forgotten as it treats what it never saw?"""

from __future__ import annotations

import torch

from lashley.errors import DataError
from lashley.stats.inputs import Array, Labels, label_list, matrix

__all__ = ["membership_features", "mia_efficacy"]


def membership_features(probabilities: Array, labels: Labels) -> dict[str, torch.Tensor]:
    p = matrix(probabilities, "probabilities")
    y = torch.tensor(label_list(labels, "labels", len(p)), device=p.device)
    rows = torch.arange(len(p), device=p.device)
    confidence = p[rows, y]
    tiny = 1e-30
    others = p * (1 - p).clamp(min=tiny).log()
    others[rows, y] = 0
    flat = p.clamp(min=tiny).log()
    one = p.clone()
    one[:, y] = 1 - p[:, y]
    return {
        "correctness": (p.argmax(1) == y).to(p),
        "confidence": confidence,
        "entropy": torch.special.entr(p).sum(1),
        "modified_entropy": -(1 - confidence) * confidence.clamp(min=tiny).log() - others.sum(1),
        "modified_entropy_legacy": -(one * flat).sum(1),
        "probabilities": p,
    }


def mia_efficacy(
    members: tuple[Array, Labels],
    non_members: tuple[Array, Labels],
    forget: tuple[Array, Labels],
    *,
    feature: str = "confidence",
) -> float:
    from sklearn.svm import SVC

    sets = [membership_features(*part) for part in (members, non_members, forget)]
    if feature not in sets[0]:
        raise DataError(f"Expected feature to be one of {', '.join(sets[0])}, got {feature!r}.")
    x, other, target = (part[feature].reshape(len(part[feature]), -1).cpu().numpy() for part in sets)
    import numpy as np

    attack = SVC(C=3, gamma="auto", kernel="rbf").fit(np.concatenate([x, other]), [1] * len(x) + [0] * len(other))
    return float(1 - attack.predict(target).mean())
