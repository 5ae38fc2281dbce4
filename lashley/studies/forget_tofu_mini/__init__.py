"""Authors that a small language model knows by heart, forgotten in every closed form, and what each costs the others.

The model is a Llama of 4 million parameters, trained on the questions and answers of 40 fictional authors (TOFU, Maini
et al. 2024). A task is a few of them. Every edit comes from the one recording of its task and is drawn over the
strength: how probable the forgotten answers still are, against what happened to answers of other authors. A model that
was trained without the authors of one task is the reference of "never learned", and authors that no model saw are the
level of "never seen".

Probabilities are per token of an answer, in (0, 1]; exact memorisation is the share of an answer's tokens that are the
model's first choice; divergences are ``KL(before || after)`` in nats per token (`lashley.metrics`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lashley.data.text import load_texts
from lashley.errors import DataError
from lashley.metrics import answers
from lashley.provenance import digest, environment, fingerprint
from lashley.studies.forget_tofu_mini.authors import authors
from lashley.studies.forget_tofu_mini.fine_tuning import fine_tuned
from lashley.studies.forget_tofu_mini.fronts import curve, ruled
from lashley.studies.forget_tofu_mini.subject import Edit, Judge, Subject, Task, edits_of, rows_in, spread

__all__ = ["MODELS", "run", "study"]

MODELS = "LASHLEY_MODELS"  # the folder of the checkpoints, where the config names none

Say = Callable[[str], None]


def run(config: Mapping[str, Any], say: Say = lambda line: None) -> dict[str, Any]:
    """The study of a config, with the checkpoints of the folder that it, or the variable `MODELS`, names.

    Raises:
        DataError: no such folder, or a checkpoint that it lacks.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = config.get("models") or os.environ.get(MODELS)
    if not folder:
        raise DataError(f'Expected a folder of checkpoints, got none. Name it in the config ("models") or in {MODELS}.')
    names = {config["model"], config["retrained"]}
    if missing := sorted(name for name in names if not (Path(folder) / name / "config.json").is_file()):
        raise DataError(f"Expected the checkpoints {sorted(names)} in {folder}; {missing} cannot be found.")
    models: dict[str, Any] = {name: AutoModelForCausalLM.from_pretrained(Path(folder) / name).eval() for name in names}
    tokenizer = AutoTokenizer.from_pretrained(Path(folder) / config["model"])
    return study(config, models, tokenizer, load_texts(config["texts"]), say)


