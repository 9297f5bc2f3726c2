"""Facts about libraries that the design leans on; a release that changes one fails here."""

from __future__ import annotations

import importlib
import inspect
import io
import logging
import math
import pickle
import shutil
import stat
import sys
import warnings
from pathlib import Path

import numpy as np
import optuna
import optuna.terminator
import pytest
import ray
import sqlalchemy as sa
import torch
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.trial import TrialState
from pydantic import BaseModel, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from ray._common.utils import try_to_create_directory
from ray._private import ray_constants, services
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, TrialScheduler
from ruamel.yaml import YAML
from test_schedulers import BusyRay, Trial
from torchvision.transforms import v2

from hpo.execution.lost_workers import LOW_ON_MEMORY, NODE_DIED
from storage import enqueued_params

X = {"x": FloatDistribution(0, 1)}


# --- Optuna ---


@pytest.mark.parametrize(("kind", "numbers"), [("sqlite", [0, 1, 2]), ("in memory", [1, 2, 3])])
def test_a_waiting_trial_with_params_is_handed_out_again_under_its_own_number(
    kind: str, numbers: list[int], tmp_path: Path
) -> None:
    """`requeue_running` rests on it, and on a database: in memory the first one is overlooked."""
    url = f"sqlite:///{tmp_path / 'hpo.db'}"
    storage = RDBStorage(url) if kind == "sqlite" else InMemoryStorage()
    study = optuna.create_study(storage=storage, study_name="facts")
    study_id = storage.get_study_id_from_name("facts")
    asked = {trial.number: trial.params for trial in (study.ask(X), study.ask(X))}
    for number in asked:
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        storage.set_trial_state_values(trial_id, state=TrialState.WAITING)
    again = {trial.number: trial.params for trial in (study.ask(X) for _ in range(3))}
    assert list(again) == numbers
    assert all(again[number] == asked[number] for number in again if number in asked)


def test_an_enqueued_trial_keeps_what_was_chosen_and_draws_the_rest(tmp_path: Path) -> None:
    """`enqueue_opening` and the grid rest on it; what no trial asks for is passed over."""
    storage = RDBStorage(f"sqlite:///{tmp_path / 'hpo.db'}")
    study = optuna.create_study(storage=storage, study_name="facts")
    study.enqueue_trial({"x": 0.25, "not asked for": 1})
    assert study.trials[0].state == TrialState.WAITING
    trial = optuna.load_study(study_name="facts", storage=storage).ask()
    assert (trial.suggest_float("y", 0, 1), trial.suggest_float("x", 0, 1))[1] == 0.25
    assert list(trial.params) == ["y", "x"]
    assert enqueued_params(study.trials[0]) == {"x": 0.25, "not asked for": 1}
    study.ask()
    assert enqueued_params(study.trials[1]) is None


def test_a_trial_that_is_added_waiting_is_handed_out_with_all_that_it_was_given(
    tmp_path: Path,
) -> None:
    """Hence a trial of a population has its parent and its parent's values from the start."""
    study = optuna.create_study(storage=RDBStorage(f"sqlite:///{tmp_path / 'hpo.db'}"))
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.WAITING,
            system_attrs={"fixed_params": {"x": 0.5}},
            user_attrs={"parent": 3},
            intermediate_values={1: 0.25},
        )
    )
    trial = study.ask()
    assert (trial.number, trial.suggest_float("x", 0, 1)) == (0, 0.5)
    (asked,) = study.trials
    assert (asked.user_attrs, asked.intermediate_values) == ({"parent": 3}, {1: 0.25})
    assert asked.state == TrialState.RUNNING


def test_report_keeps_the_first_value_of_a_step() -> None:
    """So a requeued trial that trains an epoch again is written past `Trial.report`."""
    study = optuna.create_study()
    trial = study.ask(X)
    trial.report(9.0, step=1)
    with pytest.warns(UserWarning, match="already reported"):
        trial.report(7.0, step=1)
    assert study.trials[0].intermediate_values == {1: 9.0}


def test_tell_refuses_nan_and_makes_the_trial_fail() -> None:
    study = optuna.create_study()
    with pytest.warns(UserWarning, match="nan"):
        study.tell(study.ask(X), math.nan)
    assert study.trials[0].state == TrialState.FAIL


