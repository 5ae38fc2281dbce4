"""``W S`` in place of ``S``: all that the paper's estimator needs of a concept. Tensors only.

Its engram ``E_c = (W~ S~_c) S~^+`` asks of the concept for the product ``W~ S~_c`` alone, and of the square ``S`` only
for the reference, which every concept has in common. With few outputs the product is much smaller than the square.
It adds as moments do. With the row sum and the count beside it, the bias is absorbed when solving, as a view:

    W~ S~ = [W S + b s^T, W s + n b]

Legend: N rows, D columns, O outputs of all layers that read the site, M matrices; W ``[O, D]``, S ``[D, D]``,
s ``[D]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lashley.errors import MomentError
from lashley.kernels import matmul
from lashley.moments import Accumulator, Moment, coarser

__all__ = ["Product", "Products", "pool_products"]


class Product:
    """``(W S, s, n)`` of one set of rows at one site. A value: adding makes a new one.

    Attributes:
        count: n, an exact integer.
        sum: s, float64 ``[D]``.
        matrix: ``W S``, float64 ``[O, D]``: the outputs of the layers that read the site, one layer after another.
        product: the dtype the rows were multiplied in.
    """

    __slots__ = ("count", "matrix", "product", "sum")

    def __init__(self, matrix: Tensor, sum: Tensor, count: int, product: torch.dtype = torch.float64) -> None:
        self.matrix = matrix
        self.sum = sum
        self.count = count
        self.product = product

    @classmethod
    def of(cls, moment: Moment, weight: Tensor) -> Product:
        """Of the rows of a moment, for ``weight [O, D]``."""
        weight = weight.to(moment.sum.device, torch.float64)
        if moment.thin:
            rows = moment.design(augmented=False)
            matrix = (weight @ rows.T) @ rows
        else:
            matrix = weight @ moment.square
        return cls(matrix, moment.sum, moment.count, moment.product)

    def augmented(self, weight: Tensor, outputs: slice) -> Tensor:
        """``W~ S~ [O, D+1]`` of the layer with these outputs, for its ``W~ = [W, b]``."""
        bias = weight[:, -1]
        last = weight[:, :-1] @ self.sum + self.count * bias
        return torch.cat([self.matrix[outputs] + torch.outer(bias, self.sum), last[:, None]], dim=1)

    def to(self, device: torch.device | str) -> Product:
        return Product(self.matrix.to(device), self.sum.to(device), self.count, self.product)

    def __repr__(self) -> str:
        out, dim = self.matrix.shape
        return f"Product(out={out}, dim={dim}, count={self.count})"

    def pack(self) -> dict[str, Tensor]:
        """Tensors that hold the whole product."""
        return {"sum": self.sum, "matrix": self.matrix}

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], count: int, product: torch.dtype = torch.float64) -> Product:
        """The inverse of `pack`."""
        return cls(tensors["matrix"], tensors["sum"], count, product)


def pool_products(products: Iterable[Product]) -> Product:
    """The product of all rows together."""
    first, *others = products
    if not others:
        return first
    total = Product(first.matrix.clone(), first.sum.clone(), first.count, first.product)
    for other in others:
        if other.matrix.shape != total.matrix.shape:
            raise MomentError(f"Expected products of one site, got {total} and {other}.")
        total.matrix += other.matrix
        total.sum += other.sum
        total.count += other.count
        total.product = coarser(total.product, other.product)
    return total


class Products(Accumulator):
    """Rows in, `Product`s out, for all matrices at once. ``X^T X`` is never formed: ``W X^T X = (X W^T)^T X``.

    Args:
        weight: ``[M, O, D]``.
        dtype: of the products; None decides by `lashley.moments.product_dtype`.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype | None = None) -> None:
        matrices, self.out, dim = weight.shape
        super().__init__(dim, matrices, dtype)
        self.weight = weight

    def start(self, moments: Sequence[Moment]) -> None:
        """Begin with finished moments, one of each matrix."""
        parts = [Product.of(moment, weight) for moment, weight in zip(moments, self.weight, strict=True)]
        self.count, self._product = parts[0].count, parts[0].product
        self._sum = torch.stack([part.sum for part in parts])
        self._blocks = (torch.stack([part.matrix for part in parts]),)

    def products(self) -> list[Product]:
        """The product of each matrix. They share the accumulator's memory: ask when nothing more is added."""
        self._flush()
        (blocks,) = self._ready(self.weight)
        sums = torch.zeros_like(blocks[:, 0]) if self._sum is None else self._sum
        return [Product(b, s, self.count, self._product) for b, s in zip(blocks, sums, strict=True)]

    def _limit(self, dtype: torch.dtype) -> int:
        # Rows that wait take no more room than the product itself.
        return min(super()._limit(dtype), max(1, 8 * self.out // dtype.itemsize))

    def _shapes(self) -> list[tuple[int, int]]:
        return [(self.out, self.dim)]

    def _factors(self, columns: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        yield matmul(self.weight.to(columns.device, columns.dtype), columns), columns.mT
