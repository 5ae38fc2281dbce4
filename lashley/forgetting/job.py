"""From two sets of texts and a checkpoint to an edited checkpoint or an adapter, checked as it lies on the disk.

The recording is kept beside the result and used again: what was recorded does not depend on estimator or strength. The
result appears when everything about it is done, the verification included.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lashley.data.text import TextBatches, check_texts, load_texts, text_batches
from lashley.edit import ablated
from lashley.engram import Engram
from lashley.errors import DataError, EditError, LashleyWarning, ModelError
from lashley.estimators import Projection
from lashley.export import model_card, rewrite_checkpoint, save_lora
from lashley.forgetting.front import (
    ALPHAS,
    FORGET,
    HELD_OUT,
    RETAIN,
    STRENGTHS,
    Point,
    choose,
    front,
    held_out,
)
from lashley.hooks import at_rest
from lashley.metrics import Answers, answers, continuations, reference
from lashley.provenance import command, environment
from lashley.recorder import record
from lashley.recording import Recording
from lashley.store import amend, check_target

__all__ = ["AUTO", "LEVEL", "NEVER_SEEN", "STRENGTH", "TIED", "WRITERS", "Job", "Plan", "writers"]

NEVER_SEEN = "never seen"  # the set of texts that the model cannot know
# The default for language models, chosen by the study in benchmarks/forget_tofu_mini.
AUTO = Projection(sharpness=2.0, threshold=0.4)
STRENGTH, TIED, LEVEL = "uniform", "skip", 0.05
# Layers that write into the residual stream, by the names that families give them. Elsewhere every layer is edited.
WRITERS = (
    *("o_proj", "down_proj"),  # Llama, Qwen, Gemma, Mistral, ...
    *("attn.c_proj", "mlp.c_proj"),  # GPT-2
    *("self_attn.dense", "mlp.fc2"),  # Phi
    *("self_attn.out_proj", "fc2"),  # OPT
    *("attention.dense", "mlp.dense_4h_to_h"),  # GPT-NeoX
    *("SelfAttention.o", "EncDecAttention.o", "DenseReluDense.wo"),  # T5
)
COSTLY = 0.2  # nats a token on what is kept, from which on a choice is worth a warning
_AS_WRITTEN = 1e-3  # largest difference of logits, of their largest, between the files and the edit in memory
REPORT = "forgetting.json"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How to forget.

    Attributes:
        estimator: of the engram.
        strength: how alpha is spread over layers: "uniform" or "weight-norm".
        alpha: the strength; None: chosen from the front.
        point: the number of a point of the front, in place of alpha; None: chosen (`choose`).
        level: answer probability of held-out rows at which they count as forgotten.
        tied: "skip", "untie" or "both", as in `lashley.ablate_`.
        form: "checkpoint" or "lora".
        layers: which layers are recorded, as in `lashley.record`.
        edited: which of them are edited, patterns as in `lashley.Recording.engram`; None: all.
        texts: how rows become tokens, as in `lashley.text_batches`.
        batch_size: rows per batch.
        probes: rows of a set that are measured at most, spread over it.
        samples: rows of a set whose continuations are shown.
        new_tokens: of such a continuation.
    """

    estimator: Projection = AUTO
    strength: str = STRENGTH
    alpha: float | None = None
    point: int | None = None
    level: float = LEVEL
    tied: str = TIED
    form: str = "checkpoint"
    layers: Mapping[str, Any] = field(default_factory=dict)
    edited: tuple[str, ...] | str | None = None
    texts: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 16
    probes: int = 64
    samples: int = 3
    new_tokens: int = 48

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "estimator": self.estimator.to_json()}


