"""Figures and the page: readable, honest about what is missing, in one file, and drawn without torch."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from jinja2 import UndefinedError
from matplotlib.colors import to_rgb
from PIL import Image

from html_page import Page
from lashley.errors import DataError
from lashley.report import digits, figures, numbers, page

TEN = [str(digit) for digit in range(10)]


def made_up(*, quick: bool = False) -> dict:
    """A result of the digits study with the right shape and numbers from a generator: one network with BatchNorm."""
    draw = np.random.default_rng(0)

    def shares(*shape):
        return draw.uniform(0.9, 1.0, shape).round(6).tolist()

    def edit(*, answers=False):
        summary = {"target_mean": 0.0259, "target_max": 0.0741, "others_fall": 0.0155, "worst_fall": 0.1111}
        found = {"accuracy": shares(10, 10), "probe": shares(10), "summary": {**summary, "worst_pair": [3, 4]}}
        return {**found, "answers": shares(10, 10)} if answers else found

    def called():
        return {"called": shares(10, 10), "accuracy": shares(10), "false_induction": shares(10), "ranking": shares(10)}

    def responses(layers):
        return {layer: {"own": shares(10), "others": shares(10)} for layer in layers}

    alphas = [0.0, 1.0, 2.0] if quick else [0.0, 0.5, 1.0, 1.5, 2.0]

    def network(key, name, layers, ways):
        edits = {way: edit() for way in ("paper", "sharpened", *ways, "mask")}
        if not quick:
            edits["retrained"] = edit(answers=True)
        extra = {"blank+batchnorm": called()} if ways else {}
        cuts = ("rtol D x 2^-23", "rtol 1e-06")
        steps = ("training", "recording", "engrams")
        return {
            "key": key,
            "name": name,
            "shape": "64-10",
            "parameters": 17024,
            "training": {"epochs": 2, "batch": 64, "learning_rate": 0.004, "weight_decay": 0.0001},
            "accuracy": {"per_digit": shares(10)},
            "features": {"probe": shares(10)},
            "layers": [],
            "edits": edits,
            "answers": shares(10, 10),
            "examples": [{"digit": d, "pixels": shares(8, 8), "before": d, "after": (d + 1) % 10} for d in range(9)],
            "injection": {"whole": called(), "blank": called(), **extra},
            "sweep": {
                way: {"target": shares(len(alphas), 10), "others": shares(len(alphas), 10)}
                for way in ("paper", "sharpened")
            },
            "overlap": {"cosine": draw.uniform(-1, 1, (10, 10)).tolist(), "rest": draw.uniform(-1, 0, 10).tolist()},
            "responses": {"paper": responses(layers), "sharpened": responses(layers)},
            "norms": {
                "cut": cuts[0],
                "ratio": {layer: draw.uniform(0, 4, 10).tolist() for layer in layers},
                "sensitivity": [
                    {"layer": layer, "cut": cut, "kept": 54, "dim": 64, "norm": 0.9} for layer in layers for cut in cuts
                ],
            },
            "subset": {"digits": [0, 2, 4, 6, 8], "accuracy": {w: shares(10) for w in ("none", "paper", *ways)}},
            "restored": {"sha256": "a" * 64, "while_out": [c * 64 for c in "0123456789"], "back": ["a" * 64] * 10},
            "seconds": dict.fromkeys(steps if quick else (*steps, "retraining"), 0.12),
        }

    return {
        "study": "digits",
        "format": 1,
        "provenance": {
            "command": "lashley demo --out here",
            "seed": 7,
            "versions": {"lashley": "0.1.0"},
            "python": "3.11.7",
            "system": "Linux",
            "machine": "x86_64",
            "threads": 1,
        },
        "settings": {
            "quick": quick,
            "alpha": 1.0,
            "alphas": alphas,
            "paper": {"sharpness": 1.0, "threshold": 0.5, "cut": "rtol D x 2^-23"},
            "sharpened": {"sharpness": 2.0, "threshold": 0.5, "cut": "rtol D x 2^-23"},
            "subset": [0, 2, 4, 6, 8],
            "batch": 64,
        },
        "data": {"name": "digits", "train": 1257, "test": 540, "samples": [shares(2, 8, 8) for _ in TEN]},
        "networks": [
            network("mlp", "MLP", ["hidden", "readout"], []),
            network("convnet", "conv net", ["conv1"], ["paper+batchnorm", "sharpened+batchnorm"]),
        ],
        "seconds": 12.3,
    }


@pytest.fixture(scope="module")
def result():
    return made_up()


@pytest.fixture(scope="module")
def html_of(result):
    """The page's text for a result, with one small figure in the place of all: drawing them anew takes a second."""
    dot = figures.heat_map([[1.0]], ["a"], ["b"])
    blank = [page.Picture(picture.name, dot, picture.alt) for picture in digits.pictures(result)]
    return lambda result: page.render("digits.html", blank, **digits.values(result))