def test_a_pruned_trial_takes_its_last_report_as_its_value() -> None:
    study = optuna.create_study()
    trial = study.ask(X)
    trial.report(3.0, step=1)
    study.tell(trial, state=TrialState.PRUNED)
    assert study.trials[0].value == 3.0


def test_equal_choices_of_different_types_are_one() -> None:
    """A spec refuses 1 beside true: Optuna would give back the first of the two."""
    distribution = CategoricalDistribution([1, True, 1.0])
    assert {distribution.to_internal_repr(choice) for choice in (1, True, 1.0)} == {0}


def test_the_choices_of_a_study_cannot_change() -> None:
    study = optuna.create_study()
    study.tell(study.ask({"c": CategoricalDistribution(["a", "b"])}), 1.0)
    with pytest.raises(ValueError, match="dynamic value space"):
        study.ask({"c": CategoricalDistribution(["a", "c"])})


def test_gp_sampler_finds_greenlet_and_does_not_warn(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the acquisition function is optimized from one start after the other."""
    monkeypatch.setattr(logging.getLogger("optuna"), "propagate", True)
    optimizer = importlib.import_module("optuna._gp.batched_lbfgsb")
    importlib.reload(optimizer)
    assert caplog.messages == []


def test_ray_opens_its_folders_to_all_users(tmp_path: Path) -> None:
    """Hence ours lie in a folder that only its user may enter."""
    try_to_create_directory(str(tmp_path / "session"))
    assert stat.S_IMODE((tmp_path / "session").stat().st_mode) == 0o777


def test_ray_takes_loopback_for_a_node_only_if_it_is_not_for_clusters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray._private.worker, "_global_node", None)
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
    assert services.resolve_ip_for_localhost("127.0.0.1") == "127.0.0.1"
    assert services.get_node_ip_address() == "127.0.0.1"


def test_optuna_and_mlflow_cannot_share_a_database(tmp_path: Path) -> None:
    """Both own a table `alembic_version`, hence runs/hpo.db and runs/mlflow.db."""
    import mlflow

    url = f"sqlite:///{tmp_path / 'both.db'}"
    RDBStorage(url).engine.dispose()
    with pytest.raises(Exception, match="Can't locate revision"):
        mlflow.MlflowClient(tracking_uri=url).search_experiments()


def test_optuna_reads_constraints_that_stand_in_the_old_list() -> None:
    """optuna-dashboard 0.21 reads no other, so this is where ours are written."""
    study = optuna.create_study()
    trial = study.ask(X)
    trial.storage.set_trial_system_attr(trial._trial_id, "constraints", [-1.0, 2.0])
    study.tell(trial, 0.0)
    assert study.trials[0].constraints == {"0": -1.0, "1": 2.0}


def test_the_evaluators_of_the_terminator_are_there_without_a_word_of_going() -> None:
    """`Terminator` itself is deprecated since 4.9 and goes with 6.0."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.terminator.EMMREvaluator(seed=0)
        optuna.terminator.MedianErrorEvaluator(evaluator)
    with pytest.warns(FutureWarning, match="6.0.0"):
        optuna.terminator.Terminator()


def test_postgresql_means_psycopg_3() -> None:
    """In SQLAlchemy from 2.1 on; so it does in MLflow, which we hand the URL as it is."""
    assert sa.make_url("postgresql://host/name").get_dialect().driver == "psycopg"


def test_optuna_creates_a_trial_in_a_session_that_has_locked_its_study() -> None:
    """Hence the next attempt, if the first is still being committed, waits and then finds it."""
    source = inspect.getsource(RDBStorage._create_new_trial)
    assert source.index("for_update=True") < source.index("_get_prepared_new_trial(")


def test_an_exception_at_a_commit_leaves_the_transaction_to_be_rolled_back(tmp_path: Path) -> None:
    """The fence rests on it: what it refuses has never been."""

    def refuse(_: sa.Connection) -> None:
        raise KeyError

    engine = sa.create_engine(f"sqlite:///{tmp_path / 'facts.db'}")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (x INTEGER)"))
    sa.event.listen(engine, "commit", refuse)
    with pytest.raises(KeyError), engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO t VALUES (1)"))
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT * FROM t")).all() == []


# --- Ray ---


def test_ray_says_in_words_why_a_worker_died() -> None:
    """Of its memory monitor and of a node; of any other death it only guesses at the cause."""
    said = {"raylet/raylet": LOW_ON_MEMORY, "gcs/gcs_server": NODE_DIED}
    for program, words in said.items():
        content = (Path(ray.__file__).parent / "core" / "src" / "ray" / program).read_bytes()
        assert words.encode() in content


def test_ashas_own_brackets_are_drawn_from_the_global_generator() -> None:
    """Hence hyperband has brackets of our own, chosen by the number of the trial."""
    asha = ASHAScheduler("epoch", "loss", "min", max_t=9, reduction_factor=3, brackets=3)
    before = np.random.get_state()[2]
    asha.on_trial_add(None, Trial("any"))
    assert np.random.get_state()[2] != before


def test_asha_does_not_stop_a_trial_that_reports_nan() -> None:
    """Hence a trainable whose loss is no number raises, and the driver makes the trial FAIL."""
    asha = ASHAScheduler("epoch", "loss", "min", max_t=9, grace_period=1, reduction_factor=2)
    for number in range(4):
        asha.on_trial_add(None, Trial(str(number)))
        asha.on_trial_result(None, Trial(str(number)), {"epoch": 1, "loss": float(number)})
    asha.on_trial_add(None, Trial("nan"))
    result = {"epoch": 1, "loss": math.nan}
    assert asha.on_trial_result(None, Trial("nan"), result) == TrialScheduler.CONTINUE


@pytest.mark.parametrize(
    ("time_slice", "pauses"), [(0, True), (sys.maxsize, True), (math.inf, False)]
)
def test_the_median_rule_never_pauses_if_and_only_if_its_time_slice_is_infinite(
    time_slice: float, *, pauses: bool
) -> None:
    """A trial that was never paused counts as paused minus infinity ago: no number is enough."""
    rule = MedianStoppingRule("epoch", "loss", "min", grace_period=1, min_time_slice=time_slice)
    rule.on_trial_add(BusyRay(), Trial("only"))
    decision = rule.on_trial_result(BusyRay(), Trial("only"), {"epoch": 1, "loss": 1.0})
    assert (decision == TrialScheduler.PAUSE) == pauses


def test_the_median_rule_must_not_hear_again_of_a_trial_that_it_stopped() -> None:
    """Hence ours keeps what such a trial reports: one from the record may have gone on."""
    rule = MedianStoppingRule(
        "epoch", "loss", "min", grace_period=1, min_time_slice=math.inf, min_samples_required=1
    )
    rule.on_trial_result(None, Trial("good"), {"epoch": 1, "loss": 0.0})
    told = {"epoch": 1, "loss": 1.0}
    assert rule.on_trial_result(None, Trial("bad"), told) == TrialScheduler.STOP
    with pytest.raises(AssertionError):
        rule.on_trial_result(None, Trial("bad"), told)


# --- YAML and pydantic ---


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("on", "on"), ("off", "off"), ("yes", "yes"), ("0o17", 15), ("017", 17)],
)
def test_ruamel_reads_yaml_1_2(text: str, value: object) -> None:
    """PyYAML, which is YAML 1.1, reads 1e-4 as a word and `on` as true."""
    loaded = YAML(typ="safe", pure=True).load(io.StringIO(f"key: {text}"))["key"]
    assert (loaded, type(loaded)) == (value, type(value))


