"""What a spec may say: every key, its type and its range. One class per section."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from hpo.spec.parameters import Parameter
from hpo.spec.section import Scalar, Section


class GridSpec(Section):
    """Every combination once, in a seeded random order."""

    name: Literal["grid"]


class RandomSpec(Section):
    """Each trial drawn independently (Bergstra & Bengio 2012, JMLR 13)."""

    name: Literal["random"]


class SobolSpec(Section):
    """Quasi-random: a scrambled Sobol sequence (Sobol 1967; Owen 1998)."""

    name: Literal["sobol"]


class TpeSpec(Section):
    """Tree-structured Parzen estimator (Bergstra et al. 2011; Watanabe 2023, arXiv:2304.11127)."""

    name: Literal["tpe"]
    n_startup_trials: int = Field(default=10, ge=1)


class GpSpec(Section):
    """Gaussian process with log expected improvement (Ament et al. 2023, arXiv:2310.20708).

    Its first ``n_startup_trials`` are points of a Sobol sequence.
    """

    name: Literal["gp"]
    n_startup_trials: int = Field(default=10, ge=1)


class CmaesSpec(Section):
    """Covariance matrix adaptation, of numbers alone (Hansen 2016, arXiv:1604.00772)."""

    name: Literal["cmaes"]


class Nsga2Spec(Section):
    """Genetic algorithm for one objective or several (Deb et al. 2002, IEEE TEVC 6)."""

    name: Literal["nsga2"]
    population_size: int = Field(default=20, ge=2)


class AutoSpec(Section):
    """One of the others, chosen by the size and kind of the search: see docs/search.md."""

    name: Literal["auto"]


class AshaSpec(Section):
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934).

    At each rung, ``grace_epochs * reduction_factor**k`` epochs, the best ``1 / reduction_factor``
    of the trials that reached it go on.
    """

    name: Literal["asha"]
    grace_epochs: int = Field(default=1, ge=1)
    reduction_factor: int = Field(default=3, ge=2)


class MedianSpec(Section):
    """Stops a trial whose best value is worse than the median of the others' running averages.

    Source: Golovin et al. 2017, "Google Vizier", section 3.2.2.
    """

    name: Literal["median"]
    grace_epochs: int = Field(default=1, ge=1)
    min_trials: int = Field(default=3, ge=1)


class HyperbandSpec(Section):
    """Asynchronous Hyperband (Li et al. 2018, JMLR 18; 2020, arXiv:1810.05934, section 3).

    Brackets of ASHA side by side; bracket ``s`` stops nothing before ``grace_epochs *
    reduction_factor**s`` epochs, so that a config which starts slowly has its chance in one.
    """

    name: Literal["hyperband"]
    grace_epochs: int = Field(default=1, ge=1)
    reduction_factor: int = Field(default=3, ge=2)


class OneEpochTopKSpec(Section):
    """Every trial trains ``epochs`` epochs, then the best ``k`` train to their full budget.

    The baseline that multi-fidelity methods have to beat: Egele et al. 2023, arXiv:2307.15422.
    The ``k`` go on from their checkpoints, each under its own number; of a trainable that keeps
    none they train from the start again.
    """

    name: Literal["one_epoch_top_k"]
    k: int = Field(default=5, ge=1)
    epochs: int = Field(default=1, ge=1)


class PbtSpec(Section):
    """Population-based training (Jaderberg et al. 2017, arXiv:1711.09846), in generations.

    All trials train ``interval_epochs``; when the last one has, each of the worst ``quantile``
    ends, and a new trial goes on in its place from the checkpoint of one of the best
    ``quantile``, its ``perturb`` parameters changed; and so on until ``budget.max_epochs``.

    Attributes:
        perturb: parameters that change; the trainable must allow it while it trains.
        interval_epochs: of a generation.
        quantile: share of the population that is replaced after each generation, rounded down.
        resample: probability that a parameter is drawn anew instead of moved a step.
    """

    name: Literal["pbt"]
    perturb: list[str] = Field(min_length=1)
    interval_epochs: int = Field(default=1, ge=1)
    quantile: float = Field(default=0.25, gt=0, le=0.5)
    resample: float = Field(default=0.25, ge=0, le=1)


