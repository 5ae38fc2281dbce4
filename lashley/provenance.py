"""What made this: versions, fingerprints, the command.

A fingerprint is a short text that changes when a tensor's content changes. It reads the whole tensor once
(two sums) and hashes a strided sample of its bytes, so that fingerprinting a large model costs a fraction of
a second. It finds mistakes (another checkpoint, an edited layer, a shard recorded twice); it is no defence
against someone who wants two tensors to look the same.
"""

from __future__ import annotations

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

_SAMPLE = 4096  # elements of a tensor that are hashed byte for byte


def digest(*parts: object) -> str:
    """A short hash of the parts' texts (bytes are taken as they are)."""
    h = hashlib.blake2b(digest_size=12)
    for part in parts:
        h.update(part if isinstance(part, bytes) else repr(part).encode())
        h.update(b"\0")
    return h.hexdigest()


def fingerprint(tensor: torch.Tensor) -> str:
    """Fingerprint of one tensor: dtype, shape, sum, sum of squares, and a strided sample of its elements."""
    import torch

    with torch.no_grad():
        flat = tensor.detach().reshape(-1)
        if flat.is_complex():
            flat = torch.view_as_real(flat).reshape(-1)
        step = max(1, flat.numel() // _SAMPLE)
        sample = flat[::step][: _SAMPLE + 1].cpu()
        sums: tuple[float, ...] = ()
        if flat.numel() and flat.dtype.is_floating_point:
            # A float32 sum of float16 or bfloat16 would be exact enough; of float32 it would not see small edits.
            wide = torch.float32 if flat.device.type == "mps" else torch.float64
            sums = (flat.sum(dtype=wide).item(), torch.linalg.vector_norm(flat, dtype=wide).item())
        elif flat.numel():
            sums = (flat.sum().item(),)
        raw = sample.contiguous().view(torch.uint8).numpy().tobytes() if sample.numel() else b""
        return digest(str(tensor.dtype), tuple(tensor.shape), sums, raw)


def command() -> str:
    """The command line of this process as a person would type it (the programme without its folder)."""
    if not sys.argv or not sys.argv[0]:
        return "python"
    head = Path(sys.argv[0])
    name = f"python -m {head.parent.name}" if head.name == "__main__.py" else head.name
    return shlex.join([*name.split(), *sys.argv[1:]])


def environment() -> dict[str, Any]:
    """Versions and machine facts that can change a number; a package that is not installed is left out."""
    found = {}
    for package in ("lashley", "torch", "numpy", "safetensors", "transformers", "scikit-learn"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # an optional package: its absence is visible in the result
    facts: dict[str, Any] = {
        "versions": found,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
    }
    if "torch" in sys.modules:
        import torch

        facts["threads"] = torch.get_num_threads()
        facts["devices"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return facts
