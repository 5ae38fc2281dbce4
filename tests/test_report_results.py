"""``lashley report``: what is nearest to the target, one page that keeps still, and tables that nothing can break."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from html_page import Page
from lashley.cli import main
from lashley.errors import DataError, StoreError
from lashley.report import charts, figures, latex, markdown
from lashley.report.numbers import scale_of
from lashley.report.results import check_target, names_of, page, together
from lashley.report.tables import MISSING, view
from lashley.result import Chart, Column, Result, Series, Table, made_by
from results import ROWS, sample

ROOT = Path(__file__).resolve().parent.parent
NASTY = """<script>alert('&amp;')</script> 100% & $x_1^2$ #{a}~\\ "q" | *b* `c` [d](e) α − ‖"""


def a_table(values, better="lower", unit=None, target_row=None, reference_rows=(), **changes) -> Table:
    """Rows a, b, c, ... with these values."""
    rows = [{"name": "abcdefgh"[i], "value": value} for i, value in enumerate(values)]
    columns = [Column("name", "name"), Column("value", "value", better, unit)]
    return Table("t", "T", columns, rows, target_row=target_row, reference_rows=reference_rows, **changes)


def marks(table) -> str:
    """B for best, c for close, a dot for neither, per row of the second column."""
    return "".join({"best": "B", "close": "c", "": "."}[row.cells[1].mark] for row in view(table).rows)


def interval(value, low, high):
    return {"value": value, "low": low, "high": high}


# What is best


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (a_table([3, 1, 2]), ".B."),
        (a_table([3, 1, 2], "higher"), "B.."),
        (a_table([3, 1, 2], None), "..."),
        (a_table([3, 1, 1]), ".BB"),
        (a_table([1, 1, 1]), "..."),  # where all are alike none is best
        (a_table([1]), "."),
        (a_table([None, 1, 2]), ".B."),
        (a_table([None, None]), ".."),
        (a_table([0.12341, 0.12339, 0.5], unit="share"), "BB."),  # what reads the same is not told apart
        (a_table([5, 1, 6, 4.5], "target", target_row="a"), "...B"),
        (a_table([5, 4, 6, 1], "target", target_row="a"), ".BB."),  # as far to either side
        (a_table([5, 5, 6, 7], "target", target_row="a", reference_rows=["b"]), "..B."),
        (a_table([0, 1, 2], reference_rows=["a"]), ".B."),
        (a_table([1, 2, interval(2, 0.9, 3), interval(2, 1.1, 3)]), "B.c."),
        (a_table([9, 1, interval(3, 2, 4), interval(5, 4, 6)], "higher", reference_rows=["a"]), "...B"),
        (a_table([0, interval(3, -1, 4), 2, interval(3, 2.5, 4)], "target", target_row="a"), ".cB."),
        (a_table([0, interval(3, 1, 4), 2, 5], "target", target_row="a"), ".cB."),
    ],
)
def test_the_nearest_are_marked(table, says):
    assert marks(table) == says


def test_a_target_of_the_column_needs_no_row():
    column = Column("value", "value", "target", target=0.5)
    rows = [{"name": "a", "value": 0.9}, {"name": "b", "value": 0.3}]
    table = Table("t", "T", [Column("name", "name"), column], rows)
    assert marks(table) == ".B" and view(table).heads[1].sign == "◎ 0.500"


def test_the_tint_grows_with_the_distance_and_ends_at_the_farthest_that_competes():
    shown = view(a_table([0, 0, 1, 2, 10, 99, None], "target", target_row="a", reference_rows=["f"]))
    assert [row.cells[1].tint for row in shown.rows] == [0, 0, 1, 1, 5, 5, 0]
    assert [row.role for row in shown.rows] == ["target", "", "", "", "", "reference", ""]


def test_sorting_compares_distances_values_or_texts_and_knows_what_is_missing():
    shown = view(a_table([5, interval(3, 1, 4), 6.5, None], "target", target_row="a"))
    assert [row.cells[1].key for row in shown.rows] == [0, 2, 1.5, None]
    assert [row.cells[1].key for row in view(a_table([5, interval(3, 1, 4), None])).rows] == [5, 3, None]
    words = view(a_table(["x", None, True], None))
    assert [row.cells[1].text for row in words.rows] == ["x", MISSING, "yes"]
    assert [row.cells[1].key for row in words.rows] == ["x", None, "yes"]
    assert not words.heads[1].numeric and shown.heads[1].numeric
    assert [head.first for head in view(a_table([1, 2], "higher")).heads] == ["ascending", "descending"]


