"""What a check refuses, and what it says instead; each message with the mistake it is about."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lashley
from cases import mlp
from editing import state
from helpers import gaussian
from lashley.criteria import CONTROLS
from lashley.criteria.null import null_state
from lashley.errors import DataError, LashleyError, LashleyWarning, ModelError, MomentError, RecordingError

QUICK = {"resamples": 10, "progress": False}


def samples(count: int = 20, dim: int = 6) -> dict[str, list[Tensor]]:
    return {str(c): [gaussian(count, dim, seed=c).float() + 2 * c] for c in range(3)}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    network = mlp(6, 8, 3)
    with torch.no_grad():  # it knows class 1
        network[2].bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    return network.eval()


@pytest.fixture(scope="module")
def recording(model: nn.Module) -> lashley.Recording:
    return lashley.record(model, samples(), progress=False)


def refuses(error: type[LashleyError], says: str, model: nn.Module, *args: Any, **settings: Any) -> None:
    before = state(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LashleyWarning)
        with pytest.raises(error, match=says) as caught:
            lashley.check(model, *args, **{"controls": (), "doses": (), **QUICK, **settings})
    assert re.search(r"[Ee]xpected", str(caught.value)), "it says what was expected"
    assert state(model) == before


def test_samples_of_the_target(model, recording):
    without = {name: batches for name, batches in samples().items() if name != "1"}
    refuses(DataError, "samples of '1', got some of '0', '2'", model, recording, "1", without)


def test_enough_samples_of_the_target(model, recording):
    few = {**samples(), "1": samples(7)["1"]}
    refuses(DataError, "at least 10 samples of '1', got 7.*Give 3 more", model, recording, "1", few)


def test_enough_samples_of_others(model, recording):
    alone = {"1": samples()["1"], "0": samples(4)["0"]}
    refuses(DataError, "at least 10 samples of other concepts, got 4", model, recording, "1", alone)


def test_data_that_can_be_read_again(model, recording):
    once = {name: iter(batches) for name, batches in samples().items()}
    refuses(DataError, "data that can be read again and again, got an iterator", model, recording, "1", once)
    refuses(DataError, "train that can be read again", model, recording, "1", samples(), train=once)


def test_samples_in_one_order(model, recording):
    x = torch.cat([batches[0] for batches in samples().values()])
    pairs = torch.utils.data.TensorDataset(x, torch.arange(3).repeat_interleave(20))
    loader = torch.utils.data.DataLoader(pairs, batch_size=20, shuffle=True)
    says = r"same samples in the same order at every reading, got others in batch 0.*shuffle=False"
    refuses(DataError, says, model, recording, "1", loader, lambda batch: batch[1])

    class Turned:
        """From the second reading on, the last two batches have changed places."""

        read = 0

        def __iter__(self) -> Any:
            order = [0, 2, 1] if self.read else [0, 1, 2]
            self.read += 1
            return iter([pairs[20 * n : 20 * n + 20] for n in order])

    refuses(DataError, "got others in batch 1", model, recording, "1", Turned(), lambda batch: batch[1])

    class Shorter:
        """From the second reading on, there is one batch."""

        read = 0

        def __iter__(self) -> Any:
            self.read += 1
            return iter([pairs[20 * n : 20 * n + 20] for n in range(3 if self.read == 1 else 1)])

    refuses(DataError, "at every reading, got 20 of 60", model, recording, "1", Shorter(), lambda batch: batch[1])


def test_samples_of_one_concept_each(model, recording):
    batch = (torch.cat([b[0] for b in samples().values()]), torch.ones(60, 3, dtype=torch.bool))
    refuses(
        DataError,
        "every sample to belong to one concept, got bool labels",
        *(model, recording, "1", [batch], lambda batch: batch[1]),
        concept_names=["0", "1", "2"],
    )


def test_a_batch_says_how_many_samples_it_has(model, recording):
    odd = {name: [{"x": x, "scale": torch.ones(3)} for x in batches] for name, batches in samples().items()}
    says = r"batch 0 to say how many samples it has.*Give one loader with concept_of"
    refuses(DataError, says, model, recording, "1", odd, forward=lambda m, b: m(b["x"]))


def test_a_known_concept(model, recording):
    with pytest.raises(LashleyError, match="recorded concept, got 'one'"):
        lashley.check(model, recording, "one")


def test_no_weights(model, recording):
    refuses(DataError, "a concept or a list of them, got weights .*Check them one by one", model, recording, {"1": 1.0})
    engram = 0.5 * recording.engram(model, "1")
    refuses(DataError, "each with weight 1, got .*check its parts", model, recording, engram)


def test_other_concepts(model, recording):
    refuses(DataError, "concepts beside the target, got none", model, recording, ["0", "1", "2"])


def test_the_engram_of_this_network(model, recording):
    torch.manual_seed(5)
    other = mlp(6, 8, 3)
    engram = lashley.record(other, samples(), progress=False).engram(other, "1")
    refuses(ModelError, "engram of this network, got one of other weights in layer '0'", model, recording, engram)
    part = lashley.record(model, samples(), target_modules=["0"], progress=False)
    refuses(ModelError, "recorded layers, got '2'", model, part, recording.engram(model, "1"))


def test_biases_in_every_layer_or_in_none(model, recording):
    halves = [recording.engram(model, "1", bias=bias, layers=[name]) for name, bias in (("0", True), ("2", False))]
    mixed = lashley.Engram({**halves[0], **halves[1]}, {"1": 1.0}, halves[0].estimator)
    refuses(DataError, "a share of every bias or of none", model, recording, mixed)


def test_an_engram_has_its_own_formula(model, recording):
    engram = recording.engram(model, "1")
    says = "estimator= and layers= beside the names of concepts only"
    refuses(DataError, says, model, recording, engram, estimator=lashley.Projection())
    refuses(DataError, says, model, recording, engram, layers=["0"])


def test_moments(model):
    products = lashley.record(model, samples(), keep="products", progress=False)
    refuses(MomentError, 'keep="moments"', model, products, "1")


def test_a_null_state_of_the_same_architecture(model, recording):
    says = "null state of the same architecture.*"
    refuses(
        ModelError, says + r"'0.weight' is \[9, 6\] there and \[8, 6\] here", model, recording, "1", null=mlp(6, 9, 3)
    )
    refuses(ModelError, says + "its '4.weight' is not in the network", model, recording, "1", null=mlp(6, 8, 3, 2))
    short = {name: tensor for name, tensor in model.state_dict().items() if name != "2.bias"}
    refuses(ModelError, says + "it lacks '2.bias'", model, recording, "1", null=short)


def test_a_null_state_of_tensors(model, recording):
    says = "tensor of the network; '0.weight' is of type {} there. Give a state dict as torch saves it"
    numbers = dict.fromkeys(model.state_dict(), 0)
    refuses(ModelError, says.format("int"), model, recording, "1", null=numbers)
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    refuses(ModelError, says.format("ndarray"), model, recording, "1", null=arrays)


@pytest.mark.parametrize("null", ["blank", 3, None])
def test_a_null_state(model, recording, null):
    refuses(DataError, 'null to be "zero", "random", a network or a state dict, got', model, recording, "1", null=null)


def test_a_module_that_cannot_be_initialised():
    class Bare(nn.Linear):
        reset_parameters = None  # type: ignore[assignment]

        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.in_features, self.out_features = 6, 3
            self.weight, self.bias = nn.Parameter(torch.randn(3, 6)), nn.Parameter(torch.zeros(3))

    network = nn.Sequential(Bare())
    engram = lashley.record(network, samples(), progress=False).engram(network, "1")
    with pytest.raises(ModelError, match=r"to have reset_parameters\(\).*Bare has none. Give null= a network"):
        null_state(network, engram, "random", 0)


def test_a_null_state_that_breaks_down(model, recording):
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in model.state_dict().items()}
    with pytest.raises(LashleyError, match="nan or inf"):
        lashley.check(model, recording, recording.engram(model, "1"), samples(), null=broken, controls=(), **QUICK)


def test_a_retrained_network_with_the_same_head(model, recording):
    says = r"the retrained network to have 3 outputs, as the network has, got \[20, 2\].*keeps its output"
    refuses(RecordingError, says, model, recording, "1", samples(), retrained=mlp(6, 8, 2))


def test_finite_outputs(model, recording):
    class Late(nn.Module):
        """Not a number on the last batch only."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) / (x.mean() < 3.5)

    late = Late()
    found = lashley.record(late, samples(), progress=False)
    refuses(RecordingError, "finite outputs of the network, got nan or inf for batch 2", late, found, "1", samples())


