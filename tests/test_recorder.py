"""One pass over the data: the right rows to the right moments, and the model as it was.

The oracle is a plain hook that keeps every input; moments are then multiplied out in float64.
"""

from __future__ import annotations

import random
from collections import UserDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import (
    BatchEncoding,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import lashley.subject
from helpers import assert_near, gaussian
from lashley import Recording, record
from lashley.errors import DataError, LashleyWarning, ModelError, RecordingError, SelectionError

# Models and the oracle.


def mlp(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, 3, bias=False)).to(dtype)


def cnn() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, stride=2, groups=3, padding_mode="reflect"),
        nn.ReLU(),
        nn.Conv2d(6, 4, 2, dilation=2),
        nn.Flatten(),
        nn.Linear(16, 2),
    ).double()


def llama() -> nn.Module:
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2)
    return LlamaForCausalLM(config).double().eval()


def token_batches(
    seed: int = 0, lengths: tuple[tuple[int, ...], ...] = ((6, 3), (4, 7), (5, 5))
) -> list[dict[str, Tensor]]:
    """Padded on the right; the first two positions of every sequence have no label."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for group in lengths:
        ids = torch.randint(1, 20, (len(group), max(group)), generator=generator)
        attention = torch.tensor([[int(t < n) for t in range(max(group))] for n in group])
        labels = ids.masked_fill(attention == 0, -100)
        labels[:, :2] = -100
        batches.append({"input_ids": ids, "attention_mask": attention, "labels": labels})
    return batches


def inputs_of(
    model: nn.Module, names: list[str], batches: list[Any], run: Callable[..., Any] | None = None
) -> dict[str, list[Tensor]]:
    """Every input of the named modules, call by call, by hooks that know nothing of lashley."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}

    def hook(name: str) -> Callable[..., None]:
        def keep(_: nn.Module, args: Any, kwargs: Any) -> None:
            seen[name].append((args[0] if args else next(iter(kwargs.values()))).clone())

        return keep

    handles = [model.get_submodule(n).register_forward_pre_hook(hook(n), with_kwargs=True) for n in names]
    flags = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad():
        for batch in batches:
            if run is not None:
                run(model, batch)
            elif isinstance(batch, dict):
                model(**batch)
            else:
                model(batch if isinstance(batch, Tensor) else batch[0])
    for handle in handles:
        handle.remove()
    for module, flag in flags.items():
        module.training = flag
    return seen


def assert_moment(moment: Any, rows: list[Tensor] | Tensor, tolerance: float = 1e-12) -> None:
    rows = rows if isinstance(rows, Tensor) else torch.cat(rows)
    rows = rows.double()
    assert moment.count == len(rows)
    assert_near(moment.square, rows.T @ rows, rel=tolerance)
    assert_near(moment.sum, rows.sum(0), rel=tolerance)


def assert_same(one: Recording, two: Recording, *, exactly: bool = True) -> None:
    assert one.concepts == two.concepts
    assert one.sites == two.sites
    for site in one.sites:
        for concept in [*one.concepts, None]:
            for a, b in zip(one.moments(concept, site.name), two.moments(concept, site.name), strict=True):
                assert a.count == b.count
                for x, y in ((a.square, b.square), (a.sum, b.sum)):
                    if exactly:
                        assert torch.equal(x, y)
                    else:
                        assert_near(x, y, rel=1e-12)


def sites(recording: Recording) -> list[tuple[str, ...]]:
    return [site.layers for site in recording.sites]


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """The model, its hooks and every global switch are to the bit as they were."""

    def snapshot() -> tuple[Any, ...]:
        kind, keys, *rest = np.random.get_state()
        return (
            {name: (value.clone(), id(value)) for name, value in model.state_dict(keep_vars=True).items()},
            {name: p.grad for name, p in model.named_parameters()},
            {name: p.requires_grad for name, p in model.named_parameters()},
            [(name, module.training) for name, module in model.named_modules()],
            [(len(m._forward_pre_hooks), len(m._forward_hooks), sorted(vars(m))) for m in model.modules()],
            torch.get_rng_state().tolist(),
            random.getstate(),
            (kind, keys.tolist(), rest),
            torch.backends.mha.get_fastpath_enabled(),
            torch.is_grad_enabled(),
            torch.get_float32_matmul_precision(),
        )

    (values, grads, *before) = snapshot()
    grads = {name: None if grad is None else (grad, grad.clone()) for name, grad in grads.items()}
    yield
    (values_after, grads_after, *after) = snapshot()
    assert before == after
    for name, (value, identity) in values.items():
        assert torch.equal(value, values_after[name][0])
        assert identity == values_after[name][1]
    for name, kept in grads.items():
        assert grads_after[name] is (None if kept is None else kept[0])
        assert kept is None or torch.equal(*kept)


class Counter:
    """How often a module's forward runs."""

    def __init__(self, module: nn.Module) -> None:
        self.calls = 0
        inner = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return inner(*args, **kwargs)

        module.forward = forward


X = gaussian(24, 5)
LABELS = torch.tensor([0, 1, 2, 1, 0, 0, 2, 1] * 3)


# Both forms of data.


def test_a_mapping_of_concepts():
    model = mlp()
    recording = record(model, {"cat": [X[:4], (X[4:9], LABELS[4:9])], "dog": [[X[9:]]]})
    assert recording.concepts == ("cat", "dog")
    assert list(recording.layers) == ["0", "3"]
    assert sites(recording) == [("0",), ("3",)]
    assert [site.rows for site in recording.sites] == [24, 24]
    for name in ("0", "3"):
        for concept, x in {"cat": X[:9], "dog": X[9:], None: X}.items():
            assert_moment(recording.moment(concept, name), inputs_of(model, [name], [x])[name])


def test_iterators_serve_as_well_as_lists():
    model = mlp()
    once = record(model, {"cat": (x for x in X[:9].split(4)), "dog": iter(X[9:].split(4))})
    assert_same(once, record(model, {"cat": X[:9].split(4), "dog": X[9:].split(4)}))


