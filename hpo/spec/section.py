"""What all sections of a spec have in common."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

Scalar = None | bool | int | float | str


class Section(BaseModel):
    """Base of all sections: no unknown keys, no silent conversion, no change afterwards."""

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
        """Rules between the keys of this section that are broken: (key, rule)."""
        return []
