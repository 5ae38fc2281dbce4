"""Memories whose place is known, planted in small networks: localisation, ablation and damage against the truth."""

from __future__ import annotations
