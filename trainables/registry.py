"""Find a trainable by its registered name or as ``package.module:function``."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables import analytic
from trainables.cnn.config import CHANGEABLE, CnnConfig
from trainables.cnn.description import Inspection
from trainables.contract import FinalModel, TrialContext
from trainables.hyperparameters import value_problem
from trainables.lr_range_test import LrRangeTest

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class TrainableInfo:
    """What can be said of a registered trainable before it is imported.

    Attributes:
        target: "package.module:function".
        metrics: what it may yield after each epoch; the data decide.
        config_keys: the hyperparameters it understands.
        facts: what its ``constraints`` know of a config before any training.
        inspect: "package.module:function" that describes the network of a config, without torch;
            empty if there is no network.
        value_problem: says what is wrong with the value of a hyperparameter; "" if nothing is.
        finds_lr: whether its module offers ``find_lr``.
        changeable: the hyperparameters that may change while it trains.
    """

    target: str
    metrics: tuple[str, ...]
    config_keys: tuple[str, ...]
    facts: tuple[str, ...] = ()
    inspect: str = ""
    value_problem: Callable[[str, Any], str] = lambda _key, _value: ""
    finds_lr: bool = False
    changeable: tuple[str, ...] = ()


TRAINABLES: dict[str, TrainableInfo] = {
    "analytic": TrainableInfo(
        target="trainables.analytic:train",
        metrics=analytic.METRICS,
        config_keys=analytic.CONFIG_KEYS,
    ),
    "cnn": TrainableInfo(
        target="trainables.cnn.trainable:train",
        metrics=("train_loss", "val_loss", "val_accuracy", "val_r2", "val_iou"),
        config_keys=tuple(CnnConfig.model_fields),
        facts=("n_parameters", "multiply_adds", "size_mb", "latency_ms"),
        inspect="trainables.cnn.description:inspect",
        value_problem=partial(value_problem, CnnConfig),
        finds_lr=True,
        changeable=CHANGEABLE,
    ),
}


class TrainableError(Exception):
    """No trainable of that name; the message says what there is instead."""


@dataclass(frozen=True)
class Trainable:
    """A trainable's functions; all but ``train`` are None where its module has none.

    ``changeable`` names the hyperparameters that may change while it trains.

    ``train`` takes (config, trial) or config alone, and yields, or returns once.
    """

    train: Callable[..., Any]
    finish: Callable[[dict[str, Any], TrialContext], FinalModel] | None
    fingerprint: Callable[[dict[str, Any], TrialContext], str] | None
    constraints: Callable[[dict[str, Any], TrialContext], Mapping[str, float]] | None = None
    rebuild: Callable[[dict[str, Any]], torch.nn.Module] | None = None
    warnings: Callable[[dict[str, Any], TrialContext], Sequence[str]] | None = None
    find_lr: Callable[[dict[str, Any], TrialContext], LrRangeTest] | None = None
    check_data: Callable[[dict[str, Any], TrialContext], None] | None = None
    changeable: tuple[str, ...] = ()

    def reports(self, config: dict[str, Any], trial: TrialContext) -> Iterator[Any]:
        """Whatever ``train`` yields; what a plain function returns is its one report."""
        outcome = self.train(config, trial) if _takes_context(self.train) else self.train(config)
        if isinstance(outcome, Iterator):
            yield from outcome
        else:
            yield outcome


def find_trainable(name: str, import_paths: Sequence[Path] = ()) -> Trainable:
    """Import the trainable called ``name``, looking into ``import_paths`` before ``sys.path``.

    Raises:
        TrainableError: if there is no such name, module or function, or the module does not import.
    """
    target = TRAINABLES[name].target if name in TRAINABLES else name
    module_name, _, function_name = target.partition(":")
    if not module_name or not function_name:
        raise TrainableError(
            f"unknown trainable {name!r}{_did_you_mean(name, TRAINABLES)} Known: "
            f"{', '.join(sorted(TRAINABLES))}; or name your own as my_module:train"
        )
    for folder in reversed(import_paths):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    module = _import(module_name, import_paths)
    train = getattr(module, function_name, None)
    if not callable(train):
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise TrainableError(
            f"module {module_name!r} has no function {function_name!r}"
            f"{_did_you_mean(function_name, functions)} It has: "
            f"{', '.join(sorted(functions)) or 'none'}"
        )
    return Trainable(
        train=train,
        finish=getattr(module, "finish", None),
        fingerprint=getattr(module, "fingerprint", None),
        constraints=getattr(module, "constraints", None),
        rebuild=getattr(module, "rebuild", None),
        warnings=getattr(module, "warnings", None),
        find_lr=getattr(module, "find_lr", None),
        check_data=getattr(module, "check_data", None),
        changeable=tuple(getattr(module, "changeable_while_training", ())),
    )


def find_inspect(name: str) -> Callable[..., Inspection] | None:
    """What describes the networks of a registered trainable; None if there are none to describe."""
    if name not in TRAINABLES or not TRAINABLES[name].inspect:
        return None
    module_name, _, function_name = TRAINABLES[name].inspect.partition(":")
    inspect: Callable[..., Inspection] = getattr(_import(module_name, ()), function_name)
    return inspect


def _import(module_name: str, import_paths: Sequence[Path]) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise TrainableError(f"module {module_name!r} needs {error.name!r}: {error}") from None
        places = ", ".join(str(folder) for folder in import_paths) or "the Python path"
        raise TrainableError(
            f"no module {module_name!r} in {places}; a trainable of yours is a file "
            f"{module_name.split('.', maxsplit=1)[0]}.py there"
        ) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever it raises is the user's
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = (
            f"{error.filename}:{error.lineno}"
            if isinstance(error, SyntaxError)
            else f"{place.filename}:{place.lineno}"
        )
        raise TrainableError(
            f"module {module_name!r} cannot be imported: {type(error).__name__}: {error} ({where})"
        ) from None


def _takes_context(train: Callable[..., Any]) -> bool:
    try:
        inspect.signature(train).bind({}, None)
    except TypeError:
        return False
    return True


def _did_you_mean(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."
