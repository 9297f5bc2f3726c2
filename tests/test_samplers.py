"""The contract that every sampler keeps, and what grid, TPE and GP promise beyond it."""

from __future__ import annotations

import zlib
from functools import cache
from statistics import median
from typing import Any, get_args

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from test_space import conditional_spaces, small
from threadpoolctl import threadpool_info, threadpool_limits

from hpo.search import (
    SAMPLERS,
    Space,
    ask,
    build_sampler,
    distributions,
    grid,
    named_sampler,
)
from hpo.search.shown import with_trials
from hpo.spec import (
    AutoSpec,
    CategoricalParameter,
    CmaesSpec,
    FloatParameter,
    GpSpec,
    GridSpec,
    IntParameter,
    Nsga2Spec,
    RandomSpec,
    SamplerSpec,
    SobolSpec,
    TpeSpec,
    check_params,
)
from storage import open_optuna_storage, requeue_running
from trainables.analytic import branin

Params = dict[str, Any]

GRID: Space = {
    "depth": IntParameter(type="int", low=1, high=3),
    "dropout": FloatParameter(type="float", low=0, high=0.3, step=0.1),
    "activation": CategoricalParameter(type="categorical", choices=["relu", None]),
    "slope": FloatParameter(
        type="float", low=0, high=1, grid=3, when={"activation": "relu", "depth": [1, 3]}
    ),
}
MIXED: Space = {
    **GRID,
    "filters": IntParameter(type="int", low=1, high=256, log=True),
    "lr": FloatParameter(type="float", low=1e-5, high=1, log=True),
    "momentum": FloatParameter(type="float", low=0, high=1, when={"activation": [None]}),
}
PLANE: Space = {
    "x1": FloatParameter(type="float", low=-5, high=10),
    "x2": FloatParameter(type="float", low=0, high=15),
}

SPECS: dict[str, SamplerSpec] = {"tpe": TpeSpec(name="tpe"), "gp": GpSpec(name="gp")}

N_STARTUP_TRIALS = 2
N_TRIALS = 6
"""Of which the last two are proposed by a model, where there is one."""


def name_of(kind: type[Any]) -> str:
    """What a spec writes for a sampler or a scheduler of this kind."""
    return str(get_args(kind.model_fields["name"].annotation)[0])


def spec_of(kind: type[Any]) -> Any:
    """A sampler's spec; one that begins at random soon stops doing so."""
    keys = {"name": name_of(kind), "n_startup_trials": N_STARTUP_TRIALS}
    return kind(**{key: value for key, value in keys.items() if key in kind.model_fields})


def space_of(kind: type[Any]) -> Space:
    return GRID if kind is GridSpec else MIXED


def new_study(kind: type[Any], *, seed: int = 7) -> Study:
    return optuna.create_study(sampler=build_sampler(spec_of(kind), space_of(kind), seed, N_TRIALS))


def tell(study: Study, trial: optuna.Trial) -> None:
    """End a trial as its number has it: a fourth are pruned, a fourth fail, the others complete."""
    value = zlib.crc32(repr(trial.params).encode()) / 2**32
    trial.report(value, step=1)
    if trial.number % 4 == 1:
        study.tell(trial, state=TrialState.PRUNED)
    elif trial.number % 4 == 2:
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, value)


def search(study: Study, space: Space, n_trials: int) -> list[Params]:
    """Run trials one after the other; returns what was asked for."""
    asked = []
    for _ in range(n_trials):
        trial = ask(study, space)
        asked.append(trial.params)
        tell(study, trial)
    return asked


@cache
def params_of(kind: type[Any], seed: int = 7) -> list[Params]:
    """What a search asks for that nothing interrupts."""
    return search(new_study(kind, seed=seed), space_of(kind), N_TRIALS)


KINDS: tuple[type[Any], ...] = get_args(get_args(SamplerSpec)[0])
every_sampler = pytest.mark.parametrize("kind", sorted(KINDS, key=name_of), ids=name_of)


def test_every_sampler_a_spec_can_name_has_a_builder() -> None:
    assert set(KINDS) == {*SAMPLERS, AutoSpec}


@every_sampler
def test_same_seed_asks_for_the_same_trials(kind: type[Any]) -> None:
    """Two studies with one seed ask for the same parameters in the same order."""
    first, second = params_of(kind), search(new_study(kind), space_of(kind), N_TRIALS)
    assert first == second


@every_sampler
def test_another_seed_asks_for_other_trials(kind: type[Any]) -> None:
    """A grid has the same cells with every seed, in another order."""
    assert params_of(kind, seed=7) != params_of(kind, seed=8)


