"""What a class is taken for: shares by hand, every form of batch, and the model given back as it was."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lashley
from editing import state
from helpers import gaussian
from lashley import lookalikes
from lashley.errors import DataError, RecordingError


class Classifier(nn.Module):
    """Logits in the form that ``wrap`` gives them; dropout and BatchNorm would change them in training mode."""

    def __init__(self, wrap: Any = lambda logits: logits) -> None:
        super().__init__()
        self.norm, self.drop, self.head = nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 4)
        self.wrap = wrap

    def forward(self, x: Tensor, scale: float = 1.0) -> Any:
        return self.wrap(self.head(self.drop(self.norm(x))) * scale)


def model(wrap: Any = lambda logits: logits) -> Classifier:
    torch.manual_seed(0)
    return Classifier(wrap).double()


X = gaussian(10, 3)


def by_hand(exclude: set[int], x: Tensor = X) -> list[float]:
    """The mean over samples of exp(logit) over its sum, class by class."""
    with torch.no_grad():
        powers = model().eval()(x).exp()
    kept = [k for k in range(4) if k not in exclude]
    return [sum(float(row[k] / row[kept].sum()) for row in powers) / len(x) for k in kept]


@pytest.mark.parametrize(
    ("exclude", "names", "keys"),
    [
        (1, None, ["0", "2", "3"]),
        (np.int64(1), None, ["0", "2", "3"]),
        ("1", None, ["0", "2", "3"]),
        (1, ["cat", "dog", "cow", "emu"], ["cat", "cow", "emu"]),
        ("dog", ["cat", "dog", "cow", "emu"], ["cat", "cow", "emu"]),
        (["dog", 3], ["cat", "dog", "cow", "emu"], ["cat", "cow"]),
    ],
)
def test_the_mean_share_of_every_class_that_is_left(exclude, names, keys):
    found = lookalikes(model(), X.split(4), exclude=exclude, names=names)
    assert list(found) == keys
    assert list(found.values()) == pytest.approx(by_hand({1, 3} if len(keys) == 2 else {1}), rel=1e-12)
    assert sum(found.values()) == pytest.approx(1, abs=1e-12)


def test_every_sample_counts_once_however_they_are_batched():
    whole = lookalikes(model(), [X], exclude=0)
    assert lookalikes(model(), X.split(3), exclude=0) == pytest.approx(whole, rel=1e-12)
    assert lookalikes(model(), [X, X[:0]], exclude=0) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: (logits, "more"),
        lambda logits: [logits],
        lambda logits: {"hidden": logits * 2, "logits": logits},
        lambda logits: OrderedDict(logits=logits),
    ],
)
def test_every_form_of_batch_and_of_answer(wrap):
    wanted = pytest.approx(lookalikes(model(), [X], exclude=2), rel=1e-12)
    for batch in (X, (X, torch.zeros(10)), [X], {"x": X}):
        assert lookalikes(model(wrap), [batch], exclude=2) == wanted
    assert lookalikes(model(wrap), iter([X]), exclude=2) == wanted
    # A forward of one's own sees the batch as it is, and the model at rest.
    seen = []

    def forward(m: nn.Module, batch: Any) -> Any:
        seen.append((batch, m.training, torch.is_grad_enabled()))
        return m(batch["pixels"])

    batch = {"pixels": X}
    assert lookalikes(model(wrap), [batch], exclude=2, forward=forward) == wanted
    assert seen[0][0] is batch and seen[0][1:] == (False, False)


def test_low_precision_is_averaged_in_high():
    half = model().bfloat16().eval()
    with torch.no_grad():
        wanted = half(X.bfloat16())[:, 1:].double().softmax(1).mean(0)
    found = lookalikes(half, [X.bfloat16()], exclude=0)
    assert list(found.values()) == pytest.approx(wanted.tolist(), rel=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_given_back_as_it_was(training):
    given = model().train(training)
    given.head.weight.grad = gaussian(4, 3)
    before, random = state(given), torch.random.get_rng_state()
    lookalikes(given, [X], exclude=0)
    with pytest.raises(RecordingError):
        lookalikes(given, [X, X * float("nan")], exclude=0)
    assert state(given) == before
    assert torch.equal(random, torch.random.get_rng_state())


def test_a_compiled_model_is_seen_through():
    wanted = pytest.approx(lookalikes(model(), [X], exclude=0), rel=1e-12)
    assert lookalikes(torch.compile(model(), backend="eager"), [X], exclude=0) == wanted


def test_the_mixture_takes_it_as_it_is():
    network = nn.Sequential(nn.Linear(3, 3)).double()
    data = {name: [gaussian(30, 3, seed=k) + 2 * torch.eye(3)[k]] for k, name in enumerate("abc")}
    weights = lookalikes(network, data["a"], exclude="a", names=tuple("abc"))
    recording = lashley.record(network, data)
    engram = recording.engram(network, "a", estimator=lashley.MixtureShift(weights))
    edited = lashley.ablate(network, engram)
    with torch.no_grad():
        means = {name: network(batch).mean(0) for name, [batch] in data.items()}
        wanted = weights["b"] * means["b"] + weights["c"] * means["c"]
        assert edited(data["a"][0]).mean(0) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"exclude": 4}, "an index below 4, got 4"),
        ({"exclude": -1}, "an index below 4, got -1"),
        ({"exclude": True}, "got True"),
        ({"exclude": 1.5}, "Expected exclude"),
        ({"exclude": None}, "Expected exclude"),
        ({"exclude": "dgo", "names": ["cat", "dog", "cow", "emu"]}, "Did you mean 'dog'"),
        ({"exclude": []}, "to leave out in exclude, got none"),
        ({"exclude": [0, 1, 2, 3]}, "a class to stay"),
        ({"exclude": 0, "names": ["cat", "dog"]}, "a name for each of 4 classes, all different, got 2"),
        ({"exclude": 0, "names": ["cat", "dog", "cat", "emu"]}, "all different"),
    ],
)
def test_classes_that_are_refused(settings, says):
    with pytest.raises(DataError, match=says):
        lookalikes(model(), [X], **settings)


@pytest.mark.parametrize(
    ("batches", "says"),
    [
        (X, "got a bare Tensor"),
        ({"x": X}, "got a single mapping"),
        (3, "got int"),
        ([], "at least one sample, got none"),
        ([X[:0]], "at least one sample, got none"),
    ],
)
def test_batches_that_are_refused(batches, says):
    with pytest.raises(DataError, match=says):
        lookalikes(model(), batches, exclude=0)


@pytest.mark.parametrize(
    ("wrap", "says"),
    [
        (lambda logits: logits[:, 0], r"logits \[N, K\], got \[10\]"),
        (lambda logits: logits[None], r"got \[1, 10, 4\]"),
        (lambda logits: {"loss": logits}, "got NoneType"),
        (lambda logits: (), "got tuple"),
        (lambda logits: logits * float("nan"), "got nan in batch 0"),
        (lambda logits: logits * 0 - float("inf"), "got nan in batch 0"),
    ],
)
def test_answers_that_are_refused(wrap, says):
    with pytest.raises(RecordingError, match=says):
        lookalikes(model(wrap), [X], exclude=0)


def test_a_class_that_is_masked_gets_nothing():
    def mask(logits: Tensor) -> Tensor:
        return torch.cat([logits[:, :3], torch.full((len(logits), 1), -torch.inf, dtype=logits.dtype)], 1)

    assert lookalikes(model(mask), [X], exclude=0)["3"] == 0
