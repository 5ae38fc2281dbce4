"""Results: what is refused where it is made, what a file says when it is none, and that nothing is lost on the way."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from lashley.result import Chart, Column, Result, Series, Table, made_by


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
