"""Every switch of one run: typed, validated, hashable.

An :class:`Experiment` is all that decides an outcome besides the data and the teacher. Its
``key`` hashes only the switches that its method and variant read, so that two experiments that
must give the same numbers share a key; ``pipeline`` adds the checksums of data and teacher.
Defaults are those of ``params/`` and are explained there and in each field below.
"""

import re
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from oefsmc_lib.errors import InputError
from oefsmc_lib.parameters import keys, parse

# Raised by hand whenever a change may alter any accuracy. Rows of different versions are not mixed.
ALGORITHM_VERSION = 3

Variant = Literal["native", "native_ft", "extra_images", "wo_ft", "wo_comp", "ours", "whole_pool"]
Method = Literal["fskd", "cd", "mir", "practise"]
VARIANTS: tuple[str, ...] = get_args(Variant)
METHODS: tuple[str, ...] = get_args(Method)


class Parts(NamedTuple):
    """What a variant does in each stage."""

    eq5: bool  # channels or blocks are chosen by eq. 5
    recovery: Literal["few", "few+aux", "few+pool"]  # the images that the recovery reads; two sets: eq. 7
    finetuning: Literal["own", "few", "few+aux"]  # own: the compressor's; few+aux: eq. 9


# The paper's base columns are native_ft. whole_pool is this package's own recommendation, not the paper's.
PARTS = {
    "native": Parts(False, "few", "own"),
    "native_ft": Parts(False, "few", "few"),
    "extra_images": Parts(False, "few+aux", "few"),
    "wo_ft": Parts(True, "few+aux", "few"),
    "wo_comp": Parts(False, "few", "few+aux"),
    "ours": Parts(True, "few+aux", "few+aux"),
    "whole_pool": Parts(True, "few+pool", "few+aux"),
}

# (method, model) -> the plan that its paper or release gives for that network (see surgery.plan_widths).
PUBLISHED_PLANS = {
    ("fskd", "vgg16"): "prune_a",
    ("cd", "vgg16"): "cd_half",
    ("mir", "vgg16"): "cfg_a",
    ("practise", "vgg16"): "drop3",
    ("fskd", "resnet"): "skip_first",
    ("cd", "resnet"): "cd_half",
    ("mir", "resnet"): "skip_first",
    ("practise", "resnet"): "drop4",
    ("fskd", "resnet34"): "skip_ends",
    ("cd", "resnet34"): "cd_half",
    ("mir", "resnet34"): "skip_ends",
    ("practise", "resnet34"): "drop3",
}
EMBEDDED = "mnist5k"

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Fskd(Settings):
    solver: Literal["ridge", "minnorm"] = "ridge"  # minnorm is the released code's least squares
    rho: Annotated[float, Field(ge=0)] = 1e-4  # ridge towards identity, relative to the mean diagonal


class Cd(Settings):
    solver: Literal["exact", "adam"] = "exact"  # adam is the released procedure
    rho: Annotated[float, Field(ge=0)] | None = None  # ridge towards the teacher's weights, relative; None: 1e-3 VGG,
    #                                                        1e-2 residual, where a smaller one fits unseen images worse than adam
    milestones: Count = 12  # steps of the schedule of kept channels (exact)
    mu: Annotated[float, Field(ge=0, le=1)] | None = None  # correction's share; None: 0.6 VGG, 0.9 residual
    bn: Literal["eval", "train"] = "eval"  # train is the released VGG script
    iterations: Count = 3000  # Adam steps a layer (adam)
    lr: Positive = 5e-4  # Adam's rate (adam)


class Mimic(Settings):
    iterations: Count = 2000  # SGD steps; x0.1 after 40 % and 80 % of them
    lr: Positive = 0.02
    batch: Count = 64  # images of each set a step
    bn: Literal["train", "eval"] = "train"
    views: Annotated[int, Field(ge=0)] = 32  # pre-drawn views an image; 0: fresh augmentation (literal)


class Mir(Mimic):
    pass


class Practise(Mimic):
    scoring_iterations: Count = 300  # adaptor steps a candidate; the release runs 2,000
    scoring_lr: Positive | None = None  # None: lr, in VGG raised for short scoring (compressors/practise.py)
    saving: Literal["macs", "latency"] = "macs"  # latency: measured, as the release does
    cache: bool = True  # False: no stage cache, fresh augmentation (literal)


