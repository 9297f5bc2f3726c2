"""Checkpoints: whole whatever happens, and a training that goes on as if nothing had happened."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables import (
    TRAINABLES,
    Checkpoint,
    CheckpointError,
    Checkpoints,
    Segment,
    TrialContext,
    find_trainable,
)
from trainables.checkpoints import replacing
from trainables.cnn.config import CnnConfig
from trainables.cnn.optimization_config import OptimizationConfig
from trainables.cnn.training import Training, finish, train
from trainables.images.dataset import load_split

STEPS = ["written", "synced", "renamed", "folder synced"]


def state_of(epoch: int) -> dict[str, Any]:
    return {"weights": torch.full((3,), float(epoch)), "best": 0.5, "names": ["a", "b"]}


def saved(folder: Path, *epochs: int) -> list[Checkpoint]:
    """What is recorded of each, the newest first."""
    checkpoints, recorded = Checkpoints(folder), []
    for epoch in epochs:
        checkpoints.save(epoch, state_of(epoch))
        assert checkpoints.saved is not None
        recorded.insert(0, checkpoints.saved)
    return recorded


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- the store ---


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, resume_from=saved(tmp_path, 1))
    kept = checkpoints.load()
    assert kept is not None
    epoch, state = kept
    assert (epoch, state["best"], state["names"]) == (1, 0.5, ["a", "b"])
    assert torch.equal(state["weights"], torch.ones(3))
    assert checkpoints.complaints == []


def test_the_last_two_stay(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3, 4)
    assert files(tmp_path) == ["epoch-000003.pt", "epoch-000004.pt"]


@pytest.mark.parametrize("n_steps", range(len(STEPS)))
def test_cut_off_between_two_steps_what_was_there_is_whole(n_steps: int, tmp_path: Path) -> None:
    """Nobody has been told of the new one yet, so the one before it is what counts."""
    recorded = saved(tmp_path, 1)
    cut = replacing(tmp_path / "epoch-000002.pt", b"of epoch 2")
    assert [next(cut) for _ in range(n_steps)] == STEPS[:n_steps]
    cut.close()
    after = Checkpoints(tmp_path, resume_from=recorded)
    kept = after.load()
    assert kept is not None
    assert kept[0] == 1
    assert after.complaints == []
    after.save(2, state_of(2))
    assert files(tmp_path) == ["epoch-000001.pt", "epoch-000002.pt"]


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Cut short anywhere, with any byte changed, or gone."""
    folder = tmp_path_factory.mktemp("trial")
    newest, before = saved(folder, 1, 2)
    content = newest.path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    damage = data.draw(st.sampled_from([content[:place], changed, None]))
    newest.path.unlink() if damage is None else newest.path.write_bytes(damage)
    checkpoints = Checkpoints(folder, resume_from=[newest, before])
    kept = checkpoints.load()
    assert kept is not None
    assert kept[0] == 1
    (complaint,) = checkpoints.complaints
    assert "epoch 2 is missing" in complaint or "epoch 2 is damaged" in complaint


def test_without_a_whole_one_it_begins_again_and_says_so(tmp_path: Path) -> None:
    recorded = saved(tmp_path, 1, 2)
    for checkpoint in recorded:
        checkpoint.path.write_bytes(b"")
    checkpoints = Checkpoints(tmp_path, resume_from=recorded)
    assert checkpoints.load() is None
    assert len(checkpoints.complaints) == 3
    assert "begins again with epoch 1" in checkpoints.complaints[-1]


def test_what_nobody_acknowledged_is_not_gone_on_from(tmp_path: Path) -> None:
    """It may be of an epoch whose report was lost: the epoch is trained again."""
    *_, first = saved(tmp_path, 1, 2, 3)
    checkpoints = Checkpoints(tmp_path, resume_from=[first])
    assert checkpoints.load() is None  # of three the first is gone
    assert Checkpoints(tmp_path).load() is None
    fresh = Checkpoints(tmp_path)
    fresh.save(1, state_of(1))
    assert files(tmp_path) == ["epoch-000001.pt"]