class Inner(BaseModel):
    low: int = 1
    high: int = 0

    @model_validator(mode="after")
    def ordered(self) -> Inner:
        error = PydanticCustomError("rule", "out of order")
        raise ValidationError.from_exception_data(
            "Inner",
            [InitErrorDetails(type=error, loc=(key,), input=0) for key in ("low", "high")],
        )


class Outer(BaseModel):
    inner: dict[str, Inner]
    n: int


def test_pydantic_puts_errors_of_an_inner_validator_at_their_place_in_the_whole() -> None:
    """`Section.breaches` rests on it: all problems come at once, each with its whole path."""
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"inner": {"x": {}}, "n": "many"})
    assert [(error["loc"], error["type"]) for error in caught.value.errors()] == [
        (("inner", "x", "low"), "rule"),
        (("inner", "x", "high"), "rule"),
        (("n",), "int_parsing"),
    ]


# --- torch and torchvision ---


def test_randaugment_has_31_magnitudes() -> None:
    def augment(magnitude: int) -> None:
        for _ in range(50):  # some of the transformations have no magnitude
            v2.RandAugment(1, magnitude)(torch.zeros(1, 8, 8, dtype=torch.uint8))

    augment(30)
    with pytest.raises(IndexError):
        augment(31)


def test_a_forked_generator_leaves_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)


