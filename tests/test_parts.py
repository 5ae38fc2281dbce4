"""Padded batches in parts of like length: the same samples, the same rows, fewer positions; and never where it would
show.

The oracle is the recording of whole batches, which `forward=` asks for.
"""

from __future__ import annotations

import warnings
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import language
from helpers import assert_near
from lashley import Recording, checkpoint, record
from lashley.data.concepts import Members
from lashley.data.masks import default_mask
from lashley.data.parts import parts_of
from lashley.errors import DataError, LashleyWarning, RecordingError

Batch = dict[str, Any]
Data = dict[str, list[Batch]]
LENGTHS = [[3, 30, 5, 4, 29, 6, 12, 11], [7, 2, 32, 9, 31, 3, 14, 5], [28, 4, 4, 9, 5, 3, 10, 26]]


def batch_of(lengths: list[int], seed: int = 0, side: str = "right", labels: bool = True) -> Batch:
    """Random tokens, padded; the first two of every row have no label."""
    drawn = torch.randint(1, language.VOCABULARY, (len(lengths), max(lengths)), generator=seeded(seed))
    steps = torch.arange(max(lengths)).expand(len(lengths), -1)
    size = torch.tensor(lengths)[:, None]
    position = steps if side == "right" else steps - (max(lengths) - size)
    real = (position >= 0) & (position < size)
    batch = {"input_ids": drawn * real, "attention_mask": real.long()}
    if side == "left":
        batch["position_ids"] = position.clamp(min=0)
    return batch | ({"labels": drawn.masked_fill(~real | (position < 2), -100)} if labels else {})


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(**how: Any) -> Data:
    return {
        name: [batch_of(lengths, 10 * number + k, **how) for k, lengths in enumerate(LENGTHS)]
        for number, name in enumerate("ab")
    }


def llama(**more: Any) -> Any:
    return language.llama(torch.float64)


def gpt2() -> Any:
    return language.gpt2(torch.float64)


def bert(kind: str = "BertForMaskedLM") -> Any:
    import transformers

    config = transformers.BertConfig(
        vocab_size=language.VOCABULARY,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        num_labels=3,
    )
    return language.filled(getattr(transformers, kind)(config), torch.float64)


MODELS: dict[str, Callable[[], Any]] = {"llama": llama, "gpt2": gpt2, "bert": bert}


