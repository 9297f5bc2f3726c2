"""Where things are kept: the folder of runs, the ledger's database, the tracking store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Places:
    """Absolute paths and URLs, so that nothing depends on a worker's working directory.

    Attributes:
        runs: folder of all runs; runs/NAME belongs to one experiment.
        storage_url: SQLAlchemy URL of the ledger: Optuna's studies and our tables.
        tracking_uri: of MLflow: an http server or another database.
        data: folder of data sets.
        imports: folders to look for a user's trainable in.
    """

    runs: Path
    storage_url: str
    tracking_uri: str
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
        storage_url = storage_url or environment.get("HPO_STORAGE_URL")
        tracking_uri = tracking_uri or environment.get("MLFLOW_TRACKING_URI")
        return cls(
            runs=runs,
            storage_url=storage_url or f"sqlite:///{runs / 'hpo.db'}",
            tracking_uri=tracking_uri or f"sqlite:///{runs / 'mlflow.db'}",
            data=here / "data",
            imports=(here,),
        )

    def run_folder(self, name: str) -> Path:
        """Everything that belongs to one experiment and is no row of a database."""
        return self.runs / name
