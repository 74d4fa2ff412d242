"""One function a figure, drawn from rows alone (costs from the benches' tables).

Every title is a finding computed from the rows (:mod:`oefsmc_lib.evidence.answers`, :mod:`oefsmc_lib.evidence.verdict`) and names
the profile. A mark is a mean over seeds with its 95 % t-interval, small dots are single seeds, hollow marks
are the paper's values, and a cell without rows is a gap that says "not run". Nothing here loads torch.
"""

from oefsmc_lib.evidence.figures.cost import growth
from oefsmc_lib.evidence.figures.effect import ablation, effect, gains, groups, solvers
from oefsmc_lib.evidence.figures.inside import channels, densities, features, gallery, shares, trajectories
from oefsmc_lib.evidence.figures.marks import LOOKS, PAPER, style
from oefsmc_lib.evidence.figures.problem import by_class, losses, problem, rescue, stages
from oefsmc_lib.evidence.figures.settings import SWEEPS, against_base, criteria, settings, sweep

__all__ = [
    "LOOKS",
    "PAPER",
    "SWEEPS",
    "ablation",
    "against_base",
    "by_class",
    "channels",
    "criteria",
    "densities",
    "effect",
    "features",
    "gains",
    "gallery",
    "groups",
    "growth",
    "losses",
    "problem",
    "rescue",
    "settings",
    "shares",
    "solvers",
    "stages",
    "style",
    "sweep",
    "trajectories",
]
