"""Workers stay warm: whoever trained in the search trains in the stages after it."""

from __future__ import annotations

from pathlib import Path

from commands import Shell

TOGETHER = '''
import os
import time

def train(config, trial):
    """Ends when two workers have had a task of this stage."""
    (trial.folder / "worker").write_text(str(os.getpid()))
    while len({file.read_text() for file in trial.folder.parent.glob("*/worker")} - {""}) < 2:
        time.sleep(0.01)
    yield {"score": config["x"]}
'''
SPEC = """
name: together
trainable: two_workers:train
objective: {metric: score, direction: maximize}
search_space: {x: {type: float, low: 0, high: 1}}
sampler: random
budget: {n_trials: 4, max_epochs: 1}
concurrency: 2
finalists: {k: 2, n_seeds: 1, confirmations: 2}
"""


def test_all_stages_run_on_the_workers_of_the_search(shell: Shell) -> None:
    """A worker that is started anew would import torch once more, if it came to that at all."""
    shell.write("two_workers.py", TOGETHER)
    shell.write("together.yaml", SPEC)
    done = shell.hpo("run", "together.yaml")
    assert done.returncode == 0, done.stderr
    run = shell.folder / "runs" / "together"
    search = workers_of(run / "trials")
    assert len(search) == 2
    assert workers_of(run / "reruns") == search
    assert workers_of(run / "confirmations") == search


def workers_of(folder: Path) -> set[str]:
    return {file.read_text() for file in folder.glob("*/worker")}