@contextmanager
def shapes(model: nn.Module) -> Iterator[list[tuple[int, int]]]:
    """The (samples, positions) of every forward pass."""
    seen: list[tuple[int, int]] = []

    def note(_: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        seen.append(tuple(kwargs["attention_mask"].shape))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    handle.remove()


def tried(batch: Batch) -> list[Any]:
    """The parts in which a first batch is run beside the whole: those that padding was cut off from."""
    return [
        part for part in parts_of(batch, 64) or () if part.batch["input_ids"].shape[1] < batch["input_ids"].shape[1]
    ]


def whole(model: nn.Module, batches: Any, *how: Any, **more: Any) -> Recording:
    """What is recorded of whole batches."""
    return record(model, batches, *how, forward=lambda model, batch: model(**batch), progress=False, **more)


def divided(model: nn.Module, batches: Any, *how: Any, **more: Any) -> Recording:
    """What is recorded by default, after a look at whether batches were divided at all."""
    plain = [batch for part in batches.values() for batch in part] if isinstance(batches, dict) else batches
    with shapes(model) as seen, warnings.catch_warnings():
        warnings.simplefilter("error", LashleyWarning)
        recording = record(model, batches, *how, progress=False, **more)
    first = tuple(plain[0]["attention_mask"].shape)
    assert seen[0] == first
    parts = seen[1 + len(tried(plain[0])) :]  # the first batch was run both ways
    expected = [part.batch["attention_mask"].shape for batch in plain[1:] for part in parts_of(batch, 64) or ()]
    assert parts == expected and len(parts) > len(plain) - 1
    assert sum(a * b for a, b in parts) < 0.7 * sum(batch["attention_mask"].numel() for batch in plain[1:])
    return recording


def assert_same(one: Recording, two: Recording, rel: float) -> None:
    __tracebackhide__ = True
    assert (one.concepts, one.sites, one.overlapping) == (two.concepts, two.sites, two.overlapping)
    for layer in one.layers:
        for concept in (*one.concepts, None):
            for mine, theirs in zip(one.moments(concept, layer), two.moments(concept, layer), strict=True):
                assert mine.count == theirs.count, (layer, concept)
                assert_near(mine.square, theirs.square, rel=rel)
                assert_near(mine.sum, theirs.sum, rel=rel)


@pytest.fixture(autouse=True)
def lengths_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches here are short: rounded to multiples of 8 few lengths would be left."""
    monkeypatch.setattr("lashley.data.parts._EVEN", 1)


# The parts of a batch.


def test_lengths_are_rounded_up_to_multiples_of_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    parts = parts_of(batch_of([1, 8, 9, 30, 17]), 1)
    assert parts is not None
    assert [(part.samples.tolist(), part.batch["input_ids"].shape[1]) for part in parts] == [
        ([0, 1], 8), ([2], 16), ([4], 24), ([3], 30)
    ]  # fmt: skip


def test_parts_hold_every_sample_once_up_to_where_its_part_ends() -> None:
    batch = {**batch_of(LENGTHS[0]), "use_cache": False, "inputs_embeds": torch.randn(8, 30, 5)}
    batch["labels"][0, 2:] = -100
    parts = parts_of(batch, 10)
    assert parts is not None and len(parts) > 1
    assert sorted(torch.cat([part.samples for part in parts]).tolist()) == list(range(8))
    for part in parts:
        end = max(LENGTHS[0][sample] for sample in part.samples)
        assert list(part.batch) == list(batch)
        assert part.batch["use_cache"] is False
        for key, value in batch.items():
            if isinstance(value, Tensor):
                assert torch.equal(part.batch[key], value[part.samples, :end]), key
                assert not value[part.samples, end:].any() or key != "attention_mask"
        assert torch.equal(default_mask(part.batch), default_mask(batch)[part.samples, :end])
    counted = sum(int(default_mask(part.batch).sum()) for part in parts)
    assert counted == int(default_mask(batch).sum())


@pytest.mark.parametrize("overhead", [1, 20, 64, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_no_other_parts_are_cheaper(overhead: int, seed: int) -> None:
    lengths = torch.randint(1, 40, (9,), generator=seeded(seed)).tolist()
    batch = batch_of(lengths, labels=False)
    batch = {key: nn.functional.pad(value, (0, 40)) for key, value in batch.items()}  # always worth it
    parts = parts_of(batch, overhead)
    assert parts is not None
    cost = sum(part.batch["input_ids"].numel() + overhead for part in parts)
    ordered = sorted(lengths)
    every = [cuts for size in range(9) for cuts in combinations(range(1, 9), size)]
    cheapest = min(
        sum((high - low) * ordered[high - 1] + overhead for low, high in zip((0, *cuts), (*cuts, 9), strict=True))
        for cuts in every
    )
    assert cost == cheapest


def test_a_batch_padded_to_a_fixed_length_is_cut_and_stays_one() -> None:
    batch = {key: nn.functional.pad(value, (0, 30)) for key, value in batch_of([9, 9, 9], labels=False).items()}
    parts = parts_of(UserDict(batch), 4096)
    assert parts is not None and [part.batch["input_ids"].shape for part in parts] == [(3, 9)]


def test_samples_that_attend_to_nothing_and_masks_with_holes() -> None:
    batch = batch_of([4, 4, 30], labels=False)
    batch["attention_mask"][0] = 0
    batch["attention_mask"][1, 1:3] = 0
    parts = parts_of(batch, 1)
    assert parts is not None
    assert [(part.samples.tolist(), part.batch["input_ids"].shape[1]) for part in parts] == [
        ([0], 1), ([1], 4), ([2], 30)
    ]  # fmt: skip


def replaced(**values: Any) -> Batch:
    return {**batch_of(LENGTHS[0]), **values}


WHOLE: dict[str, Any] = {
    "a tensor": torch.randn(8, 30),
    "no attention mask": {"input_ids": replaced()["input_ids"]},
    "nothing but the mask": {"attention_mask": replaced()["attention_mask"]},
    "padding on the left": batch_of(LENGTHS[0], side="left"),
    "rows that are nearly as long": batch_of([30, 29, 28, 28, 27]),
    "a single long row": batch_of([30]),
    "no samples": {key: value[:0] for key, value in replaced().items()},
    "a mask of floats": replaced(attention_mask=replaced()["attention_mask"].float()),
    "a mask of four dims": replaced(attention_mask=torch.ones(8, 1, 30, 30)),
    "ids of another length": replaced(input_ids=torch.ones(8, 29, dtype=torch.long)),
    "one row of positions": replaced(position_ids=torch.arange(30)[None]),
    "positions on three axes": replaced(position_ids=torch.zeros(3, 8, 30, dtype=torch.long)),
    "another tensor of tokens": replaced(entities=torch.ones(8, 30, dtype=torch.long)),
    "another tensor of samples": replaced(pixel_values=torch.ones(8, 3, 5, 5)),
    "a scalar tensor": replaced(scale=torch.tensor(2.0)),
    "a cache": replaced(past_key_values=object()),
    "a list": replaced(lengths=[1] * 8),
    "labels of samples, several each": replaced(labels=torch.ones(8, 4, dtype=torch.long)),  # T of a part may be 4
    "labels of samples, as many as tokens": replaced(labels=torch.rand(8, 30)),
    "a label too few": replaced(labels=torch.ones(7, dtype=torch.long)),
}


@pytest.mark.parametrize("what", WHOLE)
def test_what_is_left_whole(what: str) -> None:
    assert parts_of(replaced(), 10) is not None
    assert parts_of(replaced(labels=torch.ones(8, dtype=torch.long)), 10) is not None
    assert parts_of(WHOLE[what], 10) is None


def test_members_of_a_part() -> None:
    parts = parts_of(batch_of([3, 30, 4, 29]), 4)
    assert parts is not None
    short = next(part for part in parts if 2 in part.samples)
    long = next(part for part in parts if 3 in part.samples)
    members = Members([("x", torch.tensor([0, 3])), ("y", torch.tensor([2, 3, 0])), ("z", None), (None, None)], 4)
    for part in (short, long):
        found = part.members(members)
        assert found.samples == len(part.samples)
        for (concept, mine), (same, all_of_it) in zip(found.parts, members.parts, strict=True):
            assert concept == same
            if all_of_it is None:
                assert mine is None
            else:
                assert mine is not None
                assert part.samples[mine].tolist() == [n for n in all_of_it.tolist() if n in part.samples]
    assert short.members(Members([("x", None)])) == Members([("x", None)])


# What is recorded.


@pytest.mark.parametrize("labels", [True, False], ids=["labels", "no labels"])
@pytest.mark.parametrize("name", MODELS)
def test_the_recording_is_that_of_whole_batches(name: str, labels: bool) -> None:
    model = MODELS[name]()
    batches = data(labels=labels)
    assert_same(divided(model, batches), whole(model, batches), rel=1e-9)


def test_a_recording_in_float32() -> None:
    model = language.llama()
    assert_same(divided(model, data()), whole(model, data()), rel=1e-5)


def test_heads_that_pool_and_labels_of_samples() -> None:
    model = bert("BertForSequenceClassification")
    batches = {
        name: [{**batch, "labels": torch.arange(8) % 3} for batch in part] for name, part in data(labels=False).items()
    }
    recording = divided(model, batches)
    assert recording.moment("a", "classifier").count == 24
    assert_same(recording, whole(model, batches), rel=1e-9)


def test_embeddings_are_counted_too() -> None:
    model = llama()
    how = {"target_modules": ["embed_tokens", "down_proj"]}
    assert_same(divided(model, data(), **how), whole(model, data(), **how), rel=1e-9)


@pytest.mark.parametrize("keep", ["moments", "products"])
@pytest.mark.parametrize("form", ["integers", "names", "overlapping"])
def test_labelled_batches(form: str, keep: str) -> None:
    """A concept may have all, some or none of a part's samples."""
    model, batches = gpt2(), [batch for part in data().values() for batch in part]
    numbers = [torch.randint(0, 3, (8,), generator=seeded(k)) for k in range(len(batches))]
    labels: list[Any] = {
        "integers": numbers,
        "names": [["abc"[n] for n in some] for some in numbers],
        "overlapping": [torch.stack([some > 0, some == 1, some > 5], dim=1) for some in numbers],
    }[form]
    known = {id(batch): label for batch, label in zip(batches, labels, strict=True)}

    def concept_of(batch: Batch) -> Any:
        return known[id(batch)]

    how: dict[str, Any] = {"concept_names": list("abc")}
    if keep == "moments":
        assert_same(divided(model, batches, concept_of, **how), whole(model, batches, concept_of, **how), rel=1e-9)
        return
    one, two = (f(model, batches, concept_of, keep=keep, **how) for f in (divided, whole))
    for name, delta in one.engram(model, "b").items():
        assert_near(delta.weight, two.engram(model, "b")[name].weight, rel=1e-6)


def test_an_adapted_model_is_divided_too() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    settings = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = peft.get_peft_model(llama(), settings).double().eval()
    assert_same(divided(model, data()), whole(model, data()), rel=1e-9)


def test_a_pass_still_ends_early_after_parts() -> None:
    """Without the head, the pass may end at the last recorded layer: from the third pass on, here of parts."""
    model = llama()
    seen: list[int] = []
    model.lm_head.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    assert_same(
        divided(model, data(), target_modules=["q_proj"]), whole(model, data(), target_modules=["q_proj"]), rel=1e-9
    )
    ended = len(seen) - 6  # the whole ones all reach the head
    assert ended == 1 + len(tried(data()["a"][0])) + 1  # the first batch, both ways, and one part


# What is never divided.


def unlike_others(**settings: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return language.filled(LlamaForCausalLM(LlamaConfig(**language.SMALL, **language.shape(), **settings)), torch.float)


def test_whole_batches_where_padding_is_on_the_left() -> None:
    model = gpt2()
    with shapes(model) as seen:
        record(model, data(side="left"), progress=False)
    assert seen == [tuple(batch["input_ids"].shape) for part in data().values() for batch in part]


NEVER: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "half precision": (lambda: language.llama(torch.bfloat16), {}),
    "rows=": (llama, {"rows": lambda batch, site: batch["labels"] != -100}),
    "forward=": (llama, {"forward": lambda model, batch: model(**batch)}),
    "angles by length": (
        lambda: unlike_others(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}),
        {},
    ),
}


