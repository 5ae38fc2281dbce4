"""What a batch is, how the model is called with it, and what is refused."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import BatchEncoding

from helpers import assert_close
from lashley.data.batches import batch_digest, batch_size, call, check_batches, moved, total_batches
from lashley.errors import DataError

Pair = namedtuple("Pair", ["x", "y"])


class Echo(nn.Module):
    """Returns what it was called with."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs


def test_the_default_call():
    x, y = torch.zeros(2), torch.ones(2)
    assert call(Echo(), x) == ((x,), {})
    assert call(Echo(), (x, y)) == ((x,), {})
    assert call(Echo(), [x]) == ((x,), {})
    assert call(Echo(), Pair(x, y)) == ((x,), {})
    assert call(Echo(), {"a": x, "b": y}) == ((), {"a": x, "b": y})
    assert call(Echo(), BatchEncoding({"a": x})) == ((), {"a": x})


@pytest.mark.parametrize(("batch", "kind"), [("text", "str"), (3, "int"), ([], "list"), (None, "NoneType")])
def test_what_is_no_batch_is_refused(batch, kind):
    with pytest.raises(DataError, match=f"Expected a batch to be a tensor, .* got {kind}. Pass forward=lambda"):
        call(Echo(), batch)


def test_moving_a_batch_moves_its_tensors_and_leaves_the_batch_alone():
    """The meta device stands for an accelerator."""
    x, meta = torch.zeros(2), torch.device("meta")
    assert moved(x, meta).is_meta
    encoding = BatchEncoding({"a": x, "n": 3, "deep": [x, (x, "text")]})
    there = moved(encoding, meta)
    assert there["a"].is_meta
    assert there["n"] == 3
    assert there["deep"][0].is_meta
    assert there["deep"][1][0].is_meta
    assert there["deep"][1][1] == "text"
    assert not encoding["a"].is_meta
    pair = moved(Pair(x, 1), meta)
    assert isinstance(pair, Pair)
    assert pair.x.is_meta
    assert moved("anything else", meta) == "anything else"


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.zeros(5, 2), 5),
        ((torch.zeros(5, 2), torch.zeros(3)), 5),  # only the first item is the input
        ([torch.zeros(4)], 4),
        ({"input_ids": torch.zeros(3, 7), "labels": torch.zeros(3), "scale": torch.tensor(2.0), "n": 1}, 3),
        ({"images": torch.zeros(3, 7), "boxes": torch.zeros(8, 4)}, None),
        (torch.tensor(1.0), None),
        ([], None),
        ("text", None),
        ({}, None),
    ],
)
def test_the_size_of_a_batch_where_its_tensors_agree(batch, size):
    assert batch_size(batch) == size


def test_the_number_of_batches_where_it_is_known():
    loader = DataLoader(TensorDataset(torch.zeros(10, 2)), batch_size=4)
    assert total_batches([loader, [1, 2]]) == 5
    assert total_batches([]) == 0
    assert total_batches([loader, iter([1, 2])]) is None


class Holder:
    """A batch of a class without a text of its own."""

    def __init__(self, x: Any) -> None:
        self.x = x


class Picture:
    """What libraries of pictures have in common."""

    def __init__(self, x: np.ndarray) -> None:
        self.__array_interface__ = x.__array_interface__
        self._x = x


def test_digests_tell_batches_apart():
    x = torch.arange(6.0).reshape(2, 3)
    batches = [
        x,
        x + 1,
        x.double(),
        x.reshape(3, 2),
        (x,),
        (x, x),
        {"a": x},
        {"b": x},
        {"a": x, "n": 1},
        {"a": x, "n": 2},
        x.numpy(),
        x.numpy() + 1,
        np.array(["a", "bc"]),
        np.array(["a", "bd"]),
        np.array([None, "a"], dtype=object),
        ["one", "text"],
        ["one", "text", None],
        {"one", "two"},
        {"one", "three"},
        Holder(x),
        Holder(x + 1),
        Holder(Holder(x)),
        Picture(x.numpy() + 2),
    ]
    digests = [batch_digest(batch) for batch in batches]
    assert len(set(digests)) == len(digests)
    copies = [batch_digest(b.clone() if isinstance(b, torch.Tensor) else b) for b in batches]
    assert copies == digests
    assert batch_digest(OrderedDict(a=x)) == batch_digest({"a": x})
    assert batch_digest(Holder(x)) == batch_digest(Holder(x.clone()))
    assert batch_digest(Picture(x.numpy())) == batch_digest(Picture(x.numpy().copy()))
    round_and_round = Holder(x)
    round_and_round.x = round_and_round
    assert batch_digest(round_and_round) == batch_digest(round_and_round)
    assert batch_digest(object()) == batch_digest(object())  # an address is no content


# What would not iterate batches.


class Rows(torch.utils.data.Dataset):
    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.zeros(2)

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("batches", "says"),
    [
        (torch.zeros(8, 3), r"a bare Tensor of shape \[8, 3\], which would iterate its samples. Wrap it: \[tensor\]"),
        (np.zeros((8, 3)), r"a bare ndarray of shape \[8, 3\]"),
        ({"input_ids": torch.zeros(2)}, r"a single mapping with keys \['input_ids'\]. Wrap it in a list: \[batch\]"),
        (BatchEncoding({"a": 1}), "a single mapping"),
        ("text", "got str"),
        (3, "got int"),
        (None, "got NoneType"),
        (Rows(), "got Rows. Give a list of batches, or a DataLoader"),
    ],
)
def test_what_would_not_iterate_batches_is_refused(batches, says):
    with pytest.raises(DataError, match=f"Expected concept 'cat' to be an iterable of batches, got.*{says}|{says}"):
        check_batches("concept 'cat'", batches)


def test_what_iterates_batches_is_accepted():
    x = torch.zeros(2, 3)
    for batches in ([x], (x,), x.split(1), iter([x]), (b for b in [x]), DataLoader(TensorDataset(x))):
        check_batches("the data", batches)
    assert_close(x, torch.zeros(2, 3))
