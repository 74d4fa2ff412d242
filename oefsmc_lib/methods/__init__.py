"""The four compressors. Adding one is a module with ``compress`` and a line in ``REGISTRY``.

    compress(teacher, few, aux, experiment, w) -> Student

``teacher`` is a :class:`~oefsmc_lib.teachers.Teacher`; ``few`` and ``aux`` are normalised
:class:`~oefsmc_lib.fewshot.Samples` on its device (``aux`` is None where the variant reads none);
``w`` are the class shares of eq. (6), or None for the method's own importance. The teacher is
never changed. No method knows about grids, files or notebooks.
"""

from importlib import import_module

REGISTRY = {
    "fskd": "oefsmc_lib.methods.fskd",
    "cd": "oefsmc_lib.methods.cd",
    "mir": "oefsmc_lib.methods.mir",
    "practise": "oefsmc_lib.methods.practise",
}


def compress(teacher, few, aux, experiment, w=None):
    """Run the experiment's method; see the module of that name."""
    return import_module(REGISTRY[experiment.method]).compress(teacher, few, aux, experiment, w)
