"""Measures of what a model does, before an edit and after it."""

from __future__ import annotations

from lashley.metrics.answers import Answers, Reference, answers, continuations, reference

__all__ = ["Answers", "Reference", "answers", "continuations", "reference"]