def study(
    config: Mapping[str, Any],
    models: Mapping[str, nn.Module],
    tokenizer: Any,
    texts: Sequence[Any],
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """The whole study as one plain dictionary.

    Args:
        config: as in ``benchmarks/forget_tofu_mini/config.json``.
        models: the checkpoints that the config names.
        texts: the rows that its numbers are of.
        say: called with a line of text as each step ends.
    """
    started = time.perf_counter()
    torch.set_num_threads(config["threads"])
    subject = Subject(models[config["model"]], tokenizer, texts, config["batch"])
    retrained = models[config["retrained"]]
    known = rows_in(config["known"])
    never = subject.batches(spread(rows_in(config["never_seen"]), config["never_seen_probes"]))
    edits = edits_of(config)
    default = next(edit for edit in edits if edit.name == config["default"])
    levels = {"never seen": answers(subject.model, never).means()["probability"], "bound": config["rule"]["bound"]}
    layers = _layers(edits)
    tasks: dict[str, Any] = {}
    for name, ranges in config["tasks"].items():
        begun = time.perf_counter()
        task = Task.of(name, subject, rows_in(ranges), known, layers)
        recorded = time.perf_counter()
        judge = Judge(task, config["retain_probes"])
        found = {edit.name: curve(edit, judge, config["alphas"], config["levels"]) for edit in edits}
        solving = time.perf_counter()
        norms = {key: task.engram(edit).weight_norms() for key, edit in _extremes(config).items()}
        tasks[name] = {
            "rows": {"forget": len(task.forget), "retain": len(task.retain), "judged": len(judge.retain.rows)},
            "tokens": {site.name: site.rows for site in task.recording.sites[:1]},
            "before": judge.all(subject.model),
            "retrained": judge.all(retrained),
            "edits": found,
            "rule": {
                edit.name: ruled(edit, judge, levels, config["rule"]["alphas"], config["retain_probes"])
                for edit in _extremes(config).values()
            },
            "weight_norms": norms,
            "seconds": {"record": recorded - begun, "judge": solving - recorded},
        }
        say(f"task {name}: {_sentence(found, config)} ({time.perf_counter() - begun:.0f} s)")
    result: dict[str, Any] = {
        "benchmark": "forget_tofu_mini",
        "format": 1,
        "config": dict(config),
        "model": {
            "parameters": sum(p.numel() for p in subject.model.parameters()),
            "fingerprints": {name: _print(model) for name, model in models.items()},
        },
        "never_seen": {
            "model": answers(subject.model, never).means(),
            "retrained": answers(retrained, never).means(),
        },
        "tasks": tasks,
        "authors": authors(subject, known, default, config["authors"]),
    }
    say(f"{result['authors']['authors']} authors, one by one")
    if config["fine_tuning"]:
        result["fine_tuned"] = _fine_tuned(config, models, tokenizer, texts)
        say("delta weights")
    return {**result, "environment": environment(), "seconds": time.perf_counter() - started}


def _layers(edits: Sequence[Edit]) -> list[str]:
    """What has to be recorded for all of them."""
    return sorted({layer for edit in edits for layer in edit.layers})


def _print(model: nn.Module) -> str:
    return digest(*(fingerprint(value) for value in model.state_dict().values()))


def _extremes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The paper's edit and the default, by name."""
    edits = {edit.name: edit for edit in edits_of(config)}
    return {name: edits[name] for name in ("paper", config["default"])}


def _sentence(found: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    level = f"{config['levels'][0]:g}"
    costs = {name: found[name]["at"][level]["kl"] for name in ("paper", config["default"]) if found[name]["at"][level]}
    return f"divergence on the others at {level}: " + ", ".join(f"{name} {kl:.3f}" for name, kl in costs.items())


def _fine_tuned(
    config: Mapping[str, Any], models: Mapping[str, nn.Module], tokenizer: Any, texts: Sequence[Any]
) -> dict[str, Any]:
    """The same on a model whose base is known: engrams of its weights, and of what fine-tuning changed in them."""
    settings = config["fine_tuning"]
    base = Subject(models[settings["base"]], tokenizer, texts, config["batch"])
    forget, keep = rows_in(settings["forget"]), rows_in(settings["keep"])
    begun = time.perf_counter()
    model = fine_tuned(base, forget + keep, settings)
    seconds = {"fine-tune": time.perf_counter() - begun}
    subject = Subject(model, tokenizer, texts, config["batch"])
    edits = edits_of(config, "delta_edits")
    task = Task.of("fine-tuned", subject, forget, keep + rows_in(settings["known"]), _layers(edits))
    judge = Judge(task, config["retain_probes"])
    new, old = subject.batches(keep), subject.batches(spread(rows_in(settings["known"]), config["retain_probes"]))
    found = {}
    for edit in edits:
        delta = base.model if config["delta_edits"][edit.name].get("delta") else None
        found[edit.name] = curve(edit, judge, config["alphas"], config["levels"], delta)
    return {
        "rows": {"forget": len(forget), "keep": len(keep), "known": len(old.rows)},
        "before": judge.all(model),
        "base": judge.all(base.model),
        "new authors": {"model": answers(model, new).means(), "base": answers(base.model, new).means()},
        "old authors": {"model": answers(model, old).means(), "base": answers(base.model, old).means()},
        "edits": found,
        "seconds": {**seconds, "all": time.perf_counter() - begun},
    }
