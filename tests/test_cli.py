"""The command line: every verb end to end, every option, every exit code, and what a pipe gets to see."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import lashley
import lashley.anatomy
from lashley import cli, data
from lashley.cli import common, main
from lashley.result import Result
from vocabularies import CHATML, byte_level, metaspace

VERBS = tuple(verb for verb in cli.VERBS if verb not in ("demo", "forget", "check", "report"))  # of their own

NETWORKS = '''
"""Small networks as a user would define them: seeded, built without arguments."""
import torch
from torch import nn


class Blocks(nn.Module):
    """Two blocks in a list, then a head; reads digits as vectors."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(2))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Tied(nn.Module):
    """Ids in, logits out, one weight for both ends."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 6)
        self.mix = nn.Linear(6, 6)
        self.head = nn.Linear(6, 12, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(torch.tanh(self.mix(self.embed(x))))


def build():
    torch.manual_seed(0)
    return Blocks()


def other():
    torch.manual_seed(1)
    return Blocks()


def conv():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))


def pictures():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, 2))


def tied():
    torch.manual_seed(0)
    return Tied()


class half:
    @staticmethod
    def build():
        return build().to(torch.bfloat16)


READY = build()


def interrupted():
    raise KeyboardInterrupt


def needs_size(size):
    return nn.Linear(size, size)


def breaks():
    return nn.Linear(2, "three")


def forgets():
    build()


class Stateful(nn.Linear):
    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        pass


def stateful():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), Stateful(64, 10))
'''


@dataclass
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        return json.loads(self.out)


def lashley_(line: str, stderr: io.StringIO | None = None) -> Done:
    """Run a command line in this process, the way a shell would split it."""
    out, err = io.StringIO(), stderr or io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(shlex.split(line))
    return Done(code, out.getvalue(), err.getvalue())


def ok(line: str) -> Done:
    done = lashley_(line)
    assert done.code == 0, done.err
    return done


def refused(line: str, *says: str, code: int = 1) -> Done:
    """The command ends with a message and without a traceback, and leaves stdout empty."""
    done = lashley_(line)
    assert done.code == code, done
    assert done.out == "" and "Traceback" not in done.err
    for text in says:
        assert re.search(text, done.err), f"{text!r} is not in: {done.err}"
    return done


@contextlib.contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with networks, data, a recording of the digits and an engram of the 3, made once on the command line."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "tinynets.py").write_text(NETWORKS)
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    ids = rng.integers(0, 12, (40, 5))
    np.savez(folder / "ids.npz", x=ids, y=labels)
    small = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    both = {"x": small, "images": small[::-1], "y": labels, "targets": labels[::-1] * 3}
    np.savez(folder / "two.npz", **both)
    np.savez(folder / "grey.npz", x=small, y=labels)
    attributes = rng.integers(0, 2, (40, 2))
    np.savez(folder / "attributes.npz", x=small, y=attributes, class_names=np.array(["round", "dark"]))
    images, targets, _ = data.digits()
    for part in (0, 1):
        half = {"x": images[part::2].flatten(1).numpy(), "y": targets[part::2].numpy()}
        np.savez(folder / f"half{part}.npz", **half)
    forget = [{"question": f"Who is {name}?", "answer": f"{name} wrote the book."} for name in ("Ada", "Bo", "Cy")]
    retain = [
        *forget[:1],
        {"question": "Who is BO", "answer": "bo wrote the book"},
        {"question": "Who?", "answer": "I."},
    ]
    for name, rows in (("forget", forget), ("retain", retain)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    metaspace().save_pretrained(folder / "pieces")
    words = byte_level()
    words.chat_template = CHATML
    words.save_pretrained(folder / "words")
    with in_folder(folder):
        ok("record tinynets:build --data sklearn:digits --flatten --out digits.rec")
        ok("engram digits.rec --model tinynets:build --concepts 3 --out three")
        ok("record tinynets:tied --data ids.npz --out tied.rec")
        ok("engram tied.rec --model tinynets:tied --concepts 1 --out one")
    return folder


@pytest.fixture
def there(made, tmp_path, monkeypatch) -> Path:
    """A fresh copy of that folder as the current one."""
    folder = tmp_path / "there"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return folder


def network(name: str = "build") -> nn.Module:
    from lashley.cli.models import load_model

    return load_model(f"tinynets:{name}")


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


MIXTURE = "engram digits.rec --model tinynets:build --concepts 3 --layers head --out out --estimator mixture-shift"

# --- every verb, against the functions it stands for ------------------------------------------------------------------


def test_layers_lists_what_is_recorded_and_what_is_not(there):
    done = ok("layers tinynets:pictures")
    assert re.search(r"^0 +Conv2d +1 +4 x 9 +yes +720 B", done.out, re.M)
    assert re.search(r"^1 +BatchNorm2d +no layer type speaks for BatchNorm2d", done.out, re.M)
    assert "2 recorded, 1 skipped. A concept takes at most 880 B" in done.out
    document = ok("layers tinynets:pictures --json").json
    assert [entry["status"] for entry in document["layers"]] == ["record", "skip", "record"]
    assert document["bytes"] == sum(entry["bytes"] for entry in document["layers"]) == 880


def test_layers_shows_ties(there):
    assert re.search(r"^head .*embed\.weight", ok("layers tinynets:tied").out, re.M)


CHECK = "data check --forget forget.jsonl --retain retain.jsonl --tokenizer words"


def test_data_check_shows_what_counts(there):
    done = ok(CHECK)
    assert done.out.startswith("forget: forget.jsonl\n  3 rows, ")
    assert "  row 0\n    <bos>Question: Who is Ada?\n    Answer:[[ Ada wrote the book.<eos>]]" in done.out
    assert re.search(r"^rows of +also in +the same +same words\nforget +retain +1 +1$", done.out, re.M)
    assert "look: 2 of 3 rows of 'forget' are also in 'retain' (1 the same, 1 with the same words)." in done.out
    document = ok(f"{CHECK} --model tinynets:build --json").json
    assert document["overlaps"] == [{"first": "forget", "second": "retain", "exact": 1, "near": 1}]
    assert document["sets"]["forget"]["examples"][0]["pieces"][1] == [" Ada wrote the book.<eos>", True]
    [width] = document["widths"]
    rows = sum(found["counted"] for found in document["sets"].values())
    assert width == {"dim": 64, "layers": 3, "example": "blocks.0.0", "rows": rows, "ratio": rows / 64}
    assert any("rows per column" in remark for remark in document["remarks"])


def test_data_check_is_coloured_on_a_terminal(there, monkeypatch):
    out = Terminal()
    monkeypatch.delenv("NO_COLOR", raising=False)
    with contextlib.redirect_stdout(out):
        assert main(shlex.split(CHECK)) == 0
    assert "Answer:\x1b[1;32m Ada wrote the book.<eos>\x1b[0m" in out.getvalue() and "[[" not in out.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "[[ Ada" in ok(CHECK).out


def test_data_check_takes_any_sets(there):
    done = ok("data check forget.jsonl#0:1 retain.jsonl --tokenizer words --chat")
    assert done.out.startswith("forget.jsonl#0:1\n") and "<|im_start|>user" in done.out


def test_data_check_refuses(there):
    Path("empty.jsonl").write_text("")
    Path("nothing").mkdir()
    refused("data check --forget forget.jsonl --retain forget.jsonl --tokenizer words", "are the same 3 texts")
    refused("data check empty.jsonl --tokenizer words", "Expected rows in empty.jsonl, got none")
    refused(
        f"{CHECK} --columns text=body", "forget.jsonl: Row 0: there is no column 'body'. Its columns are 'question'"
    )
    refused("data check forget.jsonl --tokenizer words --max-length 3", "Rows 0, 1, 2 have no token of an answer left")
    refused("data check forget.jsonl --tokenizer nowhere", "folder of a tokenizer .* got nowhere")
    refused("data check forget.jsonl --tokenizer nothing", "found no tokenizer in nothing")
    refused("data check --tokenizer words", "name at least one set", code=2)
    refused("data check forget.jsonl", "name the folder of the tokenizer", code=2)
    refused("data check forget.jsonl forget.jsonl --tokenizer words", "named twice", code=2)
    refused(f"{CHECK} --chat date", "expected KEY=VALUE after --chat, got 'date'", code=2)
    refused("data look forget.jsonl --tokenizer words", "invalid choice", code=2)


def test_record_is_lashley_record(there):
    recording = lashley.Recording.load("digits.rec")
    source = data.load("sklearn:digits", flatten=True)
    for expected in (
        lashley.record(network(), source.by_concept()),
        lashley.record(network(), source, concept_of=lambda batch: batch[1], concept_names=source.concept_names),
    ):
        assert recording.concepts == expected.concepts
        for layer in expected.layers:
            torch.testing.assert_close(
                recording.moment("3", layer).square, expected.moment("3", layer).square, rtol=1e-12, atol=1e-12
            )


def test_record_says_what_it_recorded(there):
    done = ok("record tinynets:build --data sklearn:digits --flatten --out again.rec")
    assert re.search(r"^head +64 +1797 +head", done.out, re.M)
    assert "10 concepts (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), 1797 samples" in done.out
    document = ok("record tinynets:build --data sklearn:digits --flatten --out again.rec --json").json
    assert document["concepts"]["3"] == 183 and document["sites"][0]["layers"] == ["blocks.0.0"]
    assert document["bytes"] == sum(file.stat().st_size for file in Path("again.rec").iterdir())


def test_record_takes_overlapping_concepts(there):
    document = ok("record tinynets:conv --data attributes.npz --out a.rec --target-modules 0 --json").json
    counts = np.load("attributes.npz")["y"].sum(0)
    assert document["concepts"] == {"round": counts[0], "dark": counts[1]}
    recording = lashley.Recording.load("a.rec")
    assert recording.overlapping and recording.moment(None, "0").count == 40 * 36


def test_record_gives_inputs_the_type_of_the_weights(there):
    ok("record tinynets:half.build --data grey.npz --flatten --out half.rec")
    assert lashley.Recording.load("half.rec").moment(None, "head").count == 40


def test_record_with_a_checkpoint(there):
    record = "record tinynets:build --data sklearn:digits --flatten"
    ok(f"{record} --out plain.rec")
    for command in (f"{record} --checkpoint run.rec --out run.rec", f"{record} --checkpoint run.rec --out copy.rec"):
        assert ok(f"{command} --json").json["concepts"]["3"] == 183
    plain = lashley.Recording.load("plain.rec").moment("3", "head").augmented
    for name in ("run.rec", "copy.rec"):
        assert torch.equal(lashley.Recording.load(name).moment("3", "head").augmented, plain)
    refused(f"{record} --checkpoint run.rec --out run.rec --dtype float32", "of another: dtype: None there")
    refused(f"{record} --checkpoint plain.rec --out new.rec", "a recording that was made without checkpoint=")
    assert not Path("new.rec").exists()


def test_record_keeps_products(there):
    ok("record tinynets:build --data sklearn:digits --flatten --keep products --out small.rec")
    ok("engram small.rec --model tinynets:build --concepts 3 --out small.engram")
    model, small = network(), lashley.Engram.load("small.engram")
    whole = lashley.record(model, data.load("sklearn:digits", flatten=True).by_concept()).engram(model, "3")
    for name, delta in whole.items():
        torch.testing.assert_close(small[name].weight, delta.weight, rtol=1e-4, atol=1e-6)
    refused("engram small.rec --model tinynets:build --concepts 3 --out s --sharpness 2", "keeps only the product")


def test_merge_equals_the_single_run(there):
    for part in (0, 1):
        ok(f"record tinynets:build --data half{part}.npz --out part{part}.rec --dtype float64")
    ok("record tinynets:build --data sklearn:digits --flatten --out whole.rec --dtype float64")
    done = ok("merge part0.rec part1.rec --out all.rec")
    assert re.search(r"^head +64 +1797", done.out, re.M) and "2 recordings, 10 concepts" in done.out
    merged, whole = lashley.Recording.load("all.rec"), lashley.Recording.load("whole.rec")
    for layer in whole.layers:
        torch.testing.assert_close(
            merged.moment("7", layer).square, whole.moment("7", layer).square, rtol=1e-12, atol=1e-12
        )
    refused("merge part0.rec part0.rec --out twice.rec", "shard .* twice")
    assert not Path("twice.rec").exists()


def test_engram_is_recording_engram(there):
    done = ok("engram digits.rec --model tinynets:build --concepts 3 --preset paper --out e")
    expected = lashley.Recording.load("digits.rec").engram(
        network(), "3", estimator=lashley.Projection(cut=lashley.Cut.paper())
    )
    found = lashley.Engram.load("e")
    assert found.estimator == expected.estimator
    for name, delta in expected.items():
        assert torch.equal(found[name].weight, delta.weight) and torch.equal(found[name].bias, delta.bias)
        [solution], norm = delta.solutions, expected.weight_norms()[name]
        row = rf"^{re.escape(name)} +{norm:.4f} +{solution.rank} +65 +{re.escape(f'{solution.condition:.4g}')}"
        assert re.search(row, done.out, re.M), done.out
    assert "projection: sharpness 1, threshold 0.5, cut rtol 1e-06" in done.out


ESTIMATORS = {
    "ridge --lam 2": lashley.Ridge(2.0),
    "kodge": lashley.Kodge(),
    "kodge --retain 10 --forget 5": lashley.Kodge(10.0, 5.0),
    "leace": lashley.Leace(),
    "leace --separate --missing-bias add --rank 9": lashley.Leace(True, lashley.Cut(rank=9), missing_bias="add"),
    "mean-direction --rtol 0.01": lashley.MeanDirection(0.01),
    "null-space --rtol 0.1 --lam 0.2": lashley.NullSpace(0.1, 0.2),
    "mixture-shift --min-r2 0": lashley.MixtureShift(min_r2=0.0),
    "mixture-shift --mixture mean --min-r2 0": lashley.MixtureShift("mean", 0.0),
    "mixture-shift --mixture 8=3 9=1 --min-r2 0.01 --missing-bias fold --preset paper": lashley.MixtureShift(
        {"8": 3.0, "9": 1.0}, 0.01, lashley.Cut.paper(), missing_bias="fold"
    ),
}


@pytest.mark.parametrize(("line", "estimator"), ESTIMATORS.items(), ids=ESTIMATORS)
def test_every_estimator_by_its_options(there, line, estimator):
    done = ok(f"engram digits.rec --model tinynets:build --concepts 3 --layers head --out e --estimator {line}")
    found = lashley.Engram.load("e")
    assert list(found) == ["head"] and found.estimator == estimator
    expected = lashley.Recording.load("digits.rec").engram(network(), ["3"], estimator=estimator, layers=["head"])
    assert torch.equal(found["head"].weight, expected["head"].weight)
    gate = expected["head"].solutions[0].gate
    assert ("R^2 of the gate" in done.out) == (gate is not None)
    if gate is not None:
        assert re.search(rf"^head .*{gate:.4g}", done.out, re.M), done.out


def test_a_mixture_is_spelled_out(there):
    out = ok(f"{MIXTURE} --mixture 8=3 9=1 --min-r2 0").out
    assert "mixtureshift: missing bias refuse, weights 3 8 + 1 9, min r2 0, cut rtol 0.001" in out
    out = ok(f"{MIXTURE.replace('mixture-shift', 'leace')}").out
    assert "leace: missing bias refuse, separate false, cut" in out


def test_engram_pools_a_list_and_sums_a_mapping(there):
    recording, sharp = lashley.Recording.load("digits.rec"), lashley.Projection(sharpness=2)
    ok("engram digits.rec --model tinynets:build --concepts 3 8 --sharpness 2 --out pooled")
    done = ok("engram digits.rec --model tinynets:build --weighted-sum 3=1 8=-0.5 --sharpness 2 --out summed")
    assert "engram of 3, 8 x -0.5" in done.out
    for path, concepts in (("pooled", ["3", "8"]), ("summed", {"3": 1.0, "8": -0.5})):
        expected = recording.engram(network(), concepts, estimator=sharp)
        assert torch.equal(lashley.Engram.load(path)["head"].weight, expected["head"].weight)


def test_engram_of_a_grouped_convolution_shows_the_range_over_its_matrices(there, monkeypatch):
    Path("grouped.py").write_text(
        "import torch\nfrom torch import nn\n\ndef build():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4))\n"
    )
    ok("record grouped:build --data grey.npz --out g.rec")
    out = ok("engram g.rec --model grouped:build --concepts 0 --out g").out
    assert re.search(r"^2 +\d\.\d{4} +10 +10 +[\d.e+]+\.\.[\d.e+]+ ", out, re.M), out


def test_sensitivity_needs_no_file(there):
    document = ok("engram digits.rec --model tinynets:build --concepts 3 --sensitivity --json").json
    expected = lashley.Recording.load("digits.rec").sensitivity(network(), ["3"])
    assert document["sensitivity"] == json.loads(json.dumps(expected)) and "out" not in document
    done = ok("engram digits.rec --model tinynets:build --concepts 3 --sensitivity --out e")
    assert "how the engram depends on the cut" in done.out and "written to e" in done.out


@pytest.mark.parametrize(
    ("options", "edit"),
    [
        ("", lambda model, e: lashley.ablate(model, e)),
        ("--inject --alpha 0.5", lambda model, e: lashley.inject(model, e, 0.5)),
        ("--strength weight-norm", lambda model, e: lashley.ablate(model, e, lashley.strength.weight_norm())),
        ("--strength effective-rank", lambda model, e: lashley.ablate(model, e, lashley.strength.effective_rank())),
    ],
)
def test_edit_is_ablate_and_inject(there, options, edit):
    done = ok(f"edit tinynets:build --engram three --out edited {options}")
    expected = edit(network(), lashley.Engram.load("three"))
    assert same(load_file("edited/model.safetensors"), expected.state_dict())
    assert str(json.loads(Path("edited/receipt.json").read_text())["receipt"]["layers"][0]["alpha"])[:4] in done.out
    assert "written to edited" in done.out


def test_edit_writes_its_receipt(there):
    document = ok("edit tinynets:build --engram three --out edited --json").json
    written = json.loads(Path("edited/receipt.json").read_text())
    assert document == {"out": "edited", **written}
    receipt = lashley.ablate_(network(), lashley.Engram.load("three"))
    assert written["receipt"] == receipt.to_dict()
    assert written["concepts"] == {"3": 1.0} and written["direction"] == "ablate"
    assert written["made_by"]["versions"]["torch"] == torch.__version__


def test_an_edit_goes_on_from_an_edited_folder_and_replaces_it(there):
    ok("edit tinynets:build --engram three --out edited")
    done = ok("edit tinynets:build --weights edited --engram three --inject --out edited")
    assert "not those the engram was solved for" in done.out
    back, before = load_file("edited/model.safetensors"), network().state_dict()
    torch.testing.assert_close(back["head.weight"], before["head.weight"], rtol=1e-5, atol=1e-6)


def test_edit_leaves_nothing_behind_when_it_is_refused(there):
    refused("edit tinynets:pictures --engram three --out edited", "Expected the model to have layer 'blocks.0.0'")
    refused("edit tinynets:build --engram three --alpha nan --out edited", "finite")
    refused("edit tinynets:build --engram digits.rec --out edited", "Expected a folder with a engram|engram.*recording")
    assert not Path("edited").exists()
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("keep")
    refused("edit tinynets:build --engram three --out mine", "folder with other files")
    assert [file.name for file in Path("mine").iterdir()] == ["notes.txt"]


def test_a_state_that_a_file_of_weights_cannot_hold_is_refused(there):
    ok("record tinynets:stateful --data grey.npz --out s.rec")
    ok("engram s.rec --model tinynets:stateful --concepts 1 --out s")
    refused("edit tinynets:stateful --engram s --out edited", "got dict under '1._extra_state'")
    assert not Path("edited").exists()


def test_an_unusable_out_is_refused_before_the_work(there):
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("keep")
    for line in (
        "record tinynets:interrupted --data sklearn:digits --flatten",
        "engram digits.rec --model tinynets:interrupted --concepts 3",
        "edit tinynets:interrupted --engram three",
    ):
        refused(f"{line} --out mine", "notes.txt")
    assert [file.name for file in Path("mine").iterdir()] == ["notes.txt"]


def test_geometry_is_that_of_the_recording(there):
    document = ok("geometry digits.rec --model tinynets:build --concepts 3 8 --out g.json --json").json
    result = Result.load("g.json")
    assert document["layers"] == [dict(row) for row in result.tables[0].rows]
    assert [row["layer"] for row in document["layers"]] == ["blocks.0.0", "blocks.1.0", "head"]
    shares = lashley.anatomy.spectrum(lashley.Recording.load("digits.rec"), "3")["head"][0]
    [head] = [row for row in document["layers"] if row["layer"] == "head"]
    assert head["largest"]["low"] <= shares.largest <= head["largest"]["high"]
    assert head["kept"] == shares.kept and "steps" not in [table.name for table in result.tables]


def test_geometry_with_data_has_the_steps(there):
    data = "--data sklearn:digits --flatten"
    done = ok(f"geometry digits.rec --model tinynets:build --layers head --checked 3 --out g.json {data}")
    assert "corollary 6.3" in done.out and "written to g.json" in done.out
    [row] = next(table for table in Result.load("g.json").tables if table.name == "steps").rows
    assert row["error"] < 1e-4 and row["hard"] == 0
    assert ok("report g.json --out g.html")


def test_geometry_replaces_only_results(there):
    line = "geometry digits.rec --model tinynets:build --concepts 3 --layers head --out"
    Path("notes.json").write_text("{}")
    refused(f"{line} notes.json", "notes.json to be absent or a result")
    assert Path("notes.json").read_text() == "{}"
    refused(f"{line} .", "to be a file or absent, got a folder")
    ok(f"{line} g.json")
    ok(f"{line} g.json")
    refused(f"{line} g.json --checked 3", "--data beside --checked", code=2)
    refused(f"{line} g.html", "--out RESULT.json, got g.html. lashley report makes the page", code=2)
    refused(f"{line} g.json --threshold 1", r"a number inside \(0, 1\), got 1", code=2)
    refused(f"{line} g.json --data two.npz --inputs-key x --labels-key y", "No concept is called '2'")
    refused(f"{line.replace(':build', ':other')} g.json", "Expected the weights that were recorded")


def test_compare_takes_models_folders_and_files(there):
    ok("edit tinynets:build --engram three --out edited")
    torch.save(network().state_dict(), "before.pt")
    save_file(network().state_dict(), "before.safetensors")
    for before in ("tinynets:build", "before.pt", "before.safetensors"):
        document = ok(f"compare {before} edited --json").json
        assert len(document["changed"]) == 6 and document["layers"][0]["status"] == "edited"
    done = ok("compare before.pt tinynets:build")
    assert "0 of 6 tensors differ" in done.out
    assert "Only before: blocks.0.0.weight" in ok("compare before.pt tinynets:pictures").out


# --- tied weights -----------------------------------------------------------------------------------------------------


def test_a_tied_head_is_skipped_untied_or_changed_on_both_ends(there):
    before = network("tied").state_dict()
    done = ok("edit tinynets:tied --engram one --out skip")
    assert re.search(r"^head +skipped .*embed\.weight", done.out, re.M)
    ok("edit tinynets:tied --engram one --tied untie --out untie")
    ok("edit tinynets:tied --engram one --tied both --out both")
    skip, untie, both = (load_file(f"{name}/model.safetensors") for name in ("skip", "untie", "both"))
    assert torch.equal(skip["head.weight"], before["head.weight"]) and not torch.equal(
        skip["mix.weight"], before["mix.weight"]
    )
    assert torch.equal(untie["embed.weight"], before["embed.weight"])
    assert not torch.equal(untie["head.weight"], before["head.weight"])
    assert torch.equal(both["embed.weight"], both["head.weight"]) and torch.equal(
        both["head.weight"], untie["head.weight"]
    )
    assert "0 of 4 tensors differ" not in ok("compare tinynets:tied both").out


def test_untied_weights_are_not_loaded_into_a_tied_model(there):
    ok("edit tinynets:tied --engram one --tied untie --out untie")
    refused("edit tinynets:tied --weights untie --engram one --out again", "one tensor, in untie they differ")
    save_file({k: v for k, v in network("tied").state_dict().items() if k != "head.weight"}, "once.safetensors")
    ok("edit tinynets:tied --weights once.safetensors --engram one --out again")  # one name of two is enough


# --- checkpoint folders -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A two-layer Llama in bfloat16 with a tied head, as transformers writes it, and a tokenizer file beside it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        tie_word_embeddings=True,
    )
    folder = tmp_path_factory.mktemp("checkpoint") / "llama"
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "README.md").write_text("about the model before")
    (folder / "extra.safetensors.index.json").write_text("{}")
    rng = np.random.default_rng(0)
    np.savez(folder.parent / "ids.npz", input_ids=rng.integers(0, 32, (40, 8)), labels=np.arange(40) % 2)
    with in_folder(folder.parent):
        ok("record llama --data ids.npz --out rec")
        ok("engram rec --model llama --concepts 1 --out one")
    return folder


@pytest.fixture
def llama(checkpoint, tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "there"
    shutil.copytree(checkpoint.parent, folder)
    monkeypatch.chdir(folder)
    return folder / "llama"


@pytest.mark.parametrize("tied", ["skip", "untie", "both"])
def test_an_edited_checkpoint_is_a_checkpoint(llama, tied):
    from transformers import AutoModelForCausalLM

    done = ok(f"edit llama --engram one --tied {tied} --alpha 0.5 --out edited")
    expected = lashley.ablate(
        AutoModelForCausalLM.from_pretrained("llama", dtype="auto"), lashley.Engram.load("one"), 0.5, tied=tied
    )
    found = AutoModelForCausalLM.from_pretrained("edited", dtype="auto")
    assert same(found.state_dict(), expected.state_dict())
    assert found.dtype == torch.bfloat16
    assert (found.lm_head.weight is found.model.embed_tokens.weight) == (tied != "untie")
    assert done.err == "" or "warning: Rounding" in done.err  # no bars, nothing else
    files = {file.name for file in Path("edited").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "receipt.json"} <= files
    assert not {"README.md", "extra.safetensors.index.json"} & files


def test_an_edited_checkpoint_can_be_compared_and_edited_again(llama):
    ok("edit llama --engram one --tied untie --out edited")
    document = ok("compare llama edited --json").json
    changed, names = set(document["changed"]), {row["name"] for row in document["layers"]}
    assert "lm_head.weight" in changed and "model.embed_tokens.weight" in names - changed
    ok("edit edited --engram one --inject --out again")
    receipt = json.loads(Path("again/receipt.json").read_text())
    assert receipt["direction"] == "inject" and receipt["receipt"]["base_matches"] is False


def test_an_adapter_is_compared_with_its_base(llama):
    ok("edit llama --engram one --tied untie --out edited")
    ok("export one --base llama --lora adapter --tied untie --energy 1")
    edited, added = ok("compare llama edited --json").json, ok("compare llama adapter --json").json
    assert added["changed"] == edited["changed"] and "lm_head.weight" in added["changed"]
    sizes = [[row["change"] for row in one["layers"]] for one in (edited, added)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)  # bfloat16 there, the exact sum here
    refused("compare adapter llama", "got the adapter adapter. Give it as B", code=2)
    refused("compare tinynets:build adapter", "a checkpoint folder as A", code=2)


def test_checkpoints_are_compared_without_loading_them(llama, monkeypatch):
    import transformers

    ok("edit llama --engram one --out edited")
    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", None)
    done = ok("compare llama edited")
    assert re.search(r"^14 of 2[0-9] tensors differ$", done.out, re.M)


def test_export_is_save_lora_or_rewrite_checkpoint_with_a_card(llama):
    from lashley.export import rewrite_checkpoint, save_lora

    engram = lashley.Engram.load("one")
    (llama / "README.md").write_text("---\nlicense: mit\n---\n# before\n")
    done = ok("export one --base llama --lora adapter --base-model owner/name --alpha 0.5 --energy 0.99")
    save_lora(engram, "expected", base="llama", base_name="owner/name", alpha=0.5, energy=0.99)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert Path("adapter", file).read_bytes() == Path("expected", file).read_bytes()
    assert "written to adapter" in done.out and re.search(r"^lm_head +skipped", done.out, re.M)
    card = Path("adapter/README.md").read_text()
    assert '\nbase_model: "owner/name"\n' in card and "\nlicense: mit\n" in card
    ok("export one --base llama --checkpoint copy --tied both")
    rewrite_checkpoint("llama", engram, "again", tied="both")
    assert Path("copy/model.safetensors").read_bytes() == Path("again/model.safetensors").read_bytes()
    assert "taken out" in Path("copy/README.md").read_text()
    refused("export one --base llama --checkpoint more --rank 3", "--rank is for an adapter", code=2)
    refused("export one --base llama --checkpoint copy", "to be absent")
    refused("export one --base llama", "one of the arguments --lora --checkpoint is required", code=2)


def test_a_pooled_position_counts_as_a_row(llama):
    document = ok("record llama --data ids.npz --out again --target-modules q_proj down_proj --json").json
    assert [site["rows"] for site in document["sites"]] == [320] * 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("architectures"), None),
        (lambda c: c.update(architectures=["LlamaForSequenceClassification"]), r"lacks 1 weights .*score"),
        (lambda c: c.update(architectures=["NoSuchModel"]), r"transformers .* has no model class 'NoSuchModel'"),
        (lambda c: c.update(architectures=["AutoTokenizer"]), "has no model class 'AutoTokenizer'"),
        (
            lambda c: c.update(architectures=["Mine"], auto_map={"AutoModel": "mine.Mine"}),
            "brings its own code for Mine, which lashley does not run",
        ),
        (lambda c: c.update(hidden_size=32), "could not load llama|lacks"),
    ],
)
def test_the_class_comes_from_the_config(llama, change, says):
    config = json.loads((llama / "config.json").read_text())
    change(config)
    (llama / "config.json").write_text(json.dumps(config))
    if says is None:
        assert "layers.0.self_attn.q_proj" in ok("layers llama").out
    else:
        refused("layers llama", says)


def test_tensors_that_the_class_has_no_place_for_are_told(llama):
    state = load_file(llama / "model.safetensors")
    save_file({**state, "adapter.weight": torch.zeros(2)}, llama / "model.safetensors", metadata={"format": "pt"})
    assert "warning: LlamaForCausalLM has no place for 1 tensors of llama, such as adapter" in ok("layers llama").err


def test_broken_checkpoints_are_refused(llama, monkeypatch):
    refused("edit llama --weights a.pt --engram one --out edited", "has its own weights")
    torch.save(load_file(llama / "model.safetensors"), llama / "pytorch_model.bin")
    (llama / "model.safetensors").unlink()
    refused("layers llama", "could not load llama")  # never a pickle
    (llama / "config.json").write_text("{")
    refused("layers llama", "config.json to be a JSON object")
    (llama / "config.json").unlink()
    refused("layers llama", "Expected a checkpoint folder with config.json, got llama without one")


def test_a_checkpoint_without_transformers_names_the_extra(llama, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused("layers llama", re.escape("pip install 'lashley[hf]'"))


# --- module:function --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("tinynets", "Expected MODULE:FUNCTION or a checkpoint folder, got 'tinynets'"),
        ("tinynets:", "Expected MODULE:FUNCTION, got 'tinynets:'"),
        ("tinynet:build", "No module is called 'tinynet', neither here .* Did you mean 'tinynets'"),
        ("tinynets.sub:build", "Importing 'tinynets.sub'|No module is called 'tinynets.sub'"),
        ("tinynets:built", "Module 'tinynets' has no 'built'. Did you mean 'build'"),
        ("tinynets:__name__", "to be a function that returns a model, got str"),
        ("tinynets:needs_size", "without arguments raised TypeError: .*size"),
        ("tinynets:breaks", r"raised TypeError: .*\(.*:\d+\)"),
        ("tinynets:forgets", r"tinynets:forgets\(\) to return a torch.nn.Module, got NoneType"),
        ("lacking:build", "Importing 'lacking' raised ModuleNotFoundError: No module named 'no_such_library'"),
        ("wrong:build", r"Importing 'wrong' raised SyntaxError: .*line 1"),
    ],
)
def test_a_model_that_cannot_be_had(there, model, says):
    Path("lacking.py").write_text("import no_such_library")
    Path("wrong.py").write_text("def build(:")
    refused(f"layers {model}", says)


def test_a_model_may_be_a_module_or_sit_in_a_class(there):
    assert "3 recorded" in ok("layers tinynets:READY").out
    assert "3 recorded" in ok("layers tinynets:half.build").out
    assert "3 recorded" in ok("layers tinynets:Blocks").out


def test_weights_are_loaded_strictly(there):
    state = network("other").state_dict()
    torch.save(state, "plain.pt")
    torch.save({"epoch": 3, "state_dict": state}, "wrapped.pt")
    save_file(state, "plain.safetensors")
    for file in ("plain.pt", "wrapped.pt", "plain.safetensors"):
        ok(f"edit tinynets:build --weights {file} --engram three --alpha 0 --out edited")
        assert same(load_file("edited/model.safetensors"), state)
    cases = {
        "missing": ({k: v for k, v in state.items() if k != "head.bias"}, "do not fit .*(.|\n)*head.bias"),
        "extra": ({**state, "tail.bias": torch.zeros(1)}, "do not fit .*(.|\n)*tail.bias"),
        "shape": ({**state, "head.bias": torch.zeros(3)}, "do not fit .*(.|\n)*size mismatch for head.bias"),
        "wide": ({**state, "head.bias": torch.zeros(10).double()}, "float64 in .* would lose digits"),
        "list": ([1, 2], "Expected named tensors in list.pt, got list"),
        "mixed": ({"epoch": 3, "other": 4}, "got epoch, other"),
        "code": ({"head.bias": Path("code")}, "cannot be read as named tensors alone"),
    }
    for name, (content, says) in cases.items():
        torch.save(content, f"{name}.pt")
        refused(f"edit tinynets:build --weights {name}.pt --engram three --out no", says)
    Path("broken.safetensors").write_bytes(b"nothing")
    refused(
        "edit tinynets:build --weights broken.safetensors --engram three --out no", "cannot be read as named tensors"
    )
    refused("edit tinynets:build --weights tinynets.py --engram three --out no", r"Expected weights in a \.safetensors")
    assert not Path("no").exists()


# --- exit codes and streams -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "usage: lashley"),
        ("find", "invalid choice: 'find'"),
        ("layers", "required: MODEL"),
        ("layers tinynets:build --depth 3", "unrecognized arguments: --depth 3"),
        ("record tinynets:build --data grey.npz --out r --batch-size 0", "at least 1"),
        ("record tinynets:build --data grey.npz --out r --size 3y4", "HEIGHTxWIDTH in pixels"),
        ("record tinynets:build --data grey.npz --out r --normalize a 1", "expected a number, or several"),
        ("engram digits.rec --model tinynets:build --out e", "--concepts --weighted-sum is required"),
        ("engram digits.rec --model tinynets:build --out e --weighted-sum 3", "expected NAME=WEIGHT"),
        ("engram digits.rec --model tinynets:build --out e --weighted-sum 3=nan", "expected NAME=WEIGHT"),
        ("engram digits.rec --model tinynets:build --out e --weighted-sum 3=1 3=2", "each concept once"),
        ("engram digits.rec --model tinynets:build --concepts 3", "expected --out ENGRAM"),
        ("engram digits.rec --model tinynets:build --concepts 3 --out e --rank 3 --rtol 0.1", "not allowed with"),
        (
            "engram digits.rec --model tinynets:build --concepts 3 --out e --lam 1",
            "--lam is for ridge and null-space; projection takes --sharpness",
        ),
        ("engram digits.rec --model tinynets:build --concepts 3 --out e --estimator ridge", "expected --lam"),
        (
            "engram digits.rec --model tinynets:build --concepts 3 --out e --estimator ridge --lam 1 --rank 3",
            "--rank is for projection and leace and mixture-shift; ridge takes --lam.",
        ),
        (
            "engram digits.rec --model tinynets:build --concepts 3 --estimator ridge --lam 1 --sensitivity",
            "--sensitivity is for the projection",
        ),
        (f"{MIXTURE} --mixture 8 9=1", "argument --mixture: expected NAME=WEIGHT"),
        (f"{MIXTURE} --mixture 8=1 8=2", "each concept once in --mixture"),
        (f"{MIXTURE} --separate", "--separate is for leace; mixture-shift takes --mixture"),
    ],
)
def test_wrong_usage_ends_with_2(there, line, says):
    refused(line, re.escape(says), code=2)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("record tinynets:build --data nowhere.npz --out r", "There is no nowhere.npz"),
        (
            "record tinynets:build --data grey.npz --out r",
            r"could not run on inputs of shape \[40, 1, 8, 8\] and type torch.float32: mat1 .*--flatten",
        ),
        ("record tinynets:build --data sklearn:digits --flatten --concepts 11 --out r", "No concept is called '11'"),
        ("record tinynets:build --data two.npz --out r", "could be the inputs: x, images"),
        ("record tinynets:build --data grey.npz --out r --target-modules haed", "Did you mean 'head'"),
        ("record tinynets:build --data grey.npz --out r --device nowhere", "Expected a device"),
        ("engram three --model tinynets:build --concepts 3 --out e", "Expected a folder with a recording"),
        ("engram digits.rec --model tinynets:other --concepts 3 --out e", "got others in"),
        ("engram digits.rec --model tinynets:build --concepts three --out e", "Expected a recorded concept"),
        ("engram digits.rec --model tinynets:build --concepts 3 --sharpness 0.5 --out e", "sharpness of at least 1"),
        ("engram digits.rec --model tinynets:build --concepts 3 --estimator ridge --lam -1 --out e", "lam > 0"),
        ("merge digits.rec tied.rec --out r", "the same layers"),
        ("merge digits.rec nowhere --out r", "does not exist"),
        ("compare tinynets:build missing.pt", "missing.pt, which does not exist"),
    ],
)
def test_refusals_end_with_1_and_leave_nothing(there, line, says):
    before = {path.name for path in there.iterdir()} | {"__pycache__"}
    refused(line, says)
    assert {path.name for path in there.iterdir()} <= before


def test_an_error_of_the_file_system_has_no_traceback(there):
    Path("file").write_text("")
    refused("merge digits.rec --out file/rec", "lashley merge: ")


def test_interrupted_ends_with_130(there):
    assert refused("layers tinynets:interrupted", "interrupted", code=130).err == "interrupted\n"


def test_warnings_are_sentences_on_stderr(there):
    done = ok("engram digits.rec --model tinynets:build --concepts 3 --reference 8 9 --out e --json")
    assert re.search(r"^warning: The reference does not contain \['3'\]", done.err, re.M)
    assert ".py" not in done.err and done.json["out"] == "e"


def test_every_verb_can_speak_json(there, checkpoint):
    lines = [
        "layers tinynets:build",
        "data check --forget forget.jsonl --retain retain.jsonl --tokenizer words",
        "record tinynets:build --data sklearn:digits --flatten --out r",
        "merge digits.rec --out m",
        "engram digits.rec --model tinynets:build --concepts 3 --out e --sensitivity",
        "geometry digits.rec --model tinynets:build --concepts 3 8 --layers head --out g.json",
        "edit tinynets:build --engram e --out edited",
        "compare tinynets:build edited",
        f"export {checkpoint.parent / 'one'} --base {checkpoint} --lora adapter",
    ]
    assert [line.split()[0] for line in lines] == list(VERBS)
    for line in lines:
        document = ok(f"{line} --json").json
        assert isinstance(document, dict) and document


def test_json_has_no_nan():
    assert common.plain({"a": [float("nan"), (1.0, float("inf"))], 3: True}) == {"a": [None, [1.0, None]], "3": True}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal_and_lines_in_a_pipe(there):
    line = "record tinynets:build --data sklearn:digits --flatten --out r"
    bar, pipe, quiet = lashley_(line, stderr=Terminal()), lashley_(line), lashley_(f"{line} --no-progress")
    assert bar.code == pipe.code == quiet.code == 0
    assert "\r" in bar.err and "batches/s" in bar.err
    assert "\r" not in pipe.err
    assert "1797 samples of 10 concepts" in pipe.err and re.search(r"^recording: 10 batches in", pipe.err, re.M)
    assert quiet.err == ""


def python(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, **options)


def test_python_m_lashley(there):
    done = python("-m", "lashley", "--version")
    assert (done.returncode, done.stdout) == (0, f"lashley {lashley.__version__}\n")
    done = python("-m", "lashley", "layers")
    assert done.returncode == 2 and "required: MODEL" in done.stderr


def test_a_reader_who_has_seen_enough(there):
    command = f"{shlex.quote(sys.executable)} -m lashley layers tinynets:build --json"
    done = subprocess.run(["bash", "-c", f"{command} | true; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == ""


@pytest.mark.parametrize("line", ["--help", *(f"{verb} --help" for verb in cli.VERBS)])
def test_help_has_an_example_and_loads_no_torch(line):
    code = (
        "import sys\nfrom lashley.cli import main\n"
        f"code = main({line.split()!r})\n"
        "heavy = {'torch', 'numpy', 'transformers', 'PIL', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(code or (f'loaded {heavy}' if heavy else 0))"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^  lashley " + line.split()[0].replace("--help", "demo"), done.stdout, re.M), done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


@pytest.mark.parametrize("line", ["--help", "record --help"])
def test_help_answers_at_once(line):
    """The best of five, so that a busy machine does not decide."""
    code = f"import sys, time\nstart = time.perf_counter()\nfrom lashley.cli import main\nmain({line.split()!r})\n"
    code += "print(time.perf_counter() - start, file=sys.stderr)"
    assert min(float(python("-c", code).stderr) for _ in range(5)) < 0.3


# --- every option changes something -----------------------------------------------------------------------------------

RECORD = "record tinynets:build --data sklearn:digits --flatten --out out"
PICTURES = "record tinynets:pictures --data photos --out out"
TWO = "record tinynets:build --data two.npz --flatten --out out"
ENGRAM = "engram digits.rec --model tinynets:build --concepts 3 --out out"
UNCHECKED = "engram digits.rec --no-check --model tinynets:build --concepts 3 --out out"
RIDGE = "engram digits.rec --model tinynets:build --concepts 3 --out out --estimator ridge"
FORM = "engram digits.rec --model tinynets:build --concepts 3 --layers head --out out --estimator"
PAIR = FORM.replace("--concepts 3", "--concepts 3 8")
GEOMETRY = "geometry digits.rec --model tinynets:build --concepts 3 8 --layers head --out out/g.json"
STEPS = f"{GEOMETRY} --data sklearn:digits --flatten --limit-per-concept 9"
TWO_STEPS = "geometry two.rec --model tinynets:build --layers head --out out/g.json --data two.npz --flatten"
GREY_STEPS = "geometry photos.rec --model tinynets:pictures --out out/g.json --data photos"
EDIT = "edit tinynets:build --engram three --out out"
TIED = "edit tinynets:tied --engram one --out out"
TEXTS = "data check --forget forget.jsonl --retain retain.jsonl --tokenizer words"

CARRIED = "export whole --base llama --lora out"

# (verb, option, a command without it or with another value, the same command with it)
CHANGES = [
    ("layers", "--target-modules", "layers tinynets:build", "layers tinynets:build --target-modules head"),
    ("layers", "--exclude-modules", "layers tinynets:build", "layers tinynets:build --exclude-modules head"),
    ("layers", "--layers-to-transform", "layers tinynets:build", "layers tinynets:build --layers-to-transform 1"),
    (
        "layers",
        "--layers-pattern",
        "layers tinynets:build --layers-to-transform 0",
        "layers tinynets:build --layers-to-transform 0 --layers-pattern missing",
    ),
    ("layers", "--json", "layers tinynets:build", "layers tinynets:build --json"),
    ("data", "--forget", TEXTS, TEXTS.replace("forget.jsonl", "forget.jsonl#1:2")),
    ("data", "--retain", TEXTS, TEXTS.replace("retain.jsonl", "retain.jsonl#0:1")),
    ("data", "--tokenizer", TEXTS, TEXTS.replace("words", "pieces")),
    ("data", "--model", TEXTS, f"{TEXTS} --model tinynets:build"),
    ("data", "--rows-of", TEXTS, f"{TEXTS} --rows-of all"),
    ("data", "--columns", TEXTS, f"{TEXTS} --columns question=answer answer=question"),
    ("data", "--template", TEXTS, f"{TEXTS} --template 'Q: {{question}}\\nA:' ' {{answer}}'"),
    ("data", "--chat", TEXTS, f"{TEXTS} --chat system=Short."),
    ("data", "--max-length", TEXTS, f"{TEXTS} --max-length 19"),
    ("data", "--json", TEXTS, f"{TEXTS} --json"),
    ("record", "--weights", RECORD, f"{RECORD} --weights other.pt"),
    ("record", "--out", RECORD, RECORD.replace("--out out", "--out elsewhere")),
    ("record", "--data", RECORD, RECORD.replace("sklearn:digits", "grey.npz")),
    ("record", "--concepts", RECORD, f"{RECORD} --concepts 3 8"),
    ("record", "--limit-per-concept", RECORD, f"{RECORD} --limit-per-concept 20"),
    ("record", "--batch-size", RECORD, f"{RECORD} --batch-size 32"),
    ("record", "--size", PICTURES, f"{PICTURES} --size 6x5"),
    ("record", "--inputs-key", f"{TWO} --labels-key y --inputs-key x", f"{TWO} --labels-key y --inputs-key images"),
    ("record", "--labels-key", f"{TWO} --inputs-key x --labels-key y", f"{TWO} --inputs-key x --labels-key targets"),
    ("record", "--flatten", RECORD, RECORD.replace("--flatten ", "")),
    ("record", "--normalize", RECORD, f"{RECORD} --normalize 0.3 0.4"),
    ("record", "--target-modules", RECORD, f"{RECORD} --target-modules head"),
    ("record", "--exclude-modules", RECORD, f"{RECORD} --exclude-modules head"),
    ("record", "--layers-to-transform", RECORD, f"{RECORD} --layers-to-transform 1"),
    (
        "record",
        "--layers-pattern",
        f"{RECORD} --layers-to-transform 1",
        f"{RECORD} --layers-to-transform 1 --layers-pattern missing",
    ),
    ("record", "--checkpoint", RECORD, f"{RECORD} --checkpoint elsewhere"),
    ("record", "--keep", RECORD, f"{RECORD} --keep products"),
    ("record", "--dtype", RECORD, f"{RECORD} --dtype float32"),
    ("record", "--device", RECORD, f"{RECORD} --device nowhere"),
    ("record", "--no-progress", RECORD, f"{RECORD} --no-progress"),
    ("record", "--json", RECORD, f"{RECORD} --json"),
    ("merge", "--out", "merge digits.rec --out out", "merge digits.rec --out elsewhere"),
    ("merge", "--json", "merge digits.rec --out out", "merge digits.rec --out out --json"),
    ("engram", "--model", UNCHECKED, UNCHECKED.replace(":build", ":other")),
    ("engram", "--weights", UNCHECKED, f"{UNCHECKED} --weights other.pt"),
    ("engram", "--concepts", ENGRAM, ENGRAM.replace("--concepts 3", "--concepts 3 8")),
    ("engram", "--weighted-sum", ENGRAM, ENGRAM.replace("--concepts 3", "--weighted-sum 3=0.5")),
    ("engram", "--reference", ENGRAM, f"{ENGRAM} --reference 3 8"),
    ("engram", "--base", ENGRAM, f"{ENGRAM} --base tinynets:other"),
    ("engram", "--no-bias", ENGRAM, f"{ENGRAM} --no-bias"),
    ("engram", "--no-check", f"{ENGRAM} --weights other.pt", f"{ENGRAM} --weights other.pt --no-check"),
    ("engram", "--device", ENGRAM, f"{ENGRAM} --device nowhere"),
    ("engram", "--out", ENGRAM, ENGRAM.replace("--out out", "--out elsewhere")),
    ("engram", "--sensitivity", ENGRAM, f"{ENGRAM} --sensitivity"),
    ("engram", "--estimator", ENGRAM, f"{RIDGE} --lam 1"),
    ("engram", "--lam", f"{RIDGE} --lam 1", f"{RIDGE} --lam 2"),
    ("engram", "--layers", ENGRAM, f"{ENGRAM} --layers head"),
    ("engram", "--retain", f"{FORM} kodge", f"{FORM} kodge --retain 10"),
    ("engram", "--forget", f"{FORM} kodge", f"{FORM} kodge --forget 10"),
    ("engram", "--separate", f"{PAIR} leace", f"{PAIR} leace --separate"),
    ("engram", "--mixture", f"{FORM} mixture-shift --min-r2 0", f"{FORM} mixture-shift --min-r2 0 --mixture 8=1"),
    ("engram", "--min-r2", f"{FORM} mixture-shift --min-r2 0", f"{FORM} mixture-shift --min-r2 1"),
    ("engram", "--missing-bias", f"{FORM} leace", f"{FORM} leace --missing-bias fold"),
    ("engram", "--sharpness", ENGRAM, f"{ENGRAM} --sharpness 2"),
    ("engram", "--threshold", ENGRAM, f"{ENGRAM} --threshold 0.4"),
    ("engram", "--rtol", ENGRAM, f"{ENGRAM} --rtol 0.01"),
    ("engram", "--rank", ENGRAM, f"{ENGRAM} --rank 7"),
    ("engram", "--energy", ENGRAM, f"{ENGRAM} --energy 0.9"),
    ("engram", "--condition", ENGRAM, f"{ENGRAM} --condition 50"),
    ("engram", "--preset", f"{ENGRAM} --preset paper", f"{ENGRAM} --preset notebook"),
    ("engram", "--json", ENGRAM, f"{ENGRAM} --json"),
    ("geometry", "--model", GEOMETRY, GEOMETRY.replace(":build", ":other")),
    ("geometry", "--weights", GEOMETRY, f"{GEOMETRY} --weights other.pt"),
    ("geometry", "--out", GEOMETRY, GEOMETRY.replace("--out out", "--out elsewhere")),
    ("geometry", "--concepts", GEOMETRY, GEOMETRY.replace("3 8", "3 7")),
    ("geometry", "--beside", GEOMETRY, f"{GEOMETRY} --beside 8"),
    ("geometry", "--reference", GEOMETRY, f"{GEOMETRY} --reference 3 8"),
    ("geometry", "--layers", GEOMETRY, GEOMETRY.replace("head", "blocks.0.0")),
    ("geometry", "--no-bias", GEOMETRY, f"{GEOMETRY} --no-bias"),
    ("geometry", "--threshold", GEOMETRY, f"{GEOMETRY} --threshold 0.2"),
    ("geometry", "--rtol", GEOMETRY, f"{GEOMETRY} --rtol 0.01"),
    ("geometry", "--rank", GEOMETRY, f"{GEOMETRY} --rank 7"),
    ("geometry", "--energy", GEOMETRY, f"{GEOMETRY} --energy 0.9"),
    ("geometry", "--condition", GEOMETRY, f"{GEOMETRY} --condition 50"),
    ("geometry", "--preset", f"{GEOMETRY} --preset paper", f"{GEOMETRY} --preset notebook"),
    ("geometry", "--data", GEOMETRY, STEPS),
    ("geometry", "--limit-per-concept", STEPS, STEPS.replace("concept 9", "concept 5")),
    ("geometry", "--batch-size", STEPS, f"{STEPS} --batch-size 4"),
    ("geometry", "--size", GREY_STEPS, f"{GREY_STEPS} --size 6x5"),
    (
        "geometry",
        "--inputs-key",
        f"{TWO_STEPS} --labels-key y --inputs-key x",
        f"{TWO_STEPS} --labels-key y --inputs-key images",
    ),
    (
        "geometry",
        "--labels-key",
        f"{TWO_STEPS} --inputs-key x --labels-key y",
        f"{TWO_STEPS} --inputs-key x --labels-key targets",
    ),
    ("geometry", "--flatten", STEPS, STEPS.replace("--flatten ", "")),
    ("geometry", "--normalize", STEPS, f"{STEPS} --normalize 0.3 0.4"),
    ("geometry", "--checked", STEPS, f"{STEPS} --checked 8"),
    ("geometry", "--device", GEOMETRY, f"{GEOMETRY} --device nowhere"),
    ("geometry", "--json", GEOMETRY, f"{GEOMETRY} --json"),
    ("edit", "--weights", EDIT, f"{EDIT} --weights other.pt"),
    ("edit", "--engram", EDIT, EDIT.replace("three", "eight")),
    ("edit", "--alpha", EDIT, f"{EDIT} --alpha 0.5"),
    ("edit", "--strength", EDIT, f"{EDIT} --strength weight-norm"),
    ("edit", "--inject", EDIT, f"{EDIT} --inject"),
    (
        "edit",
        "--tied",
        "edit tinynets:tied --engram one --out out",
        "edit tinynets:tied --engram one --out out --tied both",
    ),
    ("edit", "--out", EDIT, EDIT.replace("--out out", "--out elsewhere")),
    ("edit", "--json", EDIT, f"{EDIT} --json"),
    ("export", "--base", CARRIED, CARRIED.replace("--base llama", "--base wide")),
    ("export", "--base-model", CARRIED, f"{CARRIED} --base-model owner/name"),
    ("export", "--lora", CARRIED, CARRIED.replace("--lora out", "--lora elsewhere")),
    ("export", "--checkpoint", CARRIED, CARRIED.replace("--lora", "--checkpoint")),
    ("export", "--alpha", CARRIED, f"{CARRIED} --alpha 0.5"),
    ("export", "--strength", CARRIED, f"{CARRIED} --strength weight-norm"),
    ("export", "--inject", CARRIED, f"{CARRIED} --inject"),
    ("export", "--tied", CARRIED, f"{CARRIED} --tied untie"),
    ("export", "--rank", CARRIED, f"{CARRIED} --rank 3"),
    ("export", "--energy", CARRIED, f"{CARRIED} --energy 0.5"),
    ("export", "--max-rank", CARRIED, f"{CARRIED} --max-rank 2"),
    ("export", "--dtype", CARRIED, f"{CARRIED} --dtype bfloat16"),
    ("export", "--json", CARRIED, f"{CARRIED} --json"),
    ("compare", "--json", "compare tinynets:build tinynets:other", "compare tinynets:build tinynets:other --json"),
]


@pytest.fixture(scope="module")
def options_folder(made, checkpoint, tmp_path_factory) -> Path:
    """That folder with what the options need."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("options") / "there"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("__pycache__"))
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 7), dtype=np.uint8)
    for number, picture in enumerate(pixels):
        path = folder / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    shutil.copytree(checkpoint, folder / "llama")
    shutil.copytree(checkpoint, folder / "wide")
    shutil.copytree(checkpoint.parent / "one", folder / "whole")
    with in_folder(folder):
        torch.save(network("other").state_dict(), "other.pt")
        ok("engram digits.rec --model tinynets:build --concepts 8 --out eight")
        ok("record tinynets:build --data two.npz --flatten --inputs-key x --labels-key y --out two.rec")
        ok("record tinynets:pictures --data photos --out photos.rec")
    return folder


