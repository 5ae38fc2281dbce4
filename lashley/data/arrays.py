"""Arrays in a file: ``.npz`` and ``.pt``."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lashley.errors import DataError

__all__ = ["INPUT_KEYS", "LABEL_KEYS", "labels_and_names", "read_npz", "read_pt"]

INPUT_KEYS = ("x", "X", "inputs", "images", "data", "input_ids", "x_train", "X_train", "train_images", "train_data")
LABEL_KEYS = ("y", "Y", "labels", "targets", "label", "target", "y_train", "Y_train", "train_labels", "train_targets")
NAMES_KEY = "class_names"

Contents = tuple[Tensor, Tensor, tuple[str, ...]]


def read_npz(path: str | Path, inputs_key: str | None = None, labels_key: str | None = None) -> Contents:
    """Samples ``[N, ...]``, labels and class names of an ``.npz`` file; pickled objects are refused.

    The inputs are the array called ``inputs_key``, else the only one of `INPUT_KEYS`; the labels likewise. An array
    ``class_names`` names the labels 0, 1, ...; without it see `labels_and_names`.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:  # numpy would leave the file open where it is not intact
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} is a single array, not an archive: save with numpy.savez(path, x=..., y=...).")
            wanted = _wanted(path, list(archive.files), inputs_key, labels_key)
            found = {key: archive[key] for key in wanted if key is not None}
    except DataError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} is not an intact .npz file ({error}). Write or fetch it again.") from error
    except ValueError as error:
        raise DataError(
            f"{path} cannot be read ({error}). Pickled objects are never loaded: save plain arrays of numbers or text."
        ) from error
    return _contents(path, found, *wanted)


def read_pt(path: str | Path, inputs_key: str | None = None, labels_key: str | None = None) -> Contents:
    """Samples ``[N, ...]``, labels and class names of a file written by `torch.save`, loaded without running code.

    It holds a mapping with the keys that `read_npz` looks for, or a pair ``(inputs, labels)``.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path} cannot be read as tensors alone ({reason}). Save a mapping or a pair of tensors: "
            "torch.save({'inputs': inputs, 'labels': labels}, path)."
        ) from error
    if isinstance(content, (tuple, list)) and len(content) == 2:
        if inputs_key or labels_key:
            raise DataError(f"{path} holds a pair (inputs, labels) without keys: leave out inputs_key and labels_key.")
        wanted: tuple[str, str, str | None] = ("inputs", "labels", None)
        content = dict(zip(wanted[:2], content, strict=True))
    elif isinstance(content, Mapping):
        wanted = _wanted(path, [str(key) for key in content], inputs_key, labels_key)
    else:
        raise DataError(f"Expected a mapping or a pair (inputs, labels) in {path}, got {type(content).__name__}.")
    return _contents(path, content, *wanted)


def labels_and_names(labels: Any, names: Sequence[str] | None, where: str) -> tuple[Tensor, tuple[str, ...]]:
    """Labels as positions in names, and the names.

    ``labels``: whole numbers or text ``[N]`` (or ``[N, 1]``), or zeros and ones ``[N, K]`` with K above 1 when concepts
    overlap. With ``names``, numbers are positions in them. Without, every distinct value is a concept, called as it
    prints, in sorted order.
    """
    values = labels.numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2:
        if values.dtype.kind not in "biu" or not np.isin(values, (0, 1)).all():
            raise DataError(f"Labels of shape {values.shape} in {where} say which concepts a sample has: only 0 and 1.")
        columns = tuple(map(str, range(values.shape[1]))) if names is None else tuple(names)
        return torch.from_numpy(values.astype(bool)), columns
    if values.ndim != 1:
        raise DataError(f"Expected labels [N] or [N, K] in {where}, got shape {values.shape}.")
    if values.dtype.kind in "biu" and names is not None:
        return torch.from_numpy(values.astype(np.int64)), tuple(names)
    if values.dtype.kind not in "biuUST":
        raise DataError(f"Expected whole numbers or text as labels in {where}, got {values.dtype}.")
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    distinct, positions = np.unique(values, return_inverse=True)
    spoken = tuple(str(value) for value in distinct)
    if names is None:
        return torch.from_numpy(positions.astype(np.int64)), spoken
    unknown = sorted(set(spoken) - set(names))
    if unknown:
        raise DataError(f"{where} has labels that are not among its {NAMES_KEY}: {', '.join(map(repr, unknown[:5]))}.")
    order = {name: k for k, name in enumerate(names)}
    return torch.tensor([order[value] for value in values.tolist()]), tuple(names)


def _wanted(
    path: Path, present: list[str], inputs_key: str | None, labels_key: str | None
) -> tuple[str, str, str | None]:
    inputs = _key(path, present, inputs_key, INPUT_KEYS, "inputs")
    labels = _key(path, present, labels_key, LABEL_KEYS, "labels")
    return inputs, labels, NAMES_KEY if NAMES_KEY in present else None


def _key(path: Path, present: list[str], given: str | None, usual: tuple[str, ...], role: str) -> str:
    holds = f"it holds {', '.join(present) or 'nothing'}"
    if given is not None:
        if given not in present:
            raise DataError(f"{path} has no {given!r} for the {role}; {holds}.")
        return given
    found = [key for key in usual if key in present]
    advice = f"Say which with {role}_key= (--{role}-key)."
    if not found:
        raise DataError(f"Expected the {role} in {path} under one of {', '.join(usual)}; {holds}. {advice}")
    if len(found) > 1:
        raise DataError(f"Several arrays in {path} could be the {role}: {', '.join(found)}. {advice}")
    return found[0]


def _contents(
    path: Path, found: Mapping[str, Any], inputs_key: str, labels_key: str, names_key: str | None
) -> Contents:
    names = None if names_key is None else tuple(str(name) for name in found[names_key])
    labels, concepts = labels_and_names(found[labels_key], names, str(path))
    return _tensor(found[inputs_key], f"{inputs_key!r} in {path}"), labels, concepts


def _tensor(values: Any, where: str) -> Tensor:
    if not isinstance(values, Tensor):
        array = np.asarray(values)
        if array.dtype.kind not in "biufc":
            raise DataError(f"Expected numbers as {where}, got {array.dtype}.")
        values = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C", copy=False))
    if values.dim() == 0:
        raise DataError(f"Expected samples [N, ...] as {where}, got a single number.")
    return values
