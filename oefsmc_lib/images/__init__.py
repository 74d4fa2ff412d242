"""Images: the few images, OOD images (images from elsewhere), and every image set by its name.

:mod:`fewshot` draws D_few, :mod:`elsewhere` the pool, the watch set and D_aux with labels by eq. 4, :mod:`views`
augments. :mod:`sets` reads an image set by the name of its record in ``sources.yaml``, with the help of :mod:`folders`,
:mod:`npz`, :mod:`cifar` and :mod:`embedded`.
May import: ``parameters``. Notebook 02 builds eq. 4 by hand beside it.
"""
