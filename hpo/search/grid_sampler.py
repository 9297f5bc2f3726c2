"""Grid search: trial numbers are cells of the grid."""

from __future__ import annotations

import random
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from hpo.search.looked_up import LookedUpSampler
from hpo.seeds import derive_seed
from storage import enqueued_params


class GridSampler(LookedUpSampler):
    """Trial ``n`` is cell ``n`` of the grid, in an order shuffled by the study's seed.

    Trials that were enqueued come on top, and a cell that was enqueued is not tried again. Optuna's
    own raises on the last `tell` under ask-and-tell, and draws cells at random, so two workers may
    get one cell.
    """

    def __init__(self, cells: list[dict[str, Any]], study_seed: int) -> None:
        self._cells = list(cells)
        random.Random(derive_seed(study_seed, 0, "grid")).shuffle(self._cells)  # noqa: S311
        self._n_enqueued, self._left = 0, self._cells

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Leave out the cells that were enqueued before the trial."""
        before = study.get_trials(deepcopy=False)[: trial.number]
        enqueued = [params for one in before if (params := enqueued_params(one)) is not None]
        if len(enqueued) != self._n_enqueued:
            self._n_enqueued = len(enqueued)
            self._left = [cell for cell in self._cells if cell not in enqueued] or self._cells

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The value of ``param_name`` in the trial's cell."""
        return self._left[(trial.number - self._n_enqueued) % len(self._left)][param_name]
