"""The closed forms on the command line: which there are, and which options each of them takes."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from lashley.cli.common import UsageError, positive

if TYPE_CHECKING:
    from lashley.estimators import Estimator
    from lashley.spectrum import Cut

__all__ = ["add_cut", "add_estimators", "chosen", "cut_of", "pairs", "spoken", "weighted"]

_CUT = ("rtol", "rank", "energy", "condition", "preset")
CUT = tuple(f"--{name}" for name in _CUT)
TAKES = {
    "projection": ("--sharpness", "--threshold", *CUT),
    "ridge": ("--lam",),
    "kodge": ("--retain", "--forget"),
    "leace": ("--separate", "--missing-bias", *CUT),
    "mixture-shift": ("--mixture", "--min-r2", "--missing-bias", *CUT),
    "mean-direction": ("--rtol",),
    "null-space": ("--rtol", "--lam"),
}


def add_estimators(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("estimator")
    group.add_argument(
        "--estimator", choices=tuple(TAKES), default="projection", help="the closed form (default: projection)"
    )
    group.add_argument("--sharpness", type=float, metavar="P", help="projection: at least 1 (default: 1)")
    group.add_argument(
        "--threshold", type=float, metavar="T", help="projection: the share that counts half (default: 0.5)"
    )
    group.add_argument(
        "--lam",
        type=float,
        metavar="LAMBDA",
        help="ridge: the damping, in the units of S; null-space: as a share (default: 0.01)",
    )
    group.add_argument("--retain", type=float, metavar="A", help="kodge: how eagerly the rest is kept (default: 100)")
    group.add_argument("--forget", type=float, metavar="A", help="kodge: how eagerly the target goes (default: 3)")
    group.add_argument(
        "--separate", action="store_const", const=True, help="leace: erase each of several concepts on its own"
    )
    group.add_argument(
        "--mixture",
        nargs="+",
        metavar="NAME=WEIGHT",
        help="mixture-shift: what the concept is taken to; or uniform (default), or mean",
    )
    group.add_argument(
        "--min-r2", type=float, metavar="R2", help="mixture-shift: refuse gates that explain less (default: 0.2)"
    )
    group.add_argument(
        "--missing-bias",
        choices=("refuse", "add", "fold"),
        help="leace, mixture-shift: what to do in layers without a bias (default: refuse)",
    )
    add_cut(
        parser,
        "projection, leace, mixture-shift",
        "default: D * 2^-23, mixture-shift 0.001); for mean-direction and null-space what counts as zero",
    )


def add_cut(parser: argparse.ArgumentParser, of: str = "", rtol: str = "default: D * 2^-23)") -> None:
    """Which eigenvalues count as zero.

    Args:
        of: what takes the cut, where not everything does.
        rtol: the end of what ``--rtol`` says of itself.
    """
    cuts = parser.add_argument_group(f"spectral cut ({of})" if of else "spectral cut")
    cut = cuts.add_mutually_exclusive_group()
    cut.add_argument("--rtol", type=float, metavar="X", help=f"keep eigenvalues above X times the largest ({rtol}")
    cut.add_argument("--rank", type=positive, metavar="K", help="keep the K largest")
    cut.add_argument("--energy", type=float, metavar="X", help="keep the fewest that hold this share of the trace")
    cut.add_argument("--condition", type=float, metavar="X", help="keep eigenvalues above the largest / X")
    cut.add_argument("--preset", choices=("paper", "notebook"), help="1e-6, or D * 2^-52")


def cut_of(args: argparse.Namespace) -> Cut | None:
    """The cut that the options of `add_cut` ask for; None where nothing is said of it."""
    return _cut({key: value for key in _CUT if (value := getattr(args, key)) is not None})


def chosen(args: argparse.Namespace) -> Estimator:
    """The estimator that the options ask for."""
    import lashley

    name, taken = args.estimator, TAKES[args.estimator]
    given = {o: value for options in TAKES.values() for o in options if (value := _value(args, o)) is not None}
    for option in given:
        if option not in taken:
            owners = " and ".join(owner for owner, options in TAKES.items() if option in options)
            raise UsageError(f"{option} is for {owners}; {name} takes {', '.join(taken)}.")
    if args.sensitivity and name != "projection":
        raise UsageError(f"--sensitivity is for the projection; it shows the cut, and got --estimator {name}.")
    if name == "ridge" and args.lam is None:
        raise UsageError("expected --lam with --estimator ridge.")
    if "--mixture" in given:
        given["--mixture"] = _mixture(given["--mixture"])
    names = {"--mixture": "weights"}
    settings = {names.get(o, o.removeprefix("--").replace("-", "_")): value for o, value in given.items()}
    if "--preset" in taken and (cut := _cut(settings)) is not None:
        settings["cut"] = cut
    forms = {
        "projection": lashley.Projection,
        "ridge": lashley.Ridge,
        "kodge": lashley.Kodge,
        "leace": lashley.Leace,
        "mixture-shift": lashley.MixtureShift,
        "mean-direction": lashley.MeanDirection,
        "null-space": lashley.NullSpace,
    }
    estimator: Estimator = forms[name](**settings)
    return estimator


def _value(args: argparse.Namespace, option: str) -> Any:
    return getattr(args, option.removeprefix("--").replace("-", "_"))


def _cut(settings: dict[str, Any]) -> Cut | None:
    """The cut, whose settings are taken out; None where nothing is said of it."""
    import lashley

    values = {key: settings.pop(key) for key in _CUT if key in settings}
    if not values:
        return None
    if preset := values.get("preset"):
        return lashley.Cut.paper() if preset == "paper" else lashley.Cut.notebook()
    return lashley.Cut(**values)


def _mixture(values: list[str]) -> str | dict[str, float]:
    if len(values) == 1 and values[0] in ("uniform", "mean"):
        return values[0]
    try:
        return pairs([weighted(value) for value in values], "--mixture")
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"argument --mixture: {error}, or uniform or mean alone.") from None


def weighted(text: str) -> tuple[str, float]:
    """``NAME=WEIGHT``, for argparse."""
    name, _, weight = text.rpartition("=")  # without a sign the name is empty
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not name or not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected NAME=WEIGHT, such as cat=1.0, got {text}")
    return name, value


def pairs(given: list[tuple[str, float]], option: str) -> dict[str, float]:
    """Names and weights as a mapping."""
    names = [name for name, _ in given]
    if len(set(names)) < len(names):
        raise UsageError(f"expected each concept once in {option}, got {' '.join(names)}.")
    return dict(given)


def spoken(estimator: Estimator) -> str:
    """The estimator with its cut: a norm without its cut means nothing."""
    values = {key: value for key, value in estimator.to_json().items() if key not in ("name", "cut")}
    settings = ", ".join(f"{key.replace('_', ' ')} {_said(value)}" for key, value in values.items())
    cut = getattr(estimator, "cut", None)
    return f"{type(estimator).__name__.lower()}: {settings}" + (f", cut {cut}" if cut is not None else ", no cut")


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return " + ".join(f"{weight:g} {name}" for name, weight in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
