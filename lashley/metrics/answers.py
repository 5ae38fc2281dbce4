"""What a language model makes of answers that it is shown (teacher forcing), and what it writes by itself.

Legend: a row has a prompt and answer tokens ``a_1 .. a_m``, of which the last is the EOS where the text has one; p_j is
the probability of a_j given everything before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lashley.data.batches import moved
from lashley.errors import DataError
from lashley.hooks import at_rest

__all__ = ["Answers", "Reference", "answers", "continuations", "reference"]

_IGNORED = -100

Batches = Iterable[Mapping[str, Tensor]]


@dataclass(frozen=True)
class Answers:
    """One number per row of text, on the host; rows in the order of the batches, or of the texts for `TextBatches`.

    Attributes:
        probability: ``exp(mean_j ln p_j)`` over all m tokens, in (0, 1]: the answer's probability per token. The
            "Q-A probability" of TOFU, EOS included (OpenUnlearning, ``evaluate_probability``).
        exact: share of the answer's tokens that are the model's first choice, in [0, 1]: exact memorisation. The last
            labelled token is left out, as in OpenUnlearning; nan for a row with no other.
        tokens: m.
        kl: mean over the answer's tokens of ``KL(before || now)`` in nats, at least 0; None without a `Reference`.
    """

    probability: Tensor
    exact: Tensor
    tokens: Tensor
    kl: Tensor | None = None

    def means(self) -> dict[str, float]:
        """The mean over rows of each measure; ``exact`` over the rows that have it."""
        found = {"probability": self.probability.mean().item(), "exact": self.exact.nanmean().item()}
        return found if self.kl is None else {**found, "kl": self.kl.mean().item()}


@dataclass(frozen=True)
class Reference:
    """What a model predicted at the answers' tokens, to measure another against.

    Attributes:
        log_probabilities: per batch, ``[labelled tokens, vocabulary]`` in float32 on the host.
    """

    log_probabilities: list[Tensor]


def reference(model: nn.Module, batches: Batches) -> Reference:
    """The model's predictions, kept: 4 bytes a labelled token and word of the vocabulary."""
    with at_rest(model):
        return Reference([F.log_softmax(logits, -1).cpu() for logits, *_ in _labelled(model, batches)])


def answers(model: nn.Module, batches: Batches, reference: Reference | None = None) -> Answers:
    """How well a causal or encoder-decoder model of transformers predicts the labelled tokens.

    Args:
        model: nothing in it is changed; it runs in evaluation mode and without gradients.
        batches: mappings with ``labels``, as `lashley.text_batches` makes them. Logits are taken in float32.
        reference: of another model, or of this one before an edit, on the same batches.

    Raises:
        DataError: a batch without labels, or a reference of other batches.
    """
    probability, exact, counts, divergence = [], [], [], []
    known = None if reference is None else iter(reference.log_probabilities)
    with at_rest(model):
        for logits, wanted, row, last in _labelled(model, batches):
            size = len(last)
            now = F.log_softmax(logits, -1)
            told = now.gather(1, wanted[:, None]).squeeze(1)
            count = torch.bincount(row, minlength=size)
            probability.append((_sum(told, row, size) / count).exp())
            scored = torch.ones_like(row, dtype=torch.bool)
            scored[last] = False
            hits = (logits.argmax(1) == wanted)[scored].float()
            exact.append(_sum(hits, row[scored], size) / torch.bincount(row[scored], minlength=size))
            counts.append(count)
            if known is not None:
                before = next(known, None)
                if before is None or before.shape != now.shape:
                    raise DataError("Expected the reference to be of these batches, got one of others.")
                per_token = F.kl_div(now, before.to(now.device), log_target=True, reduction="none").sum(1)
                divergence.append(_sum(per_token, row, size) / count)
    if known is not None and next(known, None) is not None:
        raise DataError("Expected the reference to be of these batches, got one of more.")
    if not counts:
        raise DataError("Expected at least one batch, got none.")
    order = getattr(batches, "order", None)

    def joined(parts: list[Tensor]) -> Tensor:
        whole = torch.cat([part.cpu() for part in parts])
        if order is None:
            return whole
        sorted_back = torch.empty_like(whole)
        sorted_back[torch.tensor(order)] = whole
        return sorted_back

    kl = None if known is None else joined(divergence).clamp(min=0)  # rounding can leave a little less than nothing
    return Answers(joined(probability), joined(exact), joined(counts), kl)


def continuations(
    model: nn.Module, tokenizer: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int = 64, batch_size: int = 16
) -> list[str]:
    """What the model writes after each prompt, taking its first choice at every token (greedy).

    Args:
        prompts: token ids; they are padded on the left.
        max_new_tokens: where it is cut unless the model ends by itself.
    """
    generator: Any = model
    eos = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos if eos is not None else 0
    device = next(model.parameters()).device
    written: list[str] = []
    with at_rest(model):
        for start in range(0, len(prompts), batch_size):
            some = prompts[start : start + batch_size]
            longest = max(map(len, some))
            ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in some], device=device)
            mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in some], device=device)
            out = generator.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                max_new_tokens=max_new_tokens,
                pad_token_id=pad,
                eos_token_id=eos,
            )
            written += tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
    return written


def _labelled(model: nn.Module, batches: Batches) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Per batch, for its n labelled tokens: logits ``[n, V]``, the tokens and the row of each; and which is the last of
    every row.
    """
    shift = 0 if getattr(getattr(model, "config", None), "is_encoder_decoder", False) else 1
    device = next(model.parameters()).device
    for number, batch in enumerate(batches):
        labels = batch.get("labels") if isinstance(batch, Mapping) else None
        if not isinstance(labels, Tensor):
            raise DataError(f"Expected batch {number} to be a mapping with labels. lashley.text_batches makes such.")
        inputs = dict(moved(batch, device))
        labels = inputs["labels"]
        if shift:
            inputs.pop("labels")  # an encoder-decoder model makes the decoder's inputs of them
        logits = model(**inputs).logits
        logits, labels = logits[:, : labels.shape[1] - shift], labels[:, shift:]
        counted = labels != _IGNORED
        row, position = counted.nonzero(as_tuple=True)
        sizes = torch.bincount(row, minlength=len(labels))
        if not sizes.all():
            empty = int((sizes == 0).nonzero()[0])
            raise DataError(f"Expected every row to have an answer, got none in row {empty} of batch {number}.")
        last = sizes.cumsum(0) - 1  # they come row by row
        yield logits[row, position].float(), labels[counted], row, last


def _sum(values: Tensor, row: Tensor, size: int) -> Tensor:
    return torch.zeros(size, dtype=values.dtype, device=values.device).index_add_(0, row, values)