def loader(size: int = 7) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, LABELS), batch_size=size)


def test_a_loader_with_integer_labels():
    model = mlp()
    recording = record(model, loader(), concept_of=lambda batch: batch[1])
    assert recording.concepts == ("0", "1", "2")
    assert not recording.overlapping
    inputs = inputs_of(model, ["3"], [X])["3"][0]
    for k in range(3):
        assert_moment(recording.moment(str(k), "3"), inputs[torch.eq(LABELS, k)])
    assert_moment(recording.moment(None, "3"), inputs)


def test_a_loader_with_names():
    names = ["zebra", "ape", "cat"]
    numbers = record(mlp(), loader(), concept_of=lambda batch: batch[1], concept_names=names)
    assert numbers.concepts == ("zebra", "ape", "cat")  # in the given order
    texts = record(mlp(), loader(), concept_of=lambda batch: [names[k] for k in batch[1]], concept_names=names)
    assert_same(numbers, texts)
    found = record(mlp(), loader(), concept_of=lambda batch: [names[k] for k in batch[1]])
    assert found.concepts == ("ape", "cat", "zebra")


def test_numbers_without_names_are_in_the_order_of_numbers():
    recording = record(mlp(), loader(), concept_of=lambda batch: batch[1] * 8 + 2)
    assert recording.concepts == ("2", "10", "18")


def test_overlapping_concepts_count_every_row_once_in_the_total():
    model = mlp()
    columns = torch.stack([LABELS == 0, LABELS <= 1, torch.zeros_like(LABELS).bool()], dim=1)
    data = [(X[i : i + 7], columns[i : i + 7]) for i in range(0, 24, 7)]
    recording = record(model, data, concept_of=lambda batch: batch[1], concept_names=["zero", "low", "never"])
    assert recording.overlapping
    inputs = inputs_of(model, ["3"], [X])["3"][0]
    assert_moment(recording.moment("zero", "3"), inputs[LABELS == 0])
    assert_moment(recording.moment("low", "3"), inputs[LABELS <= 1])
    assert_moment(recording.moment(None, "3"), inputs)
    assert recording.moment("never", "3").count == 0
    assert recording.sites[1].rows == 24


def test_both_forms_agree():
    model = mlp()
    mapping = {str(k): [X[torch.eq(LABELS, k)]] for k in range(3)}
    assert_same(record(model, mapping), record(model, loader(), concept_of=lambda b: b[1]), exactly=False)


def test_a_shard_may_lack_a_concept():
    recording = record(mlp(), [X[:4]], concept_of=lambda batch: [0, 0, 2, 0], concept_names=["a", "b", "c"])
    assert recording.concepts == ("a", "b", "c")
    assert recording.moment("b", "0").count == 0
    assert recording.moment("c", "0").count == 1


# Against the oracle, architecture by architecture.


def test_convolutions_with_groups_and_dilation():
    model = cnn()
    x = gaussian(9, 3, 8, 8)
    labels = torch.tensor([0, 1, 1, 0, 0, 1, 0, 1, 1])
    recording = record(model, [(x[:5], labels[:5]), (x[5:], labels[5:])], concept_of=lambda batch: batch[1])
    seen = inputs_of(model, ["0", "2", "4"], [x])
    padded = nn.functional.pad(seen["0"][0], (1, 1, 1, 1), mode="reflect")
    for k in range(2):
        mine = labels == k
        for group, moment in enumerate(recording.moments(str(k), "0")):
            patches = nn.functional.unfold(padded[mine][:, group : group + 1], 3, stride=2)
            assert_moment(moment, patches.mT.flatten(0, 1))
        patches = nn.functional.unfold(seen["2"][0][mine], 2, dilation=2)
        assert_moment(recording.moment(str(k), "2"), patches.mT.flatten(0, 1))
        assert_moment(recording.moment(str(k), "4"), seen["4"][0][mine])


LLAMA_SITES = [
    (f"model.layers.{i}.{first}", *(f"model.layers.{i}.{other}" for other in others))
    for i in range(2)
    for first, *others in [
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.o_proj",),
        ("mlp.gate_proj", "mlp.up_proj"),
        ("mlp.down_proj",),
    ]
] + [("lm_head",)]


def test_a_language_model_counts_the_rows_with_labels():
    model, batches = llama(), token_batches()
    recording = record(model, {"a": batches[:2], "b": batches[2:]})
    assert sites(recording) == LLAMA_SITES
    seen = inputs_of(model, list(recording.layers), batches)
    masks = [batch["labels"] != -100 for batch in batches]
    for name in recording.layers:
        rows = [x[mask] for x, mask in zip(seen[name], masks, strict=True)]
        assert_moment(recording.moment("a", name), rows[:2])
        assert_moment(recording.moment(None, name), rows)


def test_padding_batches_and_their_order_change_nothing():
    model = llama()
    sequences = [(torch.arange(1, n + 1) % 19 + 1) for n in (6, 3, 4, 7)]

    def batch(*chosen: int, pad: int = 0) -> dict[str, Tensor]:
        length = max(len(sequences[i]) for i in chosen) + pad
        ids, attention = torch.zeros(len(chosen), length, dtype=torch.long), torch.zeros(len(chosen), length)
        for row, i in enumerate(chosen):
            ids[row, : len(sequences[i])] = sequences[i]
            attention[row, : len(sequences[i])] = 1
        return {"input_ids": ids, "attention_mask": attention}

    one = record(model, {"a": [batch(0, 1, 2, 3)]})
    others = [[batch(3), batch(1), batch(0), batch(2)], [batch(2, 0, pad=3), batch(1, 3, pad=1)]]
    for batches in others:
        other = record(model, {"a": batches})
        assert one.sites == other.sites
        for site in one.sites:
            assert_near(other.moment("a", site.name).square, one.moment("a", site.name).square, rel=1e-10)


