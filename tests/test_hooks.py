"""Watching a model: hooks that see every call, everything put back, and identity of live tensors."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lashley.errors import RecordingError
from lashley.hooks import Diverged, EarlyStop, Identities, Sharing, StopForward, at_rest, tapped


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.Linear(2, 2)), nn.Linear(2, 2))


def state() -> list[Any]:
    """Everything global that a recording could leave changed."""
    kind, keys, *rest = np.random.get_state()
    fast_path, grad = torch.backends.mha.get_fastpath_enabled(), torch.is_grad_enabled()
    return [torch.get_rng_state().tolist(), random.getstate(), kind, keys.tolist(), rest, fast_path, grad]


def draw() -> None:
    torch.rand(3)
    random.random()
    np.random.rand()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("fast_path", [False, True])
def test_everything_is_put_back(fails, fast_path):
    model = net().train()
    model[1].eval()
    model[1][0].training = True
    flags = [module.training for module in model.modules()]
    torch.backends.mha.set_fastpath_enabled(fast_path)
    try:
        before = state()
        try:
            with at_rest(model):
                assert not any(module.training for module in model.modules())
                assert not torch.is_grad_enabled()
                assert not torch.backends.mha.get_fastpath_enabled()
                draw()
                model[2].train()
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert fails
        assert state() == before
        assert [module.training for module in model.modules()] == flags
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_a_train_method_of_the_models_own_is_not_called():
    """Some merge or freeze weights there, and would hand back another model."""

    class Merging(nn.Linear):
        def train(self, mode: bool = True) -> nn.Module:
            raise AssertionError("called")

    model = nn.Sequential(Merging(2, 2))
    with at_rest(model):
        assert not model[0].training
    assert model[0].training


def test_inference_mode_is_left_and_entered_again():
    with torch.inference_mode():
        with at_rest(net()):
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_grad_enabled()
            assert torch.ones(2).add(1)._version == 0
        assert torch.is_inference_mode_enabled()


@pytest.fixture
def dynamo() -> Iterator[None]:
    """Compiled code and the tensors it holds go with the test."""
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("dynamo")
@torch.no_grad()
def test_compiled_parts_run_as_they_were_written():
    """Hooks do not fire in compiled code."""
    model = net()
    part = torch.compile(model[1], backend="eager")
    in_place = net()
    in_place.compile(backend="eager")
    whole = nn.Sequential(model[0], part, in_place)
    x = torch.ones(1, 2)
    whole.eval()(x)  # compiled before anyone looks
    with at_rest(whole), tapped({"1": model[1][1], "2": in_place[0]}, lambda name, _: seen.append(name)):
        seen: list[str] = []
        whole(x)
        assert seen == ["1", "2"]
    whole(x)
    assert seen == ["1", "2"]


# Hooks.


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(2, 2)
        self.wrapped = Wrapped()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.plain(input=x)
        return self.wrapped(scale=2.0, x=x)


class Wrapped(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)

    def forward(self, **kwargs: Any) -> torch.Tensor:
        return super().forward(kwargs["x"]) * kwargs["scale"]


def test_inputs_are_seen_however_a_module_is_called():
    model, x = Keywords(), torch.ones(1, 2)
    seen: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    with tapped({"plain": model.plain, "wrapped": model.wrapped}, seen.__setitem__, outputs.__setitem__):
        y = model(x)
    assert seen["plain"] is x
    assert seen["wrapped"] is outputs["plain"]
    assert outputs["wrapped"] is y


def test_a_call_without_a_tensor_is_named():
    class Pairs(nn.Linear):
        def forward(self, pair: Any) -> torch.Tensor:
            return super().forward(pair[0])

    with (
        tapped({"deep.pairs": (module := Pairs(2, 2))}, lambda name, x: None),
        pytest.raises(RecordingError, match=r"'deep.pairs' to be called with a tensor, got tuple. .* exclude_modules"),
    ):
        module((torch.ones(2), 0))


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def test_no_hook_stays_behind():
    model = net()
    modules = dict(model.named_children())

    def fail(name: str, x: torch.Tensor) -> None:
        raise StopForward

    with pytest.raises(StopForward), tapped(modules, fail, lambda name, y: None):
        assert hooks_of(model) == 6
        model(torch.ones(1, 2))
    assert hooks_of(model) == 0


def test_no_hook_stays_behind_when_registering_fails_half_way():
    class Refusing(nn.Linear):
        def register_forward_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("no hooks here")

    model = nn.Sequential(nn.Linear(2, 2), Refusing(2, 2))
    with pytest.raises(RuntimeError, match="no hooks here"), tapped(dict(model.named_children()), print, print):
        pass
    assert hooks_of(model) == 0


def test_a_models_own_handlers_let_the_stop_through():
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                return self.inner(x)
            except Exception:
                return x

    def stop(name: str, x: torch.Tensor) -> None:
        raise StopForward

    model = Careful()
    with pytest.raises(StopForward), tapped({"inner": model.inner}, stop):
        model(torch.ones(2))


# Identity.


def test_the_same_live_tensor_keeps_its_number():
    identities, x = Identities(), torch.ones(3)
    y = x.clone()
    assert identities.number(x) == identities.number(x)
    assert identities.number(y) != identities.number(x)
    assert identities.number(x.view(3)) != identities.number(x)  # not the same object: taken for another


@pytest.mark.parametrize("change", [lambda x: x.add_(1), lambda x: x[0].zero_(), lambda x: x.view(-1).mul_(2)])
def test_a_tensor_that_was_written_to_is_another(change):
    identities, x = Identities(), torch.ones(3)
    before = identities.number(x)
    change(x)
    assert identities.number(x) != before
    assert identities.number(x) == identities.number(x)


def test_an_object_that_takes_the_place_of_a_freed_one_is_another():
    identities, storage = Identities(), torch.ones(3)
    for _ in range(1000):
        old = storage.data  # the same memory and the same version, in an object that dies
        number, address, pointer = identities.number(old), id(old), old.data_ptr()
        del old
        new = storage.data
        assert new.data_ptr() == pointer
        assert identities.number(new) != number
        if id(new) == address:
            return
    pytest.fail("no address was used twice: this test shows nothing")


def test_a_tensor_of_inference_mode_is_new_each_time():
    """It has no version, so nothing tells whether it was written to."""
    with torch.inference_mode():
        x = torch.ones(3)
    identities = Identities()
    assert identities.number(x) != identities.number(x)


# What passes show.


def pass_of(sharing: Sharing, *reads: tuple[str, int]) -> None:
    sharing.begin()
    for name, number in reads:
        sharing.saw(name, number)
        sharing.note(name, "rows")


def test_layers_that_read_the_same_tensors_share():
    sharing = Sharing()
    pass_of(sharing, ("q", 1), ("k", 1), ("o", 2), ("v", 1), ("twice", 1), ("twice", 2), ("again", 1), ("again", 2))
    sharing.find()
    assert sharing.leader == {"k": "q", "v": "q", "again": "twice"}
    pass_of(sharing, ("q", 5), ("k", 5), ("v", 5), ("o", 6), ("twice", 7), ("twice", 8), ("again", 7), ("again", 8))
    sharing.check()


@pytest.mark.parametrize("reads", [[("q", 1), ("k", 2)], [("q", 1)], [("k", 1)], [("q", 1), ("k", 1), ("k", 1)]])
def test_layers_that_stop_sharing_are_named(reads):
    sharing = Sharing()
    pass_of(sharing, ("q", 1), ("k", 1))
    sharing.find()
    pass_of(sharing, *reads)
    with pytest.raises(Diverged) as caught:
        sharing.check()
    assert (caught.value.leader, caught.value.follower) == ("q", "k")


def test_layers_that_neither_is_called_still_share():
    sharing = Sharing()
    pass_of(sharing, ("q", 1), ("k", 1))
    sharing.find()
    pass_of(sharing)
    sharing.check()


def test_another_fact_about_the_rows_keeps_layers_apart():
    sharing = Sharing()
    sharing.begin()
    for name, fact in [("a", "x"), ("b", "x"), ("c", "y")]:
        sharing.saw(name, 1)
        sharing.note(name, fact)
    sharing.find()
    assert sharing.leader == {"b": "a"}


@pytest.mark.parametrize(
    ("first", "second", "stops"),
    [
        ("abc", "abc", True),
        ("abc", "acb", False),
        ("abcb", "abcb", False),  # one is called twice
        ("ab", "ab", False),  # one is not called
        ("aab", "aab", False),
    ],
)
def test_when_a_pass_may_stop(first, second, stops):
    stop = EarlyStop(3)
    assert not stop.reached(list("abc"))
    stop.learn(list(first))
    assert not stop.reached(list("abc"))
    stop.learn(list(second))
    assert stop.reached(list("abc")) == stops
    assert stop.reached(list(first)) == stops
    for fired in ("ab", "acb", "cab", "abcb"):
        assert not stop.reached(list(fired))


def test_a_promised_last_layer_needs_no_whole_pass():
    stop = EarlyStop(3, last="c")
    for fired, ends in (("abc", True), ("bac", True), ("acb", False), ("ab", False), ("aac", False), ("abbc", False)):
        assert stop.reached(list(fired)) == ends


def test_later_passes_teach_nothing():
    stop = EarlyStop(2)
    for fired in ("ab", "ba", "ba", "ba"):
        stop.learn(list(fired))
    assert not stop.reached(list("ba"))
