"""Where things are kept: the folder of runs, the ledger's database, the tracking store, data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from hpo.environment import STORAGE_URL, TRACKING_URI
from hpo.errors import UsageError
from trainables import Place, place_of

LEDGER_FILE, MLFLOW_FILE, MLFLOW_FOLDER = "hpo.db", "mlflow.db", "mlartifacts"
"""What lies in runs/ beside the folders of experiments."""
N_OF_ID = 8
"""Characters of a record's id in a path: enough that no two are equal."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Absolute paths and URLs, so that nothing depends on a worker's working directory.

    Attributes:
        runs: folder of all runs; runs/NAME belongs to one experiment.
        storage_url: SQLAlchemy URL of the ledger: Optuna's studies and our tables. It may hold a
            password, and is shown by `storage.shown_url` alone.
        tracking_uri: of MLflow: an http server or another database; the same holds for it.
        data: folder of data sets; on a cluster it has this path on every machine.
        imports: folders to look for a user's trainable in.
        checkpoints: stands for ``runs`` where checkpoints are concerned, a folder or an object
            store that every machine reaches; None: they lie in ``runs``.
    """

    runs: Path
    storage_url: str = field(repr=False)
    tracking_uri: str = field(repr=False)
    data: Path
    imports: tuple[Path, ...]
    checkpoints: Place | None = None

    @classmethod
    def of(
        cls,
        working_directory: Path,
        environment: Mapping[str, str] = os.environ,
        *,
        storage_url: str | None = None,
        tracking_uri: str | None = None,
        checkpoints: str | None = None,
    ) -> Places:
        """`runs/` of the working directory, unless an option or a variable says otherwise.

        ``HPO_STORAGE_URL``, ``MLFLOW_TRACKING_URI`` and ``HPO_CHECKPOINTS`` are the variables;
        options come first. ``HPO_RUNS`` and ``HPO_DATA`` name other folders than `runs/` and
        `data/`: the job of a cluster has a working directory that goes with it.

        Raises:
            UsageError: if the place of checkpoints is none.
        """
        here = working_directory.resolve()
        runs = here / environment.get("HPO_RUNS", "runs")
        # Of a secret that was made from a file, the end of its line is no part.
        storage_url = (storage_url or environment.get(STORAGE_URL, "")).strip()
        tracking_uri = (tracking_uri or environment.get(TRACKING_URI, "")).strip()
        checkpoints = checkpoints or environment.get("HPO_CHECKPOINTS")
        return cls(
            runs=runs,
            storage_url=storage_url or f"sqlite:///{runs / LEDGER_FILE}",
            tracking_uri=tracking_uri or f"sqlite:///{runs / MLFLOW_FILE}",
            data=here / environment.get("HPO_DATA", "data"),
            imports=(here,),
            checkpoints=None if checkpoints is None else _checkpoint_place(checkpoints),
        )

    def run_folder(self, name: str) -> Path:
        """Everything that belongs to one experiment and is no row of a database."""
        return self.runs / name

    @property
    def checkpoint_uri(self) -> str | None:
        """What `checkpoints` is made of again by `with_checkpoints`."""
        if self.checkpoints is None:
            return None
        return str(self.checkpoints) if isinstance(self.checkpoints, Path) else self.checkpoints.uri

    def with_checkpoints(self, uri: str | None) -> Places:
        """These places with ``uri`` for checkpoints, unless they have one already."""
        if uri is None or self.checkpoints is not None:
            return self
        return replace(self, checkpoints=_checkpoint_place(uri))

    def checkpoints_of(self, folder: Path, record_id: str) -> Place | None:
        """What stands for a folder in `runs` where its checkpoints are concerned; None: itself.

        Args:
            folder: of an experiment, or of one study of a comparison.
            record_id: of the experiment or comparison: in a place that two databases share, each
                may have one of that name.
        """
        if self.checkpoints is None:
            return None
        return self.checkpoints / f"{folder.relative_to(self.runs)}-{record_id[:N_OF_ID]}"


def _checkpoint_place(text: str) -> Place:
    try:
        return place_of(text)
    except ValueError as error:
        raise UsageError(f"--checkpoints (HPO_CHECKPOINTS): {error}") from None