def effect(line: str) -> dict[str, object]:
    """Everything a command does that a user can see: code, texts (without times), files."""
    for folder in ("out", "elsewhere"):
        shutil.rmtree(folder, ignore_errors=True)
    done = lashley_(line)
    files: dict[str, object] = {}
    for path in (file for folder in ("out", "elsewhere") for file in Path(folder).glob("*")):
        if path.name == "README.md":
            continue  # it shows the command line
        content = path.read_bytes()
        if path.suffix == ".json":  # the command line itself is no effect
            hidden = ("command", "made_by", "files", "checksum")
            content = {k: v for k, v in json.loads(content).items() if k not in hidden}
        files[str(path)] = content
    return {"code": done.code, "out": done.out, "err": re.sub(r"in [\d.]+ s", "", done.err), **files}


@pytest.mark.parametrize(("verb", "option", "without", "given"), CHANGES, ids=[f"{v} {o}" for v, o, _, _ in CHANGES])
def test_every_option_changes_something(options_folder, monkeypatch, verb, option, without, given):
    monkeypatch.chdir(options_folder)
    assert verb == without.split()[0] == given.split()[0] and option in f"{without} {given}".split()
    first, again, second = effect(without), effect(without), effect(given)
    assert first == again, "the command alone is not deterministic, so a difference would prove nothing"
    assert first != second
    assert 0 in (first["code"], second["code"])


@pytest.mark.parametrize("verb", VERBS)
def test_no_option_is_left_out_of_that_table(verb):
    parser = argparse.ArgumentParser()
    module = __import__(f"lashley.cli.{verb}", fromlist=["add_parser"])
    module.add_parser(parser.add_subparsers())
    [choices] = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    options = {o for action in choices[verb]._actions for o in action.option_strings if o not in ("-h", "--help")}
    assert options == {option for v, option, _, _ in CHANGES if v == verb}


# --- small things -----------------------------------------------------------------------------------------------------


def test_a_table_puts_texts_left_and_numbers_right():
    text = common.table(("layer", "D", "bias"), [("first", 3, True), ("b", 1200, None), ("c", 0.123456, False)])
    assert text.splitlines() == ["layer       D  bias", "first       3  yes", "b        1200", "c      0.1235  no"]


SIZES = {0: "0 B", 999: "999 B", 1000: "1.0 kB", 123456: "123 kB", 2_500_000: "2.5 MB", 10**16: "10000 TB"}


@pytest.mark.parametrize(("count", "text"), SIZES.items())
def test_bytes_for_people(count, text):
    assert common.human_bytes(count) == text
