"""A file that is the old one or the new one, never a part of one. Without torch.

For folders of tensors see `lashley.store`.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from lashley.errors import StoreError

__all__ = ["write"]


def write(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Put ``content`` at ``path`` in one step, replacing a file that is there; return the path.

        >>> write("numbers.json", "[1, 2]")            # doctest: +SKIP
        PosixPath('numbers.json')

    A text is written as UTF-8 with ``\\n`` at the ends of lines on every system. The file is made beside its place and
    renamed into it once it is on the disk, so that a process killed in between leaves what was there before. Missing
    folders are made.

    Raises:
        StoreError: it could not be written, or there is a folder at ``path``; what was there is untouched.
    """
    path = Path(path)
    if path.is_dir():
        raise StoreError(f"Expected {path} to be a file or absent, got a folder. Name a file in it.")
    data = content.encode() if isinstance(content, str) else content
    # Not tempfile's: a file made the plain way has the permissions that the user's umask gives.
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(
            f"Could not write {path}: {error}. What was there before is untouched. Is there space on the disk, and may "
            "you write there?"
        ) from error
    return path
