"""An edited copy of a checkpoint folder, written file by file and tensor by tensor.

Only what the edit changes is decoded; everything else is copied byte for byte, under the names it has. The copy grows
in a folder beside its place, which keeps count of the finished files: a process that was killed goes on with the next
file when the same call is made again, and the place is taken only once everything is there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from lashley.checkpoint import alone
from lashley.edit import Alpha, Receipt
from lashley.edit.apply import warn
from lashley.engram import Delta, Engram
from lashley.errors import LashleyError, ModelError, StoreError
from lashley.export.plan import Plan, Result
from lashley.export.source import INDEX, Source
from lashley.provenance import command, digest, environment, fingerprint
from lashley.store import MANIFEST, Writer, check_target, checksum_of

__all__ = ["RECEIPT", "rewrite_checkpoint"]

RECEIPT = "receipt.json"
_PROGRESS = "progress.json"
# What is not copied along: other forms of the weights, and what describes the model before.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json")
_ITS_OWN = ("README.md", RECEIPT, MANIFEST)


def rewrite_checkpoint(
    source: str | os.PathLike[str],
    engram: Engram,
    out: str | os.PathLike[str],
    *,
    alpha: Alpha = 1.0,
    inject: bool = False,
    tied: str = "skip",
    notes: Mapping[str, Any] | None = None,
) -> Receipt:
    """Write an edited copy of a checkpoint folder of transformers without loading the model.

    Every file of weights is rewritten under its name, one tensor in memory at a time. Tensors that the edit leaves
    alone keep their bytes, files their order and metadata. Tokenizer, configs and other files are copied; other forms
    of the weights and the model card are not. The edit is computed and rounded as by `lashley.ablate_`, to the same
    bits.

    Args:
        source: a folder with ``config.json`` and safetensors, whole or in shards with an index.
        out: a folder that does not exist yet. It appears when it is complete.
        alpha: as in `lashley.ablate_`.
        inject: add the engram instead of subtracting it.
        tied: as in `lashley.ablate_`. "untie" adds the layer's own tensor to the file that holds the shared one, and
            corrects the config; the receipt says so.
        notes: JSON to stand in ``receipt.json`` beside the receipt.

    Returns:
        the receipt, also written to ``receipt.json`` in the folder.

    Raises:
        ModelError: the source has no weights in safetensors, lacks a shard, is cut off or is quantised.
        EditError: the engram does not fit, alpha is partial or not finite, or the new weights would not be finite.
        StoreError: ``out`` exists, cannot be written, or does not fit on the disk.

    Warns:
        LashleyWarning: rounding to the weights' type took more than a tenth of the edit, or nothing changed at all.
    """
    target = _target(out)
    base = Source(source)
    _refuse_quantised(base)
    plan = Plan(base, engram, alpha, 1 if inject else -1, tied)
    work = target.parent / f".{target.name}.part"
    with alone(work), _cleaned(work, target):
        job = _Job(work, base, _identity(base, plan), plan)
        job.check_space()
        for name in base.shards:
            job.write(name)
        receipt = plan.receipt(job.results())
        _companions(base, job.folder, plan)
        document = {
            "model": str(source),
            "concepts": engram.concepts,
            "estimator": None if engram.estimator is None else engram.estimator.to_json(),
            "direction": "inject" if inject else "ablate",
            "base_fingerprint": engram.base_fingerprint,
            "tied": tied,
            "receipt": receipt.to_dict(),
            "command": command(),
            "made_by": environment(),
            **(notes or {}),
        }
        text = json.dumps(document, indent=1, allow_nan=False)
        (job.folder / RECEIPT).write_text(text + "\n", encoding="utf-8")
        Writer(job.folder, job.checksums()).manifest("edited model", 1, {"receipt": RECEIPT})
        _target(target)
        os.rename(job.folder, target)
    shutil.rmtree(work, ignore_errors=True)
    warn(receipt, stacklevel=3)
    return receipt


class _Job:
    """The copy under construction, and which of its files are finished.

    Attributes:
        folder: the copy.
    """

    def __init__(self, work: Path, base: Source, identity: str, plan: Plan) -> None:
        self.folder = work / "folder"
        self._progress = work / "progress.json"
        self._base, self._identity, self._plan = base, identity, plan
        self._files: dict[str, dict[str, Any]] = {}
        for name, file in self._before().items():
            if (self.folder / name).is_file() and checksum_of(self.folder / name) == file["checksum"]:
                self._files[name] = file
        self.folder.mkdir(exist_ok=True)
        for path in self.folder.iterdir():
            if path.name not in self._files:
                path.unlink()

    def _before(self) -> dict[str, dict[str, Any]]:
        """What an earlier run finished, if it was this same job."""
        try:
            noted = json.loads(self._progress.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        files: dict[str, dict[str, Any]] = noted["files"] if noted["job"] == self._identity else {}
        return files

    def check_space(self) -> None:
        """Refuse what cannot fit, before anything is written."""
        shards = {name: shard.size_with(self._plan.added(shard)) for name, shard in self._base.shards.items()}
        needed = sum(size for name, size in shards.items() if name not in self._files)
        needed += sum(path.stat().st_size for path in _beside(self._base.folder))
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise StoreError(
                f"Expected {needed / 1e9:.2f} GB of free space for the edited copy of {self._base.folder}, got "
                f"{free / 1e9:.2f} GB where {self.folder.parent} is. Nothing was written. Make space, choose another "
                "disk, or ship the edit as a LoRA adapter."
            )

    def write(self, name: str) -> None:
        """Write one file of weights, unless that was done."""
        if name in self._files:
            return
        shard, result = self._base.shards[name], Result()
        partial = self.folder / f"{name}.partial"
        checksum = shard.copy(partial, self._plan.edits(shard, result), self._plan.added(shard))
        os.replace(partial, self.folder / name)
        self._files[name] = {"checksum": checksum, "result": result.to_json()}
        beside = self._progress.with_suffix(".next")
        beside.write_text(json.dumps({"job": self._identity, "files": self._files}), encoding="utf-8")
        os.replace(beside, self._progress)

    def results(self) -> list[Result]:
        return [Result.from_json(file["result"]) for file in self._files.values()]

    def checksums(self) -> dict[str, int]:
        return {name: file["checksum"] for name, file in self._files.items()}


def _target(out: str | os.PathLike[str]) -> Path:
    target = Path(out).resolve()
    if target.exists():
        raise StoreError(
            f"Expected {target} to be absent, got something that exists. Choose another name, or delete it."
        )
    return check_target(target)


def _refuse_quantised(base: Source) -> None:
    if (settings := base.config.get("quantization_config")) is not None:
        method = settings.get("quant_method", "some way") if isinstance(settings, dict) else "some way"
        raise ModelError(
            f"Expected a checkpoint whose weights are plain numbers, got {base.folder}, quantised by {method}. "
            "Rounding would take the edit. Ship it as a LoRA adapter, or edit the checkpoint this one was made from."
        )


def _identity(base: Source, plan: Plan) -> str:
    """What must be the same for a later process to go on."""
    files = [(shard.path.resolve(), shard.path.stat(), shard.header) for shard in base.shards.values()]
    stats = [(str(path), stat.st_size, stat.st_mtime_ns, header) for path, stat, header in files]
    deltas = [
        (
            name,
            delta.layer,
            delta.fold,
            [fingerprint(tensor) for tensor in (*(delta.factors or (delta.weight,)), *_bias(delta))],
        )
        for name, delta in plan.engram.items()
    ]
    return digest(stats, deltas, plan.alphas, plan.tied)


def _bias(delta: Delta) -> tuple[Tensor, ...]:
    return () if delta.bias is None else (delta.bias,)


@contextmanager
def _cleaned(work: Path, target: Path) -> Iterator[None]:
    """Nothing stays of what was refused or failed; what was interrupted goes on when it is called again."""
    try:
        yield
    except Exception as error:
        shutil.rmtree(work, ignore_errors=True)
        if not isinstance(error, OSError) or isinstance(error, LashleyError):
            raise
        raise StoreError(
            f"Could not write {target}: {error}. Nothing of it was left. Is there space on the disk, and may you write "
            "there?"
        ) from error


def _beside(folder: Path) -> list[Path]:
    """The files that go along with the weights."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and not path.name.endswith(_WEIGHTS)
        and not path.name.startswith(".")
        and path.name not in _ITS_OWN
    ]


def _companions(base: Source, folder: Path, plan: Plan) -> None:
    """Everything but the weights; where tensors were added, with what they change in the index and the config."""
    for path in _beside(base.folder):
        shutil.copyfile(path, folder / path.name)
    index = base.folder / INDEX
    if index.is_file():
        shutil.copyfile(index, folder / INDEX)
        if plan.additions:
            _rewrite(folder / INDEX, lambda values: _index(values, base, plan))
    if plan.untied_head:
        _rewrite(folder / "config.json", _untie)


def _rewrite(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(file.read_text(encoding="utf-8"))
    change(values)
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _index(values: dict[str, Any], base: Source, plan: Plan) -> None:
    metadata = values.get("metadata") or {}
    for name, of in plan.additions.items():
        shard = base.shard_of[of]
        values["weight_map"][name] = shard.path.name
        for key, more in (
            ("total_size", shard.stored[of].size),
            ("total_parameters", shard.stored[of].empty().numel()),
        ):
            if key in metadata:
                metadata[key] += more


def _untie(config: dict[str, Any]) -> None:
    for values in (config, *(value for value in config.values() if isinstance(value, dict))):
        if values is config or "tie_word_embeddings" in values:
            values["tie_word_embeddings"] = False