def test_outputs_that_are_known(model, recording):
    refuses(DataError, "outputs to be one of 'auto', 'classes'", model, recording, "1", samples(), outputs="logits")
    maps = lambda network, batch: network(batch).reshape(-1, 3, 1, 1)  # noqa: E731
    says = r"logits \[N, C\] of a classifier, or .* got \[20, 3, 1, 1\].*outputs=\"none\""
    refuses(DataError, says, model, recording, "1", samples(), forward=maps)


def values(found: Any) -> dict[str, float]:
    return {key: number.value for key, number in found.engram.output.items()}


def test_which_output_is_whose(model, recording):
    with_names = {f"digit {name}": batches for name, batches in samples().items()}
    named = lashley.record(model, with_names, progress=False)
    in_order = lashley.check(model, named, "digit 1", with_names, controls=(), doses=(), **QUICK)
    by_number = lashley.check(model, recording, "1", samples(), controls=(), doses=(), **QUICK)
    assert values(in_order) == values(by_number)
    two = {name: with_names[name] for name in ("digit 1", "digit 2")}
    few = lashley.record(model, two, progress=False)
    refuses(
        DataError, r"3 concepts, one for each output, .*got 2: .*classes={concept: number}", model, few, "digit 1", two
    )
    refuses(
        DataError,
        "classes= to name the output of every concept, got none for 'digit 2'",
        *(model, few, "digit 1", two),
        classes={"digit 1": 1},
    )
    refuses(
        DataError,
        "outputs from 0 to 2, got 5 for 'digit 2'",
        *(model, few, "digit 1", two),
        classes={"digit 1": 1, "digit 2": 5},
    )
    right = lashley.check(
        model, few, "digit 1", two, classes={"digit 1": 1, "digit 2": 2}, controls=(), doses=(), **QUICK
    )
    assert values(right)["own"] == values(by_number)["own"]


