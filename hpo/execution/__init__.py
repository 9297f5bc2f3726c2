"""Execution: Ray runs the tasks of every stage; workers only report."""

from hpo.execution.cluster import ray_cluster
from hpo.execution.drive import TrialDrive
from hpo.execution.interrupts import InterruptFlag
from hpo.execution.runner import run_stages

__all__ = ["InterruptFlag", "TrialDrive", "ray_cluster", "run_stages"]