class NoSchedulerSpec(Section):
    """Every trial runs to its full budget."""

    name: Literal["none"]


def _named(value: Any) -> Any:
    """``sampler: tpe`` is short for ``sampler: {name: tpe}``."""
    return {"name": value} if isinstance(value, str) else value


SamplerSpec = Annotated[
    GridSpec | RandomSpec | SobolSpec | TpeSpec | GpSpec | CmaesSpec | Nsga2Spec | AutoSpec,
    Field(discriminator="name"),
    BeforeValidator(_named),
]
SchedulerSpec = Annotated[
    AshaSpec | HyperbandSpec | MedianSpec | OneEpochTopKSpec | PbtSpec | NoSchedulerSpec,
    Field(discriminator="name"),
    BeforeValidator(_named),
]


TERMINATOR_MIN_TRIALS = 30
"""COMPLETE trials that the terminator wants to have seen: 10 of start-up, 20 to measure by."""


class BudgetSpec(Section):
    """When the search ends, and when a trial does.

    Attributes:
        n_trials: how many trials there are; configs that are refused before any training are none.
        time_limit_s: seconds of the search alone; what runs then goes back into the queue.
        target_value: of the objective; the search ends once a trial is as good.
        patience_trials: the search ends once so many trials have not improved on the incumbent.
        terminator: the search ends once a model of the objective expects no gain worth having
            (Ishibashi et al. 2023, https://proceedings.mlr.press/v206/ishibashi23a.html).
        trial_time_limit_s: a trial that trains longer FAILs at its next report.
        stall_timeout_s: a trial that reports nothing for so long FAILs, its first epoch with all
            that comes before it included. Unless it is set a trial may be silent for 20 times its
            longest epoch; in its first epoch, for 20 times the longest first epoch of the others,
            once there is one; and for 5 minutes in any case.
        max_epochs: of one trial; without it a trial ends when its trainable does.
    """

    n_trials: int = Field(ge=1)
    time_limit_s: float | None = Field(default=None, gt=0)
    target_value: float | None = None
    patience_trials: int | None = Field(default=None, ge=1)
    terminator: bool = False
    trial_time_limit_s: float | None = Field(default=None, gt=0)
    stall_timeout_s: float | None = Field(default=None, gt=0)
    max_epochs: int | None = Field(default=None, ge=1)

    def breaches(self) -> list[tuple[str, str]]:
        if self.terminator and self.n_trials <= TERMINATOR_MIN_TRIALS:
            needed = f"it judges after {TERMINATOR_MIN_TRIALS} COMPLETE trials"
            return [("terminator", f"{needed}, which n_trials={self.n_trials} does not exceed")]
        return []


class LimitSpec(Section):
    """What a quantity may be: ``max`` at most, ``min`` at least."""

    max: float | None = None
    min: float | None = None

    def breaches(self) -> list[tuple[str, str]]:
        if self.max is None and self.min is None:
            return [("max", "give `max`, `min` or both")]
        if self.max is not None and self.min is not None and self.min > self.max:
            return [("min", f"`min` must not exceed `max`, which is {self.max!r}")]
        return []

    def excesses(self, value: float) -> dict[str, float]:
        """How far ``value`` is beyond each end that is given: above 0 is broken."""
        beyond = {} if self.max is None else {"max": value - self.max}
        return beyond if self.min is None else beyond | {"min": self.min - value}


class ObjectiveSpec(Section):
    """M of the bilevel search: the metric after a trial's last epoch, and where it should go."""

    metric: str = Field(min_length=1)
    direction: Literal["maximize", "minimize"]

    @property
    def sign(self) -> int:
        """What a value is multiplied by to become a cost, of which less is better."""
        return -1 if self.direction == "maximize" else 1


def _listed(value: Any) -> Any:
    """A single objective is written without the list."""
    return value if isinstance(value, list) else [value]


