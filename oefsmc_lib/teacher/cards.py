"""What a teacher's card must say, and the teachers that come with the library."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import write_whole

SHIPPED = Path(__file__).with_name("shipped")


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
    """What is in a teacher's file; raises :class:`InputError` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"The teacher's file {path} cannot be read ({error.strerror}); copy it again or train the teacher."
        ) from error


def take_shipped(name: str, folder: Path, image_size: int) -> None:
    """Copy a teacher that came with the library, unless the folder has anything under its name.

    A card alone, weights alone or a checkpoint are somebody's own, so they stay. The caller holds the teacher's lock.
    """
    card, weights = SHIPPED / f"{name}.json", SHIPPED / f"{name}.safetensors"
    if any(folder.glob(f"{name}.*")) or not card.is_file():
        return
    if Card.model_validate_json(bytes_of(card)).image_size == image_size:
        for path in (weights, card):  # the card last: weights alone are no teacher
            write_whole(folder / path.name, bytes_of(path))
