"""Membership inference: does a network treat what it was to forget as it treats what it never saw?

Legend: ``p [N, C]`` softmax probabilities of the evaluated network, ``y`` the true labels, ``p_y`` the probability of
the true label.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from lashley.errors import DataError
from lashley.metrics.needed import needed
from lashley.stats.inputs import Array, Labels, label_list, matrix, numbers

__all__ = ["membership_attack", "membership_features", "mia_efficacies", "mia_efficacy"]

Told: TypeAlias = tuple[Array, Labels]

FEATURES = (
    "correctness",
    "confidence",
    "entropy",
    "modified_entropy",
    "probabilities",
    "modified_entropy_legacy",
)
_TINY = 1e-30  # below it a logarithm is that of this, as in the published code
_ROUNDING = 1e-2  # how far the sum of a row may be from 1: that of 1000 classes in bfloat16


def mia_efficacy(
    members: Told, non_members: Told, forget: Told, *, feature: str = "confidence", class_matched: bool = False
) -> float:
    """The share of the forget samples that an attack takes for samples the network was not trained on.

    Direction: the target is the retrained network's value, which need not be 1; report the gap to it. Range: [0, 1].

    The attack is that of SalUn's code: ``SVC(C=3, kernel="rbf", gamma=1/n_features)`` trained to tell members from
    non-members by one set of features of what the network says about them. Three parts, each ``(probabilities,
    labels)`` with ``[N, C]`` softmax probabilities of the evaluated network and N labels, which are columns of them:

    Args:
        members: training samples to keep. Of more than there are non-members the first are used, in their order.
        non_members: the test set.
        forget: the training samples to forget.
        feature: "correctness" ``1[argmax p = y]``, "confidence" ``p_y`` (SalUn's table), "entropy" ``-sum_j p_j ln
            p_j``, "modified_entropy" ``-(1 - p_y) ln p_y - sum_{j != y} p_j ln(1 - p_j)`` (Song and Mittal 2021),
            "probabilities" (all of p), or "modified_entropy_legacy", see `membership_features`.
        class_matched: non-members only of classes that the forget samples have. With the whole test set the forgotten
            class is among the non-members, and any network that gives it no probability reaches 1 by confidence, a
            retrained one too.

    Source: Fan et al. 2024 (SalUn), ``SVC_MIA``.

    Raises:
        DataError: no sample in a part, values outside [0, 1] or rows that do not sum to 1, labels that are not columns,
            other numbers of classes, an unknown feature, no scikit-learn.
    """
    if feature not in FEATURES:
        raise DataError(f"Expected feature to be one of {', '.join(FEATURES)}, got {feature!r}.")
    return _efficacies(members, non_members, forget, (feature,), class_matched)[feature]


def mia_efficacies(members: Told, non_members: Told, forget: Told, *, class_matched: bool = False) -> dict[str, float]:
    """`mia_efficacy` of each of the five sets of features (the legacy entropy is left out)."""
    return _efficacies(members, non_members, forget, FEATURES[:5], class_matched)


def membership_features(probabilities: Array, labels: Labels) -> dict[str, Tensor]:
    """What the attack looks at, by the names of `mia_efficacy`: ``[N]`` each and ``[N, C]`` for "probabilities".

    "modified_entropy_legacy" repeats the published code of SalUn and its copies, for comparison with their tables: it
    takes ``ln p`` where ``ln(1 - p)`` is meant and changes the columns of *all* the labels in every row, so that a
    sample's value depends on the others.

    Raises:
        DataError: values outside [0, 1] or rows that do not sum to 1, labels that are not columns.
    """
    p = matrix(probabilities, "probabilities")
    told = label_list(labels, "labels", len(p))
    wrong = [label for label in told if not isinstance(label, int) or not 0 <= label < p.shape[1]]
    if wrong:
        raise DataError(f"Expected labels to be columns of the probabilities, 0 to {p.shape[1] - 1}, got {wrong[0]!r}.")
    if bool(((p < 0) | (p > 1)).any()) or bool(((p.sum(1) - 1).abs() > _ROUNDING).any()):
        raise DataError(
            "Expected probabilities in [0, 1] with rows that sum to 1, got values from "
            f"{p.min():.3g} to {p.max():.3g} and sums from {p.sum(1).min():.3g} to {p.sum(1).max():.3g}. "
            "Take the softmax of logits first."
        )
    rows, y = torch.arange(len(p), device=p.device), torch.tensor(told, device=p.device)
    own = p[rows, y]
    others = p * (1 - p).clamp(min=_TINY).log()
    others[rows, y] = 0
    flipped = p.clone()
    flipped[:, y] = 1 - p[:, y]
    return {
        "correctness": (p.argmax(1) == y).to(p),
        "confidence": own,
        "entropy": torch.special.entr(p).sum(1),
        "modified_entropy": -(1 - own) * own.clamp(min=_TINY).log() - others.sum(1),
        "probabilities": p,
        "modified_entropy_legacy": -(flipped * p.clamp(min=_TINY).log()).sum(1),
    }


def membership_attack(members: Array, non_members: Array, targets: Array) -> float:
    """The share of targets that an SVC trained on members and non-members calls non-members.

    Args:
        members, non_members, targets: any features, ``[N]`` or ``[N, d]``.

    Range, source and errors as `mia_efficacy`.
    """
    x, other, wanted = (
        _columns(part, name)
        for part, name in ((members, "members"), (non_members, "non_members"), (targets, "targets"))
    )
    if not x.shape[1] == other.shape[1] == wanted.shape[1]:
        raise DataError(
            f"Expected as many features in every part, got {x.shape[1]}, {other.shape[1]} and {wanted.shape[1]}."
        )
    svc = needed("sklearn.svm", "The membership attack").SVC(C=3, kernel="rbf", gamma="auto")
    svc.fit(torch.cat([x, other]).numpy(), [1] * len(x) + [0] * len(other))
    return 1 - float(svc.predict(wanted.numpy()).mean())


def _columns(values: Array, name: str) -> Tensor:
    tensor = numbers(values, name).cpu()
    return matrix(tensor[:, None] if tensor.ndim == 1 else tensor, name)


def _efficacies(
    members: Told, non_members: Told, forget: Told, features: tuple[str, ...], class_matched: bool
) -> dict[str, float]:
    if class_matched:
        p = numbers(non_members[0], "probabilities of non_members")
        told = label_list(non_members[1], "labels of non_members", len(p))
        wanted = set(label_list(forget[1], "labels of forget"))
        kept = [place for place, label in enumerate(told) if label in wanted]
        if not kept:
            raise DataError(f"Expected non-members of the classes to forget, {sorted(wanted, key=str)}, got none.")
        non_members = p[kept], [told[place] for place in kept]
    count = len(non_members[0])
    members = members[0][:count], label_list(members[1], "labels of members", len(members[0]))[:count]
    parts = [membership_features(*part) for part in (members, non_members, forget)]
    return {feature: membership_attack(*(part[feature] for part in parts)) for feature in features}
