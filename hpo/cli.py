"""The command line: one thin command per thing a user wants to do.

Results go to stdout, progress and errors to stderr. Nothing heavy is imported before it is needed,
so that `hpo --help` answers at once.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from hpo.cli_jobs import jobs_app, submit
from hpo.cli_messages import command_line, harmless, program, resume_command, say, warn_about
from hpo.cli_options import (
    CheckpointsOption,
    JsonOption,
    NameArgument,
    OverrideOption,
    ParamOption,
    SpecArgument,
    StorageOption,
    TrackingOption,
    numbers,
    places_beside,
    places_of,
    spec_and_places,
    words,
)

if TYPE_CHECKING:  # imported where it is needed, so that `hpo --help` answers at once
    from hpo.places import Places
    from hpo.spec import ExperimentSpec

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Hyperparameter optimization: search, re-run, retrain, test once, export.",
    rich_markup_mode=None,
)


@app.command()
def run(
    spec_path: SpecArgument,
    overrides: OverrideOption = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Budget of the search [the spec's].")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an experiment.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, run nothing.")] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the whole spec, run nothing.")
    ] = False,
    begin_or_resume: Annotated[
        bool, typer.Option("--begin-or-resume", help="Go on if it has begun: for jobs.")
    ] = False,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    checkpoints: CheckpointsOption = None,
) -> None:
    """Search SPEC, re-run the best, retrain and export the winner.

    hpo run search_spaces/cnn.yaml
    """
    budget = [] if trials is None else [f"budget.n_trials={trials}"]
    spec, places = spec_and_places(
        spec_path, [*(overrides or ()), *budget], storage, tracking_uri, checkpoints
    )
    if print_config:
        from hpo.spec import spec_to_yaml

        typer.echo(spec_to_yaml(spec), nl=False)
        return
    warn_about(spec)
    if dry_run:
        from hpo.plan import plan_text

        typer.echo(plan_text(spec, places))
    else:
        from hpo.workspace import has_begun

        is_resumed = resume or (begin_or_resume and has_begun(spec.name, places))
        _run(spec, places, is_resumed=is_resumed)


@app.command()
def resume(
    name: NameArgument,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Of the whole search [as recorded].")
    ] = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    checkpoints: CheckpointsOption = None,
) -> None:
    """Go on with NAME as it is recorded, whatever ended it; with more trials if you like.

    hpo resume cnn --trials 60
    """
    from hpo.workspace import recorded_spec

    overrides = [] if trials is None else [f"budget.n_trials={trials}"]
    spec, places = recorded_spec(name, places_of(storage, tracking_uri, checkpoints), overrides)
    _run(spec, places, is_resumed=True)


def _run(spec: ExperimentSpec, places: Places, *, is_resumed: bool) -> None:
    """The whole journey of `hpo run`, seen on a terminal."""
    from rich.console import Console

    from hpo.going_on import outcome_if_finished
    from hpo.progress import RunProgress
    from hpo.results import summary
    from hpo.search import n_trials_of

    outcome = outcome_if_finished(spec, places, say) if is_resumed else None
    if outcome is None:
        from hpo.experiment import run_experiment  # and Ray, which takes seconds to load

        with RunProgress(spec, Console(stderr=True), n_trials_of(spec)) as progress:
            outcome = run_experiment(
                spec, places, progress, resume=is_resumed, resume_command=resume_command()
            )
    typer.echo(summary(outcome, places.run_folder(spec.name), program()))


@app.command()
def validate(
    spec_path: SpecArgument, overrides: OverrideOption = None, as_json: JsonOption = False
) -> None:
    """List every problem of SPEC with its place, or say how large the search is.

    hpo validate search_spaces/cnn.yaml
    """
    from hpo.lineage import population_text
    from hpo.plan import size_of

    spec, _ = spec_and_places(spec_path, overrides)
    size = size_of(spec)
    if as_json:
        from hpo.search import warnings_about

        typer.echo(json.dumps({**size, "warnings": warnings_about(spec)}))
        return
    warn_about(spec)
    distinct, n_conditional = size["n_distinct_configs"], size["n_conditional"]
    typer.echo(
        f"{spec_path} is valid: {size['n_trials']} trials over {size['n_parameters']} parameters"
        + (f" ({n_conditional} conditional), " if n_conditional else ", ")
        + ("infinitely many configs" if distinct is None else f"{distinct:,} distinct configs")
    )
    if told := population_text(spec):
        typer.echo(f"scheduler pbt: {told}")


@app.command()
def compare(
    spec_path: SpecArgument,
    samplers: Annotated[
        str | None, typer.Option(metavar="A,B", help="At least two [grid,random,tpe,gp].")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Studies of each sampler.")] = 10,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Of each study [the spec's budget].")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For report and tables [runs/NAME/compare].")
    ] = None,
    overrides: OverrideOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a comparison.")] = False,
    print_json: JsonOption = False,
    storage: StorageOption = None,
) -> None:
    """Compare samplers on SPEC at one budget: which is better, by how much, how sure.

    hpo compare search_spaces/branin.yaml --samplers random,tpe,gp --trials 30
    """
    from rich.console import Console

    from hpo.compare import compare_samplers
    from hpo.comparison import REPORT_FILE, as_json, comparison_text, power_warning
    from hpo.comparison_progress import ComparisonProgress
    from hpo.comparison_workspace import comparison_folder, plan_comparison

    places = places_beside(spec_path, storage)
    plan = plan_comparison(spec_path, overrides or (), places, samplers, seeds, trials)
    folder = out or comparison_folder(places, plan.spec.name)
    for note in plan.notes:
        say(f"note: {note}")
    if warning := power_warning(seeds, len(plan.samplers)):
        say(f"warning: {warning}")
    specs = {key: plan.study_spec(key) for key in plan.keys}
    with ComparisonProgress(Console(stderr=True), specs) as progress:
        comparison = compare_samplers(
            plan, places, folder, progress, resume=resume, resume_command=resume_command()
        )
    if print_json:
        typer.echo(json.dumps(as_json(comparison)))
    else:
        typer.echo(comparison_text(comparison))
        typer.echo(f"report: {os.path.relpath(folder / REPORT_FILE)}")


@app.command()
def export(
    name: NameArgument,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="A,B", help="Of torchscript, pt2, onnx, safetensors [all]."
        ),
    ] = None,
    register: Annotated[
        bool, typer.Option("--register", help="Register it in MLflow as champion.")
    ] = False,
    model_name: Annotated[
        str | None, typer.Option("--model-name", help="In the registry [NAME].")
    ] = None,
    as_json: JsonOption = False,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Write the winner of NAME in other formats, each reloaded in a new process and compared.

    hpo export cnn --format onnx,pt2
    """
    from dataclasses import asdict

    from hpo import exporting
    from hpo.errors import HpoError, UsageError

    if model_name is not None and not register:
        raise UsageError("--model-name names a registered model; add --register")
    if register:
        exporting.check_model_name(model_name or name)
    places = places_of(storage, tracking_uri)
    wanted = None if formats is None else [part.strip() for part in formats.split(",")]
    exports, registered = exporting.export_experiment(name, places, wanted, say), None
    if register:
        again = command_line(
            *("export", name, "--format", "torchscript", "--register"),
            **{"--model-name": model_name, "--storage": storage, "--tracking-uri": tracking_uri},
        )
        try:
            registered = exporting.register_experiment(name, places, model_name, say, way_out=again)
        except HpoError as error:
            exports.failures["--register"] = error
    if as_json:
        rows = [asdict(entry) for entry in exports.entries]
        champion = None if registered is None else {**asdict(registered), "uri": registered.uri}
        typer.echo(json.dumps({"files": rows, "registered": champion}))
    else:
        for entry in exports.entries:
            file = os.path.relpath(places.run_folder(name) / entry.file)
            typer.echo(f"{file}: {entry.as_text()}")
        if registered is not None:
            typer.echo(f"{registered.uri}: version {registered.version} of {registered.name}")
    exporting.refuse_failures(exports.failures)