def test_differences_are_counted_from_the_target():
    shown = view(a_table([0.1, 0.12, 0.1, 0.05, None], "target", "share", target_row="a"))
    assert [row.cells[1].difference for row in shown.rows] == ["10.0\u00a0%", "+2.0", "0.0", "−5.0", ""]
    assert shown.heads[1].unit_of_difference == "points"
    assert {row.cells[1].difference for row in view(a_table([1, 2], reference_rows=["a"])).rows} == {""}


def test_a_text_among_numbers_is_shown_and_competes_with_none():
    shown = view(a_table([0.5, "diverged", 0.25, True, interval(1, 0, 2)]))
    assert [row.cells[1].text for row in shown.rows] == ["0.500", "diverged", "0.250", "yes", "1.000"]
    assert [row.cells[1].mark for row in shown.rows] == ["", "", "best", "", "close"]
    assert shown.heads[1].numeric


def test_who_is_best_most_often_is_counted():
    rows = [{"n": name, "a": i, "b": i, "c": -i} for i, name in enumerate("xyz")]
    columns = [Column("n", "n"), *(Column(key, key, "lower") for key in "abc")]
    shown = view(Table("t", "T", columns, rows))
    assert (shown.leaders, shown.contested) == ([("x", 2), ("z", 1)], 3)


@pytest.mark.parametrize(
    ("unit", "values", "says"),
    [
        ("share", [0.9731, 0.02, 0], ["97.3", "2.0", "0.0", "%"]),
        ("share", [0.0011], ["0.11", "%"]),
        ("points", [-0.0173, 0.25, -0.0001], ["−1.7", "25.0", "0.0", "points"]),
        ("points", [-0.0173, 0.02], ["−1.73", "2.00", "points"]),
        ("seconds", [0.0321, 12.34], ["0.032", "12.34", "s"]),
        ("bytes", [1234567, 432], ["1.2", "0.00043", "MB"]),
        ("bytes", [999], ["999", "B"]),
        ("count", [7, 12000], ["7", "12000", ""]),
        (None, [0.98312, 0.00042, -0.5], ["0.983", "0.00042", "−0.500", ""]),
        (None, [1234.5, 2], ["1234", "2", ""]),
        (None, [1, 2.0, -3], ["1", "2", "−3", ""]),
        (None, [], [""]),
    ],
)
def test_the_numbers_of_a_column_are_written_alike(unit, values, says):
    scale = scale_of(unit, values)
    assert [*map(scale.text, values), scale.unit] == says


def test_an_interval_with_a_minus_is_written_out():
    scale = scale_of("share", [0.5])
    shown = [scale.interval(low, 0.2) for low in (0.1, -0.1, -1e-12)]
    assert shown == ["10.0\N{EN DASH}20.0", "−10.0 to 20.0", "0.0\N{EN DASH}20.0"]


# The page


@pytest.fixture(scope="module")
def html() -> str:
    return page({"folder/one.json": sample()})


def test_the_page_loads_nothing_from_anywhere(html):
    seen = Page(html)
    for tag, attributes in seen.tags:
        for name in ("src", "srcset", "poster", "data", "action"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, name)
    links = [attributes["href"] for _, attributes in seen.tags if "href" in attributes]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"url\(|@import|https?://|fetch\(|import\(", html)


def test_links_lead_to_places_on_the_page_and_names_are_there_once(html):
    seen = Page(html)
    places = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(places) == len(set(places))
    wanted = [attributes["href"][1:] for attributes in seen.all("a")]
    wanted += [attributes["aria-labelledby"] for _, attributes in seen.tags if "aria-labelledby" in attributes]
    assert set(wanted) <= set(places) and len(wanted) > 8


def test_every_row_is_on_the_page_with_its_interval_and_what_it_is(html):
    seen = Page(html)
    rows = {row[0]: row for row in seen.rows if len(row) == 12}
    assert {name.removesuffix("the target").removesuffix("for comparison") for name in rows} == {"edit", *ROWS}
    table = view(sample().tables[0])
    for row in table.rows:
        role = {"target": "the target", "reference": "for comparison", "": ""}[row.role]
        shown = rows[row.cells[0].text + role]
        for cell, text in zip(row.cells[1:], shown[1:], strict=True):
            assert text.startswith(cell.text) and text.endswith(cell.interval)
            assert ("best" in text) == (cell.mark == "best" or cell.mark == "close")
    for note in (*ROWS.values(), *(column.note for column in sample().tables[0].columns)):
        assert note in seen.text


