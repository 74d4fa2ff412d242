"""Evidence: what rows say. Numbers of the paper, paired differences, the verdict, tables and figures.

:mod:`paper` holds every printed number, :mod:`tables` means and intervals, :mod:`pairs` the paired difference,
:mod:`verdict` the fixed rule. :mod:`answers` turns rows into sentences, :mod:`markdown` into pages,
:mod:`figures` into pictures; :mod:`timings` reads the benches. May import: ``parameters``, ``rows``, ``engine``.
Never loads torch. Notebooks 00, 01 and 03 to 06 use it.
"""
