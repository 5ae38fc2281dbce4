"""A result with everything in it that a page has to cope with; its numbers come from a generator."""

from __future__ import annotations

import numpy as np

from lashley.result import Chart, Column, Result, Series, Table, made_by

ROWS = {
    "untouched": "The network as it was trained.",
    "retrained, seed 0": "Trained from the start without the class. What an edit should come near to.",
    "retrained, seed 1": "The same with another seed: what lies between two retrained networks is no difference.",
    "logit mask": "Nothing is edited; the class is never answered. It shows what the answers alone cannot see.",
    "random direction": "A delta of the engram's size in every layer, drawn at random.",
    "paper": "E = W S_c S^+, the closed form of the paper, with a strength of 1 in every layer.",
    "sharpened": "The paper's formula with directions that the class owns to less than a half left alone.",
    "sharpened + BatchNorm": "As above; running means and variances are estimated anew on what is kept.",
    "Kodge": "Projects on the retained space and away from the forgotten one; two scales, chosen on training images.",
    "LEACE": "The least change after which no linear reader finds the class, one layer after the other.",
    "ridge": "Least squares with a penalty towards the old weight (UCE).",
    "null space & <mixture_shift>": "Directions the others do not use, 100% of them, $x^2$ & #1.",
}
COLUMNS = [
    Column("edit", "edit"),
    Column("target", "class answered", "target", "share", "Test images of the class read as it.", "answers"),
    Column("others", "others' mean fall", "target", "points", "Mean fall of the other nine classes.", "answers"),
    Column("worst", "worst fall", "target", "points", "The class that falls most.", "answers"),
    Column("same", "same label", "higher", "share", "Images of the class with the retrained label.", "answers"),
    Column("ridge", "ridge probe", "target", "points", "Against the retrained network's features.", "features"),
    Column("mlp", "MLP probe", "target", "points", "A small network of two layers, 3 seeds.", "features"),
    Column("centre", "nearest centre", "target", "points", "Nearest class mean.", "features"),
    Column("nmi", "NMI", "target", None, "Normalised mutual information of clusters and classes.", "features"),
    Column("tow", "ToW", "higher", None, "Product of one minus the three gaps, from 0 to 1.", "summary"),
    Column("relearn", "after 50 steps", "target", "share", "Class accuracy after 50 steps.", "summary"),
    Column("seconds", "time", "lower", "seconds", "Recording, solving, applying; one core.", "summary"),
]


