"""Membership inference: exact vectors, one sample at a time as an oracle, the published slip, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.svm import SVC
from torch import Tensor

from helpers import gaussian
from lashley.errors import DataError
from lashley.metrics import membership_attack, membership_features, mia_efficacies, mia_efficacy
from measured import DEVICES, EXACT, VECTORS

ATTACK, SCORES = VECTORS["membership_attack"], VECTORS["membership_features"]
NAMES = ["correctness", "confidence", "entropy", "modified_entropy", "probabilities"]
PARTS = ("members", "non_members", "targets")


def test_exact_attack() -> None:
    found = membership_attack(*(ATTACK[part] for part in PARTS))
    assert found == pytest.approx(ATTACK["value"], abs=EXACT)
    columns = [torch.tensor(ATTACK[part])[:, None] for part in PARTS]
    assert membership_attack(*columns) == found


@pytest.mark.parametrize("name", [name for name in SCORES if name not in ("probabilities", "labels")])
def test_exact_features(name: str) -> None:
    found = membership_features(SCORES["probabilities"], SCORES["labels"])[name]
    assert found.tolist() == pytest.approx(SCORES[name], abs=EXACT)


def soft(count: int, seed: int, sure: float = 1.0, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Probabilities of a network that is more or less sure of the true labels."""
    labels = torch.arange(count) % classes
    logits = gaussian(count, classes, seed=seed)
    logits[torch.arange(count), labels] += sure
    return logits.softmax(1), labels


def test_features_one_sample_at_a_time() -> None:
    p, labels = soft(30, 0)
    found = membership_features(p, labels)
    assert list(found) == [*NAMES, "modified_entropy_legacy"]
    for row, (chances, label) in enumerate(zip(p.tolist(), labels.tolist(), strict=True)):
        own = chances[label]
        others = [chance for place, chance in enumerate(chances) if place != label]
        expected = {
            "correctness": float(own == max(chances)),
            "confidence": own,
            "entropy": -sum(chance * math.log(chance) for chance in chances),
            "modified_entropy": -(1 - own) * math.log(own) - sum(c * math.log(1 - c) for c in others),
        }
        assert {name: found[name][row].item() for name in expected} == pytest.approx(expected)
    assert torch.equal(found["probabilities"], p)


def test_the_published_slip_depends_on_the_other_samples() -> None:
    p, labels = soft(30, 0)
    together = membership_features(p, labels)
    alone = [membership_features(p[row : row + 1], labels[row : row + 1]) for row in range(30)]
    for name in NAMES:
        assert torch.allclose(torch.cat([one[name] for one in alone]), together[name])
    legacy = torch.cat([one["modified_entropy_legacy"] for one in alone])
    assert not torch.allclose(legacy, together["modified_entropy_legacy"], atol=0.1)
    assert not torch.allclose(together["modified_entropy"], together["modified_entropy_legacy"], atol=0.1)


def test_certainty_has_finite_features() -> None:
    found = membership_features([[1.0, 0.0], [1.0, 0.0]], [0, 1])
    assert found["entropy"].tolist() == [0, 0]
    surprise = -math.log(1e-30)
    assert found["modified_entropy"].tolist() == pytest.approx([0, 2 * surprise])
    assert all(torch.isfinite(values).all() for values in found.values())


@pytest.mark.parametrize("feature", [*NAMES, "modified_entropy_legacy"])
def test_the_attack_is_an_svc_on_one_set_of_features(feature: str) -> None:
    parts = soft(60, 0, sure=3), soft(60, 1), soft(40, 2, sure=2)
    x, other, wanted = (membership_features(*part)[feature].reshape(len(part[0]), -1).numpy() for part in parts)
    svc = SVC(C=3, gamma=1 / x.shape[1], kernel="rbf").fit(np.concatenate([x, other]), [1] * 60 + [0] * 60)
    found = mia_efficacy(*parts, feature=feature)
    assert found == pytest.approx((svc.predict(wanted) == 0).mean())
    assert 0 < found < 1
    if feature in NAMES:
        assert mia_efficacies(*parts)[feature] == found


def test_it_is_high_for_what_looks_unseen_and_low_for_what_looks_learned() -> None:
    members, non_members = soft(200, 0, sure=6), soft(200, 1, sure=1)
    assert mia_efficacy(members, non_members, soft(100, 2, sure=1)) > 0.75
    assert mia_efficacy(members, non_members, soft(100, 2, sure=6)) < 0.25
    assert list(mia_efficacies(members, non_members, soft(100, 2))) == NAMES


def test_of_more_members_the_first_are_used() -> None:
    members, non_members, forget = soft(90, 0, sure=3), soft(60, 1), soft(40, 2, sure=2)
    first, last = ([part[rows] for part in members] for rows in (slice(60), slice(-60, None)))
    for feature in ("confidence", "probabilities"):
        found = mia_efficacy(members, non_members, forget, feature=feature)
        assert found == mia_efficacy(first, non_members, forget, feature=feature)
    assert found != mia_efficacy(last, non_members, forget, feature="probabilities")


