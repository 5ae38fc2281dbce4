"""What the tests of the measures share: exact vectors, and the forms in which the same numbers may come."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "measures.json").read_text())
EXACT = 1e-8
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def _spread(x: Tensor) -> Tensor:
    """The same numbers, not contiguous in memory."""
    return torch.stack([x, x + 1], -1)[..., 0]


def _fixed(x: Tensor) -> np.ndarray:
    array = x.numpy().copy()
    array.flags.writeable = False
    return array


# Small integers and eighths survive all of them.
FORMS: dict[str, Callable[[Tensor], Any]] = {
    "double": lambda x: x.double(),
    "float": lambda x: x.float(),
    "half": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "numpy": lambda x: x.float().numpy(),
    "numpy half": lambda x: x.numpy().astype(np.float16),
    "numpy read-only": _fixed,
    "numpy backwards": lambda x: np.flip(np.flip(x.numpy(), 0).copy(), 0),
    "nested lists": lambda x: x.tolist(),
    "not contiguous": lambda x: _spread(x).T.contiguous().T if x.ndim == 2 else _spread(x),
    "with a graph": lambda x: x.clone().requires_grad_(),
    **{f"on {device}": lambda x, device=device: x.to(device) for device in DEVICES},
}
