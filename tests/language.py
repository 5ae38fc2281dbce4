"""Two-layer language models with every weight random, and thin and dense engrams of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import lashley
from editing import randomised

VOCABULARY = 48
SMALL = {"vocab_size": VOCABULARY, "max_position_embeddings": 32}


def llama(dtype: torch.dtype = torch.float32, tied: bool = False) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return filled(LlamaForCausalLM(LlamaConfig(**SMALL, **shape(), tie_word_embeddings=tied)), dtype)


def qwen(dtype: torch.dtype = torch.float32) -> Any:
    """Queries, keys and values have biases, nothing else has."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return filled(Qwen2ForCausalLM(Qwen2Config(**SMALL, **shape(), tie_word_embeddings=False)), dtype)


def gpt2(dtype: torch.dtype = torch.float32) -> Any:
    """Transposed weights, biases everywhere, a tied head."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=24, n_layer=2, n_head=2)
    return filled(GPT2LMHeadModel(config), dtype)


def shape() -> dict[str, int]:
    return {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }


def filled(model: nn.Module, dtype: torch.dtype) -> Any:
    """With weights large enough that an edit shows in the logits."""
    model = randomised(model, dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3)
    return model


def tokens(count: int, length: int, seed: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))


def recorded(model: nn.Module) -> lashley.Recording:
    """Two concepts with 5 rows and one with 320."""
    batches = {"one": tokens(1, 5, 1), "two": tokens(1, 5, 2), "many": tokens(20, 16, 3)}
    return lashley.record(model, {name: [{"input_ids": ids}] for name, ids in batches.items()}, progress=False)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(tokens(3, 9, 4)).logits
