"""Forgetting a set of texts, from data to a folder that ships: what ``lashley forget`` runs.

``front``   how strong: every strength judged on held-out rows, and a choice among them
``job``     the whole of it: record, solve, choose, edit, verify from disk, measure
"""

from __future__ import annotations

from lashley.forgetting.front import ALPHAS, STRENGTHS, Point, balance, choose, front, held_out
from lashley.forgetting.job import Job, Plan

__all__ = ["ALPHAS", "STRENGTHS", "Job", "Plan", "Point", "balance", "choose", "front", "held_out"]
