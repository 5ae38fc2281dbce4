"""What made this: versions, fingerprints, the command.

A fingerprint is a short text that changes when a tensor's content changes. It adds up the bit patterns of the numbers,
as integers that wrap around, in a few thousand columns. The order of such sums does not matter, so the fingerprint is
the same on every device and with any number of threads; a change of any single number shows. The tensor is read once.
It finds mistakes (another checkpoint, an edited layer, a shard recorded twice); it is no defence against someone who
wants two tensors to look the same.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["command", "digest", "environment", "fingerprint"]

_COLUMNS = 4093  # a prime: rows of a matrix do not line up with it, so that exchanging two of them shows
_ROWS = 64  # summed at a time: integer sums widen their input first, and this much of it (2 MiB) stays in the cache


def digest(*parts: object) -> str:
    """A short hash of the parts' texts (bytes are taken as they are)."""
    h = hashlib.blake2b(digest_size=12)
    for part in parts:
        h.update(part if isinstance(part, bytes) else repr(part).encode())
        h.update(b"\0")
    return h.hexdigest()


def fingerprint(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> str:
    """Fingerprint of one tensor: dtype, shape, and the bit patterns of its numbers summed in columns.

    Args:
        dtype: the fingerprint that the tensor would have in this type, without a copy of it.
    """
    import torch

    with torch.no_grad():
        flat = tensor.detach()
        if flat.is_complex():
            flat = torch.view_as_real(flat.resolve_conj())
        flat = flat.reshape(-1)
        stored = flat.dtype if dtype is None else dtype
        integer = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[stored.itemsize]
        whole = len(flat) // _COLUMNS * _COLUMNS
        sums = torch.zeros(_COLUMNS, dtype=torch.int64, device=flat.device)
        for rows in flat[:whole].view(-1, _COLUMNS).split(_ROWS):
            sums += rows.to(stored).view(integer).sum(0, dtype=torch.int64)
        rest = flat[whole:].to(stored).view(integer)
        parts = (part.cpu().numpy().tobytes() for part in (sums, rest))
        return digest(str(dtype or tensor.dtype), tuple(tensor.shape), *parts)


def command() -> str:
    """The command line of this process as a person would type it, programs without their folders."""
    if not sys.argv or not sys.argv[0]:
        return "python"
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = Path(sys.argv[0]).name
    if module is not None:  # python -m
        head = ["python", "-m", module.name.removesuffix(".__main__")]
    elif program == "-c" or program.endswith(".py"):
        head = ["python", program]
    else:
        head = [program]
    return shlex.join([*head, *sys.argv[1:]])


def environment() -> dict[str, Any]:
    """Versions and machine facts that can change a number.

    A package that is not installed is left out. ``threads`` and ``devices`` (the accelerators, once this process has
    used one) are there when torch is.
    """
    facts: dict[str, Any] = {
        "versions": dict(_versions()),
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
    }
    if "torch" in sys.modules:
        import torch

        facts["threads"] = torch.get_num_threads()
        used = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
        facts["devices"] = [torch.cuda.get_device_name(i) for i in range(used)]
    return facts


@functools.cache
def _versions() -> dict[str, str]:
    found = {}
    for package in ("lashley", "torch", "numpy", "safetensors", "transformers", "scikit-learn"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # an optional package: its absence shows in the result
    return found
