"""Where things are kept: the folder of runs, the ledger's database, the tracking store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hpo.environment import STORAGE_URL, TRACKING_URI

LEDGER_FILE, MLFLOW_FILE, MLFLOW_FOLDER = "hpo.db", "mlflow.db", "mlartifacts"
"""What lies in runs/ beside the folders of experiments."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Absolute paths and URLs, so that nothing depends on a worker's working directory.

    Attributes:
        runs: folder of all runs; runs/NAME belongs to one experiment.
        storage_url: SQLAlchemy URL of the ledger: Optuna's studies and our tables. It may hold a
            password, and is shown by `storage.shown_url` alone.
        tracking_uri: of MLflow: an http server or another database; the same holds for it.
        data: folder of data sets.
        imports: folders to look for a user's trainable in.
    """

    runs: Path
    storage_url: str = field(repr=False)
    tracking_uri: str = field(repr=False)
    data: Path
    imports: tuple[Path, ...]

    @classmethod
    def of(
        cls,
        working_directory: Path,
        environment: Mapping[str, str] = os.environ,
        *,
        storage_url: str | None = None,
        tracking_uri: str | None = None,
    ) -> Places:
        """`runs/` of the working directory, unless an option or a variable says otherwise.

        ``HPO_STORAGE_URL`` and ``MLFLOW_TRACKING_URI`` are the variables; options come first.
        """
        here = working_directory.resolve()
        runs = here / "runs"
        storage_url = storage_url or environment.get(STORAGE_URL)
        tracking_uri = tracking_uri or environment.get(TRACKING_URI)
        return cls(
            runs=runs,
            storage_url=storage_url or f"sqlite:///{runs / LEDGER_FILE}",
            tracking_uri=tracking_uri or f"sqlite:///{runs / MLFLOW_FILE}",
            data=here / "data",
            imports=(here,),
        )

    def run_folder(self, name: str) -> Path:
        """Everything that belongs to one experiment and is no row of a database."""
        return self.runs / name
