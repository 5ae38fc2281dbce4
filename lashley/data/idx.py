"""The idx format, in which MNIST and its relatives are published.

A file is gzipped: two zero bytes, a byte for the type of a value, a byte for the number of dimensions, each dimension
as a big-endian uint32, then the values, last dimension fastest. Only unsigned bytes (type 8) occur here.
Source: the description on the MNIST page of Y. LeCun, C. Cortes and C. Burges.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from lashley.errors import DataError

__all__ = ["read_idx"]

UNSIGNED_BYTE = 8


def read_idx(path: str | Path, *, dims: int) -> np.ndarray:
    """The array of unsigned bytes in a gzipped idx file, which must have ``dims`` dimensions.

    Raises:
        DataError: not gzip, cut short, another type or rank than expected, or another length than its header announces.
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not an intact gzip file ({error}). Fetch it again.") from error
    except OSError as error:
        raise DataError(f"Expected an idx file at {path}: {error.strerror or error}.") from error
    header = 4 + 4 * dims
    if len(content) < header:
        raise DataError(f"{path} holds {len(content)} bytes, less than the {header} of an idx header.")
    zero, kind, rank = struct.unpack(">HBB", content[:4])
    if (zero, kind, rank) != (0, UNSIGNED_BYTE, dims):
        raise DataError(
            f"Expected an idx file of unsigned bytes in {dims} dimensions (first bytes 0000080{dims}), "
            f"{path} begins with {content[:4].hex()}."
        )
    shape = struct.unpack(f">{dims}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"The header of {path} announces {' x '.join(map(str, shape))} = {math.prod(shape)} bytes, "
            f"{len(content) - header} follow. Fetch it again."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape).copy()
