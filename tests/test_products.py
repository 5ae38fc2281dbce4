"""Recordings that keep products only: the paper's engram to rounding, smaller, and no answer to anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lashley
from cases import CASES, CONCEPTS, double, mlp, vectors
from helpers import assert_close, assert_near, gaussian
from lashley.errors import LashleyWarning, ModelError, MomentError, SolveError
from lashley.moments import Moment, edges
from lashley.products import Product, Products, pool_products
from lashley.shifts import Shifts

CUT = lashley.Cut(rtol=1e-6)
PAPER = lashley.Projection(cut=CUT)
TARGETS: dict[str, Any] = {"one": "a", "pooled": ["a", "c"], "weighted": {"a": 1.0, "b": -0.5}}


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return mlp(12, 10, 5).double()


def data() -> dict[str, list[Tensor]]:
    torch.manual_seed(1)
    return double(vectors(12))


def labelled(batches: dict[str, list[Tensor]]) -> list[tuple[Tensor, list[str]]]:
    """The same samples, the concepts mixed in every batch."""
    parts = zip(*batches.values(), strict=True)
    return [(torch.cat(part), [c for c, x in zip(batches, part, strict=True) for _ in x]) for part in parts]


def label_of(batch: tuple[Tensor, Any]) -> Any:
    return batch[1]


def same(one: lashley.Engram, two: lashley.Engram, rel: float) -> None:
    __tracebackhide__ = True
    assert list(one) == list(two)
    for name in one:
        assert_near(one[name].weight, two[name].weight, rel=rel)
        assert (one[name].bias is None) == (two[name].bias is None)
        if one[name].bias is not None:
            assert_near(one[name].bias, two[name].bias, rel=rel)
        for mine, theirs in zip(one[name].solutions, two[name].solutions, strict=True):
            facts = [(s.dim, s.rank, s.rtol, s.solver, s.target_rows, s.reference_rows) for s in (mine, theirs)]
            assert facts[0] == facts[1]
            assert mine.condition == theirs.condition or abs(mine.condition / theirs.condition - 1) < 1e-6


# The engram of the moments, from the products.


@pytest.mark.parametrize("name", CASES)
def test_of_a_mapping(name: str) -> None:
    net, batches = CASES[name].build()
    # A cut this low needs products in float64, also of the one site that is wide.
    full = lashley.record(net, batches, dtype=torch.float64)
    products = lashley.record(net, batches, dtype=torch.float64, keep="products")
    assert products.sites == full.sites
    for target in TARGETS.values():
        for bias in (True, False):
            of = [r.engram(net, target, bias=bias, estimator=PAPER) for r in (products, full)]
            same(*of, rel=1e-6)  # they are in float32
    for layer in full.layers:
        for mine, theirs in zip(products.moments(None, layer), full.moments(None, layer), strict=True):
            assert torch.equal(mine.augmented, theirs.augmented)


@pytest.mark.parametrize("rows", [None, lambda batch, site: batch[0].flatten(1)[:, 0] > -1], ids=["all rows", "some"])
@pytest.mark.parametrize("name", ["mlp", "mlp_no_bias", "cnn"])
def test_of_labels(name: str, rows: Any) -> None:
    net, batches = CASES[name].build()
    net, given = double(net), labelled(double(batches))
    full, products = (
        lashley.record(net, given, label_of, concept_names=CONCEPTS, rows=rows, keep=keep)
        for keep in ("moments", "products")
    )
    assert products.sites == full.sites
    for target in TARGETS.values():
        same(*(r.engram(net, target, estimator=PAPER) for r in (products, full)), rel=1e-8)


def test_of_a_mask_over_positions() -> None:
    """A convolution that is counted by shifts unfolds what a mask over positions leaves."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, groups=1)).double()
    given = [(x, torch.arange(16) % 2) for x in gaussian(4, 16, 3, 5, 5)]

    def rows(batch: Any, site: Any) -> Tensor:
        return batch[0][:, 0] > 0

    full, products = (lashley.record(net, given, label_of, rows=rows, keep=keep) for keep in ("moments", "products"))
    same(*(r.engram(net, "1", estimator=PAPER) for r in (products, full)), rel=1e-9)