def test_heads_say_unit_and_direction_and_what_sorts_first(html):
    heads = [attributes for attributes in Page(html).all("th") if "data-first" in attributes][:12]
    assert [head["data-first"] for head in heads[:6]] == ["ascending"] * 4 + ["descending", "ascending"]
    assert heads[1]["data-words"] == "nearer to the target is better" and "data-words" not in heads[0]
    assert [row[1] for row in Page(html).rows if row[0] == "edit"] == ["class answered% ◎"]


def test_wide_tables_can_be_reached_and_scrolled_with_the_keyboard(html):
    boxes = [attributes for attributes in Page(html).all("div") if attributes.get("class") == "scroll"]
    assert len(boxes) == 2 + 4  # and the numbers behind every chart
    assert all(box["tabindex"] == "0" and box["role"] == "region" for box in boxes)
    assert all("aria-label" in box or "aria-labelledby" in box for box in boxes)


def test_every_figure_is_a_drawing_with_a_description(html):
    images = Page(html).all("img")
    assert len(images) == 4
    for image, chart in zip(images, sample().charts, strict=True):
        drawing = base64.b64decode(image["src"].removeprefix("data:image/svg+xml;base64,"))
        assert drawing.startswith(b"<?xml") and b"<svg" in drawing
        assert chart.title in image["alt"] and all(series.name in image["alt"] for series in chart.series)


def test_what_made_it_is_on_the_page(html):
    text = Page(html).text
    for part in (
        "python -m benchmarks.closed_forms",
        "CIFAR-10",
        "5f1c0a77b2e94d0c",
        "2.13.0",
        "kodge: chosen",
        "x86_64",
    ):
        assert part in text


def test_the_same_results_give_the_same_page_whatever_the_process(tmp_path):
    for seed in (0, 1):
        sample(seed).save(tmp_path / f"{seed}.json")
    code = (
        "import hashlib, sys\nfrom lashley.result import Result\nfrom lashley.report import latex, markdown, results\n"
        "got = {name: Result.load(name) for name in ('0.json', '1.json')}\n"
        "for make in (results.page, markdown.document, latex.document):\n"
        "    print(hashlib.sha256(make(got, side_by_side=True).encode()).hexdigest())\n"
        "assert 'torch' not in sys.modules"
    )
    run = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        for seed in ("1", "2")
    ]
    assert run[0].returncode == 0, run[0].stderr
    assert run[0].stdout == run[1].stdout and len(run[0].stdout.split()) == 3


def hostile() -> Result:
    """Every text that can be given is one that breaks something."""
    columns = [
        Column("a", NASTY, group=NASTY),
        Column("b", NASTY, "lower", note=NASTY),
        Column("c", NASTY, unit="share"),
    ]
    table = Table(
        "t",
        NASTY,
        columns,
        [{"a": NASTY, "b": 1, "c": 1}, {"a": "two", "b": 2}, {"a": "three"}],
        note=NASTY,
        row_notes={NASTY: NASTY},
    )
    series = [Series(NASTY, x=["a", NASTY], y=[1, 2])]
    chart = Chart("c", NASTY, series, kind="bars", x_label="x", y_label="y", note=NASTY, alt=NASTY)
    made = made_by(seeds=[0], data={NASTY: NASTY}, command=NASTY)
    return Result("study", NASTY, NASTY, [table], [chart], made, settings={NASTY: [NASTY]})


def test_no_text_breaks_the_page():
    seen = Page(page({"a.json": hostile()}))
    assert len(seen.all("script")) == 1 and NASTY in seen.text
    assert [attributes["alt"] for attributes in seen.all("img")] == [NASTY]
    assert any(row[0] == NASTY for row in seen.rows)


# Several results


def test_results_are_named_by_what_tells_them_apart():
    one, two = sample(0), sample(1)
    assert names_of({"a.json": one, "b.json": two}) == ["seed 0", "seed 1"]
    older = sample(0, provenance={**one.provenance, "versions": {"lashley": "0.0.9", "torch": "2.13.0"}})
    assert names_of({"a.json": one, "b.json": older}) == ["lashley 0.1.0", "lashley 0.0.9"]
    assert names_of({"x/a.json": one, "y/a.json": sample(0)}) == ["x/a", "y/a"]
    assert names_of({"x/a.json": one, "y/b.json": one}) == ["a", "b"]


