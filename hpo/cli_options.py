"""Options and arguments that several commands take, and what becomes of their values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:  # imported where it is needed, so that `hpo --help` answers at once
    from hpo.places import Places
    from hpo.spec import ExperimentSpec

Number = TypeVar("Number", int, float)

SpecArgument = Annotated[
    Path, typer.Argument(metavar="SPEC", help="A YAML file, e.g. search_spaces/cnn.yaml.")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of an experiment.")]
OverrideOption = Annotated[
    list[str] | None,
    typer.Option(
        "-o", "--override", metavar="PATH=VALUE", help="Set a value of the spec; repeatable."
    ),
]
ParamOption = Annotated[
    list[str] | None,
    typer.Option("-p", "--param", metavar="NAME=VALUE", help="Choose a value; repeatable."),
]
StorageOption = Annotated[
    str | None,
    typer.Option("--storage", metavar="URL", help="Database [HPO_STORAGE_URL; sqlite in runs/]."),
]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri", metavar="URI", help="MLflow [MLFLOW_TRACKING_URI; sqlite in runs/]."
    ),
]
CheckpointsOption = Annotated[
    str | None,
    typer.Option(
        "--checkpoints", metavar="PLACE", help="Folder or s3://, gs:// [HPO_CHECKPOINTS; runs/]."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def spec_and_places(
    spec_path: Path,
    overrides: Sequence[str] | None,
    storage: str | None = None,
    tracking_uri: str | None = None,
    checkpoints: str | None = None,
) -> tuple[ExperimentSpec, Places]:
    """The spec with its overrides, and where its run would be kept.

    Raises:
        SpecError: if the spec breaks a rule.
    """
    from hpo.spec import load_spec

    places = places_beside(spec_path, storage, tracking_uri, checkpoints)
    return load_spec(spec_path, overrides or (), places.imports), places


def places_beside(
    spec_path: Path,
    storage: str | None = None,
    tracking_uri: str | None = None,
    checkpoints: str | None = None,
) -> Places:
    """Those of the options, with the folder of the spec to look for its trainable in."""
    from dataclasses import replace

    places = places_of(storage, tracking_uri, checkpoints)
    folders = (*places.imports, spec_path.resolve().parent)
    return replace(places, imports=tuple(dict.fromkeys(folders)))


def places_of(
    storage: str | None = None, tracking_uri: str | None = None, checkpoints: str | None = None
) -> Places:
    """Where things are kept, seen from the working directory.

    Raises:
        UsageError: if an option carries a password, or the place of checkpoints is none.
    """
    from hpo.places import Places

    refuse_password("--storage", storage, "HPO_STORAGE_URL")
    refuse_password("--tracking-uri", tracking_uri, "MLFLOW_TRACKING_URI")
    refuse_password("--checkpoints", checkpoints, "HPO_CHECKPOINTS")
    return Places.of(
        Path.cwd(), storage_url=storage, tracking_uri=tracking_uri, checkpoints=checkpoints
    )


def refuse_password(option: str, url: str | None, variable: str) -> None:
    """Of an option: the command line is seen by all users of this machine, and by Ray.

    Raises:
        UsageError: if there is one in ``url``.
    """
    from hpo.errors import UsageError

    if url is None:
        return
    from storage import has_password, shown_url

    if has_password(url):
        elsewhere = (
            "MLflow looks into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            if url.startswith("http")
            else "PostgreSQL looks into ~/.pgpass or PGPASSFILE"
        )
        raise UsageError(
            f"{option} {shown_url(url)} holds a password, which all users of this machine can see "
            f"on a command line. Put the URL into {variable}, or leave the password out of it: "
            f"{elsewhere}"
        )


def words(option: str, text: str | None) -> list[str] | None:
    """The parts of a list such as ``tpe,random``; None if it was not given.

    Raises:
        UsageError: if there is nothing between its commas.
    """
    from hpo.errors import UsageError

    if text is None:
        return None
    if not (parts := [part.strip() for part in text.split(",") if part.strip()]):
        raise UsageError(f"{option} takes one or more with commas between, got {text!r}")
    return parts


def numbers(option: str, text: str | None, kind: type[Number]) -> list[Number] | None:
    """The numbers in a list such as ``1,4,16``; None if it was not given.

    Raises:
        UsageError: if one is no finite number of that kind, or there is none.
    """
    from hpo.errors import UsageError

    try:
        found = [kind(word) for word in words(option, text) or ()]
        are_numbers = all(math.isfinite(number) for number in found)
    except ValueError:
        are_numbers = False
    if not are_numbers:
        whole = "whole numbers" if kind is int else "numbers"
        raise UsageError(f"{option} takes {whole} such as 1,4,16, got {text!r}")
    return found or None
