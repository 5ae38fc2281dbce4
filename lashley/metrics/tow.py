"""Tug of war: how near an unlearned network's accuracies are to a retrained one's, in one number."""

from __future__ import annotations

from collections.abc import Mapping

from lashley.errors import DataError

__all__ = ["accuracy_gaps", "tow", "tow_mia"]

_TEST_SETS = {"full": "test", "retain_only": "test_retain"}


def tow(unlearned: Mapping[str, float], retrained: Mapping[str, float], *, test_mode: str = "full") -> float:
    """``(1 - |gap_forget|) (1 - |gap_retain|) (1 - |gap_test|)``, gaps in accuracy to the retrained network.

    Direction: higher, but the target is what two retrained networks of different seeds get between them, a little below 1.
    In [0, 1], symmetric. Never report it alone: a mask on the class's logit reaches .997 and forgets nothing. Put a probe
    and the row of the mask beside it.

    Args:
        unlearned, retrained: accuracies as fractions: "forget" and "retain" on training samples, "test" on the test set.
        test_mode: "full": "test" is the whole test set, the forgotten class included (Hayes et al.; *AI Engram*).
            "retain_only": the test samples of the other classes, read from "test_retain" (the class-wise mode of SalUn
            and RUM). The two are not comparable.

    Source: Zhao et al. 2024 (RUM).

    Raises:
        DataError: a missing set, an accuracy outside [0, 1], an unknown mode.
    """
    return _product(unlearned, retrained, ("forget", "retain", _test_set(test_mode)))


def tow_mia(unlearned: Mapping[str, float], retrained: Mapping[str, float], *, test_mode: str = "full") -> float:
    """`tow` with the forget accuracy replaced by "mia", the efficacy of the confidence attack (`mia_efficacy`).

    Direction, range, source and errors as `tow`.
    """
    return _product(unlearned, retrained, ("mia", "retain", _test_set(test_mode)))


def accuracy_gaps(unlearned: Mapping[str, float], retrained: Mapping[str, float]) -> dict[str, float]:
    """``unlearned - retrained`` for every set that both have, with its sign. Target 0; in [-1, 1].

    Raises:
        DataError: no set in common, an accuracy outside [0, 1].
    """
    common = [name for name in unlearned if name in retrained]
    if not common:
        raise DataError(f"Expected accuracies on the same sets, got {list(unlearned)} and {list(retrained)}.")
    return {name: _share(unlearned, name) - _share(retrained, name) for name in common}


def _product(unlearned: Mapping[str, float], retrained: Mapping[str, float], sets: tuple[str, ...]) -> float:
    value = 1.0
    for name in sets:
        value *= 1 - abs(_share(unlearned, name) - _share(retrained, name))
    return value


def _test_set(mode: str) -> str:
    if mode not in _TEST_SETS:
        raise DataError(f"Expected test_mode to be one of {', '.join(_TEST_SETS)}, got {mode!r}.")
    return _TEST_SETS[mode]


def _share(accuracies: Mapping[str, float], name: str) -> float:
    if name not in accuracies:
        raise DataError(f"Expected an accuracy on {name!r}, got only {', '.join(map(repr, accuracies)) or 'none'}.")
    value = float(accuracies[name])
    if not 0 <= value <= 1:
        raise DataError(f"Expected fractions in [0, 1], got {value:g} for {name!r}. Divide percentages by 100.")
    return value
