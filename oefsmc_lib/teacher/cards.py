"""What a teacher's card must say."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator


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
