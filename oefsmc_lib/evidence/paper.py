"""Every number and claim that the paper prints, with its doubts; no other file carries one.

Wu, Lyu, Chen, Qu and Ye, *Compressing Model with Few Class-Imbalance Samples: An Out-of-Distribution
Expedition*. Tables 1 and 2 are copied digit by digit, misprints included; a record that is in doubt
names its :class:`Doubt`. Figure 3 prints no numbers, so its claims are sentences. Loads nothing heavy.
"""

from dataclasses import dataclass
from typing import Literal

Quantity = Literal["top1", "loss"]

NETWORKS = {"cifar10": "vgg16", "cifar100": "resnet32", "imagenet": "resnet34"}  # the caption's pairing; see `pairing`
METHOD_NAMES = {"cd": "CD", "fskd": "FSKD", "mir": "MiR", "practise": "PRACTISE"}
RATIO = 100.0  # the imbalance ratio of both tables
RUNS = 5  # "five independent experiments"


@dataclass(frozen=True)
class Printed:
    """One printed number, in percent (``top1``) or points (``loss``, the arrows of Table 1)."""

    table: Literal[1, 2]
    dataset: str
    network: str
    method: str
    variant: Literal["native_ft", "ours"]  # the base columns are native_ft; see `base_finetuned`
    num: int
    imbalance: Literal["balanced", "long_tail"]
    value: float
    quantity: Quantity = "top1"
    doubt: str | None = None  # a key of DOUBTS


@dataclass(frozen=True)
class Claim:
    """What the paper says in words, and where."""

    where: str
    sentence: str


@dataclass(frozen=True)
class Doubt:
    """Something printed that contradicts itself or stays open: what, and why one may doubt it."""

    where: str
    sentence: str
    reason: str
    likely: float | None = None  # what was probably meant, for a misprinted number


# --- Table 1: VGG-16, CIFAR-10; (balanced, long-tailed, printed loss) at each num ----------------
_TABLE1_NUMS = (10, 20, 50, 100)
_TABLE1 = {
    "cd": ((73.89, 70.34, 3.55), (81.65, 76.39, 5.26), (82.86, 80.47, 2.39), (83.56, 82.24, 1.32)),
    "fskd": ((76.18, 73.51, 2.67), (84.20, 81.66, 2.54), (88.63, 86.31, 2.32), (89.18, 87.41, 1.77)),
    "mir": ((75.42, 72.84, 2.58), (79.18, 76.57, 2.61), (84.27, 82.49, 1.78), (85.71, 83.85, 1.86)),
    "practise": ((76.91, 75.78, 1.13), (82.07, 81.26, 0.81), (86.35, 85.98, 0.37), (89.71, 89.35, 0.35)),
}

# --- Table 2: long-tailed; the method alone and with OE-FSMC at each num -------------------------
_TABLE2_NUMS = {"cifar10": (10, 20, 50), "cifar100": (100, 200, 500), "imagenet": (1000, 2000, 3000)}
_TABLE2 = {
    ("cd", "native_ft"): ((70.34, 76.39, 80.47), (53.38, 62.71, 67.40), (69.49, 70.07, 70.14)),
    ("cd", "ours"): ((78.90, 81.02, 82.80), (56.33, 65.18, 68.84), (69.84, 70.56, 70.58)),
    ("fskd", "native_ft"): ((73.51, 81.66, 86.31), (57.78, 63.29, 68.15), (68.54, 69.95, 70.27)),
    ("fskd", "ours"): ((75.93, 84.67, 88.24), (59.46, 65.88, 69.17), (69.06, 70.18, 70.60)),
    ("mir", "native_ft"): ((72.84, 76.57, 82.49), (57.69, 64.92, 68.70), (66.36, 67.23, 67.48)),
    ("mir", "ours"): ((75.25, 77.93, 83.60), (60.37, 66.53, 69.83), (66.85, 67.97, 68.12)),
    ("practise", "native_ft"): ((75.78, 81.26, 85.98), (58.42, 65.14, 69.02), (70.90, 71.89, 72.41)),
    ("practise", "ours"): ((76.59, 81.77, 86.25), (69.57, 66.08, 69.62), (71.52, 72.17, 72.85)),
}
_DOUBTED = {
    (1, "cifar10", "practise", "native_ft", 100, "loss"): "rounded_loss",
    (2, "cifar100", "practise", "ours", 100, "top1"): "misprint",
    (2, "cifar10", "cd", "ours", 10, "top1"): "above_balanced",
}