def _as_written(objectives: list[ObjectiveSpec]) -> Any:
    dumped = [objective.model_dump() for objective in objectives]
    return dumped[0] if len(dumped) == 1 else dumped


Objectives = Annotated[list[ObjectiveSpec], BeforeValidator(_listed), PlainSerializer(_as_written)]


class ResourcesSpec(Section):
    """What one trial occupies; fractions share a core or a GPU."""

    cpu: float = Field(default=1, gt=0)
    gpu: float = Field(default=0, ge=0)

    def breaches(self) -> list[tuple[str, str]]:
        # Ray's rule: https://docs.ray.io/en/latest/ray-core/scheduling/accelerators.html
        return [
            (key, f"`{key}` above 1 must be a whole number")
            for key in ("cpu", "gpu")
            if getattr(self, key) > 1 and getattr(self, key) % 1
        ]


class FinalistsSpec(Section):
    """How the winner is chosen among the best trials, and how good it is said to be.

    Attributes:
        k: so many of the best trials are finalists; of several objectives, those of the Pareto
            front that are best in the first.
        n_seeds: fresh seeds on which each of them is re-run, the same for all; the best mean wins.
        max_share: of ``budget.n_trials`` that re-runs may cost. As long as the standard errors of
            the best overlap, these are re-run on one more seed each, within this share.
        confirmations: re-runs of the winner on seeds that did not choose it; their mean is what
            the winner is said to reach. 0 leaves it at the mean that chose it.
    """

    k: int = Field(default=3, ge=1)
    n_seeds: int = Field(default=3, ge=1)
    max_share: float = Field(default=0.25, ge=0)
    confirmations: int = Field(default=3, ge=0)


N_BLOCKS = 5
"""Seeds of `trial_seed: blocked`: of each there are enough trials to know what they share."""


class ExperimentSpec(Section):
    """One `hpo run`, whole.

    Its first trials are not drawn: the defaults of the parameters, the params of ``enqueue``, then
    the best of the experiments that ``warm_start`` names.

    With ``stages`` the parameters are searched a few at a time, in that order; the others keep the
    values of the best trial so far.

    Trials take turns with `N_BLOCKS` seeds, see docs/search.md. With ``trial_seed: common`` all
    train with one, with ``per_trial`` each has its own. A config that is drawn again for the same
    seed is answered from the record. ``constraints`` name
    quantities that the trainable knows of a config before it is trained, or metrics.

    ``objective`` is one mapping or a list of two or three, whose metrics may be such quantities,
    too; the first chooses the finalists, see docs/search.md.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    trainable: str
    seed: int = Field(default=0, ge=0)
    trial_seed: Literal["blocked", "per_trial", "common"] = "blocked"
    objectives: Objectives = Field(alias="objective")
    fixed: dict[str, Scalar | list[Scalar]] = Field(default_factory=dict)
    search_space: dict[str, Parameter] = Field(min_length=1)
    enqueue: list[dict[str, Scalar]] = Field(default_factory=list)
    warm_start: list[str] = Field(default_factory=list)
    stages: list[list[str]] = Field(default_factory=list)
    sampler: SamplerSpec = Field(default_factory=lambda: AutoSpec(name="auto"))
    scheduler: SchedulerSpec = Field(default_factory=lambda: NoSchedulerSpec(name="none"))
    budget: BudgetSpec
    constraints: dict[str, LimitSpec] = Field(default_factory=dict)
    resources: ResourcesSpec = Field(default_factory=ResourcesSpec)
    concurrency: int | None = Field(default=None, ge=1)
    finalists: FinalistsSpec = Field(default_factory=FinalistsSpec)

    @property
    def n_trial_seeds(self) -> int | None:
        """How many seeds the trials take turns with; None if each has its own."""
        return {"per_trial": None, "blocked": N_BLOCKS, "common": 1}[self.trial_seed]

    @property
    def objective(self) -> ObjectiveSpec:
        """The first, and mostly the only one."""
        return self.objectives[0]

    @property
    def is_multi_objective(self) -> bool:
        """Whether there is a Pareto front instead of a best trial."""
        return len(self.objectives) > 1
