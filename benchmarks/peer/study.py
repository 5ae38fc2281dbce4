"""What ``python -m benchmarks.peer`` runs.

Every case is done by lashley and by its rival in turns, several rounds, beside the bare forward pass over the same
batches; a ratio is one of minima over the rounds. Both must arrive at the same engrams. Then, apart from the timed
rounds: what lashley's time is made of, and the least it could be, at the speed at which this machine multiplies
(`lashley.kernels`). A recording needs the forward pass up to the last recorded layer, without the padding that can be
cut off, and half of a product ``X^T X`` per site (it is symmetric); a dense engram ``W S_c S^+`` two products, in the
cheaper order.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lashley
from benchmarks.measure import Stopwatch, calls_of, parts_of, rounded
from benchmarks.peer.cases import Case, build
from benchmarks.peer.rivals import Engram, Formula, Lashley, Peer, bare
from lashley import observer, recording, solving
from lashley.data.parts import parts_of as portions_of
from lashley.errors import LashleyWarning
from lashley.estimators import base
from lashley.kernels import full_precision, matmul, swift
from lashley.moments import Accumulator, Moment, product_dtype
from lashley.provenance import environment
from lashley.shifts import Shifts
from lashley.spectrum import Factor

ROOT = Path(__file__).parents[2]
RIVALS = {rival.name: rival for rival in (Lashley, Peer, Formula)}

# What lashley's functions are counted as.
RECORDING = {
    "forward": [(observer.Observer, "_run")],
    "products": [(Accumulator, "_multiply"), (Shifts, "_multiply")],
    "choosing and gathering rows": [(observer.Observer, "_on_input")],
}
SOLVING = {
    "pooling": [(recording.Recording, "_all"), (recording.Recording, "_pool")],
    "factorisation": [(Factor, "whiten"), (Factor, "pinv")],
    "dividing by S": [(Factor, "divide")],
    "products": [(base, "_product"), (Moment, "matrix")],
    "checks": [(recording, "fingerprint"), (recording, "frobenius"), (solving, "check_finite")],
}

# torch's functions that take the cube of D. Where a Cholesky factor fails, an eigendecomposition follows.
FACTORISING = ("cholesky_ex", "eigh")

_PASS = 64  # positions that a forward pass costs beyond its own, as a recording on a processor reckons

Say = Callable[[str], None]


def run(config: Mapping[str, Any], say: Say = lambda line: None) -> dict[str, Any]:
    """The whole comparison as one plain dictionary.

    Args:
        config: as in ``config.json``.
        say: called with one line of text as each case ends.
    """
    started, load = time.perf_counter(), os.getloadavg()
    torch.set_num_threads(config["threads"])
    cases = {}
    for name, settings in config["cases"].items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LashleyWarning)  # that rows are few: they are for timing only
            cases[name] = _case(settings, config)
        say(f"{name}: {_sentence(cases[name])}")
    return rounded(
        {
            "benchmark": "peer",
            "format": 1,
            "config": dict(config),
            "cases": cases,
            "environment": environment(),
            "rivals": _versions({settings["against"] for settings in config["cases"].values()}),
            "processor": {"name": _processor(), "instructions": torch.backends.cpu.get_cpu_capability()},
            "speeds": _speeds(),
            "load": {"before": load, "after": os.getloadavg()},
            "seconds": time.perf_counter() - started,
        }
    )


def _case(settings: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    case = build(settings, config["models"])
    ours = Lashley()
    other = None if settings["against"] is None else RIVALS[settings["against"]]()
    watch = Stopwatch()
    engrams: dict[str, Engram] = {}
    with torch.no_grad():
        case.model(case.batches[0]) if case.kind == "images" else bare(_first(case))  # the first pass pays for memory
    for _ in range(settings["repeats"]):
        with watch("bare"):
            bare(case)
        for rival in (ours,) if other is None else (ours, other):
            with watch(f"{rival.name}: record"):
                kept = rival.record(case)
            with watch(f"{rival.name}: solve"):
                for number, engram in enumerate(rival.solve(case, kept)):
                    if number == 0:
                        engrams[rival.name] = engram
            if rival is ours:
                sites = {site: sum(kept.layers[name].out for name in site.layers) for site in kept.sites}
            del kept
    names = {"ours": ours.name} if other is None else {"ours": ours.name, "other": other.name}
    result = {
        "seconds": _seconds(watch.wall, names),
        "processor_seconds": _seconds(watch.cpu, names),
        "concepts": len(case.concepts),
        "sites": len(sites),
        "rows": next(iter(sites)).rows,
        **_parts(case, ours),
        "floor": _floor(case, sites),
        "rounds": {"wall": watch.wall, "processor": watch.cpu},
    }
    if other is not None:
        result["agreement"] = _agreement(case, engrams[ours.name], engrams[other.name], settings["exact"])
    result["ratios"] = _ratios(result)
    if settings["memory"]:
        result["memory"] = _memory(settings, config)
        result["ratios"]["memory"] = result["memory"]["ours"]["above_bare"] / result["memory"]["squares"]
    result["reached"] = {key: _met(result["ratios"][key], target) for key, target in settings["targets"].items()}
    return result


def _versions(rivals: set[str | None]) -> dict[str, str]:
    return {Peer.name: Peer().version} if Peer.name in rivals else {}


def _first(case: Case) -> Case:
    """The first batch alone."""
    name, batches = next(iter(case.concepts.items()))
    return Case(case.kind, case.model, {name: batches[:1]}, ())


def _seconds(rounds: Mapping[str, list[float]], names: Mapping[str, str]) -> dict[str, Any]:
    """Minima over the rounds; a total is the minimum of a round's sum."""
    best: dict[str, Any] = {"bare": min(rounds["bare"])}
    for key, name in names.items():
        record, solve = rounds[f"{name}: record"], rounds[f"{name}: solve"]
        total = [a + b for a, b in zip(record, solve, strict=True)]
        best[key] = {"record": min(record), "solve": min(solve), "total": min(total)}
    return best


