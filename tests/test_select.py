"""Which layers are taken: PEFT's names and meaning, and an error wherever PEFT would pass over something in silence."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from lashley.errors import ModelError, SelectionError
from lashley.select import Entry, match_names, select, survey, tied_parameters


@pytest.fixture(scope="module")
def llama() -> nn.Module:
    config = LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=12, num_hidden_layers=3, num_attention_heads=2)
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=8, n_layer=2, n_head=2, n_positions=8))


@pytest.fixture(scope="module")
def t5() -> nn.Module:
    return T5ForConditionalGeneration(T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2))


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 4), nn.Linear(4, 2))


ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]


def names(*kinds: str, blocks: tuple[int, ...] = (0, 1, 2)) -> list[str]:
    """Names in a Llama, in its order."""
    return [
        f"model.layers.{i}.{'mlp' if kind in MLP else 'self_attn'}.{kind}"
        for i in blocks
        for kind in [*ATTENTION, *MLP]
        if kind in kinds
    ]


# PEFT's meaning.


def test_the_default_is_every_layer_of_a_known_type_in_the_models_order(llama, gpt2):
    assert list(select(llama)) == [*names(*ATTENTION, *MLP), "lm_head"]
    assert list(select(net())) == ["0", "3", "4"]
    assert {layer.type for layer in select(gpt2).values()} == {"Conv1D", "Linear"}


def test_a_list_names_ends(llama):
    assert list(select(llama, ["q_proj", "down_proj"])) == names("q_proj", "down_proj")
    assert list(select(llama, {"self_attn.q_proj"})) == names("q_proj")
    assert list(select(llama, ["model.layers.1.mlp.up_proj", "lm_head"])) == ["model.layers.1.mlp.up_proj", "lm_head"]
    assert list(select(net(), (n for n in ["4"]))) == ["4"]  # any iterable will do


def test_an_entry_is_not_the_end_of_a_word(llama):
    with pytest.raises(SelectionError):
        select(llama, ["proj"])


def test_a_text_is_a_regular_expression_for_the_full_name(llama):
    assert list(select(llama, r".*\.(q|v)_proj")) == names("q_proj", "v_proj")
    assert list(select(llama, r"model\.layers\.[02]\.mlp\..*")) == names(*MLP, blocks=(0, 2))
    every = ["model.embed_tokens", *select(llama)]  # containers do not count; the embedding does, being asked for
    assert list(select(llama, ".*")) == every


def test_all_linear_leaves_out_the_head_and_convolutions(llama, gpt2):
    assert list(select(llama, "all-linear")) == names(*ATTENTION, *MLP)
    assert list(select(net(), "all-linear")) == ["3", "4"]
    assert len(select(gpt2, "all-linear")) == 8
    assert all(layer.type == "Conv1D" for layer in select(gpt2, "all-linear").values())


def test_exclude_modules(llama):
    assert list(select(llama, exclude_modules=["lm_head", "o_proj"])) == names(*(set(ATTENTION) - {"o_proj"}), *MLP)
    assert list(select(llama, exclude_modules=r".*\.self_attn\..*|lm_head")) == names(*MLP)
    assert list(select(llama, exclude_modules="all-linear")) == ["lm_head"]
    assert list(select(llama, ["q_proj", "k_proj"], exclude_modules=["k_proj"])) == names("q_proj")
    # A module that is no layer is out anyway: PEFT's configurations name embeddings here.
    assert list(select(llama, ["q_proj"], exclude_modules=["embed_tokens"])) == names("q_proj")


def test_layers_to_transform_takes_blocks(llama, gpt2):
    assert list(select(llama, ["q_proj"], layers_to_transform=1)) == names("q_proj", blocks=(1,))
    assert list(select(llama, ["q_proj"], layers_to_transform=[2, 0])) == names("q_proj", blocks=(0, 2))
    assert list(select(llama, ["q_proj"], layers_to_transform=[1], layers_pattern="layers")) == names(
        "q_proj", blocks=(1,)
    )
    assert len(select(gpt2, layers_to_transform=[0], layers_pattern=["layers", "h"])) == 4
    assert "lm_head" not in select(llama, layers_to_transform=range(3))  # it lies in no block


def test_a_list_at_the_top_of_a_model_has_blocks_too():
    model = nn.ModuleDict({"layer1": nn.Sequential(*(nn.ModuleDict({"conv": nn.Conv1d(1, 1, 1)}) for _ in range(12)))})
    assert list(select(model, layers_to_transform=[1, 11])) == ["layer1.1.conv", "layer1.11.conv"]


def test_blocks_in_blocks_need_a_pattern(t5):
    assert list(select(t5, ["wo"], layers_to_transform=[1], layers_pattern="block")) == [
        "encoder.block.1.layer.1.DenseReluDense.wo",
        "decoder.block.1.layer.2.DenseReluDense.wo",
    ]
    with pytest.raises(
        SelectionError, match="'encoder.block.0.layer.1.*' lies in several numbered lists: block, layer"
    ):
        select(t5, ["wo"], layers_to_transform=[1])


# One module is one layer, and functions call no module.


class Twice(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = self.first


def test_a_module_with_two_names_is_one_layer():
    assert list(select(Twice())) == ["first"]
    assert list(select(Twice(), ["second"])) == ["second"]
    assert list(select(Twice(), exclude_modules=["first"])) == ["second"]
    [entry] = survey(Twice(), ["second"])
    assert (entry.name, entry.status) == ("second", "record")


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)
        self.out = nn.Linear(4, 4)


def test_multi_head_attention_is_four_layers():
    parts = [f"attention.{part}" for part in ("q_proj", "k_proj", "v_proj", "out_proj")]
    assert list(select(Attention())) == [*parts, "out"]
    assert list(select(Attention(), ["out_proj"])) == ["attention.out_proj"]
    assert list(select(Attention(), exclude_modules=r"attention\..*")) == ["out"]
    entries = {entry.name: entry for entry in survey(Attention())}
    assert {name for name, entry in entries.items() if entry.status == "record"} == {*parts, "out"}
    assert entries["attention.k_proj"].dim == 4
    assert "attention" not in entries  # its parts stand for it
    with pytest.raises(SelectionError, match="Expected the name of a layer, got 'attention', which is several"):
        select(Attention(), ["attention"])


def test_wrappers_do_not_show_in_names():
    assert list(select(nn.DataParallel(net()))) == ["0", "3", "4"]
    assert [entry.name for entry in survey(nn.DataParallel(net()))] == ["0", "1", "3", "4"]


# Errors.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"target_modules": ["q_prj"]}, r"target_modules names 'q_prj', and no module's name .* Did you mean 'q_proj'"),
        ({"target_modules": ["q_proj", "fc"]}, "target_modules names 'fc'"),
        ({"target_modules": "q_proj"}, r"regular expression for the full name and matches no layer.*\['q_proj'\]"),
        ({"target_modules": "lm_hed"}, "Did you mean 'lm_head'"),
        ({"target_modules": "(q_proj"}, r"to be a regular expression, got '\(q_proj': "),
        ({"target_modules": []}, "target_modules to name something, got an empty list"),
        ({"target_modules": [0]}, "target_modules to be a list of texts, got 0 in it"),
        ({"target_modules": 3}, "target_modules to be a text or a list of texts, got 3"),
        ({"exclude_modules": ["lm_haed"]}, "exclude_modules names 'lm_haed'.*'lm_head'"),
        ({"exclude_modules": "lm_haed"}, "exclude_modules='lm_haed' is a regular expression"),
        ({"exclude_modules": []}, "exclude_modules to name something"),
        ({"exclude_modules": ["self_attn"]}, r"'self_attn', which is no layer but holds .*\(\.\*\\\.\)\?self_attn"),
        ({"exclude_modules": ".*"}, "of 23 layers of known types the patterns and indices leave none"),
        ({"layers_pattern": "layers"}, "Expected layers_to_transform with layers_pattern"),
        ({"layers_to_transform": 3}, r"asks for block 3, and no selected layer .* in blocks \[0, 1, 2\]"),
        ({"layers_to_transform": [0, -1]}, "asks for block -1"),
        ({"layers_to_transform": []}, "Expected layers_to_transform to name a block"),
        ({"layers_to_transform": 0, "layers_pattern": "h"}, "asks for block 0 of 'h', .* None lies in a block"),
        ({"layers_to_transform": 0, "layers_pattern": []}, "layers_pattern to name something"),
        ({"layers_to_transform": 0, "target_modules": ["lm_head"]}, "None lies in a block"),
    ],
)
@pytest.mark.parametrize("function", [select, survey])
def test_what_matches_nothing_is_an_error(llama, function, arguments, says):
    if function is survey and "leave none" in says:
        assert {entry.status for entry in survey(llama, **arguments)} == {"skip"}
        return
    with pytest.raises(SelectionError, match=says):
        function(llama, **arguments)


@pytest.mark.parametrize("function", [select, survey])
def test_a_container_cannot_be_a_target(llama, function):
    with pytest.raises(ModelError, match=r"'model.layers.0.mlp' to be of a known layer type, got LlamaMLP. Known are"):
        function(llama, ["mlp"])


def test_the_hint_for_a_container_excludes_it(llama):
    with pytest.raises(SelectionError) as caught:
        select(llama, exclude_modules=["self_attn"])
    hint = str(caught.value).split("r'")[1].rstrip(".").rstrip("'")
    assert list(select(llama, exclude_modules=hint)) == [*names(*MLP), "lm_head"]


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.Linear(2, 2), r"got a lone Linear: .*torch.nn.Sequential\(layer\)"),
        (
            nn.Sequential(nn.LayerNorm(2), nn.PReLU()),
            r"without a layer of a known type \(.* of types LayerNorm, PReLU\)",
        ),
        (nn.Sequential(nn.ReLU()), r"without a layer of a known type\. To add"),
    ],
)
def test_a_model_without_layers_is_refused(model, says):
    with pytest.raises(SelectionError, match=says):
        select(model)


def test_all_linear_of_a_model_without_linear_layers():
    with pytest.raises(SelectionError, match='target_modules="all-linear" matches nothing'):
        select(nn.Sequential(nn.Conv1d(1, 1, 1)), "all-linear")


# Weights that cannot be recorded: `select` refuses, `survey` lists.


def blocked() -> nn.ModuleDict:
    weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    int8 = nn.Linear(2, 2)
    int8.weight = weight
    return nn.ModuleDict(
        {
            "normal": torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2, bias=False)),
            "lazy": nn.LazyLinear(2),
            "int8": int8,
            "meta": nn.Linear(2, 2, device="meta"),
        }
    )


@pytest.mark.parametrize(
    ("name", "says"), [("normal", "parametrized"), ("lazy", "lazy"), ("int8", "torch.int8"), ("meta", "meta device")]
)
def test_a_layer_that_cannot_be_recorded_is_refused_unless_left_out(name, says):
    model = nn.ModuleDict({"good": nn.Linear(2, 2), name: blocked()[name]})
    with pytest.raises(ModelError, match=rf"Layer '{name}' \(\w+\) cannot be recorded: .*{says}"):
        select(model)
    assert list(select(model, exclude_modules=[name])) == ["good"]
    assert list(select(model, ["good"])) == ["good"]


def test_a_survey_lists_everything_with_its_reason():
    model = nn.ModuleDict({**blocked(), "norm": nn.LayerNorm(2), "other": nn.Linear(2, 2), "good": nn.Linear(3, 2)})
    entries = {entry.name: entry for entry in survey(model, exclude_modules=["other"])}
    assert list(entries) == [
        "normal", "normal.parametrizations.weight", "lazy", "int8", "meta", "norm", "other", "good",
    ]  # fmt: skip
    assert [name for name, entry in entries.items() if entry.status == "record"] == ["good"]
    for name, reason in {
        "normal": "its weight is parametrized",
        "lazy": "it is lazy",
        "int8": "expected a weight of floating point numbers",
        "meta": "expected a weight in memory",
        "norm": "no layer type speaks for LayerNorm",
        "other": "not selected",
    }.items():
        assert entries[name].status == "skip"
        assert reason in entries[name].reason
    assert entries["good"] == Entry("good", "Linear", "record", "", 1, 3, 2, True, 8 * (9 + 3))


def test_a_survey_of_a_model_that_cannot_be_recorded_at_all():
    assert [entry.status for entry in survey(nn.Sequential(nn.LayerNorm(2)))] == ["skip"]
    [alone] = survey(nn.Linear(2, 2))
    assert (alone.name, alone.status) == ("", "skip")
    assert "wrap it" in alone.reason
    assert {entry.status for entry in survey(blocked())} == {"skip"}
    assert survey(nn.ReLU()) == []


def test_a_survey_counts_matrices_and_bytes():
    [entry] = survey(nn.Sequential(nn.Conv2d(4, 8, 3, groups=2, bias=False)))
    assert (entry.matrices, entry.dim, entry.out, entry.bias) == (2, 18, 4, False)
    assert entry.bytes == 2 * 8 * (18 * 18 + 18)


# Ties.


def test_tied_weights_are_named(gpt2):
    entries = {entry.name: entry for entry in survey(gpt2)}
    assert entries["lm_head"].tied == ("transformer.wte.weight",)
    assert entries["transformer.wte"].tied == ("lm_head.weight",)
    assert entries["transformer.h.0.attn.c_attn"].tied == ()


def test_a_tie_is_memory_that_two_modules_own():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "c": nn.Linear(2, 2), "d": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight  # one parameter
    model["c"].weight = nn.Parameter(model["a"].weight.detach())  # another, of the same memory
    assert tied_parameters(model) == {
        "a.weight": ("b.weight", "c.weight"),
        "b.weight": ("a.weight", "c.weight"),
        "c.weight": ("a.weight", "b.weight"),
    }
    model["e"] = model["a"]  # a second name is no tie by itself, but it is a name
    assert tied_parameters(model)["b.weight"] == ("a.weight", "e.weight", "c.weight")
    assert tied_parameters(Twice()) == {}
    assert tied_parameters(nn.Sequential(nn.LazyLinear(2), nn.LazyLinear(2), nn.Linear(2, 2, device="meta"))) == {}
    assert tied_parameters(nn.ParameterDict({"none": torch.zeros(0), "either": torch.zeros(0)})) == {}


# The patterns alone, as `Engram.select` uses them.


def test_match_names():
    known = ["a.q", "a.k", "b.q"]
    assert match_names(None, known, "x") == known
    assert match_names(["q"], known, "x") == ["a.q", "b.q"]
    assert match_names("a.*", known, "x") == ["a.q", "a.k"]
    with pytest.raises(SelectionError, match="x names 'v'"):
        match_names(["v"], known, "x")