class RunsCode:
    """A pickle of it calls a function when it is read."""

    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("run",))


def test_torch_reads_no_pickle_that_runs_code_with_weights_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Hence checkpoints are read with it."""
    buffer = io.BytesIO()
    torch.save({"a": RunsCode()}, buffer)
    buffer.seek(0)
    with pytest.raises(pickle.UnpicklingError, match="print"):
        torch.load(buffer, weights_only=True)
    assert capsys.readouterr().out == ""


def test_torch_saves_a_tensor_with_its_memory_format_and_equal_ones_as_equal_bytes() -> None:
    """Hence training goes on in the format it had, and a repeated epoch has its old checksum."""
    files = []
    for _ in range(2):
        torch.manual_seed(1)
        buffer = io.BytesIO()
        image = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
        torch.save({"image": image}, buffer)
        files.append(buffer.getvalue())
    loaded = torch.load(io.BytesIO(files[0]), weights_only=True)["image"]
    assert loaded.is_contiguous(memory_format=torch.channels_last)
    assert files[0] == files[1]


def test_an_lr_schedule_can_be_moved_without_a_step_of_its_optimizer() -> None:
    """It warns, and is where it would have been: a resumed training takes the steps again."""
    rates = []
    for takes_steps in (True, False):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=9)
        with warnings.catch_warnings(record=True) as caught:
            for _ in range(5):
                if takes_steps:
                    optimizer.step()
                schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
        assert bool(caught) == (not takes_steps)
    assert rates[0] == rates[1]


# --- MLflow ---


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> MlflowClient:
    """An empty store of MLflow."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_of_two_values_of_one_time_mlflow_shows_the_larger_one_and_forgets_none(
    store: MlflowClient,
) -> None:
    """So a result that has changed is logged with the time at which it is."""
    run = store.create_run("0").info.run_id
    for value, ms in ((2.0, 1000), (1.0, 1000), (0.5, 2000)):
        store.log_metric(run, "found", value, timestamp=ms, step=3)
        shown = store.get_run(run).data.metrics["found"]
        assert shown == (0.5 if ms == 2000 else 2.0)
    assert [one.value for one in store.get_metric_history(run, "found")] == [1.0, 2.0, 0.5]


def test_what_is_logged_twice_with_one_time_is_kept_once_and_a_parameter_never_changed(
    store: MlflowClient,
) -> None:
    """A run may be written again; one with a wrong parameter has to be made anew."""
    run = store.create_run("0").info.run_id
    for _ in range(2):
        metrics = [Metric("loss", math.nan, 1000, 1), Metric("loss", 0.5, 2000, 2)]
        store.log_batch(run, metrics=metrics, params=[Param("x", "1")])
    assert len(store.get_metric_history(run, "loss")) == 2
    with pytest.raises(MlflowException, match="not allowed"):
        store.log_batch(run, params=[Param("x", "2")])


def test_restoring_an_mlflow_experiment_brings_back_runs_that_were_deleted_before_it(
    store: MlflowClient,
) -> None:
    """Hence doubles are looked for after it has been restored."""
    experiment = store.create_experiment("facts")
    deleted, _ = (store.create_run(experiment).info.run_id for _ in range(2))
    store.delete_run(deleted)
    store.delete_experiment(experiment)
    store.restore_experiment(experiment)
    assert deleted in {run.info.run_id for run in store.search_runs([experiment])}
