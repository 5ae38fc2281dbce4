"""The process that is measured: ``python -m benchmarks.shards.job SOURCE ENGRAM OUT CONFIG`` prints JSON."""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

import torch

from lashley import Engram
from lashley.export import rewrite_checkpoint


def main(source: str, engram: str, out: str, text: str) -> dict[str, Any]:
    config = json.loads(text)
    torch.set_num_threads(config["threads"])
    limit = config["memory_bytes"]
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # of addresses, which the memory cannot exceed
    start = time.perf_counter()
    loaded = Engram.load(engram)
    loading = time.perf_counter() - start
    start = time.perf_counter()
    receipt = rewrite_checkpoint(source, loaded, out, alpha=config["alpha"])
    seconds = time.perf_counter() - start
    return {
        "loading_seconds": loading,
        "seconds": seconds,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "edited": len(receipt.changed),
        "base_matches": receipt.base_matches,
        "largest_error": max(change.error or 0.0 for change in receipt.layers.values()),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