def test_nothing_is_saved_where_nobody_would_go_on(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", is_wanted=False)
    checkpoints.save(1, state_of(1))
    assert (checkpoints.saved, files(tmp_path)) == (None, [])


class Mine:
    """What only running code could bring back."""


def test_a_state_that_would_run_code_when_it_is_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Mine"):
        Checkpoints(tmp_path).save(1, {"mine": Mine()})


def test_a_full_disk_is_a_complaint_and_the_training_goes_on(tmp_path: Path) -> None:
    recorded = saved(tmp_path, 1)
    (tmp_path / "epoch-000002.pt.part").symlink_to("/dev/full")
    checkpoints = Checkpoints(tmp_path, resume_from=recorded)
    checkpoints.save(2, state_of(2))
    (complaint,) = checkpoints.complaints
    assert "no room for the checkpoint of epoch 2" in complaint
    assert files(tmp_path) == ["epoch-000001.pt"]


# --- the CNN ---

WORDS = [
    (optimizer, lr_schedule)
    for optimizer in get_args(OptimizationConfig.model_fields["optimizer"].annotation)
    for lr_schedule in get_args(OptimizationConfig.model_fields["lr_schedule"].annotation)
]
SMALL = {
    "depth": 1,
    "filters": 4,
    "batch_size": 4,
    "n_train": 8,
    "dropout": 0.2,
    "lr": 0.01,
    "randaugment_num_ops": 1,
    "warmup_epochs": 1.0,
    "lr_step_epochs": 1,
    "crop_padding": 1,
}


def trained(
    config: Mapping[str, Any], trial: TrialContext, n_epochs: int = 4
) -> tuple[list[Mapping[str, float]], Mapping[str, Any]]:
    """The reports of the first epochs, and the state after them."""
    reports = list(itertools.islice(train(config, trial), n_epochs))
    kept = replace(trial, resume_from=(trial.checkpoints.saved,)).checkpoints.load()
    assert kept is not None
    return reports, kept[1]


def context(folder: Path, **values: Any) -> TrialContext:
    folder.mkdir(exist_ok=True)
    return TrialContext(seed=1, folder=folder, max_epochs=4, keeps_checkpoints=True, **values)


def assert_equal(one: Any, other: Any) -> None:
    """Bit for bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()
    elif isinstance(one, Mapping):
        assert list(one) == list(other)
        for key in one:
            assert_equal(one[key], other[key])
    else:
        assert one == other


@pytest.mark.parametrize(("optimizer", "lr_schedule"), WORDS)
def test_cut_after_two_of_four_epochs_the_cnn_becomes_what_it_would_have_become(
    optimizer: str, lr_schedule: str, tmp_path: Path
) -> None:
    config = {**SMALL, "optimizer": optimizer, "lr_schedule": lr_schedule}
    whole, whole_state = trained(config, context(tmp_path / "whole"))
    cut = context(tmp_path / "cut")
    first, _ = trained(config, cut, 2)
    resumed = context(tmp_path / "cut", resume_from=(cut.checkpoints.saved,))
    rest, state = trained(config, resumed, 2)
    assert [*first, *rest] == whole
    assert_equal(state, whole_state)


# --- a config that changes while the CNN trains ---

CHANGES: dict[str, tuple[dict[str, Any], Any]] = {
    "lr": ({}, 0.001),
    "momentum": ({"optimizer": "rmsprop", "lr_schedule": "constant", "momentum": 0.0}, 0.9),
    "weight_decay": ({}, 0.5),
    "dropout": ({"dropout": 0.0}, 0.5),
    "head_dropout": ({"head": "mlp", "head_dropout": 0.0}, 0.5),
    "label_smoothing": ({}, 0.3),
    "clip_norm": ({}, 0.01),
    "affine_degrees": ({}, 90.0),
    "affine_translate": ({}, 0.3),
    "affine_scale": ({}, 0.5),
    "jitter_brightness": ({}, 0.9),
    "jitter_contrast": ({}, 0.9),
    "jitter_saturation": ({"channels": "rgb", "randaugment_num_ops": 2}, 0.9),
    "jitter_hue": ({"channels": "rgb", "randaugment_num_ops": 2}, 0.5),
    "horizontal_flip": ({}, 1.0),
    "crop_padding": ({}, 3),
    "randaugment_num_ops": ({}, 3),
    "randaugment_magnitude": ({}, 30),
}
"""What each hyperparameter needs beside it to make a difference, and what it changes to."""


def test_every_parameter_that_may_change_has_its_test_here() -> None:
    assert set(CHANGES) == set(TRAINABLES["cnn"].changeable)
    assert find_trainable("cnn").changeable == TRAINABLES["cnn"].changeable


@pytest.mark.parametrize("name", CHANGES)
def test_the_cnn_goes_on_with_another_value_of_it(name: str, tmp_path: Path) -> None:
    """From the same weights and moments, and from there on it makes a difference."""
    needed, value = CHANGES[name]
    config = {**SMALL, "lr_schedule": "cosine", **needed}
    trial = context(tmp_path / "trial")
    trained(config, trial, 1)
    weights = []
    for number, changed in enumerate((config, {**config, name: value})):
        assert trial.checkpoints.saved is not None
        later = context(tmp_path / str(number), resume_from=(trial.checkpoints.saved,))
        _, state = trained(changed, later, 1)
        weights.append(torch.cat([one.flatten() for one in state["network"].values()]))
    assert not torch.equal(*weights)


@pytest.mark.parametrize("lr_schedule", sorted({lr_schedule for _, lr_schedule in WORDS}))
def test_a_changed_rate_follows_the_schedule_as_if_it_had_been_so_from_the_start(
    lr_schedule: str, tmp_path: Path
) -> None:
    config = {**SMALL, "lr_schedule": lr_schedule}
    cnn = CnnConfig.from_mapping({**config, "lr": 0.003})
    trial = context(tmp_path / "trial")
    _, state = trained(config, trial, 2)
    images = load_split(cnn, trial.data_dir).train
    from_start, gone_on = (Training(cnn, trial, images) for _ in range(2))
    for epoch in (1, 2):
        from_start.run_epoch(epoch)
    gone_on.go_on(2, state)
    assert gone_on.lr == from_start.lr


def test_the_retraining_follows_the_lineage(tmp_path: Path) -> None:
    """Parts of one config are what it is without parts; other parts make another model."""
    config = {**SMALL, "optimizer": "sgd", "lr_schedule": "onecycle"}
    parts = {
        "whole": (),
        "same": (Segment(config=config, until_epoch=1), Segment(config=config, until_epoch=3)),
        "other": (Segment(config={**config, "lr": 0.1}, until_epoch=2),),
    }
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    images[0, 0, 2:6, 3:5] = 200
    told = {
        name: finish(config, context(tmp_path / name, earlier=earlier)).predictor(images)
        for name, earlier in parts.items()
    }
    assert torch.equal(told["whole"], told["same"])
    assert not torch.equal(told["whole"], told["other"])