def test_rows_of_one_name_stand_below_each_other_with_their_own_targets():
    far = a_table([10, 11, 12], "target", target_row="a")
    near = a_table([1, 3, None, 2], "target", target_row="a")
    shown = view({"far": far, "near": near})
    assert [(row.cells[0].text, row.cells[1].text) for row in shown.rows] == [
        ("a", "far"), ("a", "near"), ("b", "far"), ("b", "near"), ("c", "far"), ("c", "near"), ("d", "near"),
    ]  # fmt: skip
    assert [row.cells[2].mark for row in shown.rows] == ["", "", "best", "", "", "", "best"]
    assert [row.cells[2].key for row in shown.rows] == [0, 0, 1, 2, 2, None, 1]
    assert [head.column.title for head in shown.heads] == ["name", "result", "value"]
    assert "within its result" in shown.legend("underlined")


def test_side_by_side_is_first_on_the_page_and_every_result_follows(html):
    seen = Page(page({"a.json": sample(0), "b.json": sample(1)}, side_by_side=True))
    assert [attributes["id"] for attributes in seen.all("section")] == ["together", "r1", "r2"]
    links = [attributes["href"] for attributes in seen.all("a")]
    assert links[:3] == ["#together", "#r1", "#r2"]
    assert len([row for row in seen.rows if len(row) == 13]) == 1 + 24
    assert html.count("<nav") == 0


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ([[a_table([1])]], "two results or more to put side by side, got one"),
        ([[a_table([1])], []], r"tables of the same names.*0.json: t; 1.json: none"),
        ([[a_table([1])], [Table("t", "T", [Column("name", "n")], [])]], "columns of the first one.*differ in 'value'"),
        ([[a_table([1])], [a_table([1], unit="share")]], "of 'seed 1' to have the columns .*differ in 'value'"),
    ],
)
def test_what_cannot_stand_side_by_side_is_refused(tables, says):
    chart = Chart("c", "C", [Series("a", [1], [1])])
    results = {f"{i}.json": sample(i, tables=part, charts=[chart]) for i, part in enumerate(tables)}
    with pytest.raises(DataError, match=says):
        together(results)


def test_a_result_without_anything_to_show_is_refused():
    with pytest.raises(DataError, match=r"a row of a table or a chart in empty.json, got a result without any"):
        page({"empty.json": sample(tables=[a_table([])], charts=[])})


# Charts


def test_lines_points_and_targets_are_drawn_with_their_intervals():
    x, y = [1, 2, 3], [0.1, None, 0.3]
    data = Series("data", x, y, low=[0, None, 0.2], high=[0.2, None, 0.4])
    drawn = charts.draw(Chart("c", "C", [data, Series("aim", [2], [0.2], target=True)], y_unit="points"))
    line, star = (drawn.axes[0].lines[i] for i in (0, 1))
    assert line.get_ydata()[0] == 10 and line.get_ydata()[2] == 30 and star.get_marker() == "*"
    assert len(drawn.axes[0].collections) == 1  # the band
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["data", "aim"]
    assert drawn.axes[0].get_ylabel() == "points"
    points = charts.draw(Chart("c", "C", [data], kind="points", y_label="fall", y_unit="points"))
    assert points.axes[0].lines[0].get_linestyle() == "None" and points.axes[0].get_ylabel() == "fall, points"
    assert not points.legends


def test_bars_stand_beside_each_other_and_the_target_lies_across():
    names = ["x", "y"]
    series = [Series("a", names, [1, 2]), Series("b", names, [3, None]), Series("aim", names, [2, 2], target=True)]
    axes = charts.draw(Chart("c", "C", series, kind="bars")).axes[0]
    assert [patch.get_height() for patch in axes.patches][:3] == [1, 2, 3]
    assert [text.get_text() for text in axes.get_xticklabels()] == names
    first, second = axes.patches[0].get_x(), axes.patches[2].get_x()
    assert second > first + 0.3


@pytest.mark.parametrize("kind", ["lines", "points", "bars"])
def test_an_interval_beside_its_value_is_drawn_where_it_is(kind):
    series = [Series("a", ["x"], [1], low=[2], high=[3]), Series("aim", ["x"], [2], low=[1], high=[3], target=True)]
    assert figures.svg(charts.draw(Chart("c", "C", series, kind=kind))).startswith(b"<?xml")


