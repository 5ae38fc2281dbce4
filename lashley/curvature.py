"""Is the engram the natural-gradient step that the paper says it is, on a network and its data?

One side is autograd on the network as it runs: the gradient of ``1/2 ||z||^2`` over the concept's rows of each layer,
through the module's own forward, divided by the recorded moment of its inputs. The other side is `Recording.engram`.
Beside it stand what the equivalence assumes away, the curvature of the outputs (the G of K-FAC, from labels drawn from
the network's own answers), and the problem of theorem 6.1 as it is written, with nothing at all done to the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lashley.anatomy import Place, places
from lashley.data.concepts import Stream, check_data
from lashley.data.masks import default_mask, fit_mask
from lashley.data.rows import Pick, pick
from lashley.engram import Delta
from lashley.errors import DataError, RecordingError
from lashley.estimators import Projection
from lashley.geometry import Agreement, agreement, effective_rank, normal_residual, output_step, spared
from lashley.hooks import Identities, at_rest, tapped
from lashley.layers import Layer, unwrap
from lashley.layers.attention import AttentionLayer
from lashley.observer import Forward, Rows
from lashley.parameters import parameters_of
from lashley.recording import Recording, Site
from lashley.select import Patterns, match_names
from lashley.spectrum import Cut
from lashley.subject import Encoder, Subject

__all__ = ["DAMPINGS", "Step", "forgetting_gradients", "natural_gradient", "output_factors"]

DAMPINGS = (1.0, 0.1, 0.01)

Data = Mapping[str, Iterable[Any]] | Iterable[Any]


@dataclass(frozen=True)
class Step:
    """The engram of one concept in one matrix beside the steps it is said to be. Each agreement is "that with E".

    Attributes:
        concept: whose engram.
        layer, number: the layer, and which of its matrices.
        engram: E, float64 ``[O, D]``, with the bias as the last column where it has one.
        computed: the autograd gradient of ``1/2 ||W X_c||^2`` times ``S^+``.
        factor: the curvature G of its outputs, ``[O, O]``; None if it was left out.
        natural: of the computed step: corollary 6.3. Its error is rounding.
        residual: of the normal equations of eq. 2, ``||E S - W S_c|| / ||W S_c||``: what the cut leaves.
        hard: the solution of theorem 6.1's problem with the constraint ``E X_-^T = 0`` kept.
        hard_rank: how many directions that constraint leaves: those owned whole.
        outputs: ``{damping: K-FAC's step with the curvature G of the outputs}``; empty without one.
        output_rank: effective rank of G over O, 1 for the isotropic one that the corollary assumes; None without one.
    """

    concept: str
    layer: str
    number: int
    engram: Tensor
    computed: Tensor
    factor: Tensor | None
    natural: Agreement
    residual: float
    hard: Agreement
    hard_rank: int
    outputs: Mapping[float, Agreement]
    output_rank: float | None


def natural_gradient(
    model: nn.Module,
    recording: Recording,
    data: Data,
    concepts: str | Sequence[str],
    concept_of: Callable[[Any], Any] | None = None,
    *,
    layers: Patterns = None,
    bias: bool = True,
    cut: Cut | None = None,
    rows: Rows | None = None,
    forward: Forward | None = None,
    dampings: Sequence[float] = DAMPINGS,
    seed: int = 0,
) -> list[Step]:
    """Compare the engrams of concepts, each by itself and against all rows, with natural-gradient steps.

    For agreement to rounding the network should be in float64, and recorded with ``dtype=torch.float64``.

    Args:
        model, data, concept_of, rows, forward: what was recorded, and how (`lashley.record`); data that can be read
            again. The curvature of the outputs needs an output that is logits ``[..., K]``, or a mapping or tuple with
            them under "logits" or first.
        layers, bias, cut: as `lashley.anatomy.places` takes them. The query, key and value projections inside
            `nn.MultiheadAttention` show no outputs of their own and are left out.
        dampings: of the curvature of the outputs, as parts of its mean eigenvalue; none: leave it out.
        seed: of the labels drawn from the network's answers.

    Raises:
        DataError, SelectionError, ModelError, MomentError: as `lashley.anatomy.places` and `lashley.record` do.
        RecordingError: an output that is not logits; a layer that was not called.
    """
    names = [concepts] if isinstance(concepts, str) else list(concepts)
    cut = Cut() if cut is None else cut
    watch = _Watch(model, recording, layers, rows, forward)
    stream = _stream(recording, data, concept_of)
    settings: Any = {"layers": watch.names, "bias": bias, "cut": cut}
    factors = watch.output_factors(stream, seed) if dampings else {}
    steps: list[Step] = []
    for concept in names:
        engram = recording.engram(model, concept, bias=bias, layers=watch.names, estimator=Projection(cut=cut))
        gradients = watch.gradients(stream, concept, bias)
        of_concept = [
            _step(place, name, concept, engram[name], gradients[name], factors.get(name), dampings)
            for place in places(recording, model, [concept], **settings)
            for name in place.layers
            if name in gradients  # patterns also match the ends of names
        ]
        steps += sorted(of_concept, key=lambda step: (watch.names.index(step.layer), step.number))
    return steps


def forgetting_gradients(
    model: nn.Module,
    recording: Recording,
    data: Data,
    concept: str,
    concept_of: Callable[[Any], Any] | None = None,
    *,
    layers: Patterns = None,
    bias: bool = True,
    rows: Rows | None = None,
    forward: Forward | None = None,
) -> dict[str, Tensor]:
    """By autograd, the gradient of ``1/2 ||z||^2`` over a concept's rows of each layer: ``W~ S~_c``, if all is well.

    Arguments as for `natural_gradient`; without the bias, z is the output without it.

    Returns:
        ``{layer: [M, O, D + 1]}`` in float64, the last column of the bias; ``[M, O, D]`` where it is not absorbed.
    """
    stream = _stream(recording, data, concept_of)
    return _Watch(model, recording, layers, rows, forward).gradients(stream, concept, bias)


def output_factors(
    model: nn.Module,
    recording: Recording,
    data: Data,
    concept_of: Callable[[Any], Any] | None = None,
    *,
    layers: Patterns = None,
    rows: Rows | None = None,
    forward: Forward | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """K-FAC's G of each layer: the moment of the loss's gradients at its outputs, a row for each row recorded.

    The loss is the log-likelihood of labels drawn from the network's own answers, one a position, as the Fisher matrix
    wants it. Arguments as for `natural_gradient`.

    Returns:
        ``{layer: [M, O, O]}`` in float64, means over rows.
    """
    stream = _stream(recording, data, concept_of)
    return _Watch(model, recording, layers, rows, forward).output_factors(stream, seed)


def _step(
    place: Place,
    name: str,
    concept: str,
    delta: Delta,
    gradients: Tensor,
    factors: Tensor | None,
    dampings: Sequence[float],
) -> Step:
    site, white, number = place.sites[concept], place.white, place.number
    factor = None if factors is None else factors[number]
    engram = delta.layer.matrix(delta.weight)[number].cpu().double()
    if place.augmented:
        assert delta.bias is not None
        engram = torch.cat([engram, delta.layer.biases(delta.bias)[number, :, None].cpu().double()], dim=1)
    gradient = gradients[number]
    if white is None:
        total = site.reference.moment.sum
        natural = gradient * torch.where(total > 0, 1 / total.clamp(min=1), 0.0)
    else:
        natural = site.reference.divide(white, gradient)
    weight = place.weight(name)
    share = place.share(concept)
    return Step(
        concept=concept,
        layer=name,
        number=number,
        engram=engram,
        computed=natural,
        factor=factor,
        natural=agreement(natural, engram),
        residual=normal_residual(weight, engram, site),
        hard=agreement(spared(weight, site, share, white), engram),
        hard_rank=int((share.values >= 1 - 1e-6).sum()),
        outputs={} if factor is None else {d: agreement(output_step(engram, factor, d), engram) for d in dampings},
        output_rank=None if factor is None else effective_rank(factor) / len(factor),
    )


def _stream(recording: Recording, data: Data, concept_of: Callable[[Any], Any] | None) -> Stream:
    check_data(data, concept_of)
    return Stream(data, concept_of, None if concept_of is None else recording.concepts)


def _shows_output(layer: Layer) -> bool:
    """Not the projections inside attention, whose responses stay there."""
    return not isinstance(layer, AttentionLayer) or layer.part == "out_proj"


class _Watch:
    """Passes of the network over its data in which the rows of some layers are looked at, those that were recorded.

    Attributes:
        names: of the layers that show their outputs.
    """

    def __init__(
        self, model: nn.Module, recording: Recording, layers: Patterns, rows: Rows | None, forward: Forward | None
    ) -> None:
        asked = match_names(layers, recording.layers, "layers")
        self.names = [name for name in asked if _shows_output(recording.layers[name])]
        if not self.names:
            raise RecordingError(
                f"Expected a layer that shows its output, got {asked[0]!r}, whose output stays inside the attention "
                "module. Ask for out_proj, or for other layers."
            )
        self._layers = {name: recording.layers[name] for name in self.names}
        parameters_of(unwrap(model), self._layers)  # the model has them
        self._subject = Subject(model, self._layers)
        self._given, self._rows, self._forward = model, rows, forward
        self._encoder = Encoder(self._subject)
        self._site: dict[str, Site] = {name: site for site in recording.sites for name in site.layers}

    def gradients(self, stream: Stream, concept: str, bias: bool) -> dict[str, Tensor]:
        """Of ``1/2 ||z||^2`` over the concept's rows."""
        found: dict[str, Tensor] = {}
        if stream.mapping and concept not in stream.data:
            raise DataError(f"Expected batches of the concept {concept!r}, got only those of {list(stream.data)}.")
        parts = stream.only(concept) if stream.mapping else stream
        with at_rest(self._given), _wanted(self._weights()):
            for batch, members in parts:
                with ExitStack() as stack:
                    counted = stack.enter_context(self._counting(batch, members, concept))
                    for name, module in self._subject.modules.items():
                        stack.callback(_gradient_hook(name, module, self._layers[name], bias, counted, found))
                    self._run(batch)
        if missing := [name for name in self._layers if name not in found]:
            raise RecordingError(f"Expected rows of {concept!r} in layer {missing[0]!r}, got none. Is it that data?")
        return found

    def output_factors(self, stream: Stream, seed: int) -> dict[str, Tensor]:
        """Moments of gradients at the outputs, over all rows."""
        sums: dict[str, Tensor] = {}
        rows = dict.fromkeys(self._layers, 0)
        generator = torch.Generator().manual_seed(seed)
        with at_rest(self._given), _wanted(self._weights()) as weights, torch.enable_grad():
            for batch, members in stream:
                with ExitStack() as stack:
                    counted = stack.enter_context(self._counting(batch, members, None))
                    for name, module in self._subject.modules.items():
                        stack.callback(_factor_hook(name, module, self._layers[name], counted, sums, rows))
                    logits = _logits(self._run(batch))
                    loss = -_drawn(logits, generator)[self._answered(batch, logits)].sum()
                torch.autograd.grad(loss, weights, allow_unused=True)
        return {name: sums[name] / rows[name] for name in self._layers if name in sums}

    def _weights(self) -> list[Tensor]:
        found = []
        for name, module in self._subject.modules.items():
            for which in ("weight", "bias"):
                tensor = self._layers[name].tensor(module, which)
                found += [] if tensor is None else [tensor]
        return found

    def _run(self, batch: Any) -> Any:
        if self._forward is not None:
            return self._forward(self._subject.model, batch)
        return self._subject.call(batch)

    @contextmanager
    def _counting(self, batch: Any, members: Any, concept: str | None) -> Iterator[dict[str, Tensor]]:
        """For one pass: which rows of the input that a layer is called with count, as a mask of its leading dims."""
        identities, counted = Identities(), {}

        def on_input(name: str, x: Tensor) -> None:
            layer = self._layers[name]
            part = self._encoder.part(name, identities.number(x))
            lead = layer.lead(tuple(layer.batched(x).shape))
            if self._rows is not None:
                mask: Tensor | None = fit_mask(self._rows(batch, self._site[name]), lead, name, given=True)
            else:
                mask = default_mask(batch, part)
                mask = None if mask is None else fit_mask(mask, lead, name, given=False)
            counted[name] = torch.zeros(lead, dtype=torch.bool, device=x.device)
            for chosen in pick(members, mask, layer, lead, x.device):
                if concept is None or chosen.concept == concept:
                    counted[name] |= _mask(chosen, lead, x.device)

        with (
            tapped(self._subject.modules, on_input, layers=self._layers),
            self._encoder.watched(identities),
        ):
            yield counted

    def _answered(self, batch: Any, logits: Tensor) -> Tensor:
        lead = tuple(logits.shape[:-1])
        mask = default_mask(batch)
        fitted = torch.ones(lead, dtype=torch.bool) if mask is None else fit_mask(mask, lead, "the output", given=False)
        return fitted.to(logits.device).expand(lead)


def _mask(chosen: Pick, lead: tuple[int, ...], device: torch.device) -> Tensor:
    """The rows of a pick as a mask over the leading dims."""
    count = lead[0] if chosen.samples is None else len(chosen.samples)
    part = torch.zeros((count, *lead[1:]), dtype=torch.bool, device=device)
    part[... if chosen.mask is None else chosen.mask] = True
    if chosen.samples is None:
        return part
    return torch.zeros(lead, dtype=torch.bool, device=device).index_copy(0, chosen.samples, part)


def _gradient_hook(
    name: str,
    module: nn.Module,
    layer: Layer,
    absorbed: bool,
    counted: Mapping[str, Tensor],
    found: dict[str, Tensor],
) -> Callable[[], None]:
    """Before each call of the module: its own forward once more, with gradients, on what it is called with."""

    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        weight, bias = layer.tensor(module, "weight"), layer.tensor(module, "bias") if layer.bias else None
        assert weight is not None
        mask = counted[name]
        if not mask.any():
            return
        with torch.enable_grad():
            z = layer.responses(_output(layer, module.forward(*args, **kwargs)))[:, mask]
            if bias is not None and not absorbed:
                z = z - layer.biases(bias).unsqueeze(1)
            asked = [weight, bias] if bias is not None and absorbed else [weight]
            gradients = torch.autograd.grad(z.square().sum() / 2, asked)
        matrix = layer.matrix(gradients[0]).cpu().double()
        if len(gradients) == 2:
            matrix = torch.cat([matrix, layer.biases(gradients[1]).cpu().double().unsqueeze(-1)], dim=-1)
        found[name] = found[name] + matrix if name in found else matrix

    return module.register_forward_pre_hook(hook, with_kwargs=True).remove


def _factor_hook(
    name: str,
    module: nn.Module,
    layer: Layer,
    counted: Mapping[str, Tensor],
    sums: dict[str, Tensor],
    rows: dict[str, int],
) -> Callable[[], None]:
    """After each call of the module: wait for the gradient of what it put out."""

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        mask = counted[name]

        def arrived(gradient: Tensor) -> None:
            chosen = layer.responses(gradient)[:, mask].cpu().double()
            product = chosen.mT @ chosen
            sums[name] = sums[name] + product if name in sums else product
            rows[name] += chosen.shape[1]

        _output(layer, output).register_hook(arrived)

    return module.register_forward_hook(hook).remove


def _output(layer: Layer, output: Any) -> Tensor:
    """What the layer put out, also where there would be nothing to compare with a formula."""
    found = layer.output_of(output)
    found = output if found is None else found
    assert isinstance(found, Tensor)
    return found


@contextmanager
def _wanted(weights: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Weights that take part in gradients for a while."""
    frozen = [tensor for tensor in weights if not tensor.requires_grad]
    try:
        for tensor in frozen:
            tensor.requires_grad_(True)
        yield list(weights)
    finally:
        for tensor in frozen:
            tensor.requires_grad_(False)


def _logits(output: Any) -> Tensor:
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.dim() < 2 or not output.is_floating_point():
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise RecordingError(
            f"Expected the model to answer with logits [..., K], from which the curvature of its outputs follows; got "
            f"{got}. Pass forward=lambda model, batch: ... to return them, or dampings=() to leave it out."
        )
    return output


def _drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """The log-likelihood of a label drawn from each answer, in the shape of the leading dims."""
    told = logits.double().log_softmax(-1)
    shares = told.detach().exp().flatten(0, -2).cpu()
    labels = torch.multinomial(shares, 1, generator=generator).to(logits.device)
    return told.flatten(0, -2).gather(1, labels).reshape(logits.shape[:-1])
