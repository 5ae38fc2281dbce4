"""Small networks, engrams made of random numbers, and a way to see whether a model was given back to the byte."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from helpers import gaussian
from lashley.engram import Delta, Engram
from lashley.estimators import Projection
from lashley.layers import describe
from lashley.provenance import fingerprint


def mlp(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """6-5-4 with a bias in the first layer only."""
    return randomised(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4, bias=False)), dtype)


def randomised(model: nn.Module, dtype: torch.dtype = torch.float32) -> Any:
    """Every parameter standard normal, whatever was drawn before."""
    model = model.to(dtype)
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.copy_(gaussian(*parameter.shape, seed=seed))
    return model


def engram_of(
    model: nn.Module, *names: str, scale: float = 0.1, bias: bool = True, rank: int | None = None, seed: int = 100
) -> Engram:
    """Random deltas for the named layers (default: every layer with a weight of two dims or more)."""
    modules = dict(model.named_modules())
    if not names:
        names = tuple(n for n, m in modules.items() if n and getattr(m, "weight", torch.zeros(0)).dim() > 1)
    return Engram(
        {
            name: delta_of(name, modules[name], scale=scale, bias=bias, rank=rank, seed=seed + 3 * number)
            for number, name in enumerate(names)
        },
        {"cat": 1.0},
        Projection(),
    )


def delta_of(
    name: str, module: nn.Module, *, scale: float = 0.1, bias: bool = True, rank: int | None = None, seed: int = 100
) -> Delta:
    layer = describe(name, module)
    weight = module.weight.detach()
    keep = torch.float64 if weight.dtype == torch.float64 else torch.float32
    parts: dict[str, Any] = {}
    if rank is None:
        parts["weight"] = (scale * gaussian(*weight.shape, seed=seed)).to(keep)
    else:
        a, b = gaussian(layer.out, rank, seed=seed), gaussian(rank, layer.dim, seed=seed + 1)
        parts["factors"] = ((scale * a).to(keep), b.to(keep))
    if bias and layer.bias:
        parts["bias"] = (scale * gaussian(*module.bias.shape, seed=seed + 2)).to(keep)
    return Delta(layer, base=fingerprint(weight), base_norm=weight.double().norm().item(), **parts)


def raw(tensor: Tensor | None) -> tuple[Any, ...] | None:
    """The very bytes of a tensor, which tell 0.0 from -0.0 and one nan from another."""
    if tensor is None:
        return None
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return tensor.dtype, tuple(tensor.shape), flat.numpy().tobytes()


def state(model: nn.Module) -> dict[str, Any]:
    """Everything an edit must give back: bytes, which object a parameter is, gradients, flags, hooks."""
    found: dict[str, Any] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found[name] = (id(parameter), parameter.requires_grad, id(parameter.grad), raw(parameter.grad), raw(parameter))
    for name, buffer in model.named_buffers(remove_duplicate=False):
        found[name] = (id(buffer), raw(buffer))
    for name, module in model.named_modules(remove_duplicate=False):
        found[f"{name}/module"] = (
            id(module),
            module.training,
            len(module._forward_pre_hooks),
            len(module._forward_hooks),
        )
    return found
