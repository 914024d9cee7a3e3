"""The class API of torchrec.metrics, module by module, over this package's pure functions.

``from torchrec.metrics.ne import NEMetric`` becomes ``from recmetrics_jax.adapter.ne import
NEMetric``; constructors, dictionaries of tensors, keys of results and checkpoints stay.
"""
