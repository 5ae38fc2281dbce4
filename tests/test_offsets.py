"""The constant part of an edit in layers without a bias: refused, added as a bias, folded into BatchNorm."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lashley
from editing import state
from helpers import assert_close, assert_near, gaussian
from lashley import Leace, MixtureShift, Projection
from lashley.edit.offsets import Fold
from lashley.errors import EditError, LashleyError, SolveError

NAMES = ("a", "b", "c")


class Net(nn.Module):
    """A Conv2d, a grouped Conv2d and a Linear without a bias, each read by a BatchNorm, and a Linear with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, groups=2, bias=False)
        self.norm2 = nn.BatchNorm2d(6)
        self.linear = nn.Linear(6 * 4, 8, bias=False)
        self.norm3 = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        x = self.norm2(self.conv2(x)).relu()
        return self.head(self.norm3(self.linear(x.flatten(1))).relu())


BARE = ["conv1", "conv2", "linear"]


def ready(model: nn.Module, seed: int = 0) -> Any:
    """In float64 and evaluation mode, its weights and statistics random."""
    model = model.double().eval()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            noise = gaussian(*parameter.shape, seed=seed + number)
            parameter.copy_(2 * noise / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 1 + 0.3 * noise)
        for number, module in enumerate(model.modules()):
            if getattr(module, "running_mean", None) is not None:
                module.running_mean.copy_(gaussian(len(module.running_mean), seed=number))
                module.running_var.copy_(gaussian(len(module.running_var), seed=number).square() + 0.5)
    return model


def data(*shape: int) -> dict[str, list[Tensor]]:
    """Three concepts, each around an input of its own."""
    return {
        name: [gaussian(60, *shape, seed=10 + k) + 1.5 * gaussian(*shape, seed=20 + k)] for k, name in enumerate(NAMES)
    }


def net() -> tuple[Any, lashley.Recording]:
    model = ready(Net())
    return model, lashley.record(model, data(2, 4, 4))


class Moved(nn.Module):
    """What an edit of a layer should compute: the layer's own output, of rows that were moved, and plus a constant."""

    def __init__(self, layer: nn.Module, delta: Any, alpha: float) -> None:
        super().__init__()
        self.layer, self.delta, self.alpha = layer, delta, alpha

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x)
        if isinstance(self.layer, nn.Conv2d):
            taken = F.conv2d(x, self.delta.weight, None, padding=self.layer.padding, groups=self.layer.groups)
            return z - self.alpha * (taken + self.delta.bias[:, None, None])
        return z - self.alpha * (x @ self.delta.weight.T + self.delta.bias)


def moved(engram: lashley.Engram, alpha: float) -> Any:
    """The network with every edited layer replaced by what the edit should make of it."""
    model = net()[0]
    for name, delta in engram.items():
        setattr(model, name, Moved(getattr(model, name), delta, alpha))
    return model


# What is solved


def test_without_being_told_layers_without_a_bias_are_refused_and_named():
    model, recording = net()
    with pytest.raises(SolveError) as caught:
        recording.engram(model, "b", estimator=Leace())
    for part in ("'conv1', 'conv2', 'linear'", 'missing_bias="add"', '"fold"', "layers=['head']", "by which Leace"):
        assert part in str(caught.value)
    assert list(recording.engram(model, "b", estimator=Leace(), layers=["head"])) == ["head"]
    with pytest.raises(SolveError, match="in 'conv1'(.|\n)*or choose another estimator"):
        recording.engram(model, "b", estimator=Leace(), layers=["conv1"])


def test_a_recording_without_biases_is_no_matter_where_all_layers_have_one():
    model = ready(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)))
    recording = lashley.record(model, data(4))
    wanted = recording.engram(model, "b", estimator=Leace())
    for missing in ("add", "fold"):
        engram = recording.engram(model, "b", estimator=Leace(missing_bias=missing))
        for name, delta in engram.items():
            assert_close(delta.weight, wanted[name].weight)
            assert_close(delta.bias, wanted[name].bias)
            assert delta.fold == ""


