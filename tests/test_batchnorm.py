"""BatchNorm statistics after an edit: the exact ones, nothing else touched, and accuracy that comes back."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lashley
from editing import engram_of, randomised, raw, state
from helpers import assert_close, assert_near, gaussian
from lashley import recalibrate_batchnorm_
from lashley.errors import DataError, LashleyError, ModelError, RecordingError

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def deep(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Two BatchNorms, one behind the other, with statistics that fit nothing."""
    model = nn.Sequential(nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv1d(4, 2, 2))
    model.append(nn.BatchNorm1d(2, momentum=0.3))
    model = randomised(model, dtype)
    for norm in (model[1], model[5]):
        norm.running_mean.fill_(7.0)
        norm.running_var.fill_(5.0)
        norm.num_batches_tracked.fill_(99)
    return model.eval()


def batches(*sizes: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return list((3 * gaussian(sum(sizes), 3, 6, seed=seed) + 1).to(dtype).split(sizes))


def exact(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of every channel over all samples and positions."""
    rows = values.double().movedim(1, -1).flatten(0, -2)
    return rows.mean(0), rows.var(0, unbiased=True)


def statistics(norm: nn.Module) -> list[object]:
    return [raw(getattr(norm, name)) for name in STATISTICS]


# The statistics.


@pytest.mark.parametrize("sizes", [(24,), (8, 8, 8), (20, 4), (2, 19, 3)], ids=str)
@pytest.mark.parametrize(
    ("norm", "shape"),
    [(nn.BatchNorm1d(3), ()), (nn.BatchNorm1d(3), (5,)), (nn.BatchNorm2d(3), (4, 2)), (nn.BatchNorm3d(3), (2, 3, 2))],
    ids=lambda v: str(v),
)
def test_the_statistics_are_those_of_all_values_however_they_are_split(norm, shape, sizes):
    model = nn.Sequential(norm).double()
    x = 100 + gaussian(24, 3, *shape)
    recalibrate_batchnorm_(model, x.split(sizes))
    mean, variance = exact(x)
    assert_close(norm.running_mean, mean, rtol=1e-13)
    assert_close(norm.running_var, variance, rtol=1e-11)
    assert norm.num_batches_tracked == len(sizes)


def test_batches_that_differ_from_each_other_add_to_the_variance():
    """Sorted data, one concept a batch: the mean of the batches' variances would miss how far apart they are."""
    model = nn.Sequential(nn.BatchNorm1d(3)).double()
    parts = [gaussian(10, 3), gaussian(10, 3, seed=1) + 50]
    recalibrate_batchnorm_(model, parts)
    assert_close(model[0].running_var, exact(torch.cat(parts))[1], rtol=1e-12)
    assert model[0].running_var.min() > 500


def test_a_deeper_norm_sees_what_the_first_makes_of_each_batch():
    model = deep()
    data = batches(5, 9, 4)
    recalibrate_batchnorm_(model, data)
    middle = [model[0](x) for x in data]
    assert_near(model[1].running_mean, exact(torch.cat(middle))[0].detach(), rel=1e-12)
    normalised = []
    for x in middle:  # by its own mean and variance, as in training; without dropout
        mean, variance = x.mean((0, 2), keepdim=True), x.var((0, 2), unbiased=False, keepdim=True)
        weight, bias = model[1].weight[:, None], model[1].bias[:, None]
        normalised.append(((x - mean) / (variance + model[1].eps).sqrt() * weight + bias).relu())
    mean, variance = exact(torch.cat([model[4](x) for x in normalised]).detach())
    assert_near(model[5].running_mean, mean, rel=1e-12)
    assert_near(model[5].running_var, variance, rel=1e-12)


def test_a_short_last_batch_counts_for_what_it_is():
    model = nn.Sequential(nn.BatchNorm1d(1)).double()
    recalibrate_batchnorm_(model, [torch.zeros(8, 1).double(), torch.ones(2, 1).double()])
    assert model[0].running_mean.item() == pytest.approx(0.2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_small_types_lose_nothing_while_batches_are_gathered(dtype):
    model = nn.Sequential(nn.BatchNorm1d(3)).to(dtype)
    x = (10 + gaussian(400, 3)).to(dtype)
    recalibrate_batchnorm_(model, x.split(4))
    for got, expected in zip((model[0].running_mean, model[0].running_var), exact(x), strict=True):
        assert got.dtype == dtype
        assert_close(got, expected, rtol=1.01 * torch.finfo(dtype).eps)


def test_a_norm_called_twice_has_the_values_of_both_calls():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x) + self.norm(input=2 * x + 5)

    model = Twice().double()
    x = gaussian(12, 3)
    recalibrate_batchnorm_(model, x.split(6))
    assert_close(model.norm.running_mean, exact(torch.cat([x, 2 * x + 5]))[0], rtol=1e-12)
    assert model.norm.num_batches_tracked == 4


@pytest.mark.parametrize("momentum", [0.1, None, 1.0, 0.0])
def test_the_momentum_neither_matters_nor_changes(momentum):
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=momentum)).double()
    x = gaussian(12, 3)
    recalibrate_batchnorm_(model, x.split(5))
    assert model[0].momentum == momentum
    assert_close(model[0].running_var, exact(x)[1], rtol=1e-12)


