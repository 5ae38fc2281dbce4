"""The rules of the house, and proof that the suite's own instruments can fail.

Imports flow one way, the mathematics sees tensors only, asking for help loads no torch, and no data test is lost.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from helpers import assert_close, assert_near, relative_error

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "lashley"

# A room imports only from the lines above its own and, within its line, from what stands to its left. The front door,
# lashley/__init__.py, offers what the rooms above it make; the rooms below are written the way a user would write them,
# through that door, and nobody else may come in by it.
HOUSE = """
errors provenance identity progress atomic result
kernels
moments
shifts
products
spectrum
estimators
geometry
stats
layers
parameters
select
data
store
shelf
engram strength
solving
hooks
resemblance
edit
recording
anatomy
merging
checkpoint
tally
subject audit division observer
ledger run
recorder
curvature
distributed
sweep trace
methods metrics
criteria
export
forgetting
__init__
studies report cli
__main__
"""
ORDER = {room: place for place, room in enumerate(HOUSE.split())}

TENSORS_ONLY = {"moments", "shifts", "products", "spectrum", "estimators", "geometry", "stats"}
HARMLESS = """
__future__ abc collections contextlib dataclasses enum functools itertools logging math numbers operator types typing
warnings
"""
MATHEMATICS_MAY_USE = {"lashley", "torch", "numpy", *HARMLESS.split()}
# Projects that share our subject; their code is neither copied nor called.
STRANGERS = {"ai_engram", "engram", "concept_erasure"}


@dataclass(frozen=True)
class Import:
    """One imported module, with the line that names it."""

    module: str  # dotted and absolute; of another library also the name taken from it: "torch.nn", "math.sqrt"
    where: str  # "lashley/edit/apply.py:12"

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]

    @property
    def room(self) -> str:
        """The room of an import from our own package; the package itself counts as its front door."""
        return self.module.split(".")[1] if "." in self.module else "__init__"


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(path: Path, package: Path) -> str:
    return path.relative_to(package).with_suffix("").parts[0]


def imports_of(path: Path, package: Path) -> Iterator[Import]:
    """Every import in a file: at the top, inside functions and under TYPE_CHECKING alike."""
    root = package.parent
    here = module_name(path, root)
    folder = here if path.name == "__init__.py" else here.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        where = f"{path.relative_to(root)}:{node.lineno}"
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, where) for alias in node.names)
            continue
        base = node.module or ""
        if node.level:
            above = folder.split(".")[: len(folder.split(".")) - node.level + 1]
            base = ".".join([*above, base] if base else above)
        for alias in node.names:
            # `from lashley import moments` names a module; `from lashley.moments import Moment` names what is in one.
            full = f"{base}.{alias.name}"
            file = root.joinpath(*full.split("."))
            ours = base.partition(".")[0] == package.name
            yield Import(base if ours and not file.is_dir() and not file.with_suffix(".py").is_file() else full, where)


def files(package: Path) -> list[Path]:
    return sorted(package.rglob("*.py"))


def unknown_rooms(package: Path) -> list[str]:
    return [
        f"{path.relative_to(package.parent)}: no line of HOUSE names it"
        for path in files(package)
        if room_of(path, package) not in ORDER
    ]


def backward_imports(package: Path) -> list[str]:
    found = []
    for path in files(package):
        room = room_of(path, package)
        for imported in imports_of(path, package):
            if imported.top == package.name and ORDER.get(imported.room, len(ORDER)) > ORDER.get(room, -1):
                found.append(f"{imported.where}: {room} imports {imported.module}")
    return found


def import_cycles(package: Path) -> list[str]:
    """Modules that need each other, also inside one room."""
    graph = {
        module_name(path, package.parent): {i.module for i in imports_of(path, package) if i.top == package.name}
        for path in files(package)
    }
    found: list[str] = []
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        if module in trail:
            found.append(" -> ".join([*trail[trail.index(module) :], module]))
            return
        if module in done:
            return
        for needed in sorted(graph.get(module, ())):
            visit(needed, [*trail, module])
        done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def mathematics_out_of_bounds(package: Path) -> list[str]:
    """What a tensors-only file should not touch: modules, files, other libraries. (Rooms: see backward_imports.)"""
    found = []
    for path in files(package):
        if room_of(path, package) not in TENSORS_ONLY:
            continue
        for imported in imports_of(path, package):
            if imported.top not in MATHEMATICS_MAY_USE or imported.module.startswith("torch.nn"):
                found.append(f"{imported.where}: imports {imported.module}")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""
            if text in {"torch.nn", "torch.save", "torch.load", "open"}:
                found.append(f"{path.relative_to(package.parent)}:{node.lineno}: uses {text}")
    return found


def strangers(package: Path) -> list[str]:
    return [
        f"{imported.where}: imports {imported.module}"
        for path in files(package)
        for imported in imports_of(path, package)
        if imported.top in STRANGERS
    ]


RULES = [unknown_rooms, backward_imports, import_cycles, mathematics_out_of_bounds, strangers]


def build(folder: Path, sources: dict[str, str]) -> Path:
    package = folder / "lashley"
    for name, source in {"__init__.py": "", **sources}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return package


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule):
    assert files(PACKAGE), f"no Python files under {PACKAGE}"
    assert rule(PACKAGE) == []


WRONG_HOUSES = [
    (unknown_rooms, {"attic.py": ""}, "attic.py"),
    (unknown_rooms, {"attic/__init__.py": ""}, "attic/__init__.py"),
    (
        backward_imports,
        {"moments.py": "from lashley.edit import apply", "edit/apply.py": ""},
        "imports lashley.edit.ap",
    ),
    (backward_imports, {"moments.py": "from . import edit", "edit/__init__.py": ""}, "moments imports lashley.edit"),
    (backward_imports, {"edit/a.py": "def f():\n    from ..recording import R", "recording.py": ""}, "a.py:2: edit"),
    (backward_imports, {"errors.py": "from lashley.provenance import x", "provenance.py": ""}, "errors imports"),
    (backward_imports, {"edit/apply.py": "from lashley import ablate"}, "edit imports lashley"),
    (backward_imports, {"edit/apply.py": "import lashley"}, "edit imports lashley"),
    (
        backward_imports,
        {"__init__.py": "from lashley import cli", "cli/__init__.py": ""},
        "__init__ imports lashley.cli",
    ),
    (
        import_cycles,
        {"edit/a.py": "from lashley.edit.b import x", "edit/b.py": "from .a import y"},
        "lashley.edit.a -> lashley.edit.b -> lashley.edit.a",
    ),
    (mathematics_out_of_bounds, {"moments.py": "import pathlib"}, "imports pathlib"),
    (mathematics_out_of_bounds, {"estimators/leace.py": "import scipy.linalg"}, "imports scipy.linalg"),
    (mathematics_out_of_bounds, {"stats/cka.py": "from torch import nn"}, "imports torch.nn"),
    (mathematics_out_of_bounds, {"spectrum.py": "import torch\nx = torch.nn.Linear(1, 1)"}, ":2: uses torch.nn"),
    (mathematics_out_of_bounds, {"geometry.py": "text = open('a').read()"}, "uses open"),
    (strangers, {"recording.py": "import engram"}, "imports engram"),
    (strangers, {"recording.py": "from concept_erasure import LeaceFitter"}, "imports concept_erasure"),
]


@pytest.mark.parametrize(("rule", "wrong", "says"), WRONG_HOUSES)
def test_every_rule_sees_a_house_that_breaks_it(tmp_path, rule, wrong, says):
    [found] = rule(build(tmp_path, wrong))
    assert says in found


def test_a_house_in_order_breaks_no_rule(tmp_path):
    package = build(
        tmp_path,
        {
            "__init__.py": "from lashley.recording import Recording",
            "errors.py": "import math",
            "moments.py": "import torch\nfrom torch.linalg import eigh\nfrom lashley import errors",
            "layers/__init__.py": "from lashley.layers.linear import Linear",
            "layers/base.py": "from torch import nn",
            "layers/linear.py": "from .base import Layer\nfrom ..moments import Moment",
            "engram.py": "import json",
            "strength.py": "from lashley.engram import Engram",
            "recording.py": "from lashley import engram, layers",
            "studies/digits.py": "import lashley\nfrom lashley import record",
            "cli/__init__.py": "from lashley.studies import digits",
            "__main__.py": "from lashley.cli import main",
        },
    )
    assert [rule(package) for rule in RULES] == [[]] * len(RULES)


@pytest.mark.parametrize("door", ["lashley", "lashley.cli", "lashley.report"])
def test_torch_is_not_loaded_by(door):
    """`--help` answers at once and a report can be drawn where torch is not at hand, from every file of the room."""
    room = PACKAGE.joinpath(*door.split(".")[1:])
    modules = [door] if door == "lashley" else [module_name(path, ROOT) for path in files(room)]
    assert door in modules, f"{door} has no __init__.py"
    code = "\n".join(
        [
            "import importlib, sys",
            f"for name in {modules!r}:",
            "    importlib.import_module(name)",
            "    assert 'torch' not in sys.modules, name + ' imports torch'",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# The count of data tests: a suite with one test of each fate, run with this suite's own conftest.

FATES = """
import pytest

