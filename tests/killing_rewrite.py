"""Rewrites a checkpoint in processes that are killed in turn before each change of a file, and goes on after each.

Run as a program of its own, so that it can fork: `python killing_rewrite.py FOLDER`. It prints how many died.
"""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial
from pathlib import Path

import torch

import language
from editing import engram_of
from killing import child, kill_before
from lashley.export import rewrite_checkpoint

if __name__ == "__main__":
    torch.set_num_threads(1)
    os.fsync = lambda handle: None  # it guards against the machine's end, and takes most of the time
    place = Path(sys.argv[1])
    model = language.llama()
    engram = engram_of(model, "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj", rank=2)
    model.save_pretrained(place / "source", max_shard_size="40kB")
    rewrite_checkpoint(place / "source", engram, place / "expected")
    expected = {path.name: path.read_bytes() for path in (place / "expected").iterdir()}

    def killed(number: int) -> None:
        kill_before(number, place)
        rewrite_checkpoint(place / "source", engram, place / "out")

    deaths = 0
    while not child(partial(killed, deaths)):
        deaths += 1
        if not (place / "out").exists():  # else it died when all was done
            rewrite_checkpoint(place / "source", engram, place / "out")
        found = {path.name: path.read_bytes() for path in (place / "out").iterdir()}
        assert found.keys() == expected.keys()
        assert all(found[name] == expected[name] for name in found if name != "manifest.json"), deaths
        shutil.rmtree(place / "out")
    print(deaths)
