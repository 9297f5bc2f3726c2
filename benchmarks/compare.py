"""How long `hpo compare` takes on trials of milliseconds, and how busy workers are on longer ones.

    .venv/bin/python benchmarks/compare.py

The first figure is the driver's speed: 4 samplers x 10 seeds x 30 trials of the analytic trainable.
The second one is what is left of the workers where a trial lasts a second.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SPEC = """
name: SPEED
trainable: analytic
objective: {metric: loss, direction: minimize}
fixed: {noise: 0.1}
search_space:
  x1: {type: float, low: -5, high: 10, step: 1}
  x2: {type: float, low: 0, high: 15, step: 1}
budget: {n_trials: 30, max_epochs: 10}
"""

SLOW = '''
import time

def train(config, trial):
    """A second in two epochs, which takes nothing from the driver's core."""
    for epoch in (1, 2):
        time.sleep(0.5)
        yield {"loss": (config["x1"] - 3) ** 2 + (config["x2"] - 2) ** 2}
'''


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        fast = Path(folder) / "fast.yaml"
        fast.write_text(SPEC.replace("SPEED", "fast"), encoding="utf-8")
        start = time.perf_counter()
        timing = compare(fast, "--seeds", "10")
        seconds = time.perf_counter() - start
        print(f"4 samplers x 10 seeds x 30 short trials: {seconds:.0f} s, Ray's start included")
        print(f"  of which workers could have worked {timing['wall_s']:.0f} s")
        (Path(folder) / "slow_trainable.py").write_text(SLOW, encoding="utf-8")
        slow = Path(folder) / "slow.yaml"
        text = SPEC.replace("SPEED", "slow").replace("analytic", "slow_trainable:train")
        slow.write_text(text, encoding="utf-8")
        timing = compare(slow, "--seeds", "4", "--trials", "15")
        print(
            f"4 samplers x 4 seeds x 15 trials of a second: {timing['wall_s']:.0f} s, workers "
            f"{timing['utilization']:.1%} busy"
        )


def compare(spec: Path, *options: str) -> dict[str, Any]:
    """The timing of a comparison."""
    done = subprocess.run(
        [sys.executable, "-m", "hpo", "compare", spec.name, "--json", *options],
        cwd=spec.parent,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    timing: dict[str, Any] = json.loads(done.stdout)["timing"]
    return timing


if __name__ == "__main__":
    main()
