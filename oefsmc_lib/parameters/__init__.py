"""Parameters: what a run is asked to do.

:mod:`experiment` has every switch with its default, :mod:`sections` those of each compressor, :mod:`keys` which of them
each stage reads. :mod:`parse` turns text into switches; :mod:`profiles` and :mod:`grid` read ``params/``.
May import: ``errors``, ``files``. Never loads torch. Notebooks use it through ``start_notebook``.
"""
