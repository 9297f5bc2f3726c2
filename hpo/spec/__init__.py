"""The spec: a YAML file, checked, as frozen objects that every stage understands."""

from hpo.spec.load import load_spec, parse_recorded_spec, parse_spec
from hpo.spec.model import (
    AshaSpec,
    BudgetSpec,
    ExperimentSpec,
    FinalistsSpec,
    GpSpec,
    GridSpec,
    MedianSpec,
    NoSchedulerSpec,
    ObjectiveSpec,
    RandomSpec,
    ResourcesSpec,
    SamplerSpec,
    SchedulerSpec,
    TpeSpec,
)
from hpo.spec.parameters import (
    CategoricalParameter,
    FloatParameter,
    FoundParameter,
    IntParameter,
    Parameter,
    RangedParameter,
    condition_text,
    conditions,
    is_active,
)
from hpo.spec.section import Scalar
from hpo.spec.space_rules import check_params
from hpo.spec.write import differences, spec_to_yaml

__all__ = [
    "AshaSpec",
    "BudgetSpec",
    "CategoricalParameter",
    "ExperimentSpec",
    "FinalistsSpec",
    "FloatParameter",
    "FoundParameter",
    "GpSpec",
    "GridSpec",
    "IntParameter",
    "MedianSpec",
    "NoSchedulerSpec",
    "ObjectiveSpec",
    "Parameter",
    "RandomSpec",
    "RangedParameter",
    "ResourcesSpec",
    "SamplerSpec",
    "Scalar",
    "SchedulerSpec",
    "TpeSpec",
    "check_params",
    "condition_text",
    "conditions",
    "differences",
    "is_active",
    "load_spec",
    "parse_recorded_spec",
    "parse_spec",
    "spec_to_yaml",
]
