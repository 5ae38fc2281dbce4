"""Ten engrams in the paper's network on MNIST, taken out one at a time: ``python -m benchmarks.mnist``.

``config.json``  what is run: seeds, the training recipe, the edits, the targets
``study``        config in, a plain result out
``page``         the result as tables (Markdown) and figures; needs no torch
``results/``     what the last committed run gave
"""

from __future__ import annotations