@pytest.fixture(scope="module")
def written(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return digits.write(result, folder)


# Figures


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_heat_map_writes_every_value_into_its_cell():
    figure = figures.heat_map([[0.0, 12.4, 100.0], [1.0, 2.0, 3.0]], ["a", "b"], ["x", "y", "z"], title="T")
    axes = figure.axes[0]
    assert texts(figure) == ["0", "12", "100", "1", "2", "3"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y", "z"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    corners = [patch.get_xy() for patch in axes.patches]
    assert corners == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]
    assert axes.yaxis_inverted()  # the first row is on top


def test_a_heat_map_leaves_nan_empty_and_a_gap_sets_cells_apart():
    figure = figures.heat_map([[1.0, np.nan]] * 2, ["a", "b"], ["x", "y"], row_gaps=[0], column_gaps=[0])
    assert texts(figure) == ["1", "1"]
    (_, first), (_, second) = (patch.get_xy() for patch in figure.axes[0].patches)
    assert second - first > 1


@pytest.mark.parametrize("matrix", [[[5.0]], [[np.nan]], [[0.0, 0.0]], [[-3.0, 1e9]]])
def test_a_heat_map_of_one_value_none_or_extremes_is_drawn(matrix):
    figure = figures.heat_map(matrix, ["a"], [str(i) for i in range(len(matrix[0]))])
    assert figures.png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("colours", ["Blues", "Purples", "RdBu_r", "viridis"])
def test_the_value_in_a_cell_stands_out_from_its_colour(colours):
    figure = figures.heat_map([np.linspace(0, 1, 30)], ["a"], ["c"] * 30, colours=colours)
    axes = figure.axes[0]
    for patch, text in zip(axes.patches, axes.texts, strict=True):
        light, dark = sorted((luminance(to_rgb(text.get_color())), luminance(patch.get_facecolor()[:3])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3, f"{text.get_text()} on {patch.get_facecolor()}"


def luminance(colour) -> float:
    """Relative luminance of WCAG 2, from linear light."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize(("rows", "columns"), [(["a"], ["x", "y"]), (["a", "b"], ["x"]), ([], ["x", "y"])])
def test_a_heat_map_refuses_labels_that_do_not_fit(rows, columns):
    with pytest.raises(DataError, match=rf"{len(rows)} rows and {len(columns)} columns.*got shape \(2, 2\)"):
        figures.heat_map([[1, 2], [3, 4]], rows, columns)


def test_curves_draw_means_and_bands_and_label_each_line_in_its_colour():
    figure = figures.curves([0, 1], {"many": [[0.0, 2.0], [4.0, 6.0]], "one": [9.0, 9.0]}, mark=1.0)
    axes = figure.axes[0]
    assert axes.lines[0].get_ydata().tolist() == [1.0, 5.0]
    assert axes.lines[1].get_ydata().tolist() == [9.0, 9.0]
    assert len(axes.collections) == 1  # a band for the line that has repetitions
    labels = {text.get_text(): text for text in axes.texts}
    assert labels["many"].get_color() == axes.lines[0].get_color() != labels["one"].get_color()


def test_labels_of_lines_that_end_together_are_set_apart_in_order():
    figure = figures.curves([0, 1], {"upper": [0.0, 50.1], "lower": [0.0, 50.0], "far": [0.0, 0.0]}, y_range=(0, 100))
    heights = {text.get_text(): text.xy[1] for text in figure.axes[0].texts}
    assert heights["upper"] - heights["lower"] == pytest.approx(7)
    assert abs(heights["upper"] - 50) < 8 and abs(heights["far"]) < 8


def test_curves_refuse_lines_of_another_length():
    with pytest.raises(DataError, match="Expected 3 points in the line 'short', one per x; got 2"):
        figures.curves([0, 1, 2], {"short": [1, 2]})


def test_a_picture_is_the_same_whatever_the_user_configured(tmp_path):
    def drawn():
        return figures.png(figures.heat_map([[1, 2]], ["a"], ["x", "y"], title="T"))

    before = drawn()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.facecolor": "black"}):
        assert drawn() == before
    path = figures.save(figures.heat_map([[1, 2]], ["a"], ["x", "y"], title="T"), tmp_path / "map.png")
    assert path.read_bytes() == before


def test_a_thumbnail_is_dark_ink_on_white_paper():
    image = Image.open(io.BytesIO(figures.thumbnail([[0.0, 1.0, 0.5], [-1.0, 2.0, 0.0]])))
    assert image.mode == "L" and image.size == (3, 2)
    assert np.asarray(image).tolist() == [[255, 0, 128], [255, 0, 255]]


# Numbers


@pytest.mark.parametrize(
    ("share", "says"), [(0.025895, "2.6 %"), (1, "100.0 %"), (0, "0.0 %"), (-0.0001, "0.0 %"), (-0.017, "−1.7 %")]
)
def test_percent(share, says):
    assert numbers.percent(share) == says.replace(" ", "\u00a0")


@pytest.mark.parametrize(("share", "says"), [(0.0155, "1.6"), (-0.0017, "\u22120.2"), (-0.0004, "0.0"), (0, "0.0")])
def test_points(share, says):
    assert numbers.points(share) == says


@pytest.mark.parametrize(("value", "says"), [(0.0321, "0.03\u00a0s"), (12.34, "12.3\u00a0s"), (0.0, "0.00\u00a0s")])
def test_seconds(value, says):
    assert numbers.seconds(value) == says


@pytest.mark.parametrize(("value", "says"), [(-0.123, "\u22120.12"), (0.5, "0.50"), (-0.001, "0.00")])
def test_cosine(value, says):
    assert numbers.cosine(value) == says


def test_a_sentence_begins_with_a_capital_and_leaves_the_rest():
    assert [numbers.sentence(text) for text in ("conv net", "MLP", "")] == ["Conv net", "MLP", ""]


# The page


def test_the_page_loads_nothing_from_anywhere(written):
    html = written.read_text(encoding="utf-8")
    seen = Page(html)
    assert not seen.all("script") and not seen.all("iframe")
    for tag, attributes in seen.tags:
        for name in ("src", "srcset", "poster", "data", "action"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, name)
    links = [attributes["href"] for tag, attributes in seen.tags if "href" in attributes]
    assert [link for link in links if not link.startswith(("#", "data:"))] == ["result.json"]
    assert not re.search(r"url\(|@import|https?://", html)


def test_every_image_is_there_described_and_the_file_beside_it(result, written):
    seen = Page(written.read_text(encoding="utf-8"))
    images = seen.all("img")
    assert all(len(image["alt"]) > 10 for image in images)
    inlined = {base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) for image in images}
    names = {picture.name for picture in digits.pictures(result)}
    files = {path.stem: path.read_bytes() for path in written.parent.glob("*.png")}
    assert set(files) == names and len(names) == 16
    assert all(content in inlined for content in files.values())
    for content in inlined:
        Image.open(io.BytesIO(content)).verify()


def test_every_link_within_the_page_leads_somewhere(written):
    seen = Page(written.read_text(encoding="utf-8"))
    places = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(places) == len(set(places))
    within = [attributes["href"][1:] for attributes in seen.all("a") if attributes["href"].startswith("#")]
    assert within == places


def test_the_page_says_the_numbers_of_the_result(result, html_of):
    seen = Page(html_of(result))
    mlp, convnet = result["networks"]
    summary = mlp["edits"]["paper"]["summary"]
    before = numbers.percent(numbers.mean(mlp["accuracy"]["per_digit"]))
    assert f"correctly {numbers.percent(summary['target_mean'])} of the time instead of {before}" in seen.text
    assert f"lose {numbers.points(summary['others_fall'])} points" in seen.text
    for network in (mlp, convnet):
        for digit, row in enumerate(network["edits"]["paper"]["accuracy"]):
            assert [str(digit), *map(numbers.percent, row)] in seen.rows
        for way in network["edits"]:
            probe = numbers.percent(numbers.mean(network["edits"][way]["probe"]))
            assert [digits.EDITS[way], "2.6\u00a0%", "7.4\u00a0%", "1.6", "11.1", probe] in seen.rows
    assert "lashley demo --out here" in seen.text and "seed 7" in seen.text


def test_another_number_gives_another_page(result, html_of):
    other = copy.deepcopy(result)
    other["networks"][0]["edits"]["paper"]["summary"]["target_mean"] = 0.4321
    assert "43.2\u00a0%" not in html_of(result)
    assert "43.2\u00a0%" in html_of(other)


def test_what_was_not_computed_is_not_on_the_page(result, html_of):
    whole, quick = Page(html_of(result)).text, Page(html_of(made_up(quick=True))).text
    assert "quick run" in quick and "quick run" not in whole
    assert "retrained without the digit" in whole and "retrained without the digit" not in quick
    assert "trained without any 3" in whole and "trained without any 3" not in quick


def test_a_missing_number_stops_the_page_instead_of_leaving_a_hole(result, html_of):
    broken = copy.deepcopy(result)
    del broken["networks"][1]["edits"]["paper"]["summary"]["worst_fall"]
    with pytest.raises(UndefinedError, match="worst_fall"):
        html_of(broken)


def test_text_of_the_result_cannot_become_markup(result, html_of):
    hostile = copy.deepcopy(result)
    hostile["provenance"]["command"] = "lashley demo --out '<script>alert(1)</script>'"
    seen = Page(html_of(hostile))
    assert not seen.all("script")
    assert "<script>alert(1)</script>" in seen.text


def test_a_page_is_written_where_torch_is_not_at_hand(result, tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(result))
    code = (
        "import sys, json; sys.modules['torch'] = None; from lashley.report import digits; "
        "print(digits.write(json.load(open('result.json')), '.'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "index.html").stat().st_size > 100_000
