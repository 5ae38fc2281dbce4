"""Tug of war: how near an unlearned network's accuracies are to a retrained one's, in one number."""

from __future__ import annotations

from collections.abc import Mapping

from lashley.errors import DataError
from lashley.stats.inputs import Label, Labels, label_list

__all__ = ["accuracies", "accuracy_gaps", "tow", "tow_mia"]

_TEST_SETS = {"full": "test", "retain_only": "test_retain"}


def tow(unlearned: Mapping[str, float], retrained: Mapping[str, float], *, test_mode: str = "full") -> float:
    """``(1 - |gap_forget|) (1 - |gap_retain|) (1 - |gap_test|)``, the gaps being in accuracy to the retrained network.

    Direction: higher, up to what two retrained networks of different seeds have between them (`over_seeds`), a little
    below 1. Range: [0, 1]; symmetric. Never report it alone: it sees the last layer's choices only, so a mask on the
    logit of the class scores like a retrained network and forgets nothing. Put a probe and the row of the mask beside
    it.

    Args:
        unlearned, retrained: accuracies as fractions: "forget" and "retain" on training samples, "test" on the test
            set; `accuracies` makes such.
        test_mode: "full" reads "test", the whole test set with the forgotten class (the variant of *AI Engram*, arXiv
            2606.14997). "retain_only" reads "test_retain", the test samples of the other classes (class-wise
            forgetting in the code of SalUn and RUM). The two cannot be compared.

    Source: Zhao et al. 2024 (RUM).

    Raises:
        DataError: a missing set, an accuracy outside [0, 1], an unknown mode.
    """
    return _product(unlearned, retrained, ("forget", "retain", _test_set(test_mode)))


def tow_mia(unlearned: Mapping[str, float], retrained: Mapping[str, float], *, test_mode: str = "full") -> float:
    """`tow` with the gap in "mia", the confidence attack's efficacy (`mia_efficacy`), in place of that in "forget".

    Direction, range, source, arguments and errors as `tow`.
    """
    return _product(unlearned, retrained, ("mia", "retain", _test_set(test_mode)))


def accuracies(train: tuple[Labels, Labels], test: tuple[Labels, Labels], forget: Label | Labels) -> dict[str, float]:
    """What `tow` is made of, for a network that was to forget classes.

    Args:
        train, test: ``(predicted, labels)`` of training and of test samples.
        forget: the class or classes.

    Returns:
        Shares in [0, 1]: "forget" and "retain" of the training samples, "test" of all test samples, "test_forget" and
        "test_retain" of its two parts.

    Raises:
        DataError: other numbers of predictions than of labels, no sample in one of the sets.
    """
    classes = set(label_list([forget] if isinstance(forget, int | str) else forget, "the classes to forget"))
    found = {}
    for prefix, split, (predicted, labels) in (("", "training", train), ("test_", "test", test)):
        truth = label_list(labels, f"{split} labels")
        guesses = label_list(predicted, f"{split} predictions", len(truth))
        hits: dict[str, list[bool]] = {"forget": [], "retain": []}
        for guess, label in zip(guesses, truth, strict=True):
            hits["forget" if label in classes else "retain"].append(guess == label)
        for part, own in hits.items():
            if not own:
                raise DataError(
                    f"Expected {split} samples to {part}, got none; to forget are the classes "
                    f"{', '.join(map(repr, classes))}."
                )
            found[prefix + part] = sum(own) / len(own)
    found["test"] = sum(map(sum, hits.values())) / len(truth)
    return found


def accuracy_gaps(unlearned: Mapping[str, float], retrained: Mapping[str, float]) -> dict[str, float]:
    """``unlearned - retrained`` on every set that both have, with its sign.

    Direction: the target is 0. Range: [-1, 1].

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
        raise DataError(f"Expected an accuracy on {name!r}, got {', '.join(map(repr, accuracies)) or 'none at all'}.")
    value = float(accuracies[name])
    if not 0 <= value <= 1:
        raise DataError(f"Expected fractions in [0, 1], got {value:g} for {name!r}. Divide percentages by 100.")
    return value
