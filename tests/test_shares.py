"""Shares of directions: known answers, a dense oracle, the identities of the theory, every form, and wrong twins."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cases import square
from helpers import assert_close, assert_near, gaussian, relative_error
from lashley.errors import SolveError
from lashley.estimators import SiteMoments
from lashley.estimators.projection import gain
from lashley.geometry import (
    Ownership,
    Share,
    complement_energy,
    cosines,
    energy,
    engram_of,
    outputs,
    raw_non_idempotence,
)
from lashley.geometry.outputs import times
from lashley.moments import Diagonal, pool
from lashley.spectrum import Cut, Factor
from sites import concepts, ones, site, together

PLAIN = Cut.notebook()


def shares_of(rows: dict[str, Tensor], cut: Cut = PLAIN, augmented: bool = False) -> dict[str, Share]:
    sites = {name: site(rows, name, augmented=augmented) for name in rows}
    white = next(iter(sites.values())).reference.whiten(cut)
    return {name: Share(found, white) for name, found in sites.items()}


def owned_by(rows: dict[str, Tensor], name: str, cut: Cut = PLAIN, augmented: bool = False) -> Ownership:
    found = site(rows, name, augmented=augmented)
    white = found.reference.whiten(cut)
    values = Share(found, white).values
    return Ownership(
        values, found.dim, found.target.count, found.reference.moment.count, raw_non_idempotence(found, white)
    )


def dense(rows: dict[str, Tensor], name: str) -> Tensor:
    """``P = S_c S^+`` by the textbook."""
    everything = together(rows)
    return rows[name].T @ rows[name] @ torch.linalg.pinv(everything.T @ everything, hermitian=True)


# --- known answers ----------------------------------------------------------------------------------------------------

# Worked by hand; samples are rows here. (name, rows of the concept, of the rest, weight, engram, eigenvalues of P)
KNOWN = {
    "linear": (
        [[1.0, 0.0], [1.0, 1.0]],
        [[0.0, 2.0]],
        [[1.0, 2.0], [0.0, 3.0]],
        [[17 / 9, 2 / 9], [12 / 9, 3 / 9]],
        [1.0, 1 / 9],
    ),
    "orthogonal": (
        [[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]],
        [[0.0, 1.0, 0.0], [0.0, 0.0, 3.0]],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
        [[1.0, 0.0, 0.0], [4.0, 0.0, 0.0]],
        [1.0, 0.0, 0.0],
    ),
    "rank deficient": (
        [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]],
        [[0.0, 1.0, 0.0]],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
        [[3.0, 0.0, 0.0], [9.0, 0.0, 0.0]],
        [1.0, 0.0],
    ),
    "shared input": ([[1.0]] * 3, [[1.0]], [[8.0]], [[6.0]], [0.75]),
}


@pytest.mark.parametrize("form", ["thin", "square"])
@pytest.mark.parametrize("name", KNOWN)
def test_worked_examples(name: str, form: str) -> None:
    target, rest, weight, engram, values = (torch.tensor(x, dtype=torch.float64) for x in KNOWN[name])
    found = site({"c": target, "rest": rest}, "c")
    if form == "square":
        found = SiteMoments(square(target), Factor(square(torch.cat([target, rest]))))
    white = found.reference.whiten(PLAIN)
    assert_close(Share(found, white).values, values, atol=1e-12)
    assert_close(engram_of(weight, found, white), engram, atol=1e-12)


def test_a_worked_example_with_the_bias() -> None:
    rows = {"c": KNOWN["linear"][0], "rest": KNOWN["linear"][1]}
    found = site({k: torch.tensor(v, dtype=torch.float64) for k, v in rows.items()}, "c", augmented=True)
    weight = torch.tensor([[1.0, 2.0, 1.0], [0.0, 3.0, -1.0]], dtype=torch.float64)
    white = found.reference.whiten(PLAIN)
    assert_close(engram_of(weight, found, white), [[6.0, 2.0, -4.0], [5.0, 3.0, -6.0]], atol=1e-12)
    assert_close(Share(found, white).values, [1.0, 1.0, 0.0], atol=1e-12)  # 3 rows, 3 columns: no row is shared


# --- against the textbook ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("sizes", [(60, 50, 40, 70), (3, 5, 40, 70), (2, 3, 1)], ids=["square", "mixed", "thin"])
def test_everything_is_what_the_dense_operator_says(sizes: tuple[int, ...], augmented: bool) -> None:
    rows = concepts(sizes)
    rows_seen = {k: ones(x) for k, x in rows.items()} if augmented else rows
    shares = shares_of(rows, augmented=augmented)
    operators = {name: dense(rows_seen, name) for name in rows}
    for name, share in shares.items():
        kept = share.kept
        values = torch.linalg.eigvals(operators[name]).real.sort(descending=True).values
        assert_close(share.values, values[:kept], atol=1e-8)
        assert share.trace == pytest.approx(operators[name].trace().item(), abs=1e-9)
        own = owned_by(rows, name, augmented=augmented)
        assert own.non_idempotence == pytest.approx(
            math.sqrt((values**2 * (1 - values) ** 2).sum() / (values**2).sum()), abs=1e-7
        )
        p = operators[name]
        assert own.raw == pytest.approx(((p @ p - p).norm() / p.norm()).item(), abs=1e-7)
        for other, share_of_other in shares.items():  # traces do not see the change of coordinates
            product = operators[name] @ operators[other]
            assert share.inner(share_of_other) == pytest.approx(product.trace().item(), abs=1e-9)


def test_singular_values_would_be_another_spectrum() -> None:
    """A twin that takes the singular values of P for its eigenvalues fails the test above."""
    rows = concepts()
    twin = torch.linalg.svdvals(dense(rows, "a"))
    assert relative_error(twin, shares_of(rows)["a"].values) > 0.1
    assert twin[0] > 1


# --- identities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_shares_lie_in_0_to_1_and_add_to_1(seed: int) -> None:
    rows = concepts((9, 60, 30, 4), dim=9, seed=seed)
    shares = shares_of(rows)
    traces = 0.0
    for name, share in shares.items():
        assert share.values.min() >= 0 and share.values.max() <= 1 + 1e-12
        assert share.trace <= min(len(rows[name]), share.kept) + 1e-12
        traces += share.trace
        assert sum(share.inner(other) for other in shares.values()) == pytest.approx(share.trace)  # sum R = I
    assert traces == pytest.approx(9)


def test_the_operators_add_to_the_projector_on_what_is_kept() -> None:
    rows = concepts((60, 50, 4), dim=7)
    cut = Cut(rank=4)
    found = {name: site(rows, name) for name in rows}
    white = found["a"].reference.whiten(cut)
    identity = torch.eye(7, dtype=torch.float64)
    operators = {name: engram_of(identity, one, white) for name, one in found.items()}
    total = sum(operators.values())
    _, vectors = torch.linalg.eigh(together(rows).T @ together(rows))
    projector = vectors[:, 3:] @ vectors[:, 3:].T
    assert_near(total, projector, rel=1e-9)
    rest = SiteMoments(pool([found["b"].target, found["c"].target]), found["a"].reference)
    assert_near(operators["a"] + engram_of(identity, rest, white), projector, rel=1e-9)  # P_c + P_rest
    q = identity - total
    assert_close(q @ q, q, atol=1e-9)
    for operator in operators.values():
        assert_close(operator @ q, torch.zeros(7, 7), atol=1e-9)  # no engram reaches into Q


def test_an_operator_is_idempotent_exactly_where_supports_are_disjoint() -> None:
    private, shared = gaussian(30, 3), gaussian(30, 4, seed=1)
    zeros = torch.zeros(30, 4, dtype=torch.float64)
    apart = {"a": torch.cat([private, zeros], 1), "b": torch.cat([torch.zeros_like(private), shared], 1)}
    mixed = {"a": torch.cat([private, 0.1 * shared], 1), "b": apart["b"]}
    assert_close(owned_by(apart, "a").values, [1, 1, 1, 0, 0, 0, 0], atol=1e-12)
    assert owned_by(apart, "a").non_idempotence < 1e-12 and owned_by(apart, "a").raw < 1e-12
    assert owned_by(apart, "a").own == pytest.approx(1)
    p = dense(apart, "a")
    assert_close(p @ p, p, atol=1e-12)
    assert owned_by(mixed, "a").non_idempotence > 0.01
    assert owned_by(mixed, "a").own < 0.999


def test_with_fewer_rows_than_columns_everything_is_owned_whole() -> None:
    rows = concepts((2, 3), dim=7)
    assert_close(owned_by(rows, "a").values, [1, 1, 0, 0, 0], atol=1e-9)


@pytest.mark.parametrize("thin", [False, True])
def test_units_of_the_input_change_nothing_but_the_raw_norm(thin: bool) -> None:
    rows = concepts((4, 5, 60) if thin else (60, 50, 40))
    change = gaussian(7, 7, seed=9) * torch.logspace(0, 1, 7, dtype=torch.float64)
    moved = {name: x @ change for name, x in rows.items()}
    before, after = shares_of(rows), shares_of(moved)
    for name in rows:
        assert_close(after[name].values, before[name].values, atol=1e-9)
        for other in rows:
            assert after[name].inner(after[other]) == pytest.approx(before[name].inner(before[other]), abs=1e-9)
        assert_close(cosines(after[name], after["a"], 0.3), cosines(before[name], before["a"], 0.3), atol=1e-7)
    assert owned_by(moved, "a").raw != pytest.approx(owned_by(rows, "a").raw, rel=1e-3)


def test_a_reference_without_the_target_shows_as_excess() -> None:
    rows = concepts()
    found = site(rows, "a", reference=["b", "c"])
    values = Share(found, found.reference.whiten(PLAIN)).values
    own = Ownership(values, 7, 60, 90, 0.0)
    assert own.excess > 0 and own.largest == 1 + own.excess


# --- forms ------------------------------------------------------------------------------------------------------------


def test_thin_and_square_moments_give_the_same() -> None:
    rows = concepts((3, 4, 60), dim=12)
    whole = together(rows)
    shares, raws = {}, {}
    for form in ("thin", "square"):
        for name in ("a", "b"):
            target = site(rows, name).target if form == "thin" else square(rows[name])
            assert target.thin == (form == "thin")
            reference = Factor(square(whole))
            found = SiteMoments(target, reference)
            white = reference.whiten(PLAIN)
            shares[form, name] = Share(found, white)
            raws[form, name] = raw_non_idempotence(found, white)
    for name in ("a", "b"):
        assert_close(shares["thin", name].values, shares["square", name].values, atol=1e-10)
        assert raws["thin", name] == pytest.approx(raws["square", name], abs=1e-9)
    assert shares["thin", "a"].inner(shares["square", "b"]) == pytest.approx(
        shares["square", "a"].inner(shares["thin", "b"])
    )
    assert_close(
        cosines(shares["thin", "a"], shares["thin", "b"], 0.1),
        cosines(shares["square", "a"], shares["square", "b"], 0.1),
        atol=1e-6,
    )


def test_few_rows_need_no_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thin concepts against a thin reference of 4000 columns: nothing is as large as 4000 x 4000."""
    rows = {"a": gaussian(3, 4000), "b": gaussian(4, 4000, seed=1)}
    largest = 0
    original = torch.Tensor.__matmul__

    def watched(left: Tensor, right: Tensor) -> Tensor:
        nonlocal largest
        product = original(left, right)
        largest = max(largest, product.numel())
        return product

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    shares = shares_of(rows)
    assert_close(shares["a"].values, [1] * 3 + [0] * 4, atol=1e-9)
    assert shares["a"].inner(shares["b"]) == pytest.approx(0, abs=1e-9)
    assert owned_by(rows, "a").raw == pytest.approx(0, abs=1e-9)
    found = {name: site(rows, name) for name in rows}
    white = found["a"].reference.whiten(PLAIN)
    weight = gaussian(5, 4000, seed=2)
    split = energy(weight, found, white)
    assert_close(split.own, [1, 1], atol=1e-9)
    assert complement_energy(weight, found["a"], white)[1] == pytest.approx(0, abs=1e-9)
    assert 0 < largest <= 7 * 4000


