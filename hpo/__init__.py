"""Hyperparameter optimization: Optuna proposes, Ray Tune runs, one SQL ledger remembers."""

import os
from importlib.metadata import version

from hpo.environment import NO_TELEMETRY

# Before any of them is imported, which is when they look.
for _name, _value in NO_TELEMETRY.items():
    os.environ.setdefault(_name, _value)

__version__ = version("hpo-platform")
