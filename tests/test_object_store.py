"""Checkpoints in a folder and in an S3 bucket: the same promises, on a real server of moto's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from moto.server import ThreadedMotoServer
from one_worker import OneWorker, outline, trained
from optuna.trial import create_trial
from pyarrow.fs import FileSystem
from without_ray import KilledError

from hpo.audit_repairs import mend
from hpo.audited_files import file_differences
from hpo.errors import UsageError
from hpo.places import Places
from hpo.spec import ExperimentSpec
from hpo.task_factory import TaskFactory
from hpo.workspace import find_workspace, open_workspace, remembered_places
from trainables import (
    CheckpointError,
    Checkpoints,
    Place,
    StoredPath,
    folder_names,
    place_of,
    remove_checkpoints,
    write_whole,
)

COUNTS = '''
import pathlib

def train(config, trial):
    """Counts its epochs where it is told to, and goes on from its checkpoint."""
    first, sum_ = 1, 0.0
    if (kept := trial.checkpoints.load()) is not None:
        epoch, state = kept
        first, sum_ = epoch + 1, state["sum"]
    for epoch in range(first, trial.max_epochs + 1):
        sum_ += config["x"]
        with open(config["count_in"], "a") as file:
            file.write(f"{trial.folder.name} {epoch}\\n")
        trial.checkpoints.save(epoch, {"sum": sum_})
        yield {"score": sum_}
'''
SPEC = """
name: counted
trainable: counts_in_bucket:train
objective: {{metric: score, direction: maximize}}
fixed: {{count_in: "{folder}/trained.txt"}}
search_space: {{x: {{type: float, low: 0, high: 1}}}}
sampler: random
budget: {{n_trials: 3, max_epochs: 4}}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadedMotoServer]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def bucket(server: ThreadedMotoServer) -> Iterator[str]:
    """The URI of a bucket; the keys to it stand in the environment, as on a cluster's machines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        host, port = server.get_host_and_port()
        options = f"scheme=http&region=us-east-1&endpoint_override={host}:{port}"
        files, path = FileSystem.from_uri(f"s3://bucket?{options}&allow_bucket_creation=true")
        files.create_dir(path)
        yield f"s3://bucket?{options}"


@pytest.fixture(params=["folder", "bucket"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where the checkpoints of one trial lie."""
    if request.param == "folder":
        return tmp_path / "trials" / "00001"
    return place_of(request.getfixturevalue("bucket")) / tmp_path.name / "trials" / "00001"


def state_of(epoch: int) -> dict[str, Any]:
    return {"weights": torch.full((3,), float(epoch)), "names": ["a", "b"]}


def saved(home: Place, *epochs: int) -> Checkpoints:
    checkpoints = Checkpoints(home / "checkpoints")
    for epoch in epochs:
        checkpoints.save(epoch, state_of(epoch))
    return checkpoints


def names(home: Place) -> list[str]:
    return sorted(path.name for path in (home / "checkpoints").iterdir())


def test_a_state_comes_back_as_it_was_and_the_last_two_stay(home: Place) -> None:
    newest = saved(home, 1, 2, 3).saved
    assert newest is not None
    kept = Checkpoints(home / "checkpoints", resume_from=[newest]).load()
    assert kept is not None
    assert kept[0] == 3
    assert torch.equal(kept[1]["weights"], torch.full((3,), 3.0))
    assert names(home) == ["epoch-000002.pt", "epoch-000003.pt"]


def test_what_an_earlier_start_has_left_unsaid_goes(home: Place) -> None:
    saved(home, 1, 2)
    saved(home, 1)
    assert names(home) == ["epoch-000001.pt"]


def test_a_damaged_one_is_passed_over_for_the_one_before(home: Place) -> None:
    checkpoints = Checkpoints(home / "checkpoints")
    recorded = []
    for epoch in (1, 2, 3):
        checkpoints.save(epoch, state_of(epoch))
        assert checkpoints.saved is not None
        recorded.insert(0, checkpoints.saved)
    recorded[0].path.write_bytes(b"damaged")
    after = Checkpoints(home / "checkpoints", resume_from=recorded)
    kept = after.load()
    assert kept is not None
    assert kept[0] == 2
    assert "epoch 3 is damaged" in after.complaints[0]
    recorded[1].path.unlink()
    again = Checkpoints(home / "checkpoints", resume_from=recorded[1:])
    assert again.load() is None
    assert "epoch 2 is missing" in again.complaints[0]


def test_when_a_trial_has_ended_its_checkpoints_go_and_others_stay(home: Place) -> None:
    other = home.parent / "00002"
    saved(home, 1)
    saved(other, 1)
    assert sorted(folder_names(home.parent)) == ["00001", "00002"]
    remove_checkpoints(home)
    remove_checkpoints(home)  # as a driver that was killed in between does
    assert names(other) == ["epoch-000001.pt"]
    with pytest.raises(FileNotFoundError):
        (home / "checkpoints" / "epoch-000001.pt").read_bytes()


def test_nothing_is_read_that_would_run_code(home: Place) -> None:
    with pytest.raises(CheckpointError):
        Checkpoints(home / "checkpoints").save(1, {"mine": Path})