def test_of_overlapping_concepts() -> None:
    net, x = model(), gaussian(240, 12)
    members = torch.stack([x[:, 0] > 0, x[:, 1] > 0, x[:, 2] > 2.2], dim=1)
    given = list(zip(x.split(50), members.split(50), strict=True))
    full, products = (
        lashley.record(net, given, label_of, concept_names=CONCEPTS, keep=keep) for keep in ("moments", "products")
    )
    assert products.overlapping
    assert products.moment(None, "0").count == 240
    for concept in CONCEPTS:
        same(*(r.engram(net, concept, estimator=PAPER) for r in (products, full)), rel=1e-9)
    with pytest.warns(LashleyWarning, match="Concepts may overlap here"):
        pooled = [r.engram(net, ["a", "b"], estimator=PAPER) for r in (products, full)]
    same(*pooled, rel=1e-9)


def test_layers_that_share_a_site_with_and_without_a_bias() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two, self.three = nn.Linear(6, 4), nn.Linear(6, 3, bias=False), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> list[Tensor]:
            return [self.one(x), self.two(x), self.three(x)]

    net = Shared().double()
    batches = {c: [gaussian(30, 6, seed=n) + n] for n, c in enumerate(CONCEPTS)}
    full = lashley.record(net, batches)
    for given, of in ((batches, None), (labelled(batches), label_of)):
        products = lashley.record(net, given, of, keep="products")
        assert [site.layers for site in products.sites] == [("one", "two", "three")]
        assert products._moments[0]["a"][0].matrix.shape == (9, 6)
        same(*(r.engram(net, "b", estimator=PAPER) for r in (products, full)), rel=1e-10)


def test_an_embedding_keeps_its_diagonal() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 3)).double()
    ids = torch.randint(0, 9, (80, 4))
    by_concept: dict[str, Any] = {"a": [ids[:30]], "b": [ids[30:60], ids[60:]]}
    mixed = [
        (x, [("a", "b")[int(i >= 30)] for i in n])
        for x, n in zip(ids.split(20), torch.arange(80).split(20), strict=True)
    ]
    full = lashley.record(net, by_concept, target_modules=["0", "1"])
    for given, of in ((by_concept, None), (mixed, label_of)):
        products = lashley.record(net, given, of, target_modules=["0", "1"], keep="products")
        for target in ("a", ["a", "b"]):
            same(*(r.engram(net, target, estimator=PAPER) for r in (products, full)), rel=1e-10)
        assert torch.equal(products.moment("a", "0").sum, full.moment("a", "0").sum)


def test_in_float32_the_rounding_is_that_of_float32_products() -> None:
    net, batches = CASES["mlp_wide"].build()[0], vectors(264, rows=200)
    cut = lashley.Projection(cut=lashley.Cut(rtol=1e-2))
    full = lashley.record(net, batches)
    for given, of in ((batches, None), (labelled(batches), label_of)):
        products = lashley.record(net, given, of, keep="products")
        assert products._moments[0]["a"][0].product == torch.float32
        same(*(r.engram(net, "a", estimator=cut) for r in (products, full)), rel=1e-4)
        exact = lashley.record(net, given, of, keep="products", dtype=torch.float64)
        assert exact._moments[0]["a"][0].product == torch.float64


def test_everything_is_the_weight() -> None:
    net = model()
    for given, of in ((data(), None), (labelled(data()), label_of)):
        engram = lashley.record(net, given, of, keep="products").engram(net, list(CONCEPTS))
        for name, delta in engram.items():
            assert_near(delta.weight, net.get_submodule(name).weight.detach(), rel=1e-8)
            assert_near(delta.bias, net.get_submodule(name).bias.detach(), rel=1e-8)


def test_few_rows() -> None:
    net, batches = model(), {**data(), "few": [data()["b"][0][:3] + 1]}
    full, products = (lashley.record(net, batches, keep=keep) for keep in ("moments", "products"))
    thin, dense = (r.engram(net, "few", estimator=PAPER) for r in (full, products))
    assert thin["0"].factors is not None and dense["0"].factors is None
    same(dense, thin, rel=1e-8)


