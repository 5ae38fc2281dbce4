"""The exception tree is the one that is drawn, and all of it is used."""

from __future__ import annotations

import ast
import builtins
import inspect
import pickle
import re
from pathlib import Path

import pytest

from lashley import errors
from lashley.errors import LashleyError, LashleyWarning, SelectionError, StoreError, nearest

PACKAGE = Path(errors.__file__).parent
CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and value.__module__ == errors.__name__
}


def raised() -> dict[str, list[str]]:
    """What the package raises, by class name, with the places."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                name = ast.unparse(node.exc.func).rsplit(".", 1)[-1]
                found.setdefault(name, []).append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    return found


def test_the_tree_that_is_drawn_is_the_tree_of_classes():
    drawing = errors.__doc__.split("\n\n")[1].splitlines()
    assert drawing[0] == "LashleyError"
    branches = [re.fullmatch(r"[├└]── (\w+) +(\S.*)", line) for line in drawing[1:]]
    assert all(branches), drawing
    drawn = [branch[1] for branch in branches]
    assert sorted(drawn) == sorted(name for name, cls in CLASSES.items() if cls.__bases__[0] is LashleyError)
    assert set(CLASSES) == {"LashleyError", "LashleyWarning", *drawn}
    assert set(errors.__all__) == {*CLASSES, "nearest"}


@pytest.mark.parametrize("name", [name for name in CLASSES if name not in ("LashleyError", "LashleyWarning")])
def test_every_error_is_raised_somewhere(name):
    assert name in raised()


def test_the_base_itself_is_never_raised_and_the_warning_is_given():
    assert "LashleyError" not in raised()
    source = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    assert len(re.findall(r"warnings\.warn\(", source)) > 2
    assert issubclass(LashleyWarning, UserWarning) and "LashleyWarning" not in raised()


def test_nothing_is_raised_that_a_user_of_lashleyerror_would_not_catch():
    """Python's own errors are left for what is wrong in our code; __getattr__ must raise AttributeError."""
    ours = {name for name in raised() if isinstance(getattr(builtins, name, None), type)}
    assert ours <= {"AttributeError"}, {name: raised()[name] for name in ours}


@pytest.mark.parametrize(
    "cls", [cls for cls in CLASSES.values() if cls.__bases__[0] is LashleyError], ids=lambda c: c.__name__
)
def test_an_error_is_also_the_built_in_one_that_fits_and_says_its_message(cls):
    assert len(cls.__bases__) == 2 and cls.__bases__[1].__module__ == "builtins"
    error = cls("Expected 'a',\ngot 'b'. Try c.")
    assert isinstance(error, Exception) and isinstance(error, LashleyError)
    assert str(error) == "Expected 'a',\ngot 'b'. Try c."
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls and str(again) == str(error)


def test_errors_without_a_message_are_empty_texts():
    assert str(SelectionError()) == "" and str(StoreError()) == ""


@pytest.mark.parametrize(
    ("name", "known", "says"),
    [
        ("layer1.conv", ["layer1.conv1", "layer1.conv2", "fc"], "Did you mean 'layer1.conv2' or 'layer1.conv1'?"),
        ("xyz", ["alpha", "beta"], "Known are 'alpha', 'beta'."),
        ("xyz", ["aa", "bb", "cc", "dd", "ee"], "Known are 'aa', 'bb', 'cc' and 2 more."),
        ("xyz", [], "There are none."),
        ("cat", iter(["cats"]), "Did you mean 'cats'?"),
    ],
)
def test_nearest(name, known, says):
    assert nearest(name, known) == says