@pytest.mark.parametrize("why", NEVER)
def test_never_divided(why: str) -> None:
    build, how = NEVER[why]
    model = build()
    with shapes(model) as seen:
        record(model, data(), progress=False, **how)
    assert seen == [tuple(batch["input_ids"].shape) for part in data().values() for batch in part]


def test_never_divided_under_autocast() -> None:
    model = language.llama()
    with shapes(model) as seen, torch.autocast("cpu", torch.bfloat16):
        record(model, data(), progress=False)
    assert len(seen) == 6


def test_never_divided_beside_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may wait for each other pass by pass."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    model = llama()
    with shapes(model) as seen:
        record(model, data(), progress=False)
    assert len(seen) == 6


def test_an_encoder_and_a_decoder_are_never_divided() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=language.VOCABULARY, d_model=24, d_kv=6, d_ff=40, num_layers=1, num_heads=4, decoder_start_token_id=0
    )
    model = language.filled(T5ForConditionalGeneration(config), torch.float64)
    with shapes(model) as seen:
        record(model, data(), progress=False)
    assert seen == [tuple(batch["input_ids"].shape) for part in data().values() for batch in part]


# Models that do not keep the promise.


class Leaking(nn.Module):
    """Looks like a model of transformers, and lets padding through.

    Args:
        how: "pooling": the mean over all positions reaches every position. "neighbour": every position reads the next
            one, so that one row of a sample changes. "counting": a layer is called twice where rows are short.
            "window": takes batches of one width only. "token 7": as "pooling", but in batches with that token only.
            "noise": padding means nothing, random numbers do.
    """

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.config = SimpleNamespace(is_encoder_decoder=False)
        self.embed = nn.Embedding(language.VOCABULARY, 6)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.double()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.first(self.embed(input_ids))
        if self.how == "pooling" or (self.how == "token 7" and (input_ids == 7).any()):
            x = x + x.mean(1, keepdim=True)
        if self.how == "neighbour":
            x = x + 0.1 * nn.functional.pad(x, (0, 0, 0, 1))[:, 1:]
        if self.how == "window" and input_ids.shape[1] < 26:
            raise ValueError("expected 26 positions or more")
        if self.how == "noise":
            x = x + torch.randn(())
        if self.how == "counting" and input_ids.shape[1] < 26:
            self.second(x)
        return self.second(x)