def _record(table, dataset, method, variant, num, imbalance, value, quantity: Quantity = "top1") -> Printed:
    doubt = _DOUBTED.get((table, dataset, method, variant, num, quantity))
    return Printed(table, dataset, NETWORKS[dataset], method, variant, num, imbalance, value, quantity, doubt)


def _table1():
    for method, cells in _TABLE1.items():
        for num, (balanced, long_tailed, loss) in zip(_TABLE1_NUMS, cells, strict=True):
            yield _record(1, "cifar10", method, "native_ft", num, "balanced", balanced)
            yield _record(1, "cifar10", method, "native_ft", num, "long_tail", long_tailed)
            yield _record(1, "cifar10", method, "native_ft", num, "long_tail", loss, "loss")


def _table2():
    for (method, variant), sets in _TABLE2.items():
        for dataset, values in zip(_TABLE2_NUMS, sets, strict=True):
            for num, value in zip(_TABLE2_NUMS[dataset], values, strict=True):
                yield _record(2, dataset, method, variant, num, "long_tail", value)


TABLE1: tuple[Printed, ...] = tuple(_table1())
TABLE2: tuple[Printed, ...] = tuple(_table2())
PRINTED: tuple[Printed, ...] = TABLE1 + TABLE2


def paper_value(dataset: str, method: str, variant: str, num: int, imbalance: str = "long_tail") -> float | None:
    """Top-1 in percent as printed, Table 1 first; None where the paper has no such cell.

    The base rows of Table 2 on CIFAR-10 repeat Table 1, so the order does not matter.
    """
    record = printed(dataset, method, variant, num, imbalance)
    return None if record is None else record.value


def printed(dataset: str, method: str, variant: str, num: int, imbalance: str = "long_tail") -> Printed | None:
    """The record behind :func:`paper_value`, with its doubt."""
    wanted = (dataset, method, variant, num, imbalance, "top1")
    return next(
        (r for r in PRINTED if wanted == (r.dataset, r.method, r.variant, r.num, r.imbalance, r.quantity)), None
    )


# --- what the paper says in words ----------------------------------------------------------------
CLAIMS: dict[str, Claim] = {
    "imbalance_hurts": Claim(
        "Table 1, §5.2", "Under class imbalance the existing methods lose accuracy significantly."
    ),
    "practise_loses_least": Claim("Table 1, §5.2", "PRACTISE loses least under imbalance."),
    "practise_latency": Claim("§5.2", "Under imbalance the latency of PRACTISE's networks grows significantly."),
    "ours_helps": Claim("Table 2, §5.3", "With OE-FSMC every method gains significantly on every data set."),
    "more_with_fewer": Claim("§5.3", "The gain is more pronounced the fewer training images there are."),
    "both_components": Claim(
        "Fig. 3(a), §5.4", "Either component alone improves the network, and both together are better than either."
    ),
    "wo_ft_beats_wo_comp": Claim(
        "Fig. 3(a), §5.4",
        "OOD data in the compression stage alone (w/o FT) gain more than OOD data in fine-tuning alone (w/o Comp.).",
    ),
    "m_equals_num": Claim(
        "Fig. 3(b), §5.5", "An auxiliary set about as large as the training set is best, at three training sizes."
    ),
    "lam_half": Claim("Fig. 3(c), §5.5", "Of λ in 0, 0.2, 0.4, 0.5, 0.6, 0.8 and 1, the best is 0.5."),
    "eta_best": Claim("Fig. 3(d), §5.5", "Of η in 0.1, 0.5, 1.5, 2.5, 3.5 and 5, the best is 2.5; larger ones hurt."),
    "n_negligible": Claim("§4.3", "A smaller pool of OOD images has a negligible effect on accuracy."),
}

