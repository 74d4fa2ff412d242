"""The student after compression: fine-tuning by eq. 8 and 9 with early stopping, and the one test.

:mod:`finetune` is the stage that every variant shares, :mod:`evaluation` the only place where test images meet a
network, :mod:`saved` writes a student to a folder and reads it again.
May import: ``parameters``, ``images``, ``teacher``, ``compressors``. Notebook 02 builds eq. 8 and 9 by hand beside it.
"""
