"""LEACE against the formula of its paper, row by row, against the authors' package, and against what it promises."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import lashley
from helpers import assert_close, assert_near, gaussian, relative_error
from lashley import Cut, Leace
from lashley.estimators import SiteMoments
from lashley.moments import Moment, pool
from lashley.spectrum import Factor
from sites import Rows, concepts, edited, explained, members, ones, site, together

SIZES = {"square": (60, 50, 40, 70), "thin": (60, 3, 40, 70), "few rows": (2, 2, 1, 1)}


def from_the_paper(rows: Rows, *targets: tuple[str, ...], rtol: float = 1e-12) -> tuple[Tensor, Tensor]:
    """A and m of theorem 4.3, with square roots, from the rows themselves."""
    x = together(rows)
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    kept = values > rtol * values[-1]
    vectors, root = vectors[:, kept], values[kept].sqrt()
    half, inverse = vectors * root @ vectors.T, vectors / root @ vectors.T
    cross = torch.stack([(x - mean).T @ (members(rows, *t) - members(rows, *t).mean()) / len(x) for t in targets], 1)
    u, s, _ = torch.linalg.svd(inverse @ cross, full_matrices=False)
    u = u[:, s > 1e-8 * s[0]]
    return half @ u @ u.T @ inverse, mean


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("target", [("b",), ("b", "d")])
def test_a_concept_against_the_rest(sizes, target, augmented):
    rows = concepts(sizes)
    operator = Leace(cut=Cut(rtol=1e-12)).operator(site(rows, *target, augmented=augmented))
    a, mean = from_the_paper(rows, target)
    assert operator.dense().shape == (8, 8)  # always with a place for the offset
    assert_near(operator.dense()[:7, :7], a, rel=1e-9)
    assert_near(operator.dense()[:7, 7], -a @ mean, rel=1e-9)
    assert not operator.dense()[7].any()
    assert operator.low_rank and operator.left.shape[1] == 1


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_several_concepts_each_on_its_own(sizes):
    rows = concepts(sizes)
    operator = Leace(separate=True, cut=Cut(rtol=1e-12)).operator(site(rows, "b", "d"))
    a, _ = from_the_paper(rows, ("b",), ("d",))
    assert_near(operator.dense()[:7, :7], a, rel=1e-9)
    assert operator.left.shape[1] == 2
    pooled = Leace(cut=Cut(rtol=1e-12)).operator(site(rows, "b", "d"))
    assert relative_error(pooled.dense(), operator.dense()) > 1e-2


def package(rows: Rows, labels: Tensor) -> Tensor:
    """The rows as the authors' package erases them, its regularisations off."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it is written with torch.jit.script
        from concept_erasure import LeaceFitter
    x = together(rows)
    fitter = LeaceFitter(
        x.shape[1], labels.shape[1], dtype=x.dtype, shrinkage=False, constrain_cov_trace=False, svd_tol=1e-12
    )
    return fitter.update(x, labels).eraser(x)


@pytest.mark.parametrize(("dim", "sizes"), [(7, (60, 50, 40, 70)), (30, (200, 90, 8, 150))], ids=["narrow", "wide"])
def test_the_authors_package_does_the_same(dim, sizes):
    rows = concepts(sizes, dim)
    x = together(rows)
    one = package(rows, members(rows, "c")[:, None])
    assert_near(edited(x, Leace().operator(site(rows, "c"))), one, rel=1e-10)
    several = package(rows, torch.stack([members(rows, name) for name in "bcd"], 1))
    assert_near(edited(x, Leace(separate=True).operator(site(rows, "b", "c", "d"))), several, rel=1e-10)
    assert relative_error(one, several) > 1e-2
    assert relative_error(one, x) > 1e-2


@pytest.mark.parametrize("separate", [False, True])
def test_afterwards_no_affine_reader_beats_the_constant(separate):
    rows = concepts()
    x = together(rows)
    after = edited(x, Leace(separate).operator(site(rows, "b", "d")))
    assert explained(x, members(rows, "b", "d")) > 0.3
    assert explained(after, members(rows, "b", "d")) < 1e-12
    assert_close(after.mean(0), x.mean(0), atol=1e-12)
    for name in "bd":
        assert (explained(after, members(rows, name)) < 1e-12) == separate
    assert explained(after, members(rows, "c")) > 0.3


def test_no_smaller_change_does_that():
    """Among the projections that kill the covariance with membership, any other one moves the rows further."""
    rows = concepts()
    x = together(rows)
    centred = x - x.mean(0)
    least = (edited(x, Leace().operator(site(rows, "b"))) - x).square().sum()
    sig = centred.T @ members(rows, "b")
    for seed in range(5):
        reader = torch.linalg.solve(centred.T @ centred, sig) + 1e-2 * gaussian(7, seed=seed)
        other = torch.outer(sig, reader) / (reader @ sig)
        assert (centred @ other.T).square().sum() > least
        assert explained(x - centred @ other.T, members(rows, "b")) < 1e-12


def test_concepts_that_may_overlap():
    x, labels = gaussian(200, 5), gaussian(200, 2, seed=1) > 0.3
    x[:, :2] += 2 * labels
    moments = {name: Moment.of(x[labels[:, k]]) for k, name in enumerate("ab")}
    overlapping = SiteMoments(
        target=pool(moments.values()), reference=Factor(Moment.of(x)), contained=False, names=("a", "b"),
        concepts=moments, retained=(), exclusive=False,
    )  # fmt: skip
    after = edited(x, Leace(separate=True).operator(overlapping))
    for k in range(2):
        assert explained(x, labels[:, k].double()) > 0.3
        assert explained(after, labels[:, k].double()) < 1e-12


