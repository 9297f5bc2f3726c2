"""Hyperparameter optimization: Optuna proposes, Ray Tune runs, one SQL ledger remembers."""

from importlib.metadata import version

__version__ = version("hpo-platform")
