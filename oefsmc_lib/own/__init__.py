"""A network and images of your own: from a folder to a student, with an honest report.

:mod:`network` builds a network by its name and fills it from a checkpoint without running pickled code, :mod:`folder`
reads images as they come, :mod:`compress` is the one function on tensors, :mod:`choose` decides how much is removed
where, :mod:`measure` says with intervals what it cost, and :mod:`report` writes the page. The core knows nothing of it.
May import: ``images``, ``teacher``, ``compressors``, ``student``. Notebook 07 uses it.
"""
