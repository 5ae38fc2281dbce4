"""``lashley forget``: a checkpoint and two sets of texts in, a checkpoint or an adapter that has forgotten one out."""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lashley.cli.common import UsageError, add_json, add_verb, emit, positive, table, tell
from lashley.cli.models import add_selection, is_checkpoint, load_model, moved, selection
from lashley.cli.texts import SET_HELP, add_text_options, load_tokenizer, text_options
from lashley.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from lashley.forgetting import Plan

TEXT = """\
Take a set of texts out of a causal language model: record it and what is to be kept in one pass, solve the engram,
choose how strong the edit is on rows that were held out, write the edited checkpoint (or a LoRA adapter), load it again
to see that it computes what it should, and report what was forgotten, what was kept and where it sat.

Without --alpha, --point or --preset the strength is chosen on rows that were held out: the one that best balances what
is forgotten and what is kept, or with --level the weakest that makes them so improbable. The recording stays beside the
result and is used again, so that another strength or estimator takes no second pass.
"""
EXAMPLE = """\
  lashley forget --model ./checkpoint --forget forget.jsonl --retain retain.jsonl --out ./forgotten
  lashley forget --model ./checkpoint --forget forget.jsonl --retain retain.jsonl --preset paper-wnorm --out ./paper
  lashley forget --model ./checkpoint --forget forget.jsonl --retain retain.jsonl --point 4 --form lora --out ./adapter
"""
QK_GATE = ["q_proj", "k_proj", "gate_proj"]
# What the paper reports for TOFU: section 7, appendix E.
PRESETS: dict[str, dict[str, Any]] = {
    "paper-uniform": {"strength": "uniform", "alpha": 0.6},
    "paper-wnorm": {"strength": "weight-norm", "alpha": 1.0},
    "qk-gate": {"strength": "weight-norm", "alpha": 1.0, "target_modules": QK_GATE},
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_verb(subparsers, "forget", "take texts out of a language model", text=TEXT, example=EXAMPLE)
    parser.add_argument("--model", required=True, metavar="DIR", help="a checkpoint folder of transformers")
    parser.add_argument("--forget", required=True, metavar="SET", help=SET_HELP)
    parser.add_argument("--retain", required=True, metavar="SET", help="what is to be kept")
    parser.add_argument("--never-seen", metavar="SET", help="texts of the same kind that the model cannot know")
    parser.add_argument("--tokenizer", metavar="DIR", help="the folder of the tokenizer (default: that of the model)")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write; complete or absent")
    parser.add_argument("--form", choices=("checkpoint", "lora"), default="checkpoint", help="what to write")
    parser.add_argument(
        "--recording", metavar="DIR", help="where the recording is kept, and found again (default: OUT.recording)"
    )
    parser.add_argument("--device", metavar="DEVICE", help="such as cuda (default: the processor)")
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N", help="rows per batch (%(default)s)")
    parser.add_argument("--probes", type=positive, default=64, metavar="N", help="rows measured per set (%(default)s)")
    group = parser.add_argument_group("how strong")
    how = group.add_mutually_exclusive_group()
    how.add_argument("--alpha", type=float, metavar="X", help="this strong")
    how.add_argument("--point", type=positive, metavar="N", help="as this point of the front in an earlier report")
    how.add_argument("--auto", action="store_true", help="chosen from the front (the default)")
    group.add_argument("--level", type=float, metavar="P", help="answer probability that counts as forgotten")
    group.add_argument(
        "--strength",
        choices=("uniform", "weight-norm"),
        help="alpha in every layer, or in proportion to the engram's share of it, the largest getting alpha",
    )
    group.add_argument("--preset", choices=tuple(PRESETS), help="the paper's formula with a strength that it reports")
    group = parser.add_argument_group("which formula (default: the one that the library's study chose)")
    group.add_argument("--sharpness", type=float, metavar="P", help="1: the paper's; 2: spares what is shared")
    group.add_argument("--threshold", type=float, metavar="T", help="share at which a direction counts as owned")
    group.add_argument("--rtol", type=float, metavar="R", help="spectral cut, relative to the largest eigenvalue")
    parser.add_argument(
        "--tied",
        choices=("skip", "untie", "both"),
        help="a head that is the embedding as well: leave it, give it a weight of its own, or change both",
    )
    add_selection(parser)
    add_text_options(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    plan = _plan(args)

    from lashley.forgetting.job import NEVER_SEEN, Job
    from lashley.store import check_target

    check_target(args.out)  # before the work rather than after it
    if not is_checkpoint(args.model):
        raise ModelError(f"Expected a checkpoint folder with config.json, got {args.model}.")
    tokenizer = load_tokenizer(args.tokenizer or args.model)
    model = _loaded(args.model, args.device)
    sets = {"forget": args.forget, "retain": args.retain}
    if args.never_seen:
        sets[NEVER_SEEN] = args.never_seen

    def again(folder: Path) -> nn.Module:
        return _with_adapter(args.model, folder) if plan.form == "lora" else load_model(str(folder))

    job = Job(model, Path(args.model), sets, tokenizer, plan, again, say=lambda line: tell(f"{line} ..."))
    report = job.run(args.out, args.recording or f"{Path(args.out)}.recording")
    page = _page(report, Path(args.out))
    emit(args, {"out": args.out, **report}, lambda: f"{_text(report)}\n\nwritten to {args.out}, look at {page}")
    return 0


def _plan(args: argparse.Namespace) -> Plan:
    preset = PRESETS.get(args.preset, {})
    formula = (args.sharpness, args.threshold)
    if args.preset and (any(x is not None for x in (args.alpha, args.point, args.strength, *formula)) or args.auto):
        raise UsageError("--preset says how strong and by which formula; leave out what else says so.")
    if args.preset and "target_modules" in preset and args.target_modules:
        raise UsageError(f"--preset {args.preset} says which layers; leave out --target-modules.")
    for option in ("alpha", "level", "threshold", "rtol"):
        value = getattr(args, option)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"--{option} is a number above 0, got {value}.")

    import dataclasses

    import lashley
    from lashley.forgetting.job import AUTO, STRENGTH, TIED, Plan

    estimator = lashley.Projection() if args.preset else AUTO
    changes = {"sharpness": args.sharpness, "threshold": args.threshold}
    if args.rtol is not None:
        changes["cut"] = lashley.Cut(rtol=args.rtol)
    estimator = dataclasses.replace(estimator, **{key: value for key, value in changes.items() if value is not None})
    layers = selection(args)
    if "target_modules" in preset:
        layers["target_modules"] = preset["target_modules"]
    return Plan(
        estimator=estimator,
        strength=preset.get("strength") or args.strength or STRENGTH,
        alpha=preset.get("alpha", args.alpha),
        point=args.point,
        level=args.level,
        tied=args.tied or TIED,
        form=args.form,
        layers=layers,
        texts=text_options(args),
        batch_size=args.batch_size,
        probes=args.probes,
    )


def _loaded(folder: str, device: str | None) -> nn.Module:
    model = load_model(folder)
    return moved(model, device) if device else model


def _with_adapter(base: str, folder: Path) -> nn.Module:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ModelError(f"Verifying an adapter takes peft ({error}): pip install 'lashley[hf]'.") from error
    with warnings.catch_warnings():
        # peft warns of merging a head that is tied in the base; the adapter adds to the head alone, as was asked for.
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
        model: nn.Module = PeftModel.from_pretrained(load_model(base), folder)
    return model


def _page(report: dict[str, Any], folder: Path) -> Path:
    from lashley.report import forgetting
    from lashley.store import amend

    amend(folder, forgetting.PAGE, forgetting.page(report))
    return folder / forgetting.PAGE


def _text(report: dict[str, Any]) -> str:
    head = ("set", "answer probability", "after", "exact memorisation", "after", "divergence")
    rows = []
    for name, both in report["measures"].items():
        before, after = both["before"], both["after"]
        rows.append(
            (name, before["probability"], after["probability"], before["exact"], after["exact"], after.get("kl"))
        )
    return f"{table(head, rows)}\n\nalpha {report['alpha']:g} ({report['alpha_from']})"
