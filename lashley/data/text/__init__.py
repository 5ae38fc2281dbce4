"""Texts in, batches of tokens out, and a look at what counts before anything is computed.

`lashley.text_batches` is `text_batches` here. Rows and their forms are in `lashley.data.text.rows`.
"""

from __future__ import annotations

from lashley.data.text.batches import TextBatches, text_batches
from lashley.data.text.check import TextCheck, check_texts
from lashley.data.text.report import TextReport
from lashley.data.text.rows import QUESTION_ANSWER, Template
from lashley.data.text.sources import load_texts

__all__ = [
    "QUESTION_ANSWER",
    "Template",
    "TextBatches",
    "TextCheck",
    "TextReport",
    "check_texts",
    "load_texts",
    "text_batches",
]
