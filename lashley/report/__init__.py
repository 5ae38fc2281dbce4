"""Result JSON in, figures and one self-contained page out.

``figures``  pure functions: numbers in, a matplotlib figure out (any study may use them)
``page``     fills a template and inlines every image, so that the page is one file
``digits``   what to draw and say about the result of ``lashley demo``

Nothing here needs torch: a result can be drawn on a machine that never ran a network.
"""

from __future__ import annotations
