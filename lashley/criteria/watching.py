"""One network under measurement: what its layers read and put out in a forward pass, at the rows that count.

Rows count as they did in the recording (`lashley.record`): padding never does. What belongs to one sample is added up,
so that a batch leaves one number per sample behind and no activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lashley.data.masks import default_mask, fit_mask
from lashley.errors import RecordingError
from lashley.hooks import Identities, tapped
from lashley.kernels import full_precision
from lashley.layers import Layer
from lashley.moments import Counts
from lashley.observer import Forward, Rows
from lashley.recording import Site
from lashley.subject import Encoder, Subject

__all__ = ["Watched", "by_sample", "counted", "energies", "of_samples", "products", "squares"]

_CHUNK = 2**24  # elements of unfolded rows held at a time: 64 MiB of float32

OnInput = Callable[[str, Tensor], None]
OnResponse = Callable[[str, Tensor], None]


class Watched:
    """A network whose layers are watched.

    Args:
        title: how messages call it.
        model: never changed.
        layers: that are watched.
        sites: of the recording, by layer, for a user's ``rows``.
        rows, forward: as `lashley.record` takes them.
    """

    def __init__(
        self,
        title: str,
        model: nn.Module,
        layers: Mapping[str, Layer],
        sites: Mapping[str, Site],
        rows: Rows | None = None,
        forward: Forward | None = None,
    ) -> None:
        self.subject = Subject(model, layers)
        self.title, self.forward = title, forward
        self._sites, self._rows = sites, rows
        self._encoder = Encoder(self.subject)
        # What their modules put out does not show these layers' own responses: they are computed from the inputs.
        self._hidden = {name for name, layer in layers.items() if layer.output_of(torch.empty(0)) is None}

    def plain(self, batch: Any) -> object:
        """The output for a batch."""
        if self.forward is not None:
            return self.forward(self.subject.model, batch)
        return self.subject.call(batch)

    def run(self, batch: Any, on_response: OnResponse, on_input: OnInput | None = None) -> object:
        """The output for a batch; on the way ``on_response(layer, Z [M, *lead, O])`` of every call of every layer,
        after ``on_input(layer, x)``.
        """
        layers = self.subject.layers

        def entered(name: str, x: Tensor) -> None:
            if on_input is not None:
                on_input(name, x)  # the very tensor: who made it is known by its identity
            if name in self._hidden:
                layer, module = layers[name], self.subject.modules[name]
                weight, bias = layer.effective(module), layer.tensor(module, "bias") if layer.bias else None
                assert weight is not None
                absorbed = None if bias is None else layer.biases(bias)
                on_response(name, _wide(products(layer, layer.batched(x.detach()), layer.matrix(weight), absorbed)))

        def left(name: str, output: Tensor) -> None:
            if name not in self._hidden:
                on_response(name, _wide(layers[name].responses(output.detach())))

        with tapped(self.subject.modules, entered, left, layers=layers):
            return self.plain(batch)

    def run_with_masks(
        self, batch: Any, on_response: OnResponse, on_input: Callable[[str, Tensor, Tensor | None], None]
    ) -> object:
        """`run`, with ``on_input(layer, x, mask)``: which rows count, bool over their first dims, or None for all."""
        identities = Identities()

        def entered(name: str, x: Tensor) -> None:
            on_input(name, x.detach(), self._mask(name, batch, x, identities))

        with self._encoder.watched(identities):
            return self.run(batch, on_response, entered)

    def _mask(self, name: str, batch: Any, x: Tensor, identities: Identities) -> Tensor | None:
        layer = self.subject.layers[name]
        lead = layer.lead(tuple(layer.batched(x).shape))
        if self._rows is not None:
            return fit_mask(self._rows(batch, self._sites[name]), lead, name, given=True).to(x.device)
        found = default_mask(batch, self._encoder.part(name, identities.number(x)))
        return None if found is None else fit_mask(found, lead, name, given=False).to(x.device)


def products(layer: Layer, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """``rows(x) @ matrix^T + bias``: ``[M, *lead, O]``.

    Args:
        x: with samples first (`Layer.batched`, which turns an input of attention around again when it comes twice).
        matrix: ``[M, O, D]``.
        bias: ``[M, O]``.
    """
    if isinstance(layer.accumulator(), Counts):  # one-hot rows are not written out
        found = F.embedding(x.long(), matrix[0].T).unsqueeze(0)
    else:
        rows = layer.rows(x).to(matrix.dtype)
        with full_precision(x.device):
            found = torch.einsum("m...d,mod->m...o", rows, matrix)
    if bias is None:
        return found
    return found + bias.reshape(bias.shape[0], *[1] * (found.dim() - 2), bias.shape[1])


def energies(layer: Layer, x: Tensor, matrices: Mapping[str, tuple[Tensor, Tensor | None]]) -> dict[str, Tensor]:
    """``||rows(x) A^T||^2`` of every row for each A, in pieces where unfolding makes rows many: ``[*lead]`` float64."""
    x = layer.batched(x)
    lead = layer.lead(tuple(x.shape))
    elements = layer.matrices * layer.dim * max(1, torch.Size(lead).numel())
    counted = isinstance(layer.accumulator(), Counts)
    pieces = 1 if counted else max(1, -(-elements // max(x.numel(), _CHUNK)))
    step = max(1, -(-len(x) // pieces))
    found: dict[str, list[Tensor]] = {key: [] for key in matrices}
    for piece in x.split(step):
        for key, (matrix, bias) in matrices.items():
            found[key].append(squares(products(layer, piece, matrix, bias)))
    return {key: torch.cat(parts) for key, parts in found.items()}


def squares(responses: Tensor) -> Tensor:
    """``||z||^2`` of every row: ``[M, *lead, O]`` to ``[*lead]`` in float64."""
    return responses.square().sum(dim=(0, -1), dtype=torch.float64)


def _wide(responses: Tensor) -> Tensor:
    """In float32 or better: differences of numbers of 16 bits are mostly rounding."""
    return responses.float() if responses.dtype.itemsize < 4 else responses


def by_sample(name: str, layer: Layer, values: Tensor, mask: Tensor | None, samples: int) -> Tensor:
    """The sum over the rows of each sample that count: ``[*lead]`` to ``[N]``, on the host."""
    return of_samples(name, layer, counted(values, mask), samples).sum(1).cpu()


def counted(values: Tensor, mask: Tensor | None) -> Tensor:
    """The values with zeros where rows do not count, whatever is there: a row of padding may be nan."""
    if mask is None:
        return values
    return values.where(mask.to(values.device).reshape(*mask.shape, *[1] * (values.dim() - mask.dim())), 0.0)


def of_samples(name: str, layer: Layer, values: Tensor, samples: int, *, numbers: int = 0) -> Tensor:
    """``[*lead]`` as ``[N, rows of a sample]``; with ``numbers`` more dims after the leading ones, all in one.

    Raises:
        RecordingError: the rows do not say which sample they are of.
    """
    lead = tuple(values.shape[: values.dim() - numbers])
    if lead[0] == samples:
        return values.reshape(samples, -1)
    if not layer.samples_first and len(lead) > 1 and lead[1] == samples:  # positions first
        return values.transpose(0, 1).reshape(samples, -1)
    if lead[0] % samples == 0:  # positions were flattened into the first dim, sample by sample
        return values.reshape(samples, -1)
    raise RecordingError(
        f"Expected the rows of layer {name!r} to come sample by sample, got leading dims {list(lead)} for {samples} "
        "samples. Leave the layer out with layers=."
    )
