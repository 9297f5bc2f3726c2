"""Named places between which a run may be killed: how a test proves that nothing is lost there.

With ``HPO_FAILPOINT="trial told"`` in its environment a process ends at that place as SIGKILL ends
it, with ``"trial told:3"`` when it comes there for the third time. Without it nothing happens.
"""

from __future__ import annotations

import itertools
import os
import signal

VARIABLE = "HPO_FAILPOINT"

FAILPOINTS = {
    # An experiment is laid out.
    "experiment recorded": "its row stands in the ledger, there is no study yet",
    "study made": "with its directions and metrics, and no trial",
    "opening decided": "the params of the first trials stand in the study",
    "spec written": "into the folder of the run; all is laid out",
    "range found recorded": "of learning rates; the recorded spec is not narrowed to it yet",
    "first trial enqueued": "one of those that the search begins with, others may be missing",
    "sampler recorded": "its name, for the report",
    # A trial is asked for.
    "trial begun": "it is RUNNING and has no params",
    "param drawn": "one; others may be missing",
    "trial asked": "all params are drawn",
    "seed recorded": "with the trial; it is handed to a worker",
    "seed of a member recorded": "the same in a population",
    # A worker trains it. Its own checkpoint is named by the steps of writing one.
    "checkpoint written": "beside its place, not synced",
    "checkpoint synced": "beside its place",
    "checkpoint renamed": "to its name; a loss of power may undo that",
    "checkpoint folder synced": "it is there for good, nobody has been told",
    "checkpoint pruned": "those that are not needed any more are gone",
    "fingerprint recorded": "of the data",
    "facts recorded": "what is known of a config before its training",
    "epoch recorded": "in the ledger, with its checkpoint; the study does not know it",
    "value recorded": "of the epoch in the study",
    "retry counted": "of a trial whose worker died; it is RUNNING still",
    "trial requeued": "it waits to be handed out again",
    # It ends, or is taken back.
    "first value recorded": "of a trial that is about to be held back",
    "generation judged": "who ends and who is born stands in the study, and has not happened",
    "child born": "one trial of the next generation is in the queue, others may be missing",
    "trial about to be told": "all that there is to say stands in the study, but its end",
    "trial told": "it has ended; its checkpoints are still there",
    "checkpoints removed": "of the trial that has ended; nobody else has been told",
    "failure described": "on a trial that is about to FAIL",
    "answer copied": "from a trial that had trained the same; its epochs are not copied",
    "answered epoch recorded": "one of them, in the ledger",
    # A thread tells MLflow of it.
    "MLflow experiment made": "it holds no run",
    "MLflow run begun": "with its tags, and nothing else",
    "MLflow run logged": "metrics and params; it is RUNNING in MLflow",
    "MLflow run ended": "of a trial",
    # What follows the search.
    "search end recorded": "the reason to end early",
    "finalists recorded": "none has been run again",
    "re-run recorded": "of a finalist",
    "test reading recorded": "the model is in memory alone",
    "confirmation recorded": "of the winner",
    "leftovers requeued": "nothing is RUNNING any more; MLflow may lag behind",
    "model exported": "its files lie there, with their manifest",
    "examples saved": "beside the model",
    "export recorded": "in the ledger",
    "weights of losers removed": "those of the finalists stay",
    "report written": "the experiment is not called finished yet",
    "model card written": "the experiment is not called finished yet",
    "MLflow parent ended": "the run of the whole experiment",
    "finish recorded": "in the ledger; nothing is left to do",
}
"""What has happened by then."""

_passed = itertools.count(1)


def failpoint(name: str) -> None:
    """The place called ``name``: the process ends here if the environment says so."""
    wanted, _, nth = os.environ.get(VARIABLE, "").partition(":")
    if name == wanted and next(_passed) == int(nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)
