"""Every layer's engram against an oracle that shares no code with the library: plain hooks, F.unfold, dense numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

import lashley
from cases import CASES, CONCEPTS
from helpers import assert_near, relative_error

Array = NDArray[np.float64]

CUT = 1e-4


@dataclass
class Matrix:
    """One matrix of a layer: its weight, its bias and the rows that enter it, by concept."""

    weight: Array
    bias: Array | None
    rows: dict[str, Array]

    def pooled(self, concepts: tuple[str, ...] = CONCEPTS) -> Array:
        return np.concatenate([self.rows[c] for c in concepts])


def dense_layers(model: nn.Module, data: dict[str, list[Any]]) -> dict[str, list[Matrix]]:
    """What `lashley.record` has to find, the long way."""
    kinds = (nn.Linear, nn.Conv2d)
    modules = {n: m for n, m in model.named_modules() if isinstance(m, kinds) or type(m).__name__ == "Conv1D"}
    rows: dict[str, dict[str, list[list[Array]]]] = {n: {c: [] for c in data} for n in modules}
    for concept, batches in data.items():
        for batch in batches:
            mask = batch.get("attention_mask") if isinstance(batch, dict) else None
            for name, x in inputs_of(model, modules, batch).items():
                rows[name][concept].append(dense_rows(modules[name], x.double(), mask))
    found = {}
    for name, module in modules.items():
        weights, biases = dense_parameters(module)
        found[name] = [
            Matrix(weight, bias, {c: np.concatenate([part[m] for part in parts]) for c, parts in rows[name].items()})
            for m, (weight, bias) in enumerate(zip(weights, biases, strict=True))
        ]
    return found


def inputs_of(model: nn.Module, modules: dict[str, nn.Module], batch: Any) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    handles = [m.register_forward_pre_hook(lambda _, args, n=n: seen.update({n: args[0]})) for n, m in modules.items()]
    with torch.no_grad():
        model(**batch) if isinstance(batch, dict) else model(batch)
    for handle in handles:
        handle.remove()
    return seen


def dense_rows(module: nn.Module, x: Tensor, mask: Tensor | None) -> list[Array]:
    if isinstance(module, nn.Conv2d):
        if module.padding == "same":
            pad = [side for k, d in zip(module.kernel_size, module.dilation, strict=True) for side in _same(k, d)]
        else:
            pad = [p for p in module.padding for _ in (0, 1)]
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x = F.pad(x, [pad[2], pad[3], pad[0], pad[1]], mode=mode)
        return [
            F.unfold(part, module.kernel_size, module.dilation, 0, module.stride).transpose(1, 2).flatten(0, 1).numpy()
            for part in x.chunk(module.groups, dim=1)
        ]
    return [(x.flatten(0, -2) if mask is None else x[mask.bool()]).numpy()]


def _same(kernel: int, dilation: int) -> tuple[int, int]:
    total = dilation * (kernel - 1)
    return total // 2, total - total // 2


def dense_parameters(module: nn.Module) -> tuple[list[Array], list[Array | None]]:
    weight = module.weight.detach().double().numpy()
    if type(module).__name__ == "Conv1D":
        weight = weight.T
    groups = getattr(module, "groups", 1)
    weights = np.split(weight.reshape(len(weight), -1), groups)
    if module.bias is None:
        return weights, [None] * groups
    return weights, np.split(module.bias.detach().double().numpy(), groups)


def with_ones(x: Array) -> Array:
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def whitener(x: Array, rtol: float) -> Array:
    """B for the rows, from the singular values of the rows themselves."""
    _, s, vt = np.linalg.svd(x, full_matrices=False)
    keep = s**2 > rtol * s[0] ** 2
    return vt[keep].T / s[keep]


def paper(target: Array, reference: Array, rtol: float = CUT) -> Array:
    b = whitener(reference, rtol)
    return target.T @ target @ b @ b.T


def sharpened(p: float, t: float) -> Callable[[Array, Array], Array]:
    def operator(target: Array, reference: Array) -> Array:
        b = whitener(reference, CUT)
        r, q = np.linalg.eigh(b.T @ target.T @ target @ b)
        r = r.clip(1e-12, 1)
        gain = r**p / (r**p + (t / (1 - t) * (1 - r)) ** p) / r
        return target.T @ target @ b @ (q * gain) @ q.T @ b.T

    return operator


def ridge(lam: float) -> Callable[[Array, Array], Array]:
    def operator(target: Array, reference: Array) -> Array:
        return target.T @ target @ np.linalg.inv(reference.T @ reference + lam * np.eye(reference.shape[1]))

    return operator


def dense_engram(
    matrices: list[Matrix], concepts: tuple[str, ...], operator: Callable[[Array, Array], Array], absorb: bool
) -> tuple[Array, Array | None]:
    """E of all matrices of a layer ``[M, O, D]``, and of its bias."""
    weights, biases = [], []
    for matrix in matrices:
        target, reference, weight = matrix.pooled(concepts), matrix.pooled(), matrix.weight
        augmented = absorb and matrix.bias is not None
        if augmented:
            target, reference = with_ones(target), with_ones(reference)
            weight = np.concatenate([weight, matrix.bias[:, None]], axis=1)
        engram = weight @ operator(target, reference)
        weights.append(engram[:, : matrix.weight.shape[1]])
        biases.append(engram[:, -1] if augmented else None)
    return np.stack(weights), None if biases[0] is None else np.concatenate(biases)


def as_matrices(delta: Any, matrices: list[Matrix]) -> Tensor:
    """A delta in the module's own shape, brought to ``[M, O, D]`` without asking the library."""
    weight = delta.weight.T if delta.layer.type == "Conv1D" else delta.weight
    return weight.reshape(len(matrices), *matrices[0].weight.shape)


