"""What several test files share: folders, specs, and one Ray for all of them."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import Shell
from postgresql import PostgreSQL, start_postgresql
from selenium import webdriver

from hpo.spec import ExperimentSpec, parse_spec

# As root and without a display; the rest keeps it from looking up hosts that nobody asked for.
CHROMIUM_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=800,1000",
)
ROOT = Path(__file__).parents[1]
OWN_TRAINABLE = (ROOT / "tests" / "own_trainable.py").read_text(encoding="utf-8")

# What a shell starts in the background ignores SIGINT, and so would what tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests of three files run side by side. On tensors as small as theirs, threads that wait for a core
# cost torch up to twenty times what they save; it reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

BRANIN = """
name: branin
trainable: analytic
objective: {metric: loss, direction: minimize}
search_space:
  x1: {type: float, low: -5, high: 10}
  x2: {type: float, low: 0, high: 15}
sampler: {name: random}
budget: {n_trials: 6, max_epochs: 4}
concurrency: 1
"""


# Longest first, so that no worker is left with one of them when the others have nothing to do.
LONGEST = (
    "test_real_cluster.py",
    "test_interrupts.py",
    "test_audit.py",
    "test_failpoints.py",
    "test_lost_workers.py",
    "test_private_run.py",
    "test_lr_finder.py",
    "test_compare.py",
    "test_postgresql_run.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files; within one the order stays."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture(autouse=True)
def _no_module_of_another_test(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What one test has written and imported is no other's, even under the same name."""
    yield
    folder = str(tmp_path_factory.getbasetemp())
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(folder):
            del sys.modules[name]


@pytest.fixture
def branin() -> Callable[..., ExperimentSpec]:
    """A spec of milliseconds per trial; arguments are overrides: ``branin("seed=3")``."""

    def make(*overrides: str) -> ExperimentSpec:
        return parse_spec(BRANIN, "branin.yaml", overrides)

    return make


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow in which nothing stands, to be copied: it takes seconds to make."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """One Ray on this machine that every test joins, in this process and in commands it runs."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    address = ray.get_runtime_context().gcs_address
    os.environ["RAY_ADDRESS"] = address
    yield address
    del os.environ["RAY_ADDRESS"]
    ray.shutdown()


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, ray_address: str) -> Shell:
    """A folder in which the tests of one file run `hpo`, with a Ray that is already there."""
    return Shell(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A real server; who stops it starts it again."""
    server = start_postgresql()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Headless Chromium, its console recorded."""
    chromium, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver_path is None:
        pytest.skip("needs chromium and chromedriver: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in CHROMIUM_ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(driver_path))
    yield driver
    driver.quit()