def test_an_output_for_every_sample(model, recording):
    more = {**samples(), "9": samples()["0"]}
    refuses(DataError, "classes= to name the output of '9'", model, recording, "1", more)
    flat = lambda network, batch: network(batch)[::2]  # noqa: E731
    refuses(DataError, "an output for each of 20 samples, got 10", model, recording, "1", samples(), forward=flat)


def test_a_network_that_does_not_know_the_concept_is_told(model, recording):
    with pytest.warns(LashleyWarning, match="no better than chance.*Does classes= say which output is whose"):
        lashley.check(model, recording, "2", samples(), controls=(), doses=(), **QUICK)


def test_intervals_that_are_some(model, recording):
    for settings in ({"resamples": -1}, {"level": 1.0}):
        says = "resamples of 0 or more and a level between 0 and 1, got"
        refuses(DataError, says, model, recording, "1", samples(), **settings)
    found = lashley.check(model, recording, "1", samples(), controls=(), doses=(), resamples=0, progress=False)
    assert all(number.low == number.value == number.high for number in found.engram.output.values())


def test_a_seed_that_generators_take(model, recording):
    refuses(DataError, "seed= to be a whole number of 64 bits, got 99", model, recording, "1", None, seed=99 * 10**20)


class Routed(nn.Module):
    """Rows, or whole batches, go through another layer or not."""

    def __init__(self, by_row: bool) -> None:
        super().__init__()
        self.by_row = by_row
        self.gate, self.expert, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(x)
        chosen = x[:, 0] > x[:, 0].median() if self.by_row else (x.abs().sum() > 0).expand(len(x))
        if chosen.any():
            x = x.index_put((chosen.nonzero().flatten(),), self.expert(x[chosen]))
        return self.head(x)


@pytest.mark.parametrize(
    ("by_row", "says"),
    [
        (True, "rows of layer 'expert' to come sample by sample, got leading dims"),
        (False, "layer 'expert' of the null state to be called like the learned network's, got other rows"),
    ],
)
def test_rows_that_are_routed_by_the_weights(by_row, says):
    torch.manual_seed(2)
    network = Routed(by_row).eval()
    found = lashley.record(network, samples(), progress=False)
    settings = {"outputs": "none", "bias": True}
    refuses(RecordingError, f"{says}.*out with layers=", network, found, "1", samples(), **settings)
    left = lashley.check(network, found, "1", samples(), layers=["head"], outputs="none", controls=(), **QUICK)
    assert list(left.engram.layers) == ["head"]


def test_controls_that_are_known(model, recording):
    refuses(DataError, "controls among 'random direction'", model, recording, "1", controls=["random"])
    refuses(
        DataError,
        "other= to be a recorded concept beside the target, got '1'",
        *(model, recording, "1"),
        controls=["another concept"],
        other="1",
    )


