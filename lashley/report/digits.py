"""What to draw and to say about a result of ``lashley.studies.digits``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lashley.report import figures, numbers, page
from lashley.report.page import Picture

__all__ = ["pictures", "values", "write"]

DIGITS = [str(digit) for digit in range(10)]

# The rows of the comparison, in the order in which a reader should meet them.
EDITS = {
    "paper": "the paper's formula",
    "paper+batchnorm": "the paper's formula, BatchNorm re-estimated",
    "sharpened": "sharpened",
    "sharpened+batchnorm": "sharpened, BatchNorm re-estimated",
    "mask": "no edit, the digit is never answered",
    "retrained": "retrained without the digit",
}
SUBSETS = {
    "none": "none",
    "paper": "evens",
    "paper+batchnorm": "evens, BatchNorm",
    "sharpened": "evens, sharpened",
    "sharpened+batchnorm": "evens, both",
}


def write(result: Mapping[str, Any], folder: str | Path) -> Path:
    """Write the figures and ``index.html`` into an existing folder; return the page's path."""
    return page.write(folder, "digits.html", pictures(result), **values(result))


def pictures(result: Mapping[str, Any]) -> list[Picture]:
    """Every figure of the page, named ``<network>-<what>``."""
    return [picture for network in result["networks"] for picture in _pictures(network, result["settings"])]


