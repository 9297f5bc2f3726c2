"""Optuna's own contract, kept by every sampler that we build or wrap.

Two are left out, a grid and a search in stages: they know the parameters of their space and no
others.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from hpo.search import TimedSampler, build_sampler
from hpo.spec import CmaesSpec, GpSpec, Nsga2Spec, RandomSpec, SamplerSpec, SobolSpec, TpeSpec

MakeSampler = Callable[[], BaseSampler]


def built(spec: SamplerSpec) -> MakeSampler:
    """As for a spec whose space says nothing of the parameters that the contract draws."""
    return lambda: build_sampler(spec, {}, study_seed=0, n_trials=10)


class TestRandom(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> MakeSampler:
        return built(RandomSpec(name="random"))


class TestSobol(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> MakeSampler:
        return built(SobolSpec(name="sobol"))


class TestTpe(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> MakeSampler:
        return built(TpeSpec(name="tpe", n_startup_trials=1))


class TestGp(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self) -> MakeSampler:
        return built(GpSpec(name="gp", n_startup_trials=1))


class TestGpOfSeveral(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> MakeSampler:
        spec = GpSpec(name="gp", n_startup_trials=1)
        return lambda: build_sampler(spec, {}, study_seed=0, n_trials=10, n_objectives=2)


class TestTimed(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> MakeSampler:
        return lambda: TimedSampler(built(TpeSpec(name="tpe", n_startup_trials=1))())


class TestCmaes(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self) -> MakeSampler:
        return built(CmaesSpec(name="cmaes"))


class TestNsga2(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> MakeSampler:
        return built(Nsga2Spec(name="nsga2"))
