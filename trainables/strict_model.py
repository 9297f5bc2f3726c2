"""What configs and specs have in common: typed, frozen, and rules between their keys."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError


class StrictModel(BaseModel):
    """No unknown keys, no silent conversion, no change afterwards.

    A whole number is welcome where a fraction is expected, never the other way round.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="after")
    def _keeps_its_rules(self) -> Self:
        if breaches := self.breaches():
            raise ValidationError.from_exception_data(
                type(self).__name__,
                [
                    InitErrorDetails(
                        type=PydanticCustomError("rule", "{rule}", {"rule": rule}),
                        loc=(key,),
                        input=getattr(self, key),
                    )
                    for key, rule in breaches
                ],
            )
        return self

    def breaches(self) -> list[tuple[str, str]]:
        """Rules between the keys that are broken: (key, rule); a rule names all keys it needs."""
        return []