@pytest.fixture(scope="module", params=CASES)
def solved(request: pytest.FixtureRequest) -> Any:
    model, data = CASES[request.param].build()
    return model, lashley.record(model, data), dense_layers(model, data)


def check(
    model: nn.Module, recording: Any, layers: dict[str, list[Matrix]], operator: Any, rel: float, **how: Any
) -> None:
    __tracebackhide__ = True
    absorb = how.get("bias", True)
    for concept in ("a", "c"):
        engram = recording.engram(model, concept, **how)
        assert list(engram) == list(layers)
        for name, matrices in layers.items():
            weight, bias = dense_engram(matrices, (concept,), operator, absorb)
            assert_near(as_matrices(engram[name], matrices), weight, rel=rel)
            assert (engram[name].bias is None) == (bias is None)
            if bias is not None:
                assert_near(engram[name].bias, bias, rel=rel)


def test_rows_counts_and_sums_are_those_of_the_oracle(solved: Any) -> None:
    _, recording, layers = solved
    for name, matrices in layers.items():
        for concept in CONCEPTS:
            for moment, matrix in zip(recording.moments(concept, name), matrices, strict=True):
                rows = matrix.rows[concept]
                assert moment.count == len(rows)
                assert_near(moment.sum, rows.sum(0), rel=1e-6)
                assert_near(moment.square, rows.T @ rows, rel=1e-6)


def test_paper_engram_of_every_layer(solved: Any) -> None:
    estimator = lashley.Projection(cut=lashley.Cut(rtol=CUT))
    check(*solved, paper, 1e-3, estimator=estimator)


def test_paper_engram_without_the_bias(solved: Any) -> None:
    estimator = lashley.Projection(cut=lashley.Cut(rtol=CUT))
    check(*solved, paper, 1e-3, estimator=estimator, bias=False)


@pytest.mark.parametrize(("p", "t"), [(2, 0.5), (3, 0.3), (2.5, 0.6)])
def test_sharpened_engram_of_every_layer(solved: Any, p: float, t: float) -> None:
    estimator = lashley.Projection(p, t, lashley.Cut(rtol=CUT))
    check(*solved, sharpened(p, t), 1e-3, estimator=estimator)


def test_ridge_engram_of_every_layer(solved: Any) -> None:
    check(*solved, ridge(0.5), 1e-4, estimator=lashley.Ridge(0.5))


def test_the_oracle_can_disagree(solved: Any) -> None:
    """Wrong twins: the bias left out where it is absorbed, another concept, means in place of sums."""
    model, recording, layers = solved
    engram = recording.engram(model, "a", estimator=lashley.Projection(cut=lashley.Cut(rtol=CUT)))
    other = {name: dense_engram(matrices, ("b",), paper, True)[0] for name, matrices in layers.items()}
    means = {
        name: dense_engram(matrices, ("a",), lambda x, s: paper(x / len(x) ** 0.5, s / len(s) ** 0.5), True)[0]
        for name, matrices in layers.items()
    }
    bare = {name: dense_engram(ms, ("a",), paper, False)[0] for name, ms in layers.items() if ms[0].bias is not None}
    for wrong in (other, means, bare):
        errors = [relative_error(as_matrices(engram[name], layers[name]), expected) for name, expected in wrong.items()]
        assert min(errors, default=1.0) > 5e-3
        assert max(errors, default=1.0) > 5e-2


def test_concept_and_rest_add_up_to_what_the_data_reaches(solved: Any) -> None:
    """E_c + E_rest = W~ Pi, with Pi the projector on what the data reaches, and so does the engram of everything."""
    model, recording, layers = solved
    estimator = lashley.Projection(cut=lashley.Cut(rtol=CUT))
    both = recording.engram(model, "a", estimator=estimator) + recording.engram(model, ["b", "c"], estimator=estimator)
    everything = recording.engram(model, list(CONCEPTS), estimator=estimator)
    for name, matrices in layers.items():
        weight, bias = dense_engram(matrices, CONCEPTS, paper, True)
        for engram in (both, everything):
            assert_near(as_matrices(engram[name], matrices), weight, rel=1e-3)
            if bias is not None:
                assert_near(engram[name].bias, bias, rel=1e-3)
