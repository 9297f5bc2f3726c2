"""Specs that are in order, but that a command cannot follow."""

from __future__ import annotations

from hpo.errors import UsageError
from hpo.spec.model import ExperimentSpec, PbtSpec


def refuse_several_objectives(spec: ExperimentSpec, command: str) -> None:
    """Of what compares searches by one value.

    Raises:
        UsageError: if ``spec`` has several objectives.
    """
    if spec.is_multi_objective:
        metrics = ", ".join(objective.metric for objective in spec.objectives)
        raise UsageError(
            f"{command} judges searches by one objective, and {spec.name!r} has "
            f"{len(spec.objectives)} ({metrics}). Give a spec with one of them, and limit the "
            "others under `constraints`"
        )


def refuse_population(spec: ExperimentSpec, command: str, why: str) -> None:
    """Of what takes a trial for its params.

    Raises:
        UsageError: if the scheduler of ``spec`` is ``pbt``.
    """
    if isinstance(spec.scheduler, PbtSpec):
        raise UsageError(
            f"{command} does not go with scheduler pbt of {spec.name!r}: {why}. Take another "
            "scheduler, e.g. -o scheduler=asha"
        )
