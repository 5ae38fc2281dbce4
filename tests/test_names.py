"""The public names are a contract: adding, removing or renaming one has to pass here."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

import lashley
from lashley.data.text import TextBatches
from lashley.edit import Change, Receipt
from lashley.engram import Delta
from lashley.moments import Moment
from lashley.recording import Site

PACKAGE = Path(lashley.__file__).parent

# Every public name, how it is called (for a class: how it is made), and what stands for a default.
FUNCTIONS = {
    "record": "(model, data, concept_of=None, *, concept_names=None, target_modules=None, exclude_modules=None, "
    "layers_to_transform=None, layers_pattern=None, rows=None, forward=None, checkpoint=None, dtype=None, "
    "keep='moments', progress=None)",
    "check": "(model, recording, concepts, data=None, concept_of=None, *, concept_names=None, alpha=1.0, "
    "doses=(0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0), null='zero', retrained=None, train=None, estimator=None, "
    "bias=True, layers=None, controls=('random direction', 'random, rescaled', 'random subspace', "
    "'random samples', 'another concept'), other=None, outputs='auto', classes=None, features=None, rows=None, "
    "forward=None, resamples=1000, level=0.95, seed=0, progress=None)",
    "text_batches": "(rows, tokenizer, batch_size=16, rows_of='answer', *, columns=None, template=None, chat=None, "
    "max_length=None, sort=True)",
    "merge": "(*recordings)",
    "ablate": "(model, engram, alpha=1.0, *, tied='skip')",
    "ablate_": "(model, engram, alpha=1.0, *, tied='skip')",
    "ablated": "(model, engram, alpha=1.0, *, tied='skip')",
    "inject": "(model, engram, alpha=1.0, *, tied='skip')",
    "inject_": "(model, engram, alpha=1.0, *, tied='skip')",
    "injected": "(model, engram, alpha=1.0, *, tied='skip')",
    "compare": "(before, after)",
    "sweep": "(model, engram, alphas, score, *, tied='skip')",
    "recalibrate_batchnorm_": "(model, batches, forward=None)",
    "Projection": "(sharpness=1.0, threshold=0.5, cut=<factory>)",
    "Ridge": "(lam)",
    "Kodge": "(retain=100.0, forget=3.0)",
    "Leace": "(separate=False, cut=<factory>, *, missing_bias='refuse')",
    "MeanDirection": "(rtol=1e-06)",
    "MixtureShift": "(weights='uniform', min_r2=0.2, cut=<factory>, *, missing_bias='refuse')",
    "NullSpace": "(rtol=0.001, lam=0.01)",
    "lookalikes": "(model, batches, *, exclude, names=None, forward=None)",
    "Cut": "(rtol=None, rank=None, energy=None, condition=None, ulp=1.1920928955078125e-07)",
    "Cut.paper": "()",
    "Cut.notebook": "()",
    "strength.uniform": "(alpha=1.0)",
    "strength.weight_norm": "(alpha=1.0)",
    "strength.effective_rank": "(alpha=1.0)",
    "Recording.moment": "(self, concept, layer)",
    "Recording.moments": "(self, concept, layer)",
    "Recording.engram": "(self, model, concepts, *, reference=None, base=None, bias=True, check=True, estimator=None, "
    "layers=None)",
    "Recording.sensitivity": "(self, model, concepts, cuts=None, *, estimator=None, **settings)",
    "Recording.save": "(self, path)",
    "Recording.load": "(path)",
    "Engram.weight_norms": "(self)",
    "Engram.select": "(self, patterns)",
    "Engram.to": "(self, device)",
    "Engram.save": "(self, path)",
    "Engram.load": "(path)",
}
# What can be read from an object: attributes, properties and methods together.
MEMBERS = {
    lashley.Recording: "concepts engram keep layers load made_by moment moments overlapping save sensitivity sites",
    lashley.Engram: "base_fingerprint concepts estimator get items keys load made_by save select to values "
    "weight_norms",
    lashley.Cut: "condition energy keep notebook paper rank relative rtol to_json ulp",
    lashley.Projection: "check cut diagonal from_json operator plain sharpness threshold to_json",
    lashley.Ridge: "check diagonal from_json lam operator to_json",
    Site: "dim layers name rows",
    Delta: "base base_norm bias factors fits fold layer norm plus scaled solutions to touches weight",
    Receipt: "base_matches changed layers only_after only_before skipped to_dict",
    TextBatches: "batch_size fingerprint order report rows tokenizer",
    Change: "alpha asked before change dtype error moved name note status",
}
MODULES = ("errors", "strength")


def resolve(name: str) -> object:
    found: object = lashley
    for part in name.split("."):
        found = getattr(found, part)
    return found


def shape(function: object) -> str:
    signature = inspect.signature(function)
    empty = inspect.Parameter.empty
    bare = [parameter.replace(annotation=empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=empty))


def members(cls: type) -> str:
    """Public attributes of the class, with the instance attributes that its __init__ sets."""
    names = {name for name in dir(cls) if not name.startswith("_")}
    names |= {name for name in getattr(cls, "__dataclass_fields__", {}) if not name.startswith("_")}
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(cls)))):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            names |= {node.attr} if not node.attr.startswith("_") else set()
    return " ".join(sorted(names))


def documented() -> list[tuple[str, object]]:
    """Everything a user can reach, with the name it has for them."""
    found: list[tuple[str, object]] = [
        (name, resolve(name)) for name in {**dict.fromkeys(lashley.__all__), **FUNCTIONS}
    ]
    for cls in (*MEMBERS, Moment):
        for name, value in vars(cls).items():
            if not name.startswith("_") and (
                callable(value) or isinstance(value, property | classmethod | staticmethod)
            ):
                found.append((f"{cls.__name__}.{name}", value))
    for module in (lashley.errors, lashley.strength):
        found += [(f"{module.__name__}.{name}", getattr(module, name)) for name in module.__all__ if name != "Strength"]
    return found


def test_there_are_these_public_names_and_no_others():
    expected = {name for name in FUNCTIONS if "." not in name} | {"Recording", "Engram", *MODULES}
    assert set(lashley.__all__) == expected
    assert len(lashley.__all__) == len(expected)
    assert expected <= set(dir(lashley))
    for name in expected:
        assert inspect.ismodule(getattr(lashley, name)) == (name in MODULES)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_is_called_like_this(name):
    assert shape(resolve(name)) == FUNCTIONS[name]


@pytest.mark.parametrize("cls", MEMBERS, ids=lambda cls: cls.__name__)
def test_a_public_object_has_these_members(cls):
    assert members(cls) == MEMBERS[cls]


def test_the_pins_can_fail():
    def renamed(model, engram, strength=1.0, *, tied="skip"):
        raise AssertionError

    def positional(model, engram, alpha=1.0, tied="skip"):
        raise AssertionError

    def other_default(model, engram, alpha=1.0, *, tied="both"):
        raise AssertionError

    assert all(shape(wrong) != FUNCTIONS["ablate"] for wrong in (renamed, positional, other_default))

    class Wider(Change):
        extra = 1

    assert members(Wider) == "alpha asked before change dtype error extra moved name note status"


def test_the_default_estimator_is_the_papers_formula():
    default = lashley.Projection()
    assert default == lashley.Projection(sharpness=1.0, threshold=0.5, cut=lashley.Cut())
    assert default.plain and not lashley.Projection(sharpness=2.0).plain
    assert lashley.Cut.paper() == lashley.Cut(rtol=1e-6)
    assert lashley.Cut.notebook().relative(10) == 10 * 2.0**-52
    assert lashley.Cut().relative(10) == 10 * 2.0**-23
    model = nn.Sequential(nn.Linear(3, 2))
    recording = lashley.record(model, {"cat": [torch.randn(20, 3)], "dog": [torch.randn(20, 3)]}, progress=False)
    assert recording.engram(model, "cat").estimator == default


def test_an_engram_is_a_mapping_of_deltas():
    assert issubclass(lashley.Engram, Mapping)
    for operator in ("__add__", "__sub__", "__neg__", "__mul__", "__rmul__", "__truediv__"):
        assert operator in vars(lashley.Engram)


def test_star_import_and_unknown_names():
    namespace: dict[str, object] = {}
    exec("from lashley import *", namespace)
    assert set(lashley.__all__) <= set(namespace)
    with pytest.raises(AttributeError, match="'lashley' has no attribute 'forget'"):
        lashley.forget  # noqa: B018
    assert lashley.__version__.count(".") == 2


def test_what_type_checkers_are_told_is_what_is_loaded():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    [block] = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    told = {alias.asname: node.module for node in block.body for alias in node.names}
    assert set(told) == set(lashley.__all__)
    assert {name: f"lashley.{home}" for name, home in lashley._HOME.items()} == {
        name: module for name, module in told.items() if name not in MODULES
    }
    assert [told[name] for name in MODULES] == ["lashley", "lashley"]


def test_no_submodule_hides_a_public_name():
    """Importing a submodule sets it as an attribute of the package, where a function of that name might stand."""
    code = (
        "import importlib, pkgutil, types, lashley\n"
        "for found in pkgutil.walk_packages(lashley.__path__, 'lashley.'):\n"
        "    if not found.name.endswith('__main__'):\n"
        "        importlib.import_module(found.name)\n"
        "hidden = [n for n in lashley.__all__ if isinstance(getattr(lashley, n), types.ModuleType)]\n"
        "assert sorted(hidden) == ['errors', 'strength'], hidden\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "value"), documented(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_public_name_is_documented(name, value):
    text = inspect.getdoc(value)
    inherited = isinstance(value, type) and any(text == inspect.getdoc(base) for base in value.__bases__)
    assert text and len(text.split()) > 2 and not inherited, f"{name} has no docstring of its own"
