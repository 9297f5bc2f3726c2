"""Searches whose driver is killed again and again: what is left of what they had said.

    .venv/bin/python benchmarks/soak.py hpo --kills 100
    .venv/bin/python benchmarks/soak.py plain plain-stored --kills 40

One search is left alone and its seconds are counted. Each following one is begun, its driver gets
SIGKILL at a random moment within that time, it is begun again, and so on until it comes to its end;
then the next, until there were enough kills. At each end the words of the drivers are compared with
what is stored. `plain` is plain_tune.py, the same search without us; `plain-stored` is that with
Optuna's study in a database, for its dashboard.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from plain_tune import EPOCH_S, N_EPOCHS, N_TRIALS, N_WORKERS

PATIENCE_S = 600.0
"""A start that nobody kills and that takes longer hangs."""
TOLD = re.compile(r"^(?:trial|told) +(\w+) +(?:COMPLETE +loss=)?([0-9.]+)(?: |$)", re.M)
"""A line of `hpo run`, or of plain_tune.py, that says that a trial is complete."""
MAX_FAILED_STARTS = 3
"""Of one search, by themselves and not by a kill: then it is given up."""

TRAINABLE = f"""
import time
from pathlib import Path

def train(config, trial):
    kept = trial.checkpoints.load()
    for epoch in range(1 if kept is None else kept[0] + 1, trial.max_epochs + 1):
        time.sleep({EPOCH_S})
        if trial.folder.parent.name == "trials":
            with open(trial.folder.parents[3] / "trained.txt", "a") as file:
                print(trial.folder.name, epoch, file=file)
        trial.checkpoints.save(epoch, {{}})
        yield {{"loss": config["x"] ** 2 + config["y"] ** 2 + 1 / epoch}}
"""
SPEC = f"""
name: soak
trainable: soak:train
objective: {{metric: loss, direction: minimize}}
search_space:
  x: {{type: float, low: -5, high: 5}}
  y: {{type: float, low: -5, high: 5}}
sampler: tpe
budget: {{n_trials: {N_TRIALS}, max_epochs: {N_EPOCHS}}}
concurrency: {N_WORKERS}
finalists: {{k: 1, n_seeds: 1, confirmations: 1}}
"""


@dataclass
class Ended:
    """What one search has come to."""

    told: dict[str, str] = field(default_factory=dict)
    """Trial to value: what its driver has said is complete."""
    kept: dict[str, str] = field(default_factory=dict)
    """The same as it is stored at the end."""
    n_kills: int = 0
    n_trained: int = 0
    n_trials: int | None = None
    """Of the study in Optuna's database, if there is one."""
    n_complete: int = 0
    n_running: int = 0
    n_mlflow_running: int = 0
    n_mlflow_doubles: int = 0
    n_epochs_twice: int = 0
    is_clean: bool | None = None
    """What `hpo audit` says."""
    is_given_up: bool = False

    @property
    def n_lost(self) -> int:
        """Trials that were said to be complete and are not, or with another value."""
        return sum(self.kept.get(trial) != value for trial, value in self.told.items())

    @property
    def is_exact(self) -> bool:
        """Whether as many trials were trained as the budget says, and stand in the study."""
        is_stored = self.n_trials is None or self.n_trials == self.n_complete == N_TRIALS
        return is_stored and self.n_trained == N_TRIALS