def test_biases_that_may_not_be_touched_are_refused():
    model, recording = net()
    with pytest.raises(SolveError, match="Expected bias=True with MixtureShift(.|\n)*such as Kodge"):
        recording.engram(model, "b", estimator=MixtureShift(), bias=False, layers=["head"])


@pytest.mark.parametrize("missing", ["add", "fold"])
def test_the_offset_is_that_of_the_mean_row(missing):
    """-W A m, with A from the rows of the layer's own input."""
    model, recording = net()
    engram = recording.engram(model, "b", estimator=Leace(missing_bias=missing))
    for name in BARE:
        layer, delta = engram[name].layer, engram[name]
        assert not layer.bias and delta.bias.shape == (layer.matrices * layer.out,)
        assert delta.fold == (
            {"conv1": "norm1", "conv2": "norm2", "linear": "norm3"}[name] if missing == "fold" else ""
        )
        taken = layer.matrix(delta.weight)
        for m, moment in enumerate(recording.moments(None, name)):
            assert_near(layer.biases(delta.bias)[m], -taken[m] @ moment.sum / moment.count, rel=1e-9)
    assert engram["head"].fold == ""


def test_a_difference_of_weights_has_an_offset_too():
    model, recording = net()
    blank = net()[0]
    with torch.no_grad():
        for parameter in blank.parameters():
            parameter.zero_()
    whole = recording.engram(model, "b", estimator=Leace(missing_bias="add"))
    less = recording.engram(model, "b", base=blank, estimator=Leace(missing_bias="add"))
    for name in whole:
        assert_close(less[name].bias, whole[name].bias, atol=1e-12)
    none = recording.engram(model, "b", base=model, estimator=Leace(missing_bias="add"))
    assert not any(delta.bias.any() for delta in none.values())


# What is edited


@pytest.mark.parametrize("alpha", [1.0, 0.5, -2.0])
@pytest.mark.parametrize("missing", ["add", "fold"])
@pytest.mark.parametrize("edit", [lashley.ablate, lashley.inject])
def test_the_edited_network_computes_what_it_should(edit, missing, alpha):
    """The constant scales with alpha and takes its sign, wherever it is put."""
    model, recording = net()
    engram = recording.engram(model, "b", estimator=Leace(missing_bias=missing))
    x = gaussian(20, 2, 4, 4, seed=7)
    with torch.no_grad():
        wanted = moved(engram, alpha if edit is lashley.ablate else -alpha)(x)
        assert_close(edit(model, engram, alpha)(x), wanted, atol=1e-10)
        assert (wanted - model(x)).abs().max() > 1e-2


def test_a_new_bias_stays_after_an_edit_in_place():
    model, recording = net()
    engram = recording.engram(model, "b", estimator=Leace(missing_bias="add"))
    before = net()[0]
    model.conv1.weight.requires_grad_(False)
    receipt = lashley.ablate_(model, engram)
    assert isinstance(model.conv1.bias, nn.Parameter) and not model.conv1.bias.requires_grad
    assert isinstance(model.linear.bias, nn.Parameter) and model.linear.bias.requires_grad
    assert_close(model.conv2.bias, -engram["conv2"].bias, atol=1e-15)
    assert set(model.state_dict()) - set(before.state_dict()) == {f"{name}.bias" for name in BARE}
    assert lashley.compare(before, model).only_after == ("conv1.bias", "conv2.bias", "linear.bias")
    for name in BARE:
        assert receipt.layers[name].note == "offset in a new bias"
        assert receipt.layers[name].error < 1e-12
    assert receipt.layers["head"].note == ""
    assert "offset in a new bias" in str(receipt) and "new bias" in json.dumps(receipt.to_dict())
    for norm in ("norm1", "norm2", "norm3"):
        assert_close(model.get_submodule(norm).running_mean, before.get_submodule(norm).running_mean)
    # With the bias there, the next edit changes it, and nothing is new.
    again = lashley.inject_(model, engram)
    assert all(change.note == "" for change in again.layers.values())
    assert model.conv1.bias.abs().max() < 1e-15


