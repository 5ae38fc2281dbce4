"""From the name of a data set to labelled batches."""

from __future__ import annotations

from pathlib import Path

import torch

from lashley.data.arrays import Contents, read_npz, read_pt
from lashley.data.images import image_folder
from lashley.data.labelled import BATCH_SIZE, LabelledBatches, Samples
from lashley.data.prepare import Prepare
from lashley.errors import DataError, nearest

__all__ = ["digits", "load"]

BUNDLED = "sklearn:"


def load(
    source: str | Path,
    *,
    batch_size: int = BATCH_SIZE,
    size: tuple[int, int] | None = None,
    inputs_key: str | None = None,
    labels_key: str | None = None,
    flatten: bool = False,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> LabelledBatches:
    """Labelled batches of a data set on this machine.

    ==========================  ==========================================================================
    ``source``                  what it is
    ==========================  ==========================================================================
    a folder                    pictures, a sub-folder per class (`lashley.data.images.image_folder`)
    ``FILE.npz``                arrays of inputs and labels (`lashley.data.arrays.read_npz`)
    ``FILE.pt``, ``.pth``       the same as tensors (`lashley.data.arrays.read_pt`)
    ``"sklearn:digits"``        the 1797 handwritten digits that come with scikit-learn, ``[N, 1, 8, 8]``, 0..1
    ==========================  ==========================================================================

    Bytes become float32 in 0..1 and pictures channels first; the whole table is in `lashley.data.prepare`.

    Args:
        batch_size: samples per batch.
        size: ``(height, width)`` that pictures are scaled to; only for folders of pictures.
        inputs_key, labels_key: which arrays of an ``.npz`` or ``.pt`` file hold the inputs and the labels.
        flatten: inputs as vectors ``[N, D]``.
        mean, std: one number, or one per channel: ``(x - mean) / std`` after the scaling to 0..1.

    Raises:
        DataError: no such source, one that is broken or ragged, or an option that this kind of source does not have.
    """
    prepare = Prepare(mean, std, flatten)
    path = Path(source)
    bundled, archive = str(source).startswith(BUNDLED), path.suffix in (".npz", ".pt", ".pth")
    if size is not None and (bundled or archive):
        raise DataError(f"Only folders of pictures are scaled to a size; {source} is none. Leave out size (--size).")
    if (inputs_key or labels_key) and not archive:
        raise DataError(f"Only .npz and .pt files have keys; {source} is none. Leave out inputs_key and labels_key.")
    samples: Samples
    if bundled:
        samples, labels, names = _bundled(str(source).removeprefix(BUNDLED))
    elif path.is_dir():
        samples, labels, names = image_folder(path, size)
    elif not path.exists():
        raise DataError(
            f"There is no {source}. Expected a folder of pictures, an .npz file, a .pt file or sklearn:digits."
        )
    elif archive:
        samples, labels, names = (read_npz if path.suffix == ".npz" else read_pt)(path, inputs_key, labels_key)
    else:
        raise DataError(f"Expected a folder of pictures, an .npz file, a .pt file or sklearn:digits, got {source}.")
    return LabelledBatches(samples, labels, names, batch_size=batch_size, prepare=prepare)


def digits() -> Contents:
    """The handwritten digits bundled with scikit-learn: images ``[1797, 1, 8, 8]`` float32 in 0..1, labels, names.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998 (the test part).
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(f"sklearn:digits takes scikit-learn ({error}): pip install scikit-learn.") from error
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float().unsqueeze(1) / 16  # stored as 0..16
    return images, torch.from_numpy(bunch.target).long(), tuple(str(name) for name in bunch.target_names)


def _bundled(name: str) -> Contents:
    known = {"digits": digits}
    if name not in known:
        raise DataError(f"No bundled data set is called {name!r}. {nearest(name, known)}")
    return known[name]()
