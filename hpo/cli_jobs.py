"""The commands that reach a cluster: submit a run as a job of it, and look after its jobs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from hpo.cli_messages import command_line, say, warn_about
from hpo.cli_options import (
    CheckpointsOption,
    JsonOption,
    OverrideOption,
    SpecArgument,
    StorageOption,
    TrackingOption,
    spec_and_places,
)

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="URL", help="Of the head's dashboard, e.g. http://127.0.0.1:8265."
    ),
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure-http", help="Allow http to another machine.")
]
JobArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Of an experiment, or the id of a job.")
]

jobs_app = typer.Typer(no_args_is_help=True, help="Runs that were submitted to a Ray cluster.")


def submit(
    spec_path: SpecArgument,
    address: AddressOption = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Of the experiment [the spec's].")
    ] = None,
    overrides: OverrideOption = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not show what the job writes.")
    ] = False,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    checkpoints: CheckpointsOption = None,
    insecure_http: InsecureOption = False,
) -> None:
    """Run SPEC as a job of a Ray cluster, or go on with it there; see docs/cluster.md.

    hpo submit search_spaces/cnn.yaml --address http://127.0.0.1:8265
    """
    from hpo.cluster_jobs import Jobs, Run, address_of, refuse_secrets
    from hpo.cluster_upload import upload_of

    options = {
        "--storage": storage,
        "--tracking-uri": tracking_uri,
        "--checkpoints": checkpoints,
    }
    refuse_secrets(options)
    if stays := [name for name in ("HPO_STORAGE_URL", "MLFLOW_TRACKING_URI") if name in os.environ]:
        say(f"note: {' and '.join(stays)} of this machine stay here; the cluster has its own")
    where = address_of(address, insecure_http=insecure_http)
    named = [*(overrides or ()), *([f"name={name}"] if name else ())]
    spec, _ = spec_and_places(spec_path, named)
    warn_about(spec)
    upload = upload_of(spec_path, Path.cwd())
    jobs = Jobs(where)
    spec_file = spec_path.resolve().relative_to(upload.root)
    run = Run(spec=spec, spec_file=spec_file, overrides=named, options=options, upload=upload)
    job_id = jobs.submit(run, say)
    lines = "\n".join(
        f"  {_jobs_line(verb, spec.name, where, insecure_http)}" for verb in ("logs", "stop")
    )
    if no_wait:
        say(f"follow or stop it:\n{lines}")
        typer.echo(job_id)
    else:
        jobs.follow(job_id, _show, f"Follow or stop it:\n{lines}")


@jobs_app.command("list")
def list_jobs(
    address: AddressOption = None,
    as_json: JsonOption = False,
    insecure_http: InsecureOption = False,
) -> None:
    """All runs that were submitted to the cluster, the newest first.

    hpo jobs list --address http://127.0.0.1:8265
    """
    from hpo.cluster_jobs import Jobs, address_of

    rows = Jobs(address_of(address, insecure_http=insecure_http)).rows()
    if as_json:
        typer.echo(json.dumps(rows))
        return
    if not rows:
        say("no jobs")
    for row in rows:
        code = "" if row["exit_code"] in (None, 0) else f" (exit code {row['exit_code']})"
        typer.echo(f"{row['id']:<24} {row['started']:<24} {row['status'].lower()}{code}")


@jobs_app.command()
def logs(
    name: JobArgument,
    address: AddressOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
    insecure_http: InsecureOption = False,
) -> None:
    """What a job has written so far.

    hpo jobs logs cnn --address http://127.0.0.1:8265
    """
    from hpo.cluster_jobs import Jobs, address_of

    where = address_of(address, insecure_http=insecure_http)
    jobs = Jobs(where)
    job_id = jobs.find(name)
    if follow:
        jobs.follow(job_id, _show, f"  {_jobs_line('logs', name, where, insecure_http)}")
    else:
        _show(jobs.logs(job_id))


@jobs_app.command()
def stop(
    name: JobArgument, address: AddressOption = None, insecure_http: InsecureOption = False
) -> None:
    """Ask a job to end; `hpo submit` again goes on with its experiment.

    hpo jobs stop cnn --address http://127.0.0.1:8265
    """
    from hpo.cluster_jobs import Jobs, address_of

    jobs = Jobs(address_of(address, insecure_http=insecure_http))
    job_id = jobs.find(name)
    ran = jobs.stop(job_id)
    say(f"{job_id}: asked to end, which takes up to 30 s" if ran else f"{job_id} has ended before")


def _show(text: str) -> None:
    typer.echo(text, nl=False)


def _jobs_line(verb: str, name: str, address: str, insecure_http: bool) -> str:
    flags = [*(["-f"] if verb == "logs" else []), *(["--insecure-http"] if insecure_http else [])]
    return command_line("jobs", verb, name, *flags, **{"--address": address})
