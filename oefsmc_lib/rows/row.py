"""The row that a run writes: flat, typed, and equal to another row of the same run but for time and machine."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from oefsmc_lib.errors import InputError
from oefsmc_lib.parameters.experiment import ALGORITHM_VERSION, Experiment, known_keys
from oefsmc_lib.parameters.keys import SETTLED

SWITCHES = frozenset(known_keys()) | {"class_aware", "recovery_images", *SETTLED}
Percent = Annotated[float, Field(ge=0, le=100)]
Natural = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class Row(BaseModel):
    """One run. Every accuracy, recall and cut is in PERCENT (0-100); times are in seconds, sizes in bytes.

    A row is flat: the columns below, and after them each further switch that the run read, under its dotted
    name (``fskd.rho``). A column that a later version adds gets a default, so that old rows stay readable.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

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
    unread_images: Natural = 0  # files of a format that cannot be read; 0 in rows of before it was counted

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
    latency_ms: float | None = None  # median of a forward pass of one image; None where it was not measured
    latency_64_ms: float | None = None  # of 64 images
    teacher_latency_ms: float | None = None  # the teacher's, in turn with the student's
    teacher_latency_64_ms: float | None = None
    kept: dict[str, int] = {}  # conv -> channels kept
    dropped: list[str] = []  # blocks (PRACTISE)

    # how MiR's or PRACTISE's training went; None and empty for the other compressors, and in earlier rows
    mimic_steps: Natural | None = None  # steps run
    mimic_kept: Natural | None = None  # the step whose weights were kept; 0: those before the training
    mimic_distances: list[float] = []  # teacher-student distance before the first step and at every look (stop=watch)
    mimic_precision: str | None = None  # of its steps: float32, or bfloat16 where that was asked and the device has it

    # how fine-tuning went; None and empty in rows of before version 3
    finetune_epochs: Natural | None = None  # epochs run
    finetune_kept: Natural | None = None  # the epoch whose weights were kept; 0: those before the stage
    finetune_distances: list[float] = []  # teacher-student distance before the first epoch, after each

    # how long and where; no part of what makes two rows the same
    seconds_recovery: Seconds = 0.0
    seconds_finetune: Seconds = 0.0
    seconds_evaluation: Seconds = 0.0
    seconds_total: Seconds = 0.0
    seconds_importance: float = Field(0.0, exclude=True)  # only in earlier rows, where it says nothing
    device: str
    threads: Natural
    torch: str
    torchvision: str
    oefsmc: str
    python: str
    git_commit: str | None = None  # with -dirty
    time: str  # UTC, ISO 8601

    @model_validator(mode="after")
    def _further_columns_are_switches(self):
        if unknown := sorted(set(self.switches) - SWITCHES):
            raise ValueError(f"unknown column {unknown[0]!r}, as of another version of the project")
        return self

    @property
    def switches(self) -> dict[str, Any]:
        """The further switches by dotted name: those that have no column above."""
        return self.model_extra or {}

    @classmethod
    def of(cls, experiment: Experiment, **measured) -> "Row":
        """The row of ``experiment``; ``measured`` is everything that the switches do not say."""
        values: dict[str, Any] = {}
        for name, value in experiment.switches().items():
            values[name] = list(value) if isinstance(value, tuple) else value  # as it is read back from JSON
        values |= {"key": experiment.key, "solver": experiment.solver, "width": experiment.width}
        return cls(**values | measured)

    @classmethod
    def parse(cls, text: bytes, where: str) -> "Row":
        """A row from flat JSON; an :class:`InputError` names the column at fault and ``where`` it stands."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            if fault["type"] in ("json_invalid", "model_type"):
                raise InputError(f"{where} holds no whole row; delete it and run again.") from None
            what = "".join(f"{part}: " for part in fault["loc"]) + fault["msg"].removeprefix("Value error, ")
            raise InputError(
                f"{where} is not a valid row ({what}); update the project if a newer version of it wrote the row, "
                "else delete it and run again."
            ) from None

    def flat(self) -> dict[str, Any]:
        """Column -> plain value, as on file."""
        return self.model_dump(mode="json")

    def experiment(self) -> Experiment:
        """The experiment that this row is of, to run it again; its ``key`` is the row's."""
        # The row's device is the machine's, and counts are settings only where the imbalance is given by them.
        other = {"device"} if self.switches["imbalance"] == "counts" else {"device", "counts"}
        known = set(known_keys()) - other
        settings = {name: value for name, value in self.flat().items() if name in known and value is not None}
        # ``class_aware`` is what the variant and its importance came to; an importance of that name gives the same run.
        settings["importance"] = "class_aware" if self.switches.get("class_aware") else "native"
        return Experiment.parse(settings, f"row {self.id}")


COLUMNS = tuple(name for name, field in Row.model_fields.items() if not field.exclude)
# What two rows of one run may differ in.
MACHINE = {"profile", "device", "threads", "torch", "torchvision", "oefsmc", "python", "git_commit", "time"}
MACHINE |= {"file_size", *(name for name in COLUMNS if name.startswith("seconds_") or "latency" in name)}


def difference(one: Row, other: Row) -> str | None:
    """The first column in which two rows of one run differ, time and machine aside; None if there is none."""
    left, right = one.flat(), other.flat()
    return next((name for name in {**left, **right} if name not in MACHINE and left.get(name) != right.get(name)), None)
