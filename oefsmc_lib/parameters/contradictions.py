"""Switches that contradict each other, each with the sentence that refuses them."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oefsmc_lib.parameters.experiment import Experiment


def refuse(experiment: "Experiment") -> None:
    """Raises ``ValueError`` for the first contradiction, which no images could resolve."""
    for wrong, sentence in (*_of_images(experiment), *_of_compressor(experiment)):
        if wrong:
            raise ValueError(sentence)


def _of_images(e: "Experiment") -> Iterator[tuple[bool, str]]:
    """The sets have a possible size and come from where they can."""
    yield (e.counts is not None) != (e.imbalance == "counts"), "counts is given exactly when imbalance=counts"
    total = sum(e.counts or ())
    yield e.counts is not None and total != e.num, f"counts add up to {total}, but num is {e.num}"
    too_many = e.aux == "ood" and e.aux_size > e.pool_size
    yield too_many, f"m={e.aux_size} images cannot be drawn from a pool of n={e.n}; raise n or lower m"
    empty = "m=0 leaves the auxiliary set empty, so"
    yield e.recovers_jointly and e.recovery_size == 0 and e.lam < 1, f"{empty} eq. 7 needs lam=1"
    yield e.finetunes_on_aux and e.aux_size == 0 and e.eta > 0, f"{empty} eq. 9 needs eta=0"
    reader = "variant=whole_pool" if e.recovers_pool else f"contribution={e.contribution}"
    no_pool = e.reads_pool and e.aux != "ood"
    yield no_pool, f"{reader} reads the OOD pool, but aux={e.aux} has no pool; use aux=ood"
    own = f"aux={e.aux}" if e.aux != "ood" else f"ood_labels={e.ood_labels}"
    labelled = e.redraw and (e.aux != "ood" or e.ood_labels == "teacher")
    yield labelled, f"redraw=true draws labels, but {own} gives every image its own; use redraw=false"


def _of_compressor(e: "Experiment") -> Iterator[tuple[bool, str]]:
    """The compressor has what is asked of it."""
    practise, plan, own = e.method == "practise", e.plan or "", "practise drops blocks by its own score"
    scored = practise and e.contribution != "own"
    yield scored, f"contribution={e.contribution} scores channels, but {own}; use contribution=own"
    layerwise = e.kd == "kl" and e.method in ("fskd", "cd")
    yield layerwise, f"kd=kl is a loss on logits, but {e.method} solves layer by layer; use mir or practise"
    channels = practise and plan != "" and not re.fullmatch(r"drop[1-9]\d*", plan)
    yield channels, f"plan={plan} removes channels, but practise drops blocks; use plan=drop1, drop2, ..."
    carried = f"the shortcuts of {e.model} carry what a dropped block leaves; use practise.start=teacher"
    yield e.bridges and e.model != "vgg16", f"practise.start=bridge is for VGG-16, but {carried}"
    blocks = not practise and re.fullmatch(r"drop\d+", plan) is not None
    yield blocks, f"plan={plan} drops blocks, which only method=practise does; use a plan of channels"