def test_indices_are_directions_where_moments_are_diagonal() -> None:
    counts = {"a": [3.0, 0.0, 1.0, 0.0], "b": [1.0, 5.0, 0.0, 0.0]}
    moments = {name: Diagonal(torch.tensor(c, dtype=torch.float64)) for name, c in counts.items()}
    reference = Factor(pool(moments.values()))
    found = {name: SiteMoments(moment, reference) for name, moment in moments.items()}
    shares = {name: Share(one, None) for name, one in found.items()}
    hot = {
        name: torch.eye(4, dtype=torch.float64).repeat_interleave(torch.tensor(c).long(), 0)
        for name, c in counts.items()
    }
    rows = shares_of(hot)
    for name in counts:
        assert shares[name].kept == rows[name].kept == 3  # the last index never came
        assert_close(shares[name].values, rows[name].values, atol=1e-12)
        assert shares[name].trace == pytest.approx(rows[name].trace)
        assert raw_non_idempotence(found[name], None) == pytest.approx(owned_by(hot, name).raw)
        for other in counts:
            assert shares[name].inner(shares[other]) == pytest.approx(rows[name].inner(rows[other]))
            assert_close(cosines(shares[name], shares[other], 0.2), cosines(rows[name], rows[other], 0.2), atol=1e-9)
    weight = gaussian(5, 4)
    sites = {name: site(hot, name) for name in hot}
    white = sites["a"].reference.whiten(PLAIN)
    one, two = energy(weight, found, None), energy(weight, sites, white)
    for name in ("of", "inner", "cosines", "norms", "outside"):
        assert_close(getattr(one, name), getattr(two, name), atol=1e-9)
    assert complement_energy(weight, found["a"], None) == pytest.approx(
        complement_energy(weight, sites["a"], white), abs=1e-9
    )
    assert_close(engram_of(weight, found["a"], None), engram_of(weight, sites["a"], white), atol=1e-12)


