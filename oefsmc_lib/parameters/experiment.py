"""Every switch of one run: typed, validated, hashable.

An :class:`Experiment` is all that decides an outcome besides the data and the teacher. Its ``key`` hashes only the
switches that its method and variant read, so that two experiments that must give the same numbers share a key;
``pipeline`` adds the checksums of data and teacher. Each field is explained beside it.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from oefsmc_lib.errors import InputError
from oefsmc_lib.parameters import contradictions, keys, parse, sections
from oefsmc_lib.parameters.sections import Count, Natural, NotNegative, Number, Positive, Settings, Share

# Raised by hand whenever a change may alter any accuracy. Rows of different versions are not mixed.
ALGORITHM_VERSION = 3

Variant = Literal["native", "native_ft", "extra_images", "wo_ft", "wo_comp", "ours", "whole_pool"]
Method = Literal["fskd", "cd", "mir", "practise"]
VARIANTS: tuple[str, ...] = get_args(Variant)
METHODS: tuple[str, ...] = get_args(Method)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a variant does in each stage."""

    eq5: bool  # channels or blocks are chosen by eq. 5
    recovery: Literal["few", "few+aux", "few+pool"]  # the images that the recovery reads; two sets: eq. 7
    finetuning: Literal["own", "few", "few+aux"]  # own: the compressor's; few+aux: eq. 9


# The paper's base columns are native_ft. whole_pool is this package's own recommendation, not the paper's.
PARTS = {
    "native": Parts(eq5=False, recovery="few", finetuning="own"),
    "native_ft": Parts(eq5=False, recovery="few", finetuning="few"),
    "extra_images": Parts(eq5=False, recovery="few+aux", finetuning="few"),
    "wo_ft": Parts(eq5=True, recovery="few+aux", finetuning="few"),
    "wo_comp": Parts(eq5=False, recovery="few", finetuning="few+aux"),
    "ours": Parts(eq5=True, recovery="few+aux", finetuning="few+aux"),
    "whole_pool": Parts(eq5=True, recovery="few+pool", finetuning="few+aux"),
}

# The plan that a method's paper or release gives for a network; `other` is this package's choice.
PUBLISHED_PLANS = {
    "vgg16": {"fskd": "prune_a", "cd": "cd_half", "mir": "cfg_a", "practise": "drop2"},
    "resnet": {"fskd": "skip_first", "cd": "cd_half", "mir": "skip_first", "practise": "drop4"},  # of 20, 32, 56 layers
    "resnet34": {"fskd": "skip_ends", "cd": "cd_half", "mir": "skip_ends", "practise": "drop3"},
    "other": {"fskd": "inner_half", "cd": "inner_half", "mir": "inner_half", "practise": "drop1"},
}
EMBEDDED = "mnist5k"


