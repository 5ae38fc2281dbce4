"""Results: what is refused where it is made, what a file says when it is none, and that nothing is lost on the way."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch

from lashley.errors import DataError, StoreError
from lashley.result import Chart, Column, Result, Series, Table, made_by, value_of


class Interval(NamedTuple):
    value: float
    low: float
    high: float


def a_table(**changes) -> Table:
    given = {
        "name": "edits",
        "title": "Edits",
        "columns": [
            Column("edit", "edit"),
            Column("digit", "the digit", better="target", unit="share", note="of test images", group="accuracy"),
            Column("seconds", "time", better="lower", unit="seconds"),
        ],
        "rows": [
            {"edit": "retrained", "digit": 0.0},
            {"edit": "paper", "digit": {"value": 0.03, "low": 0.01, "high": 0.05}, "seconds": 2},
        ],
        "target_row": "retrained",
        "row_notes": {"paper": "eq. 4"},
    }
    return Table(**{**given, **changes})


def a_chart(**changes) -> Chart:
    given = {"name": "cost", "title": "Cost", "series": [Series("a", x=[0.5, 1], y=[None, 2], labels=["x", "y"])]}
    return Chart(**{**given, **changes})


def a_result(**changes) -> Result:
    given = {
        "study": "closed_forms",
        "title": "A title",
        "summary": "What came out: “ü”.",
        "tables": [a_table()],
        "charts": [a_chart()],
        "provenance": made_by(seeds=[0, 1], data={"MNIST": "ab12"}, command="python -m benchmarks.x"),
        "settings": {"epochs": 5, "grid": (0.1, 0.2)},
    }
    return Result(**{**given, **changes})


def test_a_result_is_the_same_after_it_was_saved(tmp_path):
    result = a_result()
    path = result.save(tmp_path / "new folder" / "a.json")
    assert Result.load(path) == result
    assert path.read_text(encoding="utf-8") == Result.load(path).to_json()
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def test_numbers_of_other_libraries_become_pythons():
    rows = [
        {"edit": "a", "digit": np.float32(0.5), "seconds": np.int64(3)},
        {"edit": "b", "digit": torch.tensor(0.25), "seconds": True},
        {"edit": "retrained", "digit": Interval(0.5, np.float64(0.25), 1), "seconds": np.bool_(False)},
    ]
    table = a_table(rows=rows, row_notes={})
    assert [type(row["digit"]) for row in table.rows] == [float, float, dict]
    assert table.rows[2]["digit"] == {"value": 0.5, "low": 0.25, "high": 1}
    assert table.rows[2]["seconds"] is False and table.rows[1]["seconds"] is True
    assert Series("a", x=np.arange(2), y=torch.ones(2), low=[0, 0], high=range(2)).y == (1.0, 1.0)


def test_the_file_has_short_lines_and_is_read_back_whatever_is_in_it(tmp_path):
    labels = [f'quote " comma, line\n{i}' for i in range(40)]
    chart = a_chart(series=[Series("a", x=labels, y=[i / 7 for i in range(40)])])
    path = a_result(charts=[chart]).save(tmp_path / "a.json")
    assert Result.load(path).charts == (chart,)
    assert max(map(len, path.read_text().splitlines())) <= 120
    assert '{"edit": "retrained", "digit": 0.0, "seconds": null}' in path.read_text()


def test_what_is_as_it_would_be_anyway_is_not_in_the_file():
    text = a_result(charts=[], settings={}).to_json()
    assert '{"key": "edit", "title": "edit"}' in text
    assert "x_scale" not in text and '"settings"' not in text


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Column("a", ""), "title= of the column 'a' to be a text, got ''"),
        (lambda: Column("a", "A", "more"), r"better= of the column 'a' to be one of None, 'higher'.*got 'more'"),
        (lambda: Column("a", "A", unit="%"), "unit= .* 'share', 'points', .*got '%'"),
        (lambda: Column("a", "A", "higher", target=1.0), "better='target' of the column 'a', which has a target"),
        (lambda: a_table(columns=[]), "at least one column in the table 'edits'"),
        (lambda: a_table(columns=[Column("a", "A"), Column("a", "B")], rows=[]), "keys of the columns .*'a' twice"),
        (lambda: a_table(columns=["edit"]), r"made with lashley.result.Column\(...\), got 'edit'"),
        (lambda: a_table(rows=[{"edit": "a", "digits": 1}]), "row 0.*got 'digits'. Did you mean 'digit'?"),
        (lambda: a_table(rows=[["a", 1]]), "row 0 to be a dict"),
        (lambda: a_table(rows=[{"digit": 1}]), "a text that names row 0 of the table 'edits' under 'edit', got None"),
        (lambda: a_table(rows=[{"edit": "a"}, {"edit": "a"}]), "names of the rows .*'a' twice"),
        (lambda: a_table(rows=[{"edit": "a", "digit": math.nan}]), "row 0, column 'digit', got nan.*is None, null in"),
        (lambda: a_table(rows=[{"edit": "a", "digit": -math.inf}]), "finite number .*got -inf"),
        (lambda: a_table(rows=[{"edit": "a", "digit": np.arange(2)}]), "one number in .*got a ndarray of several"),
        (lambda: a_table(rows=[{"edit": "a", "digit": torch.ones(0)}]), "one number in .*got a Tensor of several or"),
        (lambda: a_table(rows=[{"edit": "a", "digit": [1]}]), r"a number in .*got \[1\] \(list\)"),
        (lambda: a_table(rows=[{"edit": "a", "digit": {"value": 1}}]), r"value, low, high in .*got \['value'\]"),
        (lambda: a_table(rows=[{"edit": "a", "digit": Interval(1, 2, 0)}]), "low end .* not to lie above the high one"),
        (lambda: a_table(rows=[{"edit": "a", "digit": Interval(1, None, 0)}]), "three numbers in the interval"),
        (lambda: a_table(target_row="retrain"), "name of a row .*got 'retrain'. Did you mean 'retrained'?"),
        (lambda: a_table(reference_rows=["nobody"]), "name of a row .*got 'nobody'"),
        (lambda: a_table(row_notes={"nobody": "x"}), "name of a row .*got 'nobody'"),
        (lambda: a_table(target_row=None), "a target for the column 'digit'.*target_row="),
        (lambda: Series("a", x=[1, 2], y=[1]), "2 values in y of the series 'a', one for each x; got 1"),
        (lambda: Series("a", x=[1], y=[1], low=[0]), "both low and high"),
        (
            lambda: Series("a", x=[1], y=[1], low=[1], high=[0]),
            "low of the series 'a' not to lie above high, got 1 and 0",
        ),
        (lambda: Series("a", x=[1], y=[math.inf]), "finite number in y of the series 'a', got inf"),
        (lambda: Series("a", x=[None], y=[1]), "a number in x of the series 'a', got None"),
        (lambda: a_chart(kind="pie"), "kind= of the chart 'cost' to be one of 'lines'"),
        (lambda: a_chart(series=[Series("a", [1], [None])]), "at least one number to draw.*Leave the chart out"),
        (lambda: a_chart(kind="bars"), "texts as x .* kind is 'bars'"),
        (lambda: a_chart(kind="heat", series=[Series("a", ["x"], [1]), Series("b", ["y"], [1])]), "texts as x .*same"),
        (lambda: a_chart(series=[Series("a", ["x"], [1]), Series("b", [1], [1])]), "numbers or texts, got both"),
        (lambda: a_chart(series=[Series("a", ["x"], [1])], x_scale="log"), "x_scale is 'log'; got texts"),
        (lambda: a_chart(y_range=(1, 1)), "a low and a higher number"),
        (lambda: a_chart(series=[Series("a", [1], [1])] * 2), "names of the series .*'a' twice"),
        (lambda: a_result(study="closed forms"), "letters, digits, '-' and '_'.*got 'closed forms'"),
        (lambda: a_result(summary=" "), "summary= of the result to be a text"),
        (lambda: a_result(charts=[a_chart(name="edits")]), "names of tables and charts to differ, got 'edits' twice"),
        (
            lambda: a_result(charts=[a_chart(table="edit")]),
            "chart 'cost' to name a table, got 'edit'. Did you mean 'edits'?",
        ),
        (lambda: a_result(provenance={}), r"provenance to say the 'command'.*made_by\(\)"),
        (lambda: a_result(settings={"rate": math.nan}), "finite number in settings, 'rate', got nan"),
        (lambda: a_result(settings={"path": object()}), "number in settings, 'path', got <object"),
        (lambda: a_result(settings=[1]), "settings to be a mapping, got a list"),
        (lambda: a_result(format=2), "format=1, the one this version writes; got 2"),
    ],
)
def test_what_cannot_be_shown_is_refused_where_it_is_made(make, says):
    with pytest.raises(DataError, match=says):
        make()


def test_a_target_is_the_rows_or_the_columns():
    seconds = Column("seconds", "s", "target", target=9)
    table = a_table(columns=[Column("edit", "edit"), Column("digit", "d", "target"), seconds])
    assert [table.target(column) for column in table.columns] == [None, 0.0, 9]
    assert [value_of(cell) for cell in (None, "x", 2, {"value": 1, "low": 0, "high": 2})] == [None, None, 2.0, 1.0]


# Files


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: "", "line 1, place 1: it ends too early"),
        (lambda text: text[: len(text) // 2], "it ends too early, as if cut off. Copy it again, or run its command"),
        (lambda text: text[:-3], "it ends too early"),
        (lambda text: text.replace(",", ";", 1), "line 2, place .*delimiter"),
        (
            lambda text: text.replace("0.03", "NaN"),
            "finite numbers in .*got NaN, which is no JSON. .* null in the file",
        ),
        (lambda text: text.replace("0.03", "-Infinity"), "got -Infinity, which is no JSON"),
        (lambda text: "[1, 2]", r"JSON with \{\"kind\": 'lashley.result'\}; got a list"),
        (
            lambda text: '{"command": "x", "config": 1}',
            "got an object of command, config. Files of studies and of lashley",
        ),
        (lambda text: text.replace("lashley.result", "lashley.recording"), "got the kind 'lashley.recording'"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "of format 1, .*got 2. .*python -m benchmarks.x"),
        (lambda text: text.replace('"format": 1', '"format": "one"'), "of format 1, .*got 'one'"),
        (
            lambda text: text.replace('"summary"', '"sumary"'),
            "field of the result, got 'sumary'. Did you mean 'summary'?",
        ),
        (lambda text: text.replace('"unit"', '"units"'), r"field of columns\[1\], got 'units'. Did you mean 'unit'?"),
        (lambda text: text.replace('"seconds": 2', '"second": 2'), "no sound result. .*row 1.*Did you mean 'seconds'?"),
        (lambda text: text.replace("0.03", "1" * 400), "no sound result. .* a float can hold .*row 1"),
        (lambda text: text.replace("0.03", "1" * 5000), "can be read and shown; .*digits"),
        (lambda text: "[" * 200_000, "can be read and shown; .*recursion"),
        (lambda text: text.replace('"title": "', '"title": "\\ud800', 1), "can be read and shown; .*surrogates"),
        (lambda text: text.replace('"low": 0.01', '"low": 0.1'), "low end of the interval .*Run its command again"),
    ],
)
def test_a_file_that_is_no_result_says_what_it_is(tmp_path, change, says):
    path = a_result().save(tmp_path / "result.json")
    text = path.read_text(encoding="utf-8")
    assert change(text) != text
    path.write_text(change(text), encoding="utf-8")
    with pytest.raises(StoreError, match=says) as caught:
        Result.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("field", ["title", "summary", "tables", "provenance"])
def test_a_field_that_is_missing_is_named(tmp_path, field):
    path = a_result().save(tmp_path / "result.json")
    content = json.loads(path.read_text())
    del content[field]
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=f"Expected the field '{field}' of the result, found none"):
        Result.load(path)


@pytest.mark.parametrize(("field", "value"), [("tables", {}), ("tables", ["x"]), ("charts", None), ("charts", [{}])])
def test_a_part_of_another_shape_is_refused(tmp_path, field, value):
    path = a_result().save(tmp_path / "result.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(StoreError, match=rf"no sound result. Expected .*{field}"):
        Result.load(path)


def test_the_range_of_a_chart_is_two_numbers():
    with pytest.raises(DataError, match="y_range= of the chart 'c' to be a low and a higher number, got 3"):
        Chart("c", "C", [Series("s", [1], [2])], y_range=3)


def test_a_place_without_a_readable_file_is_named(tmp_path):
    (tmp_path / "image.json").write_bytes(b"\x89PNG\xff\xfe")
    for name, says in (("gone.json", "No such file"), ("", "directory"), ("image.json", "bytes that are no text")):
        with pytest.raises(StoreError, match=says):
            Result.load(tmp_path / name)


def test_a_result_in_a_form_of_its_own_names_the_page_beside_it(tmp_path):
    (tmp_path / "mnist.json").write_text('{"benchmark": "mnist"}')
    (tmp_path / "README.md").write_text("# MNIST")
    with pytest.raises(StoreError, match=f"The page that lies beside it shows it: {tmp_path / 'README.md'}"):
        Result.load(tmp_path / "mnist.json")


def test_a_result_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    path = a_result().save(tmp_path / "result.json")
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device.*untouched"):
        a_result(title="Another").save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(StoreError, match="to be a file or absent, got a folder"):
        a_result().save(tmp_path)


def test_what_made_it_says_command_versions_seeds_and_data():
    made = made_by(seeds=(0, 1), data={"MNIST": "ab"}, checkpoint="cd")
    assert {"command", "seeds", "data", "versions", "python", "system", "machine", "checkpoint"} <= made.keys()
    assert made["seeds"] == [0, 1] and made["data"] == {"MNIST": "ab"}


def test_results_are_made_saved_and_loaded_without_torch(tmp_path):
    path = a_result().save(tmp_path / "result.json")
    code = f"import sys; sys.modules['torch'] = None; from lashley.result import Result; Result.load({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