@pytest.mark.parametrize("how", ["pooling", "neighbour", "window", "noise", "counting"])
def test_a_model_that_sees_padding_is_told_and_recorded_whole(how: str) -> None:
    model = Leaking(how)
    message = {
        "window": r"fails on shorter batches \(ValueError: expected 26",
        "counting": "layer 'second' changed in number",
    }.get(how, r"layer 'second' changed by")
    with pytest.warns(LashleyWarning, match=message) as caught, shapes(model) as seen:
        torch.manual_seed(5)
        recording = record(model, data(labels=False), progress=False)
    assert len([w for w in caught if "trailing padding" in str(w.message)]) == 1
    torch.manual_seed(5)
    assert_same(recording, whole(model, data(labels=False)), rel=0)
    plain = [tuple(batch["input_ids"].shape) for part in data().values() for batch in part]
    assert seen[0] == plain[0] and seen[-5:] == plain[1:]


def test_a_batch_whose_short_samples_have_no_rows_proves_nothing() -> None:
    model, batches = Leaking("pooling"), data()
    first = batches["a"][0]
    first["labels"][torch.tensor(LENGTHS[0]) < 30] = -100
    with pytest.warns(LashleyWarning, match="layer 'second' changed by"):
        recording = record(model, batches, progress=False)
    assert_same(recording, whole(model, batches), rel=0)


