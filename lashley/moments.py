"""The moment of a set of rows: ``(S, s, n) = (X^T X, X^T 1, N)`` for rows ``X [N, D]``. Tensors only.

Sums, never means: moments of disjoint sets of rows add, so batches, files, processes and machines merge by
``+``. The count and the row sum are always kept, whether or not a layer has a bias, because the moment of
``x~ = [x; 1]`` is then a view:

    S~ = [[S, s], [s^T, n]]

A moment is held in the cheapest form it has:

*diagonal* for one-hot rows (an embedding): the counts of the indices.
*thin*    the rows themselves, as they came (``N x D``), while that takes less room than the square in float64 and
          there are fewer rows than columns. Nothing is rounded, and an engram solved from it is exactly low rank.
*square*  the lower block triangle of ``S``, as block columns ``S[e_j:, e_j:e_{j+1}]``. Only these are ever
          multiplied out: with 8 of them that is 9/16 of the full product. It is summed in float64, and kept in the
          dtype of its products.

Legend: N rows, D columns, S ``[D, D]``, s ``[D]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from lashley.errors import MomentError
from lashley.kernels import EVEN, filled, full_precision, matmul

__all__ = [
    "Accumulator",
    "Moment",
    "Pool",
    "all_finite",
    "coarser",
    "column_sums",
    "edges",
    "listed",
    "numbered",
    "pool",
    "pool_all",
    "product_dtype",
    "wide",
]

_GATHER = 1024  # rows gathered before they are multiplied; below that a product is dominated by its overhead
_AT_ONCE = 2048  # rows in one product: beyond that it is hardly faster, takes more room, and float32 sums lose digits
_PIECE = 2**20  # elements that are widened at a time: 8 MiB of float64, which the allocator keeps at hand
_WRITTEN_OUT = 16384  # columns up to which a diagonal moment is written out as a square: 2 GiB
_FLOAT64_UP_TO = 256  # columns up to which float64 products cost little beside the forward pass


def product_dtype(dim: int, rows: torch.dtype, asked: torch.dtype | None = None) -> torch.dtype:
    """The dtype rows are multiplied in: as asked, else float64 for D <= 256 or float64 rows, float32 above."""
    if asked is not None:
        return asked
    return torch.float64 if dim <= _FLOAT64_UP_TO or rows == torch.float64 else torch.float32


class Moment:
    """``(S, s, n)`` of one set of rows at one site. A value: adding makes a new one.

    Attributes:
        dim: D.
        count: n, an exact integer.
        sum: s, float64 ``[D]``.
        rows: the rows ``[N, D]`` in the dtype they came in when the moment is thin, else None.
        product: the dtype the square was multiplied in; float64 for a thin moment, whose rows are exact.
    """

    __slots__ = ("blocks", "count", "dim", "product", "rows", "sum")

    def __init__(
        self,
        sum: Tensor,
        count: int,
        *,
        rows: Tensor | None = None,
        blocks: tuple[Tensor, ...] | None = None,
        product: torch.dtype = torch.float64,
    ) -> None:
        if (rows is None) == (blocks is None):
            raise MomentError("A moment is thin or square: expected either rows or blocks, got both or neither.")
        self.dim = sum.shape[0]
        self.sum = sum
        self.count = count
        self.rows = rows
        self.blocks = blocks
        self.product = torch.float64 if rows is not None else product

    @classmethod
    def zero(cls, dim: int) -> Moment:
        """The moment of no rows."""
        return cls(torch.zeros(dim, dtype=torch.float64), 0, rows=torch.zeros(0, dim))

    @classmethod
    def of(cls, rows: Tensor, dtype: torch.dtype | None = None) -> Moment:
        """The moment of ``rows [N, D]``, thin or square as its size says."""
        accumulator = Accumulator(rows.shape[-1], dtype=dtype)
        accumulator.add(rows.unsqueeze(0))
        return accumulator.moments()[0]

    @property
    def thin(self) -> bool:
        """Whether the moment is held as its rows."""
        return self.rows is not None

    @property
    def square(self) -> Tensor:
        """S, float64 ``[D, D]``, symmetric to the bit. Built at each call: keep it if it is needed twice."""
        return self.matrix(augmented=False)

    @property
    def augmented(self) -> Tensor:
        """S~, float64 ``[D+1, D+1]``: the moment of the rows with a 1 appended."""
        return self.matrix(augmented=True)

    def matrix(self, augmented: bool, dtype: torch.dtype = torch.float64) -> Tensor:
        """S or S~, symmetric to the bit. Built at each call, in ``dtype`` from the start."""
        size = self.dim + int(augmented)
        full = self.sum.new_empty(size, size, dtype=dtype)
        self._write(full[: self.dim, : self.dim])
        if augmented:
            full[-1, :-1] = full[:-1, -1] = self.sum
            full[-1, -1] = self.count
        return full

    def _write(self, square: Tensor) -> None:
        """S into memory that is there."""
        blocks = self.blocks if self.blocks is not None else _products(self.design(augmented=False))
        for (start, stop), block in zip(edges(self.dim), blocks, strict=True):
            square[start:, start:stop] = block
            square[start:stop, stop:] = square[stop:, start:stop].T
            # The two triangles of a product differ in the last bit.
            corner = square[start:stop, start:stop]
            corner.copy_(corner.tril() + corner.tril(-1).T)

    def design(self, augmented: bool, dtype: torch.dtype = torch.float64) -> Tensor:
        """The rows of a thin moment, with the column of ones when augmented: ``[N, D]`` or ``[N, D+1]``."""
        if self.rows is None:
            raise MomentError(f"Expected a thin moment, got a square one of {self.count} rows; use matrix() instead.")
        rows = self.rows.to(_home(self.rows), dtype)
        return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1) if augmented else rows

    def to(self, device: torch.device | str) -> Moment:
        """The moment on another device; what is there already is not copied."""
        return Moment(
            self.sum.to(device),
            self.count,
            rows=None if self.rows is None else self.rows.to(device),
            blocks=None if self.blocks is None else tuple(b.to(device) for b in self.blocks),
            product=self.product,
        )

    def compact(self) -> Moment:
        """The moment to keep when nothing is added any more, in memory of its own: a square in the dtype of its
        products, if it can be. That rounds it by half a unit in the last place, where its products have a few.
        """
        if self.blocks is None:
            return self
        # No entry is larger than the largest on the diagonal, where the corners of the blocks lie.
        largest = max(block[: block.shape[1]].diagonal().max().item() for block in self.blocks)
        fits = largest <= torch.finfo(self.product).max
        dtype = self.product if fits else torch.float64
        blocks = tuple(block.to(dtype, copy=True) for block in self.blocks)
        return Moment(self.sum, self.count, blocks=blocks, product=self.product)

    def centred(self) -> Moment:
        """The moment of the rows with their mean taken off: ``(S - s s^T / n, 0, n)``."""
        if not self.count:
            return self
        mean = self.sum / self.count
        still = torch.zeros_like(self.sum)
        if self.rows is not None:
            return Moment(still, self.count, rows=wide(self.rows) - mean)
        assert self.blocks is not None
        blocks = tuple(
            block - torch.outer(self.sum[start:], mean[start:stop])
            for (start, stop), block in zip(edges(self.dim), self.blocks, strict=True)
        )
        return Moment(still, self.count, blocks=blocks, product=self.product)

    def without(self, part: Moment) -> Moment:
        """The moment of the rows that are not in ``part``, whose rows are all in this one."""
        if part.dim != self.dim or part.count > self.count:
            raise MomentError(f"Expected a part of {self}, got {part}.")
        square = self.square - part.square
        blocks = tuple(square[start:, start:stop].clone() for start, stop in edges(self.dim))
        product = coarser(self.product, part.product)
        return Moment(self.sum - part.sum, self.count - part.count, blocks=blocks, product=product)

    def __add__(self, other: Moment) -> Moment:
        return pool([self, other]) if isinstance(other, Moment) else NotImplemented

    def __repr__(self) -> str:
        form = "thin" if self.thin else f"square, {str(self.product).removeprefix('torch.')} products"
        return f"Moment(dim={self.dim}, count={self.count}, {form})"

    def pack(self) -> dict[str, Tensor]:
        """The whole moment as tensors, not copied: ``sum`` and either ``rows`` or ``block.0``, ``block.1``, ..."""
        if self.rows is not None:
            return {"sum": self.sum, "rows": self.rows}
        assert self.blocks is not None
        return {"sum": self.sum, **numbered("block", self.blocks)}

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], count: int, product: torch.dtype = torch.float64) -> Moment:
        """The inverse of `pack`. Block columns of other widths are read too, and what files of version 1 have in their
        place: ``triangle [D(D+1)/2]``, the lower one row by row.
        """
        total = tensors["sum"]
        if "rows" in tensors:
            return cls(total, count, rows=tensors["rows"])
        if "triangle" in tensors:
            return cls(total, count, blocks=_from_triangle(tensors["triangle"], total.shape[0]), product=product)
        if not (blocks := tuple(listed("block", tensors))):
            return Diagonal(total)
        return cls(total, count, blocks=_divided(blocks, total.shape[0]), product=product)


class Diagonal(Moment):
    """The moment of one-hot rows: ``S = diag(c)``, ``s = c``, with ``c [D]`` how often each index came."""

    __slots__ = ()

    def __init__(self, counts: Tensor) -> None:
        super().__init__(counts, int(counts.sum().item()), blocks=())

    def matrix(self, augmented: bool, dtype: torch.dtype = torch.float64) -> Tensor:
        """``diag(c)`` written out, bordered when augmented: for looking at small ones; solving never needs it."""
        if self.dim > _WRITTEN_OUT:
            raise MomentError(
                f"Expected at most {_WRITTEN_OUT} columns to write a diagonal moment out as a square, got {self.dim}. "
                "Its diagonal is moment.sum."
            )
        return super().matrix(augmented, dtype)

    def _write(self, square: Tensor) -> None:
        square.zero_().diagonal().copy_(self.sum)

    def to(self, device: torch.device | str) -> Diagonal:
        return Diagonal(self.sum.to(device))

    def compact(self) -> Diagonal:
        return self

    def __repr__(self) -> str:
        return f"Diagonal(dim={self.dim}, count={self.count})"

    def pack(self) -> dict[str, Tensor]:
        return {"sum": self.sum}


class Counts:
    """Indices in, a diagonal moment out; the counterpart of `Accumulator` for embeddings."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.count = 0
        self._counts = torch.zeros(dim, dtype=torch.float64)

    def add_indices(self, indices: Tensor) -> None:
        """Take indices of any shape."""
        found = torch.bincount(indices.reshape(-1), minlength=self.dim)
        self._counts += found.to("cpu", torch.float64)
        self.count += indices.numel()

    def include(self, moments: Sequence[Moment]) -> None:
        """Add a finished moment."""
        _check_width(self.dim, moments)
        self._counts = self._counts.to(moments[0].sum.device) + moments[0].sum
        self.count += moments[0].count

    def moments(self) -> list[Moment]:
        return [Diagonal(self._counts)]

    def state(self) -> dict[str, Tensor]:
        """All that later moments depend on, as tensors."""
        return {"counts": self._counts}

    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on where `state` was taken. The counts stay on the host, wherever the indices come from."""
        self._counts = state["counts"].clone()
        self.count = int(self._counts.sum())


def pool(moments: Iterable[Moment], dim: int | None = None) -> Moment:
    """The moment of all rows together. Thin stays thin while that is the cheaper form.

    Rows of thin moments that have to be multiplied now are multiplied in float64: how rows were divided among moments
    must not show in their pool.
    """
    found = pool_all([moment] for moment in moments)
    if not found and dim is None:
        raise MomentError("Expected at least one moment or the number of columns, got neither.")
    return found[0] if found else Moment.zero(dim)  # type: ignore[arg-type]


def pool_all(parts: Iterable[Sequence[Moment]], dtype: torch.dtype | None = torch.float64) -> list[Moment]:
    """The same for the matrices of a layer: one moment of each in every part, and one of each comes out.

    The parts are taken one at a time: they may come from a disk.

    Args:
        dtype: of the products of rows that have to be multiplied now; None decides by `product_dtype`.
    """
    pool = Pool(dtype)
    for moments in parts:
        pool.add(moments)
    return pool.moments()


class Pool:
    """Moments in, the moments of all their rows out: `pool_all`, one part after another.

    Args:
        dtype: as `pool_all` takes it.
    """

    def __init__(self, dtype: torch.dtype | None = torch.float64) -> None:
        self.dtype = dtype
        self._alone: Sequence[Moment] = ()
        self._together: Accumulator | Counts | None = None

    def add(self, moments: Sequence[Moment]) -> None:
        """Take one moment of each matrix."""
        if self._together is not None:
            self._together.include(moments)
        elif not self._alone:
            self._alone = moments
        else:
            first = self._alone[0]
            several = Accumulator(first.dim, len(self._alone), self.dtype)
            self._together = Counts(first.dim) if isinstance(first, Diagonal) else several
            self._together.include(self._alone)
            self._together.include(moments)
            self._alone = ()

    def moments(self) -> list[Moment]:
        """Those of all rows; of a single part, its own. Ask for them when nothing more is added."""
        return list(self._alone) if self._together is None else self._together.moments()


class Accumulator:
    """Rows in, moments out, for all matrices of a layer at once.

    Rows are gathered until a product is large, multiplied in `product_dtype` with autocast and TF32
    out of the way, and summed in float64. Until there are more rows than a thin moment may have, none is multiplied.

    Args:
        dim: D.
        matrices: M.
        dtype: of the products; None decides by `product_dtype`.
    """

    def __init__(self, dim: int, matrices: int = 1, dtype: torch.dtype | None = None) -> None:
        self.dim = dim
        self.matrices = matrices
        self.dtype = dtype
        self.count = 0
        self._sum: Tensor | None = None
        self._waiting: Tensor | None = None  # [M, D, n], of which the first so many columns are rows that wait
        self._rows = 0
        self._blocks: tuple[Tensor, ...] | None = None
        self._used: tuple[Tensor, ...] | None = None  # blocks of before, to be filled anew
        self._product = torch.float64

    def renew(self) -> None:
        """Begin anew in the memory that is there. What was made of the sums must be copied before (`compact`)."""
        self.count, self._sum, self._rows, self._product = 0, None, 0, torch.float64
        self._used, self._blocks = self._blocks or self._used, None

    def add(self, rows: Tensor) -> Tensor:
        """Take ``rows [M, n, D]`` and return their sum ``[M, D]``. The rows are copied where they have to wait."""
        if rows.dim() != 3 or rows.shape[0] != self.matrices or rows.shape[2] != self.dim:
            raise MomentError(f"Expected rows of shape [{self.matrices}, n, {self.dim}], got {list(rows.shape)}.")
        total = column_sums(rows)
        if rows.shape[1]:
            self.count += rows.shape[1]
            self._sum = total if self._sum is None else self._sum + total
            self._gather(rows)
        return total

    def include(self, moments: Sequence[Moment]) -> None:
        """Add finished moments, one of each matrix and all of the same rows."""
        _check_width(self.dim, moments)
        rows = [m.rows for m in moments if m.rows is not None]
        if len(rows) == self.matrices:
            self.add(torch.stack(rows))
            return
        self.count += moments[0].count
        total = torch.stack([m.sum for m in moments])
        self._sum = total if self._sum is None else self._sum + total
        for number, moment in enumerate(moments):
            assert moment.blocks is not None  # the rows of one matrix are no fewer than those of another
            for mine, theirs in zip(self._ready(total), moment.blocks, strict=True):
                mine[number] += theirs
            self._product = coarser(self._product, moment.product)

    def moments(self) -> list[Moment]:
        """The moment of each matrix, on the device of the sums.

        They share the accumulator's memory: ask for them when nothing more is added.
        """
        if self._sum is None:
            return [Moment.zero(self.dim) for _ in range(self.matrices)]
        waiting = self._waiting
        if self._blocks is None and waiting is not None and self.count <= thin_limit(self.dim, waiting.dtype):
            rows = self._gathered().to(self._sum.device)
            return [Moment(s, self.count, rows=r) for s, r in zip(self._sum, rows, strict=True)]
        self._flush()
        assert self._blocks is not None
        columns = zip(*self._blocks, strict=True)
        return [
            Moment(s, self.count, blocks=tuple(b), product=self._product)
            for s, b in zip(self._sum, columns, strict=True)
        ]

    def state(self) -> dict[str, Tensor]:
        """All that later moments depend on, as tensors. They share the accumulator's memory."""
        state = {"count": torch.tensor(self.count), "product": torch.empty(0, dtype=self._product)}
        if self._sum is not None:
            state["sum"] = self._sum
        pending = [self._gathered()] if self._rows else []
        return state | numbered("pending", pending) | numbered("block", self._blocks or ())

    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on where `state` was taken, to the bit.

        Args:
            device: where the next rows come from.
        """
        home = torch.device("cpu") if device.type == "mps" else device
        self.count, self._product = int(state["count"]), state["product"].dtype
        self._sum = state["sum"].to(home, copy=True) if "sum" in state else None
        self._blocks = self._restored([block.to(home, copy=True) for block in listed("block", state)])
        for rows in listed("pending", state):
            self._wait(rows.to(device))

    def _gather(self, rows: Tensor) -> None:
        """Have rows wait with those that do; what is there is multiplied when it is enough and more comes."""
        while count := rows.shape[1]:
            limit = self._limit(self._common(rows.dtype))
            if self._rows >= limit:
                self._flush()
            elif not self._rows and count > limit:
                for piece in rows.split(_AT_ONCE, dim=1):
                    self._multiply(piece.mT, piece.shape[1])
                return
            else:
                room = limit - self._rows
                self._wait(rows[:, :room])
                rows = rows[:, room:]

    def _wait(self, rows: Tensor) -> None:
        """Put rows beside those that wait."""
        end = self._rows + rows.shape[1]
        self._room(end, rows)[..., self._rows : end] = rows.mT
        self._rows = end

    def _room(self, count: int, like: Tensor) -> Tensor:
        """Where rows wait, as columns: room for so many. When they are multiplied, nothing is turned round any more,
        and mostly nothing copied.
        """
        held, dtype = self._waiting, self._common(like.dtype)
        if held is None or held.shape[2] < count or held.dtype != dtype:
            size = -(-count // EVEN) * EVEN if 2 * count > EVEN else 1 << (count - 1).bit_length()
            self._waiting = like.new_empty(self.matrices, self.dim, size, dtype=dtype)
            if held is not None:
                self._waiting[..., : self._rows] = held[..., : self._rows]
        assert self._waiting is not None
        return self._waiting

    def _common(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype in which rows of this one wait beside those that do."""
        return torch.promote_types(self._waiting.dtype, dtype) if self._waiting is not None and self._rows else dtype

    def _gathered(self) -> Tensor:
        """The rows that wait ``[M, n, D]``, in memory of their own."""
        assert self._waiting is not None
        return self._waiting[..., : self._rows].mT.clone(memory_format=torch.contiguous_format)

    def _flush(self) -> None:
        """Multiply what was gathered."""
        waiting, count, self._rows = self._waiting, self._rows, 0
        if waiting is None or not count:
            return
        if count <= _AT_ONCE:
            self._multiply(waiting, count)
        else:
            for piece in waiting[..., :count].split(_AT_ONCE, dim=2):
                self._multiply(piece, piece.shape[2])
        if waiting.shape[2] > _GATHER:
            self._waiting = None  # so many wait only as long as they may stay thin

    def _multiply(self, columns: Tensor, count: int) -> None:
        """Add the products of rows, the first so many columns ``[M, D, n]``: as columns, a block's factors are whole
        stretches of memory.
        """
        dtype = product_dtype(self.dim, columns.dtype, self.dtype)
        self._product = coarser(self._product, dtype)
        blocks = self._ready(columns)
        columns = filled(columns, count, dtype)
        with full_precision(columns.device):
            for (left, right), block in zip(self._factors(columns), blocks, strict=True):
                if block.dtype == dtype and block.device == columns.device:
                    block.baddbmm_(left, right)
                else:
                    block += matmul(left, right).to(block.device)

    def _restored(self, blocks: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
        """The blocks of a state, in the widths that we have."""
        if not blocks or [tuple(block.shape[1:]) for block in blocks] == self._shapes():
            return tuple(blocks) or None
        matrices = [_divided(tuple(block[m] for block in blocks), self.dim) for m in range(self.matrices)]
        return tuple(torch.stack(parts) for parts in zip(*matrices, strict=True))

    def _ready(self, like: Tensor) -> tuple[Tensor, ...]:
        if self._blocks is None and self._used is not None:
            self._blocks = tuple(block.zero_() for block in self._used)
        elif self._blocks is None:
            self._blocks = tuple(
                torch.zeros(self.matrices, *shape, dtype=torch.float64, device=_home(like)) for shape in self._shapes()
            )
        return self._blocks

    def _limit(self, dtype: torch.dtype) -> int:
        """How many rows to gather before they are multiplied."""
        return _GATHER if self._blocks is not None else max(_GATHER, thin_limit(self.dim, dtype))

    def _shapes(self) -> list[tuple[int, int]]:
        """The blocks that products are summed in."""
        return _shapes(self.dim)

    def _factors(self, columns: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """For each block, the two factors whose product these rows, given as columns, add."""
        for start, stop in edges(self.dim):
            yield columns[:, start:], columns[:, start:stop].mT


def edges(dim: int) -> list[tuple[int, int]]:
    """Where the block columns begin and end. Fixed by D alone, so that any two moments of a site add block by block."""
    most, unit = (1, 1) if dim < 128 else (4, 16) if dim < 512 else (8, 64)
    width = -(-dim // (most * unit)) * unit  # whole units: a product of others takes up to twice as long
    return list(pairwise([*range(0, dim, width), dim]))


def _shapes(dim: int) -> list[tuple[int, int]]:
    """Of the block columns."""
    return [(dim - start, stop - start) for start, stop in edges(dim)]


def _check_width(dim: int, moments: Iterable[Moment]) -> None:
    widths = sorted({dim, *(moment.dim for moment in moments)})
    if len(widths) > 1:
        raise MomentError(f"Expected moments of one width, got widths {widths}: they are of different sites.")


def numbered(name: str, tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    """``name.0``, ``name.1``, ... for the tensors of a list."""
    return {f"{name}.{number}": tensor for number, tensor in enumerate(tensors)}


def listed(name: str, state: Mapping[str, Tensor]) -> list[Tensor]:
    """The inverse of `numbered`."""
    return [state[key] for number in range(len(state)) if (key := f"{name}.{number}") in state]


def _products(rows: Tensor) -> tuple[Tensor, ...]:
    return tuple(rows[:, start:].T @ rows[:, start:stop] for start, stop in edges(rows.shape[1]))


def thin_limit(dim: int, *dtypes: torch.dtype) -> int:
    """Most rows a thin moment may have: fewer bytes than the packed float64 triangle, and no more rows than columns."""
    size = max((d.itemsize for d in dtypes), default=8)
    return max(1, min(dim, 4 * (dim + 1) // size))


def _divided(blocks: tuple[Tensor, ...], dim: int) -> tuple[Tensor, ...]:
    """Block columns of any widths as those that we have."""
    got = [tuple(block.shape) for block in blocks]
    if got == _shapes(dim):
        return blocks
    ends = list(accumulate(shape[-1] for shape in got))
    starts = [0, *ends[:-1]]
    if got != [(dim - start, end - start) for start, end in zip(starts, ends, strict=True)] or ends[-1] != dim:
        raise MomentError(f"Expected block columns of shapes {_shapes(dim)}, got {got}.")
    full = blocks[0].new_zeros(dim, dim)
    for start, end, block in zip(starts, ends, blocks, strict=True):
        full[start:, start:end] = block
    return tuple(full[start:, start:stop].clone() for start, stop in edges(dim))


def _from_triangle(triangle: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Block columns of a lower triangle ``[D(D+1)/2]`` that is given row by row.

    Above the diagonal of a corner there is nothing in it, and `Moment.matrix` takes nothing from there.
    """
    if triangle.numel() != dim * (dim + 1) // 2:
        raise MomentError(f"Expected a triangle of {dim * (dim + 1) // 2} numbers, got {triangle.numel()}.")
    full = triangle.new_zeros(dim, dim)
    full[torch.ones_like(full, dtype=torch.bool).tril_()] = triangle
    return tuple(full[start:, start:stop].clone() for start, stop in edges(dim))


def coarser(a: torch.dtype, b: torch.dtype) -> torch.dtype:
    """The dtype with the larger rounding."""
    return a if torch.finfo(a).eps >= torch.finfo(b).eps else b


def _home(like: Tensor) -> torch.device:
    """Where float64 sums live: the rows' device, or the host when that device has no float64."""
    return torch.device("cpu") if like.device.type == "mps" else like.device


def column_sums(rows: Tensor) -> Tensor:
    """``rows [M, n, D]`` summed over n in float64, ``[M, D]``; in pieces, because torch widens a copy to sum it."""
    dtype = torch.float32 if rows.device.type == "mps" else torch.float64
    pieces = rows.split(max(1, _PIECE // max(1, rows.shape[0] * rows.shape[2])), dim=1)
    total = pieces[0].sum(1, dtype=dtype)
    for piece in pieces[1:]:
        total += piece.sum(1, dtype=dtype)
    return total.to(_home(rows), torch.float64)


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float64, on the host when its device has none."""
    return tensor.to(_home(tensor), torch.float64)


def all_finite(tensor: Tensor) -> bool:
    """Whether no entry is nan or inf. A finite sum says so at a fraction of the time; an infinite one may overflow."""
    return bool(torch.isfinite(tensor.sum()).item() or torch.isfinite(tensor).all().item())