def values(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the template ``digits.html`` speaks about."""
    return {
        "result": result,
        "networks": result["networks"],
        "digits": DIGITS,
        "edits": EDITS,
        "notable": {network["key"]: _notable(network) for network in result["networks"]},
    }


def _pictures(network: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[Picture]:
    key, name, summary = network["key"], network["name"], network["edits"]["paper"]["summary"]
    title = numbers.sentence(name)
    after = 100 * np.array(network["edits"]["paper"]["accuracy"])
    before = 100 * np.array(network["accuracy"]["per_digit"])
    others = [np.delete(row, digit).mean() for digit, row in enumerate(after)]
    yield Picture(
        f"{key}-ablation",
        figures.heat_map(
            np.column_stack([np.vstack([before, after]), [np.nan, *others]]),
            ["none", *DIGITS],
            [*DIGITS, "others"],
            title=f"{title}: every digit taken out once",
            row_label="digit taken out",
            column_label="% read correctly, by digit shown",
            low=0,
            high=100,
            row_gaps=[0],
            column_gaps=[9],
        ),
        f"Heat map of the {name}: accuracy per digit (columns) after each digit was taken out (rows). The diagonal "
        f"is {numbers.percent(summary['target_mean'])} on average, "
        f"the rest {numbers.percent(float(np.mean(others)) / 100)}.",
    )
    yield Picture(
        f"{key}-answers",
        figures.heat_map(
            100 * np.array(network["answers"]),
            DIGITS,
            DIGITS,
            title=title,
            row_label="digit taken out and shown",
            column_label="what the network calls it, % of its images",
            low=0,
        ),
        f"Heat map of the {name}: what the images of a digit (rows) are called once that digit was taken out.",
    )
    alphas, sweep = settings["alphas"], network["sweep"]
    yield Picture(
        f"{key}-sweep",
        figures.curves(
            alphas,
            {
                "ablated digit": 100 * np.array(sweep["paper"]["target"]),
                "other nine": 100 * np.array(sweep["paper"]["others"]),
            },
            title=title,
            x_label="strength α",
            y_label="% read correctly",
            y_range=(-3, 103),
            mark=1.0,
        ),
        f"Curves of the {name}: accuracy against strength, for the ablated digit (falling) and for the other nine.",
    )
    way = "blank+batchnorm" if "blank+batchnorm" in network["injection"] else "blank"
    yield Picture(
        f"{key}-injection",
        figures.heat_map(
            100 * np.array(network["injection"][way]["called"]),
            DIGITS,
            DIGITS,
            title=title + (", BatchNorm re-estimated" if way != "blank" else ""),
            row_label="digit put into a blank network",
            column_label="% called that digit, by digit shown",
            low=0,
            high=100,
        ),
        f"Heat map of the {name}: the share of each digit's images (columns) that a blank network holding one digit's "
        "engram (rows) calls that digit.",
    )
    yield Picture(
        f"{key}-overlap",
        figures.heat_map(
            np.column_stack([network["overlap"]["cosine"], network["overlap"]["rest"]]),
            DIGITS,
            [*DIGITS, "rest"],
            title=title,
            row_label="engram of",
            column_label="cosine with the engram of",
            text=_signed,
            colours="RdBu_r",
            low=-1,
            high=1,
            column_gaps=[9],
        ),
        f"Heat map of the {name}: cosines between the engrams of the ten digits, 1 on the diagonal.",
    )
    ratio = network["norms"]["ratio"]
    yield Picture(
        f"{key}-norms",
        figures.heat_map(
            list(ratio.values()),
            list(ratio),
            DIGITS,
            title=f"{title}, cut {network['norms']['cut']}",
            column_label="‖E‖ / ‖W‖, by digit",
            text="{:.2f}".format,
            colours="Purples",
            low=0,
        ),
        f"Heat map of the {name}: size of each digit's engram (columns) in each layer (rows), relative to the weights.",
    )
    yield Picture(
        f"{key}-sharpening",
        figures.curves(
            alphas,
            {
                "paper": 100 * np.array(sweep["paper"]["others"]),
                "sharpened": 100 * np.array(sweep["sharpened"]["others"]),
            },
            title=f"{title}: the other nine digits",
            x_label="strength α",
            y_label="% read correctly",
            colours=(figures.GREY, figures.BLUE),
            mark=1.0,
        ),
        f"Curves of the {name}: accuracy on the other nine digits against strength, with the paper's formula and "
        "sharpened.",
    )
    rows = {
        label: network["subset"]["accuracy"][way]
        for way, label in SUBSETS.items()
        if way in network["subset"]["accuracy"]
    }
    yield Picture(
        f"{key}-subset",
        figures.heat_map(
            100 * np.array(list(rows.values())),
            list(rows),
            DIGITS,
            title=title,
            row_label="taken out",
            column_label="% read correctly, by digit shown",
            low=0,
            high=100,
            row_gaps=[0],
        ),
        f"Heat map of the {name}: accuracy per digit before and after all even digits were taken out at once.",
    )


def _notable(network: Mapping[str, Any]) -> dict[str, Any]:
    """Extremes and means that the text names."""
    own = np.eye(len(DIGITS), dtype=bool)
    cosine = np.where(own, np.nan, network["overlap"]["cosine"])
    falls = np.array(network["accuracy"]["per_digit"]) - np.array(network["edits"]["paper"]["accuracy"])
    out = network["subset"]["digits"]
    kept = [digit for digit in range(len(DIGITS)) if digit not in out]
    sensitivity: dict[str, dict[str, Any]] = {}
    for row in network["norms"]["sensitivity"]:
        sensitivity.setdefault(row["layer"], {})[row["cut"]] = row
    return {
        "hurt": int((falls[~own] > 0.05).sum()),
        "three": _favourite(network["answers"][3], but=3),
        "three_retrained": _favourite(network["edits"]["retrained"]["answers"][3], but=3)
        if "retrained" in network["edits"]
        else None,
        "favourite": _favourite(np.mean(network["answers"], axis=0)),
        "alike": _place(cosine, np.nanargmax),
        "opposed": _place(cosine, np.nanargmin),
        "cosine": float(np.nanmean(cosine)),
        "subset": {
            way: {"out": float(np.mean([row[d] for d in out])), "kept": float(np.mean([row[d] for d in kept]))}
            for way, row in network["subset"]["accuracy"].items()
        },
        "first_layer": next(iter(network["responses"]["paper"])),
        "sensitivity": sensitivity,
    }


def _place(matrix: np.ndarray[Any, Any], find: Any) -> dict[str, Any]:
    row, column = np.unravel_index(int(find(matrix)), matrix.shape)
    return {"digits": sorted([int(row), int(column)]), "value": float(matrix[row, column])}


def _favourite(answers: ArrayLike, but: int | None = None) -> dict[str, Any]:
    """The most frequent answer, and its share; of all answers but one, if asked."""
    shares = np.array(answers, dtype=float)
    if but is not None:
        shares[but] = -1
    return {"answer": int(shares.argmax()), "share": float(shares.max())}


def _signed(value: float) -> str:
    """-0.123 -> "−.12", 1 -> "1": short enough for a cell."""
    text = f"{abs(value):.2f}"
    return ("\u2212" if value < 0 and float(text) else "") + ("1" if text == "1.00" else text.removeprefix("0"))
