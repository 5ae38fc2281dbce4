"""``python -m lashley``."""

from __future__ import annotations

import sys

from lashley.cli import main

sys.exit(main())