def test_lines_after_the_seventh_have_another_look():
    drawn = charts.draw(Chart("c", "C", [Series(str(i), [1, 2], [i, i]) for i in range(15)])).axes[0].lines
    looks = {(line.get_color(), line.get_linestyle(), str(line.get_markerfacecolor())) for line in drawn}
    assert len(drawn) == 15 and len({(line.get_color(), line.get_marker()) for line in drawn}) == 7
    assert len(looks) >= 14


@pytest.mark.parametrize(("rows", "columns", "cells"), [(3, 4, 12), (30, 30, 0)])
def test_a_heat_map_writes_its_numbers_while_there_is_room(rows, columns, cells):
    names = [str(i) for i in range(columns)]
    series = [Series(f"row {i}", names, [i * j / 100 for j in range(columns)]) for i in range(rows)]
    figure = charts.draw(Chart("c", "C", series, kind="heat", y_unit="share"))
    assert len(figure.axes[0].texts) == cells


def test_colours_of_a_heat_map_part_at_zero_where_numbers_lie_on_both_sides():
    def colours(values):
        figure = charts.draw(Chart("c", "C", [Series("a", ["x", "y"], values)], kind="heat"))
        return [patch.get_facecolor()[:3] for patch in figure.axes[0].patches]

    low, high = colours([-1, 1])
    assert low[2] > low[0] and high[0] > high[2]  # blue and red
    low, high = colours([0, 1])
    assert low[2] > 0.9 and high[2] > high[0]  # white to blue


def test_names_are_no_formulas_and_long_ones_keep_both_ends():
    names = ["_hidden", "$x^2$", *(f"model.decoder.layers.{i}.attention" for i in range(2))]
    series = [Series(name, ["x"], [1], target=name == "_hidden") for name in names]
    for kind in ("lines", "bars"):
        shown = [text.get_text() for text in charts.draw(Chart("c", "C", series, kind=kind)).legends[0].get_texts()]
        assert shown == ["_hidden", r"\$x^2\$", "model.de…yers.0.attention", "model.de…yers.1.attention"]


def test_names_that_do_not_fit_beside_each_other_are_turned_and_bars_lie():
    def drawn(kind, names):
        series = [Series("a", names, range(1, len(names) + 1)), Series("aim", names, [2] * len(names), target=True)]
        return charts.draw(Chart("c", "C", series, kind=kind, x_label="layer", y_label="norm")).axes[0]

    short, long = ["a", "b", "c"], ["a" * 20, "b" * 26, "c" * 9]
    for kind in ("lines", "bars"):
        assert [label.get_text() for label in drawn(kind, short).get_xticklabels()] == short
    turned, lying = drawn("lines", long), drawn("bars", long)
    assert [label.get_text() for label in turned.get_xticklabels()] == long
    assert turned.get_xticklabels()[0].get_rotation() == 40
    assert [label.get_text() for label in lying.get_yticklabels()] == long and lying.yaxis_inverted()
    assert [patch.get_width() for patch in lying.patches] == [1, 2, 3]
    assert (lying.get_xlabel(), lying.get_ylabel()) == ("norm", "layer")


def test_points_that_a_logarithmic_axis_has_no_place_for_are_counted_and_said():
    series = [Series("a", [0, 1, 2], [1, 0, 2]), Series("b", [1], [None])]
    chart = Chart("c", "C", series, x_scale="log", y_scale="log")
    assert charts.left_out(chart) == 2
    assert figures.svg(charts.draw(chart)).startswith(b"<?xml")
    assert "Not shown: 2 points at 0 or below" in Page(page({"a.json": sample(charts=[chart])})).text


def test_a_chart_is_described_in_words():
    series = [Series("up", [1, 2, 3], [0.1, 0.5, 0.2]), Series("none", [1], [None])]
    chart = Chart("c", "Title", series, x_label="steps", y_label="accuracy", y_unit="share")
    assert charts.describe(chart) == "Lines: Title (accuracy by steps). Values in %: up 10.0 to 20.0; none none."
    bars = Chart("c", "Title", [Series("a", ["x", "y", "z"], [2, 1, 3])], kind="bars")
    assert charts.describe(bars) == "Bars: Title. Values: a 1 to 3."
    assert charts.describe(Chart("c", "Title", series, alt="As it is.")) == "As it is."


# Markdown and LaTeX


