"""Probes: scikit-learn and one sample at a time as oracles, balance, invariances, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid
from torch import Tensor

from helpers import gaussian
from lashley.errors import DataError
from lashley.metrics import Reading, head_probe, linear_probe, mlp_probe, nearest_centre
from measured import DEVICES, FORMS

PROBES = {probe.__name__: probe for probe in (linear_probe, mlp_probe, nearest_centre, head_probe)}
Data = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def digits() -> Data:
    images, labels = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    images = images / 16
    return images[:1000], labels[:1000], images[1000:], labels[1000:]


def blobs(counts: dict[Any, int], dim: int = 4, seed: int = 0, apart: float = 3.0) -> tuple[Tensor, list[Any]]:
    """Gaussian clouds around means that depend on the class only."""
    parts = [
        gaussian(count, dim, seed=1000 * seed + place) + apart * gaussian(dim, seed=place)
        for place, count in enumerate(counts.values())
    ]
    return torch.cat(parts), [label for label, count in counts.items() for _ in range(count)]


@pytest.mark.parametrize(("count", "dim"), [(300, 64), (40, 64)], ids=["tall", "wide"])
@pytest.mark.parametrize("ridge", [1e-3, 10.0])
def test_the_linear_probe_is_weighted_ridge_regression(digits: Data, count: int, dim: int, ridge: float) -> None:
    x, y, test, truth = digits
    x, y = x[:count], y[:count]
    weights = torch.tensor([1 / (10 * int((y == label).sum())) for label in y])
    mean = (weights[:, None] * x).sum(0)
    penalty = ridge * (weights[:, None] * (x - mean) ** 2).sum() / dim
    one_hot = (y[:, None] == torch.arange(10)).double()
    oracle = Ridge(alpha=penalty.item(), solver="cholesky")
    oracle.fit(x.numpy(), one_hot.numpy(), sample_weight=weights.numpy())
    predicted = torch.from_numpy(oracle.predict(test.numpy()).argmax(1))
    found = linear_probe(x, y, test, truth, ridge=ridge)
    assert torch.equal(found.predicted, predicted)
    assert found.accuracy == (predicted == truth).double().mean().item()
    assert found.recall == {label: (predicted == truth)[truth == label].double().mean().item() for label in range(10)}


def test_every_class_counts_the_same() -> None:
    x, y = blobs({"rare": 8, "common": 800}, apart=0.7)
    test, truth = blobs({"rare": 500, "common": 500}, seed=1, apart=0.7)
    codes = np.array([label == "common" for label in y])
    plain = Ridge(alpha=1e-9).fit(x.numpy(), codes)
    unbalanced = (plain.predict(test.numpy()) < 0.5)[:500].mean()
    assert unbalanced < 0.3 < 0.6 < linear_probe(x, y, test, truth).recall["rare"]
    assert mlp_probe(x, y, test, truth, epochs=5).recall["rare"] > 0.5


@pytest.mark.parametrize("probe", [linear_probe, nearest_centre])
def test_twins_of_samples_of_one_class_change_nothing(probe: Callable[..., Reading]) -> None:
    x, y = blobs({0: 30, 1: 30, 2: 30}, apart=0.5)
    test, truth = blobs({0: 50, 1: 50, 2: 50}, seed=1, apart=0.5)
    doubled = probe(torch.cat([x, x[:30]]), [*y, *y[:30]], test, truth)
    assert torch.equal(doubled.predicted, probe(x, y, test, truth).predicted)


def test_the_nearest_centre_is_the_nearest_centre(digits: Data) -> None:
    x, y, test, truth = digits
    varied = x.std(0) > 0  # the oracle warns of others
    x, test = x[:, varied], test[:, varied]
    found = nearest_centre(x, y, test, truth)
    oracle = NearestCentroid().fit(x.numpy(), y.numpy()).predict(test.numpy())
    assert torch.equal(found.predicted, torch.from_numpy(oracle))
    centres = [x[y == label].mean(0) for label in range(10)]
    one_by_one = [min(range(10), key=lambda c: float((row - centres[c]).norm())) for row in test[:50]]
    assert found.predicted[:50].tolist() == one_by_one


def test_scale_shift_and_rotation(digits: Data) -> None:
    x, y, test, truth = digits
    rotation = torch.linalg.qr(gaussian(64, 64))[0]
    for probe in (linear_probe, nearest_centre):
        moved = probe(1e3 * x @ rotation + 5, y, 1e3 * test @ rotation + 5, truth)
        assert torch.equal(moved.predicted, probe(x, y, test, truth).predicted)
    # A scale of one feature is another question to the nearest centre, and none to the network, which standardises.
    stretched = torch.ones(64, dtype=torch.float64)
    stretched[20] = 100
    assert nearest_centre(x * stretched, y, test * stretched, truth).accuracy < 0.6
    small, other = (mlp_probe(a * s, y, b * s, truth, epochs=3) for a, b, s in [(x, test, 1), (x, test, stretched)])
    assert (small.predicted == other.predicted).double().mean() > 0.99


def test_a_small_network_reads_what_no_plane_divides() -> None:
    x, test = gaussian(400, 6), gaussian(400, 6, seed=1)
    y, truth = ((part[:, 0] * part[:, 1] > 0).long() for part in (x, test))
    found = {name: probe(x, y, test, truth).accuracy for name, probe in PROBES.items()}
    assert found["mlp_probe"] > 0.85
    assert all(accuracy < 0.62 for name, accuracy in found.items() if name != "mlp_probe")


def test_digits_are_read(digits: Data) -> None:
    readings = {name: probe(*digits) for name, probe in PROBES.items()}
    assert readings["mlp_probe"].accuracy > readings["linear_probe"].accuracy > 0.85
    assert readings["nearest_centre"].accuracy > 0.85
    # The head of a few small steps has hardly moved; more of them get somewhere.
    assert readings["head_probe"].accuracy < 0.3
    assert head_probe(*digits, epochs=30, rate=3e-2).accuracy > 0.85


def test_features_without_information_are_read_at_chance() -> None:
    x, test = gaussian(600, 5), gaussian(600, 5, seed=1)
    y, truth = torch.arange(600) % 3, torch.arange(600) % 3
    for probe in PROBES.values():
        assert probe(x, y, test, truth).accuracy == pytest.approx(1 / 3, abs=0.06)


def test_an_overfit_on_the_test_samples_themselves_would_be_seen() -> None:
    """Trained on what it is tested on, the network finds labels that mean nothing: so tests use other samples."""
    x, y = gaussian(60, 40), torch.arange(60) % 3
    assert mlp_probe(x, y, x, y, epochs=100).accuracy > 0.95


@pytest.mark.parametrize("probe", [mlp_probe, head_probe])
def test_a_seed_decides_and_the_callers_generator_is_left_alone(probe: Callable[..., Reading]) -> None:
    data = (*blobs({0: 20, 1: 20, 2: 20}, apart=0.3), *blobs({0: 50, 1: 50, 2: 50}, seed=1, apart=0.3))
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = probe(*data)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.predicted, probe(*data).predicted)
    assert not torch.equal(first.predicted, probe(*data, seed=1).predicted)


MODES: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_the_callers_modes_change_nothing(probe: Callable[..., Reading], mode: Callable[[], Any]) -> None:
    (x, y), (test, truth) = blobs({0: 30, 1: 30}, apart=0.4), blobs({0: 999, 1: 999}, seed=1, apart=0.4)
    expected = probe(x, y, test, truth)
    with mode():
        found = probe(x * 1.0, y, test * 1.0, truth)
    assert torch.equal(found.predicted, expected.predicted)


LABELS: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "tensor": torch.tensor,
    "float tensor": lambda y: torch.tensor(y).half(),
    "array": np.array,
    "list of arrays' items": lambda y: list(np.array(y)),
    "list of tensors": lambda y: [torch.tensor(label) for label in y],
}


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_labels_of_any_kind(probe: Callable[..., Reading]) -> None:
    (x, y), (test, truth) = blobs({3: 20, 1: 20, 8: 20}), blobs({3: 10, 8: 10}, seed=1)
    expected = probe(x, y, test, truth)
    assert expected.classes == (1, 3, 8) and list(expected.recall) == [3, 8]
    assert set(expected.predicted.tolist()) <= {1, 3, 8}
    for own in LABELS.values():
        found = probe(x, own(y), test, own(truth))
        assert (found.recall, found.classes) == (expected.recall, expected.classes)
        assert torch.equal(found.predicted, expected.predicted)
    names = {1: "cat", 3: "dog", 8: "eel"}
    for kind in (list, np.array, lambda labels: np.array(labels, dtype=object)):
        found = probe(x, kind([names[label] for label in y]), test, kind([names[label] for label in truth]))
        assert found.recall == {names[label]: recall for label, recall in expected.recall.items()}
        assert found.classes == ("cat", "dog", "eel")
        assert [(1, 3, 8)[place] for place in found.predicted] == expected.predicted.tolist()
    known = probe(x, [label == 3 for label in y], test, [label == 3 for label in truth])
    assert list(known.recall) == [0, 1]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("probe", [linear_probe, nearest_centre, head_probe])
def test_forms(probe: Callable[..., Reading], form: str) -> None:
    (x, y), (test, truth) = blobs({0: 20, 1: 20}), blobs({0: 10, 1: 10}, seed=1)
    x, test = x.mul(8).round().div(8), test.mul(8).round().div(8)
    x, test = x.bfloat16().double(), test.bfloat16().double()
    found = probe(FORMS[form](x), y, FORMS[form](test), truth)
    assert torch.equal(found.predicted, probe(x, y, test, truth).predicted)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_devices(probe: Callable[..., Reading], device: str) -> None:
    (x, y), (test, truth) = blobs({0: 20, 1: 20}), blobs({0: 10, 1: 10}, seed=1)
    found = probe(x.to(device), torch.tensor(y, device=device), test, torch.tensor(truth))
    assert found.predicted.device.type == "cpu"
    assert torch.equal(found.predicted, probe(x, y, test, truth).predicted)


def test_of_equal_scores_the_first_class_wins() -> None:
    found = nearest_centre([[0.0], [2.0]], ["b", "a"], [[1.0]], ["a"])
    assert found == Reading(1.0, {"a": 1.0}, found.predicted, ("a", "b"))


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
@pytest.mark.parametrize(
    ("x", "y", "test", "truth", "says"),
    [
        (torch.ones(2, 3), [0, 1], torch.ones(2, 4), [0, 1], "of one network, got 3 and 4 features"),
        (gaussian(2, 3), [0, 1, 1], gaussian(2, 3), [0, 1], "got 3 in labels for 2 samples"),
        (gaussian(2, 3), [0, 1], gaussian(2, 3), [0], "got 1 in test_labels for 2 samples"),
        (gaussian(0, 3), [], gaussian(2, 3), [0, 1], "at least 1 sample in features, got 0"),
        (gaussian(2, 3), [0, 1], gaussian(0, 3), [], "at least 1 sample in test_features, got 0"),
        (gaussian(2, 3), [4, 4], gaussian(2, 3), [4, 4], "at least 2 classes to tell apart, got only 4"),
        (gaussian(2, 3), [0, 1], gaussian(2, 3), [0, 2], r"training samples have, got \[2\]; known are \[0, 1\]"),
        (gaussian(2, 3), ["a", "b"], gaussian(2, 3), [0, 1], r"got \[0, 1\]; known are \['a', 'b'\]"),
        (torch.ones(2, 3), [0, 1], gaussian(2, 3), [0, 1], "differ between samples, got one row repeated"),
        (torch.full((2, 3), torch.nan), [0, 1], gaussian(2, 3), [0, 1], "features to be finite, got 6 of 6"),
        (gaussian(2, 3), [0, 1], torch.full((2, 3), torch.inf), [0, 1], "test_features to be finite"),
        (gaussian(2, 3), [0.5, 1], gaussian(2, 3), [0, 1], "labels to be whole numbers, .* got 0.5"),
        (gaussian(2, 3), [0, float("nan")], gaussian(2, 3), [0, 1], "labels to be whole numbers, .* got nan"),
        (gaussian(2, 3), [0, "a"], gaussian(2, 3), [0, 1], "whole numbers, or all of them strings, .* got 'a'"),
        (gaussian(2, 3), torch.eye(2), gaussian(2, 3), [0, 1], r"labels to be whole numbers, .* got \[1.0, 0.0\]"),
    ],
)
def test_refused(probe: Callable[..., Reading], x: Any, y: Any, test: Any, truth: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        probe(x, y, test, truth)


@pytest.mark.parametrize(
    ("probe", "option", "says"),
    [
        (linear_probe, {"ridge": 0}, "ridge above 0, got 0"),
        (mlp_probe, {"hidden": 0}, "hidden above 0, got 0"),
        (mlp_probe, {"epochs": 0}, "epochs above 0"),
        (mlp_probe, {"rate": -1}, "rate above 0, got -1"),
        (head_probe, {"batch_size": 0}, "batch_size above 0"),
    ],
)
def test_refused_settings(probe: Callable[..., Reading], option: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        probe(gaussian(2, 3), [0, 1], gaussian(2, 3), [0, 1], **option)