def test_directions_that_hold_nothing_stay_out():
    """A constant column, one that is twice, and one that never fires, as behind a ReLU."""
    rows = {name: torch.cat([x, x[:, :1], 0 * x[:, :2] + 3], 1) for name, x in concepts().items()}
    operator = Leace().operator(site(rows, "b"))
    assert operator.solution.rank == 7
    after = edited(together(rows), operator)
    assert explained(after, members(rows, "b")) < 1e-12
    assert_close(after[:, 0], after[:, 7], atol=1e-9)
    assert_close(after[:, 8:], 3 + torch.zeros(220, 2), atol=1e-9)


def test_nothing_to_find_is_nothing_to_take():
    rows = {**concepts(), "none": torch.zeros(0, 7, dtype=torch.float64)}
    everything = tuple("abcd")
    for separate, target in ((False, ("none",)), (False, everything), (True, ("none",))):
        operator = Leace(separate).operator(site(rows, *target))
        assert operator.left.shape == (8, 0) and not operator.dense().any()
    # All concepts on their own depend on one another: three ranks are all there is.
    operator = Leace(separate=True).operator(site(rows, *everything))
    assert operator.left.shape == (8, 3)
    assert max(explained(edited(together(rows), operator), members(rows, name)) for name in "abcd") < 1e-12


def test_a_single_column_is_levelled():
    rows = concepts(dim=1)
    operator = Leace().operator(site(rows, "b"))
    assert_close(edited(together(rows), operator), together(rows).mean().expand(220, 1), atol=1e-12)


def test_a_reference_without_the_target_sends_its_mean_to_the_reference():
    rows = concepts()
    operator = Leace().operator(site(rows, "b", reference="acd"))
    after = edited(rows["b"], operator).mean(0)
    assert_close(after, together(rows, "a", "c", "d").mean(0), atol=1e-10)


def test_the_noise_of_a_centred_moment_counts_what_was_taken_off():
    """Of float32 products around a far mean little is left; of exact ones everything."""
    for offset, dtype, near in ((0.0, torch.float32, False), (300.0, torch.float32, True), (300.0, None, False)):
        rows = {name: Moment.of(x + offset, dtype=dtype) for name, x in concepts().items()}
        moments = SiteMoments(rows["b"], Factor(pool(rows.values())), True, ("b",), rows, ("a", "c", "d"))
        assert Leace(cut=Cut(rtol=1e-3)).operator(moments).solution.near_noise == near


class Net(nn.Module):
    """A convolution, BatchNorm and a linear layer; ``deep`` is the layer that is edited."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(5)
        self.deep = nn.Conv2d(5, 6, 3, bias=False)
        self.behind = nn.BatchNorm2d(6)
        self.wide = nn.Linear(6 * 16, 9)
        self.head = nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu()
        x = self.behind(self.deep(x)).relu()
        return self.head(self.wide(x.flatten(1)).relu())


@pytest.mark.parametrize(
    ("layer", "reads", "missing"),
    [("deep", "deep", "add"), ("deep", "behind", "add"), ("deep", "behind", "fold"), ("wide", "wide", "refuse")],
)
def test_no_linear_reader_of_an_edited_layer_of_a_network(layer, reads, missing):
    """Through the layer's own output, for every row that was recorded."""
    torch.manual_seed(1)
    model = Net().double()
    with torch.no_grad():
        for norm in (model.norm, model.behind):
            norm.running_mean.copy_(gaussian(len(norm.running_mean)))
    shift = {"a": (0.0, 0.0), "b": (1.0, 0.0), "c": (0.0, 1.0)}
    data = {n: [gaussian(120, 2, 6, 6, seed=ord(n)) + torch.tensor(shift[n])[:, None, None]] for n in shift}
    model.eval()
    recording = lashley.record(model, data)
    engram = recording.engram(model, "b", estimator=Leace(missing_bias=missing), layers=[layer])
    found = {}

    def response(network: nn.Module) -> tuple[Tensor, Tensor]:
        module = network.get_submodule(reads)
        handle = module.register_forward_hook(lambda m, args, out: found.update(out=out))
        parts = []
        with torch.no_grad():
            for batches in data.values():
                network(batches[0])
                out = found["out"]
                parts.append((out.movedim(1, -1) if out.dim() == 4 else out).flatten(0, -2))
        handle.remove()
        labels = torch.cat([torch.full((len(p),), float(k == 1), dtype=p.dtype) for k, p in enumerate(parts)])
        return torch.cat(parts), labels

    assert explained(*response(model)) > 0.05
    with lashley.ablated(model, engram):
        assert explained(*response(model)) < 1e-12
    with lashley.ablated(model, engram, 0.5):  # a half of it is not it
        assert explained(*response(model)) > 1e-3


def test_the_rows_seen_by_the_edited_weight_are_the_erased_ones():
    rows = concepts()
    layer = nn.Linear(7, 4).double()
    model = nn.Sequential(layer)
    recording = lashley.record(model, {name: [x] for name, x in rows.items()})
    engram = recording.engram(model, "b", estimator=Leace())
    a, mean = from_the_paper(rows, ("b",))
    with torch.no_grad():
        x = together(rows)
        wanted = layer(x - (x - mean) @ a.T)
        assert_near(lashley.ablate(model, engram)(x), wanted, rel=1e-10)
    assert engram["0"].factors is not None
    assert_close(engram["0"].bias, -(layer.weight @ a @ mean).detach(), atol=1e-9)
    assert ones(x).shape == (220, 8)