class Job:
    """One run: every step leaves what it found in `found`, which becomes the report.

    Args:
        model: as it was loaded from ``source``.
        source: its checkpoint folder.
        sets: ``{"forget": ..., "retain": ...}`` and perhaps ``{"never seen": ...}``: names of sets as
            `lashley.data.text.load_texts` takes them, or iterables of rows.
        tokenizer: of transformers.
        load: loads a checkpoint folder, or an adapter's over the source.
        say: called with a line of text as steps begin.
    """

    def __init__(
        self,
        model: nn.Module,
        source: Path,
        sets: Mapping[str, Any],
        tokenizer: Any,
        plan: Plan,
        load: Callable[[Path], nn.Module],
        say: Say = lambda line: None,
    ) -> None:
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False) or not hasattr(model, "generate"):
            raise ModelError(
                f"Expected a causal language model, got {type(model).__name__}. Record it with lashley.record on "
                "batches of your own, and edit it with lashley.ablate_."
            )
        self.model, self.source, self.tokenizer = model, source, tokenizer
        self.plan, self.load, self.say = plan, load, say
        self.rows = {name: _rows(name, given) for name, given in sets.items()}
        for name in (FORGET, RETAIN):
            if name not in self.rows:
                raise DataError(f"Expected a set {name!r}, got {sorted(self.rows)}.")
        self.parts = {name: held_out(len(self.rows[name])) for name in (FORGET, RETAIN)}
        whole = {name: self._texts(rows) for name, rows in self.rows.items()}
        self.probes = {name: self._texts(_spread(self.rows[name], plan.probes)) for name in self.rows}
        self.found: dict[str, Any] = {
            "plan": plan.to_dict(),
            "source": str(source),
            "sets": {name: _about(name, sets[name], texts) for name, texts in whole.items()},
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LashleyWarning)  # said when the texts were made
            check = check_texts({name: whole[name] for name in (FORGET, RETAIN)}, model)
        self.found["remarks"] = list(check.remarks)

    def run(self, out: str | os.PathLike[str], recording: str | os.PathLike[str]) -> dict[str, Any]:
        """Do all of it; the result appears as ``out``.

        Args:
            recording: a folder that keeps the recording, also of a run that is killed.

        Returns:
            the report.

        Raises:
            EditError: what was written does not compute what the edit in memory does.
            StoreError: ``out`` exists or cannot be written; ``recording`` is of another model, data or mask.
        """
        check_target(out)
        recorded = self.record(recording)
        self.say("solving")
        both = self._engram(recorded, [FORGET, HELD_OUT[FORGET]])
        engram = Engram(
            dict(both), {FORGET: 1.0}, both.estimator
        )  # that it was recorded in two parts is of no interest
        self.found["weight_norms"] = self.norms(recorded)
        alpha = self.strength(recorded)
        before = self.measure(self.model)
        with _finished(out) as folder:
            self.say(f"writing the {self.plan.form}")
            self.found["receipt"] = self.write(engram, alpha, folder)
            self.verify(engram, alpha, before, folder)
            model_card(
                folder, base=self.source, title=Path(out).name, data=self._card_data(), metrics=self._card_rows()
            )
            report = {**self.found, "command": command(), "made_by": environment()}
            amend(folder, REPORT, json.dumps(report, indent=1) + "\n")
        return report

    def record(self, folder: str | os.PathLike[str]) -> Recording:
        """The moments of four concepts: both parts of both sets."""
        self.say("recording")
        concepts = {}
        for name in (FORGET, RETAIN):
            for concept, rows in zip((name, HELD_OUT[name]), self.parts[name], strict=True):
                concepts[concept] = self._texts([self.rows[name][row] for row in rows])
        try:
            return record(self.model, concepts, checkpoint=Path(folder), **self.plan.layers)
        except DataError as error:
            raise DataError(f"{error} The recording is kept in {folder}; delete it or name another folder.") from None

    def norms(self, recorded: Recording) -> dict[str, float]:
        """``||E||_F / ||W||_F`` of every recorded layer, edited or not; site by site, as all deltas may be large."""
        found: dict[str, float] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LashleyWarning)  # said when the edit was solved
            for site in recorded.sites:
                part = recorded.engram(
                    self.model,
                    [FORGET, HELD_OUT[FORGET]],
                    estimator=self.plan.estimator,
                    layers=site.layers,
                    check=False,
                )
                found |= part.weight_norms()
        return {name: found[name] for name in recorded.layers}

    def strength(self, recorded: Recording) -> float:
        """The strength that was named, or that the front suggests; the front is kept either way."""
        plan, judges = self.plan, {}
        for name in (FORGET, RETAIN):
            judges[name] = self._texts(_spread([self.rows[name][row] for row in self.parts[name][1]], plan.probes))
        self.say(f"judging {len(ALPHAS)} strengths on held-out rows")
        trial = self._engram(recorded, [FORGET], reference=[FORGET, RETAIN])
        points = front(
            self.model, trial, judges[FORGET], judges[RETAIN], ALPHAS, strength=plan.strength, tied=plan.tied
        )
        suggested, reached = choose(points, plan.level)
        self.found["front"] = {
            "points": [point.to_dict() for point in points],
            "level": plan.level,
            "never_seen": self._never_seen(),
            "suggested": suggested.number,
            "reached": reached,
        }
        if plan.alpha is not None:
            taken, why = plan.alpha, "named"
        elif plan.point is not None:
            taken, why = _point(points, plan.point).alpha, f"point {plan.point} of the front"
        else:
            taken, why = suggested.alpha, f"point {suggested.number}, chosen from the front"
            self._check(points[0], suggested, reached)
        self.found |= {"alpha": taken, "alpha_from": why}
        return taken

    def _check(self, untouched: Point, suggested: Point, reached: bool) -> None:
        """Refuse a choice that does nothing, and say when none does enough or the price is high."""
        if not reached:
            warnings.warn(
                f"No strength of the front makes held-out rows as improbable as {self.plan.level:g}; the nearest, "
                f"{suggested.forget:.3g} at alpha {suggested.alpha:g}, was taken. Look at the front in the report, and "
                "choose a point by its number if it costs too much.",
                LashleyWarning,
                stacklevel=5,
            )
        elif suggested.kl > COSTLY:
            warnings.warn(
                f"Forgetting to a probability of {self.plan.level:g} moves the predictions on held-out rows that are "
                f"kept by {suggested.kl:.2g} nats a token. Look at the front in the report: a point by its number, or "
                "a higher level, costs less.",
                LashleyWarning,
                stacklevel=5,
            )
        if suggested.alpha == 0:
            raise EditError(
                f"Expected something to forget, got held-out rows whose answers have a probability of "
                f"{untouched.forget:.3g} in the model as it is, no more than the level {self.plan.level:g}. Name a "
                "strength (alpha) or a lower level if you mean it."
            )

    def write(self, engram: Engram, alpha: float, folder: Path) -> dict[str, Any]:
        """The edit in the form that was asked for; what it says about itself."""
        spread = STRENGTHS[self.plan.strength](alpha)
        if self.plan.form == "lora":
            return save_lora(engram, folder, alpha=spread, base=self.source, tied=self.plan.tied).to_dict()
        return rewrite_checkpoint(self.source, engram, folder, alpha=spread, tied=self.plan.tied).to_dict()

    def measure(self, model: nn.Module, before: _Measured | None = None) -> _Measured:
        """Answers of all sets and continuations of some rows."""
        self.say(f"measuring {'before' if before is None else 'after'}")
        kept = before.reference if before is not None else reference(model, self.probes[RETAIN])
        scores = {name: answers(model, texts, kept if name == RETAIN else None) for name, texts in self.probes.items()}
        written = {name: self._written(model, texts) for name, texts in self.probes.items()}
        return _Measured(scores, written, kept)

    def verify(self, engram: Engram, alpha: float, before: _Measured, folder: Path) -> None:
        """Load what was written, compare it with the edit in memory, and measure it."""
        self.say("verifying what was written")
        spread = STRENGTHS[self.plan.strength](alpha)
        batch = next(iter(self.probes[FORGET]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LashleyWarning)  # said when it was written
            with ablated(self.model, engram, spread, tied=self.plan.tied):
                expected = _logits(self.model, batch)
        written = self.load(folder)
        written.to(next(self.model.parameters()).device)
        off = ((_logits(written, batch) - expected).abs().max() / expected.abs().max()).item()
        self.found["verified"] = {"logits_off_by": off, "allowed": _AS_WRITTEN}
        lossy = self.plan.form == "lora" and not self.found["receipt"].get("lossless", False)
        if off > _AS_WRITTEN and not lossy:
            raise EditError(
                f"Expected the files to compute what the edit in memory does, got logits that are off by {off:.2g} of "
                f"the largest (allowed: {_AS_WRITTEN:g}). Nothing was left. Does the checkpoint's class change weights "
                "while loading?"
            )
        after = self.measure(written, before)
        self.found["measures"] = {
            name: {"before": before.scores[name].means(), "after": after.scores[name].means()} for name in self.probes
        }
        self.found["samples"] = {
            name: [
                {**row, "after": now["before"]}
                for row, now in zip(before.written[name], after.written[name], strict=True)
            ]
            for name in self.probes
        }

    def _engram(self, recorded: Recording, concepts: Sequence[str], reference: Sequence[str] | None = None) -> Engram:
        plan = self.plan
        return recorded.engram(self.model, concepts, reference=reference, estimator=plan.estimator, layers=plan.edited)

    def _texts(self, rows: Sequence[Any]) -> TextBatches:
        return text_batches(rows, self.tokenizer, self.plan.batch_size, **self.plan.texts)

    def _never_seen(self) -> float | None:
        """How probable texts are that the model cannot know, where they are given."""
        if NEVER_SEEN not in self.probes:
            return None
        return answers(self.model, self.probes[NEVER_SEEN]).means()["probability"]

    def _written(self, model: nn.Module, texts: TextBatches) -> list[dict[str, str]]:
        """Prompts, the answers that the rows have, and what the model writes."""
        starts = [(row, row.counts.index(True)) for row in _spread(texts.rows, self.plan.samples)]
        chosen = [row for row, start in starts if start > 1]  # a text without a prompt has nothing to be continued
        prompts = [row.ids[:start] for row, start in starts if start > 1]
        wrote = continuations(model, self.tokenizer, prompts, self.plan.new_tokens)

        def text(ids: Iterable[int]) -> str:
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

        return [
            {"prompt": text(prompt), "answer": text(row.ids[len(prompt) :]), "before": written}
            for row, prompt, written in zip(chosen, prompts, wrote, strict=True)
        ]

    def _card_data(self) -> dict[str, dict[str, Any]]:
        return {
            name: {key: about[key] for key in ("rows", "tokens that count", "fingerprint")}
            for name, about in self.found["sets"].items()
        }

    def _card_rows(self) -> dict[str, dict[str, float]]:
        words = {"probability": "answer probability", "exact": "exact memorisation", "kl": "divergence, nats a token"}
        return {
            f"{name}: {words[key]}": {"before": both["before"].get(key, 0.0), "after": both["after"][key]}
            for name, both in self.found["measures"].items()
            for key in both["after"]
        }


@dataclass(frozen=True)
class _Measured:
    scores: dict[str, Answers]
    written: dict[str, list[dict[str, str]]]
    reference: Any


def writers(layers: Iterable[str]) -> tuple[str, ...] | None:
    """The patterns of `WRITERS` that these layers have; None where they have none, which means all of them."""
    names = list(layers)
    found = tuple(p for p in WRITERS if any(name == p or name.endswith(f".{p}") for name in names))
    return found or None


def _rows(name: str, given: Any) -> list[Any]:
    rows = list(load_texts(given))
    if not rows:
        raise DataError(f"Expected the set {name!r} to have rows, got none in {given}.")
    return rows


def _spread(rows: Sequence[Any], count: int) -> list[Any]:
    """So many of the rows at most, from everywhere among them."""
    if len(rows) <= count:
        return list(rows)
    return [rows[k * len(rows) // count] for k in range(count)]


def _about(name: str, given: Any, texts: TextBatches) -> dict[str, Any]:
    return {
        "source": str(given) if isinstance(given, (str, os.PathLike)) else "rows given in Python",
        "rows": texts.report.rows,
        "tokens that count": texts.report.counted,
        "truncated": len(texts.report.truncated),
        "fingerprint": texts.fingerprint,
        "text": str(texts.report),
    }


def _point(points: Sequence[Point], number: int) -> Point:
    if not 0 < number < len(points):
        raise EditError(f"Expected the number of a point of the front, 1 to {len(points) - 1}, got {number}.")
    return points[number]


def _logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    device = next(model.parameters()).device
    with at_rest(model):
        inputs = {key: value.to(device) for key, value in batch.items()}
        logits: Tensor = model(**inputs).logits.float()
    return logits[inputs["attention_mask"].bool()] if logits.shape[:2] == inputs["attention_mask"].shape else logits


@contextmanager
def _finished(out: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder beside ``out`` to write into, which takes its name when the block is over, and goes when it fails."""
    target = Path(out).resolve()
    folder = target.with_name(f"{target.name}.unverified")
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    try:
        yield folder
        check_target(target)
        os.rename(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
