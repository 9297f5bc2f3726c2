"""How long `hpo --help` and the flagship journey take, and how much of that is training.

    .venv/bin/python benchmarks/journey.py

Seconds depend on the machine; the ratios beside them less so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hpo.places import Places
from hpo.workspace import find_workspace

SPEC = Path(__file__).parents[1] / "search_spaces" / "cnn.yaml"
REPEATS = 5


def main() -> None:
    """Measure and print."""
    help_s, python_s = fastest("-m", "hpo", "--help"), fastest("-c", "pass")
    print(f"hpo --help   {help_s:.2f} s, {help_s / python_s:.1f} times an empty Python")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "hpo", "run", str(SPEC)],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wall_s = time.perf_counter() - start
        outcome = find_workspace("cnn", Places.of(Path(folder), {})).outcome()
    search_s = sum(epoch.seconds for epochs in outcome.epochs.values() for epoch in epochs)
    rerun_s = sum(rerun.seconds for finalist in outcome.finalists for rerun in finalist.reruns)
    test = outcome.test
    if test is None:
        raise SystemExit("the run has read no test set")
    training_s = search_s + rerun_s + test.seconds
    cores = os.cpu_count() or 1
    print(f"hpo run      {wall_s:.0f} s for {len(outcome.trials)} trials to the exported model")
    print(
        f"training     {training_s:.0f} s: search {search_s:.0f}, re-runs {rerun_s:.0f}, ", end=""
    )
    print(f"retraining {test.seconds:.0f}; {training_s / wall_s / cores:.0%} of {cores} cores")
    print(f"test         {test.metric} {test.value:.4f}")


def fastest(*arguments: str) -> float:
    """Seconds of the fastest of several runs of Python with ``arguments``."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    main()
