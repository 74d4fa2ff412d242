"""The switches of each compressor, and of fine-tuning: sections of an experiment, as in ``fskd.rho``."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _no_boolean(value):
    if isinstance(value, bool):
        raise ValueError("input should be a number and no boolean")
    return value


Number = BeforeValidator(_no_boolean)  # to Python, true is 1
Positive = Annotated[float, Number, Field(gt=0)]
NotNegative = Annotated[float, Number, Field(ge=0)]
Share = Annotated[float, Number, Field(ge=0, le=1)]
Count = Annotated[int, Number, Field(ge=1)]
Natural = Annotated[int, Number, Field(ge=0)]


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Fskd(Settings):
    solver: Literal["ridge", "minnorm"] = "ridge"  # minnorm is the released code's least squares
    rho: NotNegative = 1e-4  # ridge towards identity, relative to the mean diagonal


class Cd(Settings):
    solver: Literal["exact", "adam"] = "exact"  # adam is the released procedure
    # A smaller ridge than 1e-2 fits unseen images worse than adam does in residual networks.
    rho: NotNegative | None = None  # ridge towards the teacher's weights; None: 1e-3 VGG, 1e-2 residual
    milestones: Count = 12  # steps of the schedule of kept channels (exact)
    mu: Share | None = None  # correction's share; None: 0.6 VGG, 0.9 residual
    bn: Literal["eval", "train"] = "eval"  # train is the released VGG script
    iterations: Count = 3000  # Adam steps a layer (adam)
    lr: Positive = 5e-4  # Adam's rate (adam)


class Mimic(Settings):
    iterations: Count = 2000  # SGD steps; x0.1 after 40 % and 80 % of them
    lr: Positive = 0.02  # SGD's rate
    batch: Count = 64  # images of each set a step
    bn: Literal["train", "eval"] = "train"  # mode of batch norms
    views: Natural = 32  # pre-drawn views an image; 0: fresh augmentation (literal)
    # bfloat16 is autocast, on devices that multiply it: weights, batch norms' statistics and losses stay float32. It is
    # part of the key, which does not depend on the device; the row's mimic_precision says what was used.
    precision: Literal["float32", "bfloat16"] = "float32"


class Mir(Mimic):
    stop: Literal["none", "watch"] = "none"  # watch: keep the weights that were closest to the teacher


class Practise(Mimic):
    # What the student starts from. None: bridge in VGG-16, where nothing else carries a dropped layer's work, and
    # teacher in residual networks, which is the release's procedure.
    start: Literal["teacher", "bridge"] | None = None  # None: bridge in VGG-16, teacher elsewhere
    stop: Literal["none", "watch"] | None = None  # as in mir; None: watch behind bridges, none elsewhere
    scoring_iterations: Count = 300  # adaptor steps a candidate (start=teacher); the release runs 2,000
    scoring_lr: Positive | None = None  # None: lr, in VGG raised for short scoring (compressors/practise.py)
    cache: bool = True  # the release has no stage cache and augments anew (literal)


class Finetune(Settings):
    # CD's own rate. The paper prints 5e-4, which is also the rate of CD's layer fits; fine-tuning at it undoes what
    # recovery won, on the embedded images and for every variant, so the printed rate is an option.
    lr: Positive = 1e-5  # SGD's rate; the paper prints 5e-4
    momentum: Annotated[float, Number, Field(ge=0, lt=1)] = 0.9  # SGD's momentum
    weight_decay: NotNegative = 5e-4  # SGD's weight decay
    epochs: Natural = 40  # at most, where stop=watch
    batch: Count = 128  # images a step
    bn: Literal["eval", "train", "separate"] = "eval"  # separate: OOD images leave running statistics alone
    recipe: Literal["constant", "cd"] = "constant"  # cd: lr 1e-5, x0.1 at 50 % and 75 %, train BN
    # watch: keep the weights that were closest to the teacher on OOD images that no stage trains on, and stop after
    # five epochs without closer ones (early stopping, section 4.3 of the paper); epochs is then the most
    stop: Literal["watch", "fixed", "train_loss"] = "watch"  # watch: early stopping on OOD images
    rebalance: Literal["none", "oversample", "class_weights", "logit_adjustment"] = "none"  # controls
