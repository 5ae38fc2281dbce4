"""What holds for every estimator: the same files, edges, engrams, edits and receipts."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lashley
from cases import square
from editing import state
from helpers import assert_close, assert_near, gaussian
from lashley import Cut, Kodge, Leace, MeanDirection, MixtureShift, NullSpace, Projection, Ridge
from lashley.errors import SolveError
from lashley.estimators import Estimator, OffsetEstimator, SiteMoments, Solution
from lashley.moments import Moment
from lashley.spectrum import Factor
from lashley.studies import digits
from sites import concepts, edited, site, together

ESTIMATORS: dict[str, Estimator] = {
    "paper": Projection(),
    "sharpened": Projection(2.0),
    "ridge": Ridge(1.0),
    "kodge": Kodge(),
    "leace": Leace(missing_bias="fold"),
    "leace separate": Leace(True, Cut(rank=5), missing_bias="add"),
    "mean direction": MeanDirection(),
    "mixture": MixtureShift(min_r2=0),
    "mixture by weights": MixtureShift({"a": 0.25, "d": 0.75}, min_r2=0, missing_bias="add"),
    "null space": NullSpace(0.1, 0.1),
}
each = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)


@each
def test_settings_come_back_from_json(estimator):
    again = Estimator.from_json(json.loads(json.dumps(estimator.to_json(), allow_nan=False)))
    assert again == estimator and hash(again) == hash(estimator) and type(again) is type(estimator)
    assert pickle.loads(pickle.dumps(estimator)) == copy.deepcopy(estimator) == estimator
    assert repr(again) == repr(estimator)
    assert sum(estimator == other for other in ESTIMATORS.values()) == 1


@each
def test_solutions_come_back_from_json(estimator):
    solution = estimator.operator(site(concepts(), "b", augmented=True)).solution
    assert Solution.from_json(json.loads(json.dumps(solution.to_json(), allow_nan=False))) == solution
    assert (solution.target_rows, solution.reference_rows) == (50, 220)
    assert (solution.gate is not None) == isinstance(estimator, MixtureShift)
    assert 0 < solution.rank <= 8


@pytest.mark.parametrize("wrong", [1e-3, None, "1e-3"])
@pytest.mark.parametrize("make", [Projection, Leace, MixtureShift])
def test_a_cut_is_a_cut(make, wrong):
    with pytest.raises(SolveError, match=r"cut to be a lashley.Cut(.|\n)*Write Cut\(rtol=...\)"):
        make(cut=wrong)


@each
@pytest.mark.parametrize("augmented", [False, True])
def test_thin_and_square_moments_make_one_operator(estimator, augmented):
    rows = concepts((3, 4, 2, 4))
    given = site(rows, "b", augmented=augmented)
    assert all(moment.thin for moment in given.concepts.values())
    held = {name: square(x) for name, x in rows.items()}
    reference = Factor(square(together(rows)), augmented)
    other = SiteMoments(held["b"], reference, True, ("b",), held, given.retained)
    assert_near(other_dense := estimator.operator(other).dense(), estimator.operator(given).dense(), rel=1e-6)
    assert other_dense.abs().max() > 1e-3


@each
@pytest.mark.parametrize("augmented", [False, True])
def test_a_target_without_rows_is_nothing(estimator, augmented):
    rows = {**concepts(), "none": torch.zeros(0, 7, dtype=torch.float64)}
    operator = estimator.operator(site(rows, "none", augmented=augmented))
    dim = 7 + (augmented or isinstance(estimator, OffsetEstimator))
    assert_close(operator.dense(), torch.zeros(dim, dim))
    left, right = operator.apply(gaussian(3, dim))
    assert left.shape[0] == 3 and right.shape[1] == dim


@each
def test_a_target_of_zeros_is_finite(estimator):
    """As behind a ReLU that never fires."""
    for rows in (concepts(), concepts((60, 3, 40, 70))):
        rows["b"] = torch.zeros_like(rows["b"])
        assert torch.isfinite(estimator.operator(site(rows, "b")).dense()).all()


@each
def test_one_concept_alone(estimator):
    given = site({"b": concepts()["b"]}, "b")
    if isinstance(estimator, MixtureShift):
        with pytest.raises(SolveError, match="Expected another concept"):
            estimator.operator(given)
    else:
        assert torch.isfinite(estimator.operator(given).dense()).all()


@each
def test_one_column(estimator):
    operator = estimator.operator(site(concepts((9, 8, 7, 9), dim=1), "b"))
    assert operator.dense().shape[0] == 1 + isinstance(estimator, OffsetEstimator)
    assert torch.isfinite(operator.dense()).all()


@each
def test_columns_that_are_empty_constant_or_there_twice(estimator):
    rows = {name: torch.cat([x, x[:, :1], 0 * x[:, :1], 0 * x[:, :1] + 2], 1) for name, x in concepts().items()}
    operator = estimator.operator(site(rows, "b"))
    assert torch.isfinite(operator.dense()).all()
    after = edited(together(rows), operator)
    assert_close(after[:, 0], after[:, 7], atol=1e-6)
    assert_close(after[:, 8], 0 * after[:, 8], atol=1e-9)


@each
def test_overlapping_concepts(estimator):
    x, labels = gaussian(200, 5) * torch.logspace(0, -1, 5), gaussian(200, 3, seed=1) > 0.3
    moments = {name: Moment.of(x[labels[:, k]]) for k, name in enumerate("abd")}
    given = SiteMoments(moments["b"], Factor(Moment.of(x)), True, ("b",), moments, ("a", "d"), exclusive=False)
    if isinstance(estimator, MixtureShift):
        with pytest.raises(SolveError, match="exclusive concepts"):
            estimator.operator(given)
    else:
        operator = estimator.operator(given).dense()
        assert torch.isfinite(operator).all() and operator.abs().max() > 0.01


@each
def test_only_the_references_concepts_count(estimator):
    """A concept outside of the reference is as if it had not been recorded."""
    rows = concepts((60, 50, 40, 70, 45))
    without = {name: x for name, x in rows.items() if name != "e"}
    given, wanted = (estimator.operator(site(r, "b", reference="abcd")).dense() for r in (rows, without))
    assert_close(given, wanted, atol=1e-12)
    everything = estimator.operator(site(rows, "b")).dense()
    assert (everything - wanted).abs().max() > 1e-6


# The same engrams, edits, receipts and files, on a network that reads digits


@pytest.fixture(scope="module")
def subject() -> tuple[Any, digits.Digits, lashley.Recording]:
    network = digits.NETWORKS[1]
    data = digits.load(0).shaped(network.image)
    model = digits.train(network, data, 6, 0)
    recording = lashley.record(
        model, data.batches(), lambda batch: batch[1], concept_names=[str(d) for d in range(10)], dtype=torch.float64
    )
    return model, data, recording


def of_images(digit: int, subject: Any) -> dict[str, float]:
    model, data, _ = subject
    return lashley.lookalikes(model, [data.train_images[data.train_labels == digit]], exclude=digit)


# Estimator, the layers it is for, and how much of the digit may be left and how many points the others may lose.
SETTINGS: dict[str, tuple[Callable[[Any], Estimator], list[str] | None, float, float]] = {
    "paper": (lambda s: Projection(), None, 0.2, 0.05),
    "sharpened": (lambda s: Projection(2.0), None, 0.2, 0.02),
    "ridge": (lambda s: Ridge(1.0), None, 0.2, 0.05),
    "kodge": (lambda s: Kodge(), None, 0.2, 0.02),
    "leace": (lambda s: Leace(), ["readout"], 0.2, 0.02),
    "leace folded": (lambda s: Leace(missing_bias="fold"), ["conv3", "readout"], 0.2, 0.03),
    "leace added": (lambda s: Leace(missing_bias="add"), ["conv3", "readout"], 0.2, 0.03),
    "mixture": (lambda s: MixtureShift(of_images(3, s)), ["readout"], 0.05, 0.02),
    "mixture folded": (lambda s: MixtureShift(of_images(3, s), missing_bias="fold"), ["conv3"], 0.2, 0.02),
    "mean direction": (lambda s: MeanDirection(), None, 0.1, 0.02),
    "null space": (lambda s: NullSpace(1e-2), ["readout"], 0.5, 0.02),
}


@pytest.mark.parametrize(("make", "layers", "left", "lost"), SETTINGS.values(), ids=SETTINGS)
def test_a_digit_is_taken_out_and_put_back(subject, make, layers, left, lost, tmp_path):
    model, data, recording = subject
    engram = recording.engram(model, "3", estimator=make(subject), layers=layers)
    before, start = state(model), torch.tensor(digits.per_digit(model, data))
    assert start.mean() > 0.95
    engram.save(tmp_path / "engram")
    loaded = lashley.Engram.load(tmp_path / "engram")
    assert loaded.estimator == engram.estimator == make(subject)
    for strength in (1.0, lashley.strength.uniform(), lashley.strength.weight_norm()):
        with lashley.ablated(model, loaded, strength) as receipt:
            after = torch.tensor(digits.per_digit(model, data))
            assert receipt.base_matches and receipt.changed == tuple(layers or recording.layers)
            assert all(change.error < 1e-3 for change in receipt.layers.values())
            json.dumps(receipt.to_dict(), allow_nan=False)
        assert state(model) == before
        if strength == 1.0:
            assert after[3] <= left
            others = (start - after)[torch.arange(10) != 3]
            assert others.mean() <= lost
    copied = lashley.ablate(model, engram)
    assert state(model) == before
    with lashley.ablated(model, engram):
        assert digits.checksum(copied) == digits.checksum(model)
    receipt = lashley.inject_(copied, engram)  # back, but for rounding
    assert receipt.base_matches is False
    assert torch.tensor(digits.per_digit(copied, data)).allclose(start, atol=1e-6)
    norms = engram.weight_norms()
    assert list(norms) == list(layers or recording.layers) and all(0 < n < 10 for n in norms.values())


@each
def test_the_low_rank_ones_are_factors(estimator):
    """In layers with a bias and without one; what comes of them is the dense delta."""
    model = nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 5, bias=False)).double()
    recording = lashley.record(model, {name: [x] for name, x in concepts().items()})
    if getattr(estimator, "missing_bias", "") == "fold":
        estimator = Leace(missing_bias="add")
    if isinstance(estimator, MixtureShift):
        estimator = MixtureShift(estimator.weights, 0, missing_bias="add")
    engram = recording.engram(model, "b", estimator=estimator)
    for name, delta in engram.items():
        few = isinstance(estimator, OffsetEstimator | MeanDirection)
        assert (delta.factors is not None) == few
        assert (delta.bias is not None) == (name == "0" or isinstance(estimator, OffsetEstimator))
        if delta.factors is not None:
            a, b = delta.factors
            assert a.shape[1] == b.shape[0] == 1
            assert_near(a @ b, delta.weight, rel=1e-12)
    x = together(concepts())
    first = model[0]
    given = site(concepts(), "b", augmented=True)
    operator = estimator.operator(given).dense()
    weight = torch.cat([first.weight, first.bias[:, None]], 1).detach()
    wanted = weight @ (torch.eye(8, dtype=x.dtype) - operator)
    with torch.no_grad():
        response = lashley.ablate(model, engram)[0](x)
    assert_close(response, x @ wanted[:, :7].T + wanted[:, 7], atol=1e-7)


def test_an_embedding_is_refused_by_estimators_without_a_form_for_it():
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(11, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.words(x))

    model = Words()
    words = {name: [torch.randint(0, 11, (60, 3))] for name in "ab"}
    recording = lashley.record(model, words, target_modules=["words", "head"])
    for estimator in (Kodge(), MeanDirection(), NullSpace()):
        with pytest.raises(SolveError, match="At site 'words': Expected an estimator with a form for embeddings"):
            recording.engram(model, "a", estimator=estimator)
        assert list(recording.engram(model, "a", estimator=estimator, layers=["head"])) == ["head"]
    for missing in ("refuse", "add", "fold"):
        with pytest.raises(SolveError, match="'words'"):
            recording.engram(model, "a", estimator=Leace(missing_bias=missing))
