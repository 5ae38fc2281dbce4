"""Result JSON in, figures and one self-contained page out.

``figures``    pure functions: numbers in, a matplotlib figure out (any study may use them)
``numbers``    how numbers are written, on pages and at axes
``page``       fills a template and inlines every image, so that the page is one file
``tables``     a table of a result as a reader meets it: scales, the nearest value of every column
``charts``     the charts of a result, drawn and described
``results``    the page of any `lashley.result.Result`; ``markdown`` and ``latex`` write its tables
``digits``     what to draw and say about the result of ``lashley demo``; ``forgetting``, of ``lashley forget``

Nothing here needs torch: a result can be drawn on a machine that never ran a network.
"""

from __future__ import annotations
