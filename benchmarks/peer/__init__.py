"""lashley beside ``ai-engram``, the package of the method's authors, on one machine: ``python -m benchmarks.peer``.

``config.json``  what is run: the models, the cases, how often
``cases``        models and data, made from seeds
``rivals``       the same work done by each: lashley, the authors' package, the formula; and the bare forward pass
``study``        config in, a plain result out: seconds, ratios, agreement, what the time is made of, the floor
``memory``       the peak memory of one of them, in a process of its own
``page``         the result as tables (Markdown) and a figure; needs no torch
``results/``     what the last committed run gave
"""

from __future__ import annotations