# --- what may be doubted, and why ----------------------------------------------------------------
DOUBTS: dict[str, Doubt] = {
    "misprint": Doubt(
        "Table 2, PRACTISE + Ours, CIFAR-100, 100 images",
        "69.57 is almost surely a misprint of 59.57.",
        "It is above the cell with twice the images (66.08) and 11.15 points above its base, where the other gains of "
        "this method on CIFAR-100 are 0.94 and 0.60, and those of the other methods in this column 1.68 to 2.95.",
        59.57,
    ),
    "rounded_loss": Doubt(
        "Table 1, PRACTISE, 100 images",
        "The loss is printed as 0.35.",
        "89.71 − 89.35 is 0.36; the other fifteen losses agree with their cells.",
        0.36,
    ),
    "above_balanced": Doubt(
        "Table 2, CD + Ours, CIFAR-10, 10 images",
        "78.90 would be 8.56 points above CD alone.",
        "It is also above CD with balanced images (73.89, Table 1) and above CD with twice as many long-tailed ones "
        "(76.39), which images with random labels are not expected to replace.",
    ),
    "pairing": Doubt(
        "§5.3 against the caption of Table 2",
        "The text pairs VGG-16 with CIFAR-100 and ResNet-32 with CIFAR-10; the caption says the opposite.",
        "The base rows of Table 2 on CIFAR-10 equal the VGG-16 cells of Table 1 to the last digit, so the caption is right.",
    ),
    "sizes": Doubt(
        "§5.1 against Tables 1 and 2",
        "The text names 10, 30 and 50 images, the tables 10, 20, 50 (and 100).",
        "No table has a column 30, and no text mentions 20; the tables are followed here.",
    ),
    "num": Doubt(
        "Tables 1 and 2, Num",
        "Whether Num counts all images or those of one class is not said.",
        "§5.3 says that 1000, 2000 and 3000 images of ILSVRC-2012 are 1, 2 and 3 a class, so Num counts all images; "
        "10 images of CIFAR-10 are then one a class when balanced.",
    ),
    "ratio": Doubt(
        "§5.1",
        "An imbalance ratio of 100 cannot be had with 10 images.",
        "In whole images the largest class gets four and the smallest that has any gets one; classes without images "
        "are allowed here, as one image for each would make 10 images balanced.",
    ),
    "more_with_fewer": Doubt(
        "§5.3",
        "Gains are said to be more pronounced with fewer images.",
        "By Table 2 itself FSKD gains 2.42, 3.01 and 1.93 points on CIFAR-10 and 1.68, 2.59 and 1.02 on CIFAR-100, and "
        "CD gains more with 2000 images of ILSVRC-2012 (0.49) than with 1000 (0.35).",
    ),
    "base_finetuned": Doubt(
        "Tables 1 and 2, base rows",
        "Whether the base methods are fine-tuned on the few images is not said.",
        "The ablation without OOD data in fine-tuning keeps the stage, so the base rows are read as fine-tuned "
        "(native_ft); rows without it (native) are shown beside.",
    ),
    "no_spread": Doubt(
        "§5.1",
        'Five runs and their "mean deviation" are announced, but no table prints a deviation.',
        "Differences below a point cannot be told from chance without one.",
    ),
    "fig3_unnamed": Doubt(
        "Fig. 3",
        "Neither the method nor the data set of the four panels is named.",
        '§5.4 says "the same network and dataset", and the text gives no number.',
    ),
    "pool_size": Doubt(
        "§4.3, §5.1",
        "The pool has 500 images, but the auxiliary set is as large as the training set, up to 3000.",
        "Without replacement that is impossible; the pool has max(500, m) images here.",
    ),
    "n_not_shown": Doubt(
        "§4.3",
        "The experiments are said to analyse the pool's size n.",
        "Figure 3(b) varies the auxiliary set's m instead.",
    ),
    "ood_source": Doubt(
        "§4.3",
        "The OOD images are called TinyImage with about 300K images.",
        "80 Million Tiny Images was withdrawn, and 300K Random Images is another set; which one was used decides the "
        "accuracies, so every table here names its source.",
    ),
    "eq6": Doubt(
        "Eq. 6",
        'p_j is "the relative frequency of class j", yet minority classes are said to weigh more.',
        "Frequencies in the training set weigh minorities less, as in eq. 1; frequencies in training and auxiliary "
        "images together weigh them more, and are the default here. They matter for PRACTISE alone: the criteria of FSKD, "
        "MiR and CD look at no image, so s_kj is the same for every class and any weights that add up to 1 give eq. 1.",
    ),
    "approximately_balanced": Doubt(
        "§4.2",
        "The mixed class distribution is said to approximate the balanced one.",
        "With m = M it keeps a ratio of 3 to 4 between the largest and the smallest class; exact balance needs "
        "m = M(Kα − 1), three to four times the training set.",
    ),
    "theorem1": Doubt(
        "Theorem 1 against eq. 4",
        "The theorem is about uniformly drawn labels, the method draws complementary ones.",
        "Where the supports of both kinds of images overlap only uniform labels leave the Bayes rule alone, and that "
        "student and teacher features stay aligned does not follow from it.",
    ),
    "early_stopping": Doubt(
        "§4.3",
        "Fine-tuning is said to stop early, without saying what is watched.",
        "There are no validation images, and watching test images would be a leak. Here the distance between teacher and "
        "student is watched on OOD images that no stage trains on, by the same rule for every variant, the base included.",
    ),
    "learning_rate": Doubt(
        "§5.1",
        "A learning rate of 0.0005 and a batch of 128 are given, and all original hyper-parameters are said to "
        "be kept.",
        "Both cannot hold: CD, the one method with a fine-tuning stage of its own, fine-tunes at 0.00001, and "
        "0.0005 is the rate of its layer fits. CD's rate of fine-tuning is the default here, and the printed one an option: "
        "on the embedded images it undoes what recovery won.",
    ),
    "wo_comp": Doubt(
        "§5.4",
        'w/o Comp. removes "the class-dependent weight factor".',
        "Both w_j of eq. 5 and γ of eq. 8 fit these words. w_j is meant here, since the variant is about compression.",
    ),
    "eq1_data_free": Doubt(
        "§4.1",
        "Eq. 1 is said to describe pruning under imbalance.",
        "FSKD and MiR prune by the weights alone and look at no image, so imbalance cannot bias what they prune.",
    ),
    "practise_vgg": Doubt(
        "Tables 1 and 2, PRACTISE",
        "PRACTISE drops residual blocks, and VGG-16 has none.",
        "What was dropped is not said; the units of this package are its own extension.",
    ),
    "plans": Doubt(
        "Table 2, CIFAR-100",
        'Pruning ratios "as reported in their implementations" do not exist for ResNet-32.',
        "None of the four has published one for this network and data set; the plans here are analogues.",
    ),
    "practise_latency": Doubt(
        "§5.2", "PRACTISE's latency is said to increase significantly under imbalance.", "No latency is printed."
    ),
    "labels_fixed": Doubt(
        "§4.3",
        "OOD labels are assigned once and reused in fine-tuning; the journal version says that they are assigned "
        "dynamically.",
        "Labels are fixed here as in the text of this version. Drawing them anew at each step is shown "
        "beside it as the journal version's reading.",
    ),
    "teacher": Doubt(
        "§5.2",
        "The teacher's training and accuracy are not given.",
        "Accuracies of students cannot be compared without it, so the drop from the teacher stands beside each here.",
    ),
}