def test_markdown_has_the_numbers_and_no_text_breaks_it():
    text = markdown.document({"one.json": sample()})
    assert text.startswith("<!-- lashley report -->\n")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + 12 + 2 + 4
    assert "| **retrained, seed 0** | 0.0 (" in text and "| *untouched* | 96.0 (" in text
    nasty = markdown.document({"a.json": hostile()})
    assert r"\<script\>alert('&amp;amp;')\</script\> 100%" in nasty and r"\| \*b\* \`c\` \[d\](e)" in nasty
    [row] = [line for line in nasty.splitlines() if line.startswith(r"| \<script")][1:]
    assert len(re.findall(r"(?<!\\)\|", row)) == 4


def test_a_chart_is_shown_below_the_table_that_it_belongs_to():
    first, second = (Chart(name, name, [Series("a", [1], [1])], table=table) for name, table in (("x", ""), ("y", "t")))
    result = sample(tables=[a_table([1, 2])], charts=[first, second])
    places = [attributes["id"] for attributes in Page(page({"a.json": result})).all("h3")]
    assert places == ["r1-t-title", "r1-y-title", "r1-x-title"]
    text = markdown.document({"a.json": result}, pictures={"1-x": "x.svg", "1-y": "y.svg"})
    assert text.index("| name |") < text.index("](y.svg)") < text.index("](x.svg)")


def test_the_page_of_a_committed_result_shows_its_figures(tmp_path):
    written = markdown.write(sample().save(tmp_path / "closed_forms.json"))
    assert {path.name for path in written} == {"README.md", *(f"{chart.name}.svg" for chart in sample().charts)}
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    for chart in sample().charts:
        assert f"]({chart.name}.svg)" in text and chart.note in text
        assert (tmp_path / f"{chart.name}.svg").read_bytes() == figures.svg(charts.draw(chart))
    before = {path: path.read_bytes() for path in written}
    assert before == {path: path.read_bytes() for path in markdown.write(tmp_path / "closed_forms.json")}


def test_latex_has_the_numbers_and_no_text_breaks_it():
    text = latex.document({"one.json": sample()})
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count(r"\toprule") == 2
    assert (
        r"\begin{tabular}{lrrrrrrrrrrr}" in text
        and r"\cmidrule(lr){2-5} \cmidrule(lr){6-9} \cmidrule(lr){10-12}" in text
    )
    body = [line for line in text.split(r"\midrule")[1].split(r"\bottomrule")[0].splitlines() if line.endswith(r"\\")]
    assert len(body) == 12 and {len(re.findall(r"(?<!\\)&", line)) for line in body} == {11}
    assert r"\textbf{retrained, seed 0}" in text and "$-$" in text and "\u2212" not in text
    nasty = latex.escape(NASTY)
    for part in (
        r"\textless{}script\textgreater{}alert('\&amp;')\textless{}/script\textgreater{} 100\% \&",
        r"\$x\_1\textasciicircum{}2\$ \#\{a\}\textasciitilde{}\textbackslash{} \textquotedbl{}q\textquotedbl{}",
        r"\textbar{} *b* `c` [d](e) $\alpha$ $-$ $\|$",
    ):
        assert part in nasty
    whole = latex.document({"a.json": hostile()})
    plain = re.sub(r"\\[{}]", "", whole)
    assert plain.count("{") == plain.count("}") and whole.count(nasty) > 3


@pytest.mark.parametrize("name", ["[a]", "*"])
def test_no_name_is_read_as_an_option_of_the_row_above(name):
    r"""LaTeX looks for ``[2pt]`` and ``*`` behind ``\\`` and rules, in the next line too."""
    first = Column("name", name)
    text = latex.document({"a.json": sample(tables=[Table("t", "T", [first], [{"name": name}])], charts=[])})
    assert text.count(f"\n{{{name[0]}}}{name[1:]} ") == 2 and f"\n{name[0]}" not in text


def test_a_long_word_keeps_within_the_column_of_names():
    css = (ROOT / "lashley" / "report" / "templates" / "results.css").read_text(encoding="utf-8")
    everywhere = css.split("@media")[0]
    assert re.search(r"\.block tbody th \{[^}]*max-width[^}]*overflow-wrap: anywhere", everywhere)


def test_latex_labels_are_safe_and_differ():
    text = latex.document({"a.json": sample(0), "b.json": sample(1)})
    labels = re.findall(r"\\label\{(.*)\}", text)
    assert labels == [f"tab:closed-forms-{i}-{name}" for i in (1, 2) for name in ("edits", "layers")]