@every_sampler
def test_every_drawn_value_lies_in_the_space(kind: type[Any]) -> None:
    for params in params_of(kind) + params_of(kind, seed=8):
        assert check_params(space_of(kind), params) == []


@every_sampler
@settings(deadline=None, max_examples=10)
@given(space=conditional_spaces(small), seed=st.integers(0, 99))
def test_every_sampler_draws_only_configs_that_the_validator_accepts(
    kind: type[Any], space: Space, seed: int
) -> None:
    study = optuna.create_study(sampler=build_sampler(spec_of(kind), space, seed, N_TRIALS))
    for params in search(study, space, N_TRIALS):
        assert check_params(space, params) == []


@pytest.mark.parametrize("kind", sorted({*KINDS} - {CmaesSpec}, key=name_of), ids=name_of)
@settings(deadline=None, max_examples=5)
@given(space=conditional_spaces(small), seed=st.integers(0, 99))
def test_so_does_every_sampler_of_several_objectives(
    kind: type[Any], space: Space, seed: int
) -> None:
    sampler = build_sampler(spec_of(kind), space, seed, N_TRIALS, n_objectives=2)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    for number in range(N_TRIALS):
        trial = ask(study, space)
        assert check_params(space, trial.params) == []
        study.tell(trial, [number % 3, number % 2])


@every_sampler
def test_no_sampler_speaks_about_each_trial_of_a_conditional_space(
    kind: type[Any], capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    optuna.logging.enable_default_handler()
    search(new_study(kind), space_of(kind), N_TRIALS)
    assert "sampl" not in capfd.readouterr().err
    assert [str(warning.message) for warning in recwarn] == []


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('studies') / 'hpo.db'}"


def stored_study(kind: type[Any], name: str, url: str) -> Study:
    """The study of that name, opened as a new process would: nothing is left but the database."""
    return optuna.create_study(
        storage=open_optuna_storage(url),
        study_name=name,
        sampler=build_sampler(spec_of(kind), space_of(kind), 7, N_TRIALS),
        load_if_exists=True,
    )


@every_sampler
@pytest.mark.parametrize("cut_after", [1, N_TRIALS - 2])
def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(
    kind: type[Any], cut_after: int, url: str
) -> None:
    """The driver died while a trial was running; that one is handed out again, then new ones."""
    space, name = space_of(kind), f"{name_of(kind)} killed after {cut_after}"
    killed = stored_study(kind, name, url)
    before = search(killed, space, cut_after)
    ask(killed, space)
    resumed = stored_study(kind, name, url)
    assert requeue_running(resumed) == [cut_after]
    assert before + search(resumed, space, N_TRIALS - cut_after) == params_of(kind)


def values_of(trial: optuna.Trial) -> list[float]:
    """Of two objectives, as if drawn at random."""
    return [zlib.crc32(f"{trial.params} {index}".encode()) / 2**32 for index in range(2)]


@pytest.mark.parametrize(
    "kind", [kind for kind in sorted(KINDS, key=name_of) if kind is not CmaesSpec], ids=name_of
)
def test_a_killed_search_of_two_objectives_goes_on_as_if_it_had_not_been(
    kind: type[Any], url: str, recwarn: pytest.WarningsRecorder
) -> None:
    space = space_of(kind)

    def study(name: str) -> Study:
        return optuna.create_study(
            storage=open_optuna_storage(url),
            study_name=f"{name_of(kind)} of two, {name}",
            directions=["maximize", "minimize"],
            sampler=build_sampler(spec_of(kind), space, 7, N_TRIALS, n_objectives=2),
            load_if_exists=True,
        )

    def asked(study: Study, n_trials: int) -> list[Params]:
        trials = []
        for _ in range(n_trials):
            trials.append(trial := ask(study, space))
            is_lost = trial.number == 1
            study.tell(
                trial, None if is_lost else values_of(trial), TrialState.FAIL if is_lost else None
            )
        return [trial.params for trial in trials]

    whole = asked(study("whole"), N_TRIALS)
    before = asked(study("killed"), 4)
    ask(study("killed"), space)
    resumed = study("killed")
    assert requeue_running(resumed) == [4]
    assert before + asked(resumed, N_TRIALS - 4) == whole
    assert [str(warning.message) for warning in recwarn] == []


