"""The journey of `hpo export`: take or write each format, reload and compare it, register it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hpo.errors import HpoError, StorageError, UnfitEnvironmentError, UsageError
from hpo.exported import FORMATS, rebuilt
from hpo.places import Places
from hpo.results import (
    EVIDENCE_FILE,
    MANIFEST_FILE,
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
    write_file,
    write_manifest,
    write_model_card,
)
from hpo.storage_errors import exclusive, storage_errors
from hpo.synchronization import synchronize
from hpo.tracking import (
    RegisteredVersion,
    model_name_problem,
    register_model,
    short_reason,
    tracking_errors,
)
from hpo.workspace import Workspace, find_workspace
from storage import shown_url

LEFT_BY_EVERY_RUN = ("torchscript", "safetensors")
"""Formats whose files are there before `hpo export`."""


@dataclass(frozen=True, kw_only=True)
class Winner:
    """What all formats are made of.

    Attributes:
        trial_number: of the winner.
        trainable: that trained it, and is trusted with rebuilding it.
        evidence: what it computed on real images.
        weights: its file of weights; None where the trainable cannot rebuild the predictor.
    """

    trial_number: int
    trainable: str
    evidence: Evidence
    weights: Path | None

    @cached_property
    def predictor(self) -> Any:
        """The rebuilt `torch.nn.Module`; made when a format asks for it first.

        Raises:
            UsageError: if the trainable cannot make it.
        """
        assert self.weights is not None
        return rebuilt(self.weights, self.trainable)


@dataclass(frozen=True, kw_only=True)
class Exports:
    """What came of all formats that were asked for.

    Attributes:
        entries: what the manifest says of each file that is fit for use.
        failures: why there is none, by format.
    """

    entries: list[ManifestEntry]
    failures: dict[str, HpoError]


def export_experiment(
    name: str, places: Places, formats: Sequence[str] | None, say: Callable[[str], None]
) -> Exports:
    """Write the winner of ``name`` in each format, each reloaded in a new process and compared.

    A format that fails does not keep the others from being tried. A file that computes something
    else stays as part-FILE, and what lay under its name before stays there.

    Args:
        name: of a finished experiment.
        places: where it is kept.
        formats: keys of ``FORMATS``; None for all that its trainable can have.
        say: is told what is being done.

    Raises:
        UsageError: if there is no such experiment, format or exported model.
        StorageError: if what all formats are made of is damaged, or the experiment is being run.
    """
    check_formats(formats or ())
    with storage_errors():
        workspace = find_workspace(name, places)
        outcome = exported_outcome(workspace)
        exports = Exports(entries=[], failures={})
        with exclusive(places, name):
            winner = find_winner(outcome, workspace.folder)
            wanted = formats or (FORMATS if winner.weights is not None else ("torchscript",))
            refuse_what_cannot_be_rebuilt(outcome, winner, wanted)
            for format_name in dict.fromkeys(wanted):
                try:
                    exports.entries.append(export_format(workspace, winner, format_name, say))
                    write_model_card(workspace.outcome(), workspace.folder)
                except HpoError as error:
                    exports.failures[format_name] = error
    return exports


def refuse_failures(failures: Mapping[str, HpoError]) -> None:
    """Raise one error that tells all failures, of the kind of the first; none if there are none."""
    if len(failures) == 1:
        raise next(iter(failures.values()))
    if failures:
        listed = [f"{name}: {error}" for name, error in failures.items()]
        kind = type(next(iter(failures.values())))
        raise kind("\n  ".join([f"{len(failures)} exports failed:", *listed]))


def check_formats(formats: Sequence[str]) -> None:
    """Raise UsageError for formats that nobody knows, all at once."""
    if unknown := [name for name in formats if name not in FORMATS]:
        raise UsageError(
            f"--format: unknown {', '.join(map(repr, unknown))}; known: {', '.join(FORMATS)}"
        )


def exported_outcome(workspace: Workspace) -> Outcome:
    """The outcome of an experiment that has a winner's model, which lies here.

    Raises:
        UsageError: if it has none, with the reason, or if it was run in another folder.
    """
    outcome, name = workspace.outcome(), workspace.spec.name
    if outcome.export is not None:
        folder = Path(outcome.export.path).parent
        if folder != workspace.folder and not (workspace.folder / MANIFEST_FILE).is_file():
            raise UsageError(
                f"the files of experiment {name!r} lie in {folder}, not in {workspace.folder}: "
                f"go to {folder.parent.parent} and export it there, with the same --storage"
            )
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
    """What the run left of its winner.

    Raises:
        StorageError: if its evidence is missing or damaged.
    """
    manifest = read_manifest(folder)
    evidence = read_evidence(verified(folder, EVIDENCE_FILE, manifest))
    return Winner(
        trial_number=manifest[EVIDENCE_FILE].trial_number,
        trainable=outcome.spec.trainable,
        evidence=evidence,
        weights=folder / WEIGHTS_FILE if WEIGHTS_FILE in manifest else None,
    )


def refuse_what_cannot_be_rebuilt(
    outcome: Outcome, winner: Winner, formats: Sequence[str] | dict[str, Any]
) -> None:
    """Raise UsageError for formats that need a predictor in Python where there is none."""
    others = [name for name in formats if name != "torchscript"]
    if winner.weights is None and others:
        raise UsageError(
            f"{outcome.experiment.name!r} can be exported as torchscript only, not as "
            f"{', '.join(others)}: its trainable {outcome.spec.trainable!r} gives its FinalModel "
            "no `description`, of which a function `rebuild` beside it would make the predictor"
        )


def export_format(
    workspace: Workspace, winner: Winner, format_name: str, say: Callable[[str], None]
) -> ManifestEntry:
    """Take or write, reload and compare one file; record it in the ledger and the manifest.

    Raises:
        UsageError: if the network cannot be written so.
        ExportMismatchError: if the reloaded file computes something else.
        StorageError: if what it is made of is damaged, or it cannot be written.
    """
    started, path = time.perf_counter(), workspace.folder / FORMATS[format_name].file
    manifest = read_manifest(workspace.folder)
    written = left_by_the_run(winner, path, format_name, manifest)
    if written is None:
        written = write_anew(winner, path, format_name, manifest, say)
    say(f"reloading {path.name} in a new process")
    comparison = compare_reloaded(written, winner.evidence.inputs(), winner.trainable)
    refuse_mismatch(written, comparison, *tolerances(winner.evidence, format_name))
    written.replace(path)
    seconds = time.perf_counter() - started
    entry = entry_of(path, format_name, winner.trial_number, comparison, seconds)
    schedules = [one.schedule for one in manifest.values()]
    entry = replace(entry, schedule=next(iter(schedules), ""))  # of one winner, all of them
    write_manifest(workspace.folder, {**manifest, path.name: entry}.values())
    workspace.ledger.put_export(workspace.experiment.id, record_of(path, entry))
    return entry


def left_by_the_run(
    winner: Winner, path: Path, format_name: str, manifest: Mapping[str, ManifestEntry]
) -> Path | None:
    """The file that every run leaves; None of another format, or if it can and must be made anew.

    Raises:
        StorageError: if it is missing or damaged, and cannot be made of the weights.
    """
    if format_name not in LEFT_BY_EVERY_RUN:
        return None
    try:
        return verified(path.parent, path.name, manifest)
    except StorageError:
        if format_name == "safetensors" or winner.weights is None:
            raise
        return None


def write_anew(
    winner: Winner,
    path: Path,
    format_name: str,
    manifest: Mapping[str, ManifestEntry],
    say: Callable[[str], None],
) -> Path:
    """A file of the rebuilt predictor, beside its final place."""
    from hpo.results.formats import write_format

    verified(path.parent, WEIGHTS_FILE, manifest)
    say(f"writing {path.name}")
    evidence = winner.evidence
    height, width = evidence.images.shape[2:]
    only_size = (height, width) if evidence.resized_outputs is None else None
    content = write_format(format_name, winner.predictor, evidence.description, only_size)
    write_file(unfinished(path), content)
    return unfinished(path)


def tolerances(evidence: Evidence, format_name: str) -> tuple[float, float]:
    """Of images as they were read, and in another size: only ONNX that resizes may be loose."""
    shorter_side = evidence.description.get("shorter_side")
    if format_name != "onnx" or shorter_side is None:
        return TOLERANCE, TOLERANCE
    is_resized = min(evidence.images.shape[2:]) != shorter_side
    return ONNX_RESIZING_TOLERANCE if is_resized else TOLERANCE, ONNX_RESIZING_TOLERANCE


def register_experiment(
    name: str,
    places: Places,
    model_name: str | None,
    say: Callable[[str], None],
    *,
    way_out: str,
) -> RegisteredVersion:
    """Register the exported TorchScript in MLflow; its new version becomes the champion.

    Args:
        name: of a finished experiment.
        places: where it is kept, and which MLflow is meant.
        model_name: in the registry; None for the experiment's name.
        say: is told what is being done.
        way_out: the command that registers it later.

    Raises:
        UsageError: if there is no such experiment or model.
        StorageError: if a file is damaged, or the experiment is being run.
        UnfitEnvironmentError: if MLflow cannot be written; the files stay as they are.
    """
    with storage_errors():
        workspace = find_workspace(name, places)
        outcome = exported_outcome(workspace)
        with exclusive(places, name):
            manifest = read_manifest(workspace.folder)
            path = verified(workspace.folder, MODEL_FILE, manifest)
            evidence = read_evidence(verified(workspace.folder, EVIDENCE_FILE, manifest))
            say(f"registering {path.name} in MLflow at {shown_url(places.tracking_uri)}")
            try:
                synchronize(workspace)
                return register_model(
                    places.tracking_uri,
                    experiment=outcome.experiment,
                    model_name=model_name or name,
                    model_file=path,
                    images=evidence.images,
                    outputs=evidence.outputs,
                    card=workspace.folder / MODEL_CARD_FILE,
                    tags=registry_tags(outcome),
                )
            except tracking_errors() as error:
                raise UnfitEnvironmentError(
                    f"MLflow at {shown_url(places.tracking_uri)} cannot be written: "
                    f"{short_reason(error)}; the exported files are kept. "
                    f"Register later with: {way_out}"
                ) from error


def check_model_name(model_name: str) -> None:
    """Raise UsageError for a name that MLflow's registry refuses; asks no server."""
    if problem := model_name_problem(model_name):
        raise UsageError(f"--model-name: {problem}, got {model_name!r}; give another one")


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
