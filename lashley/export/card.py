"""A model card for what was shipped, from what its folder says about itself."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lashley.errors import EditError, StoreError
from lashley.estimators import Estimator
from lashley.store import MANIFEST, amend, kind_of, read_manifest

__all__ = ["CARD", "model_card"]

CARD = "README.md"
_HERE = Path(__file__).parent
_WHAT = {
    ("LoRA adapter", "ablate"): "Added to its base, this adapter takes the memory of {} out",
    ("LoRA adapter", "inject"): "Added to its base, this adapter puts the memory of {} in once more",
    ("edited model", "ablate"): "A copy of its base with the memory of {} taken out",
    ("edited model", "inject"): "A copy of its base with the memory of {} put in once more",
}
_CARRIED = ("license", "license_name", "license_link", "language", "pipeline_tag")  # from the card of the base
_FRONT = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)


def model_card(
    folder: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    base_model: str | None = None,
    title: str | None = None,
    data: Mapping[str, Mapping[str, Any]] | None = None,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    limits: Sequence[str] = (),
) -> Path:
    """Write ``README.md`` into a folder of `save_lora` or `rewrite_checkpoint`.

    It states the command, the versions, the estimator, the strength and what was really changed; the licence and
    languages are those of the base's card, where its folder is there.

    Args:
        base: the folder of the base, where the edit does not know it.
        base_model: the name of the base on the Hub, by which the card is linked to it.
        title: the heading; by default the folder's name.
        data: ``{set: {what: value}}``, such as rows and a fingerprint. Never the data.
        metrics: ``{what: {column: number}}``, such as ``{"answer probability": {"before": 0.98, "after": 0.02}}``.
        limits: more sentences for the list of limits.

    Raises:
        StoreError: the folder is none of the two, or cannot be written.
        EditError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise EditError(f"A model card takes jinja2 ({error}): pip install 'lashley[hf]'.") from error
    path = Path(folder)
    facts = _facts(path)
    known = facts["base"]
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown
    )
    environment.filters["number"] = _number
    text = environment.get_template("card.md.jinja").render(
        **facts,
        base_model=base_model or (known if known and not Path(known).exists() else None),
        title=title or path.resolve().name,
        carried=_carried(Path(base or known or "")),
        data=data or {},
        data_columns=_columns(data or {}),
        metrics=metrics or {},
        metric_columns=_columns(metrics or {}),
        limits=limits,
    )
    amend(path, CARD, re.sub(r"\n{3,}", "\n\n", text))
    return path / CARD


def _facts(folder: Path) -> dict[str, Any]:
    """What the folder says about itself."""
    kind = kind_of(folder)
    if kind == "LoRA adapter":
        said = read_manifest(folder, kind, 1)
        report = said["report"]
        layers = [layer for layer in report["layers"] if layer["status"] == "adapted"]
        matches = report["base_matches"]
        base = said["base"]
    elif kind == "edited model" and (folder / "receipt.json").is_file():
        said = json.loads((folder / "receipt.json").read_text(encoding="utf-8"))
        report = said["receipt"]
        layers = [layer for layer in report["layers"] if layer["status"] != "skipped"]
        matches = report["base_matches"]
        base = said["model"]
    else:
        raise StoreError(
            f"Expected a folder that save_lora or rewrite_checkpoint wrote, got {folder} with "
            f"{kind or 'no ' + MANIFEST}. Ship the edit first."
        )
    concepts = ", ".join(n if weight == 1 else f"{n} (times {weight:g})" for n, weight in said["concepts"].items())
    alphas = sorted({abs(layer["alpha"]) for layer in layers})
    return {
        "kind": kind,
        "base": base,
        "base_matches": matches,
        "base_fingerprint": said["base_fingerprint"],
        "what": _WHAT[kind, said["direction"]].format(concepts),
        "estimator": _spoken(said["estimator"]),
        "direction": said["direction"],
        "strength": f"{alphas[0]:.3g}" if len(alphas) == 1 else f"{alphas[0]:.3g} to {alphas[-1]:.3g}, by layer",
        "report": report,
        "edited": [layer["name"] for layer in layers],
        "skipped": [layer["name"] for layer in report["layers"] if layer["status"] == "skipped"],
        "added": [note for layer in layers for note in layer["note"].split("; ") if note.endswith(" added")],
        "command": said["command"],
        "versions": {"Python": said["made_by"]["python"], **said["made_by"]["versions"]},
    }


def _carried(base: Path) -> dict[str, str]:
    """The lines of the base's card that hold for what was made of it, word for word."""
    card = base / CARD
    front = _FRONT.match(card.read_text(encoding="utf-8")) if card.is_file() else None
    lines = front[1].split("\n") if front else []
    found = dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith((" ", "-", "#")))
    return {key: found[key].strip() for key in _CARRIED if found.get(key, "").strip()}


def _columns(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(column for row in table.values() for column in row))


def _number(value: float) -> str:
    return f"{value:.4g}"


def _spoken(estimator: Mapping[str, Any] | None) -> str:
    return "several" if estimator is None else str(Estimator.from_json(estimator))