def sample(seed: int = 0, **changes) -> Result:
    """Twelve rows and columns with intervals and holes, a target row, long notes and a chart of every kind."""
    draw = np.random.default_rng(seed)

    def around(value, spread):
        low, high = sorted(value + spread * draw.uniform(-1, 1, 2))
        return {"value": float(value), "low": float(min(low, value)), "high": float(max(high, value))}

    rows = []
    for number, name in enumerate(ROWS):
        distance = {"untouched": 1.0, "retrained, seed 0": 0.0, "retrained, seed 1": 0.01}.get(
            name, draw.uniform(0, 0.4)
        )
        row = {
            "edit": name,
            "target": around(0.96 * distance, 0.02),
            "others": around(0.12 * distance - 0.002, 0.004) if name != "untouched" else 0.0,
            "worst": 0.3 * distance + draw.uniform(0, 0.01),
            "same": around(1 - distance * 0.9, 0.03),
            "ridge": around(draw.uniform(-0.2, 0.25), 0.02) if name != "retrained, seed 0" else 0.0,
            "mlp": draw.uniform(-0.1, 0.2) if number % 4 and name != "retrained, seed 0" else None,
            "centre": draw.uniform(-0.3, 0.3) if name != "retrained, seed 0" else 0.0,
            "nmi": draw.uniform(0.4, 0.9),
            "tow": around(1 - distance, 0.01),
            "relearn": draw.uniform(0.3, 1),
            "seconds": float(10 ** draw.uniform(-1, 2)) if number > 2 else None,
        }
        rows.append(row)
    rows[1]["mlp"] = 0.0
    table = Table(
        "edits",
        "One class taken out of a residual network",
        COLUMNS,
        rows,
        note="CIFAR-10, mean over ten classes. Strengths were chosen on training images. Intervals: bootstrap over "
        "test images, 95 %, 1000 resamples.",
        target_row="retrained, seed 0",
        reference_rows=["untouched", "retrained, seed 1"],
        row_notes=ROWS,
    )
    small = Table(
        "layers",
        "Where it sat",
        [
            Column("layer", "layer"),
            Column("kind", "kind"),
            Column("rank", "kept rank", unit="count"),
            Column("size", "moment", unit="bytes"),
            Column("auroc", "AUROC", "higher", note="0.5 is chance."),
        ],
        [
            {"layer": f"layer{i}.conv", "kind": ["3 x 3", "1 x 1"][i % 2], "rank": 16 * i, "size": 4000 * 9**i,
             "auroc": around(0.5 + 0.1 * i, 0.05)}
            for i in range(4)
        ],
    )  # fmt: skip
    alphas = [0.25, 0.5, 1.0, 1.5, 2.0]
    front = [
        Series(
            name,
            x=[float(0.9 * np.exp(-a * k)) for a in alphas],
            y=[float(0.001 * k * np.exp(1.5 * a)) for a in alphas],
            labels=[f"{a:g}" for a in alphas] if name == "paper" else (),
        )
        for k, name in enumerate(["paper", "sharpened", "LEACE", "ridge"], 1)
    ]
    digits = [str(digit) for digit in range(10)]
    charts = [
        Chart(
            "pareto",
            "What forgetting costs",
            [*front, Series("retrained", x=[0.002], y=[0.003], target=True)],
            x_label="class still answered",
            y_label="others fall",
            x_unit="share",
            y_unit="points",
            y_scale="log",
            note="A point per strength alpha, which is written at the paper's. The star is where a network is that "
            "never learned the class.",
        ),
        Chart(
            "relearning",
            "How fast the class comes back",
            [
                Series(
                    name,
                    x=[0, 10, 20, 30, 40, 50],
                    y=[float(1 - np.exp(-k * s / 30)) for s in range(0, 51, 10)],
                    low=[float(0.95 - np.exp(-k * s / 30)) for s in range(0, 51, 10)],
                    high=[float(1.05 - np.exp(-k * s / 30)) for s in range(0, 51, 10)],
                    target=name == "retrained",
                )
                for k, name in ((1, "paper"), (0.6, "sharpened"), (0.5, "retrained"))
            ],
            x_label="steps",
            y_label="class accuracy",
            y_unit="share",
            note="Below the dashed line the memory is harder to learn again than for a network that never had it.",
        ),
        Chart(
            "probes",
            "What can still be read in the features",
            [
                Series(name, x=["ridge", "MLP", "nearest centre"], y=[*map(float, draw.uniform(-0.2, 0.3, 3))],
                       low=[-0.25] * 3, high=[0.35] * 3)
                for name in ("paper", "sharpened", "LEACE")
            ],
            kind="bars",
            y_label="against the retrained network",
            y_unit="points",
            note="Zero is the retrained network: above it the class is read better, below it was erased too far.",
        ),
        Chart(
            "matrix",
            "What each class loses",
            [
                Series(f"class {digit}", digits, [None if d == digit else draw.uniform(-0.02, 0.1) for d in digits])
                for digit in digits
            ],
            kind="heat",
            x_label="class shown",
            y_label="class taken out",
            y_unit="points",
            note="Fall of the accuracy, by class. The diagonal is left out.",
        ),
    ]  # fmt: skip
    given = {
        "study": "closed_forms",
        "title": "Closed forms beside the network that never learned the class",
        "summary": "Can a formula make a network as if it had never learned one of its classes? Twelve edits were "
        "measured against a network that was trained without it. An edit is good where its numbers are those of that "
        "network: erasing more is as wrong as erasing less.\n\nNone of them is. The sharpened filter comes nearest in "
        "what the network answers, and every edit leaves more in the features than retraining does. One architecture.",
        "tables": [table, small],
        "charts": charts,
        "provenance": made_by(
            seeds=[seed, seed + 1],
            data={"CIFAR-10": "5f1c0a77b2e94d0c"},
            command="python -m benchmarks.closed_forms --config benchmarks/closed_forms/config.json",
            versions={"lashley": "0.1.0", "torch": "2.13.0"},
            python="3.11.7",
            system="Linux",
            machine="x86_64",
            threads=1,
            devices=[],
        ),
        "settings": {"seed": seed, "epochs": 5, "alphas": alphas, "kodge": {"grid": [10, 30, 100], "chosen": 30}},
    }
    return Result(**{**given, **changes})
