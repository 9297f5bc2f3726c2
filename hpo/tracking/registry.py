"""MLflow's model registry: a winner that production loads by its alias, without a line of ours."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpo.tracking.projection import open_client
from storage import ExperimentRecord

CHAMPION = "champion"
"""Alias of the version that production should load: ``models:/NAME@champion``."""

MODEL_CODE = Path(__file__).with_name("served_model.py")
N_EXAMPLE_IMAGES = 2
MAX_DESCRIPTION = 4999
"""Characters of a version's description; MLflow's database has room for 5000."""


@dataclass(frozen=True, kw_only=True)
class RegisteredVersion:
    """A version of a registered model."""

    name: str
    version: int

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes."""
        return f"models:/{self.name}@{CHAMPION}"


def register_model(
    tracking_uri: str,
    *,
    experiment: ExperimentRecord,
    model_name: str,
    model_file: Path,
    images: npt.NDArray[np.uint8],
    outputs: npt.NDArray[np.float32],
    card: Path,
    tags: Mapping[str, str],
) -> RegisteredVersion:
    """Log ``model_file`` beside the experiment's parent run and register it as the champion.

    Args:
        tracking_uri: of MLflow; the projection of the experiment is there already.
        experiment: whose winner it is.
        model_name: in the registry.
        model_file: TorchScript.
        images: (n, C, H, W), of which the first ones are the input example.
        outputs: (n, ...), what the model makes of them; with ``images`` it gives the signature.
        card: the model card; whole among the run's artifacts, and as much as there is room for in
            the new version's description.
        tags: of the new version.

    Raises:
        Exception: one of `tracking_errors` if the store cannot be written.
    """
    client = open_client(tracking_uri)
    import mlflow
    from mlflow.models import Model

    mlflow_experiment = client.get_experiment_by_name(experiment.name)
    assert mlflow_experiment is not None, "the projection made it"
    parent = client.search_runs(
        [mlflow_experiment.experiment_id],
        f"tags.`hpo.experiment_id` = '{experiment.id}' and tags.`hpo.kind` = 'parent'",
    )[0]
    with _mlflow_at(tracking_uri, parent.info.experiment_id), _silence():
        # Not `mlflow.pyfunc.log_model`, which begins a run if none is active, and would end ours.
        logged = Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            name="model",
            run_id=parent.info.run_id,
            registered_model_name=model_name,
            python_model=str(MODEL_CODE),
            artifacts={"model": str(model_file)},
            signature=_signature(images, outputs),
            input_example=images[:N_EXAMPLE_IMAGES],
            pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "numpy", "torch")],
        )
    client.log_artifact(parent.info.run_id, str(card))
    registered = RegisteredVersion(name=model_name, version=int(logged.registered_model_version))
    client.update_model_version(
        model_name,
        str(registered.version),
        description=shortened(
            card.read_text(encoding="utf-8"),
            f"The whole card is the artifact {card.name} of run {parent.info.run_id}.",
        ),
    )
    for key, value in tags.items():
        client.set_model_version_tag(model_name, str(registered.version), key, value)
    client.set_registered_model_alias(model_name, CHAMPION, str(registered.version))
    return registered


def shortened(card: str, whole: str) -> str:
    """A card that MLflow has room for, cut off at a heading if it must be.

    Args:
        card: Markdown.
        whole: a sentence that says where the whole card is; it then ends the text.
    """
    if len(card) <= MAX_DESCRIPTION:
        return card
    room = card[: MAX_DESCRIPTION - len(whole) - len("\n\n")]
    end = max(room.rfind("\n## "), room.rfind("\n### "))
    return f"{room[:end].rstrip() if end > 0 else room}\n\n{whole}"


def model_name_problem(name: str) -> str:
    """Why a model cannot be called so in the registry; empty if it can."""
    if not name.strip() or name in (".", "..") or "/" in name or ":" in name:
        return "must be a word without `/` and `:`"
    return ""


def tracking_errors() -> tuple[type[Exception], ...]:
    """What MLflow raises if its store cannot be reached or written."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, OSError)


@contextlib.contextmanager
def _mlflow_at(tracking_uri: str, experiment_id: str) -> Iterator[None]:
    """Where `Model.log`, which asks no client, writes to; afterwards all is as it was.

    By the environment: `mlflow.set_tracking_uri` and its like would change it for good.
    """
    before = dict(os.environ)
    os.environ.update(MLFLOW_TRACKING_URI=tracking_uri, MLFLOW_EXPERIMENT_ID=experiment_id)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """MLflow draws progress bars and prints what it did, in the middle of what we say."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _signature(images: npt.NDArray[np.uint8], outputs: npt.NDArray[np.float32]) -> object:
    """Free batch, height and width of the images; the channels and outputs as they are."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    free = (-1, images.shape[1], -1, -1)
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), free)]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *outputs.shape[1:]))]),
    )
