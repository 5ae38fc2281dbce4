"""Authors forgotten by a small language model: cost at equal forgetting, and where the default comes from."""

from __future__ import annotations