# The command


@pytest.fixture
def there(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    small = {"charts": [Chart("c", "C", [Series("a", [1, 2], [1, 2])])], "tables": [a_table([1, 2])]}
    for seed in (0, 1):
        sample(seed, **small).save(f"{seed}.json")
    return tmp_path


def ok(capsys, line) -> str:
    code = main(line.split())
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def refused(capsys, line, says, code=1):
    assert main(line.split()) == code
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    assert re.search(says, err), err


def test_the_command_writes_a_page_and_says_where(there, capsys):
    assert ok(capsys, "report 0.json") == f"{there / 'report.html'}\n"
    assert (there / "report.html").read_text(encoding="utf-8") == page({"0.json": Result.load("0.json")})
    assert ok(capsys, "report 0.json --out pages") == f"{there / 'pages' / 'report.html'}\n"
    ok(capsys, "report 0.json 1.json --side-by-side --out both.html --latex t.tex --markdown t.md")
    both = {name: Result.load(name) for name in ("0.json", "1.json")}
    assert (there / "both.html").read_text(encoding="utf-8") == page(both, side_by_side=True)
    assert (there / "t.tex").read_text(encoding="utf-8") == latex.document(both, side_by_side=True)
    assert (there / "t.md").read_text(encoding="utf-8") == markdown.document(both, side_by_side=True)


def test_tables_alone_make_no_page(there, capsys):
    assert ok(capsys, "report 0.json --markdown -") == markdown.document({"0.json": Result.load("0.json")})
    assert ok(capsys, "report 0.json --latex t.tex") == f"{there / 't.tex'}\n"
    assert not (there / "report.html").exists()
    found = json.loads(ok(capsys, "report 0.json --latex t.tex --json"))
    assert found == {"results": ["0.json"], "latex": str(there / "t.tex")}


def test_what_a_report_made_is_replaced_and_nothing_else(there, capsys):
    for _ in range(2):
        ok(capsys, "report 0.json --out a.html --markdown a.md --latex a.tex")
    for name in ("mine.html", "mine.md", "mine.tex", "README.md"):
        (there / name).write_text("mine; see lashley report")
    left_alone = "to be absent or made by lashley report, got another file, which is left alone"
    refused(capsys, "report 0.json --out mine.html", left_alone)
    refused(capsys, "report 0.json --out b.html --markdown mine.md", left_alone)
    refused(capsys, "report 0.json --latex mine.tex", left_alone)
    assert not (there / "b.html").exists() and (there / "mine.html").read_text() == "mine; see lashley report"
    with pytest.raises(StoreError, match=left_alone):
        markdown.write("0.json")
    (there / "folder.html").mkdir()
    assert ok(capsys, "report 0.json --out folder.html") == f"{there / 'folder.html' / 'report.html'}\n"
    with pytest.raises(StoreError, match="to be a file or absent, got a folder"):
        check_target(there / "folder.html")


@pytest.mark.parametrize(
    ("line", "says", "code"),
    [
        ("report gone.json", "Could not read gone.json: No such file", 1),
        ("report 0.json 0.json", "every result once, got one of them twice", 2),
        ("report 0.json --markdown - --latex -", "one document on stdout", 2),
        ("report 0.json --markdown - --json", "one document on stdout", 2),
        ("report 0.json --markdown a.txt --latex a.txt", "a file for each document, got a.txt twice", 2),
        ("report 0.json --side-by-side", "two results or more to put side by side", 1),
        ("report 0.json --latex 0.json/t.tex", "Could not", 1),
        ("report 0.json --out 1.json", "--out to be FILE.html or a folder, got 1.json, which is another file", 2),
        ("report", "RESULT.json", 2),
    ],
)
def test_the_command_refuses(there, capsys, line, says, code):
    refused(capsys, line, says, code)
    assert sorted(path.name for path in there.iterdir()) == ["0.json", "1.json"]


def test_the_command_says_which_package_is_missing(there, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    refused(capsys, "report 0.json", "for a report; matplotlib cannot be found. Try: pip install")


def test_the_command_needs_no_torch(there):
    code = "import sys; sys.modules['torch'] = None; from lashley.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "report", "0.json", "--latex", "t.tex", "--out", "a.html"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (there / "a.html").exists() and (there / "t.tex").exists()