@every_sampler
def test_a_trial_whose_asking_was_cut_short_is_completed_as_it_would_have_been(
    kind: type[Any], url: str
) -> None:
    """Optuna stores one parameter after the other, and a kill may fall between two of them."""
    space, name = space_of(kind), f"{name_of(kind)} killed while asking"
    (first, distribution), *_ = distributions(space).items()
    stored_study(kind, name, url).ask({first: distribution})
    resumed = stored_study(kind, name, url)
    assert requeue_running(resumed) == [0]
    assert search(resumed, space, 1) == params_of(kind)[:1]


@every_sampler
def test_trials_that_run_at_a_time_differ_and_so_do_trials_one_after_the_other(
    kind: type[Any],
) -> None:
    study, space = new_study(kind), space_of(kind)
    one_by_one = search(study, space, 4)
    at_a_time = [ask(study, space).params for _ in range(3)]
    assert len({repr(params) for params in one_by_one + at_a_time}) == 7


@pytest.mark.parametrize("seed", [0, 1])
def test_grid_visits_each_cell_once(seed: int) -> None:
    cells = grid(GRID)
    asked = search(new_study(GridSpec, seed=seed), GRID, len(cells))
    assert asked != cells
    assert sorted(map(str, asked)) == sorted(map(str, cells))


@pytest.mark.parametrize(
    "spec",
    [TpeSpec(name="tpe"), GpSpec(name="gp", n_startup_trials=25)],  # the process is slow to fit
    ids=lambda spec: spec.name,
)
def test_a_model_learns_where_the_low_values_are(spec: SamplerSpec) -> None:
    """The best of its 40 draws is far below a usual random draw, and so are most of its last 20."""

    def losses(spec: SamplerSpec, seed: int) -> list[float]:
        study = optuna.create_study(sampler=build_sampler(spec, PLANE, seed, 40))
        for _ in range(40):
            trial = ask(study, PLANE)
            study.tell(trial, branin(**trial.params))
        return [trial.value for trial in study.trials if trial.value is not None]

    model = losses(spec, seed=0)
    at_random = [loss for seed in range(9) for loss in losses(RandomSpec(name="random"), seed)]
    assert min(model) < median(at_random) / 10
    assert median(model[20:]) < median(at_random)


LINE: Space = {"x": FloatParameter(type="float", low=0, high=1)}


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_a_model_keeps_away_from_where_trials_fail(name: str) -> None:
    """Half of the space fails, the values of the other half say nothing: a third of it at most."""
    failed = 0
    for seed in range(5):
        spec = SPECS[name]
        study = optuna.create_study(sampler=build_sampler(spec, LINE, seed, 30))
        for number in range(30):
            trial = ask(study, LINE)
            if trial.params["x"] > 0.5:
                study.tell(trial, state=TrialState.FAIL)
                failed += number >= 10
            else:
                study.tell(trial, zlib.crc32(repr(trial.params).encode()) / 2**32)
    assert failed < 5 * 20 / 3