def main() -> None:
    """Soak one side after the other and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sides", nargs="+", choices=SIDES)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    print_table({side: soak(*SIDES[side], wanted.kills, wanted.seed) for side in wanted.sides})


def print_table(columns: dict[str, list[Ended]]) -> None:
    """As docs/reliability.md has it."""
    rows: dict[str, Callable[[list[Ended]], object]] = {
        "kills": lambda all_: sum(one.n_kills for one in all_),
        "searches": len,
        "of these given up: no start came to its end": lambda all_: sum(
            one.is_given_up for one in all_
        ),
        "trials said to be complete": lambda all_: sum(len(one.told) for one in all_),
        "of these lost, or with another value": lambda all_: sum(one.n_lost for one in all_),
        f"searches with exactly {N_TRIALS} trials, as the budget says": lambda all_: sum(
            one.is_exact for one in all_
        ),
        "trials left RUNNING in Optuna": lambda all_: sum(one.n_running for one in all_),
        "runs left RUNNING in MLflow": lambda all_: sum(one.n_mlflow_running for one in all_),
        "second MLflow runs of a trial": lambda all_: sum(one.n_mlflow_doubles for one in all_),
        "epochs trained again": lambda all_: sum(one.n_epochs_twice for one in all_),
        "searches that `hpo audit` finds clean": lambda all_: (
            "-" if all_[0].is_clean is None else sum(bool(one.is_clean) for one in all_)
        ),
    }
    print(f"| | {' | '.join(columns)} |\n|---{'|---:' * len(columns)}|")
    for name, figure in rows.items():
        print(f"| {name} | {' | '.join(str(figure(searches)) for searches in columns.values())} |")


def soak(
    command: Callable[[Path], list[str]],
    look: Callable[[Path, Ended], None],
    n_kills: int,
    seed: int,
) -> list[Ended]:
    """One search after the other, until their drivers were killed ``n_kills`` times."""
    moments, searches, whole_s = np.random.default_rng(seed), list[Ended](), 0.0
    while (left := n_kills - sum(search.n_kills for search in searches)) > 0:
        start, search = time.monotonic(), Ended()
        with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            if whole_s:
                search_through(command, folder, moments.uniform(0, whole_s, left), search)
            else:
                search_through(command, folder, [], search)
                whole_s = time.monotonic() - start
                print(f"left alone: {whole_s:.0f} s", file=sys.stderr)
            look(folder, search)
        searches.append(search)
        print(f"{search}\n  lost: {search.n_lost}", file=sys.stderr, flush=True)
    return searches


def search_through(
    command: Callable[[Path], list[str]],
    folder: Path,
    kills: Iterable[float],
    search: Ended,
) -> None:
    """Begin it until it comes to its end.

    ``kills`` has seconds for each start after which its driver is killed, if it runs then; when
    there is none left it is left alone.
    """
    n_failed, moments = 0, iter(kills)
    while n_failed < MAX_FAILED_STARTS:
        kill_s = next(moments, None)
        code, output = run(command(folder), folder, kill_s or PATIENCE_S)
        for trial, value in re.findall(TOLD, output):
            search.told.setdefault(trial, value)
        if code == 0:
            return
        if code == -signal.SIGKILL and kill_s is not None:
            search.n_kills += 1
            continue
        print(f"exit code {code}:\n{output[-2000:]}", file=sys.stderr)
        n_failed += 1
    search.is_given_up = True


def run(command: list[str], folder: Path, kill_after_s: float) -> tuple[int, str]:
    """Exit code, below 0 by a signal, and all that it has printed."""
    printed = folder / "printed.txt"
    with printed.open("w") as file:
        driver = subprocess.Popen(
            command,
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "RAY_TMPDIR": str(folder)},  # nothing of other clusters in the way
        )
        try:
            driver.wait(kill_after_s)
        except subprocess.TimeoutExpired:
            os.kill(driver.pid, signal.SIGKILL)
        code = driver.wait()
    return code, printed.read_text(errors="replace")


def hpo_command(folder: Path) -> list[str]:
    """What a user types at first, and after it was cut off."""
    (folder / "soak.py").write_text(TRAINABLE)
    (folder / "soak.yaml").write_text(SPEC)
    return [sys.executable, "-m", "hpo", "run", "soak.yaml", "--begin-or-resume"]


def plain_command(folder: Path) -> list[str]:
    """The same command each time: the program looks itself whether it has to go on."""
    return [sys.executable, str(Path(__file__).with_name("plain_tune.py")), str(folder)]


def stored_command(folder: Path) -> list[str]:
    """The same with a database for Optuna's study."""
    return [*plain_command(folder), f"sqlite:///{folder}/optuna.db"]


def look_at_hpo(folder: Path, search: Ended) -> None:
    """What is in its database, in MLflow, and what its own audit says."""
    look_at_study(folder / "runs" / "hpo.db", search)
    look_at_mlflow(folder / "runs" / "mlflow.db", "hpo.trial_number", search)
    look_at_training(folder, search)
    audit = [sys.executable, "-m", "hpo", "audit", "soak"]
    found = subprocess.run(audit, check=False, cwd=folder, capture_output=True)
    search.is_clean = found.returncode == 0


def look_at_plain(folder: Path, search: Ended) -> None:
    """What is in its databases, if the study has one, and in Ray Tune's files."""
    if (database := folder / "optuna.db").is_file():
        look_at_study(database, search)
    look_at_mlflow(folder / "mlflow.db", "trial_name", search)
    look_at_training(folder, search)
    search.kept = {}
    for file in (folder / "results" / "soak").glob("*/result.json"):
        if lines := file.read_text().splitlines():
            last = json.loads(lines[-1])
            search.kept[last["trial_id"]] = f"{last['loss']:.4f}"


def look_at_study(database: Path, search: Ended) -> None:
    """Its trials by state, and their values."""
    with closing(sqlite3.connect(database)) as opened:
        rows = opened.execute(
            "SELECT number, state, value FROM trials LEFT JOIN trial_values USING (trial_id)"
        ).fetchall()
    states = Counter(state for _, state, _ in rows)
    search.n_trials, search.n_complete = len(rows), states["COMPLETE"]
    search.n_running = states["RUNNING"]
    search.kept = {
        str(number): f"{value:.4f}" for number, state, value in rows if state == "COMPLETE"
    }


def look_at_mlflow(database: Path, key: str, search: Ended) -> None:
    """Runs of one trial beside the first, and runs that never end."""
    with closing(sqlite3.connect(database)) as opened:
        if not opened.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchall():
            return
        trials = opened.execute("SELECT value FROM tags WHERE key = ?", [key]).fetchall()
        running = opened.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'").fetchone()
    search.n_mlflow_doubles = len(trials) - len(set(trials))
    search.n_mlflow_running = running[0]


def look_at_training(folder: Path, search: Ended) -> None:
    """How many trials were trained to their end, and how many epochs were paid for twice."""
    file = folder / "trained.txt"
    trained = Counter(file.read_text().splitlines() if file.is_file() else [])
    search.n_trained = sum(line.endswith(f" {N_EPOCHS}") for line in trained)
    search.n_epochs_twice = trained.total() - len(trained)


SIDES = {
    "hpo": (hpo_command, look_at_hpo),
    "plain": (plain_command, look_at_plain),
    "plain-stored": (stored_command, look_at_plain),
}

if __name__ == "__main__":
    main()
