"""The student after compression: fine-tuning by eq. 8 and 9 with early stopping, and the one test.

:mod:`finetune` is the stage that every variant shares; :mod:`rebalance` has the controls without OOD images. Test
images meet a network in :mod:`predictions` alone, and :mod:`evaluation` scores what it says. :mod:`saved` writes a
student to a folder, and :mod:`export` makes an ONNX file of it (notebook 08).
May import: ``parameters``, ``images``, ``teacher``, ``compressors``. Notebook 02 builds eq. 8 and 9 by hand beside it.
"""
