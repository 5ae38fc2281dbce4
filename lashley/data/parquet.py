"""Labelled pictures from a Parquet file on the Hugging Face Hub."""

from __future__ import annotations

import io

import numpy as np

from lashley.errors import DataError

__all__ = ["pictures_of"]


def pictures_of(name: str, repository: str, file: str, column: str, advice: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels ``[N, ...]`` uint8 and labels ``[N]`` uint8 of the columns ``column`` and "label".

    Args:
        name: of the data set, for messages.
        repository, file: on the Hub.
        advice: what to do where it cannot be fetched.

    Raises:
        DataError: a package is missing, or the file is neither in the cache nor to be fetched.
    """
    try:
        import pyarrow.parquet
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
        from PIL import Image
    except ImportError as error:
        raise DataError(
            f"Loading {name} from the Hub takes huggingface_hub, pillow and pyarrow ({error}): install them. {advice}"
        ) from error
    try:
        path = hf_hub_download(repository, file, repo_type="dataset")
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(
            f"{name} is not at hand and {repository} could not be fetched from the Hub. {advice}"
        ) from error
    table = pyarrow.parquet.read_table(path)
    pictures = (row["bytes"] for row in table[column].to_pylist())
    images = np.stack([np.asarray(Image.open(io.BytesIO(picture))) for picture in pictures])
    return images, np.asarray(table["label"].to_pylist(), dtype=np.uint8)
