"""Turn a YAML file into a checked `ExperimentSpec`, or into one list of all that is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from hpo.errors import SpecError
from hpo.spec.model import ExperimentSpec
from hpo.spec.pbt_rules import pbt_rules
from hpo.spec.rules import rules_between_sections
from hpo.spec.source import MAX_CHARACTERS, KeyPath, Source, parse_source, read_source
from hpo.spec.space_rules import space_rules
from hpo.spec.stage_rules import stage_rules
from hpo.spec.write import spec_to_yaml


def load_spec(
    path: Path, overrides: Sequence[str] = (), import_paths: Sequence[Path] | None = ()
) -> ExperimentSpec:
    """Read and check the spec at ``path``.

    Args:
        path: a YAML file.
        overrides: ``path=value`` of the ``-o`` options, applied in order before the check.
        import_paths: folders to look for a user's trainable in; with None no trainable is asked,
            because none will be called.

    Raises:
        SpecError: listing every problem with its place, value, rule and way out.
    """
    return _check(read_source(path), overrides, import_paths)


def parse_spec(
    text: str,
    name: str,
    overrides: Sequence[str] = (),
    import_paths: Sequence[Path] | None = (),
) -> ExperimentSpec:
    """The same for a text; ``name`` stands for the file in messages."""
    return _check(parse_source(text, name), overrides, import_paths)


def parse_recorded_spec(text: str) -> ExperimentSpec:
    """A spec that was checked when it was recorded: its trainable need not be there any more."""
    return ExperimentSpec.model_validate(parse_source(text, "recorded spec").data)


def _check(
    source: Source, overrides: Sequence[str], import_paths: Sequence[Path] | None
) -> ExperimentSpec:
    for override in overrides:
        source.apply(override)
    problems = list(source.problems)
    spec: ExperimentSpec | None = None
    try:
        spec = ExperimentSpec.model_validate(source.data)
    except ValidationError as error:
        problems += _located(source, error)
    wrong_by_themselves = {place for place, _ in problems}
    problems += [
        (source.place(path), f"{_dotted(path)}: {message}")
        for path, message in (
            *rules_between_sections(source.data, import_paths),
            *space_rules(source.data),
            *stage_rules(source.data),
            *pbt_rules(source.data),
        )
        if source.place(path) not in wrong_by_themselves
    ]
    if problems or spec is None:
        raise SpecError(
            source.name, [f"{place}: {message}" for place, message in _sorted(problems)]
        )
    if len(spec_to_yaml(spec)) > MAX_CHARACTERS:  # as it is recorded, and has to be read again
        raise SpecError(
            source.name,
            [
                f"written out, with what its aliases stand for, it is longer than "
                f"{MAX_CHARACTERS:,} characters; make a list in it shorter"
            ],
        )
    return spec


def _sorted(problems: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """In the order of the file; overrides last."""

    def key(problem: tuple[str, str]) -> tuple[int, int, int]:
        _, *numbers = problem[0].rsplit(":", 2)
        if problem[0].startswith("-o ") or len(numbers) != 2:
            return (1, 0, 0)
        return (0, int(numbers[0]), int(numbers[1]))

    return sorted(dict.fromkeys(problems), key=key)


def _located(source: Source, error: ValidationError) -> list[tuple[str, str]]:
    """Pydantic's errors with the file's places and in the user's words; one per value."""
    found: dict[KeyPath, list[tuple[str, str]]] = {}
    for detail in error.errors(include_url=False):
        if detail["type"] in ("missing", "extra_forbidden"):
            *section, key = detail["loc"]
            path = (*_path_in_file(source.data, section), key)
        else:
            path = _path_in_file(source.data, detail["loc"])
        if detail["type"] == "union_tag_invalid":
            tagged = (*path, detail["ctx"]["discriminator"].strip("'"))
            path = tagged if tagged in source.places else path
        place = source.key_places.get(path) if detail["type"] == "extra_forbidden" else None
        message = _message(source.data, path, dict(detail))
        found.setdefault(path, []).append(
            (place or source.place(path), f"{_dotted(path)}: {message}")
        )
    return [
        problem
        for problems in found.values()
        # A value that fits no member of a union is reported once for each: say it once.
        for problem in dict.fromkeys(problems)
    ]