def test_norms_without_statistics_of_their_own_are_passed_over():
    model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.BatchNorm1d(3, affine=False)).double()
    model[1].num_batches_tracked = None
    recalibrate_batchnorm_(model, gaussian(12, 3).split(6))
    assert model[0].running_mean is None and model[1].num_batches_tracked is None
    assert model[1].running_mean.abs().max() < 1e-12


def test_a_model_without_parameters_is_recalibrated():
    model = nn.Sequential(nn.BatchNorm1d(3, affine=False)).double()
    recalibrate_batchnorm_(model, gaussian(12, 3).split(6))
    assert_close(model[0].running_var, exact(gaussian(12, 3))[1], rtol=1e-12)


# Nothing else.


def test_nothing_but_the_statistics_changes():
    model = deep()
    model.train()
    model[1].eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.register_buffer("constant", torch.ones(2))
    before, random = state(model), torch.get_rng_state()
    recalibrate_batchnorm_(model, batches(6, 6))
    after = state(model)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {f"{norm}.{name}" for norm in ("1", "5") for name in STATISTICS}
    assert all(after[name][0] == before[name][0] for name in changed)  # the same buffers, written to
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    ("data", "forward"),
    [
        (lambda x: x, None),
        (lambda x: [(part, "label") for part in x], None),
        (lambda x: [{"input": part} for part in x], None),
        (lambda x: (part for part in x), None),
        (lambda x: [{"picture": part} for part in x], lambda model, batch: model(batch["picture"])),
    ],
    ids=["tensors", "tuples", "mappings", "generator", "forward"],
)
def test_batches_of_every_form(data, forward):
    model, same = deep(), deep()
    recalibrate_batchnorm_(model, batches(6, 6))
    recalibrate_batchnorm_(same, data(batches(6, 6)), forward)
    assert [statistics(same[i]) for i in (1, 5)] == [statistics(model[i]) for i in (1, 5)]


def test_wrappers_are_seen_through():
    model, same = deep(), deep()
    recalibrate_batchnorm_(model, batches(6, 6))
    recalibrate_batchnorm_(torch.compile(same, backend="eager"), batches(6, 6))
    assert statistics(same[5]) == statistics(model[5])