@app.command()
def replay(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Of an experiment; with --table a YAML file.")
    ],
    samplers: Annotated[
        str | None, typer.Option(metavar="A,B", help="E.g. tpe,random [the study's].")
    ] = None,
    schedulers: Annotated[
        str | None, typer.Option(metavar="A,B", help="E.g. asha,none [the study's].")
    ] = None,
    workers: Annotated[
        str | None, typer.Option(metavar="N,M", help="E.g. 1,4,16,64,1024 [the study's].")
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="Searches of each combination.")] = 10,
    trials: Annotated[
        int | None, typer.Option(metavar="N", help="Of each search [the study's].")
    ] = None,
    reach: Annotated[
        str | None, typer.Option(metavar="X,Y", help="Values to time [the record's best].")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Search this table of results.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For page and files [runs/NAME/replay].")
    ] = None,
    as_json: JsonOption = False,
    storage: StorageOption = None,
) -> None:
    """Search the record of NAME again, on a simulated clock, with other strategies.

    hpo replay cnn --samplers tpe,random --schedulers asha,none --workers 1,16
    """
    from hpo.replay import FOLDER, Wanted, replay_study, replay_table, save
    from hpo.simulation import replay_text
    from hpo.storage_errors import make_folder

    if out is not None:
        make_folder(out)
    wanted = Wanted(
        samplers=words("--samplers", samplers),
        schedulers=words("--schedulers", schedulers),
        workers=numbers("--workers", workers, int),
        n_seeds=seeds,
        n_trials=trials,
        targets=numbers("--reach", reach, float),
    )
    places = places_of(storage)
    if table is None:
        result = replay_study(name, places, wanted, say)
    else:
        result = replay_table(Path(name), table, wanted, say)
    folder = out or places.run_folder(result.spec.name) / FOLDER
    save(result, folder)
    typer.echo(json.dumps(result.as_json()) if as_json else replay_text(result.as_json()))
    say(f"page, picture and tables in {os.path.relpath(folder)}")


