"""CIFAR-10, from a local file or from the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from lashley.data.arrays import read_npz
from lashley.data.parquet import pictures_of
from lashley.errors import DataError

__all__ = ["CLASSES", "cifar10"]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZES = {"train": 50_000, "test": 10_000}
REPOSITORY = "uoft-cs/cifar10"


def cifar10(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images ``[N, 32, 32, 3]`` uint8 and labels ``[N]`` uint8, positions in `CLASSES`, of ``"train"`` or ``"test"``.

    Read from ``$LASHLEY_DATA/cifar/cifar10.npz`` (arrays ``train_images``, ``train_labels``, ``test_images``,
    ``test_labels``) when that file exists, else from the Hub (``uoft-cs/cifar10``; needs huggingface_hub, pillow and
    pyarrow, and the network the first time).

    Source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.

    Raises:
        DataError: an unknown split, a broken file, or neither source at hand.
    """
    if split not in SIZES:
        raise DataError(f"CIFAR-10 has the splits 'train' and 'test', got {split!r}.")
    root = os.environ.get("LASHLEY_DATA")
    file = Path(root) / "cifar" / "cifar10.npz" if root else None
    images, labels = _from_file(file, split) if file and file.is_file() else _from_hub(split)
    if images.shape != (SIZES[split], 32, 32, 3) or labels.shape != (SIZES[split],):
        raise DataError(
            f"Expected {SIZES[split]} images of 32 x 32 x 3 and as many labels in CIFAR-10 {split}, got images "
            f"{images.shape} and labels {labels.shape}."
        )
    return images, labels.astype(np.uint8)


def _from_file(file: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels, _ = read_npz(file, f"{split}_images", f"{split}_labels")
    return images.numpy(), labels.numpy()


def _from_hub(split: str) -> tuple[np.ndarray, np.ndarray]:
    advice = (
        "Put the arrays train_images, train_labels, test_images and test_labels into a file cifar/cifar10.npz and let "
        "the environment variable LASHLEY_DATA name the folder that holds cifar."
    )
    return pictures_of("CIFAR-10", REPOSITORY, f"plain_text/{split}-00000-of-00001.parquet", "img", advice)