def test_a_folded_constant_is_in_the_running_mean():
    model, recording = net()
    engram = recording.engram(model, "b", estimator=Leace(missing_bias="fold"))
    before = net()[0]
    receipt = lashley.ablate_(model, engram, 0.5)
    assert set(model.state_dict()) == set(before.state_dict())
    for name, norm in zip(BARE, ("norm1", "norm2", "norm3"), strict=True):
        old, new = before.get_submodule(norm).running_mean, model.get_submodule(norm).running_mean
        assert_close(new, old + 0.5 * engram[name].bias, atol=1e-15)  # mean' = mean - offset, offset = -alpha E_b
        assert receipt.layers[name].note == f"offset in the running mean of {norm}"
        asked = 0.5 * torch.cat([engram[name].weight.flatten(), engram[name].bias]).norm()
        assert receipt.layers[name].asked == pytest.approx(asked.item())
        assert_close(model.get_submodule(norm).running_var, before.get_submodule(norm).running_var)
    assert model.conv1.bias is None
    changed = set(lashley.compare(before, model).changed)
    assert changed == {"conv1.weight", "conv2.weight", "linear.weight", "head.weight", "head.bias"} | {
        f"norm{k}.running_mean" for k in (1, 2, 3)
    }


def test_to_recalibrated_statistics_it_is_all_one():
    """BatchNorm takes any constant off again, wherever it was put."""
    model, recording = net()
    x = gaussian(40, 2, 4, 4, seed=7)
    answers = []
    for missing in ("add", "fold"):
        edited = lashley.ablate(model, recording.engram(model, "b", estimator=Leace(missing_bias=missing)))
        lashley.recalibrate_batchnorm_(edited, [x])
        answers.append(edited(x).detach())
    assert_close(*answers, atol=1e-9)


@pytest.mark.parametrize("missing", ["add", "fold"])
@pytest.mark.parametrize("edit", [lashley.ablated, lashley.injected])
@pytest.mark.parametrize("error", [None, RuntimeError])
def test_the_very_bytes_come_back(edit, missing, error):
    model, recording = net()
    engram = recording.engram(model, "b", estimator=Leace(missing_bias=missing))
    model.float()
    before, keys = state(model), list(model.state_dict())
    x = gaussian(5, 2, 4, 4).float()
    answer = model(x)
    try:
        with edit(model, engram, 1.5):
            assert (model(x) - answer).abs().max() > 1e-3
            with edit(model, engram, 0.5):  # a bias that the outer block added is there for the inner one
                inner = state(model)
            assert inner != before
            assert (model.conv1.bias is not None) == (missing == "add")
            if error:
                raise error
    except RuntimeError:
        assert error
    assert state(model) == before and list(model.state_dict()) == keys
    assert model.conv1.bias is None
    assert torch.equal(model(x), answer)


def test_sweeps_and_alphas_of_zero_leave_no_bias_behind():
    model, recording = net()
    engram = recording.engram(model, "b", estimator=Leace(missing_bias="add"))
    before = state(model)
    found = lashley.sweep(model, engram, [0, 1, -1], lambda m: m.conv1.bias is None)
    assert [none for _, none in found] == [True, False, False]
    assert state(model) == before
    alphas = {"conv1": 0.0, "conv2": 1.0, "linear": 0.0, "head": 0.0}
    receipt = lashley.ablate_(model, engram, alphas)
    assert model.conv1.bias is None and model.linear.bias is None and model.conv2.bias is not None
    assert receipt.layers["conv1"].note == "" and receipt.layers["conv2"].note == "offset in a new bias"
    assert receipt.changed == ("conv2",)


@pytest.mark.parametrize("missing", ["add", "fold"])
def test_copies_are_copies(missing):
    model, recording = net()
    engram = recording.engram(model, "b", estimator=Leace(missing_bias=missing))
    before = state(model)
    copy = lashley.ablate(model, engram)
    assert state(model) == before
    assert ("conv1.bias" in copy.state_dict()) == (missing == "add")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("missing", ["add", "fold"])