class Experiment(Settings):
    """One run. Names are the paper's; ``docs/words.md`` explains them."""

    # what is compressed
    dataset: str = EMBEDDED  # a set that `oefsmc doctor` lists, or folder:PATH
    model: str = "vgg16"  # vgg16, resnet20, resnet32, resnet56, or one of torchvision's
    width: Positive = 0.25  # channels as a share of the full network's
    image_size: Count | None = None  # folders of images: resize and centre crop to this
    skip_broken: bool = False  # leave out images that do not decode
    method: Method = "fskd"  # the compressor
    variant: Variant = "ours"  # which parts of OE-FSMC; native_ft is the base
    plan: str | None = None  # None: the method's published plan for the network

    # the few images
    num: Count = 10  # M, all classes together
    imbalance: Literal["long_tail", "step", "balanced", "counts"] = "long_tail"
    ratio: Annotated[float, Number, Field(ge=1)] = 100.0  # imbalance ratio, head : tail
    rounding: Literal["largest_remainder", "floor", "at_least_one"] = "largest_remainder"  # of counts by class
    counts: tuple[Natural, ...] | None = None  # images of each class, for imbalance=counts
    class_order: Literal["permuted", "index"] = "permuted"  # which classes are frequent: by the seed, or the first
    seed: Natural = 0  # of all draws and of training

    # OOD images
    aux: Literal["ood", "augmented_few"] = "ood"  # augmented_few: the control without OOD images
    ood_source: str = "photos"  # the set that OOD images are drawn from
    ood_exclude: tuple[str, ...] = ()  # classes that the data set shares with the source
    n: Count | None = None  # |pool|; None: max(500, m)
    m: Natural | None = None  # |D_aux|; None: num
    ood_labels: Literal["complementary", "uniform", "teacher"] = "complementary"  # complementary: eq. 4
    label_sampling: Literal["iid", "quota"] = "iid"  # quota: counts as close to eq. 4 as can be
    alpha_min: Literal["all", "nonzero"] = "all"  # classes over which eq. 4 takes min beta
    redraw: bool = False  # draw labels anew at each fine-tuning step

    # the compression stage
    importance: Literal["variant", "native", "class_aware"] = "variant"  # class_aware: eq. 5
    w: Literal["mixed", "complement", "inverse", "uniform", "few"] = "mixed"  # class weights of eq. 6
    # own: the compressor's criterion by class, which only PRACTISE's has; evidence: mean activations by the teacher's
    # posterior on the whole pool, averaged over classes (evidence) or the largest one (evidence_max)
    contribution: Literal["own", "activation", "taylor", "bn_scale", "evidence", "evidence_max"] = "own"  # s_kj, eq. 5
    lam: Share = 0.5  # λ of eq. 7, the share of the few images
    kd: Literal["native", "kl"] = "native"  # kl adds eq. 2 on logits where a method trains by SGD
    augment: Literal["crop_flip", "crop", "resized_crop_flip", "none"] = "crop_flip"  # of training images
    fskd: sections.Fskd = sections.Fskd()
    cd: sections.Cd = sections.Cd()
    mir: sections.Mir = sections.Mir()
    practise: sections.Practise = sections.Practise()

    # the fine-tuning stage
    eta: NotNegative = 2.5  # η of eq. 9, the weight of the OOD images
    gamma: Literal["k_gamma", "one", "normalised"] = "k_gamma"  # γ_j of eq. 8; k_gamma: K Γ_j
    gamma_mean: Literal["plain", "weighted"] = "plain"  # weighted: divide by the sum of weights
    finetune: sections.Finetune = sections.Finetune()

    # where it runs; no part of the key
    device: str = "auto"  # auto, cpu, cuda or cuda:N

    @model_validator(mode="after")
    def _fits(self) -> Self:
        contradictions.refuse(self)
        return self

    # --- what the variant does -------------------------------------------------------------
    @property
    def class_aware(self) -> bool:
        """The variant asks for eq. 5 instead of the method's own importance."""
        return PARTS[self.variant].eq5 if self.importance == "variant" else self.importance == "class_aware"

    @property
    def weighs_classes(self) -> bool:
        """Eq. 5 can change what is removed. With ``contribution=own`` it can for PRACTISE alone, since the criteria of
        FSKD, MiR and CD do not split by class (:mod:`oefsmc_lib.compressors.importance`)."""
        return self.class_aware and (self.method == "practise" or self.contribution != "own")

    @property
    def recovers_jointly(self) -> bool:
        """Eq. 7 on few and OOD images instead of the few alone."""
        return PARTS[self.variant].recovery != "few"

    @property
    def recovers_pool(self) -> bool:
        """Eq. 7 reads every image of the pool instead of D_aux."""
        return PARTS[self.variant].recovery == "few+pool"

    @property
    def recovery_size(self) -> int:
        """How many OOD images eq. 7 reads."""
        return (self.pool_size if self.recovers_pool else self.aux_size) if self.recovers_jointly else 0

    @property
    def finetunes_on_aux(self) -> bool:
        """Eq. 9 instead of cross-entropy on the few images."""
        return PARTS[self.variant].finetuning == "few+aux"

    @property
    def bridges(self) -> bool:
        """PRACTISE scores by bridges and its student starts behind them."""
        start = self.practise.start or ("bridge" if self.model == "vgg16" else "teacher")
        return self.method == "practise" and start == "bridge"

    @property
    def recovery_watches(self) -> bool:
        """Mimicking stops by the distance to the teacher on the watch set."""
        if self.method == "practise" and self.practise.stop is None:
            return self.bridges
        return self.method in ("mir", "practise") and getattr(self, self.method).stop == "watch"

    @property
    def watches(self) -> bool:
        """Fine-tuning or mimicking stops by the distance to the teacher on the watch set."""
        return self.recovery_watches or (self.finetuning == "common" and self.finetune.stop == "watch")

    @property
    def finetuning(self) -> str:
        """``none``, ``cd`` (CD's own recipe) or ``common`` (the stage that every variant shares)."""
        own = "cd" if self.method == "cd" else "none"
        return own if PARTS[self.variant].finetuning == "own" else "common"

    @property
    def reads_aux(self) -> bool:
        """Some stage reads D_aux, or the pool that it is drawn from."""
        return self.recovers_jointly or self.weighs_classes or self.finetunes_on_aux

    @property
    def reads_pool(self) -> bool:
        """Some stage reads every image of the pool."""
        return self.recovers_pool or (self.weighs_classes and self.contribution.startswith("evidence"))

    @property
    def draws_pool(self) -> bool:
        """A pool is drawn from ``ood_source``, because some stage reads D_aux or the pool itself."""
        return self.reads_aux and self.aux == "ood"

    @property
    def reads_source(self) -> bool:
        """Some stage reads images of ``ood_source``."""
        return self.watches or self.draws_pool

    @property
    def aux_size(self) -> int:
        return self.num if self.m is None else self.m

    @property
    def pool_size(self) -> int:
        return max(500, self.aux_size) if self.n is None else self.n

    @property
    def resolved_plan(self) -> str:
        """The plan, by default the published one of the method for the network."""
        if self.plan is not None:
            return self.plan
        if self.method == "fskd" and self.dataset == EMBEDDED:
            return "half"  # prune_a hardly hurts a network this easy
        family = "resnet" if re.fullmatch(r"resnet(20|32|56)", self.model) else self.model
        return PUBLISHED_PLANS.get(family, PUBLISHED_PLANS["other"])[self.method]

    @property
    def cd_rho(self) -> float:
        """CD's relative ridge: ``cd.rho``, or the network family's own."""
        return self.cd.rho if self.cd.rho is not None else 1e-3 if self.model.startswith("vgg") else 1e-2

    @property
    def solver(self) -> str:
        """``literal`` where the procedure is the released one, else ``default``."""
        mir, practise = self.mir, self.practise
        scored = practise.scoring_iterations >= 2000 and practise.scoring_lr in (None, practise.lr)
        literal = {
            "fskd": self.fskd.solver == "minnorm",
            "cd": self.cd.solver == "adam",
            "mir": mir.views == 0 and mir.precision == "float32",
            "practise": not self.bridges and not practise.cache and scored and practise.precision == "float32",
        }
        return "literal" if literal[self.method] else "default"

    # --- identity --------------------------------------------------------------------------
    def switches(self) -> dict[str, Any]:
        """All that this run reads, flat, with plan, m, n and CD's ridge resolved (see :mod:`.keys`)."""
        switches = keys.reads(self, "outcome") | {"variant": self.variant}
        del switches["finetuning"]  # the variant says it
        return switches

    @property
    def key(self) -> str:
        """12 hex digits over :meth:`switches` and ``ALGORITHM_VERSION``."""
        return keys.digest(self.switches() | {"algorithm": ALGORITHM_VERSION})

    @classmethod
    def parse(cls, settings: dict[str, Any], where: str = "the settings") -> Self:
        """Validate plain settings (dotted keys allowed); an :class:`InputError` names the first fault."""
        nested = parse.nest(settings, known_keys(), where)
        try:
            return cls.model_validate(nested)
        except ValidationError as error:
            raise InputError(parse.sentence(error, where)) from None


def known_keys() -> tuple[str, ...]:
    """Every key of an experiment, dotted: ``num``, ``fskd.rho``, ..."""
    return tuple(parse.flat(Experiment().model_dump()))
