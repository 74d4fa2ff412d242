"""What a teacher's card must say."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from oefsmc_lib.errors import InputError


class Card(BaseModel):
    """What must be on a card; recipes, notes and the like may stand beside it."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str
    dataset: str
    classes: PositiveInt
    width: PositiveFloat = 1.0  # older cards lack these three
    channels: PositiveInt = 3
    image_size: PositiveInt = 32
    image_width: PositiveInt | None = None  # None: square
    mean: list[float]  # a channel, of images in 0-1
    std: list[PositiveFloat]
    test_accuracy: Annotated[float, Field(ge=0, le=1)]
    sha256: str  # of the weights' file

    @model_validator(mode="after")
    def _statistics_for_each_channel(self) -> Self:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std need {self.channels} values, one a channel")
        return self


def bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"The teacher's file {path} cannot be read ({error.strerror}); copy it again or train the teacher."
        ) from error


def read_card(path: Path) -> dict[str, Any]:
    """A teacher's card with the defaults of older ones; :class:`InputError` if it is none. Reads no weights."""
    try:
        return Card.model_validate_json(bytes_of(path)).model_dump()
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"])) or "all of it"
        raise InputError(
            f"The teacher's card {path} is not valid ({where}: {fault['msg'].lower()}); "
            "copy it again or train the teacher."
        ) from None