def test_a_store_that_does_not_answer_is_a_complaint_and_the_training_goes_on(bucket: str) -> None:
    host = bucket.rpartition("=")[2]
    gone = place_of(bucket.replace(host, "127.0.0.1:1")) / "trial"
    checkpoints = Checkpoints(gone)
    checkpoints.save(1, state_of(1))
    assert checkpoints.saved is None
    (complaint,) = checkpoints.complaints
    assert complaint.startswith("no answer of the store (")
    assert "for the checkpoint of epoch 1: s3://bucket/trial/epoch-000001.pt" in complaint


class InBucket(OneWorker):
    """Its checkpoints lie in a store that every machine reaches."""

    checkpoints: Place

    def tasks(self, *overrides: str) -> TaskFactory:
        return replace(super().tasks(*overrides), checkpoints=self.checkpoints)


def test_a_killed_search_goes_on_from_the_store_on_any_machine(bucket: str, tmp_path: Path) -> None:
    """A trial's folder is gone with its machine; its checkpoint is not."""
    searches = {}
    for name, n_reports in (("whole", 1000), ("cut", 6)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "counts_in_bucket.py").write_text(COUNTS, encoding="utf-8")
        search = searches[name] = InBucket(SPEC.format(folder=folder), folder)
        search.checkpoints = place_of(bucket) / name
        if name == "cut":
            with pytest.raises(KilledError):
                search.search(n_reports=n_reports)
            assert folder_names(search.checkpoints / "trials") == ["00001"]
            assert not list(folder.glob("trials/*/checkpoints"))
        search.search()
        assert folder_names(search.checkpoints / "trials") == []
    assert [t.values for t in searches["cut"].study.trials] == [
        t.values for t in searches["whole"].study.trials
    ]
    assert trained(searches["cut"]) == trained(searches["whole"])
    assert len(outline(searches["cut"])) == 3


def test_where_checkpoints_are_kept_is_remembered_and_audited(
    home: Place, tmp_path: Path, branin: Callable[..., ExperimentSpec]
) -> None:
    """Who goes on, or looks, need not name the place again."""
    given = replace(Places.of(tmp_path, {}), checkpoints=home)
    begun = open_workspace(branin(), given, None)
    begun.study.add_trial(create_trial(value=1.0))
    place = begun.tasks.checkpoint_home(0)
    assert str(place).startswith(f"{home}/branin-")
    write_whole(place / "checkpoints" / "00001.pt", b"left behind")
    later = find_workspace("branin", Places.of(tmp_path, {}))
    assert later.places == begun.places
    assert remembered_places("branin", Places.of(tmp_path, {})) == begun.places
    assert remembered_places("another", Places.of(tmp_path, {})).checkpoints is None
    left = [one for one in file_differences(later, later.outcome()) if one.trial == 0]
    assert [one.found for one in left] == ["1 of a trial that has ended"]
    mend(later, left)
    assert list(file_differences(later, later.outcome())) == []


def test_two_databases_may_share_a_place_and_a_name(
    home: Place, tmp_path: Path, branin: Callable[..., ExperimentSpec]
) -> None:
    """Neither takes the other's checkpoints for its own, or removes them."""
    mine, theirs = (
        open_workspace(branin(), replace(Places.of(tmp_path / one, {}), checkpoints=home), None)
        for one in ("mine", "theirs")
    )
    for workspace in (mine, theirs):
        write_whole(workspace.tasks.checkpoint_home(0) / "checkpoints" / "00001.pt", b"kept")
    mine.tasks.remove_checkpoints([0])
    assert mine.tasks.kept_checkpoints([0]) == {}
    assert theirs.tasks.kept_checkpoints([0]) == {0: 1}
    open_workspace(branin(), mine.places, None)  # begun anew, since no trial has ended
    assert theirs.tasks.kept_checkpoints([0]) == {0: 1}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "ftp://host/folder",
            "must be a folder, s3://bucket/name, gs://bucket/name, got ftp://host",
        ),
        ("s3://", "must be a folder"),
        ("s3://key:canary@bucket/name", "must not hold a key"),
        ("s3://bucket?secret_key=canary", "must not hold a key"),
    ],
)
def test_a_place_that_is_none_is_refused_and_no_key_is_shown(text: str, told: str) -> None:
    with pytest.raises(UsageError, match="HPO_CHECKPOINTS") as refused:
        Places.of(Path.cwd(), {"HPO_CHECKPOINTS": text})
    assert told in str(refused.value)
    assert "canary" not in str(refused.value)


def test_places_of_checkpoints(tmp_path: Path) -> None:
    assert place_of("file:///shared/hpo") == Path("/shared/hpo")
    assert place_of("shared") == Path.cwd() / "shared"
    assert place_of("gs://bucket/name/") == StoredPath("gs", "bucket/name")
    places = Places.of(tmp_path, {"HPO_CHECKPOINTS": "s3://bucket/hpo", "HPO_RUNS": "/shared/runs"})
    assert places.runs == Path("/shared/runs")
    assert str(places.checkpoints_of(places.run_folder("cnn"), "0123456789ab")) == (
        "s3://bucket/hpo/cnn-01234567"
    )
    assert Places.of(tmp_path, {}).checkpoints_of(tmp_path / "runs", "0123") is None


def test_a_file_is_written_whole_into_a_place(home: Place) -> None:
    write_whole(home / "file", b"content")
    write_whole(home / "file", b"other")
    assert (home / "file").read_bytes() == b"other"
