"""Every closed form in one table, beside the network that was trained without the class."""

from __future__ import annotations