def test_offsets_in_every_gradient_mode(missing, mode):
    model, recording = net()
    engram = recording.engram(model, "b", estimator=Leace(missing_bias=missing))
    before = state(model)
    with mode(), lashley.ablated(model, engram):
        assert (model.conv1.bias is not None) == (missing == "add")
    assert state(model) == before


@pytest.mark.parametrize("missing", ["add", "fold"])
def test_the_algebra_keeps_the_offset(missing):
    model, recording = net()
    first, second = (recording.engram(model, n, estimator=Leace(missing_bias=missing)) for n in ("a", "b"))
    x = gaussian(20, 2, 4, 4, seed=7)
    with torch.no_grad():
        summed = lashley.ablate(model, first + 2 * second)(x)
        with lashley.ablated(model, first), lashley.ablated(model, second, 2.0):
            assert_close(summed, model(x), atol=1e-10)
        assert_close(lashley.ablate(model, 2 * first, 0.5)(x), lashley.ablate(model, first)(x), atol=1e-10)
        weighted = recording.engram(model, {"a": 1.0, "b": 2.0}, estimator=Leace(missing_bias=missing))
        assert_close(lashley.ablate(model, weighted)(x), summed, atol=1e-10)
    for name in BARE:
        assert (first + second)[name].fold == first[name].fold
        assert first.to("cpu")[name].fold == first.select([name])[name].fold == first[name].fold


def test_one_constant_goes_to_one_place():
    model, recording = net()
    added, folded = (recording.engram(model, "b", estimator=Leace(missing_bias=m)) for m in ("add", "fold"))
    with pytest.raises(EditError, match="'conv1' to go to one place(.|\n)*a bias and the running mean of 'norm1'"):
        added + folded
    # An engram without an offset goes with either.
    plain = recording.engram(model, "b", estimator=Projection())
    for one in (added, folded):
        for both in (one + plain, plain + one):
            assert both["conv1"].fold == one["conv1"].fold
            assert_close(both["conv1"].bias, one["conv1"].bias)


@pytest.mark.parametrize("missing", ["add", "fold"])
def test_recording_and_engram_files(tmp_path, missing):
    model, recording = net()
    recording.save(tmp_path / "recording")
    again = lashley.Recording.load(tmp_path / "recording")
    estimator = MixtureShift({"a": 0.25, "c": 0.75}, min_r2=0, missing_bias=missing)
    engram = again.engram(model, "b", estimator=estimator)
    engram.save(tmp_path / "engram")
    loaded = lashley.Engram.load(tmp_path / "engram")
    assert loaded.estimator == estimator
    x = gaussian(5, 2, 4, 4)
    with torch.no_grad():
        wanted = lashley.ablate(model, recording.engram(model, "b", estimator=estimator))(x)
        assert torch.equal(lashley.ablate(model, loaded)(x), wanted)
    for name in engram:
        assert (loaded[name].fold, loaded[name].solutions) == (engram[name].fold, engram[name].solutions)
        assert 0 < loaded[name].solutions[0].gate < 1


def test_merging_keeps_what_all_shards_found():
    model = ready(Net())
    one, two = (lashley.record(model, {n: [b[k::2]] for n, [b] in data(2, 4, 4).items()}) for k in range(2))
    both = lashley.merge(one, two)
    assert both._folds == one._folds == {name: Fold(f"norm{k}") for k, name in enumerate(BARE, 1)}
    two._folds["conv1"] = Fold("norm1", "something else")
    assert set(lashley.merge(one, two)._folds) == {"conv2", "linear"}


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, bias=False, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


