"""Models x layers x concepts, shared by the tests: small, seeded, built from configs, nothing downloaded.

A case has three concepts whose rows overlap in part, and more than twice as many rows as columns at every site. Token
batches are padded on the left, on the right or not at all, so that a test which forgets the mask fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lashley.moments import Moment

CONCEPTS = ("a", "b", "c")

Data = dict[str, list[Any]]


@dataclass(frozen=True)
class Case:
    """A model and its data.

    Attributes:
        name: for test ids.
        model: builds the model, in evaluation mode and float32.
        data: builds ``{concept: batches}``.
    """

    name: str
    model: Callable[[], nn.Module]
    data: Callable[[], Data]

    def build(self, seed: int = 0) -> tuple[nn.Module, Data]:
        torch.manual_seed(seed)
        model = self.model().eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):  # transformers starts them at zero, where an error would not show
                    parameter.normal_(std=0.3)
        torch.manual_seed(seed + 1)
        return model, self.data()


def mlp(*widths: int, bias: bool = True) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for dim, out in pairwise(widths):
        layers += [nn.Linear(dim, out, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def vectors(dim: int, rows: int = 60, batches: int = 3) -> Data:
    """Each concept has directions of its own, shares others, and has a mean."""
    shared = torch.randn(dim // 2, dim)
    return {
        concept: [
            torch.randn(rows, dim // 2) @ shared / dim**0.5 + torch.randn(rows, dim) * scale + 0.3 * number
            for _ in range(batches)
        ]
        for number, (concept, scale) in enumerate(zip(CONCEPTS, (0.2, 0.4, 0.6), strict=True))
    }


def cnn() -> nn.Module:
    """Groups, dilation, stride, depthwise, "same", a padding that is not zeros, and a bias on some only."""
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2, padding=1, padding_mode="circular"),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, groups=6, dilation=2, padding="same", bias=False),
        nn.ReLU(),
        nn.Conv2d(6, 8, (3, 2), stride=2, dilation=(2, 1), padding=(2, 0), groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def pictures(channels: int, size: int, count: int = 16, batches: int = 2) -> Data:
    return {
        concept: [torch.randn(count, channels, size, size) * (1 + 0.3 * number) + 0.2 * number for _ in range(batches)]
        for number, concept in enumerate(CONCEPTS)
    }


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
            initializer_range=0.3,
            attn_implementation="eager",
        )
    )


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=64,
            n_embd=24,
            n_layer=2,
            n_head=4,
            n_positions=32,
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=0,
            attn_implementation="eager",
        )
    )


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            image_size=12,
            patch_size=4,
            num_channels=2,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=28,
            num_labels=3,
            initializer_range=0.3,
            attn_implementation="eager",
        )
    )


def tokens(vocabulary: int = 64) -> Data:
    """A concept's tokens come from its own two thirds of the vocabulary."""
    third = vocabulary // 3
    return {
        concept: [
            token_batch(torch.randint(number * third // 2, number * third // 2 + 2 * third, (6, 9)), side)
            for side in ("left", "right", "none")
        ]
        for number, concept in enumerate(CONCEPTS)
    }


def token_batch(ids: Tensor, side: str, pad: int = 3) -> dict[str, Tensor]:
    """Token ids with ``pad`` columns of padding; positions count from the first real token."""
    before, after = {"left": (pad, 0), "right": (0, pad), "none": (0, 0)}[side]
    mask = nn.functional.pad(torch.ones_like(ids), (before, after))
    return {
        "input_ids": nn.functional.pad(ids, (before, after), value=1),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
    }


def images() -> Data:
    return {concept: [{"pixel_values": x} for x in batches] for concept, batches in pictures(2, 12, count=10).items()}


CASES = {
    case.name: case
    for case in (
        Case("mlp", lambda: mlp(24, 20, 16, 6), lambda: vectors(24)),
        Case("mlp_no_bias", lambda: mlp(24, 20, 16, 6, bias=False), lambda: vectors(24)),
        Case("mlp_wide", lambda: mlp(264, 40, 6), lambda: vectors(264, rows=80)),  # products in float32
        Case("cnn", cnn, lambda: pictures(4, 9)),
        Case("llama", llama, tokens),
        Case("gpt2", gpt2, tokens),
        Case("vit", vit, images),
    )
}


def square(rows: Tensor) -> Moment:
    """The moment of ``rows`` in its square form, however few they are."""
    moment = Moment.of(rows)
    lower = torch.ones(moment.dim, moment.dim, dtype=torch.bool).tril()
    return Moment.unpack({"sum": moment.sum, "triangle": moment.square[lower]}, moment.count)


def count_calls(monkeypatch: pytest.MonkeyPatch, *names: str) -> dict[str, int]:
    """From now on, how often each of these functions of `torch.linalg` was called."""
    calls = dict.fromkeys(names, 0)

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(torch.linalg, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return original(*args, **kwargs)

        return call

    for name in names:
        monkeypatch.setattr(torch.linalg, name, counted(name))
    return calls


def double(value: Any) -> Any:
    """A model, batch or data set in float64; integers stay."""
    if isinstance(value, nn.Module):
        return value.double()
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: double(item) for key, item in value.items()}
    return [double(item) for item in value]
