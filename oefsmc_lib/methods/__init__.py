"""The four compressors. Adding one is a module with ``compress`` and a line in ``REGISTRY``.

    compress(teacher, few, aux, experiment, w, once) -> Student

``teacher`` is a :class:`~oefsmc_lib.teachers.Teacher`; ``few`` and ``aux`` are normalised
:class:`~oefsmc_lib.fewshot.Samples` on its device (``aux`` is None where the variant reads none);
``w`` are the class shares of eq. (6), or None for the method's own importance. ``once(name, make)``
is ``make()``, computed once for all runs that train alike
(:meth:`~oefsmc_lib.experiment.Experiment.training_switches`); ``name`` says what, and has all that
it depends on besides. A method without such a part does not call it. The teacher is never changed. No method knows about grids, files or notebooks.
"""

from importlib import import_module

REGISTRY = {
    "fskd": "oefsmc_lib.methods.fskd",
    "cd": "oefsmc_lib.methods.cd",
    "mir": "oefsmc_lib.methods.mir",
    "practise": "oefsmc_lib.methods.practise",
}


def alone(_name, make):
    """The ``once`` of a run that shares nothing."""
    return make()


def compress(teacher, few, aux, experiment, w=None, once=alone):
    """Run the experiment's method; see the module of that name."""
    return import_module(REGISTRY[experiment.method]).compress(teacher, few, aux, experiment, w, once)
