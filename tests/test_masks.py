"""Which rows count: the default rule, and how a mask is laid over the rows of a site."""

from __future__ import annotations

import pytest
import torch
from transformers import BatchEncoding

from helpers import assert_close
from lashley.data.masks import default_mask, fit_mask
from lashley.errors import DataError

IDS = torch.arange(8).reshape(2, 4)
ATTENTION = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
LABELS = torch.tensor([[-100, -100, 5, 6], [-100, 5, 6, 7]])  # the last of the first row is padding
COUNTED = torch.tensor([[0, 0, 1, 0], [0, 1, 1, 1]]).bool()
MASK = COUNTED


@pytest.mark.parametrize("batch", [IDS, (IDS, LABELS), [IDS], {}, {"input_ids": IDS}])
@pytest.mark.parametrize("part", ["whole", "encoder", "decoder"])
def test_every_row_counts_where_nothing_says_otherwise(batch, part):
    assert default_mask(batch, part) is None


def test_labels_count_where_attention_allows():
    batch = {"input_ids": IDS, "attention_mask": ATTENTION, "labels": LABELS}
    assert_close(default_mask(batch), COUNTED)
    assert_close(default_mask(BatchEncoding(batch)), COUNTED)
    assert_close(default_mask({"input_ids": IDS, "labels": LABELS}), LABELS != -100)
    assert_close(default_mask({"labels": LABELS}), LABELS != -100)
    assert_close(default_mask({"inputs_embeds": torch.zeros(2, 4, 3), "labels": LABELS}), LABELS != -100)


def test_attention_counts_where_there_are_no_token_labels():
    for labels in (
        None,
        torch.tensor([0, 1]),  # of samples
        torch.zeros(2, 4),  # several float targets per sample
        torch.tensor([[0, 1, 1], [1, 0, 0]]),  # several classes per sample, not one per token
        torch.ones(2, 4, dtype=torch.bool),
        [[1, 2], [3, 4]],
    ):
        batch = {"input_ids": IDS, "attention_mask": ATTENTION, "labels": labels}
        assert_close(default_mask(batch), ATTENTION.bool())


def test_a_mask_of_another_form_is_none_of_ours():
    """Models also take causal masks of four dims, which say nothing about rows."""
    assert default_mask({"input_ids": IDS, "attention_mask": torch.ones(2, 1, 4, 4)}) is None


def test_the_parts_of_an_encoder_decoder_model():
    """Labels speak for the decoder, the attention mask for the encoder, even where their shapes agree by accident."""
    batch = {"input_ids": IDS, "attention_mask": ATTENTION, "labels": LABELS}
    assert_close(default_mask(batch, "encoder"), ATTENTION.bool())
    assert_close(default_mask(batch, "decoder"), LABELS != -100)
    longer = {**batch, "labels": torch.tensor([[5, -100], [5, 6]])}
    assert_close(default_mask(longer, "decoder"), torch.tensor([[True, False], [True, True]]))
    masked = {**batch, "decoder_attention_mask": torch.tensor([[0, 0, 1, 0], [1, 1, 1, 1]])}
    assert_close(default_mask(masked, "decoder"), COUNTED)
    no_labels = {"input_ids": IDS, "attention_mask": ATTENTION, "decoder_input_ids": IDS}
    assert default_mask(no_labels, "decoder") is None
    assert_close(default_mask({**no_labels, "decoder_attention_mask": ATTENTION}, "decoder"), ATTENTION.bool())


# Laying a mask over rows.


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize(
    ("mask", "lead", "fitted"),
    [
        (MASK, (2, 4), MASK),
        (MASK, (2, 4, 3), MASK),  # several rows at each position
        (MASK, (8,), MASK.reshape(-1)),  # the model flattened batch and positions
        (MASK, (8, 5), MASK.reshape(-1)),
        (MASK[:, 0], (2,), MASK[:, 0]),
        (MASK[:, 0], (2, 4), MASK[:, 0]),
        (MASK[:1], (1, 4), MASK[:1]),
        (MASK[None], (1, 2, 4), MASK[None]),
    ],
)
def test_a_mask_fits_the_first_leading_dims(mask, lead, fitted, given):
    found = fit_mask(mask, lead, "site", given)
    assert found.shape == fitted.shape
    assert_close(found, fitted)


def test_the_default_mask_fits_a_pooled_head():
    """A sample counts when any of its positions does. A mask of the user's own must say it itself."""
    mask = torch.tensor([[False, False], [False, True]])
    assert_close(fit_mask(mask, (2,), "head", given=False), torch.tensor([False, True]))
    with pytest.raises(DataError, match=r"shape \[2, 2\] does not fit site 'head', .* leading dims \[2\]"):
        fit_mask(mask, (2,), "head", given=True)


@pytest.mark.parametrize("lead", [(4, 2), (2, 5), (3,), (2, 3, 4), ()])
def test_a_mask_that_does_not_fit_is_refused(lead):
    with pytest.raises(DataError, match=r"mask of shape \[2, 4\] does not fit site 'q'.*Pass rows=f\(batch, site\)"):
        fit_mask(MASK, lead, "q", given=False)
    with pytest.raises(DataError, match=r"does not fit site 'q'.*Return another mask for this site, or leave"):
        fit_mask(MASK, lead, "q", given=True)


@pytest.mark.parametrize(
    ("mask", "kind"),
    [(MASK.long(), "torch.int64"), (MASK.float(), "torch.float32"), (MASK.numpy(), "ndarray"), (None, "NoneType")],
)
def test_a_mask_is_a_bool_tensor(mask, kind):
    with pytest.raises(DataError, match=rf"Expected rows\(batch, site\) to return a bool tensor, got {kind} at site"):
        fit_mask(mask, (2, 4), "q", given=True)


def test_a_mask_without_dims_does_not_fit():
    with pytest.raises(DataError, match=r"shape \[\] does not fit"):
        fit_mask(torch.tensor(True), (2, 4), "q", given=True)
