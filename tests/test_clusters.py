"""NMI of labels and of features: exact vectors, an oracle by counting, bounds, variants, what is refused."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from helpers import gaussian
from lashley.errors import DataError
from lashley.metrics import Clustering, clustering, mia_efficacy, nmi, nmi_labels, over_seeds
from measured import EXACT, FORMS, VECTORS

LABELS, CLUSTERS = VECTORS["nmi_labels"]["labels"], VECTORS["nmi_labels"]["clusters"]


@pytest.mark.parametrize(
    ("average", "name"), [("arithmetic", "arithmetic"), ("geometric", "geometric"), ("labels", "over_labels")]
)
def test_exact_vectors(average: str, name: str) -> None:
    assert nmi_labels(LABELS, CLUSTERS, average) == pytest.approx(VECTORS["nmi_labels"][name], abs=EXACT)


def test_exact_bounds_of_unbalanced_sets() -> None:
    ten = [cluster for cluster in range(10) for _ in range(10)]
    tenth = nmi_labels([1] * 10 + [0] * 90, ten)
    assert tenth == pytest.approx(VECTORS["nmi_tenth_of_ten_clusters"], abs=EXACT)
    split = nmi_labels([1] * 10 + [0] * 90, [0] * 40 + [1] * 60)
    assert split == pytest.approx(VECTORS["nmi_ten_and_thirty_of_ninety"], abs=EXACT)
    balanced = nmi_labels([1] * 30 + [0] * 30, [0] * 40 + [1] * 20)
    assert balanced == pytest.approx(VECTORS["nmi_thirty_and_ten_of_thirty"], abs=EXACT)


def entropy(values: list[Any]) -> float:
    return -sum(count / len(values) * math.log(count / len(values)) for count in Counter(values).values())


@pytest.mark.parametrize("seed", range(5))
def test_against_counting(seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    labels, clusters = (torch.randint(most, (30,), generator=draws).tolist() for most in (2, 4))
    h, g = entropy(labels), entropy(clusters)
    information = h + g - entropy(list(zip(labels, clusters, strict=True)))
    divisors = {"arithmetic": (h + g) / 2, "geometric": (h * g) ** 0.5, "min": min(h, g), "max": max(h, g), "labels": h}
    for average, divisor in divisors.items():
        assert nmi_labels(labels, clusters, average) == pytest.approx(information / divisor, abs=1e-12)
    assert nmi_labels(labels, clusters) == nmi_labels([-x for x in labels], [f"c{x}" for x in clusters])
    assert nmi_labels(labels, labels) == pytest.approx(1)
    assert nmi_labels(labels, [7] * 30) == 0


@pytest.mark.parametrize("own", [list, torch.tensor, np.array, lambda y: [str(label) for label in y]])
def test_labels_of_any_kind(own: Callable[[list[int]], Any]) -> None:
    assert nmi_labels(own(LABELS), own(CLUSTERS)) == pytest.approx(VECTORS["nmi_labels"]["arithmetic"], abs=EXACT)


def test_exact_features() -> None:
    vector = VECTORS["nmi"]
    for seed in range(3):
        assert nmi(vector["forget"], vector["retain"], seed=seed) == pytest.approx(vector["value"], abs=EXACT)


def classes(forget: int = 100, retain: int = 900, apart: float = 8.0) -> tuple[Tensor, Tensor]:
    """Ten clouds at the corners of a simplex, the first to forget: all of them equally far apart."""
    corners = apart * torch.eye(10, dtype=torch.float64)
    own = corners[torch.arange(retain) % 9 + 1]
    return gaussian(forget, 10) + corners[0], gaussian(retain, 10, seed=1) + own


def test_a_class_apart_is_seen_by_balanced_pairs_and_not_by_unbalanced_ones() -> None:
    forget, retain = classes(apart=4.0)
    forget = forget + 20  # far from all others, which are near each other
    found = clustering(forget, retain)
    assert found == Clustering(pytest.approx(1), pytest.approx(1), pytest.approx((1.0,) * 5))
    assert nmi(forget, retain) == found.nmi
    forget, retain = classes()
    assert nmi(forget, retain, variant="homogeneity_kC", classes=10) == pytest.approx(1)
    ten = clustering(forget, retain, variant="homogeneity_kC", classes=10)
    assert ten.nmi == pytest.approx(VECTORS["nmi_tenth_of_ten_clusters"], abs=1e-6)
    assert ten.homogeneity == pytest.approx(1)


def test_features_of_one_cloud_are_not_separate() -> None:
    assert nmi(gaussian(100, 5), gaussian(300, 5, seed=1)) < 0.05
    assert nmi(gaussian(100, 5), gaussian(300, 5, seed=1), variant="homogeneity_kC", classes=5) < 0.05


def test_the_larger_set_is_drawn_down_whichever_it_is() -> None:
    forget, retain = classes(forget=40, retain=400)
    away = retain + 50
    assert nmi(forget, away) == nmi(away, forget) == pytest.approx(1)
    forget, retain = classes()
    unbalanced = clustering(forget, retain, variant="homogeneity_kC", classes=2).nmi
    assert unbalanced < 0.4 < 0.6 < nmi(forget, retain)


def test_a_seed_decides_runs_are_averaged_and_the_callers_generator_is_left_alone() -> None:
    forget, retain = classes(apart=3.0)
    np.random.seed(5)
    state = np.random.get_state()[1].tolist()  # type: ignore[index]
    first = clustering(forget, retain, seed=1)
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index]
    assert first == clustering(forget, retain, seed=1)
    other = clustering(forget, retain, seed=2)
    assert first.runs[1:] != other.runs[:-1]  # the runs of a seed are not those of the next one, moved by one
    assert first.nmi == pytest.approx(sum(first.runs) / 5) and len(set(first.runs)) > 1
    assert clustering(forget, retain, seed=1, runs=2).runs == first.runs[:2]


def test_every_run_is_the_best_of_ten_starts() -> None:
    cloud = gaussian(200, 8)
    labels = [1] * 80 + [0] * 120
    found = clustering(cloud[:80], cloud[80:], variant="homogeneity_kC", classes=6, runs=3)
    draws = np.random.default_rng(0)
    states = [int(draws.integers(2**31)) for _ in range(3)]
    ten, one = (
        [nmi_labels(labels, KMeans(6, n_init=starts, random_state=s).fit_predict(cloud.numpy())) for s in states]
        for starts in (10, 1)
    )
    assert found.runs == pytest.approx(ten)
    assert len(set(ten)) > 1 and ten != pytest.approx(one)


def test_silenced_features_are_not_separate() -> None:
    """An edit that silences everything leaves fewer different rows than clusters."""
    assert nmi(torch.zeros(5, 3), torch.zeros(9, 3)) == 0
    assert nmi(torch.zeros(5, 3), torch.zeros(9, 3), variant="homogeneity_kC", classes=4) == 0
    assert nmi(torch.zeros(5, 3), torch.ones(9, 3), variant="homogeneity_kC", classes=4) == pytest.approx(1)


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str) -> None:
    vector = VECTORS["nmi"]
    forget, retain = (FORMS[form](torch.tensor(vector[part]).double()) for part in ("forget", "retain"))
    assert nmi(forget, retain) == pytest.approx(vector["value"], abs=EXACT)


@pytest.mark.parametrize(
    ("labels", "clusters", "average", "says"),
    [
        ([0, 1], [0, 1, 1], "arithmetic", "got 3 in clusters for 2 samples"),
        ([], [], "arithmetic", "at least 2 different labels, got 0 in 0 samples"),
        ([1, 1], [0, 1], "arithmetic", "at least 2 different labels, got 1 in 2 samples"),
        ([0, 1], [0, 1], "mean", "average to be one of arithmetic, geometric, min, max, labels, got 'mean'"),
        ([0, float("nan")], [0, 1], "arithmetic", "labels to be whole numbers, .* got nan"),
    ],
)
def test_refused_labels(labels: Any, clusters: Any, average: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        nmi_labels(labels, clusters, average)


@pytest.mark.parametrize(
    ("forget", "retain", "options", "says"),
    [
        (gaussian(3, 4), gaussian(3, 5), {}, "of one network, got 4 and 5 features"),
        (gaussian(0, 4), gaussian(3, 4), {}, "at least 1 sample in forget_features"),
        (gaussian(3, 4), gaussian(0, 4), {}, "at least 1 sample in retain_features"),
        (gaussian(3, 4), torch.full((3, 4), torch.nan), {}, "retain_features to be finite"),
        (gaussian(3, 4), gaussian(3, 4), {"variant": "k2"}, "one of balanced_k2, homogeneity_kC, got 'k2'"),
        (gaussian(3, 4), gaussian(3, 4), {"classes": 3}, "and only there; got classes=3 with 'balanced_k2'"),
        (gaussian(3, 4), gaussian(3, 4), {"variant": "homogeneity_kC"}, "classes= with .* got classes=None"),
        (gaussian(3, 4), gaussian(3, 4), {"variant": "homogeneity_kC", "classes": 1}, r"one per sample \(6\), got 1"),
        (gaussian(3, 4), gaussian(3, 4), {"variant": "homogeneity_kC", "classes": 7}, r"one per sample \(6\), got 7"),
        (gaussian(3, 4), gaussian(3, 4), {"runs": 0}, "at least 1 run, got 0"),
    ],
)
def test_refused_features(forget: Tensor, retain: Tensor, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        nmi(forget, retain, **options)


SOFT = ([[0.9, 0.1], [0.2, 0.8]], [0, 1])


@pytest.mark.parametrize(
    ("module", "says", "call"),
    [
        ("sklearn.metrics", "Mutual information", lambda: nmi_labels([0, 1], [0, 1])),
        ("sklearn.cluster", "k-means", lambda: nmi(gaussian(3, 2), gaussian(3, 2))),
        ("sklearn.svm", "The membership attack", lambda: mia_efficacy(SOFT, SOFT, SOFT)),
        ("scipy.stats", "Student's t", lambda: over_seeds(lambda a, b: a + b, {0: 1, 1: 2}, {0: 1, 1: 2})),
    ],
)
def test_a_missing_library_is_named_with_the_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, says: str, call: Callable[[], float]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"{says} takes scikit-learn \(.*{module}.*\): pip install 'lashley\[metrics\]'"
    with pytest.raises(DataError, match=message):
        call()


def test_the_measures_load_without_scikit_learn() -> None:
    code = "import lashley.metrics, sys; assert not {'sklearn', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