@pytest.mark.data
def test_runs(data_folder):
    assert data_folder.is_dir()

@pytest.mark.data
@pytest.mark.xfail(reason="known")
def test_expected_to_fail():
    assert False

def test_no_data():
    pass
"""
HIDES = """
@pytest.mark.data
def test_hides(data_folder):
    pytest.skip("too lazy")
"""


def run_suite(folder: Path, sources: dict[str, str], data: Path | None) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    data\n")
    for name, source in sources.items():
        (folder / name).write_text(source)
    environment = {key: value for key, value in os.environ.items() if key != "LASHLEY_DATA"}
    if data is not None:
        environment["LASHLEY_DATA"] = str(data)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_data_tests_run_and_are_counted_where_there_is_data(tmp_path):
    done = run_suite(tmp_path, {"test_fates.py": FATES}, data=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "data tests: 2 ran, 0 skipped" in done.stdout


def test_data_tests_are_skipped_and_counted_where_there_is_none(tmp_path):
    done = run_suite(tmp_path, {"test_fates.py": FATES}, data=None)
    assert done.returncode == 0, done.stdout
    assert "data tests: 0 ran, 2 skipped" in done.stdout
    assert "1 passed" in done.stdout


def test_a_skipped_data_test_fails_the_run_where_there_is_data(tmp_path):
    done = run_suite(tmp_path, {"test_fates.py": FATES + HIDES}, data=tmp_path)
    assert done.returncode == 1, done.stdout
    assert "data tests: 2 ran, 1 skipped" in done.stdout
    assert "test_fates.py::test_hides" in done.stdout


def test_a_module_skipped_whole_fails_the_run_where_there_is_data(tmp_path):
    hidden = "import pytest\npytest.importorskip('no_such_library')\n" + HIDES
    done = run_suite(tmp_path, {"test_fates.py": FATES, "test_hidden.py": hidden}, data=tmp_path)
    assert done.returncode == 1, done.stdout
    assert "  test_hidden.py" in done.stdout


def test_the_data_folder_is_only_for_tests_marked_data(tmp_path):
    unmarked = "def test_unmarked(data_folder):\n    pass\n"
    done = run_suite(tmp_path, {"test_unmarked.py": unmarked}, data=None)
    assert done.returncode == 1, done.stdout
    assert "without the marker `data`" in done.stdout


def test_a_data_variable_that_names_no_folder_is_refused(tmp_path):
    done = run_suite(tmp_path, {"test_fates.py": FATES}, data=tmp_path / "absent")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "should name the folder" in done.stderr


# The assertions on tensors.


def test_assert_close_accepts_within_tolerance_and_names_the_worst_entry_outside():
    expected = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    actual = expected + torch.tensor([[0.0, 1e-3], [0.0, 0.5]])
    assert_close(actual, expected, rtol=0.2)
    assert_close(actual, expected, atol=0.5)
    with pytest.raises(AssertionError, match=r"1 of 4 entries differ(.|\n)*\[1, 1\]: actual 4.5, expected 4") as caught:
        assert_close(actual, expected, rtol=1e-3)
    assert "[0, 1]" not in str(caught.value)


@pytest.mark.parametrize(
    ("actual", "expected", "says"),
    [
        (torch.zeros(2), torch.zeros(2, 1), "shapes differ"),
        (torch.tensor([float("nan")]), torch.tensor([float("nan")]), "1 of 1"),
        (torch.tensor([1.0, float("inf")]), torch.tensor([1.0, 2.0]), r"\[1\]: actual inf"),
        (1.0, 1.1, r"\[\]: actual 1"),
    ],
)
def test_assert_close_refuses(actual, expected, says):
    with pytest.raises(AssertionError, match=says):
        assert_close(actual, expected, rtol=1e-6, atol=1e-6)


def test_equal_infinities_are_close():
    assert_close(torch.tensor([float("inf")]), torch.tensor([float("inf")]))


def test_assert_near_measures_the_norm():
    expected = torch.tensor([[1000.0, 0.0]])
    actual = torch.tensor([[1000.0, 0.1]])
    assert relative_error(actual, expected) == pytest.approx(1e-4)
    assert_near(actual, expected, rel=1.1e-4)
    with pytest.raises(AssertionError, match=r"\[0, 1\](.|\n)*relative error 0.0001, allowed 9e-05"):
        assert_near(actual, expected, rel=9e-5)
    with pytest.raises(AssertionError, match="relative error nan"):
        assert_near(torch.tensor([float("nan")]), torch.tensor([1.0]), rel=1.0)


def test_relative_error_of_nothing():
    assert relative_error(torch.zeros(3), torch.zeros(3)) == 0.0
    assert relative_error(torch.ones(3), torch.zeros(3)) == float("inf")
