"""Two ways of naming concepts, one stream of batches with their members."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lashley.data.concepts import Members, Stream, check_data
from lashley.errors import DataError

X = torch.zeros(4, 2)


def members_of(labels: Any, names: list[str] | None = None) -> Members:
    [(_, members)] = Stream([X], lambda batch: labels, names)
    return members


def as_lists(members: Members) -> list[tuple[str | None, list[int] | None]]:
    return [(name, None if indices is None else indices.tolist()) for name, indices in members.parts]


def test_a_mapping_gives_whole_batches_concept_by_concept():
    data = {"cat": [X, X + 1], "dog": iter([X + 2])}
    found = [(members.parts, members.samples, batch[0, 0].item()) for batch, members in Stream(data)]
    assert found == [([("cat", None)], None, 0.0), ([("cat", None)], None, 1.0), ([("dog", None)], None, 2.0)]


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([2, 0, 2, 1]),
        torch.tensor([2, 0, 2, 1], dtype=torch.uint8),
        np.array([2, 0, 2, 1]),
        [2, 0, 2, 1],
        (2, 0, 2, 1),
        [torch.tensor(2), torch.tensor(0), torch.tensor(2), torch.tensor(1)],
    ],
)
def test_integers(labels):
    members = members_of(labels)
    assert members.samples == 4
    assert as_lists(members) == [("0", [1]), ("1", [3]), ("2", [0, 2])]
    assert as_lists(members_of(labels, ["a", "b", "c"])) == [("a", [1]), ("b", [3]), ("c", [0, 2])]


@pytest.mark.parametrize("labels", [["b", "a", "b", "c"], ("b", "a", "b", "c"), np.array(["b", "a", "b", "c"])])
def test_texts(labels):
    assert as_lists(members_of(labels)) == [("b", [0, 2]), ("a", [1]), ("c", [3])]
    assert members_of(labels).samples == 4
    assert as_lists(members_of(labels, ["a", "b", "c"])) == [("b", [0, 2]), ("a", [1]), ("c", [3])]


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
def test_bool_columns_overlap_and_the_total_counts_every_sample(kind):
    labels = kind([[True, True], [False, True], [False, False], [True, False]])
    members = members_of(labels)
    assert members.samples == 4
    assert as_lists(members) == [("0", [0, 3]), ("1", [0, 1]), (None, None)]
    assert as_lists(members_of(labels, ["a", "b"])) == [("a", [0, 3]), ("b", [0, 1]), (None, None)]


@pytest.mark.parametrize("labels", [[], torch.zeros(0, dtype=torch.long), np.zeros(0, dtype=int)])
def test_no_labels_at_all(labels):
    assert members_of(labels) == Members([], 0)


@pytest.mark.parametrize(
    ("labels", "names", "says"),
    [
        ([0, 3], ["a", "b", "c"], "Labels out of range: expected 0 to 2, got 3. Drop such samples, or give bool"),
        ([0, -100], None, "Labels out of range: expected 0 or more, got -100"),
        ([0, -1], ["a", "b"], "Labels out of range: expected 0 to 1, got -1"),
        (["a", "z"], ["a", "b"], r"Labels out of range: expected one of \['a', 'b'\], got 'z'"),
        (torch.tensor([0.0, 1.0]), None, r"got torch.float32 of shape \[2\]"),
        (torch.tensor([[0, 1]]), None, r"got torch.int64 of shape \[1, 2\]"),
        (torch.tensor(1), None, r"got torch.int64 of shape \[\]"),
        (torch.tensor([True, False]), None, r"bool labels of shape \[N, K\], got \[2\]. One column per concept"),
        (torch.zeros(2, 3, dtype=torch.bool), ["a", "b"], "bool labels with 2 columns, one per name, got 3"),
        ("cat", None, "got str. One label per sample of the batch is needed"),
        (1, None, "got int"),
        (None, None, "got NoneType"),
        (["a", 1], None, "bool .N, K., got list: "),
        ([[0, 1], [1]], None, "got list: "),
    ],
)
def test_labels_of_another_form_are_refused_with_the_batch(labels, names, says):
    given = iter([[], labels])
    with pytest.raises(DataError, match=f"^Batch 1: .*{says}"):
        list(Stream([X, X], lambda batch: next(given), names))


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ([0, 1], [[True, False]], r"one per sample in the batches before, got bool \[N, 2\]"),
        ([[True, False]], [0], r"bool \[N, 2\] in the batches before, got one per sample"),
        ([[True, False]], [[True]], r"bool \[N, 2\] in the batches before, got bool \[N, 1\]"),
        (["a"], [[True]], "got bool"),
    ],
)
def test_labels_stay_of_one_kind(first, second, says):
    """Or the total would miss what came before the first bool label."""
    given = iter([first, second])
    with pytest.raises(DataError, match=f"Batch 1: Expected labels of one kind throughout: .*{says}"):
        list(Stream([X, X], lambda batch: next(given)))


# Refused before anything runs.


def shared() -> dict[str, Any]:
    batches = (X for _ in range(3))
    return {"cat": batches, "dog": batches}


@pytest.mark.parametrize(
    ("data", "concept_of", "names", "says"),
    [
        ([X], None, None, r"a mapping \{concept: batches\} or one loader with concept_of=f, got list alone"),
        ({}, None, None, "at least one concept, got an empty mapping"),
        ({1: [X]}, None, None, r"Expected concepts to be named by texts, got 1. Use str\(1\)"),
        ({"": [X]}, None, None, "named by texts, got ''"),
        ({"cat": X}, None, None, "Expected concept 'cat' to be an iterable of batches, got a bare Tensor"),
        ({"cat": {"x": X}}, None, None, "Expected concept 'cat' .* a single mapping"),
        (shared(), None, None, "Concepts 'cat' and 'dog' are the same iterator, which can be read once only"),
        ({"cat": [X]}, None, ["cat"], "concept_names only beside concept_of"),
        ({"cat": [X]}, len, None, "one iterable of batches beside concept_of, got a mapping"),
        (X, len, None, "Expected the data to be an iterable of batches, got a bare Tensor"),
        ([X], "labels", None, "concept_of to be a function of a batch, got str"),
        ([X], len, ["a", "a"], r"concept_names to be different non-empty texts, got \['a', 'a'\]"),
        ([X], len, ["a", ""], "different non-empty texts"),
        ([X], len, [], "different non-empty texts"),
        ([X], len, "ab", "different non-empty texts, got 'ab'"),
        ([X], len, [0, 1], "different non-empty texts"),
        ([X], len, 3, "different non-empty texts, got 3"),
    ],
)
def test_data_of_neither_form_is_refused(data, concept_of, names, says):
    with pytest.raises(DataError, match=says):
        check_data(data, concept_of, names)


def test_both_forms_are_accepted():
    check_data({"cat": [X], "dog": iter([X]), "rest": (X,)}, None)
    check_data([X], len, ["a", "b"])
    check_data(iter([X]), len, ("a",))
    check_data({"cat": [X], "dog": [X]}, None)  # a list can be read twice
