"""From numbers of samples to the criteria of one edit, each with its interval."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

import torch
from torch import Tensor

from lashley.criteria.findings import LayerCriteria, Number
from lashley.criteria.passing import Propagated
from lashley.criteria.recorded import Recorded
from lashley.criteria.samples import Group, Sheet, Sums

__all__ = ["falls", "layer_criteria", "output", "shares"]


def layer_criteria(
    group: Group,
    recorded: Mapping[str, Recorded],
    norms: Mapping[str, float],
    whole: Propagated,
) -> dict[str, LayerCriteria]:
    """Of every layer.

    Args:
        whole: `lashley.criteria.passing.propagate`, with the matrices ``change`` (W - W0), ``edit`` and ``missed``.
    """
    found = {}
    for layer, moments in recorded.items():
        columns: dict[Hashable, Tensor] = {key: whole.sheet[layer, key] for key in _COLUMNS}
        columns["cosine"] = _cosine(columns)
        sums = group.sums(columns)
        found[layer] = LayerCriteria(
            recorded=moments,
            reactivation=_root(sums, "missed", "change", group.target),
            leak=_root(sums, "edit", "change", group.others),
            necessity=_root(sums, "ablated/null", "gap", group.target),
            specificity_ablated=_root(sums, "ablated/own", "size", group.others),
            sufficiency=_root(sums, "injected/own", "gap", group.target),
            specificity_injected=_root(sums, "injected/null", "size", group.others),
            cosine=sums.interval(sums.mean("cosine", group.target)),
            cka=whole.cka.get(layer),
            norm=norms.get(layer),
        )
    return found


_COLUMNS = (
    "change",
    "edit",
    "missed",
    "size",
    "gap",
    "ablated/own",
    "ablated/null",
    "injected/own",
    "injected/null",
    "injected/size",
    "injected/dot",
)


def output(group: Group, sheet: Sheet, chance: float | None, reference: Sheet | None) -> dict[str, Number]:
    """At the output, by the names of `lashley.criteria.table.OUTPUT`; what ``sheet`` does not tell is left out.

    Args:
        sheet: of `lashley.criteria.passing.propagate`, `said` or `masked`.
        chance: how often a blind guess is right.
        reference: what the retrained network says, as its "ablated/answer".
    """
    sums = _answered(group, sheet, reference)
    own = sums.mean("own/hit", group.target)
    ablated = sums.mean("ablated/hit", group.target)
    falls = sums.means("own/hit", group.others) - sums.means("ablated/hit", group.others)
    values: dict[str, Tensor] = {
        "own": own,
        "ablated": ablated,
        "necessity": 1 - ablated / own,
        "fall_mean": falls.mean(1),
        "fall_worst": falls.max(1).values,
    }
    if chance is not None:
        values["necessity_chance"] = 1 - (ablated - chance) / (own - chance)
    means = {
        "kl": ("ablated/kl", group.others),
        "injected": ("injected/hit", group.target),
        "false_induction": ("injected/says", group.others),
        "null": ("null/hit", group.target),
        "null_induction": ("null/says", group.others),
        "agree": ("injected/agree", group.target),
        "cosine": ("injected/cosine", group.target),
        "like_retrained": ("like_retrained", group.target),
    }
    values |= {key: sums.mean(column, where) for key, (column, where) in means.items() if column in sums}
    return {key: sums.interval(value) for key, value in values.items()}


def falls(group: Group, sheet: Sheet) -> tuple[dict[str, Number], str]:
    """``{concept: by how much its samples are answered less}``, and the concept among the others that fell most."""
    sums = _answered(group, sheet, None)
    everybody = range(len(group.names))
    fell = sums.means("own/hit", everybody) - sums.means("ablated/hit", everybody)
    found = {group.names[place]: sums.interval(fell[:, place]) for place in everybody}
    return found, group.names[max(group.others, key=lambda place: fell[0, place].item())]


def _answered(group: Group, sheet: Sheet, reference: Sheet | None) -> Sums:
    """The columns about outputs."""
    columns: dict[Hashable, Tensor] = {key: sheet[key] for key in sheet if isinstance(key, str)}
    if reference is not None and "ablated/answer" in sheet:
        columns["like_retrained"] = (sheet["ablated/answer"] == reference["ablated/answer"]).double()
    return group.sums(columns)


def shares(group: Group, hits: Mapping[Hashable, Tensor], concepts: Iterable[int]) -> dict[Hashable, Number]:
    """The mean over some concepts' samples of columns ``[N]``."""
    sums = group.sums(hits)
    some = list(concepts)
    return {key: sums.interval(sums.mean(key, some)) for key in hits}


def _root(sums: Sums, part: Hashable, whole: Hashable, concepts: list[int]) -> Number:
    """``sqrt(part / whole)``; None of nothing."""
    return sums.interval((sums.total(part, concepts) / sums.total(whole, concepts)).sqrt())


def _cosine(columns: Mapping[Hashable, Tensor]) -> Tensor:
    sizes = (columns["injected/size"] * columns["size"]).sqrt()
    return torch.where(sizes > 0, columns["injected/dot"] / sizes, 0.0)