def test_projections_of_an_attention_share_their_new_bias():
    model = ready(Attends())
    recording = lashley.record(model, data(3, 4))
    engram = recording.engram(model, "b", estimator=Leace(missing_bias="add"))
    before = state(model)
    with lashley.ablated(model, engram) as receipt:
        bias = model.attention.in_proj_bias
        assert bias.shape == (12,)
        for k, part in enumerate(("q_proj", "k_proj", "v_proj")):
            assert_close(bias[4 * k : 4 * k + 4], -engram[f"attention.{part}"].bias, atol=1e-15)
        assert_close(model.attention.out_proj.bias, -engram["attention.out_proj"].bias, atol=1e-15)
        assert {change.note for change in receipt.layers.values()} == {"offset in a new bias"}
    assert state(model) == before and model.attention.in_proj_bias is None


# Which BatchNorm


class Around(nn.Module):
    """A layer with two BatchNorms around it, called as ``how`` says."""

    def __init__(self, how: Callable[[Any, Tensor], Tensor], layer: nn.Module | None = None, **settings: Any) -> None:
        super().__init__()
        self.layer = layer if layer is not None else nn.Conv2d(2, 4, 3, padding=1, bias=False)
        kind = nn.BatchNorm1d if isinstance(layer, nn.Linear | nn.Conv1d) else nn.BatchNorm2d
        self.norm, self.other = kind(4, **settings), kind(4)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x)


def in_place(m: Any, x: Tensor) -> Tensor:
    z = m.layer(x)
    y = m.norm(z)
    return y + z.relu_()


def by_keyword(m: Any, x: Tensor) -> Tensor:
    return m.norm(input=m.layer(x))


FOUND = {
    "alone": (lambda m, x: m.norm(m.layer(x)), ""),
    "by keyword": (by_keyword, ""),
    "asked for its shape": (lambda m, x: (z := m.layer(x), z.shape, z.dim(), z.dtype, m.norm(z))[-1], ""),
    "twice": (lambda m, x: m.norm(m.layer(x)) + m.norm(m.layer(2 * x)), ""),
    "none": (lambda m, x: m.norm(m.layer(x).relu()), "no BatchNorm reads its output"),
    "none that is changed in place": (lambda m, x: m.norm(m.layer(x).mul_(2)), "no BatchNorm reads its output"),
    "a view": (lambda m, x: m.norm(m.layer(x)[:]), "no BatchNorm reads its output"),
    "several": (lambda m, x: m.norm(z := m.layer(x)) + m.other(z), "several read its output: norm, other"),
    "shortcut": (lambda m, x: m.norm(z := m.layer(x)) + z, "'norm' reads its output, and so does something else"),
    "shortcut first": (lambda m, x: (z := m.layer(x), z * 2, m.norm(z))[1:][0], "and so does something else"),
    "in a list": (lambda m, x: torch.cat([m.norm(z := m.layer(x)), z]), "and so does something else"),
    "later in place": (in_place, "and so does something else"),
    "as a function": (
        lambda m, x: m.norm(z := m.layer(x)) + F.batch_norm(z, m.other.running_mean, m.other.running_var),
        "and so does something else",
    ),
    "shared": (lambda m, x: m.norm(m.layer(x)) + m.norm(x.repeat(1, 2, 1, 1)), "and other tensors too"),
}


@pytest.mark.parametrize(("how", "obstacle"), FOUND.values(), ids=FOUND)
def test_the_batchnorm_that_alone_reads_a_layer_is_found(how, obstacle):
    model = ready(Around(how))
    before = state(model)
    recording = lashley.record(model, data(2, 4, 4))
    assert state(model) == before
    if not obstacle:
        assert recording._folds == {"layer": Fold("norm")}
        engram = recording.engram(model, "b", estimator=Leace(missing_bias="fold"))
        x = gaussian(5, 2, 4, 4)
        with torch.no_grad():
            added = recording.engram(model, "b", estimator=Leace(missing_bias="add"))
            assert_close(lashley.ablate(model, engram)(x), lashley.ablate(model, added)(x), atol=1e-12)
        return
    with pytest.raises(SolveError) as caught:
        recording.engram(model, "b", estimator=Leace(missing_bias="fold"))
    assert f"of 'layer', {obstacle}" in str(caught.value) or obstacle in str(caught.value)
    assert "of 'layer'," in str(caught.value) and 'missing_bias="add"' in str(caught.value)