def test_an_encoder_decoder_model_counts_each_side_by_its_own_mask():
    """Cross-attention reads the encoder inside the decoder. Both lengths are equal, so that no shape gives it away."""
    torch.manual_seed(1)
    config = T5Config(
        vocab_size=20, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2, decoder_start_token_id=0, pad_token_id=0
    )
    model = T5ForConditionalGeneration(config).double().eval()
    generator = torch.Generator().manual_seed(0)
    ids, labels = (torch.randint(1, 20, (3, 6), generator=generator) for _ in range(2))
    attention = torch.tensor([[1] * n + [0] * (6 - n) for n in (6, 2, 4)])
    labels[0, 3:] = labels[2, 5:] = -100
    batch = {"input_ids": ids, "attention_mask": attention, "labels": labels}
    recording = record(model, {"a": [batch, batch, batch]})
    seen = inputs_of(model, list(recording.layers), [batch])
    for name in recording.layers:
        cross = "EncDecAttention.k" in name or "EncDecAttention.v" in name
        mask = attention.bool() if name.startswith("encoder.") or cross else labels != -100
        assert_moment(recording.moment("a", name), [seen[name][0][mask]] * 3)
    readers = [f"decoder.block.{i}.layer.1.EncDecAttention.{p}" for i in range(2) for p in "kv"]
    assert tuple(readers) in sites(recording)


def test_a_pooled_head_counts_samples():
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, num_labels=2
    )
    model = BertForSequenceClassification(config).double()
    batch = {key: value for key, value in token_batches()[0].items() if key != "labels"}
    recording = record(model, {"a": [{**batch, "labels": torch.tensor([0, 1])}]})
    seen = inputs_of(model, ["bert.pooler.dense", "classifier", "bert.encoder.layer.0.output.dense"], [batch])
    assert_moment(recording.moment("a", "bert.pooler.dense"), seen["bert.pooler.dense"][0])
    assert_moment(recording.moment("a", "classifier"), seen["classifier"][0])
    name = "bert.encoder.layer.0.output.dense"
    assert_moment(recording.moment("a", name), seen[name][0][batch["attention_mask"].bool()])


class Flattened(nn.Module):
    """Treats positions as samples, as models with experts do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 4)
        self.fc = nn.Linear(4, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        return self.fc(self.embed(input_ids).reshape(-1, 4)).reshape(*input_ids.shape, 4)


def test_flattened_positions():
    model, batches = Flattened().double(), token_batches()
    recording = record(model, {"a": batches})
    rows = [model.embed(b["input_ids"])[b["labels"] != -100].detach() for b in batches]
    assert_moment(recording.moment("a", "fc"), rows)
    labelled = record(model, batches, concept_of=lambda batch: [0, 1])
    rows = [model.embed(b["input_ids"][1])[b["labels"][1] != -100].detach() for b in batches]
    assert_moment(labelled.moment("1", "fc"), rows)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_models_of_every_precision(dtype):
    """The rows are what the model computed in its own precision; products up to 256 columns are exact to float64."""
    model = mlp(dtype)
    recording = record(model, {"a": [X[:9].to(dtype)], "b": [X[9:].to(dtype)]})
    seen = inputs_of(model, ["0", "3"], [X[:9].to(dtype)])
    for name in ("0", "3"):
        assert seen[name][0].dtype == dtype
        assert_moment(recording.moment("a", name), seen[name])


def test_thin_until_square_is_cheaper():
    model = nn.Sequential(nn.Linear(40, 2))
    few, many = gaussian(39, 40).float(), gaussian(3000, 40).float()
    recording = record(model, {"few": few.split(10), "many": many.split(100)})
    assert recording.moment("few", "0").thin
    assert torch.equal(recording.moment("few", "0").rows, few)
    assert not recording.moment("many", "0").thin
    assert_moment(recording.moment("few", "0"), few)
    assert_moment(recording.moment("many", "0"), many)


def test_the_dtype_of_products_is_as_asked():
    model, x = nn.Sequential(nn.Linear(6, 2)).double(), gaussian(2000, 6)
    single = record(model, {"a": [x]}, dtype=torch.float32).moment("a", "0")
    double = record(model, {"a": [x]}).moment("a", "0")
    assert (single.product, double.product) == (torch.float32, torch.float64)
    assert_near(single.square, double.square, rel=1e-5)
    assert not torch.equal(single.square, double.square)
    with pytest.raises(
        DataError, match="Expected dtype to be torch.float32, torch.float64 or None, got torch.bfloat16"
    ):
        record(model, {"a": [x]}, dtype=torch.bfloat16)


@pytest.mark.parametrize("outside", [False, True])
def test_autocast_reaches_the_model_and_not_the_products(outside):
    model, x = mlp(torch.float32), X.float()

    def forward(model: nn.Module, batch: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(batch)

    if outside:
        with torch.autocast("cpu", torch.bfloat16):
            recording = record(model, {"a": [x]})
    else:
        recording = record(model, {"a": [x]}, forward=forward)
    seen = inputs_of(model, ["0", "3"], [x], run=forward)
    assert (seen["0"][0].dtype, seen["3"][0].dtype) == (torch.float32, torch.bfloat16)
    for name in ("0", "3"):
        assert_moment(recording.moment("a", name), seen[name])


def test_gradients_in_the_users_forward_are_not_held():
    def forward(model: nn.Module, batch: Tensor) -> None:
        with torch.enable_grad():
            model(batch)

    recording = record(mlp(), {"a": [X[:2]]}, forward=forward)
    assert not recording.moment("a", "3").rows.requires_grad


# Sites.


class Shared(nn.Module):
    """Two layers, and what happens to the tensor between their turns."""

    def __init__(self, between: Callable[[Tensor, int], Tensor], dim: int = 4) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.q, self.k = nn.Linear(dim, 3), nn.Linear(dim, 2, bias=False)
        self.between = between
        self.calls = -1

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        h = x * 2
        q = self.q(h)
        return torch.cat([q, self.k(self.between(h, self.calls))], dim=-1)


def shared(between: Callable[[Tensor, int], Tensor]) -> Shared:
    return Shared(between).double()


BATCHES = gaussian(20, 4).split(4)


def assert_both(model: Shared, recording: Recording) -> None:
    model.calls = -1
    seen = inputs_of(model, ["q", "k"], list(BATCHES))
    for name in ("q", "k"):
        assert_moment(recording.moment("a", name), seen[name])


def test_layers_that_read_one_tensor_share_a_site():
    model = shared(lambda h, call: h)
    recording = record(model, {"a": BATCHES})
    assert sites(recording) == [("q", "k")]
    assert recording.moment("a", "q") is recording.moment("a", "k")
    assert_both(model, recording)


@pytest.mark.parametrize(
    "between",
    [
        lambda h, call: h.clone(),
        lambda h, call: h.add_(1.0),
        lambda h, call: (h.view(-1).mul_(3.0), h)[1],
        lambda h, call: h + 1,
    ],
)
def test_a_tensor_that_changes_between_two_readers_is_not_shared(between):
    model = shared(between)
    recording = record(model, {"a": BATCHES})
    assert sites(recording) == [("q",), ("k",)]
    assert_both(model, recording)


class Reusing(nn.Module):
    """The second layer reads other content in the memory that the first one's input had, at the same version."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(4, 3), nn.Linear(4, 3)
        self.pointers: set[tuple[int, int]] = set()

    def forward(self, x: Tensor) -> Tensor:
        storage = x.clone()
        for layer in (self.q, self.k):
            h = storage.data  # an object of its own, with a version of its own
            self.pointers.add((h.data_ptr(), h._version))
            y = layer(h)
            del h
            storage.data.mul_(2.0)
        return y