def test_with_the_whole_test_set_a_forgotten_class_saturates_and_with_its_own_it_need_not() -> None:
    """A retrained network gives its unknown class little: by confidence that is as unseen as can be."""
    members = soft(300, 0, sure=6)
    kept = members[1] != 0
    members = (members[0][kept], members[1][kept])
    non_members = soft(300, 1, sure=6)
    shy = gaussian(100, 4, seed=2)
    shy[:, 0] -= 6
    forget = shy.softmax(1), torch.zeros(100, dtype=torch.long)
    unknown = non_members[1] == 0
    there = non_members[0].clone()
    there[unknown] = forget[0][:75]
    assert mia_efficacy(members, (there, non_members[1]), forget) == 1
    # Against its own class alone, half of which is as well known as the members, it is a matter of degree.
    half = there.clone()
    half[unknown] = torch.where(torch.arange(75)[:, None] % 2 == 0, non_members[0][unknown], there[unknown])
    matched = mia_efficacy(members, (half, non_members[1]), forget, class_matched=True)
    by_hand = mia_efficacy(members, (half[unknown], torch.zeros(75).long()), forget)
    assert matched == by_hand
    rows = [part[:75] for part in members]
    assert matched == mia_efficacy(rows, (half[unknown], torch.zeros(75).long()), forget)


def lists(part: tuple[Tensor, Tensor]) -> Any:
    return part[0].tolist(), part[1].tolist()


FORMS: dict[str, Callable[[tuple[Tensor, Tensor]], Any]] = {
    "lists": lists,
    "numpy": lambda part: (part[0].numpy(), part[1].numpy()),
    "numpy backwards": lambda part: (part[0].flip(0).numpy()[::-1], part[1].flip(0).numpy()[::-1]),
    "float": lambda part: (part[0].float(), part[1].int()),
    "transposed": lambda part: (part[0].T.contiguous().T, part[1]),
    "graph": lambda part: (part[0].clone().requires_grad_(), part[1].float()),
    **{f"on {device}": lambda part, device=device: (part[0].to(device), part[1]) for device in DEVICES},
}


@pytest.mark.parametrize("class_matched", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str, class_matched: bool) -> None:
    parts = soft(60, 0, sure=3), soft(60, 1), soft(40, 2, sure=2)
    expected = mia_efficacy(*parts, class_matched=class_matched)
    assert mia_efficacy(*(FORMS[form](part) for part in parts), class_matched=class_matched) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_of_a_thousand_classes_still_sums_to_one(dtype: torch.dtype) -> None:
    p = gaussian(20, 1000).to(dtype).softmax(1)
    assert membership_features(p, range(20))["confidence"].shape == (20,)


GOOD = soft(8, 0)


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ((gaussian(8, 4), GOOD[1]), r"rows that sum to 1, got values from -.* Take the softmax of logits first"),
        ((GOOD[0] / 2, GOOD[1]), "sums from 0.5 to 0.5"),
        ((GOOD[0] * 100, GOOD[1]), r"probabilities in \[0, 1\]"),
        ((GOOD[0] * torch.nan, GOOD[1]), "probabilities to be finite"),
        ((GOOD[0], GOOD[1][:7]), "got 7 in labels for 8 samples|got 7 in labels of members for 8 samples"),
        ((GOOD[0], GOOD[1] + 1), "columns of the probabilities, 0 to 3, got 4"),
        ((GOOD[0], GOOD[1] - 1), "columns of the probabilities, 0 to 3, got -1"),
        ((GOOD[0], ["cat"] * 8), "columns of the probabilities, 0 to 3, got 'cat'"),
        ((GOOD[0][:0], GOOD[1][:0]), "at least 1 sample"),
        ((GOOD[0][:, 0], GOOD[1]), r"\[samples, features\], got \[8\]"),
    ],
)
@pytest.mark.parametrize("place", range(3))
def test_refused(part: Any, says: str, place: int) -> None:
    parts: list[Any] = [GOOD, GOOD, GOOD]
    parts[place] = part
    with pytest.raises(DataError, match=says):
        mia_efficacy(*parts)


def test_refused_others() -> None:
    with pytest.raises(DataError, match="feature to be one of correctness, .*, got 'loss'"):
        mia_efficacy(GOOD, GOOD, GOOD, feature="loss")
    with pytest.raises(DataError, match="as many features in every part, got 4, 5 and 4"):
        mia_efficacy(GOOD, soft(8, 0, classes=5), GOOD, feature="probabilities")
    with pytest.raises(DataError, match=r"Expected non-members of the classes to forget, \[3\], got none"):
        mia_efficacy(GOOD, soft(8, 0, classes=3), (GOOD[0][3:4], [3]), class_matched=True)
    with pytest.raises(DataError, match="targets to be finite"):
        membership_attack([0.0], [1.0], [float("nan")])
    with pytest.raises(DataError, match="at least 1 sample in non_members"):
        membership_attack([0.0], [], [0.5])
