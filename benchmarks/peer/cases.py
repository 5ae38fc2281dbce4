"""The models and the data of the comparison: random ones from seeds, as times do not depend on them, and real texts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Batch = Any


@dataclass(frozen=True)
class Case:
    """What is to be done: one pass over all concepts, then the engrams of some of them.

    Attributes:
        kind: "sequences" or "images".
        concepts: ``{concept: batches}``.
        wanted: whose engrams.
        on_disk: whether lashley's concepts go to files as they end, and are read from there.
    """

    kind: str
    model: nn.Module
    concepts: Mapping[str, list[Batch]]
    wanted: tuple[str, ...]
    on_disk: bool = False

    @property
    def batches(self) -> list[Batch]:
        return [batch for batches in self.concepts.values() for batch in batches]


def build(settings: Mapping[str, Any], models: Mapping[str, Any]) -> Case:
    """The case that an entry of the config describes."""
    if settings["kind"] == "texts":
        model, concepts = texts(settings, models["texts"])
        return Case("sequences", model, concepts, tuple(concepts)[: settings["wanted"]], settings["on_disk"])
    names = [f"c{k}" for k in range(settings["concepts"])]
    shape = models[settings["kind"]]
    if settings["kind"] == "images":
        model = residual_network(**shape["network"])
        concepts = {name: images(settings["each"], settings["batch"], shape, k) for k, name in enumerate(names)}
    else:
        model = llama(shape["network"])
        concepts = {name: sequences(settings["each"], settings["batch"], shape, k) for k, name in enumerate(names)}
    return Case(settings["kind"], model, concepts, tuple(names[: settings["wanted"]]), settings["on_disk"])


def llama(network: Mapping[str, int]) -> nn.Module:
    """A Llama-shaped language model with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**network, tie_word_embeddings=False)).eval()


def sequences(count: int, batch: int, shape: Mapping[str, Any], seed: int) -> list[dict[str, Tensor]]:
    """Right-padded batches of random tokens; a prompt of 6 tokens to half of a sequence is masked out of the labels."""
    shortest, longest = shape["tokens"]
    generator = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    rows = []
    for _ in range(count):
        length = whole(shortest, longest + 1)
        prompt = whole(min(6, length // 2 - 1), length // 2)
        rows.append((torch.randint(1, shape["network"]["vocab_size"], (length,), generator=generator), prompt))
    batches = []
    for start in range(0, count, batch):
        some = rows[start : start + batch]
        size = len(some), max(len(tokens) for tokens, _ in some)
        ids, mask = torch.zeros(size, dtype=torch.long), torch.zeros(size, dtype=torch.long)
        labels = torch.full(size, -100)
        for row, (tokens, prompt) in enumerate(some):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
            labels[row, prompt : len(tokens)] = tokens[prompt:]
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return batches


def texts(
    settings: Mapping[str, Any], shape: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, list[dict[str, Tensor]]]]:
    """A trained model and questions with answers that it knows by heart: ``rows`` are ranges, one concept each.

    The model's folder lies under what ``LASHLEY_MODELS`` names, the data under what ``LASHLEY_DATA`` names.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import lashley

    folder = _under("LASHLEY_MODELS", shape["model"])
    file = _under("LASHLEY_DATA", shape["data"])
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ranges = settings["rows"]
    if isinstance(ranges, int):  # so many authors of 20 rows each
        starts = [*shape["authors"]][:ranges]
        ranges = {f"author {start // 20}": f"{start}:{start + 20}" for start in starts}
    concepts = {
        name: list(lashley.text_batches(f"{file}#{rows}", tokenizer, settings["batch"]))
        for name, rows in ranges.items()
    }
    return model, concepts


def _under(variable: str, name: str) -> Path:
    if variable not in os.environ:
        raise SystemExit(f"Expected the environment variable {variable} to name the folder that has {name}.")
    return Path(os.environ[variable]) / name


class _Block(nn.Module):
    """Two 3x3 convolutions and what goes around them."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def residual_network(width: int, classes: int) -> nn.Module:
    """The shape of ResNet-18 for small images: a 3x3 stem, four stages of two blocks; its own ``width`` is 64."""
    torch.manual_seed(0)
    stages, channels = [], width
    for stage in range(4):
        out = width * 2**stage
        stages += [_Block(channels, out, 1 if stage == 0 else 2), _Block(out, out, 1)]
        channels = out
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        *stages,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, classes),
    ).eval()


def images(count: int, batch: int, shape: Mapping[str, Any], seed: int) -> list[Tensor]:
    """Batches of random images."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(count, 3, shape["size"], shape["size"], generator=generator)
    return list(pixels.split(batch))
