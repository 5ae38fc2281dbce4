"""A checkpoint of a large model's shape, rewritten in a process of limited memory."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from lashley import Engram
from lashley.engram import Delta
from lashley.estimators import Projection
from lashley.export import Source
from lashley.layers import LinearLayer
from lashley.provenance import environment, fingerprint

_CHUNK = 1 << 23


def run(config: Mapping[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """The benchmark's result, as JSON."""
    torch.set_num_threads(config["threads"])
    with tempfile.TemporaryDirectory(dir=config.get("folder")) as place:
        folder = Path(place)
        source, engram, out = folder / "source", folder / "engram", folder / "out"
        stored = write_checkpoint(source, config)
        size = sum(file.stat().st_size for file in source.glob("*.safetensors"))
        say(f"a checkpoint of {size / 1e9:.2f} GB in {len(list(source.glob('*.safetensors')))} files")
        layers = write_engram(engram, stored, config)
        start = time.perf_counter()
        copy(source, folder / "copy")
        copied = time.perf_counter() - start
        say(f"copied in {copied:.1f} s")
        shutil.rmtree(folder / "copy")
        job = subprocess.run(
            [sys.executable, "-m", "benchmarks.shards.job", source, engram, out, json.dumps(config)],
            capture_output=True,
            text=True,
            check=False,
        )
        if job.returncode:
            raise RuntimeError(job.stderr)
        rewritten = json.loads(job.stdout)
        say(f"rewritten in {rewritten['seconds']:.1f} s with a peak of {rewritten['peak_bytes'] / 2**30:.2f} GiB")
        result = {
            "config": dict(config),
            "bytes": size,
            "files": len(list(source.glob("*.safetensors"))),
            "tensors": len(stored),
            "largest_bytes": max(map(_size, stored.values())),
            "engram_bytes": sum(file.stat().st_size for file in engram.iterdir()),
            "layers": layers,
            "copied_seconds": copied,
            **rewritten,
            "checked": check(source, out, set(Engram.load(engram))),
            "made_by": environment(),
        }
    return result


def write_checkpoint(folder: Path, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Files with headers and nothing but holes after them: zeros that take no space, and are read like numbers."""
    import transformers

    folder.mkdir()
    settings = config["model"]
    (folder / "config.json").write_text(json.dumps(settings))
    cls = getattr(transformers, settings["architectures"][0])
    with torch.device("meta"):
        state = cls(cls.config_class(**{k: v for k, v in settings.items() if k != "architectures"})).state_dict()
    stored = {name: tuple(tensor.shape) for name, tensor in state.items()}
    places: dict[str, str] = {}
    groups = list(_groups(stored, config["shard_bytes"]))
    for number, group in enumerate(groups, start=1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in group:
            bytes_ = _size(stored[name])
            entries[name] = {"dtype": "BF16", "shape": stored[name], "data_offsets": [end, end + bytes_]}
            end += bytes_
        header = json.dumps(entries).encode()
        with (folder / file).open("wb") as out:
            out.write(len(header).to_bytes(8, "little") + header)
            out.truncate(8 + len(header) + end)
        places |= dict.fromkeys(group, file)
    index = {"metadata": {"total_size": sum(map(_size, stored.values()))}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return stored


def _groups(stored: Mapping[str, tuple[int, ...]], limit: int) -> Iterator[list[str]]:
    """Tensors in their order, file by file."""
    group: list[str] = []
    size = 0
    for name, shape in stored.items():
        if group and size + _size(shape) > limit:
            yield group
            group, size = [], 0
        group.append(name)
        size += _size(shape)
    yield group


def _size(shape: tuple[int, ...]) -> int:
    return 2 * torch.Size(shape).numel()


def write_engram(folder: Path, stored: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> int:
    """Random factors for every linear layer, the head among them."""
    zeros: dict[tuple[int, ...], str] = {}
    deltas = {}
    for seed, (name, shape) in enumerate(stored.items()):
        if len(shape) != 2 or "embed" in name:
            continue
        layer = LinearLayer(name.removesuffix(".weight"), "Linear", shape[0], shape[1], 1, False, shape)
        drawn = torch.Generator().manual_seed(seed)
        factors = (
            torch.randn(shape[0], config["rank"], generator=drawn),
            torch.randn(config["rank"], shape[1], generator=drawn),
        )
        if shape not in zeros:
            zeros[shape] = fingerprint(torch.zeros(shape, dtype=torch.bfloat16))
        deltas[layer.name] = Delta(layer, factors=factors, base=zeros[shape], base_norm=0.0)
    Engram(deltas, {"random": 1.0}, Projection()).save(folder)
    return len(deltas)


def copy(source: Path, target: Path) -> None:
    """The same bytes read and written in the same chunks, and put on the disk: what any rewriting costs at least."""
    target.mkdir()
    for file in source.iterdir():
        with file.open("rb") as content, (target / file.name).open("wb") as out:
            while chunk := content.read(_CHUNK):
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())


def check(source: Path, out: Path, edited: set[str]) -> dict[str, bool]:
    """Read both again: headers and everything that was not edited are equal, and every edited tensor is another."""
    before, after = Source(source), Source(out)
    changed = {name for name in before if name.removesuffix(".weight") in edited}
    index = "model.safetensors.index.json"
    return {
        "headers_equal": all(shard.header == after.shards[name].header for name, shard in before.shards.items()),
        "index_equal": filecmp.cmp(source / index, out / index, shallow=False),
        "others_equal": all(before.shard_of[n].read(n) == after.shard_of[n].read(n) for n in set(before) - changed),
        "edited_differ": all(bool(after[name].any()) for name in changed),  # the base is all zeros
    }
