"""A model that was fine-tuned from a known base, so that there are delta weights to take an engram of."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lashley.studies.forget_tofu_mini.subject import Subject

__all__ = ["fine_tuned"]


def fine_tuned(base: Subject, rows: Sequence[int], settings: Mapping[str, Any]) -> nn.Module:
    """A copy of the base that learned the answers of more rows: AdamW, one-cycle schedule, seeded order.

    Args:
        settings: "epochs", "batch", "learning_rate", "seed".
    """
    model: Any = copy.deepcopy(base.model)
    batches = Subject(model, base.tokenizer, base.texts, settings["batch"])
    steps = settings["epochs"] * -(-len(rows) // settings["batch"])
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings["learning_rate"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings["learning_rate"], total_steps=steps)
    order = torch.Generator().manual_seed(settings["seed"])
    for _ in range(settings["epochs"]):
        for part in torch.randperm(len(rows), generator=order).split(settings["batch"]):
            (batch,) = batches.batches([rows[k] for k in part.tolist()])
            loss = model(**batch).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    tuned: nn.Module = model.eval()
    return tuned
