"""Every number and claim that the paper prints, with its doubts. They stand in ``paper.yaml`` and in no other file.

Wu, Lyu, Chen, Qu and Ye, *Compressing Model with Few Class-Imbalance Samples: An Out-of-Distribution
Expedition*. Tables 1 and 2 are copied digit by digit, misprints included; a record that is in doubt
names its :class:`Doubt`. Figure 3 prints no numbers, so its claims are sentences. Loads nothing heavy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

Quantity = Literal["top1", "loss"]

NETWORKS = {"cifar10": "vgg16", "cifar100": "resnet32", "imagenet": "resnet34"}  # the caption's pairing; see `pairing`
NAMES_OF_DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
METHOD_NAMES = {"cd": "CD", "fskd": "FSKD", "mir": "MiR", "practise": "PRACTISE"}
RATIO = 100.0  # the imbalance ratio of both tables


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
    cell: Mapping[str, Any] | None = None  # the printed number that is in doubt, by fields of Printed


_FILE = yaml.safe_load(Path(__file__).with_name("paper.yaml").read_text(encoding="utf-8"))
CLAIMS = {name: Claim(**entry) for name, entry in _FILE["claims"].items()}
DOUBTS = {name: Doubt(**entry) for name, entry in _FILE["doubts"].items()}


def _record(**fields: Any) -> Printed:
    """A printed number with the network of its data set, and with the doubt about it if there is one."""
    record = Printed(network=NETWORKS[fields["dataset"]], **fields)
    about = [name for name, doubt in DOUBTS.items() if doubt.cell and doubt.cell.items() <= vars(record).items()]
    return replace(record, doubt=about[0] if about else None)


PRINTED = tuple(
    _record(**entry["cell"], num=num, value=value, quantity=quantity)
    for entry in _FILE["printed"]
    for quantity in get_args(Quantity)
    for num, value in entry.get(quantity, {}).items()
)
TABLE1, TABLE2 = (tuple(record for record in PRINTED if record.table == number) for number in (1, 2))


def doubt_about(dataset: str, compressor: str, num: int) -> Doubt | None:
    """Why a printed number of this cell of Table 2 may be wrong, and with it the difference; None for most cells."""
    fits = (r for r in TABLE2 if r.doubt and (r.dataset, METHOD_NAMES[r.method], r.num) == (dataset, compressor, num))
    return next((DOUBTS[record.doubt] for record in fits if record.doubt), None)


def paper_value(dataset: str, method: str, variant: str, num: int, imbalance: str = "long_tail") -> float | None:
    """Top-1 in percent as printed, Table 1 first; None where the paper has no such cell.

    The base rows of Table 2 on CIFAR-10 repeat Table 1, so the order does not matter.
    """
    record = printed(dataset, method, variant, num, imbalance)
    return None if record is None else record.value


def printed(dataset: str, method: str, variant: str, num: int, imbalance: str = "long_tail") -> Printed | None:
    """The record behind :func:`paper_value`, with its doubt."""
    wanted = (dataset, method, variant, num, imbalance, "top1")
    found = (r for r in PRINTED if (r.dataset, r.method, r.variant, r.num, r.imbalance, r.quantity) == wanted)
    return next(found, None)