def test_a_batchnorm_without_statistics_takes_nothing():
    model = ready(Around(FOUND["alone"][0], track_running_stats=False))
    recording = lashley.record(model, data(2, 4, 4))
    with pytest.raises(SolveError, match="'norm' reads its output and keeps no running statistics"):
        recording.engram(model, "b", estimator=Leace(missing_bias="fold"))


@pytest.mark.parametrize(
    ("layer", "shape", "fits"),
    [
        (nn.Linear(3, 4, bias=False), (3,), True),
        (nn.Linear(3, 4, bias=False), (4, 3), False),  # BatchNorm1d has its channels in the middle: positions
        (nn.Conv1d(3, 4, 1, bias=False), (3, 4), True),
        (nn.Conv1d(4, 4, 1, groups=2, bias=False), (4, 4), True),
        (nn.ConvTranspose2d(3, 4, 2, bias=False), (3, 3, 3), True),
    ],
)
def test_channels_must_be_the_layers_outputs(layer, shape, fits):
    model = ready(Around(FOUND["alone"][0], layer))
    recording = lashley.record(model, data(*shape))
    if fits:
        assert recording._folds == {"layer": Fold("norm")}
    else:
        assert recording._folds["layer"].obstacle.startswith("'norm' reads its output along another dim")


def test_layers_with_a_bias_and_models_without_batchnorm_are_not_watched():
    model = ready(Around(FOUND["alone"][0], nn.Conv2d(2, 4, 3, padding=1)))
    assert lashley.record(model, data(2, 4, 4))._folds == {}
    plain = ready(nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)))
    recording = lashley.record(plain, data(3))
    assert recording._folds == {}
    with pytest.raises(SolveError, match="of '0', no BatchNorm reads its output; of '2', no BatchNorm"):
        recording.engram(plain, "b", estimator=Leace(missing_bias="fold"))


# What is refused


class Scaled(nn.Linear):
    """A linear layer of one's own, whose forward knows of no bias."""

    def __init__(self) -> None:
        super().__init__(3, 4, bias=False)
        del self._parameters["bias"]
        self.bias = None

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


def test_a_layer_that_knows_no_bias_gets_none():
    model = ready(nn.Sequential(Scaled(), nn.ReLU(), nn.Linear(4, 2)))
    recording = lashley.record(model, data(3))
    with pytest.raises(SolveError, match=r"the forward knows of none in '0'(.|\n)*layers=\['2'\]"):
        recording.engram(model, "b", estimator=Leace(missing_bias="add"))
    # An engram of the same layer in a model that could have one does not get there either.
    usual = ready(nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)))
    engram = lashley.record(usual, data(3)).engram(usual, "b", estimator=Leace(missing_bias="add"))
    before = state(model)
    with pytest.raises(EditError, match="Expected layer '0' (.|\n)*to have a place for a bias"):
        lashley.ablate_(model, engram)
    assert state(model) == before


def other_norm(change: Callable[[Any], None]) -> Callable[[], Any]:
    def make() -> Any:
        model = net()[0]
        change(model)
        return model

    return make


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: setattr(m, "norm2", nn.Identity()), "'norm2' to be a BatchNorm(.|\n)*6 channels(.|\n)*got Identity"),
        (lambda m: setattr(m, "norm2", nn.BatchNorm2d(5)), "got BatchNorm2d with 5"),
        (lambda m: setattr(m, "norm2", nn.BatchNorm2d(6, track_running_stats=False)), "got BatchNorm2d with 0"),
        (lambda m: delattr(m, "norm2"), "'conv2'; got none"),
    ],
)
@pytest.mark.parametrize("edit", [lashley.ablate_, lashley.inject])
def test_an_engram_that_folds_elsewhere_is_refused_without_a_trace(change, says, edit):
    model, recording = net()
    engram = recording.engram(model, "b", estimator=Leace(missing_bias="fold"))
    model = other_norm(change)()
    before = state(model)
    with pytest.raises(EditError, match=says):
        edit(model, engram)
    assert state(model) == before


