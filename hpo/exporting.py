"""The journey of `hpo export`: rebuild the winner, write each format, reload and compare it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.errors import UnfitEnvironmentError, UsageError
from hpo.exported import FORMATS, read_description, rebuilt
from hpo.places import Places
from hpo.results import (
    EVIDENCE_FILE,
    MODEL_CARD_FILE,
    MODEL_FILE,
    ONNX_RESIZING_TOLERANCE,
    TOLERANCE,
    WEIGHTS_FILE,
    Evidence,
    ManifestEntry,
    Outcome,
    compare_reloaded,
    entry_of,
    read_evidence,
    read_manifest,
    record_of,
    refuse_mismatch,
    unfinished,
    verified,
    write_manifest,
    write_model_card,
)
from hpo.synchronization import synchronize
from hpo.tracking import RegisteredVersion, register_model, short_reason
from hpo.workspace import Workspace, exclusive, find_workspace, storage_errors

N_RESIZED = 64
"""Images that are compared in another size, too."""


@dataclass(frozen=True, kw_only=True)
class Winner:
    """What all formats are made of.

    Attributes:
        trial_number: of the winner.
        evidence: what it computed on the test set.
        predictor: the rebuilt `torch.nn.Module`; None where the trainable cannot rebuild it.
        description: of the predictor; empty without one.
    """

    trial_number: int
    evidence: Evidence
    predictor: Any
    description: dict[str, Any]


def export_experiment(
    name: str, places: Places, formats: Sequence[str] | None, say: Callable[[str], None]
) -> list[ManifestEntry]:
    """Write the winner of ``name`` in each format, each reloaded in a new process and compared.

    Args:
        name: of a finished experiment.
        places: where it is kept.
        formats: keys of ``FORMATS``; None for all that its trainable can have.
        say: is told what is being done.

    Returns:
        What the manifest says of each of these files.

    Raises:
        UsageError: if there is no such experiment, format or exported model, or the network cannot
            be written so.
        StorageError: if a file is damaged, or the experiment is being run.
        ExportMismatchError: if a reloaded file computes something else; it stays as part-FILE.
    """
    check_formats(formats or ())
    with storage_errors():
        workspace = find_workspace(name, places)
        outcome = exported_outcome(workspace)
        with exclusive(workspace.folder):
            winner = find_winner(outcome, workspace.folder)
            wanted = formats or (FORMATS if winner.predictor is not None else ("torchscript",))
            refuse_what_cannot_be_rebuilt(outcome, winner, wanted)
            entries: list[ManifestEntry] = []
            for format_name in dict.fromkeys(wanted):
                entries.append(export_format(workspace, winner, format_name, say))
                write_model_card(workspace.outcome(), workspace.folder)
    return entries


def check_formats(formats: Sequence[str]) -> None:
    """Raise UsageError for formats that nobody knows, all at once."""
    if unknown := [name for name in formats if name not in FORMATS]:
        raise UsageError(
            f"--format: unknown {', '.join(map(repr, unknown))}; known: {', '.join(FORMATS)}"
        )


def exported_outcome(workspace: Workspace) -> Outcome:
    """The outcome of an experiment that has a winner's model.

    Raises:
        UsageError: if it has none, with the reason.
    """
    outcome, name = workspace.outcome(), workspace.spec.name
    if outcome.export is not None:
        return outcome
    if outcome.experiment.finished_at is None:
        raise UsageError(
            f"experiment {name!r} is not finished, it has no model yet; "
            "go on with: hpo run SPEC --resume"
        )
    raise UsageError(
        f"experiment {name!r} has no model: its trainable {outcome.spec.trainable!r} offers no "
        "`finish`, which retrains the winner and hands it back"
    )


def find_winner(outcome: Outcome, folder: Path) -> Winner:
    """The winner's predictor and evidence, from files whose checksums are verified.

    Raises:
        StorageError: if a file is missing or damaged.
    """
    manifest = read_manifest(folder)
    evidence = read_evidence(verified(folder, EVIDENCE_FILE, manifest))
    trial_number = manifest[EVIDENCE_FILE].trial_number
    assert outcome.export is not None
    if WEIGHTS_FILE not in manifest:
        return Winner(trial_number=trial_number, evidence=evidence, predictor=None, description={})
    weights = verified(folder, WEIGHTS_FILE, manifest)
    return Winner(
        trial_number=trial_number,
        evidence=evidence,
        predictor=rebuilt(weights),
        description=read_description(weights),
    )


def refuse_what_cannot_be_rebuilt(
    outcome: Outcome, winner: Winner, formats: Sequence[str] | dict[str, Any]
) -> None:
    """Raise UsageError for formats that need a predictor in Python where there is none."""
    others = [name for name in formats if name != "torchscript"]
    if winner.predictor is None and others:
        raise UsageError(
            f"{outcome.experiment.name!r} can be exported as torchscript only, not as "
            f"{', '.join(others)}: its trainable {outcome.spec.trainable!r} gives its FinalModel "
            "no `description`, of which a function `rebuild` beside it would make the predictor"
        )


def export_format(
    workspace: Workspace, winner: Winner, format_name: str, say: Callable[[str], None]
) -> ManifestEntry:
    """Write, reload and compare one file; record it in the ledger and the manifest."""
    started, path = time.perf_counter(), workspace.folder / FORMATS[format_name].file
    manifest = read_manifest(workspace.folder)
    if format_name == "safetensors" or winner.predictor is None:
        written = verified(workspace.folder, path.name, manifest)  # `hpo run` wrote it
    else:
        from hpo.results.formats import write_format

        say(f"writing {path.name}")
        written = unfinished(path)
        write_format(format_name, winner.predictor, winner.description, written)
    say(f"reloading {path.name} in a new process")
    comparison = compare_reloaded(written, inputs_of(winner))
    loose = ONNX_RESIZING_TOLERANCE if format_name == "onnx" else TOLERANCE
    is_resizing = list(winner.evidence.images.shape[2:]) != winner.description.get("image_size")
    refuse_mismatch(written, comparison, loose if is_resizing else TOLERANCE, loose)
    written.replace(path)
    seconds = time.perf_counter() - started
    entry = entry_of(path, format_name, winner.trial_number, comparison, seconds)
    write_manifest(workspace.folder, {**manifest, path.name: entry}.values())
    workspace.ledger.put_export(workspace.experiment.id, record_of(path, entry))
    return entry


def inputs_of(winner: Winner) -> dict[str, npt.NDArray[Any]]:
    """Images and outputs to compare with: as they were read, and in another size."""
    evidence = winner.evidence
    inputs: dict[str, npt.NDArray[Any]] = {
        "images": evidence.images,
        "outputs": evidence.outputs,
    }
    if winner.predictor is not None:
        import torch

        resized = evidence.images[:N_RESIZED].repeat(2, axis=2).repeat(3, axis=3)
        inputs["resized"] = np.ascontiguousarray(resized)
        with torch.no_grad():
            inputs["resized_outputs"] = winner.predictor(torch.from_numpy(resized)).numpy()
    return inputs


def register_experiment(
    name: str, places: Places, model_name: str | None, say: Callable[[str], None]
) -> RegisteredVersion:
    """Register the exported TorchScript in MLflow; its new version becomes the champion.

    Args:
        name: of a finished experiment.
        places: where it is kept, and which MLflow is meant.
        model_name: in the registry; None for the experiment's name.
        say: is told what is being done.

    Raises:
        UsageError: if there is no such experiment or model.
        StorageError: if a file is damaged, or the experiment is being run.
        UnfitEnvironmentError: if MLflow cannot be written; the files stay as they are.
    """
    with storage_errors():
        workspace = find_workspace(name, places)
        outcome = exported_outcome(workspace)
        with exclusive(workspace.folder):
            manifest = read_manifest(workspace.folder)
            path = verified(workspace.folder, MODEL_FILE, manifest)
            evidence = read_evidence(verified(workspace.folder, EVIDENCE_FILE, manifest))
            say(f"registering {path.name} in MLflow at {places.tracking_uri}")
            try:
                synchronize(workspace)
                return register_model(
                    places.tracking_uri,
                    experiment=outcome.experiment,
                    model_name=model_name or name,
                    model_file=path,
                    images=evidence.images,
                    outputs=evidence.outputs,
                    card=(workspace.folder / MODEL_CARD_FILE).read_text(encoding="utf-8"),
                    tags=registry_tags(outcome),
                )
            except Exception as error:
                raise UnfitEnvironmentError(
                    f"MLflow at {places.tracking_uri} cannot be written: {short_reason(error)}; "
                    f"the exported files are kept. Register later with: hpo export {name} "
                    "--format torchscript --register"
                ) from error


def registry_tags(outcome: Outcome) -> dict[str, str]:
    """What a reader of the registry wants to know of a version at once."""
    assert outcome.export is not None
    assert outcome.test is not None
    return {
        "hpo.experiment_id": outcome.experiment.id,
        "hpo.trial_number": str(outcome.export.trial_number),
        "hpo.sha256": outcome.export.sha256,
        f"hpo.test_{outcome.test.metric}": f"{outcome.test.value:.6g}",
    }
