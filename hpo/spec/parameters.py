"""The parameters of a search space: what each may say, and which values it can take."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer

from hpo.spec.section import Scalar, Section
from trainables.lr_range_test import FIRST_RATE, LAST_RATE

MAX_GRID_POINTS = 1000
"""Of one parameter: two of them fill the largest grid that a search takes."""

When = Annotated[
    dict[str, Scalar | list[Scalar]],
    Field(exclude_if=lambda when: not when),
]
"""The values of other parameters for which this one is drawn; all named ones must agree."""
GridPoints = Annotated[
    int | None, Field(ge=2, le=MAX_GRID_POINTS, exclude_if=lambda points: points is None)
]
"""How many points of a range the sampler grid tries, both ends included."""


class IntParameter(Section):
    """An integer from ``low`` to ``high``, both included."""

    type: Literal["int"]
    low: int
    high: int
    step: int = Field(default=1, ge=1)
    log: bool = False
    grid: GridPoints = None
    default: int | None = Field(default=None, exclude_if=lambda default: default is None)
    when: When = Field(default_factory=dict)

    @property
    def has_default(self) -> bool:
        """Whether an expert has said what it should be."""
        return self.default is not None

    def breaches(self) -> list[tuple[str, str]]:
        return _range_breaches(
            self.low, self.high, self.step, has_step=self.step != 1, log=self.log
        ) or _default_breaches(self)

    def accepts(self, value: Any) -> bool:
        """Whether it can be ``value``."""
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return self.low <= value <= self.high and (value - self.low) % self.step == 0

    def rule(self) -> str:
        """What its values must be."""
        steps = "" if self.step == 1 else f" in steps of {self.step}"
        return f"must be a whole number from {self.low} to {self.high}{steps}"

    def as_drawn(self, value: Any) -> Any:
        """A value that it accepts, as a sampler would have drawn it."""
        return value


class FloatParameter(Section):
    """A number from ``low`` to ``high``, both included; continuous unless ``step`` is given."""

    type: Literal["float"]
    low: float
    high: float
    step: float | None = Field(default=None, gt=0)
    log: bool = False
    grid: GridPoints = None
    default: float | None = Field(default=None, exclude_if=lambda default: default is None)
    when: When = Field(default_factory=dict)

    @property
    def has_default(self) -> bool:
        """Whether an expert has said what it should be."""
        return self.default is not None

    def breaches(self) -> list[tuple[str, str]]:
        return _range_breaches(
            self.low, self.high, self.step or 0, has_step=self.step is not None, log=self.log
        ) or _default_breaches(self)

    def accepts(self, value: Any) -> bool:
        """Whether it can be ``value``; what stands a rounding error beside a step is on it."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        if not self.low <= value <= self.high:
            return False
        n_steps = 0 if self.step is None else (value - self.low) / self.step
        return abs(n_steps - round(n_steps)) < 1e-8  # Optuna's tolerance

    def rule(self) -> str:
        """What its values must be."""
        steps = "" if self.step is None else f" in steps of {self.step!r}"
        return f"must be a number from {self.low!r} to {self.high!r}{steps}"

    def as_drawn(self, value: Any) -> Any:
        """A value that it accepts, as a sampler would have drawn it: 1 becomes 1.0."""
        return float(value)


