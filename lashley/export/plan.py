"""Which bytes of which files an edit changes, and the receipt that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, field
from typing import Any

from torch import Tensor

from lashley.edit import Alpha, Change, Receipt, blocks
from lashley.edit.apply import alphas_of
from lashley.edit.receipt import Measure, dtype_name
from lashley.edit.ties import check_policy
from lashley.engram import Delta, Engram
from lashley.errors import EditError, ModelError, nearest
from lashley.export.architecture import model_names
from lashley.export.shards import Shard
from lashley.export.source import Source, recognised
from lashley.layers import layer_type, places

__all__ = ["Plan", "Result"]


@dataclass
class Result:
    """What became of the edits in one file.

    Attributes:
        measures: by spot.
        matches: whether a layer had the weight its delta was solved for.
    """

    measures: dict[str, Measure] = field(default_factory=dict)
    matches: dict[str, bool] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"measures": {spot: astuple(m) for spot, m in self.measures.items()}, "matches": self.matches}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Result:
        """The inverse of `to_json`."""
        return Result({spot: Measure(*m) for spot, m in values["measures"].items()}, dict(values["matches"]))


@dataclass
class _Spot:
    """A tensor of the copy, or the part of it that is a layer's, and all that changes it.

    Attributes:
        name: for the messages, and to tell spots apart.
        view: takes the part out of the tensor.
        parts: which part of which delta is added to it, times what.
    """

    name: str
    view: Callable[[Tensor], Tensor]
    parts: list[blocks.Part] = field(default_factory=list)

    def edit(self, tensor: Tensor, result: Result) -> None:
        part = self.view(tensor)
        result.measures[self.name] = blocks.add(part, self.parts)
        blocks.check(self.name, part)  # afterwards is early enough: nobody sees the copy before it is complete


class Plan:
    """An edit of a checkpoint, checked against its headers.

    Attributes:
        additions: names of tensors that untying adds, and of those in the files that they are copies of.
        untied_head: whether the model's output embedding is no longer tied to the input's, which its config promises.

    Raises:
        EditError: the engram or alpha does not fit.
        ModelError: a tensor that cannot be edited.
    """

    def __init__(self, base: Source, engram: Engram, alpha: Alpha, sign: int, tied: str) -> None:
        check_policy(tied)
        if not isinstance(engram, Engram):
            raise EditError(f"Expected an engram, got {type(engram).__name__}. recording.engram(model, ...) makes one.")
        if not len(engram):
            raise EditError("Expected an engram with at least one layer, got an empty one.")
        self.base, self.engram, self.tied = base, engram, tied
        self.alphas = {name: sign * value for name, value in alphas_of(engram, alpha).items()}
        self.additions: dict[str, str] = {}
        self.untied_head = False
        self._state = base.empty()
        self._spots: dict[str, dict[str, _Spot]] = {}  # by tensor of the copy, by name of the spot
        self._of: dict[str, list[_Spot]] = {}  # by layer
        self._looks: dict[str, list[Delta]] = {}  # whose weight a tensor of the source is
        self._shared: dict[str, tuple[str, ...]] = {}
        self._dtypes: dict[str, str] = {}
        for name, delta in engram.items():
            self._layer(name, delta)

    def _layer(self, name: str, delta: Delta) -> None:
        """Find what a layer's delta changes."""
        key, tensor = self._found(delta, "weight")
        self._dtypes[name] = dtype_name(tensor)
        if delta.base:
            self._looks.setdefault(self.base.file_names[key], []).append(delta)
        touched = [which for which in delta.touches if self._there(delta, which)]
        keys = {which: self._found(delta, which)[0] for which in touched}
        others = tuple(other for key in keys.values() for other in self.base.ties.get(key, ()))
        if others:
            self._shared[name] = others
            if self.tied == "skip":
                return
        for which, key in keys.items():
            for target in self._targets(delta, which, key):
                self._add(name, target, which, self._view(delta, which, key), self.alphas[name])
        if others and self.tied == "untie":
            self._finish_untying(delta)
        if delta.fold:
            mean = f"{delta.fold}.running_mean"
            count = delta.layer.matrices * delta.layer.out
            if mean not in self._state or self._state[mean].shape != (count,):
                raise EditError(
                    f"Expected {mean!r} of {count} numbers in {self.base.folder}, for the constant of layer {name!r}; "
                    "it is not there. The engram is of another model."
                )
            self._add(name, self.base.file_names[mean], "bias", lambda tensor: tensor, -self.alphas[name])

    def _there(self, delta: Delta, which: str) -> bool:
        """Whether there is anything to change; a bias that the edit would have to add is refused."""
        if which == "weight" or delta.layer.in_state(self._state, which)[1] is not None:
            return True
        if self.alphas[delta.layer.name] == 0.0 and not delta.layer.bias:
            return False
        raise EditError(
            f"Expected layer {delta.layer.name!r} to have a bias in {self.base.folder}, because the engram moves it; "
            "it has none, and the model that is loaded from there has no place for one. Solve the engram with "
            "bias=False, or with an estimator that leaves biases alone."
        )

    def _found(self, delta: Delta, which: str) -> tuple[str, Tensor]:
        """The name and the shape of a layer's tensor, without its numbers."""
        layer, base = delta.layer, self.base
        key, tensor = layer.in_state(self._state, which)
        if tensor is None:
            if key in base.made:
                raise ModelError(
                    f"Expected {key!r} to be stored as it is used, got {base.folder}, from whose tensors transformers "
                    "makes it when it loads them. Load the model, edit it with lashley.ablate_ and save it with "
                    "save_pretrained."
                )
            names = [name.removesuffix(".weight") for name in base if name.endswith(".weight")]
            raise EditError(
                f"Expected {base.folder} to have layer {layer.name!r} of the engram, got no {key!r}. "
                f"{nearest(layer.name, names)}"
            )
        module = None if base.model is None else places(base.model).get(layer.name)
        wanted = layer.shape if which == "weight" else (layer.matrices * layer.out,)
        if tuple(tensor.shape) != wanted or (module is not None and layer_type(module) is not type(layer)):
            kind = layer.type if module is None else type(module).__name__
            raise EditError(
                f"Expected layer {layer.name!r} to be {layer.type} with a {which} {list(wanted)} as in the engram, got "
                f"{kind} with {list(tensor.shape)}. The engram is of another model."
            )
        if not tensor.dtype.is_floating_point or tensor.dtype.itemsize < 2:
            raise ModelError(
                f"Expected {key!r} as floating point numbers of 16 bits or more, got {dtype_name(tensor)}. Edit a "
                "checkpoint that is not quantised, or ship the edit as a LoRA adapter."
            )
        return key, tensor

    def _view(self, delta: Delta, which: str, key: str) -> Callable[[Tensor], Tensor]:
        def view(tensor: Tensor) -> Tensor:
            part = delta.layer.in_state({key: tensor}, which)[1]
            assert part is not None
            return part

        return view

    def _targets(self, delta: Delta, which: str, key: str) -> list[str]:
        """The tensors of the copy that are to change: more than one where equal ones are stored under tied names."""
        base = self.base
        others = base.ties.get(key, ())
        if not others or self.tied == "untie":
            if key in base.direct:
                if others and not any(other in base.direct for other in others):
                    self._add_copy(others[0], key)
                return [base.file_names[key]]
            self._add_copy(key, key)
            return [key]
        return [base.file_names[name] for name in (key, *others) if name in base.direct]

    def _add_copy(self, name: str, of: str) -> None:
        """A tensor of its own in the copy for a name that had none."""
        names, made = model_names(self.base.model, [name])
        if made or name not in names:
            raise ModelError(
                f"Expected to be able to store {name!r} beside what it is tied to, got a model that reads that name as "
                f'{", ".join(names) or "nothing"}. Use tied="skip" or tied="both", or a LoRA adapter.'
            )
        self.additions[name] = self.base.file_names[of]

    def _finish_untying(self, delta: Delta) -> None:
        """Where the config promises no tie any more, the files must hold every tensor of the layer."""
        layer = delta.layer
        for which in ("weight", "bias") if layer.bias else ("weight",):
            key, tensor = layer.in_state(self._state, which)
            if tensor is not None and key not in self.base.direct and key not in self.additions:
                self._add_copy(key, key)
        model = self.base.model
        head: Any = getattr(model, "get_output_embeddings", None)
        config = getattr(model, "config", None)
        if model is None or head is None or getattr(config, "is_encoder_decoder", False):
            return  # the config of an encoder-decoder is left as it is: some read it in their forward pass
        group = {layer.in_state(self._state, "weight")[0], *self._shared[layer.name]}
        heads = [name for name, module in places(model).items() if module is head()]
        self.untied_head = self.untied_head or any(f"{name}.weight" in group for name in heads)

    def _add(self, layer: str, target: str, which: str, view: Callable[[Tensor], Tensor], strength: float) -> None:
        source = self.additions.get(target, target)
        whole = self.base.shard_of[source].stored[source].empty()
        part = view(whole)
        start = part.storage_offset()
        spot_name = target if part.shape == whole.shape else f"{target}[{start}:{start + part.numel()}]"
        spot = self._spots.setdefault(target, {}).setdefault(spot_name, _Spot(spot_name, view))
        spot.parts.append((self.engram[layer], which, strength))
        self._of.setdefault(layer, []).append(spot)

    def added(self, shard: Shard) -> dict[str, str]:
        """The additions to a file: copies of tensors that are in it."""
        return {name: of for name, of in self.additions.items() if of in shard.stored}

    def edits(self, shard: Shard, result: Result) -> dict[str, Callable[[Tensor], None]]:
        """What is to be done to the tensors of a file while it is copied."""
        names = [*shard.stored, *self.added(shard)]
        return {name: self._edit(name, result) for name in names if name in self._spots or name in self._looks}

    def _edit(self, name: str, result: Result) -> Callable[[Tensor], None]:
        def edit(tensor: Tensor) -> None:
            for delta in self._looks.get(name, ()):
                key = delta.layer.in_state(self._state, "weight")[0]
                result.matches[delta.layer.name] = recognised(self._view(delta, "weight", key)(tensor), delta.base)
            for spot in self._spots.get(name, {}).values():
                spot.edit(tensor, result)

        return edit

    def receipt(self, results: Iterable[Result]) -> Receipt:
        """What all files together say."""
        measures: dict[str, Measure] = {}
        matches: dict[str, bool] = {}
        for result in results:
            measures |= result.measures
            matches |= result.matches
        changes = {}
        for name in self.engram:
            others, kind = ", ".join(self._shared.get(name, ())), self._dtypes[name]
            if name not in self._of:
                changes[name] = Change(name, "skipped", kind, note=f"shared with {others}; see tied=")
                continue
            first, *rest = (measures[spot.name] for spot in self._of[name])
            alpha = -self.alphas[name] + 0.0  # and never -0.0
            changes[name] = Change(
                name, dtype=kind, alpha=alpha, note=self._note(name, others), **sum(rest, first).numbers()
            )
        known = all(delta.base for delta in self.engram.values())
        return Receipt(changes, base_matches=all(matches.values()) if known else None)

    def _note(self, name: str, others: str) -> str:
        notes = []
        if others:
            notes.append(f"untied from {others}" if self.tied == "untie" else f"shared with {others}")
            layer = self.engram[name].layer
            keys = {layer.in_state(self._state, which)[0] for which in ("weight", "bias")} | set(self._shared[name])
            notes += [f"{added} added" for added in self.additions if added in keys]
        if self.engram[name].fold and self.alphas[name]:
            notes.append(f"offset in the running mean of {self.engram[name].fold}")
        return "; ".join(notes)