class Finetune(Settings):
    # CD's own rate. The paper prints 5e-4, which is also the rate of CD's layer fits; fine-tuning at it undoes what
    # recovery won, on the embedded images and for every variant, so the printed rate is an option.
    lr: Positive = 1e-5
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    epochs: Annotated[int, Field(ge=0)] = 40
    batch: Count = 128
    bn: Literal["eval", "train", "separate"] = "eval"  # separate: OOD images leave running statistics alone
    recipe: Literal["constant", "cd"] = "constant"  # cd: lr 1e-5, x0.1 at 50 % and 75 %, train BN
    # watch: keep the weights that were closest to the teacher on OOD images that no stage trains on, and stop after
    # five epochs without closer ones (early stopping, section 4.3 of the paper); epochs is then the most
    stop: Literal["watch", "fixed", "train_loss"] = "watch"
    scale_lr: bool = False  # control: lr x (1 + eta E[gamma]) on few images alone
    rebalance: Literal["none", "oversample", "class_weights", "logit_adjustment"] = "none"


class Experiment(Settings):
    """One run. Names are the paper's; see the README for the words."""

    # what is compressed
    dataset: str = EMBEDDED
    model: str = "vgg16"
    width: Positive = 0.25
    image_size: Count | None = None  # folders of images: resize and centre crop to this
    skip_broken: bool = False  # leave out images that do not decode
    method: Method = "fskd"
    variant: Variant = "ours"
    plan: str | None = None  # None: the method's published plan for the network

    # the few images
    num: Count = 10  # M, all classes together
    imbalance: Literal["long_tail", "step", "balanced", "counts"] = "long_tail"
    ratio: Annotated[float, Field(ge=1)] = 100.0  # imbalance ratio, head : tail
    rounding: Literal["largest_remainder", "floor", "at_least_one"] = "largest_remainder"
    counts: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    class_order: Literal["permuted", "index"] = "permuted"
    seed: Annotated[int, Field(ge=0)] = 0

    # OOD images
    aux: Literal["ood", "augmented_few"] = "ood"  # augmented_few: the control without OOD images
    ood_source: str = "photos"
    ood_exclude: tuple[str, ...] = ()  # classes that the data set shares with the source
    n: Count | None = None  # |pool|; None: max(500, m)
    m: Annotated[int, Field(ge=0)] | None = None  # |D_aux|; None: num
    ood_labels: Literal["complementary", "uniform", "teacher"] = "complementary"
    label_sampling: Literal["iid", "quota"] = "iid"
    alpha_min: Literal["all", "nonzero"] = "all"  # classes over which eq. 4 takes min beta
    redraw: bool = False  # draw labels anew at each fine-tuning step

    # the compression stage
    importance: Literal["variant", "native", "class_aware"] = "variant"
    w: Literal["mixed", "complement", "inverse", "uniform", "few"] = "mixed"
    # s_kj of eq. 5. own: the compressor's criterion by class, which only PRACTISE's has; evidence: mean activations by
    # the teacher's posterior on the whole pool, averaged over classes (evidence) or the largest one (evidence_max)
    contribution: Literal["own", "activation", "taylor", "bn_scale", "evidence", "evidence_max"] = "own"
    lam: Annotated[float, Field(ge=0, le=1)] = 0.5
    kd: Literal["native", "kl"] = "native"  # kl adds eq. 2 on logits where a method trains by SGD
    augment: Literal["crop_flip", "crop", "resized_crop_flip", "none"] = "crop_flip"
    fskd: Fskd = Fskd()
    cd: Cd = Cd()
    mir: Mir = Mir()
    practise: Practise = Practise()

    # the fine-tuning stage
    eta: Annotated[float, Field(ge=0)] = 2.5
    gamma: Literal["k_gamma", "one", "normalised"] = "k_gamma"
    gamma_mean: Literal["plain", "weighted"] = "plain"  # weighted: divide by the sum of weights
    finetune: Finetune = Finetune()

    # where it runs; no part of the key
    device: str = "auto"

    @model_validator(mode="after")
    def _consistent(self):
        if (self.counts is not None) != (self.imbalance == "counts"):
            raise ValueError("counts is given exactly when imbalance=counts")
        if self.counts is not None and sum(self.counts) != self.num:
            raise ValueError(f"counts add up to {sum(self.counts)}, but num is {self.num}")
        if self.n is not None and self.aux_size > self.n and self.aux == "ood":
            raise ValueError(f"m={self.aux_size} images cannot be drawn from a pool of n={self.n}; raise n or lower m")
        if self.recovers_pool and self.aux != "ood":
            raise ValueError(
                f"variant=whole_pool recovers on the OOD pool, but aux={self.aux} has no pool; use aux=ood"
            )
        if self.recovers_jointly and self.recovery_size == 0 and self.lam < 1:
            raise ValueError("m=0 leaves the auxiliary set empty, so eq. 7 needs lam=1")
        if self.reads_aux and self.aux_size == 0 and self.finetunes_on_aux and self.eta > 0:
            raise ValueError("m=0 leaves the auxiliary set empty, so eq. 9 needs eta=0")
        if self.redraw and (self.aux == "augmented_few" or self.ood_labels == "teacher"):
            own = "aux=augmented_few" if self.aux == "augmented_few" else "ood_labels=teacher"
            raise ValueError(
                f"redraw=true draws labels by eq. 4, but {own} gives every image its own; use redraw=false"
            )
        if self.method == "practise" and self.contribution != "own":
            raise ValueError(
                f"contribution={self.contribution} scores channels, but practise drops blocks by its own score; "
                "use contribution=own"
            )
        if self.contribution.startswith("evidence") and self.weighs_classes and self.aux != "ood":
            raise ValueError(
                f"contribution={self.contribution} reads the OOD pool, but aux={self.aux} has no pool; use aux=ood"
            )
        if self.kd == "kl" and self.method in ("fskd", "cd"):
            raise ValueError(
                f"kd=kl adds a loss on logits, but {self.method} solves layer by layer; use mir or practise"
            )
        if self.method == "practise" and self.plan and not re.fullmatch(r"drop[1-9]\d*", self.plan):
            raise ValueError(
                f"plan={self.plan} removes channels, but practise drops blocks; use plan=drop1, drop2, ..."
            )
        if self.method != "practise" and self.plan and re.fullmatch(r"drop\d+", self.plan):
            raise ValueError(f"plan={self.plan} drops blocks, which only method=practise does; use a plan of channels")
        return self

    # --- what the variant does -------------------------------------------------------------
    @property
    def class_aware(self) -> bool:
        """The variant asks for eq. 5 instead of the method's own importance."""
        return PARTS[self.variant].eq5 if self.importance == "variant" else self.importance == "class_aware"

    @property
    def weighs_classes(self) -> bool:
        """Eq. 5 can change what is removed.

        With ``contribution=own`` it can for PRACTISE alone: the criteria of FSKD, MiR and CD look at no image, so
        s_{k,j} is the same for every class, the weights w_j add up to 1, and eq. 5 is the compressor's own choice.
        """
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
    def watches(self) -> bool:
        """Fine-tuning stops by the distance to the teacher on the watch set."""
        return self.finetuning == "common" and self.finetune.stop == "watch"

    @property
    def finetuning(self) -> str:
        """``none``, ``cd`` (CD's own recipe) or ``common`` (the stage that every variant shares)."""
        if PARTS[self.variant].finetuning == "own":
            return "cd" if self.method == "cd" else "none"
        return "common"

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
        if self.plan is not None:
            return self.plan
        if self.method == "fskd" and self.dataset == EMBEDDED:
            return "half"  # prune_a hardly hurts a network this easy
        family = "resnet" if re.fullmatch(r"resnet(20|32|56)", self.model) else self.model
        return PUBLISHED_PLANS.get((self.method, family), "drop1" if self.method == "practise" else "inner_half")

    @property
    def cd_rho(self) -> float:
        """CD's relative ridge: ``cd.rho``, or the network family's own."""
        return self.cd.rho if self.cd.rho is not None else 1e-3 if self.model.startswith("vgg") else 1e-2

    @property
    def solver(self) -> str:
        """``literal`` where the procedure is the released one, else ``default``."""
        literal = {
            "fskd": self.fskd.solver == "minnorm",
            "cd": self.cd.solver == "adam",
            "mir": self.mir.views == 0,
            "practise": not self.practise.cache
            and self.practise.scoring_iterations >= 2000
            and self.practise.scoring_lr in (None, self.practise.lr),
        }
        return "literal" if literal[self.method] else "default"

    # --- identity --------------------------------------------------------------------------
    def switches(self) -> dict[str, Any]:
        """All that this run reads, flat, with plan, m, n and CD's ridge resolved (:mod:`oefsmc_lib.parameters.keys`)."""
        switches = keys.reads(self, "outcome") | {"variant": self.variant}
        del switches["finetuning"]  # the variant says it
        return switches

    @property
    def key(self) -> str:
        """12 hex digits over :meth:`switches` and ``ALGORITHM_VERSION``."""
        return keys.digest(self.switches() | {"algorithm": ALGORITHM_VERSION})

    # --- making one ------------------------------------------------------------------------
    @classmethod
    def parse(cls, settings: dict[str, Any], where: str = "the settings") -> "Experiment":
        """Validate plain settings (dotted keys allowed); an :class:`InputError` names the first fault."""
        nested = parse.nest(settings, known_keys(), where)
        try:
            return cls.model_validate(nested)
        except ValidationError as error:
            raise InputError(parse.sentence(error, where)) from None


def known_keys() -> list[str]:
    """Every key of an experiment, dotted: ``num``, ``fskd.rho``, ..."""
    return parse.dotted(Experiment)
