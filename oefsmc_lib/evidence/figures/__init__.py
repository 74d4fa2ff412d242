"""One function a figure, drawn from rows alone (costs from the benches' tables), for all notebooks.

Every title is a finding that is computed from the rows and names the profile. Where notebooks also print a title, the
function ``..._title`` beside the figure's makes it. A mark is a mean over seeds with its 95 % t-interval, small dots
are single seeds, hollow marks are the paper's values, and a place without rows says "not run".
"""

# ruff: noqa: F401  (this file collects the names that notebooks call)
from oefsmc_lib.evidence.figures.cost import growth
from oefsmc_lib.evidence.figures.effect import (
    ablation,
    ablation_title,
    effect,
    effect_title,
    gains,
    gains_title,
    groups,
    solvers,
)
from oefsmc_lib.evidence.figures.inside import (
    channels,
    channels_title,
    densities,
    draw_title,
    elsewhere_title,
    features,
    features_title,
    gallery,
    shares,
    trajectories,
)
from oefsmc_lib.evidence.figures.marks import style
from oefsmc_lib.evidence.figures.problem import (
    by_class,
    classes_title,
    losses,
    losses_title,
    problem,
    problem_title,
    rescue,
    rescue_title,
    stages,
    stages_title,
)
from oefsmc_lib.evidence.figures.settings import (
    SWEEPS,
    against_base,
    criteria,
    criteria_title,
    settings,
    settings_title,
    sweep,
)
from oefsmc_lib.evidence.figures.shipping import shipping_files, shipping_title
