"""A comparison as data: JSON, and two tables in CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np

from hpo.comparison.result import Comparison
from hpo.comparison.statistics import FloatArray, bootstrap_band, least_p
from hpo.comparison.verdict import verdict


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything; what another run would measure anew stands under "timing" alone."""
    sentences = verdict(comparison)
    found = {
        "name": comparison.name,
        "trainable": comparison.trainable,
        "metric": comparison.metric,
        "direction": "maximize" if comparison.maximize else "minimize",
        "seed": comparison.seed,
        "n_seeds": comparison.n_seeds,
        "n_trials": comparison.n_trials,
        "n_reruns": comparison.n_reruns,
        "verdict": sentences,
        "samplers": [asdict(summary) for summary in comparison.summaries],
        "pairs": [
            {**asdict(pair), "is_significant": pair.is_significant} for pair in comparison.pairs
        ],
        "friedman_p": comparison.friedman_p,
        "critical_difference": comparison.critical_difference,
        "least_p": {
            "uncorrected": least_p(comparison.n_seeds),
            "after_holm": comparison.least_p,
        },
        "curves": {
            sampler: {
                "trials": _curve(*comparison.curves_by_trial(sampler), comparison.seed),
                "epochs": _curve(*comparison.curves_over("epochs", sampler), comparison.seed),
            }
            for sampler in comparison.samplers
        },
        "studies": [_without_seconds(row) for row in study_rows(comparison)],
        "notes": list(comparison.notes),
        "provenance": dict(comparison.provenance),
        "spec": comparison.spec,
        "timing": {
            **asdict(comparison.timing),
            "curves": {
                sampler: {
                    "seconds": _curve(*comparison.curves_over("seconds", sampler), comparison.seed)
                }
                for sampler in comparison.samplers
            },
            "studies": [
                {key: row[key] for key in ("study", *SECONDS)} for row in study_rows(comparison)
            ],
        },
    }
    return _finite(found)  # type: ignore[no-any-return]


SECONDS = ("training_s", "sampler_s")


def _curve(spent: FloatArray, curves: FloatArray, seed: int) -> dict[str, Any]:
    """What the figure draws: the mean incumbent once so much is ``spent``, and its band."""
    low, high = bootstrap_band(curves, seed)
    return {
        "spent": spent.tolist(),
        "mean": curves.mean(axis=0).tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
    }


def study_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row for each sampler and seed."""
    return [
        {
            "sampler": run.sampler,
            "seed_index": run.seed_index,
            "study": run.study_name,
            "seed": run.seed,
            "trial": None if run.best is None else run.best.number,
            "score": run.score,
            "seen": run.seen,
            "over_report": (
                None
                if run.score is None or run.seen is None
                else comparison.sign * (run.seen - run.score)
            ),
            "area": comparison.area_of(run),
            "reruns": [rerun.value for rerun in run.reruns],
            "fail_reasons": [rerun.fail_reason for rerun in run.reruns if rerun.fail_reason],
            "params": dict(run.params),
            "n_trials": len(run.values),
            **{
                f"n_{state.lower()}": run.states.get(state, 0)
                for state in ("COMPLETE", "PRUNED", "FAIL", "INFEASIBLE")
            },
            "epochs": int(_last(run.epochs)),
            "training_s": _last(run.training_s),
            "sampler_s": _last(run.sampler_s),
        }
        for sampler in comparison.samplers
        for run in comparison.runs_of(sampler)
    ]


def studies_csv(comparison: Comparison) -> str:
    """`study_rows`; lists and params as JSON."""
    rows = [
        {
            key: json.dumps(value) if isinstance(value, dict | list) else value
            for key, value in row.items()
        }
        for row in study_rows(comparison)
    ]
    return _csv(rows)


def curves_csv(comparison: Comparison) -> str:
    """A row for each trial: its value, the incumbent, and what the study had spent."""
    return _csv(
        [
            {
                "sampler": run.sampler,
                "seed_index": run.seed_index,
                "trial": number,
                "value": _or_none(run.values[place]),
                "incumbent": _or_none(run.incumbents[place]),
                "epochs": int(run.epochs[place]),
                "training_s": run.training_s[place],
                "sampler_s": run.sampler_s[place],
            }
            for sampler in comparison.samplers
            for run in comparison.runs_of(sampler)
            for place, number in enumerate(run.numbers)
        ]
    )


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _without_seconds(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in SECONDS}


def _last(curve: Any) -> float:
    return float(curve[-1]) if len(curve) else 0.0


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _finite(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
