"""OE-FSMC: compressing a network with few, class-imbalanced images and out-of-distribution (OOD) images.

Equations and tables are those of Wu, Lyu, Chen, Qu and Ye, *Compressing Model with Few
Class-Imbalance Samples: An Out-of-Distribution Expedition*.

    from oefsmc_lib import Experiment, run
    student, row = run(Experiment(num=10, variant="ours"))

    student = oefsmc_lib.compress(model, few, elsewhere, keep=0.5)  # your own network; see docs/own_network.md

Submodules load torchvision, torch_pruning, pandas and seaborn where they use them.
"""

from oefsmc_lib.errors import InputError
from oefsmc_lib.parameters.experiment import Experiment

__version__ = "0.1.0"
__all__ = ["Experiment", "InputError", "compress", "run"]


def __getattr__(name):
    # These need torch; settings, rows and figures do not.
    if name == "run":
        from oefsmc_lib.pipeline import run

        return run
    if name == "compress":
        from oefsmc_lib.own.compress import compress

        return compress
    raise AttributeError(f"module 'oefsmc_lib' has no attribute {name!r}")
