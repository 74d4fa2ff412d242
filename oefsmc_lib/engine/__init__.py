"""The engine: computes the rows that a grid lacks, on a laptop, a GPU machine or a cluster.

:mod:`runs` computes experiments, :mod:`batches` are what papermill runs at once, :mod:`execute` fills the cores of one
machine, :mod:`locks` keep two runners apart, :mod:`recheck` computes stored rows again.
May import: ``parameters``, ``rows``, ``pipeline``. The worker notebook ``batch`` uses it.
"""
