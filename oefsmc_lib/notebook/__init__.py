"""Notebooks as people and batches run them.

:mod:`session` is the first cell's greeting and runs notebooks, :mod:`kept` writes them back with outputs,
:mod:`sliders` draw what a reader moves, :mod:`exercises` makes the versions for students, :mod:`publish` what the
repository shows of its rows. May import every other room. Every notebook uses ``session``; notebooks 02, 03 and 05 use
``sliders``.
"""