def _path_in_file(data: Any, loc: Sequence[str | int]) -> KeyPath:
    """Drop the names of types and union members that pydantic puts between the keys."""
    path: list[str | int] = []
    has_tag = False
    for part in loc:
        tags = (data.get("type"), data.get("name")) if path and isinstance(data, dict) else ()
        if part in tags and not has_tag:
            has_tag = True  # of the union that this section is a member of, not a key of it
            continue
        is_key = isinstance(data, dict) and part in data
        if is_key or (isinstance(data, list) and isinstance(part, int) and part < len(data)):
            path.append(part)
            data = data[part]
    return tuple(path)


def _message(data: dict[str, Any], path: KeyPath, detail: dict[str, Any]) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    value = detail["input"]
    if kind == "missing":
        return "this key is required"
    if kind == "extra_forbidden":
        known = _known_keys(detail["loc"])
        return f"unknown key{_did_you_mean(str(path[-1]), known)}Known: {', '.join(known)}"
    if kind == "union_tag_invalid":
        key = context["discriminator"].strip("'")
        tags = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        known = [tag for tag in tags if tag != "found"]  # is written `from: lr_finder`
        word = path[0] if key == "name" else "type"
        return (
            f"unknown {word} {context['tag']!r}"
            f"{_did_you_mean(context['tag'], known)}Known: {', '.join(sorted(known))}"
        )
    if kind == "union_tag_not_found":
        key = context["discriminator"].strip("'")
        return f"must be a mapping with the key `{key}`, got {value!r}"
    if kind == "rule":
        return f"{context['rule']}, got {value!r}"
    if path[:1] == ("fixed",) or "when" in path[2:-1]:
        return f"must be a number, a word, true, false, null or a list of them, got {value!r}"
    if path[:1] == ("enqueue",) and len(path) > 2:
        return f"must be a number, a word, true, false or null, got {value!r}"
    return f"{RULES.get(kind, detail['msg']).format(**context)}, got {value!r}"


RULES = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be a word",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "list_type": "must be a list",
    "too_short": "must have at least {min_length} entry",
    "string_too_short": "must not be empty",
    "greater_than": "must be > {gt}",
    "greater_than_equal": "must be >= {ge}",
    "less_than_equal": "must be <= {le}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": (
        "must begin with a letter or digit and hold only letters, digits, `.`, `_`, `-`, 64 at most"
    ),
}


def _known_keys(loc: Sequence[str | int]) -> list[str]:
    """The keys of the section that ``loc``'s last key was written into."""
    model: Any = ExperimentSpec
    for part in loc[:-1]:
        if isinstance(model, type) and issubclass(model, BaseModel):
            by_key = {field.alias or name: field for name, field in model.model_fields.items()}
            if part in by_key:
                model = by_key[str(part)].annotation
            continue
        is_item = isinstance(part, int) and get_args(model)
        model = get_args(model)[0] if is_item else _member_with_tag(model, part) or model
    if isinstance(model, type) and issubclass(model, BaseModel):
        fields = model.model_fields.items()
        return sorted(field.alias or name for name, field in fields if not field.exclude)
    return []


def _member_with_tag(union: Any, tag: str | int) -> Any:
    """The class of a tagged union whose `name` or `type` is ``tag``; dicts are looked through."""
    for member in get_args(union):
        for key in ("name", "type"):
            fields = getattr(member, "model_fields", {})
            if key in fields and get_args(fields[key].annotation) == (tag,):
                return member
        if found := _member_with_tag(member, tag):
            return found
    return None


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}? " if close else ". "


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path) or "spec"
