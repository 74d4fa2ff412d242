"""Teachers: the networks, their trained weights with a card, and what a network costs.

:mod:`networks` builds architectures, :mod:`teachers` loads and saves weights, :mod:`cards` says what a card holds,
:mod:`training` trains the teachers that this project makes itself, :mod:`cost` counts what a network costs,
:mod:`devices` knows the device that computes.
May import: ``parameters``, ``images``. Notebooks use it through ``pipeline.prepare``.
"""
