"""The paper's experiments as functions: settings in, a plain result (JSON-able) out; ``lashley.report`` draws it."""

from __future__ import annotations