# --- spaces -----------------------------------------------------------------------------------------------------------


def test_angles_between_owned_spaces() -> None:
    angle = 0.3
    u = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    v = torch.tensor([math.cos(angle), math.sin(angle), 0.0], dtype=torch.float64)
    # The reference is made the identity, so that angles are those of the plane: rows of c finish what u and v begin.
    rest = torch.eye(3, dtype=torch.float64) - 0.6 * torch.outer(u, u) - 0.3 * torch.outer(v, v)
    rows = {"a": 0.6**0.5 * u[None], "b": 0.3**0.5 * v[None], "c": torch.linalg.cholesky(rest).T}
    shares = shares_of(rows)
    assert_close(shares["a"].values, [0.6, 0, 0], atol=1e-7)
    assert_close(cosines(shares["a"], shares["b"], 0.2), [math.cos(angle)], atol=1e-7)
    assert len(cosines(shares["a"], shares["b"], 0.5)) == 0  # b owns no half of anything
    assert_close(cosines(shares["a"], shares["a"], 0.5), [1.0], atol=1e-12)


def test_two_concepts_cannot_own_one_direction_to_more_than_half() -> None:
    shares = shares_of(concepts((60, 50, 40), dim=7, seed=3))
    for a in shares:
        for b in shares:
            found = cosines(shares[a], shares[b], 0.5)
            assert a == b or not len(found) or found.max() < 1 - 1e-6