def _ratios(result: Mapping[str, Any]) -> dict[str, float]:
    """What the targets are about, and what would be reached at the floor."""
    seconds = result["seconds"]
    ours, other = seconds["ours"], seconds.get("other")
    found = {
        "record_to_bare": ours["record"] / seconds["bare"],
        "record_to_floor": ours["record"] / result["floor"]["record"],
        "total_to_floor": ours["total"] / result["floor"]["total"],
    }
    if other is None:
        return found
    return found | {
        "total": other["total"] / ours["total"],
        "record": other["record"] / ours["record"],
        "solve": other["solve"] / ours["solve"],
        "other_record_to_bare": other["record"] / seconds["bare"],
        "total_at_the_floor": other["total"] / result["floor"]["total"],
    }


def _met(value: float, target: Mapping[str, float]) -> bool:
    return value >= target["at_least"] if "at_least" in target else value <= target["at_most"]


def _agreement(case: Case, ours: Engram, other: Engram, exact: bool) -> dict[str, dict[str, Any]]:
    """How far apart the engrams of the first concept are, and each of them from one solved from float64 products."""
    found = {"ours_to_other": _distance(ours, other)}
    if exact:
        exactly = Lashley(torch.float64)
        truth = next(exactly.solve(case, exactly.record(case)))
        found |= {"ours_to_exact": _distance(ours, truth), "other_to_exact": _distance(other, truth)}
    return found


