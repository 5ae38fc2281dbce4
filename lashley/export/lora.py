"""An engram as a LoRA adapter in the format of PEFT, which vLLM and others read too.

The adapter at its default strength is the edit: added to the base model it gives ``W - alpha E``. The scale that PEFT
applies, ``lora_alpha / r``, is 1, so the strength can be turned at load time by setting ``lora_alpha``.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lashley.edit import Alpha
from lashley.edit.apply import alphas_of
from lashley.engram import Delta, Engram
from lashley.errors import EditError, LashleyWarning
from lashley.export.adapted import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from lashley.export.lora_base import Base
from lashley.export.lora_report import LoraLayer, LoraReport
from lashley.export.lowrank import LowRank, low_rank, realised_error
from lashley.layers import (
    ConvLayer,
    ConvTransposeLayer,
    EmbeddingLayer,
    Layer,
    LinearLayer,
)
from lashley.layers.linear import TransposedLinearLayer
from lashley.provenance import command, environment
from lashley.store import check_target, writing

__all__ = ["RANKS", "save_lora"]

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the maximal ranks that vLLM knows


def save_lora(
    engram: Engram,
    path: str | os.PathLike[str],
    *,
    alpha: Alpha = 1.0,
    inject: bool = False,
    base: str | os.PathLike[str] | nn.Module | None = None,
    base_name: str | None = None,
    tied: str = "skip",
    rank: int | None = None,
    energy: float = 0.999,
    max_rank: int = RANKS[-1],
    dtype: torch.dtype = torch.float32,
) -> LoraReport:
    """Write the edit as a PEFT LoRA adapter: a folder with `adapter_config.json` and `adapter_model.safetensors`.

    A delta that is held as factors (a concept of few rows: see `lashley.engram.Delta`) is written without loss. Any
    other is cut to the directions that hold the share ``energy`` of ``||E||_F^2``. All layers get one rank, because not
    every engine knows ranks layer by layer: the largest that one of them needs, rounded up to the next of `RANKS`. A
    layer that needs less is filled up with zeros, a layer that was cut uses all of it.

    Args:
        alpha: as in `lashley.ablate_`; layers of strength 0 are left out.
        inject: add the engram instead of subtracting it.
        base: the model it is for: loaded, its folder, or its name on the Hub. PEFT finds the base by it. With the first
            two the engram is held against it; of a name nothing is known, and a tied layer not found out.
        base_name: the name by which others have the base, instead of a folder of yours.
        tied: "skip" a layer whose weight has another name too, as `lashley.ablate` does; or "untie", which an adapter
            does by itself: what it adds to a head leaves the embedding alone, until somebody merges it.
        rank: keep so many directions of every layer at most, instead of going by ``energy``.
        max_rank: the largest rank that will do; vLLM takes no more than 512, and 16 unless it is told.
        dtype: of the stored matrices.

    Raises:
        EditError: alpha is partial or not finite; the engram does not fit the base; a layer that has no LoRA form; a
            rank above ``max_rank`` would be needed; dtype cannot hold the numbers.
        StoreError: the folder holds other files, or cannot be written. Nothing was written then.

    Warns:
        LashleyWarning: the weights of the base are not those the engram was solved for.
    """
    check_target(path)
    _check_options(rank, energy, max_rank, dtype, tied)
    alphas = alphas_of(engram, alpha)
    sign = 1.0 if inject else -1.0
    found = Base(base, base_name, engram)
    skipped = found.shared if tied == "skip" else {}
    wanted = {name: delta for name, delta in engram.items() if alphas[name] and name not in skipped}
    if not wanted:
        why = "all are tied (see tied=)" if skipped else "the engram has none or the strength is 0"
        raise EditError(f"Expected a layer to change, got none: {why}. The adapter would be empty.")
    with_bias = any(delta.bias is not None and delta.bias.any() for delta in wanted.values())
    for delta in wanted.values():
        _check_form(delta, with_bias)
    parts: dict[str, LowRank] = {}
    needs: dict[str, int] = {}
    for name, delta in wanted.items():
        parts[name] = low_rank(delta)
        needs[name] = _needed(parts[name], rank, energy, max_rank)
    common = _allowed(max(1, *needs.values()) if needs else 1, max_rank)
    _check_rank(common, max_rank, needs, energy)
    tensors: dict[str, Tensor] = {}
    layers: dict[str, LoraLayer] = {}
    for name, delta in engram.items():
        if name in skipped:
            note = f"shared with {', '.join(skipped[name])}; see tied="
            layers[name] = LoraLayer(name, "skipped", alphas[name] * -sign, note=note)
            continue
        if name not in wanted:
            layers[name] = LoraLayer(name, "empty", 0.0, note="strength 0")
            continue
        strength, part = sign * alphas[name], parts.pop(name)
        used = min(common if rank is None else rank, part.rank())
        b, a = (side.to(dtype) for side in part.cut(used, strength))
        bias = None if not with_bias else _bias(delta, strength, dtype)
        if not all(torch.isfinite(t).all() for t in (a, b, bias) if t is not None):
            raise EditError(
                f"Expected {dtype} to hold the adapter of layer {name!r}, got inf. Use float32 or bfloat16."
            )
        tensors |= _named(name, delta.layer, _padded(b, common, 1), _padded(a, common, 0), bias)
        error = realised_error(delta, strength, b, a)
        whole = used == part.rank()
        layers[name] = LoraLayer(name, "adapted", alphas[name] * -sign, used, error, whole)
    report = LoraReport(layers, common, str(dtype).removeprefix("torch."), with_bias, found.matches)
    config = _config(wanted, report, found)
    with writing(path) as folder:
        folder.tensors(ADAPTER_WEIGHTS, tensors)
        text = json.dumps(config, indent=2, sort_keys=True)
        (folder.folder / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")
        folder.manifest("LoRA adapter", 1, {**_about(engram, inject), "base": found.name, "report": report.to_dict()})
    if report.base_matches is False:
        warnings.warn(
            "The weights of the base are not those the engram was solved for: on it the adapter is another edit.",
            LashleyWarning,
            stacklevel=2,
        )
    return report


def _check_options(rank: int | None, energy: float, max_rank: int, dtype: torch.dtype, tied: str) -> None:
    if tied not in ("skip", "untie"):
        raise EditError(f"Expected tied to be 'skip' or 'untie', got {tied!r}: an adapter adds to one layer alone.")
    if rank is not None and (rank < 1 or rank > max_rank):
        raise EditError(f"Expected a rank from 1 to max_rank = {max_rank}, got {rank}.")
    if max_rank < 1:
        raise EditError(f"Expected max_rank of at least 1, got {max_rank}.")
    if not 0.0 < energy <= 1.0:
        raise EditError(f"Expected energy to be a share above 0 and up to 1, got {energy}.")
    if not dtype.is_floating_point or dtype.itemsize < 2:
        raise EditError(f"Expected a dtype of floating point numbers of 16 bits or more, got {dtype}.")


def _check_form(delta: Delta, with_bias: bool) -> None:
    """Refuse what PEFT's LoRA cannot compute."""
    layer, reason = delta.layer, ""
    if isinstance(layer, ConvTransposeLayer) or not isinstance(layer, LinearLayer | ConvLayer | EmbeddingLayer):
        reason = f"PEFT has no LoRA for a part like this of {layer.type}"
    elif layer.matrices > 1:
        reason = "a convolution in groups has a matrix for each"
    elif isinstance(layer, ConvLayer) and (set(layer.dilation) != {1} or layer.padding_mode != "zeros"):
        reason = "PEFT gives its convolutions neither dilation nor another padding than zeros"
    elif isinstance(layer, EmbeddingLayer) and with_bias:
        reason = "the engram moves biases, and PEFT's lora_bias does not go with embeddings"
    elif delta.fold:
        reason = f"its constant goes into the running mean of {delta.fold!r}, which an adapter cannot change"
    elif not layer.name:
        reason = "it is the model itself and has no name"
    if reason:
        raise EditError(
            f"Expected layers that a LoRA adapter can change, got {layer.name!r} ({layer.type}): {reason}. Leave it "
            "out with engram.select(...), or write an edited checkpoint."
        )


