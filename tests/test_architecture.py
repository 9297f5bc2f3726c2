"""The floors of the house: imports point down only. Read from the source, nothing is imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

FLOORS = {
    "trainables": 0,
    "storage": 0,
    "hpo": 1,
    "hpo.addresses": 1,
    "hpo.environment": 1,
    "hpo.errors": 1,
    "hpo.seeds": 1,
    "hpo.lineage": 1,
    "hpo.spec": 1,
    "hpo.surrogate": 1,
    "hpo.tasks": 1,
    "hpo.task_factory": 1,
    "hpo.places": 1,
    "hpo.provenance": 1,
    "hpo.same_data": 1,
    "hpo.exported": 1,
    "hpo.failpoints": 1,
    "hpo.curves": 1,
    "hpo.search": 2,
    "hpo.execution": 2,
    "hpo.tracking": 2,
    "hpo.results": 2,
    "hpo.comparison": 2,
    "hpo.auditing": 2,
    "hpo.simulation": 2,
    "hpo.live_drawing": 3,
    "hpo.progress": 3,
    "hpo.plan": 3,
    "hpo.chosen_config": 3,
    "hpo.inspection": 3,
    "hpo.augmentation_sheet": 3,
    "hpo.workspace": 3,
    "hpo.going_on": 3,
    "hpo.storage_errors": 3,
    "hpo.lr_finder": 3,
    "hpo.synchronization": 3,
    "hpo.experiment": 3,
    "hpo.compare": 3,
    "hpo.comparison_workspace": 3,
    "hpo.comparison_progress": 3,
    "hpo.replay": 3,
    "hpo.exporting": 3,
    "hpo.dashboard": 3,
    "hpo.audit": 3,
    "hpo.audit_repairs": 3,
    "hpo.audited_files": 3,
    "hpo.dashboard_guard": 3,
    "hpo.cluster_upload": 3,
    "hpo.cluster_jobs": 3,
    "hpo.cli": 4,
    "hpo.cli_jobs": 4,
    "hpo.cli_options": 4,
    "hpo.cli_messages": 4,
    "hpo.__main__": 4,
}
STAGES = {room for room, floor in FLOORS.items() if floor == 2}
FILES = sorted(
    path for package in ("hpo", "trainables", "storage") for path in (ROOT / package).rglob("*.py")
)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room of FLOORS that a module lies in."""
    parts = module.split(".")
    rooms = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next(room for room in rooms if room in FLOORS)


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_down_only(path: Path) -> None:
    """A stage never imports another stage; only journeys know several."""
    room = room_of(module_of(path))
    for imported in imports_of(path):
        if imported.split(".")[0] not in ("hpo", "trainables", "storage"):
            continue
        other = room_of(imported)
        assert FLOORS[other] <= FLOORS[room], f"{path} imports {imported}"
        assert other == room or not {room, other} <= STAGES, f"{path} imports {imported}"
        assert {room, other} != {"trainables", "storage"}, f"{path} imports {imported}"


@pytest.mark.parametrize("package", ["trainables", "storage"])
def test_the_ground_floor_knows_little(package: str) -> None:
    forbidden = {"trainables": {"ray", "optuna", "mlflow", "hpo"}, "storage": {"hpo", "trainables"}}
    for path in (ROOT / package).rglob("*.py"):
        tops = {name.split(".")[0] for name in imports_of(path)}
        assert not tops & forbidden[package], path


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from hpo.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'optuna', 'mlflow', 'pandas', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "predict" in done.stdout
