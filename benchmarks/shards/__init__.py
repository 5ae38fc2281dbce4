"""A checkpoint of a large model's shape, rewritten in a process of limited memory: ``python -m benchmarks.shards``.

``config.json``  what is run: the model's shape, the size of its files, the edit's rank, the limit
``study``        config in, a plain result out
``job``          the process that is measured
``page``         the result as a page (Markdown); needs no torch
``results/``     what the last committed run gave
"""

from __future__ import annotations