# --- readings ---------------------------------------------------------------------------------------------------------


def test_readings_of_a_spectrum() -> None:
    own = Ownership(torch.tensor([1.0, 0.5, 0.5, 0.0], dtype=torch.float64), 6, 30, 120, 0.25)
    assert (own.kept, own.dim, own.prior, own.median, own.largest, own.excess) == (4, 6, 0.25, 0.5, 1.0, 0.0)
    assert own.trace == 2 and own.own == pytest.approx(0.75)
    assert own.effective_rank == pytest.approx(2 * math.sqrt(2))  # entropy of (1/2, 1/4, 1/4)
    assert own.non_idempotence == pytest.approx(math.sqrt(2 / 16 / 1.5))
    assert [own.above(t) for t in (0.0, 0.4, 0.5, 1.0)] == [3, 3, 1, 0]


def test_readings_of_nothing() -> None:
    rows = {"a": gaussian(0, 4), "b": gaussian(20, 4)}
    own = owned_by(rows, "a")
    assert_close(own.values, torch.zeros(4))
    assert (own.prior, own.trace, own.effective_rank, own.non_idempotence, own.own, own.raw) == (0,) * 6
    empty = Ownership(torch.zeros(0, dtype=torch.float64), 4, 0, 0, 0.0)
    assert (empty.prior, empty.median, empty.largest, empty.excess, empty.above(0.5)) == (0,) * 5


@pytest.mark.parametrize(("leak", "p"), [(0.01, 2.0), (0.1, 3.0), (0.2, 1.0)])
def test_the_sparing_threshold_takes_the_leak_of_the_median(leak: float, p: float) -> None:
    own = Ownership(torch.tensor([0.9, 0.07, 0.01], dtype=torch.float64), 3, 1, 10, 0.0)
    t = own.sparing(leak, p)
    median = torch.tensor(own.median, dtype=torch.float64)
    assert (median * gain(median, p, t)).item() == pytest.approx(leak)


def test_what_the_sparing_threshold_refuses() -> None:
    own = Ownership(torch.tensor([1.0], dtype=torch.float64), 1, 1, 1, 0.0)
    assert own.sparing() == 1.0  # one concept owns everything
    for wrong in ({"leak": 0.0}, {"leak": 1.0}, {"sharpness": 0.5}, {"sharpness": math.inf}):
        with pytest.raises(SolveError, match="a leak inside"):
            own.sparing(**wrong)


