"""Safetensors files as bytes: where each tensor lies, and copies of a file in which some tensors are others.

A file is eight bytes that say how long the header is, the header (JSON: type, shape and place of every tensor), and the
tensors one after another. What is not changed is copied as it is, without being looked at; the memory that takes is one
tensor's.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from lashley.errors import ModelError

__all__ = ["Shard", "Stored"]

_CHUNK = 1 << 23  # bytes copied at a time
_LONGEST = 100_000_000  # bytes of a header, the limit of the format
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        dtype: in the format's own word.
        start, stop: its bytes, counted from the end of the header.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.stop - self.start

    def empty(self) -> Tensor:
        """A tensor of this type and shape without numbers; one byte each where the type is none of torch's."""
        return torch.empty(self.shape, dtype=_DTYPES.get(self.dtype, torch.uint8), device="meta")


class Shard:
    """A safetensors file, of which the header was read.

    Attributes:
        path: where it is.
        header: the bytes of the header.
        stored: what is in it, in the order of the bytes.

    Raises:
        ModelError: it is cut off or no safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                self.header = file.read(min(length, _LONGEST))
                size = file.seek(0, os.SEEK_END)
        except OSError as error:
            raise ModelError(f"Could not read {path}: {error}.") from error
        if size < 8 or len(self.header) < length:
            raise self._damaged(f"its header should have {length} bytes and has {len(self.header)}")
        try:
            entries = json.loads(self.header)
            entries.pop("__metadata__", None)
            found = [Stored(n, e["dtype"], tuple(e["shape"]), *e["data_offsets"]) for n, e in entries.items()]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise self._damaged(f"its header cannot be read ({error})") from error
        self.stored = {one.name: one for one in sorted(found, key=lambda one: (one.start, one.stop))}
        end = 0
        for one in self.stored.values():
            if one.start != end or one.stop < one.start:
                raise self._damaged(f"{one.name!r} should start at byte {end} and starts at {one.start}")
            end = one.stop
        if size != self._data + end:
            raise self._damaged(f"it should have {self._data + end} bytes and has {size}")

    def _damaged(self, why: str) -> ModelError:
        return ModelError(f"{self.path} is cut off or no safetensors file: {why}. Download or copy it again.")

    @property
    def _data(self) -> int:
        """Where the tensors begin."""
        return 8 + len(self.header)

    def read(self, name: str) -> bytearray:
        """The bytes of a tensor."""
        with self.path.open("rb") as file:
            return self._bytes(file, self.stored[name])

    def _bytes(self, file: BinaryIO, one: Stored) -> bytearray:
        content = bytearray(one.size)
        file.seek(self._data + one.start)
        if file.readinto(content) != one.size:  # type: ignore[attr-defined]
            raise self._damaged(f"it ended inside {one.name!r} while it was read")
        return content

    def tensor(self, name: str) -> Tensor:
        """A tensor, in memory of its own."""
        return self._tensor(self.stored[name], self.read(name))

    def _tensor(self, one: Stored, content: bytearray) -> Tensor:
        """The bytes as numbers; what is written to the tensor is written to the bytes."""
        if one.dtype not in _DTYPES:
            raise ModelError(
                f"Expected {one.name!r} in {self.path} to be of a type that torch knows, got {one.dtype}. Known are "
                f"{', '.join(_DTYPES)}."
            )
        dtype = _DTYPES[one.dtype]
        return (torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)).reshape(one.shape)

    def size_with(self, added: Mapping[str, str]) -> int:
        """Bytes of a copy with those additions."""
        last = max((one.stop for one in self.stored.values()), default=0)
        return 8 + len(self._header_with(added)) + last + sum(self.stored[of].size for of in added.values())

    def copy(self, target: Path, edits: Mapping[str, Callable[[Tensor], None]], added: Mapping[str, str]) -> int:
        """Write the file again, with some tensors changed and some added at its end.

        Args:
            edits: functions that change or look at a tensor, by its name; all others are not decoded.
            added: names of new tensors, and the tensors they are copies of (before ``edits`` changes them).

        Returns:
            the checksum (CRC-32) of what was written. It is on the disk when this returns.
        """
        header = self._header_with(added)
        checksum = 0
        with self.path.open("rb") as source, target.open("wb") as out:
            for chunk in self._content(source, header, edits, added):
                out.write(chunk)
                checksum = zlib.crc32(chunk, checksum)
            out.flush()
            os.fsync(out.fileno())
        return checksum

    def _content(
        self,
        source: BinaryIO,
        header: bytes,
        edits: Mapping[str, Callable[[Tensor], None]],
        added: Mapping[str, str],
    ) -> Iterator[bytes | bytearray]:
        yield len(header).to_bytes(8, "little")
        yield header
        for name, one in [*self.stored.items(), *((name, self.stored[of]) for name, of in added.items())]:
            if name in edits:
                content = self._bytes(source, one)
                edits[name](self._tensor(one, content))
                yield content
                continue
            source.seek(self._data + one.start)
            left = one.size
            while left:
                chunk = source.read(min(left, _CHUNK))
                if not chunk:
                    raise self._damaged(f"it ended inside {one.name!r} while it was read")
                left -= len(chunk)
                yield chunk

    def _header_with(self, added: Mapping[str, str]) -> bytes:
        """The header as it is, or with additions."""
        if not added:
            return self.header
        entries: dict[str, Any] = json.loads(self.header)
        end = max((one.stop for one in self.stored.values()), default=0)
        for name, of in added.items():
            one = self.stored[of]
            entries[name] = {"dtype": one.dtype, "shape": one.shape, "data_offsets": [end, end + one.size]}
            end += one.size
        text = json.dumps(entries, separators=(",", ":")).encode()
        return text + b" " * (-len(text) % 8)  # the format lets the tensors begin at a multiple of eight