@app.command()
def inspect(
    spec_path: SpecArgument,
    params: ParamOption = None,
    overrides: OverrideOption = None,
    augmentations: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw augmented training images.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the network of a config of SPEC, layer by layer, before anything is trained.

    hpo inspect search_spaces/cnn.yaml -p depth=3
    """
    from hpo.chosen_config import chosen_config
    from hpo.inspection import inspect_config, inspection_as_json, inspection_text
    from hpo.results import params_text

    spec, places = spec_and_places(spec_path, overrides)
    inspection, space = inspect_config(spec, places, params or ())
    if as_json:
        typer.echo(json.dumps(inspection_as_json(inspection, space)))
    else:
        chosen = chosen_config(spec, params or ())
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 160
        typer.echo(inspection_text(inspection, space, params_text(chosen), width))
    if augmentations is not None:
        from hpo.augmentation_sheet import draw_augmentations

        draw_augmentations(inspection.config, places, augmentations)
        typer.echo(f"{augmentations}: the first row is untouched", err=True)


@app.command()
def lr_find(
    spec_path: SpecArgument,
    params: ParamOption = None,
    overrides: OverrideOption = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="The picture [runs/NAME/lr-find/range_test.png]."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Test learning rates on a config of SPEC; suggest one, and a range to search.

    hpo lr-find search_spaces/cnn.yaml -p depth=3
    """
    from hpo.errors import NoLrRangeError
    from hpo.lr_finder import (
        COMMAND_FOLDER,
        PICTURE,
        find_learning_rate,
        range_test_as_json,
        save_picture,
    )
    from hpo.results import range_test_text

    spec, places = spec_and_places(spec_path, overrides)
    test, config = find_learning_rate(spec, places, params or (), say)
    picture = out or places.run_folder(spec.name) / COMMAND_FOLDER / PICTURE
    save_picture(test, picture)
    say(f"picture in {picture}")
    if as_json:
        typer.echo(json.dumps(range_test_as_json(test, config)))
    else:
        typer.echo(range_test_text(test))
    if test.found is None:
        raise NoLrRangeError(f"no learning rates worth searching: {test.problem}")
    if not as_json:
        low, high = test.found.low, test.found.high
        typer.echo(f"ending     {test.ending}")
        typer.echo(f"suggested  {test.found.suggested:g}")
        typer.echo(f"range      lr: {{type: float, low: {low:g}, high: {high:g}, log: true}}")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="E.g. runs/NAME/standalone_model.pt or .onnx.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    trainable: Annotated[
        str,
        typer.Option(
            metavar="MODULE:FUNCTION", help="Trust your own, to rebuild its .safetensors."
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """What an exported model says of images: classes, values, or shares of pixels.

    hpo predict runs/cnn/standalone_model.pt runs/cnn/examples
    """
    from hpo.results.predict import predict as predict_images

    predictions = predict_images(model, images, trainable)
    if as_json:
        typer.echo(json.dumps(predictions.as_json()))
    else:
        for prediction in predictions.items:
            typer.echo(prediction.as_line())
    say(
        f"{len(predictions.items)} images in {predictions.seconds:.2f} s, "
        f"{predictions.images_per_second:,.0f} images/s (decoding included)"
    )
    predictions.refuse_problems()


@app.command()
def sync(
    name: NameArgument, storage: StorageOption = None, tracking_uri: TrackingOption = None
) -> None:
    """Bring MLflow up to date with everything the ledger knows of NAME.

    hpo sync cnn
    """
    from hpo.synchronization import synchronize_by_name

    places = places_of(storage, tracking_uri)
    n_trials = synchronize_by_name(name, places)
    typer.echo(f"{name}: MLflow shows {n_trials} trials")


@app.command()
def audit(
    name: NameArgument,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what can be mended from the ledger.")
    ] = False,
    as_json: JsonOption = False,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Compare study, ledger, MLflow, checkpoints and files of NAME; list every difference.

    hpo audit cnn
    """
    from hpo.audit import audit_experiment, refuse_differences
    from hpo.auditing import audit_text

    found = audit_experiment(name, places_of(storage, tracking_uri), repair=repair)
    typer.echo(json.dumps(found.as_json()) if as_json else audit_text(found))
    options = {"--storage": storage, "--tracking-uri": tracking_uri}
    refuse_differences(found, command_line("audit", name, "--repair", **options))


@app.command()
def dashboard(
    name: Annotated[str | None, typer.Argument(help="Name of an experiment.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    host: Annotated[
        str, typer.Option(help="Listen here; all but this machine needs a token.")
    ] = "127.0.0.1",
    hostnames: Annotated[
        list[str] | None,
        typer.Option("--hostname", metavar="NAME", help="Of a proxy or container; repeatable."),
    ] = None,
    writable: Annotated[
        bool, typer.Option("--writable", help="Let it change and delete studies.")
    ] = False,
    storage: StorageOption = None,
) -> None:
    """Browse the studies in optuna-dashboard, on this machine only; it changes nothing.

    hpo dashboard cnn
    """
    from hpo.dashboard import serve_dashboard

    serve_dashboard(
        places_of(storage),
        name,
        port,
        host=host,
        hostnames=hostnames or (),
        is_writable=writable,
    )


app.command()(submit)
app.add_typer(jobs_app, name="jobs")


def main() -> NoReturn:
    """Run a command; what a user can mend is shown as its message, with its exit code."""
    from hpo.environment import PRIVATE
    from hpo.errors import HpoError

    os.umask(PRIVATE)
    try:
        app()
    except HpoError as error:
        print(f"hpo: {harmless(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception:  # noqa: BLE001  a bug of ours: all that is known of it, but no password
        print(harmless(traceback.format_exc()), end="", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)
