"""Benchmarks: a config in, a result JSON and its figures out, both committed beside the code that made them."""

from __future__ import annotations