def test_a_refused_edit_takes_its_new_bias_back():
    model, recording = net()
    engram = recording.engram(model, "b", estimator=Leace(missing_bias="add"))
    before = state(model.float())
    with pytest.raises(EditError, match="finite weights"):
        lashley.ablate_(model, engram, 1e45)
    assert state(model) == before and model.conv1.bias is None


def test_a_bias_that_was_absorbed_is_not_added():
    model = ready(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
    engram = lashley.record(model, data(3)).engram(model, "b")
    bare = ready(nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU()))
    recording = lashley.record(bare, data(3))
    with pytest.raises(EditError, match="because the engram absorbed one"):
        lashley.ablate(bare, engram)
    # Not even in company of one that would add it.
    added = recording.engram(bare, "b", estimator=Leace(missing_bias="add"))
    for both in (engram + added, added + engram):
        with pytest.raises(EditError, match="because the engram absorbed one"):
            lashley.ablate(bare, both)


@pytest.mark.parametrize("estimator", [Leace, MixtureShift])
def test_an_unknown_policy_is_refused(estimator):
    with pytest.raises(LashleyError, match='missing_bias to be "refuse", "add" or "fold", got'):
        estimator(missing_bias="ignore")


# Some layers only


def test_layers_are_chosen_by_pattern():
    model, recording = net()
    whole = recording.engram(model, "b")
    for patterns, wanted in (
        (["conv1", "head"], ["conv1", "head"]),
        (["head", "conv1"], ["conv1", "head"]),
        ("conv.*", ["conv1", "conv2"]),
        (None, [*BARE, "head"]),
    ):
        engram = recording.engram(model, "b", layers=patterns)
        assert list(engram) == wanted
        for name in wanted:
            assert_close(engram[name].weight, whole[name].weight)
    with pytest.raises(LashleyError, match="layers names 'conv3'(.|\n)*'conv1'"):
        recording.engram(model, "b", layers=["conv3"])
    with pytest.raises(LashleyError, match="layers='conv'"):
        recording.engram(model, "b", layers="conv")


def test_only_the_chosen_layers_are_solved(monkeypatch):
    model, recording = net()
    solved = []
    solve = Projection.operator
    monkeypatch.setattr(Projection, "operator", lambda self, site: (solved.append(site.dim), solve(self, site))[1])
    recording.engram(model, "b", layers=["head"])
    assert solved == [9]
    # A weight that changed makes the moments of every layer those of another network; unless that is meant.
    with torch.no_grad():
        model.conv1.weight.add_(1)
    with pytest.raises(LashleyError, match="layer 'conv1'"):
        recording.engram(model, "b", layers=["head"])
    del model.conv1
    assert list(recording.engram(model, "b", layers=["head"], check=False)) == ["head"]
    rows = recording.sensitivity(model, "b", layers=["head"], check=False)
    assert {row["layer"] for row in rows} == {"head"}


def test_estimators_judge_the_whole_engram():
    model, recording = net()
    with pytest.raises(SolveError, match=r"'conv1' \(0\.(.|\n)*layers=\["):
        recording.engram(model, "b", estimator=MixtureShift(missing_bias="add", min_r2=0.3))
    with pytest.raises(SolveError, match="At site 'conv1': (.|\n)*other than the target"):
        recording.engram(model, "b", estimator=MixtureShift({"b": 1.0}, missing_bias="add"))
    both = recording.engram(model, {"a": 1.0, "b": 1.0}, estimator=MixtureShift(missing_bias="add", min_r2=0))
    for name in both:
        alone = [
            recording.engram(model, c, estimator=MixtureShift(missing_bias="add", min_r2=0))[name].solutions[0].gate
            for c in "ab"
        ]
        assert both[name].solutions[0].gate == min(alone)
    bound = max(both[name].solutions[0].gate for name in both) + 1e-6
    with pytest.raises(SolveError, match="Lower min_r2"):
        recording.engram(model, {"a": 1.0, "b": 1.0}, estimator=MixtureShift(missing_bias="add", min_r2=bound))
