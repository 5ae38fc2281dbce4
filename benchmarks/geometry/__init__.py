"""The geometry of engrams in three networks: ``python -m benchmarks.geometry``.

``config.json``  ten digits in a conv net; ``mlp.json`` in an MLP; ``tofu.json``: authors in a small language model
``study``        config in, a `lashley.result.Result` out
``edits``        of the digits: what two things that the geometry suggests do to answers
"""
