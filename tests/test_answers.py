"""What a model makes of answers: exact vectors, agreement with a row-by-row oracle, invariances, greedy writing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lashley
from helpers import assert_near
from lashley.errors import DataError
from lashley.metrics import answers, continuations, reference
from test_language_models import batches, build

VECTORS = json.loads((Path(__file__).parent / "teacher_forced.json").read_text())


class Told(nn.Module):
    """Puts out the probabilities it was given."""

    def __init__(self, probabilities: list[list[list[float]]]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, input_ids: Tensor) -> Any:
        return SimpleNamespace(logits=self.logits)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])
def test_exact_vectors(vector: dict[str, Any]) -> None:
    batch = {"input_ids": torch.tensor([vector["input_ids"]]), "labels": torch.tensor([vector["labels"]])}
    found = answers(Told([vector["probabilities"]]), [batch])
    assert found.probability.item() == pytest.approx(vector["probability"], rel=1e-6)
    if vector["exact"] is None:
        assert math.isnan(found.exact.item())
    else:
        assert found.exact.item() == pytest.approx(vector["exact"], rel=1e-6)
    assert found.tokens.item() == sum(label != -100 for label in vector["labels"])


def row_by_row(model: nn.Module, data: list[dict[str, Tensor]]) -> tuple[list[float], list[float]]:
    probabilities, exact = [], []
    for batch in data:
        for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
            real = mask.bool()
            with torch.no_grad():
                logits = model(input_ids=ids[real][None]).logits[0].double()
            wanted = labels[real]
            places = [t for t in range(1, len(wanted)) if wanted[t] != -100]
            told = [logits[t - 1].log_softmax(0)[wanted[t]].item() for t in places]
            hits = [int(logits[t - 1].argmax() == wanted[t]) for t in places[:-1]]
            probabilities.append(math.exp(sum(told) / len(told)))
            exact.append(sum(hits) / len(hits))
    return probabilities, exact


@pytest.mark.parametrize("family", ["llama", "gpt-neox"])
def test_against_one_row_at_a_time(family: str) -> None:
    model, data = build(family), batches(0, "right")
    probabilities, exact = row_by_row(model, data)
    found = answers(model, data)
    assert_near(found.probability, torch.tensor(probabilities), rel=1e-5)
    assert_near(found.exact, torch.tensor(exact), rel=1e-6)
    assert found.means() == {
        "probability": pytest.approx(sum(probabilities) / len(probabilities), rel=1e-5),
        "exact": pytest.approx(sum(exact) / len(exact), rel=1e-5),
    }


def test_labels_of_an_encoder_decoder_are_not_shifted() -> None:
    model, data = build("t5"), batches(0, "right", pairs=True)
    found = answers(model, data)
    with torch.no_grad():
        losses = [model(**{k: v[:1] for k, v in batch.items()}).loss for batch in data]
    assert_near(found.probability[::5], torch.exp(-torch.stack(losses)), rel=1e-5)


def test_a_model_does_not_diverge_from_itself_and_an_edited_one_does() -> None:
    model, data = build("llama"), {"forget": batches(0, "right"), "retain": batches(1, "right")}
    before = reference(model, data["retain"])
    same = answers(model, data["retain"], before)
    assert same.kl is not None and same.kl.max() < 1e-6
    engram = lashley.record(model, data).engram(model, "forget")
    with lashley.ablated(model, engram):
        edited = answers(model, data["retain"], before)
        logits = [model(**{k: v for k, v in b.items() if k != "labels"}).logits.detach() for b in data["retain"]]
    assert edited.kl is not None
    expected = []
    for batch, now, old in zip(data["retain"], logits, before.log_probabilities, strict=True):
        counted = batch["labels"][:, 1:] != -100
        log_q = now[:, :-1][counted].log_softmax(-1)
        per_token = (old.exp() * (old - log_q)).sum(-1)
        expected += [part.mean() for part in per_token.split(counted.sum(1).tolist())]
    assert_near(edited.kl, torch.stack(expected), rel=1e-4)
    assert edited.kl.min() > 0.001


def test_rows_of_texts_come_back_in_their_own_order() -> None:
    data = batches(0, "right")
    shuffled = [data[k] for k in (3, 1, 5, 0, 2, 4)]
    order = [5 * k + row for k in (3, 1, 5, 0, 2, 4) for row in range(5)]

    class Sorted(list):  # type: ignore[type-arg]
        pass

    some = Sorted(shuffled)
    some.order = order  # type: ignore[attr-defined]
    model = build("llama")
    assert_near(answers(model, some).probability, answers(model, data).probability, rel=1e-6)
    assert not torch.allclose(answers(model, shuffled).probability, answers(model, data).probability)


def test_a_model_comes_back_as_it_was() -> None:
    model = build("llama").train()
    answers(model, batches(0, "right"))
    continuations(model, SimpleNamespace(eos_token_id=2, pad_token_id=0, batch_decode=lambda o, **_: [""]), [[3, 4]], 2)
    assert model.training and not any(m._forward_hooks for m in model.modules())


class Words:
    """A tokenizer whose words are numbers."""

    eos_token_id, pad_token_id = 2, None

    def batch_decode(self, rows: Tensor, skip_special_tokens: bool) -> list[str]:
        return [" ".join(str(t) for t in row if not (skip_special_tokens and t == 2)) for row in rows.tolist()]


def test_what_is_written_does_not_depend_on_the_batch() -> None:
    model = build("llama")
    prompts = [[3, 4, 5], [7, 8, 9, 10, 11, 12], [6]]
    together = continuations(model, Words(), prompts, max_new_tokens=5)
    assert together == [continuations(model, Words(), [p], max_new_tokens=5)[0] for p in prompts]
    ids = torch.tensor([prompts[1]])
    with torch.no_grad():
        for _ in range(5):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert together[1].split() == [str(t) for t in ids[0, 6:].tolist() if t != 2]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([{"input_ids": torch.ones(1, 3, dtype=torch.long)}], "Expected batch 0 to be a mapping with labels"),
        ([], "at least one batch"),
        (
            [{"input_ids": torch.ones(2, 3, dtype=torch.long), "labels": torch.tensor([[1, 1, 1], [5, -100, -100]])}],
            "none in row 1 of batch 0",
        ),
    ],
)
def test_what_cannot_be_scored(data: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        answers(build("llama"), data)


@pytest.mark.parametrize("part", [slice(0, 2), slice(0, 4)])
def test_a_reference_of_other_batches(part: slice) -> None:
    model, data = build("llama"), batches(0, "right")
    with pytest.raises(DataError, match="Expected the reference to be of these batches"):
        answers(model, data[:3], reference(model, data[part]))