def test_shares_of_different_references_do_not_compare() -> None:
    one, other = shares_of(concepts(dim=7))["a"], shares_of(concepts(dim=5))["a"]
    with pytest.raises(SolveError, match="shares of one reference, got 7 and 5"):
        one.inner(other)


# --- energies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [PLAIN, Cut(rank=3)], ids=str)
@pytest.mark.parametrize("sizes", [(60, 50, 40), (4, 60, 50)])
def test_energies_are_those_of_the_responses(sizes: tuple[int, ...], cut: Cut) -> None:
    rows = concepts(sizes)
    weight = gaussian(4, 7, seed=5)
    found = {name: site(rows, name) for name in rows}
    white = found["a"].reference.whiten(cut)
    split = energy(weight, found, white)
    engrams = [engram_of(weight, one, white) for one in found.values()]
    whole = together(rows).T @ together(rows)
    for i, name in enumerate(rows):
        out = rows[name] @ weight.T
        assert split.of[i] == pytest.approx(out.square().sum().item())
        assert split.norms[i] == pytest.approx((engrams[i].norm() / weight.norm()).item())
        # What the engrams answer to the concept, as a part of what the layer does.
        own = ((rows[name] @ engrams[i].T) * out).sum() / out.square().sum()
        assert split.own[i] == pytest.approx(own.item())
        for j in range(len(rows)):
            assert split.inner[i, j] == pytest.approx((engrams[i] @ whole @ engrams[j].T).trace().item(), abs=1e-8)
            cosine = (engrams[i] * engrams[j]).sum() / engrams[i].norm() / engrams[j].norm()
            assert split.cosines[i, j] == pytest.approx(cosine.item(), abs=1e-9)
    # A concept's own engram, those of the others, and Q make the whole of it.
    others = (split.inner.sum(1) - split.inner.diagonal()) / split.of
    assert_close(split.own + others + split.lost, torch.ones(3), atol=1e-9)
    assert (split.lost.max() > 1e-4) == (cut != PLAIN)
    assert_close(split.angles.diagonal(), torch.ones(3), atol=1e-12)


def test_energies_add_over_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = concepts()
    found = {name: site(rows, name) for name in rows}
    white = found["a"].reference.whiten(Cut(rank=5))
    whole = energy(gaussian(9, 7), found, white)
    monkeypatch.setattr(outputs, "_HELD", 2 * 4 * 7)  # two outputs at a time
    parts = energy(gaussian(9, 7), found, white)
    for name in ("of", "inner", "cosines", "norms", "outside"):
        assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-10, atol=1e-12)


def test_a_concept_without_outputs_has_no_energy() -> None:
    rows = {"a": gaussian(0, 3), "b": gaussian(20, 3)}
    found = {name: site(rows, name) for name in rows}
    split = energy(gaussian(2, 3), found, found["a"].reference.whiten(PLAIN))
    assert math.isnan(split.own[0]) and split.own[1] == pytest.approx(1)
    assert_close(split.cosines[0], [0, 0])
    assert_close(split.angles, [[0, 0], [0, 1]], atol=1e-12)


@pytest.mark.parametrize(("cut", "sizes"), [(PLAIN, (60, 40)), (Cut(rank=3), (60, 40)), (PLAIN, (2, 3))])
def test_the_complement_of_a_weight(cut: Cut, sizes: tuple[int, ...]) -> None:
    rows = concepts(sizes)
    found = site(rows, "a")
    white = found.reference.whiten(cut)
    weight = gaussian(4, 7, seed=5)
    whole = together(rows).T @ together(rows)
    _, vectors = torch.linalg.eigh(whole)
    out = vectors[:, : 7 - white.info.rank]
    left = weight @ out @ out.T
    expected = (
        (left.square().sum() / weight.square().sum()).item(),
        ((left @ whole @ left.T).trace() / (weight @ whole @ weight.T).trace()).item(),
    )
    assert complement_energy(weight, found, white) == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert complement_energy(0 * weight, found, white) == (0.0, 0.0)


def test_products_with_moments_of_every_form() -> None:
    weight, rows = gaussian(3, 5), gaussian(4, 5, seed=1)
    assert_close(times(weight, site({"a": rows}, "a").target, False), weight @ rows.T @ rows, atol=1e-12)
    assert_close(times(weight, square(rows), False), weight @ rows.T @ rows, atol=1e-12)
    counts = torch.arange(5.0).double()
    assert_close(times(weight, Diagonal(counts), False), weight @ counts.diag())
