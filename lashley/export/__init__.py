"""Shipping an edit: as a LoRA adapter, or as a checkpoint rewritten shard by shard."""

from __future__ import annotations

from lashley.export.lora import LoraLayer, LoraReport, save_lora

__all__ = ["LoraLayer", "LoraReport", "save_lora"]