@pytest.mark.parametrize("size", [1, 7, 60, 180])
def test_batches_of_any_size(size: int) -> None:
    net = model()
    x, labels = torch.cat([x for batches in data().values() for x in batches]), torch.arange(540) % 3
    full = lashley.record(net, [(x, labels)], label_of)
    given = list(zip(x.split(size), labels.split(size), strict=True))
    products = lashley.record(net, given, label_of, keep="products")
    same(*(r.engram(net, "2", estimator=PAPER) for r in (products, full)), rel=1e-9)


# What is kept.


def test_it_is_smaller_where_outputs_are_few(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(200, 6)).double()
    batches = {str(c): [gaussian(300, 200, seed=c)] for c in range(8)}
    sizes = {}
    for keep in ("moments", "products"):
        lashley.record(net, batches, keep=keep).save(tmp_path / keep)
        sizes[keep] = sum(path.stat().st_size for path in (tmp_path / keep).glob("*.safetensors"))
    blocks = 8 * sum((200 - a) * (b - a) for a, b in edges(200))
    assert sizes["moments"] == pytest.approx(8 * blocks, rel=0.02)
    assert sizes["products"] == pytest.approx(blocks + 8 * 8 * (6 + 1) * 200, rel=0.05)


def test_it_travels_through_files_and_merges(tmp_path: Path) -> None:
    net, batches = model(), data()
    whole = lashley.record(net, batches, keep="products")
    whole.save(tmp_path / "r")
    back = lashley.Recording.load(tmp_path / "r")
    assert back.keep == "products"
    assert (back.concepts, back.sites) == (whole.concepts, whole.sites)
    same(back.engram(net, "a"), whole.engram(net, "a"), rel=1e-14)
    parts = [lashley.record(net, {c: b[i : i + 1] for c, b in batches.items()}, keep="products") for i in range(3)]
    merged = lashley.merge(*parts)
    assert merged.keep == "products"
    assert [site.rows for site in merged.sites] == [site.rows for site in whole.sites]
    for target in TARGETS.values():
        same(merged.engram(net, target, estimator=PAPER), whole.engram(net, target, estimator=PAPER), rel=1e-9)
    apart = lashley.merge(*(lashley.record(net, {c: b}, keep="products") for c, b in batches.items()))
    same(apart.engram(net, "b", estimator=PAPER), whole.engram(net, "b", estimator=PAPER), rel=1e-9)
    same(parts[0].engram(net, "a"), lashley.record(net, {c: b[:1] for c, b in batches.items()}).engram(net, "a"), 1e-9)
    with pytest.raises(MomentError, match="the same things kept, got products and moments"):
        lashley.merge(whole, lashley.record(net, {"d": batches["a"]}))


def test_the_cut_can_be_varied() -> None:
    net = model()
    tables = [lashley.record(net, data(), keep=keep).sensitivity(net, "a") for keep in ("moments", "products")]
    assert len(tables[0]) == 10
    for one, two in zip(*tables, strict=True):
        assert one["kept"] == two["kept"]
        assert one["norm"] == pytest.approx(two["norm"], rel=1e-8)


# What it does not serve.


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"estimator": lashley.Projection(2)}, r"got estimator=Projection\(sharpness=2"),
        ({"estimator": lashley.Ridge(0.1)}, r"got estimator=Ridge\(lam=0.1\)"),
        ({"reference": ["a", "b"]}, "got reference="),
        ({"base": model()}, "got base="),
    ],
)
def test_what_products_cannot_answer(asked: dict[str, Any], says: str) -> None:
    net = model()
    recording = lashley.record(net, data(), keep="products")
    with pytest.raises(SolveError, match=rf'{says}.*keeps only the product W S_c.*Record with keep="moments"'):
        recording.engram(net, "a", **asked)


def test_other_weights_are_refused_even_unchecked() -> None:
    recording = lashley.record(model(), data(), keep="products")
    other = model()
    with torch.no_grad():
        other[0].weight += 1
    for check in (True, False):
        with pytest.raises(ModelError, match="the weights that were recorded"):
            recording.engram(other, "a", check=check)


def test_another_bias_is_that_of_the_model_that_is_given() -> None:
    """Only the weights are in the products."""
    net, other = model(), model()
    with torch.no_grad():
        other[0].bias += 1
    full, products = (lashley.record(net, data(), keep=keep) for keep in ("moments", "products"))
    same(*(r.engram(other, "a", estimator=PAPER) for r in (products, full)), rel=1e-9)