def test_memory_that_is_used_again_is_not_shared():
    model = Reusing().double()
    recording = record(model, {"a": [BATCHES[0]]})
    assert len(model.pointers) == 1
    assert sites(recording) == [("q",), ("k",)]
    assert_moment(recording.moment("a", "q"), BATCHES[0])
    assert_moment(recording.moment("a", "k"), 2 * BATCHES[0])


def test_sharing_that_ends_later_starts_over():
    early = [2 * batch for batch in BATCHES[:2]]
    model = shared(lambda h, call: h if any(torch.equal(h, x) for x in early) else h + 1)
    with pytest.warns(
        LashleyWarning, match="Layers 'q' and 'k' read one tensor in the first batch and different"
    ) as told:
        recording = record(model, {"a": BATCHES})
    assert told[0].filename == __file__
    assert sites(recording) == [("q",), ("k",)]
    assert_both(model, recording)


def test_sharing_that_ends_later_needs_data_that_can_be_read_again():
    model = shared(lambda h, call: h if call < 2 else h + 1)
    with untouched(model), pytest.raises(RecordingError, match="'q' and 'k' .* an iterator that cannot be read again"):
        record(model, {"a": iter(BATCHES)})


def test_layers_with_other_rows_of_one_tensor_do_not_share():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv1d(2, 2, 3, padding=1)
            self.b = nn.Conv1d(2, 4, 3, padding=1, bias=False)
            self.c = nn.Conv1d(2, 2, 3, padding=2)

        def forward(self, x: Tensor) -> list[Tensor]:
            return [self.a(x), self.b(x), self.c(x)]

    recording = record(Two().double(), {"a": [gaussian(3, 2, 6)]})
    assert sites(recording) == [("a", "b"), ("c",)]
    assert [site.rows for site in recording.sites] == [18, 24]


def test_layers_whose_masks_differ_do_not_share():
    def rows(batch: Tensor, site: Any) -> Tensor:
        return torch.arange(4) < (1 if site.name == "q" else 3)

    recording = record(shared(lambda h, call: h), {"a": BATCHES}, rows=rows)
    assert sites(recording) == [("q",), ("k",)]
    assert [site.rows for site in recording.sites] == [5, 15]