def test_a_model_of_transformers_that_does_not_keep_the_promise() -> None:
    """Convolutions over positions read the padding behind a sample."""
    from transformers import ConvBertConfig, ConvBertForMaskedLM

    settings = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = ConvBertForMaskedLM(ConvBertConfig(**language.SMALL, **settings, embedding_size=24))
    model = language.filled(model, torch.float32)
    with pytest.warns(LashleyWarning, match="at layer 'convbert.encoder.layer.1"):
        recording = record(model, data(), progress=False)
    assert_same(recording, whole(model, data()), rel=0)


def test_the_right_twin_is_divided() -> None:
    model = Leaking("")
    assert_same(divided(model, data()), whole(model, data()), rel=1e-12)


def test_a_model_without_a_promise_is_left_alone() -> None:
    model = Leaking("")
    del model.config
    with shapes(model) as seen:
        record(model, data(), progress=False)
    assert len(seen) == 6


class Positions(nn.Module):
    """A layer reads one row per position of the batch, whatever the samples: `[T, 6]`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(is_encoder_decoder=False)
        self.embed, self.table = nn.Embedding(language.VOCABULARY, 6), nn.Embedding(40, 6)
        self.read, self.place = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.read(self.embed(input_ids)) + self.place(self.table(torch.arange(input_ids.shape[1])))


def test_a_mask_that_fits_by_coincidence_fits_no_part() -> None:
    """With as many samples as positions, rows of positions pass for rows of samples; in a part they do not."""
    model, square = Positions(), [12, 2, 3, 2, 4, 3, 2, 2, 3, 4, 2, 3]
    batches = {"a": [batch_of(square, k, labels=False) for k in range(2)]}
    with pytest.warns(LashleyWarning, match="fails on shorter batches .DataError: .*'place'"):
        recording = record(model, batches, progress=False)
    assert_same(recording, whole(model, batches), rel=0)


def test_errors_name_the_batch_and_not_the_part() -> None:
    model = llama()
    batches = {"a": [batch_of(lengths, k) for k, lengths in enumerate(LENGTHS)]}
    for batch in batches["a"]:
        batch["input_ids"].clamp_(max=46)
    batches["a"][2]["input_ids"][4, 1] = 47
    model.get_input_embeddings().weight.data[47] = float("inf")
    with pytest.raises(RecordingError, match=r"nan or inf in the input of layer .* in batch 2"):
        record(model, batches, progress=False)
    with pytest.raises(DataError, match="Batch 1: Expected concept_of to give a label for each of 8 samples, got 7"):
        labels = {id(batch): [0] * (8 - k) for k, batch in enumerate(batches["a"])}
        record(llama(), batches["a"], lambda batch: labels[id(batch)], progress=False)


# Killed and gone on with.


class Stopped(Exception):
    pass


class Stopping:
    """Batches that raise after so many, once."""

    def __init__(self, batches: list[Batch], after: int) -> None:
        self.batches, self.after = batches, after

    def __iter__(self) -> Iterator[Batch]:
        for number, batch in enumerate(self.batches):
            if number == self.after:
                self.after = -1
                raise Stopped
            yield batch


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_recording_that_goes_on_is_the_same_to_the_bit(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_EVERY", 0)
    monkeypatch.setattr(checkpoint, "_SHARE", 0)
    model, batches = language.llama(), data()
    expected = divided(model, batches)
    folder = tmp_path / "recording"
    stopping = {**batches, "b": Stopping(batches["b"], after)}
    with pytest.raises(Stopped):
        record(model, stopping, checkpoint=folder, progress=False)
    with shapes(model) as seen:
        found = record(model, stopping, checkpoint=folder, progress=False)
    assert [*seen] == [p.batch["input_ids"].shape for batch in batches["b"][after:] for p in parts_of(batch, 64) or ()]
    assert_same(found, expected, rel=0)


def test_a_verdict_outlives_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrong twin, whose later batches show nothing: going on, they would pass, and be recorded otherwise."""
    monkeypatch.setattr(checkpoint, "_EVERY", 0)
    monkeypatch.setattr(checkpoint, "_SHARE", 0)
    model, batches = Leaking("token 7"), data(labels=False)
    for number, batch in enumerate(batch for part in batches.values() for batch in part):
        batch["input_ids"][batch["input_ids"] == 7] = 8
        if number == 0:
            batch["input_ids"][:, 0] = 7
    with pytest.warns(LashleyWarning, match="trailing padding"):
        expected = record(model, batches, progress=False)
    folder = tmp_path / "recording"
    stopping = {**batches, "b": Stopping(batches["b"], 1)}
    with pytest.warns(LashleyWarning, match="trailing padding"), pytest.raises(Stopped):
        record(model, stopping, checkpoint=folder, progress=False)
    with shapes(model) as seen, warnings.catch_warnings():
        warnings.simplefilter("error", LashleyWarning)
        found = record(model, stopping, checkpoint=folder, progress=False)
    assert seen == [tuple(batch["input_ids"].shape) for batch in batches["b"][1:]]
    assert_same(found, expected, rel=0)
