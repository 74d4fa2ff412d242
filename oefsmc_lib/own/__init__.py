"""A network and images of your own: from a folder to a student, with an honest report.

:mod:`network` builds a network by its name, and :mod:`weights` reads a checkpoint without running pickled code.
:mod:`folder` reads images as they come. :mod:`compress` is the one function on tensors, :mod:`job` the whole command,
:mod:`choose` decides how much is removed where, :mod:`measure` says with intervals what it cost, and :mod:`report`
writes the page. :mod:`imported` makes such a network a teacher for grids. The core knows nothing of this room.
May import: ``images``, ``teacher``, ``compressors``, ``student``. Notebook 07 uses it.
"""
