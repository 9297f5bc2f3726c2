"""Simulated searches: curves from a record or a table, and what strategies make of them."""

from hpo.simulation.files import write_files
from hpo.simulation.limits import LimitsError
from hpo.simulation.outcome import Replayed, Strategy, strategy_as_json
from hpo.simulation.recorded import Trained, recorded_timeline, start_seconds, trained_configs
from hpo.simulation.served import ServedCurves
from hpo.simulation.surrogate import SurrogateError
from hpo.simulation.table import Table, read_table
from hpo.simulation.text import replay_text

__all__ = [
    "LimitsError",
    "Replayed",
    "ServedCurves",
    "Strategy",
    "SurrogateError",
    "Table",
    "Trained",
    "read_table",
    "recorded_timeline",
    "replay_text",
    "start_seconds",
    "strategy_as_json",
    "trained_configs",
    "write_files",
]