def test_a_concepts_moment_is_refused() -> None:
    recording = lashley.record(model(), data(), keep="products")
    for ask in (recording.moment, recording.moments):
        with pytest.raises(
            MomentError, match=r"keeps products only: .* no moment of 'a'. Record with keep=\"moments\""
        ):
            ask("a", "0")
    assert recording.moment(None, "0").count == 540


def test_only_two_things_can_be_kept() -> None:
    with pytest.raises(lashley.errors.DataError, match='keep to be "moments" or "products", got \'squares\''):
        lashley.record(model(), data(), keep="squares")


def test_all_rows_of_a_labelled_batch_are_summed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not concept by concept: a hundred small products cost more than a large one."""
    sizes = []
    take = Shifts.add_images

    def counted(self: Shifts, images: Tensor, **how: Any) -> Tensor:
        sizes.append(len(images))
        return take(self, images, **how)

    monkeypatch.setattr(Shifts, "add_images", counted)
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1)).double()
    given = [(x, torch.arange(12) % 4) for x in gaussian(3, 12, 2, 5, 5)]
    found = lashley.record(net, given, label_of, keep="products")
    assert sizes == [3, 3, 3, 3, 12, 12, 12]  # of the first batch, before the sites are known, each concept's too
    assert not found.overlapping
    assert [site.rows for site in found.sites] == [36 * 25]


def test_squares_that_overflow_are_named() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False))
    x = torch.full((4000, 2), 1e20)
    for given, of in (({"a": [x]}, None), ([(x[:2000], [0] * 2000), (x[2000:], [0] * 2000)], label_of)):
        with pytest.raises(lashley.errors.RecordingError, match="Expected finite moments, got inf at site '0'"):
            lashley.record(net, given, of, keep="products", dtype=torch.float32)


# The value itself.


def test_a_product_of_rows_and_of_their_moment() -> None:
    weight, x = gaussian(2, 5, 7, seed=1), gaussian(2, 3000, 7)
    total = Products(weight)
    for rows in x.split(113, dim=1):
        total.add(rows)
    for number, product in enumerate(total.products()):
        square = x[number].T @ x[number]
        assert product.count == 3000
        assert_near(product.matrix, weight[number] @ square, rel=1e-13)
        assert_close(product.sum, x[number].sum(0), rtol=1e-11, atol=1e-11)
        for rows in (x[number], x[number, :4]):
            moment = Moment.of(rows)
            assert_near(Product.of(moment, weight[number]).matrix, weight[number] @ moment.square, rel=1e-13)
        bias = gaussian(3, seed=2)
        outputs = slice(1, 4)
        tilde = torch.cat([weight[number, outputs], bias[:, None]], dim=1)
        augmented = product.augmented(tilde, outputs)
        assert_near(augmented, tilde @ Moment.of(x[number]).augmented, rel=1e-13)


def test_a_sum_that_begins_with_moments() -> None:
    weight, x = gaussian(1, 3, 4, seed=1), gaussian(1, 500, 4)
    total = Products(weight)
    total.start([Moment.of(x[0, :200])])
    total.add(x[:, 200:])
    [product] = total.products()
    assert product.count == 500
    assert_near(product.matrix, weight[0] @ x[0].T @ x[0], rel=1e-13)


def test_no_rows() -> None:
    [product] = Products(gaussian(1, 3, 4)).products()
    assert (product.count, product.matrix.shape, product.sum.shape) == (0, (3, 4), (4,))
    assert not product.matrix.any() and not product.sum.any()


def test_products_add_and_leave_their_parts_alone() -> None:
    one, two = (Product.of(Moment.of(gaussian(9, 4, seed=s)), gaussian(3, 4)) for s in (1, 2))
    before = one.matrix.clone()
    total = pool_products([one, two])
    assert total.count == 18
    assert torch.equal(total.matrix, one.matrix + two.matrix)
    assert torch.equal(one.matrix, before)
    with pytest.raises(MomentError, match=r"products of one site, got Product\(out=3, dim=4, count=9\)"):
        pool_products([one, Product.of(Moment.of(gaussian(9, 5)), gaussian(3, 5))])