def test_what_needs_samples_is_refused_without(model, recording):
    refuses(DataError, "data beside train= and retrained=, got none", model, recording, "1", retrained=model)
    refuses(DataError, "data beside train= and retrained=, got none", model, recording, "1", train=samples())
    settings = {"outputs": "none", "retrained": model}
    refuses(
        DataError,
        'outputs to compare with the retrained network, got outputs="none"',
        model,
        recording,
        "1",
        samples(),
        **settings,
    )
    settings = {"outputs": "none", "features": "2"}
    refuses(DataError, "features= beside a classifier only", model, recording, "1", samples(), **settings)


def test_features_that_every_network_has(model, recording):
    settings = {"retrained": nn.Sequential(nn.Linear(6, 3)), "features": "2"}
    says = "the retrained network to have layer '2', whose inputs are the features; there are 0"
    refuses(DataError, says, model, recording, "1", samples(), **settings)


def test_a_control_without_an_answer_is_left_out_and_said(model, recording):
    mixture = lashley.MixtureShift(weights={"0": 1.0}, min_r2=0.0)
    found = lashley.check(model, recording, "1", samples(), estimator=mixture, doses=(), layers=["2"], **QUICK)
    assert "random samples" not in found.controls and "random direction" in found.controls
    assert any("There is no control 'random samples'" in note for note in found.notes)


def test_an_estimator_with_an_offset_where_there_is_no_bias(recording):
    torch.manual_seed(1)
    bare = mlp(6, 8, 3, bias=False).eval()
    found = lashley.record(bare, samples(), progress=False)
    erased = lashley.Leace(missing_bias="add")
    checked = lashley.check(bare, found, "1", samples(), estimator=erased, outputs="none", **QUICK)
    for layer in checked.engram.layers.values():
        assert layer.reactivation.value == pytest.approx(layer.recorded.rho_plus, rel=1e-4)
    first = checked.engram.layers["0"]
    assert first.specificity_ablated.value == pytest.approx(first.leak.value, rel=1e-4)


def test_overlapping_recordings_have_one_target(model):
    batch = (torch.cat([b[0] for b in samples().values()]), torch.rand(60, 3) < 0.6)
    found = lashley.record(model, [batch], lambda b: b[1], concept_names=["0", "1", "2"], progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LashleyWarning)
        with pytest.raises(DataError, match="one target where recorded concepts may overlap"):
            lashley.check(model, found, ["0", "1"])
    single = lashley.check(model, found, "0", controls=("random direction",)).engram.layers["0"].recorded
    own, rest = batch[0][batch[1][:, 0]], batch[0][~batch[1][:, 0]]
    engram = found.engram(model, "0")["0"]

    def responses(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return (x @ weight.T + bias).norm().detach()

    weight, bias = model[0].weight, model[0].bias
    missed = responses(own, weight - engram.weight, bias - engram.bias) / responses(own, weight, bias)
    leaked = responses(rest, engram.weight, engram.bias) / responses(rest, weight, bias)
    assert single.rho_plus == pytest.approx(missed.item(), rel=1e-4)
    assert single.rho_minus == pytest.approx(leaked.item(), rel=1e-4)


def test_seen_samples_are_said_to_be(model, recording):
    again = lashley.check(model, recording, "1", samples(), controls=(), doses=(), **QUICK)
    assert any(note.startswith("The samples are those of the recording") for note in again.notes)
    fresh = {name: [batch + 0.1 for batch in batches] for name, batches in samples().items()}
    other = lashley.check(model, recording, "1", fresh, controls=(), doses=(), **QUICK)
    assert any(note.startswith("The samples are not, as a whole") for note in other.notes)


def test_without_samples_only_moments_are_read(model, recording):
    found = lashley.check(model, recording, "1")
    assert set(found.controls) == {*CONTROLS[:3], "engram of 2"} and found.kind == ""
    assert all(layer.reactivation is None for layer in found.engram.layers.values())
    assert "From moments alone" in str(found)
    assert [table.name for table in found.result(command="-").tables] == ["layers", "means", "controls"]


def test_layers_with_positions_first_have_no_control_of_drawn_samples():
    """Which rows are whose is not known there within a batch; a mapping's batches are of one concept each."""

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.head(self.inner(x.transpose(0, 1)).relu().mean(0))
            return found

    network = Turned()
    data = {str(c): [gaussian(15 * 5, 6, seed=c).float().reshape(15, 5, 6) + c] for c in range(3)}
    recording = lashley.record(network, data, progress=False)
    found = lashley.check(network, recording, "1", data, outputs="none", doses=(), **QUICK)
    assert "random samples" not in found.controls
    assert "engram of 2" in found.controls
    assert any("no control 'random samples'" in note and "'inner'" in note for note in found.notes)
