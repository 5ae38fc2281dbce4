"""The paper's experiments as functions: settings in, a result out; ``lashley.report`` draws it."""

from __future__ import annotations
