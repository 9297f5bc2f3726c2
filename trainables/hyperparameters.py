"""Hyperparameters as typed, frozen models, and what is wrong with a mapping, in short sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from trainables.strict_model import StrictModel

TYPE_NAMES = {"string": "str", "int": "int", "float": "float", "bool": "bool"}


class Hyperparameters(StrictModel):
    """Base of all configs.

    They may inherit from several others; their ``breaches`` then call ``super().breaches()``.
    """


def problems(model_class: type[BaseModel], mapping: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with ``mapping`` as a ``model_class``; empty if nothing is.

    Each is a short sentence such as "depth: must be >= 1, got 0" or "unknown hyperparameter
    'dpth'; known: depth, lr". Rules between keys are judged as well, unless one of their keys is
    wrong by itself.
    """
    known = model_class.model_fields
    found = _errors(model_class, mapping)
    wrong = {str(error["loc"][0]) for error in found if error["loc"]}
    # pydantic comes to the rules between keys only when each key by itself is right.
    right = {key: value for key, value in mapping.items() if key in known and key not in wrong}
    between = [
        error
        for error in (_errors(model_class, right) if wrong else [])
        if error["type"] == "rule" and not wrong & _words(error)
    ]
    return [_sentence(model_class, error) for error in [*found, *between]]


def value_problem(model_class: type[BaseModel], key: str, value: Any) -> str:
    """What is wrong with one value by itself, e.g. "must be >= 1, got 0"; empty if nothing is."""
    found = [error for error in _errors(model_class, {key: value}) if error["type"] != "rule"]
    return "; ".join(_sentence(model_class, error).removeprefix(f"{key}: ") for error in found)


def _errors(model_class: type[BaseModel], mapping: Mapping[str, Any]) -> list[ErrorDetails]:
    try:
        model_class.model_validate(dict(mapping))
    except ValidationError as error:
        return error.errors()
    return []


def _words(error: ErrorDetails) -> set[str]:
    return {str(error["loc"][0]), *re.findall(r"\w+", error["msg"])}


def _sentence(model_class: type[BaseModel], error: ErrorDetails) -> str:
    key, context = ".".join(str(part) for part in error["loc"]), error.get("ctx", {})
    kind, _, rest = error["type"].partition("_")
    got = f"got {error['input']!r}"
    match error["type"]:
        case "extra_forbidden":
            return f"unknown hyperparameter {key!r}; known: {', '.join(model_class.model_fields)}"
        case "missing":
            return f"{key}: must be given"
        case "greater_than_equal":
            return f"{key}: must be >= {context['ge']:g}, {got}"
        case "greater_than":
            return f"{key}: must be > {context['gt']:g}, {got}"
        case "less_than_equal":
            return f"{key}: must be <= {context['le']:g}, {got}"
        case "less_than":
            return f"{key}: must be < {context['lt']:g}, {got}"
        case "literal_error":
            return f"{key}: must be {context['expected']}, {got}"
        case "value_error":
            return f"{key}: {context['error']}, {got}"
        case _ if rest == "type" and kind in TYPE_NAMES:
            return f"{key}: must be of type {TYPE_NAMES[kind]}, {got}"
    return f"{key}: {error['msg'][:1].lower()}{error['msg'][1:]}, {got}"
