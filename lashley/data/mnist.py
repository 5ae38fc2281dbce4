"""MNIST, from a local folder or from the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from lashley.data.idx import read_idx
from lashley.data.parquet import pictures_of
from lashley.errors import DataError

__all__ = ["mnist"]

SIZES = {"train": 60_000, "test": 10_000}
FILES = {"train": "train", "test": "t10k"}
REPOSITORY = "ylecun/mnist"


def mnist(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images ``[N, 28, 28]`` uint8 and labels ``[N]`` uint8 of the ``"train"`` (60000) or ``"test"`` (10000) split.

    Read from the four original ``.gz`` files in ``$LASHLEY_DATA/mnist`` when that folder exists, else from the Hub
    (``ylecun/mnist``; needs huggingface_hub, pillow and pyarrow, and the network the first time).

    Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition", 1998.

    Raises:
        DataError: an unknown split, a broken file, or neither source at hand.
    """
    if split not in SIZES:
        raise DataError(f"MNIST has the splits 'train' and 'test', got {split!r}.")
    root = os.environ.get("LASHLEY_DATA")
    folder = Path(root) / "mnist" if root else None
    images, labels = _from_folder(folder, split) if folder and folder.is_dir() else _from_hub(split)
    if images.shape != (SIZES[split], 28, 28) or labels.shape != (SIZES[split],):
        raise DataError(
            f"Expected {SIZES[split]} images of 28 x 28 and as many labels in MNIST {split}, got images "
            f"{images.shape} and labels {labels.shape}."
        )
    return images, labels


def _from_folder(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    stem = FILES[split]
    images = read_idx(folder / f"{stem}-images-idx3-ubyte.gz", dims=3)
    return images, read_idx(folder / f"{stem}-labels-idx1-ubyte.gz", dims=1)


def _from_hub(split: str) -> tuple[np.ndarray, np.ndarray]:
    advice = (
        "Put the four original files (train-images-idx3-ubyte.gz and so on) into a folder 'mnist' and let the "
        "environment variable LASHLEY_DATA name the folder that holds it."
    )
    return pictures_of("MNIST", REPOSITORY, f"mnist/{split}-00000-of-00001.parquet", "image", advice)
