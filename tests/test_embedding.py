"""Embeddings: linear layers that read one-hot rows, with a diagonal moment and no cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lashley
from lashley.errors import ModelError, MomentError, SolveError
from lashley.layers import describe
from lashley.moments import Diagonal
from tests.helpers import assert_close

V = 20


class Model(nn.Module):
    def __init__(self, **settings) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(V, 6, **settings)
        self.head = nn.Linear(6, V)
        self.double()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.head(self.embedding(input_ids))


def batches() -> dict[str, list[dict[str, Tensor]]]:
    ids = torch.randint(0, V - 2, (60, 5), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(60, 5, dtype=torch.long)
    mask[::2, 4] = 0
    return {
        "forget": [{"input_ids": ids[:20], "attention_mask": mask[:20]}],
        "retain": [
            {"input_ids": i, "attention_mask": m} for i, m in zip(ids[20:].split(9), mask[20:].split(9), strict=True)
        ],
    }


def recorded(model: Model) -> lashley.Recording:
    return lashley.record(model, batches(), target_modules=["embedding", "head"])


def test_it_is_recorded_only_when_asked_for():
    assert list(lashley.record(Model(), batches()).layers) == ["head"]


def test_one_hot_rows_times_the_matrix_are_what_it_computes():
    model, ids = Model(), torch.tensor([[3, 0], [1, 3]])
    layer = describe("embedding", model.embedding)
    rows = layer.rows(ids).double()
    assert_close(rows @ layer.matrix(model.embedding.weight).mT, layer.responses(model.embedding(ids)), atol=1e-15)
    assert torch.equal(layer.weight(layer.matrix(model.embedding.weight)), model.embedding.weight)
    assert layer.lead((2, 2)) == (2, 2)
    assert layer.moment_bytes == 8 * V


def test_its_moment_counts_what_the_mask_leaves():
    recording, data = recorded(Model()), batches()
    for concept, parts in data.items():
        kept = torch.cat([b["input_ids"][b["attention_mask"].bool()] for b in parts])
        moment = recording.moment(concept, "embedding")
        assert isinstance(moment, Diagonal)
        assert torch.equal(moment.sum, torch.bincount(kept, minlength=V).double())
        assert moment.count == len(kept)
        assert torch.equal(moment.square, moment.sum.diag())
    total = recording.moment(None, "embedding")
    assert torch.equal(total.sum, sum(recording.moment(c, "embedding").sum for c in data))


@pytest.mark.parametrize("p, t", [(1, 0.5), (1, 0.3), (2, 0.5), (4, 0.3), (2.5, 0.6)])
def test_each_row_is_scaled_by_its_tokens_share(p, t):
    model = Model()
    recording = recorded(model)
    engram = recording.engram(model, "forget", estimator=lashley.Projection(p, t))
    mine, total = recording.moment("forget", "embedding").sum, recording.moment(None, "embedding").sum
    r = torch.where(total > 0, mine / total.clamp(min=1), 0.0)
    f = r**p / (r**p + (t / (1 - t)) ** p * (1 - r) ** p)
    assert_close(engram["embedding"].weight, f[:, None] * model.embedding.weight.detach(), atol=1e-14)
    assert engram["embedding"].solutions[0].rank == int((total > 0).sum())


def test_ridge_damps_and_what_never_came_stays():
    model = Model()
    recording = recorded(model)
    engram = recording.engram(model, "forget", estimator=lashley.Ridge(2.0))
    mine, total = recording.moment("forget", "embedding").sum, recording.moment(None, "embedding").sum
    assert_close(
        engram["embedding"].weight, (mine / (total + 2))[:, None] * model.embedding.weight.detach(), atol=1e-14
    )
    assert (total[-2:] == 0).all()
    assert (engram["embedding"].weight[-2:] == 0).all()


def test_files_and_merging_keep_it(tmp_path):
    model, data = Model(), batches()
    names = ["embedding", "head"]
    halves = [
        lashley.record(model, {c: b[k::2] or [] for c, b in data.items() if b[k::2]}, target_modules=names)
        for k in (0, 1)
    ]
    merged = lashley.merge(*halves)
    merged.save(tmp_path / "r")
    loaded = lashley.Recording.load(tmp_path / "r")
    assert torch.equal(loaded.moment(None, "embedding").sum, recorded(model).moment(None, "embedding").sum)
    assert_close(
        loaded.engram(model, "forget")["embedding"].weight,
        recorded(model).engram(model, "forget")["embedding"].weight,
        atol=1e-15,
    )


def test_what_has_no_meaning_is_refused():
    model = Model()
    with pytest.raises(SolveError, match="Expected an estimator with a form for embeddings, got Kodge"):
        recorded(model).engram(model, "forget", estimator=lashley.estimators.Kodge())
    with pytest.raises(ModelError, match="without max_norm"):
        lashley.record(Model(max_norm=1.0), batches(), target_modules=["embedding"])
    with pytest.raises(MomentError, match="at most 16384 columns to write a diagonal moment out"):
        _ = Diagonal(torch.zeros(20000, dtype=torch.float64)).square