@pytest.mark.parametrize(
    ("spec", "n_objectives", "n_trials"),
    [
        (CmaesSpec(name="cmaes"), 1, 60),
        (Nsga2Spec(name="nsga2", population_size=8), 2, 60),
        (GpSpec(name="gp", n_startup_trials=8), 2, 20),
    ],
    ids=["cmaes", "nsga2", "gp of several"],
)
def test_so_do_samplers_that_are_none_of_ours(
    spec: SamplerSpec, n_objectives: int, n_trials: int
) -> None:
    """Of the second half of the trials, a third at most lies where all fail."""
    space: Space = {name: FloatParameter(type="float", low=0, high=1) for name in ("x", "y")}
    failed = 0
    for seed in range(3):
        study = optuna.create_study(
            directions=["minimize"] * n_objectives,
            sampler=build_sampler(spec, space, seed, n_trials, n_objectives),
        )
        for number in range(n_trials):
            trial = ask(study, space)
            if trial.params["x"] > 0.5:
                study.tell(trial, state=TrialState.FAIL)
                failed += number >= n_trials // 2
            else:
                drawn = repr(trial.params).encode()
                study.tell(trial, [zlib.crc32(drawn, index) for index in range(n_objectives)])
    assert failed < 3 * (n_trials // 2) / 3


@pytest.mark.parametrize("n_objectives", [1, 2])
def test_a_process_computes_with_one_thread_and_leaves_the_others_as_they_were(
    n_objectives: int,
) -> None:
    """The matrices are small: a second thread makes it slower, and belongs to a trial."""
    sampler = build_sampler(GpSpec(name="gp", n_startup_trials=3), LINE, 0, 9, n_objectives)
    study = optuna.create_study(directions=["minimize"] * n_objectives, sampler=sampler)
    while len(study.trials) < 5:
        trial = ask(study, LINE)
        study.tell(trial, [trial.params["x"]] * n_objectives)
    used: list[set[int]] = []

    def seen(trials: list[FrozenTrial]) -> list[FrozenTrial]:
        used.append({pool["num_threads"] for pool in threadpool_info()})
        return trials

    with threadpool_limits(2):
        trial = study.ask()
        frozen, watched = study.trials[-1], with_trials(study, seen)
        searched = sampler.infer_relative_search_space(watched, frozen)
        used.clear()
        sampler.sample_relative(watched, frozen, searched)
        assert used
        assert set().union(*used) == {1}
        assert {pool["num_threads"] for pool in threadpool_info()} == {2}
    study.tell(trial, [0.0] * n_objectives)


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_no_config_is_proposed_twice_for_one_seed(n_seeds: int) -> None:
    """Ten configs, thirty trials: with three seeds each config may come three times, if at all."""
    space: Space = {"x": IntParameter(type="int", low=0, high=29 // n_seeds)}
    spec = GpSpec(name="gp", n_startup_trials=3)
    study = optuna.create_study(sampler=build_sampler(spec, space, 0, 30, n_seeds=n_seeds))
    for number in range(24):
        trial = ask(study, space)
        trial.set_user_attr("seed", number % n_seeds)
        study.tell(trial, (trial.params["x"] - 4) ** 2 + number % n_seeds)
    drawn = [(trial.params["x"], trial.number % n_seeds) for trial in study.trials[3:]]
    assert len(set(drawn)) == len(drawn)
    assert len({x for x, _ in drawn}) < len(drawn) or n_seeds == 1


def test_a_lucky_config_is_tried_again() -> None:
    """Where values are noisy, the process asks for the best configs until it knows."""
    space: Space = {"x": IntParameter(type="int", low=0, high=99)}
    study = optuna.create_study(sampler=build_sampler(SPECS["gp"], space, 0, 40))
    for _ in range(40):
        trial = ask(study, space)
        noise = zlib.crc32(repr(trial.number).encode()) / 2**33
        study.tell(trial, (trial.params["x"] / 10 - 3) ** 2 / 10 + noise)
    last = [trial.params["x"] for trial in study.trials[20:]]
    assert median(last) == pytest.approx(30, abs=10)
    assert len(set(last)) < len(last)


def test_points_of_sobol_fill_a_space_evenly() -> None:
    """Of 16 trials each sixteenth of every parameter gets one; of random ones about ten do."""
    study = optuna.create_study(sampler=build_sampler(SobolSpec(name="sobol"), PLANE, 3, 16))
    params = [ask(study, PLANE).params for _ in range(16)]
    assert sorted(int((p["x1"] + 5) / 15 * 16) for p in params) == list(range(16))
    assert sorted(int(p["x2"] / 15 * 16) for p in params) == list(range(16))


FEW = "trials (at most 200) over 2 parameters (at most 20), none of them conditional"


@pytest.mark.parametrize(
    ("space", "n_trials", "chosen"),
    [
        (
            PLANE,
            30,
            f"auto (gp): 30 {FEW}",
        ),
        (
            {"activation": GRID["activation"], "lr": MIXED["lr"]},
            200,
            f"auto (gp): 200 {FEW}",
        ),
        (PLANE, 201, "auto (tpe): 201 trials are more than 200"),
        (MIXED, 30, "auto (tpe): some parameters are conditional"),
        (
            {f"x{i}": LINE["x"] for i in range(21)},
            30,
            "auto (tpe): 21 parameters are more than 20",
        ),
    ],
    ids=["small", "mixed", "many trials", "conditional", "many parameters"],
)
def test_auto_chooses_by_a_rule_and_says_why(space: Space, n_trials: int, chosen: str) -> None:
    name, reason = named_sampler(AutoSpec(name="auto"), space, n_trials)
    assert f"{name}: {reason}" == chosen


@pytest.mark.parametrize(
    ("space", "n_trials", "chosen"),
    [(PLANE, 30, "auto (gp)"), (PLANE, 201, "auto (nsga2)"), (MIXED, 201, "auto (tpe)")],
    ids=["small", "many trials", "conditional"],
)
def test_auto_chooses_for_several_objectives_by_a_rule_of_its_own(
    space: Space, n_trials: int, chosen: str
) -> None:
    name, reason = named_sampler(AutoSpec(name="auto"), space, n_trials, n_objectives=2)
    assert name == chosen
    assert ("2 objectives" in reason) == (space is PLANE)
