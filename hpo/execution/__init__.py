"""Execution: Ray runs the tasks of every stage; workers only report."""

from hpo.execution.cluster import ray_cluster
from hpo.execution.drive import TrialDrive
from hpo.execution.interrupts import InterruptFlag
from hpo.execution.preflight import check_cluster, server_problem
from hpo.execution.room import Room, is_joined
from hpo.execution.runner import run_stages
from hpo.execution.simulator import SimulatedClock, simulate

__all__ = [
    "InterruptFlag",
    "Room",
    "SimulatedClock",
    "TrialDrive",
    "check_cluster",
    "is_joined",
    "ray_cluster",
    "run_stages",
    "server_problem",
    "simulate",
]