class Auxiliary(nn.Module):
    """A norm that is reached in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.extra = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.extra(self.main(x)) if self.training else self.main(x)


def test_a_norm_that_no_batch_reaches_keeps_its_statistics():
    model = Auxiliary().double().eval()
    model.extra.running_mean.fill_(7.0)
    before = statistics(model.extra)
    recalibrate_batchnorm_(model, gaussian(12, 3).split(6))
    assert statistics(model.extra) == before
    assert model.main.num_batches_tracked == 2


# Refusals. The statistics are as they were after each.


def failing_later():
    yield from batches(6, 6)
    raise KeyboardInterrupt("stop")


REFUSED = [
    (lambda: [], DataError, "at least one batch, got none"),
    (lambda: iter([]), DataError, "at least one batch, got none. A generator that was read before is empty"),
    (lambda: batches(6)[0], DataError, "got a bare Tensor of shape"),
    (lambda: {"input": batches(6)[0]}, DataError, "got a single mapping with keys .'input'.. Wrap it in a list"),
    (lambda: 3, DataError, "an iterable of batches, got int"),
    (lambda: [3], DataError, "Expected a batch to be a tensor"),
    (lambda: [*batches(6), torch.full((6, 3, 6), math.nan).double()], RecordingError, "nan or inf in BatchNorm '1'"),
    (lambda: [*batches(6), torch.full((6, 3, 6), math.inf).double()], RecordingError, "nan or inf in BatchNorm '1'"),
    (
        lambda: [*batches(6), torch.ones(1, 3, 3).double()],
        DataError,
        "two values per channel in every batch, got 1 at BatchNorm '5'",
    ),
    (lambda: [1e200 * batch for batch in batches(6, 6)], RecordingError, "nan or inf in BatchNorm '1'"),  # its square
    (failing_later, KeyboardInterrupt, "stop"),
]


@pytest.mark.parametrize(("data", "error", "says"), REFUSED, ids=lambda v: v if isinstance(v, str) else "")
def test_what_cannot_be_used_leaves_the_model_as_it_was(data, error, says):
    model = deep()
    before = state(model)
    with pytest.raises(error, match=says) as caught:
        recalibrate_batchnorm_(model, data())
    assert state(model) == before
    assert isinstance(caught.value, LashleyError) or error is KeyboardInterrupt


@pytest.mark.parametrize(
    "model",
    [nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False))],
    ids=["layer norm", "no statistics"],
)
def test_a_model_without_statistics_is_refused(model):
    with pytest.raises(ModelError, match="Expected a model with BatchNorm running statistics, got one without"):
        recalibrate_batchnorm_(model, [torch.randn(4, 3)])


def test_batches_that_reach_no_norm_are_refused():
    model = deep()
    before = state(model)
    with pytest.raises(RecordingError, match="the batches to reach BatchNorm, got no call of 1, 5. Check forward="):
        recalibrate_batchnorm_(model, batches(6), lambda model, batch: model[0](batch))
    assert state(model) == before


# After an edit.


def test_an_edit_that_only_rescales_is_undone_entirely():
    """Half of every convolution's weight taken out: what follows BatchNorm is then the same again."""
    model = deep()
    data = batches(30, 30)
    recalibrate_batchnorm_(model, data)
    x = batches(8, seed=9)[0]
    engram = engram_of(model, bias=False)
    for name, delta in engram.items():
        delta.weight.copy_(model.get_submodule(name).weight.detach() / 2)
    with torch.no_grad():
        expected = model(x)
        edited = lashley.ablate(model, engram)
        assert (edited(x) - expected).norm() > 0.3 * expected.norm()
        recalibrate_batchnorm_(edited, data)
        assert_near(edited(x), expected, rel=1e-4)  # BatchNorm's eps is not rescaled


def test_accuracy_on_what_is_kept_comes_back_on_real_digits():
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images))
    x = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)[order]
    y = torch.tensor(labels)[order]
    model = nn.Sequential(
        *(nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.Conv2d(12, 24, 3, stride=2, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(24 * 9, 10)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(4):
        for chosen in torch.randperm(1300).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
    model.eval()
    even = y % 2 == 0
    kept = x[1300:][~even[1300:]], y[1300:][~even[1300:]]
    gone = x[1300:][even[1300:]], y[1300:][even[1300:]]

    @torch.no_grad()
    def accuracy(network: nn.Module, part: tuple[Tensor, Tensor]) -> float:
        return (network(part[0]).argmax(1) == part[1]).float().mean().item()

    recording = lashley.record(model, {str(d): [x[:1300][y[:1300] == d]] for d in range(10)}, progress=False)
    edited = lashley.ablate(model, recording.engram(model, ["0", "2", "4", "6", "8"]))
    before, fallen = accuracy(model, kept), accuracy(edited, kept)
    recalibrate_batchnorm_(edited, x[:1300][~even[:1300]].split(256))
    recovered = accuracy(edited, kept)
    assert before > 0.95 and fallen < before - 0.2 and recovered > before - 0.05
    assert accuracy(edited, gone) < 0.2