def _range_breaches(
    low: float, high: float, step: float, *, has_step: bool, log: bool
) -> list[tuple[str, str]]:
    found = []
    if low > high:
        found.append(("low", f"`low` must not exceed `high`, which is {high!r}"))
    if log and low <= 0:
        found.append(("low", "`low` must be > 0 when `log` is true"))
    if log and has_step:
        found.append(("step", "`step` and `log` exclude each other; drop one of them"))
    elif has_step and low <= high:
        # As written, because 0.3 is no multiple of 0.1 in binary.
        span, width = Fraction(str(high)) - Fraction(str(low)), Fraction(str(step))
        if span % width:
            reached = float(Fraction(str(low)) + span // width * width)
            found.append(
                ("high", f"`high` must be `low` plus a whole number of steps, e.g. {reached}")
            )
    return found


def _default_breaches(parameter: RangedParameter) -> list[tuple[str, str]]:
    if not parameter.has_default or parameter.accepts(parameter.default):
        return []
    return [("default", parameter.rule())]


class CategoricalParameter(Section):
    """One of ``choices``, which have no order."""

    type: Literal["categorical"]
    choices: list[Scalar] = Field(min_length=1)
    default: Scalar = None
    when: When = Field(default_factory=dict)

    @property
    def has_default(self) -> bool:
        """Whether an expert has said what it should be; null may be a choice like any other."""
        return "default" in self.model_fields_set

    @model_serializer(mode="wrap")
    def _without_an_unsaid_default(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        return {key: data[key] for key in data if key != "default" or self.has_default}

    def breaches(self) -> list[tuple[str, str]]:
        # By value, as Optuna finds a choice again: 1, 1.0 and true are one.
        for index, choice in enumerate(self.choices):
            if choice in self.choices[:index]:
                return [("choices", f"each choice must stand there once, {choice!r} is repeated")]
        return _default_breaches(self)

    def accepts(self, value: Any) -> bool:
        """Whether it can be ``value``."""
        return value in self.choices

    def rule(self) -> str:
        """What its values must be."""
        return f"must be one of {', '.join(map(repr, self.choices))}"

    def as_drawn(self, value: Any) -> Any:
        """The choice that equals ``value``: 1 and true may stand for each other."""
        return self.choices[self.choices.index(value)]


class FoundParameter(Section):
    """A learning rate whose range a range test finds before the search: ``lr: {from: lr_finder}``.

    It is searched on a logarithmic scale. ``low`` and ``high``, where given, are limits to which
    the range found is cut.
    """

    type: Literal["found"] = Field(exclude=True)  # which no file says: `from` says it
    source: Literal["lr_finder"] = Field(alias="from")
    low: float | None = Field(default=None, gt=0)
    high: float | None = Field(default=None, gt=0)

    def breaches(self) -> list[tuple[str, str]]:
        low, high = self.low or FIRST_RATE, self.high or LAST_RATE
        if low < high and low < LAST_RATE and high > FIRST_RATE:
            return []
        if self.low is not None and self.high is not None and low >= high:
            return [("low", f"`low` must be < `high`, which is {self.high!r}")]
        tested = f"the finder tests rates from {FIRST_RATE:g} to {LAST_RATE:g}"
        return [("low" if low >= LAST_RATE else "high", f"leaves nothing: {tested}")]


def _found(value: Any) -> Any:
    """``from`` makes a parameter one that is found; it is a float, whether it says so or not."""
    if isinstance(value, dict) and value.get("type") == "found":
        raise ValueError("type 'found' is written as `from: lr_finder`")
    if isinstance(value, dict) and "from" in value and value.get("type", "float") == "float":
        return {**value, "type": "found"}
    return value


RangedParameter = IntParameter | FloatParameter | CategoricalParameter
"""What can be drawn: its values are known."""
Parameter = Annotated[
    RangedParameter | FoundParameter, Field(discriminator="type"), BeforeValidator(_found)
]


def conditions(parameter: Parameter) -> dict[str, list[Scalar]]:
    """Of each parameter that decides about this one, the values for which it is drawn."""
    when = {} if isinstance(parameter, FoundParameter) else parameter.when
    return {
        parent: allowed if isinstance(allowed, list) else [allowed]
        for parent, allowed in when.items()
    }


def is_active(parameter: Parameter, params: Mapping[str, Any]) -> bool:
    """Whether a parameter is drawn, given those before it; one that was not drawn decides no."""
    return all(
        parent in params and params[parent] in allowed
        for parent, allowed in conditions(parameter).items()
    )


def condition_text(parameter: Parameter) -> str:
    """``optimizer is sgd or rmsprop and depth is 3``; empty if it is always drawn."""
    return " and ".join(
        f"{parent} is {' or '.join(map(str, allowed))}"
        for parent, allowed in conditions(parameter).items()
    )