def _distance(some: Engram, others: Engram) -> dict[str, Any]:
    """``||E - E'|| / ||E'||`` over the layers."""
    if some.keys() != others.keys():
        raise AssertionError(f"Expected the same layers, got {sorted(some.keys() ^ others.keys())} in one only.")
    found = {
        name: ((some[name].double() - engram.double()).norm() / engram.double().norm()).item()
        for name, engram in others.items()
    }
    worst = max(found, key=found.__getitem__)
    return {"median": sorted(found.values())[len(found) // 2], "worst": found[worst], "worst_layer": worst}


def _parts(case: Case, ours: Lashley) -> dict[str, Any]:
    """What lashley's processor time is made of, and how many passes and factorisations it took."""
    with parts_of(RECORDING) as recorded:
        kept = ours.record(case)
    with parts_of(SOLVING) as solved, calls_of(FACTORISING) as calls:
        for _ in ours.solve(case, kept):
            pass
    return {"parts": {"record": recorded, "solve": solved}, "calls": calls}


def _floor(case: Case, outputs: Mapping[lashley.Site, int]) -> dict[str, float]:
    """The least seconds of a recording and of the dense engrams.

    Args:
        outputs: of all layers that read a site.
    """
    last = case.model.get_submodule([*outputs][-1].layers[-1])
    product = {site.dim: _product_seconds(site.dim, product_dtype(site.dim, torch.float32)) for site in outputs}
    weights = {site.dim: _product_seconds(site.dim, torch.float32) for site in outputs}
    with swift():
        forward = min(_until(last, _unpadded(case)) for _ in range(2))
    products = sum(product[site.dim] * site.rows / 2 for site in outputs)
    # S_c S^+ first and then W, or W S_c first. What is divided by S has the precision of the moments.
    each = sum(
        min(product[site.dim] * site.dim + weights[site.dim] * out, product[site.dim] * 2 * out)
        for site, out in outputs.items()
    )
    engrams = each * len(case.wanted)
    return {
        "plain_forward": _until(last, case),
        "forward": forward,
        "products": products,
        "record": forward + products,
        "engrams": engrams,
        "total": forward + products + engrams,
    }


def _unpadded(case: Case) -> Case:
    """With the padding cut off that a recording cuts off."""
    parts = {name: [some for batch in batches for some in _cut(batch)] for name, batches in case.concepts.items()}
    return replace(case, concepts=parts)


def _cut(batch: Any) -> list[Any]:
    parts = portions_of(batch, _PASS)
    return [batch] if parts is None else [part.batch for part in parts]


class _Enough(BaseException):
    pass


def _until(last: nn.Module, case: Case) -> float:
    """Seconds of the forward pass up to the input of one layer."""

    def stop(module: nn.Module, inputs: object) -> None:
        raise _Enough

    handle = last.register_forward_pre_hook(stop)
    start = time.perf_counter()
    for name, batches in case.concepts.items():
        for batch in batches:
            try:
                bare(Case(case.kind, case.model, {name: [batch]}, ()))
            except _Enough:
                continue
    handle.remove()
    return time.perf_counter() - start


def _product_seconds(dim: int, dtype: torch.dtype, rows: int = 1024, repeats: int = 7, plain: bool = False) -> float:
    """Seconds of ``X^T X`` per row, multiplied as lashley does or as torch does (plain)."""
    columns = torch.randn(dim, rows, dtype=dtype)
    best = float("inf")
    with full_precision(columns.device):
        for _ in range(repeats):
            start = time.perf_counter()
            columns @ columns.mT if plain else matmul(columns, columns.mT)
            best = min(best, time.perf_counter() - start)
    return best / rows


def _speeds(dims: Sequence[int] = (256, 512, 1408)) -> list[dict[str, Any]]:
    """Billions of operations a second in products of each dtype, by torch and by lashley."""
    return [
        {
            "dim": dim,
            "dtype": str(dtype).removeprefix("torch."),
            "torch": 2e-9 * dim**2 / _product_seconds(dim, dtype, plain=True),
            "lashley": 2e-9 * dim**2 / _product_seconds(dim, dtype),
        }
        for dtype in (torch.float32, torch.float64)
        for dim in dims
    ]


def _memory(settings: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Peak bytes of the bare pass and of each rival, each in a process of its own."""
    asked = {"settings": settings, "models": config["models"], "threads": config["threads"]}
    found = {}
    asking = {"bare": None, "ours": Lashley.name} | ({"other": settings["against"]} if settings["against"] else {})
    for key, who in asking.items():
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.peer.memory"],
            input=json.dumps({**asked, "who": who}),
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"Measuring the memory of {who or 'the bare pass'} failed:\n{done.stderr}")
        found[key] = json.loads(done.stdout)
    found["squares"] = found["ours"].pop("squares")
    for key in asking.keys() - {"bare"}:
        found[key]["above_bare"] = max(0, found[key]["peak_after_solving"] - found["bare"]["peak"])
    return found


def _processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _sentence(result: Mapping[str, Any]) -> str:
    seconds, ratios = result["seconds"], result["ratios"]
    ours = seconds["ours"]["total"]
    said = [
        f"recording takes {ratios['record_to_bare']:.2f} of a bare pass, {ratios['record_to_floor']:.2f} of the floor"
    ]
    if "other" in seconds:
        times = f"{ours:.1f} s against {seconds['other']['total']:.1f} s, {ratios['total']:.2f} times faster"
        said = [times, *said, f"engrams differ by {result['agreement']['ours_to_other']['worst']:.1e} at most"]
    else:
        said.insert(0, f"{ours:.1f} s")
    if "memory" in result:
        said.append(f"{ratios['memory']:.3f} of the memory of all squares")
    return "; ".join(said)
