"""Data in, labelled batches out: a small reader for folders of pictures, arrays in files, and two sets of digits.

Nothing here is needed to use lashley on data of one's own: `lashley.record` takes any iterable of batches. MNIST is in
`lashley.data.mnist`.
"""

from __future__ import annotations

from lashley.data.labelled import Batches, LabelledBatches, Samples
from lashley.data.prepare import Prepare
from lashley.data.sources import digits, load

__all__ = ["Batches", "LabelledBatches", "Prepare", "Samples", "digits", "load"]
