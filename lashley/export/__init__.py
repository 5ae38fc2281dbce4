"""Shipping an edit: as a LoRA adapter, or as a checkpoint rewritten file by file."""

from __future__ import annotations

from lashley.export.adapted import Adapted
from lashley.export.card import model_card
from lashley.export.lora import save_lora
from lashley.export.lora_report import LoraLayer, LoraReport
from lashley.export.rewrite import rewrite_checkpoint
from lashley.export.source import Source

__all__ = ["Adapted", "LoraLayer", "LoraReport", "Source", "model_card", "rewrite_checkpoint", "save_lora"]
