"""The row that a run writes: flat, typed, and equal to another row of the same run but for time and machine."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from oefsmc_lib.errors import InputError
from oefsmc_lib.parameters.experiment import ALGORITHM_VERSION, Experiment, known_keys

Percent = Annotated[float, Field(ge=0, le=100)]


Natural = Annotated[int, Field(ge=0)]


Seconds = Annotated[float, Field(ge=0)]


class Row(BaseModel):
    """One run. Every accuracy, recall and cut is in PERCENT (0-100); times are in seconds, sizes in bytes.

    On file and in a table a row is flat: the fields below, and beside them each further switch
    that the run read under its dotted name (``fskd.rho``). Columns that a later version adds get
    a default here, so that old rows stay readable.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # which run
    id: Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]+$")]  # a file name: switches, checksums and algorithm
    key: str  # Experiment.key: switches and algorithm
    algorithm: int = ALGORITHM_VERSION
    profile: str | None = None  # where the defaults came from; informative
    dataset: str
    data_fingerprint: str
    network: str  # models.stem: vgg16-w0.25
    width: float
    teacher_sha256: str
    teacher_accuracy: Percent  # from its card, not measured again
    method: str
    variant: str
    solver: Literal["literal", "default"]
    plan: str
    num: int
    ratio: float | None = None  # None where the imbalance has no ratio
    seed: int
    ood_source: str | None = None  # None where no stage reads D_aux
    ood_fingerprint: str | None = None
    ood_removed: Natural = 0  # pool images that the purity filter took out
    broken_images: Natural = 0  # left out by skip_broken
    switches: dict[str, Any] = {}  # the further ones, by dotted name

    # what was drawn
    counts: list[Natural]  # m_j, few images a class, (K,)
    order: list[int]  # classes, the largest first, (K,)
    aux_counts: list[Natural] = []  # labels of D_aux, (K,)
    few_indices: list[int] = []
    aux_indices: list[int] = []

    # what came out
    top1: Percent
    balanced_accuracy: Percent
    per_class: list[Percent | None]  # recalls; None for a class without test images
    head_accuracy: Percent | None = None  # None for an empty group
    tail_accuracy: Percent | None = None
    absent_accuracy: Percent | None = None
    macs: Natural
    params: Natural
    macs_cut: float
    params_cut: float
    file_size: Natural | None = None
    latency_ms: float | None = None
    kept: dict[str, int] = {}  # conv -> channels kept
    dropped: list[str] = []  # blocks (PRACTISE)

    # how fine-tuning went; None and empty in rows of before version 3
    finetune_epochs: Natural | None = None  # epochs run
    finetune_kept: Natural | None = None  # the epoch whose weights were kept; 0: those before the stage
    finetune_distances: list[float] = []  # teacher-student distance before the first epoch, after each

    # how long and where; no part of what makes two rows the same
    seconds_recovery: Seconds = 0.0
    seconds_finetune: Seconds = 0.0
    seconds_evaluation: Seconds = 0.0
    seconds_total: Seconds = 0.0
    device: str
    threads: Natural
    torch: str
    torchvision: str
    oefsmc: str
    python: str
    git_commit: str | None = None  # with -dirty
    time: str  # UTC, ISO 8601

    @model_validator(mode="after")
    def _switches_are_no_columns(self):
        if clash := set(self.switches) & set(COLUMNS):
            raise ValueError(f"{sorted(clash)[0]} is a column, not a further switch")
        return self

    @classmethod
    def of(cls, experiment: Experiment, **measured) -> "Row":
        """The row of ``experiment``; ``measured`` is everything that the switches do not say."""
        switches = {
            name: list(value) if isinstance(value, tuple) else value for name, value in experiment.switches().items()
        }
        own = {"key": experiment.key, "solver": experiment.solver, "width": experiment.width}
        own |= {name: switches[name] for name in ("dataset", "method", "variant", "plan", "num", "seed")}
        own |= {name: switches.get(name) for name in ("ratio", "ood_source")}
        further = {name: value for name, value in switches.items() if name not in COLUMNS}
        return cls(**own, switches=further, **measured)

    @classmethod
    def parse(cls, values: Any, where: str) -> "Row":
        """A row from flat JSON; an :class:`InputError` names the column at fault and ``where`` it stands."""
        if not isinstance(values, dict):
            raise InputError(f"{where} holds no whole row; delete it and run again.")
        values = {name: value for name, value in values.items() if name not in OBSOLETE}
        fields = {name: value for name, value in values.items() if name in COLUMNS}
        further = {name: value for name, value in values.items() if name not in COLUMNS}
        if unknown := sorted(set(further) - SWITCHES):
            raise InputError(
                f"{where} has the unknown column {unknown[0]!r}, as of another version; "
                "update the project, or delete it and run again."
            )
        try:
            return cls(**fields, switches=further)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            column = ".".join(map(str, fault["loc"])) or "the row"
            raise InputError(
                f"{where} is not a valid row ({column}: {fault['msg'].lower()}); delete it and run again."
            ) from None

    def flat(self) -> dict[str, Any]:
        """Column -> plain value, as on file."""
        values = self.model_dump(mode="json")
        return {**{name: values[name] for name in COLUMNS}, **values["switches"]}

    def experiment(self) -> Experiment:
        """The experiment that this row is of, to run it again; its ``key`` is the row's."""
        settings = dict(self.switches)
        # `class_aware` is what importance and variant came to; either importance is in force by name.
        settings["importance"] = "class_aware" if settings.pop("class_aware", False) else "native"
        settings.pop("recovery_images", None)  # the variant says it
        settings |= {
            name: getattr(self, name)
            for name in ("dataset", "width", "method", "variant", "plan", "num", "seed", "ratio", "ood_source")
        }
        if settings["imbalance"] == "counts":
            settings["counts"] = self.counts
        return Experiment.parse(
            {name: value for name, value in settings.items() if value is not None}, f"row {self.id}"
        )


OBSOLETE = ("seconds_importance",)  # columns of earlier rows that say nothing
COLUMNS = tuple(name for name in Row.model_fields if name != "switches")


SWITCHES = frozenset(known_keys()) | {"class_aware", "recovery_images"}


MACHINE = (
    "profile",
    "device",
    "threads",
    "torch",
    "torchvision",
    "oefsmc",
    "python",
    "git_commit",
    "time",
    "latency_ms",
    "file_size",
    *(name for name in COLUMNS if name.startswith("seconds_")),
)


def difference(one: Row, other: Row) -> str | None:
    """The first column in which two rows of one run differ, time and machine aside; None if there is none."""
    left, right = one.flat(), other.flat()
    return next((name for name in {**left, **right} if name not in MACHINE and left.get(name) != right.get(name)), None)
