"""Notebooks as people and batches run them.

:mod:`session` is the first cell's greeting and runs notebooks, :mod:`sliders` draw what a reader moves, :mod:`report`
makes one HTML page, :mod:`exercises` the versions for students, :mod:`kept` the executed notebooks of the repository, and :mod:`publish` what
it shows of its rows.
May import every other room. Every notebook uses ``session``; notebooks 02, 03 and 05 use ``sliders``.
"""