class Repeating(nn.Module):
    """One layer called twice, by position and by keyword, and one under two names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.fc = nn.Linear(4, 4)
        self.first = nn.Linear(4, 4)
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(self.fc(input=x).relu())
        return self.second(self.first(x).relu())


def test_every_call_of_a_layer_counts():
    model = Repeating().double()
    recording = record(model, {"a": BATCHES})
    assert list(recording.layers) == ["fc", "first"]
    seen = inputs_of(model, ["fc", "first"], list(BATCHES))
    for name in ("fc", "first"):
        assert len(seen[name]) == 2 * len(BATCHES)
        assert_moment(recording.moment("a", name), seen[name])


def test_a_lone_sample_is_a_batch_of_one():
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(0), nn.Linear(8, 2)).double()
    x = gaussian(3, 1, 6)
    recording = record(model, {"a": list(x)})
    assert_moment(recording.moment("a", "0"), x.unfold(2, 3, 1).reshape(-1, 3))
    assert recording.moment("a", "2").count == 3
    labelled = record(model, list(x), concept_of=lambda batch: [0])
    assert_same(labelled, record(model, {"0": list(x)}))


# One pass, and when it may end early.


class Headed(nn.Module):
    """A body and a head whose input alone is needed."""

    def __init__(self, order: Callable[[int], str] = lambda call: "ab") -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 50)
        self.after = nn.Linear(50, 2)
        self.order, self.calls = order, -1

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        for name in self.order(self.calls):
            x = getattr(self, name)(x).tanh()
        return self.after(self.head(x))


TARGETS = ["a", "b", "head"]


def test_every_batch_passes_once():
    model = mlp()
    counter = Counter(model[3])
    record(model, {"cat": X.split(6), "dog": X.split(8)}, forward=lambda model, batch: model(batch))
    assert counter.calls == 4 + 3


@pytest.mark.parametrize("concepts", [1, 3])
def test_a_pass_ends_at_the_last_layer_from_the_third_on(concepts):
    data = {str(k): BATCHES for k in range(concepts)}
    model = Headed().double()
    plain = record(model, data, target_modules=TARGETS, forward=lambda model, batch: model(batch))
    body, head, after = Counter(model.b), Counter(model.head), Counter(model.after)
    assert_same(record(model, data, target_modules=TARGETS), plain)
    assert (body.calls, head.calls, after.calls) == (5 * concepts, 2, 2)
    record(model, data, target_modules=["a"])  # the last one that is recorded, not the last one there is
    assert body.calls == 5 * concepts + 2


def test_the_head_of_a_language_model_is_never_computed_whole():
    model, batches = llama(), token_batches()
    plain = record(model, {"a": batches}, forward=lambda model, batch: model(**batch))
    sizes: list[int] = []
    handle = model.lm_head.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    assert_same(record(model, {"a": batches}), plain)
    assert sizes == []
    record(model, {"a": batches}, exclude_modules=["lm_head"])
    handle.remove()
    assert len(sizes) == min(2, len(batches))


class OtherHead(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def test_the_formula_of_a_head_is_checked_all_the_same(monkeypatch: pytest.MonkeyPatch):
    model = llama()
    monkeypatch.setattr(model.lm_head, "forward", lambda x: 2 * nn.functional.linear(x, model.lm_head.weight))
    with pytest.warns(LashleyWarning, match=r"'lm_head' \(Linear\) does not compute W x \+ b"):
        record(model, {"a": token_batches()})


def test_a_head_of_another_class_ends_no_first_pass():
    model = llama()
    head = OtherHead(*reversed(model.lm_head.weight.shape), bias=False)
    head.weight = model.lm_head.weight
    model.lm_head = head
    head_calls = Counter(head)
    with pytest.warns(LashleyWarning, match="does not compute"):
        record(model, {"a": token_batches()})
    assert head_calls.calls == min(2, len(token_batches()))


def test_a_forward_of_the_users_own_is_never_ended():
    model = Headed().double()
    after = Counter(model.after)
    record(model, {"a": BATCHES}, target_modules=TARGETS, forward=lambda model, batch: model(batch))
    assert after.calls == 5


@pytest.mark.parametrize(
    ("order", "ended"),
    [
        (lambda call: "ab" if call % 2 else "ba", 0),
        (lambda call: "aba", 0),
        (lambda call: "ab" if call < 2 else "ba", 0),
        (lambda call: "ba" if call == 3 else "ab", 2),  # only where the order is the learned one
        (lambda call: "bab" if call == 0 else "ab", 0),
    ],
)
def test_a_pass_is_not_ended_where_the_order_varies(order, ended):
    model = Headed(order).double()
    plain = record(model, {"a": BATCHES}, target_modules=TARGETS, forward=lambda model, batch: model(batch))
    model.calls, after = -1, Counter(model.after)
    assert_same(record(model, {"a": BATCHES}, target_modules=TARGETS), plain)
    assert after.calls == 5 - ended


# Masks.


def test_a_mask_for_each_site():
    model = mlp()

    def rows(batch: Tensor, site: Any) -> Tensor:
        assert (site.name, site.dim) in {("0", 5), ("3", 7)}
        assert site.layers == (site.name,)
        seen.append((site.name, site.rows))
        return batch[:, 0] > (0.0 if site.name == "0" else 0.5)

    seen: list[tuple[str, int]] = []
    recording = record(model, {"a": X.split(12)}, rows=rows)
    inputs = inputs_of(model, ["3"], [X])["3"][0]
    assert_moment(recording.moment("a", "0"), X[X[:, 0] > 0])
    assert_moment(recording.moment("a", "3"), inputs[X[:, 0] > 0.5])
    first = int((X[:12, 0] > 0).sum())
    assert seen[:3] == [("0", 0), ("3", 0), ("0", first)]  # how many rows the site has so far


def test_a_mask_sees_the_batch_as_the_data_gave_it():
    kinds = []

    def rows(batch: Any, site: Any) -> Tensor:
        kinds.append(type(batch))
        return batch.attention_mask.bool() & (batch["input_ids"] != 3)

    batches = [BatchEncoding({k: v for k, v in b.items() if k != "labels"}) for b in token_batches()]
    model = llama()
    recording = record(model, {"a": batches}, rows=rows, target_modules=["down_proj"])
    assert set(kinds) == {BatchEncoding}
    name = "model.layers.1.mlp.down_proj"
    seen = inputs_of(model, [name], [dict(b) for b in batches])[name]
    kept = [b["attention_mask"].bool() & (b["input_ids"] != 3) for b in batches]
    assert_moment(recording.moment("a", name), [x[m] for x, m in zip(seen, kept, strict=True)])


def test_masks_and_labels_together():
    model, batches = llama(), token_batches()
    recording = record(model, batches, concept_of=lambda batch: batch["input_ids"][:, 0] % 2)
    seen = inputs_of(model, ["lm_head"], batches)["lm_head"]
    for k in range(2):
        rows = [
            x[mine][batch["labels"][mine] != -100]
            for x, batch in zip(seen, batches, strict=True)
            for mine in [batch["input_ids"][:, 0] % 2 == k]
        ]
        assert_moment(recording.moment(str(k), "lm_head"), rows)


def test_every_mapping_is_a_batch():
    model, batches = llama(), token_batches()
    wanted = record(model, {"a": batches})
    for kind in (BatchEncoding, UserDict):
        assert_same(record(model, {"a": [kind(batch) for batch in batches]}), wanted)


# The model is given back as it was.


def used() -> nn.Module:
    """A model in the middle of its training: mixed flags, gradients, a frozen parameter, hooks of its own."""
    model = mlp()
    model.train()
    model[2].eval()
    model[3].weight.requires_grad = False
    model(X).sum().backward()
    model[0].register_forward_hook(lambda module, args, output: None)
    return model


def test_a_recording_leaves_no_trace():
    model = used()
    with untouched(model):
        record(model, {"a": X.split(5)})
        record(model, DataLoader(TensorDataset(X, LABELS), batch_size=5, shuffle=True), concept_of=lambda b: b[1])


def test_a_pass_that_ended_early_leaves_no_trace():
    model, batches = llama().train(), token_batches() * 2
    with untouched(model):
        record(model, {"a": batches})
    model.eval()
    assert torch.equal(model(**batches[0]).logits, llama()(**batches[0]).logits)


@pytest.mark.parametrize("where", ["model", "data", "labels", "mask", "first batch"])
def test_a_recording_that_fails_leaves_no_trace(where):
    model = used()
    torch.manual_seed(3)

    def broken(*args: Any) -> Any:
        torch.rand(1), random.random(), np.random.rand()
        raise ZeroDivisionError(where)

    def data() -> Iterator[Any]:
        yield from X.split(9)
        if where == "data":
            broken()

    options: dict[str, Any] = {}
    if where == "labels":
        options["concept_of"] = broken
    if where == "mask":
        options["rows"] = broken
    if where == "first batch":
        options["forward"] = broken
    if where == "model":
        calls = iter([False, False, True])
        options["forward"] = lambda model, batch: broken() if next(calls) else model(batch)
    with untouched(model), pytest.raises(ZeroDivisionError, match=where):
        record(model, data() if where == "labels" else {"a": data()}, **options)


def test_two_runs_are_equal_to_the_bit():
    model = nn.Sequential(nn.Linear(30, 200), nn.Tanh(), nn.Dropout(), nn.Linear(200, 8))
    batches = gaussian(2500, 30).float().split(300)
    assert_same(record(model, {"a": batches}), record(model, {"a": batches}))
    shuffled = DataLoader(TensorDataset(gaussian(300, 30).float()), batch_size=32, shuffle=True)
    assert_same(record(model, {"a": shuffled}), record(model, {"a": shuffled}))


def test_a_recording_in_inference_mode():
    model = shared(lambda h, call: h)
    with torch.inference_mode():
        recording = record(model, {"a": BATCHES})
        few = record(model, {"a": [BATCHES[0][:2]]}).moment("a", "q")
    assert not few.rows.is_inference()
    assert not recording.moment("a", "q").blocks[0].is_inference()
    assert sites(recording) == [("q", "k")]
    assert_both(model, recording)
    inside = record(model, {"a": BATCHES}, forward=lambda model, batch: torch.inference_mode()(model)(batch))
    assert sites(inside) == [("q",), ("k",)]  # no version tells whether the tensor changed
    assert_both(model, inside)


def test_a_batch_goes_where_the_model_is(monkeypatch):
    went = []

    def moved(batch: Any, device: torch.device) -> Any:
        went.append(device)
        return batch

    monkeypatch.setattr(lashley.subject, "moved", moved)
    record(mlp(), {"a": [X]})
    assert went == [torch.device("cpu")]
    record(mlp(), {"a": [X]}, forward=lambda model, batch: model(batch))
    assert went == [torch.device("cpu")]  # a forward of the user's own gets the batch as it is


# Models in wrappers.


@pytest.fixture
def dynamo() -> Iterator[None]:
    """Compiled code and the tensors it holds go with the test."""
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("dynamo")
@torch.no_grad()
def test_a_compiled_model_is_recorded_through_the_module_that_was_written():
    model = mlp()
    wanted = record(model, {"a": X.split(8)})
    whole = torch.compile(model, backend="eager")
    whole.eval()(X)
    model.train()
    with untouched(model):
        assert_same(record(whole, {"a": X.split(8)}), wanted)
    compiled = torch._dynamo.utils.counters
    compiled.clear()
    by_hand = record(whole, {"a": X.split(8)}, forward=lambda _, batch: whole(batch))  # calls the compiled one
    assert_same(by_hand, wanted)
    assert not compiled["frames"]  # the hooks are not compiled along
    for function in (whole, torch.compile(lambda batch: model(batch), backend="eager")):
        function(X)
        assert_same(record(model, {"a": X.split(8)}, forward=lambda _, batch, call=function: call(batch)), wanted)
    in_place = mlp()
    in_place.compile(backend="eager")
    in_place(X)
    assert_same(record(in_place, {"a": X.split(8)}), wanted)
    part = nn.Sequential(torch.compile(mlp(), backend="eager"))
    part.eval()(X)
    recording = record(part, {"a": X.split(8)})
    assert list(recording.layers) == ["0._orig_mod.0", "0._orig_mod.3"]
    assert torch.equal(recording.moment("a", "0._orig_mod.3").square, wanted.moment("a", "3").square)


def test_a_data_parallel_model_is_unwrapped():
    model = mlp()
    assert_same(record(nn.DataParallel(model), {"a": [X]}), record(model, {"a": [X]}))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.block = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x))


def test_attentions_fast_path_hides_no_layer():
    """In evaluation mode torch would compute the whole block in one function."""
    model = Encoder().double().eval()
    recording = record(model, {"a": [gaussian(2, 3, 4)]})
    attention = [f"block.self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "out_proj")]
    assert list(recording.layers) == [*attention, "block.linear1", "block.linear2", "head"]
    assert {recording.moment("a", name).count for name in recording.layers} == {6}


# A layer that is not what its base is.


class Standardised(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight / self.weight.norm(dim=(1, 2), keepdim=True), self.bias)


class Renamed(nn.Conv1d):
    pass


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_layer_that_computes_something_else_is_announced(dtype):
    x = gaussian(4, 3, 8).to(dtype)
    record(nn.Sequential(Renamed(3, 4, 3, padding="same")).to(dtype), {"a": [x, x]})  # warnings are errors here
    with pytest.warns(
        LashleyWarning, match=r"Layer '0' \(Standardised\) does not compute W x \+ b of its input"
    ) as told:
        record(nn.Sequential(Standardised(3, 4, 3)).to(dtype), {"a": [x, x]})
    assert len(told) == 1


# Progress.


def test_progress_in_a_pipe_and_silence(capsys):
    record(mlp(), {"cat": X.split(6), "dog": X.split(8)})
    assert capsys.readouterr().err == ""
    record(mlp(), {"cat": X.split(6), "dog": X.split(8)}, progress=True)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("recording: 7 batches in ")
    record(mlp(), {"cat": X.split(6)}, progress=False)
    assert capsys.readouterr().err == ""


# Bad input. Each is refused with the model as it was.


def refused(error: type[Exception], says: str, model: nn.Module, *args: Any, **kwargs: Any) -> None:
    with untouched(model), pytest.raises(error, match=says):
        record(model, *args, **kwargs)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"cat": X}, r"concept 'cat' to be an iterable of batches, got a bare Tensor of shape \[24, 5\]"),
        ([X], "mapping {concept: batches} or one loader with concept_of=f, got list alone"),
        ({}, "at least one concept"),
        ({"cat": []}, "Expected at least one batch, got none"),
        ({"cat": iter(())}, "Expected at least one batch, got none. A generator that was read before is empty"),
        ({"cat": [X], "dog": []}, "Expected concept 'dog' to have rows, got none at site '0': its batches are empty"),
        ({"cat": [X], "dog": [X[:0]]}, "Expected concept 'dog' to have rows"),
        ({"cat": [X[:0]]}, "at least one row at site '0', got none: the batches are empty"),
        ({"cat": ["text"]}, "^Batch 0: Expected a batch to be a tensor, .* got str"),
        ({"cat": [X, 3]}, "^Batch 1: Expected a batch"),
    ],
)
def test_data_that_cannot_be_used(data, says):
    refused(DataError, says, mlp(), data)


def test_a_generator_for_two_concepts():
    batches = (x for x in X.split(8))
    refused(DataError, "'cat' and 'dog' are the same iterator", mlp(), {"cat": batches, "dog": batches})
    assert torch.equal(next(batches), X[:8])  # not even read


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0, 3] * 12, "^Batch 0: Labels out of range: expected 0 to 2, got 3"),
        ([0, -1] * 12, "Labels out of range"),
        (["a", "d"] * 12, "Labels out of range: expected one of"),
        ([0, 1, 2], "^Batch 0: Expected concept_of to give a label for each of 24 samples, got 3 labels"),
        ([], "a label for each of 24 samples, got 0 labels"),
        (torch.zeros(24), "Expected labels"),
    ],
)
def test_labels_that_cannot_be_used(labels, says):
    refused(DataError, says, mlp(), [X], concept_of=lambda batch: labels, concept_names=["a", "b", "c"])


def test_no_batches_with_labels():
    refused(DataError, "Expected at least one batch, got none", mlp(), [], concept_of=lambda batch: [])


class PositionsFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.transpose(0, 1))


def test_an_input_with_positions_first_gets_no_labels():
    x = gaussian(4, 8, 5)
    model = PositionsFirst().double()
    refused(DataError, "^Batch 0: Expected 4 labels to fit layer 'fc'.*positions first", model, [x], lambda b: [0] * 4)
    assert record(model, {"a": [x]}).moment("a", "fc").count == 32


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            lambda batch, site: torch.zeros(24, dtype=torch.bool),
            "at least one row at site '0', got none: .* the mask selects nothing",
        ),
        (
            lambda batch, site: torch.ones(23, dtype=torch.bool),
            r"^Batch 0: A mask of shape \[23\] does not fit site '0'",
        ),
        (lambda batch, site: torch.ones(24, 5, dtype=torch.bool), r"mask of shape \[24, 5\] does not fit"),
        (lambda batch, site: torch.ones(24), "to return a bool tensor, got torch.float32 at site '0'"),
        (lambda batch, site: None, "to return a bool tensor, got NoneType"),
        (lambda batch, site: batch[:, 0] > (9 if site.name == "3" else 0), "at least one row at site '3', got none"),
    ],
)
def test_masks_that_cannot_be_used(rows, says):
    refused(DataError, says, mlp(), {"a": [X]}, rows=rows)


def test_labels_that_select_nothing():
    batches = [{**b, "labels": torch.full_like(b["labels"], -100)} for b in token_batches()]
    refused(DataError, "at least one row at site .*are all labels -100", llama(), {"a": batches})
    refused(DataError, "concept 'b' to have rows, got none", llama(), {"a": token_batches(), "b": batches})


def test_a_default_mask_that_does_not_fit():
    class Downsampling(Flattened):
        def forward(self, input_ids: Tensor, **kwargs: Any) -> Tensor:
            return self.fc(self.embed(input_ids)[:, ::2])

    says = r"^Batch 0: A mask of shape \[2, 6\] does not fit site 'fc', .* \[2, 3\].*Pass rows=f\(batch, site\)"
    refused(DataError, says, Downsampling(), {"a": token_batches()})


class Silent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle, self.function = nn.Linear(5, 2), nn.Linear(5, 2), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x) + nn.functional.linear(x, self.function.weight)


def test_a_layer_that_never_fires_is_named():
    model = Silent().double()
    refused(RecordingError, "got no call of 'idle', 'function'. Likely causes: .*F.linear", model, {"a": [X]})
    recording = record(model, {"a": [X]}, exclude_modules=["idle", "function"])
    assert list(recording.layers) == ["used"]


def test_many_silent_layers_are_counted():
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.ModuleList(nn.Linear(5, 2) for _ in range(7))

        def forward(self, x: Tensor) -> Tensor:
            return x

    refused(RecordingError, r"no call of 'idle.0', .*'idle.4' and 2 more\.", Idle(), {"a": [X]})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_inputs_that_are_not_finite_are_named(bad):
    model, x = mlp(), X.clone()
    x[13, 2] = bad
    refused(RecordingError, "nan or inf in the input of layer '0' in batch 2", model, {"a": x.split(6)})
    # An infinity that cancels another in the sum is found as well.
    x[14, 2] = -bad
    refused(RecordingError, "nan or inf in the input of layer '0' in batch 2", model, {"a": x.split(6)})


def test_a_layer_inside_that_overflows_is_named():
    model = mlp(torch.float16)
    with torch.no_grad():
        model[0].weight.mul_(60000)
    refused(RecordingError, "input of layer '3' in batch 0.*float16 overflows", model, {"a": [X.half() * 100]})


def test_rows_that_do_not_count_may_hold_anything():
    """Padding may be garbage."""
    x = X.clone()
    x[3] = float("nan")
    recording = record(mlp(), {"a": [x]}, rows=lambda batch, site: torch.arange(24) != 3)
    assert recording.moment("a", "3").count == 23


def test_squares_that_overflow_are_named():
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    x = torch.full((2000, 2), 1e20)
    says = "Expected finite moments, got inf at site '0'.* Pass dtype=torch.float64"
    refused(RecordingError, says, model, {"a": [x]}, dtype=torch.float32)
    assert record(model, {"a": [x]}, dtype=torch.float64).moment("a", "0").count == 2000


def test_weights_that_are_not_floating_point():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    refused(ModelError, r"Layer '0' \(Linear\) cannot be recorded: .* got torch.int8", model, {"a": [X]})


def test_patterns_that_match_nothing():
    refused(SelectionError, "target_modules names '7'", mlp(), {"a": [X]}, target_modules=["7"])
    refused(SelectionError, "exclude_modules names 'head'", mlp(), {"a": [X]}, exclude_modules=["head"])


def test_what_is_no_model():
    with pytest.raises(ModelError, match="Expected a torch.nn.Module, got function"):
        record(lambda x: x, {"a": [X]})


def test_a_recording_holds_its_own_numbers():
    """Neither the model's weights nor the batches' memory are looked at again."""
    model, x = mlp(), X[:3].clone()
    recording = record(model, {"a": [x]})
    assert recording.moment("a", "0").thin
    x.zero_()
    with torch.no_grad():
        model[0].weight.zero_()
    assert_moment(recording.moment("a", "0"), X[:3])


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("size", [150, 700])
def test_a_forward_in_inference_mode_is_counted_outside_of_it(batches: int, size: int):
    """Its inputs are made there; the sums go on when it is over."""
    net = nn.Sequential(nn.Linear(300, 4))
    rows = [gaussian(size, 300, seed=seed).float() for seed in range(batches)]
    inside = record(
        net,
        {"a": rows, "b": rows[:1]},
        forward=lambda model, batch: torch.inference_mode()(model)(batch),
        progress=False,
    )
    outside = record(net, {"a": rows, "b": rows[:1]}, progress=False)
    for name in ("a", "b"):
        assert torch.equal(inside.moment(name, "0").square, outside.moment(name, "0").square)
    assert not torch.is_inference_mode_enabled()


def test_modes_of_the_user_reach_the_functions_of_the_user():
    """And none of them what lashley does in a hook."""
    seen = []

    def rows(batch: Tensor, site: Any) -> Tensor:
        seen.append(torch.ones(2).device.type)
        return torch.ones(len(batch), dtype=torch.bool, device="cpu")

    with torch.device("meta"):
        recording = record(
            nn.Sequential(nn.Linear(4, 4, device="cpu")),
            {"a": [torch.ones(5, 4, device="cpu")]},
            rows=rows,
            progress=False,
        )
    assert set(seen) == {"meta"}
    assert recording.moment("a", "0").square.device.type == "cpu"
    assert torch.equal(recording.moment("a", "0").square, torch.full((4, 4), 5.0, dtype=torch.float64))


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("module", [nn.Linear(6, 2), nn.Conv1d(6, 4, 1, groups=2), nn.Linear(1, 2)])
def test_concepts_of_one_row_keep_it(module: nn.Module, checkpoint: bool, tmp_path):
    """The sums of one concept serve the next, and must not write into what was kept."""
    size = (1, 6, 1) if isinstance(module, nn.Conv1d) else (1, module.in_features)
    batches = {name: [gaussian(*size, seed=seed).float()] for seed, name in enumerate("abc")}
    recording = record(
        nn.Sequential(module), batches, checkpoint=tmp_path / "folder" if checkpoint else None, progress=False
    )
    for name, (batch,) in batches.items():
        rows = batch.flatten().view(len(recording.moments(name, "0")), -1)
        for moment, row in zip(recording.moments(name, "0"), rows, strict=True):
            assert torch.equal(moment.rows, row[None])


def test_a_concept_that_is_over_is_kept_in_the_dtype_of_its_products():
    net, rows = nn.Sequential(nn.Linear(300, 4)), [gaussian(700, 300, seed=seed).float() for seed in range(2)]
    recording = record(net, {"a": [rows[0]], "b": [rows[1]]}, progress=False)
    exact = record(net, {"a": [rows[0]], "b": [rows[1]]}, dtype=torch.float64, progress=False)
    for name, x in zip("ab", rows, strict=True):
        assert {block.dtype for block in recording.moment(name, "0").blocks} == {torch.float32}
        assert {block.dtype for block in exact.moment(name, "0").blocks} == {torch.float64}
        assert_near(recording.moment(name, "0").square, x.double().T @ x.double(), rel=3e-7)
        assert_near(exact.moment(name, "0").square, x.double().T @ x.double(), rel=1e-13)
    both = recording.moment(None, "0")
    assert torch.equal(both.square, recording.moment("a", "0").square + recording.moment("b", "0").square)


def test_sums_beyond_float32_stay_in_float64():
    """Every product fits, and their sum does not."""
    net, rows = nn.Sequential(nn.Linear(300, 4)), torch.full((2100, 300), 4.5e17)
    recording = record(net, {"a": rows.split(700)}, progress=False)
    assert recording.moment("a", "0").square[0, 0] == pytest.approx(2100 * 4.5e17**2, rel=1e-5)