def _needed(part: LowRank, rank: int | None, energy: float, max_rank: int) -> int:
    whole = part.rank()
    if rank is not None:
        return min(rank, whole)
    return whole if part.exact and whole <= max_rank else part.rank(energy)


def _allowed(rank: int, max_rank: int) -> int:
    """The next rank that every engine takes, or the rank itself where there is none up to the limit."""
    return next((known for known in RANKS if rank <= known <= max_rank), rank)


def _check_rank(common: int, max_rank: int, needs: Mapping[str, int], energy: float) -> None:
    if common <= max_rank:
        return
    worst = max(needs, key=lambda name: needs[name])
    raise EditError(
        f"Expected an adapter of rank {max_rank} at most (max_rank), got layers that need more, {worst!r} {common} for "
        f"{energy:.4g} of its energy. Lower energy, give rank= and accept the error it reports, or write an edited "
        "checkpoint instead."
    )


def _bias(delta: Delta, strength: float, dtype: torch.dtype) -> Tensor:
    if delta.bias is None:
        return torch.zeros(delta.layer.out, dtype=dtype)
    return (strength * delta.bias).to(dtype)


def _padded(tensor: Tensor, size: int, dim: int) -> Tensor:
    shape = list(tensor.shape)
    shape[dim] = size - shape[dim]
    return torch.cat([tensor, tensor.new_zeros(shape)], dim)


def _named(name: str, layer: Layer, b: Tensor, a: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    """The tensors of a layer under PEFT's names and in its shapes."""
    prefix = f"base_model.model.{name}"
    if isinstance(layer, EmbeddingLayer):
        return {f"{prefix}.lora_embedding_A": a, f"{prefix}.lora_embedding_B": b}
    if isinstance(layer, ConvLayer):
        a = a.reshape(-1, *layer.shape[1:])
        b = b.reshape(*b.shape, *[1] * len(layer.kernel))
    tensors = {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}
    return tensors if bias is None else {**tensors, f"{prefix}.lora_B.bias": bias}


def _config(wanted: Mapping[str, Delta], report: LoraReport, base: Base) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base.name,
        "task_type": base.task,
        "inference_mode": True,
        "r": report.rank,
        "lora_alpha": report.rank,
        "lora_dropout": 0.0,
        "target_modules": list(wanted),
        "fan_in_fan_out": any(isinstance(delta.layer, TransposedLinearLayer) for delta in wanted.values()),
        "bias": "none",
        "lora_bias": report.bias,
        "use_rslora": False,
        "modules_to_save": None,
    }


def _about(engram: Engram, inject: bool) -> dict[str, Any]:
    return {
        "direction": "inject" if inject else "ablate",
        "concepts": engram.concepts,
        "estimator": None if engram.estimator is None else engram.estimator.to_json(),
        "base_fingerprint": engram.base_fingerprint,
        "command": command(),
        "made_by": environment(),
    }
