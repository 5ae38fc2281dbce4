"""The same work, done by each: moments of all concepts, then the dense engrams of the wanted ones.

A rival's ``record(case)`` returns whatever it keeps; its ``solve(case, kept)`` yields, one concept after the other,
``{layer: engram}`` with tensors in the shape of the layers' weights. ``held(case, kept)`` are the tensors in memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lashley
from benchmarks.peer.cases import Case
from lashley.spectrum import Cut

INSTALL = "Expected ai-engram to be installed, which the comparison is with. Run: pip install ai-engram==0.11.0"

Engram = Mapping[str, Tensor]


class Lashley:
    """One pass, one factorisation per site.

    Args:
        dtype: of the products; None is lashley's default.
    """

    name = "lashley"

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        self.dtype = dtype
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def record(self, case: Case) -> lashley.Recording:
        """With a checkpoint where the case says so: concepts that are over then lie in files."""
        folder = None
        if case.on_disk:
            if self._folder is not None:
                self._folder.cleanup()
            self._folder = tempfile.TemporaryDirectory(prefix="benchmark-peer-")
            folder = Path(self._folder.name) / "recording"
        return lashley.record(case.model, case.concepts, dtype=self.dtype, checkpoint=folder, progress=False)

    def solve(self, case: Case, kept: lashley.Recording) -> Iterator[Engram]:
        for concept in case.wanted:
            yield {name: delta.weight for name, delta in kept.engram(case.model, concept).items()}

    def held(self, case: Case, kept: lashley.Recording) -> list[Tensor]:
        if case.on_disk:
            return []
        moments = [
            moment for site in kept.sites for concept in kept.concepts for moment in kept.moments(concept, site.name)
        ]
        return [t for m in moments for t in (m.sum, m.rows, *(m.blocks or ())) if t is not None]


class Peer:
    """The authors' package, used as well as it can be: each concept is read once, the total is merged from the parts.

    Its projections leave out the share of the concept's rows, which it multiplies in when it edits; here that is part
    of solving.
    """

    name = "ai-engram"

    def __init__(self) -> None:
        try:
            import engram
        except ModuleNotFoundError as error:
            raise SystemExit(INSTALL) from error
        self.package = engram
        self.version = engram.__version__

    def record(self, case: Case) -> tuple[Any, dict[str, Any]]:
        editor = self.package.EngramEditor(case.model, self.package.EditorConfig())
        parts = {
            concept: editor.collect_statistics(batches, batch_fn=_inputs, mask_fn=_counted)
            for concept, batches in case.concepts.items()
        }
        return editor.merge_statistics(*parts.values()), parts

    def solve(self, case: Case, kept: tuple[Any, dict[str, Any]]) -> Iterator[Engram]:
        total, parts = kept
        editor = self.package.EngramEditor(case.model, self.package.EditorConfig())
        for concept in case.wanted:
            found = editor.compute_engram_weights(parts[concept], total)
            yield {name: info.projection * (info.n / info.N) for name, info in found.layers.items()}

    def held(self, case: Case, kept: tuple[Any, dict[str, Any]]) -> list[Tensor]:
        total, parts = kept
        return [cov for statistics in (total, *parts.values()) for cov in statistics.cov.values()]


def _inputs(batch: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}


def _counted(batch: Mapping[str, Tensor]) -> Tensor:
    return batch["labels"] != -100


class Formula:
    """``W S_c S^+`` as one would write it down for convolutions: unfold, multiply, `torch.linalg.pinv`.

    Products are float32 and sums float64; the cut of the pseudo-inverse is lashley's default.
    """

    name = "formula"

    def record(self, case: Case) -> dict[str, dict[str, Tensor]]:
        layers = {n: m for n, m in case.model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        kept: dict[str, dict[str, Tensor]] = {}
        sums: dict[str, Tensor] = {}

        def hook(name: str) -> Any:
            def add(module: nn.Module, inputs: tuple[Tensor]) -> None:
                rows = _rows(module, inputs[0])
                product = (rows.T @ rows).double()
                sums[name] = sums[name] + product if name in sums else product

            return add

        handles = [module.register_forward_pre_hook(hook(name)) for name, module in layers.items()]
        with torch.no_grad():
            for concept, batches in case.concepts.items():
                sums = {}
                for batch in batches:
                    case.model(batch)
                kept[concept] = sums
        for handle in handles:
            handle.remove()
        return kept

    def solve(self, case: Case, kept: dict[str, dict[str, Tensor]]) -> Iterator[Engram]:
        modules = dict(case.model.named_modules())
        inverses = {}
        for name in next(iter(kept.values())):
            total = torch.stack([sums[name] for sums in kept.values()]).sum(0)
            inverses[name] = torch.linalg.pinv(total, rtol=Cut().relative(len(total)))
        for concept in case.wanted:
            engrams = {}
            for name, square in kept[concept].items():
                module = modules[name]
                matrix = _matrix(module)
                dense = (matrix.double() @ square @ inverses[name]).float()
                weight = dense[:, :-1] if module.bias is not None else dense
                engrams[name] = weight.reshape(module.weight.shape)
            yield engrams

    def held(self, case: Case, kept: dict[str, dict[str, Tensor]]) -> list[Tensor]:
        return [square for sums in kept.values() for square in sums.values()]


def _rows(module: nn.Module, x: Tensor) -> Tensor:
    if isinstance(module, nn.Conv2d):
        x = F.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride).mT.flatten(0, 1)
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1) if module.bias is not None else x


def _matrix(module: nn.Module) -> Tensor:
    matrix = module.weight.detach().flatten(1)
    return matrix if module.bias is None else torch.cat([matrix, module.bias.detach()[:, None]], dim=1)


@torch.no_grad()
def bare(case: Case) -> None:
    """The forward pass over the same batches and nothing else."""
    for batch in case.batches:
        case.model(batch) if case.kind == "images" else case.model(**_inputs(batch))
