"""The cache of decoded images: built once, by one process, as a whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainables.images.arrays import ImageArrays
from trainables.images.cache import create, save, stored, writable_folder
from trainables.images.errors import DataError
from trainables.images.hashing import content_hashes

PIXELS = np.arange(5 * 3 * 4 * 4, dtype=np.uint8).reshape(5, 3, 4, 4)
ARRAYS = ImageArrays.of(PIXELS, np.arange(5))


def build(folder: Path) -> Mapping[str, Any]:
    return {**save(folder, ARRAYS), "from": "test"}


def refuse(folder: Path) -> Mapping[str, Any]:
    raise AssertionError(f"{folder} was built again")


def entry_in(data_dir: Path, key: str = "key") -> Path:
    return data_dir / "cache" / key


def test_what_is_stored_is_read_back_and_not_built_again(tmp_path: Path) -> None:
    first = stored("key", build, tmp_path)
    assert stored("key", refuse, tmp_path) is first
    assert np.array_equal(first.pixels, PIXELS)
    assert np.array_equal(first.targets, ARRAYS.targets)
    assert first.digest == ARRAYS.digest
    assert first.notes == {"from": "test"}


def test_arrays_are_mapped_and_cannot_be_written(tmp_path: Path) -> None:
    arrays = stored("key", build, tmp_path)
    assert isinstance(arrays.pixels.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        arrays.pixels[0] = 0


def truncate(entry: Path) -> None:
    with (entry / "pixels.npy").open("r+b") as file:
        file.truncate(100)


def overwrite(entry: Path) -> None:
    """One byte, as by a program that means to repair it: the size stays what it was."""
    with (entry / "pixels.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "cut off": truncate,
    "overwritten": overwrite,
    "array missing": lambda entry: (entry / "targets.npy").unlink(),
    "list missing": lambda entry: (entry / "entry.json").unlink(),
    "list garbled": lambda entry: (entry / "entry.json").write_text("{"),
    "list of another kind": lambda entry: (entry / "entry.json").write_text("[]"),
    "list empty": lambda entry: (entry / "entry.json").write_text(""),
}


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_damaged_entry_is_built_again(damage: str, tmp_path: Path) -> None:
    before = stored("key", build, tmp_path)
    DAMAGES[damage](entry_in(tmp_path))
    after = stored("key", build, tmp_path)
    assert after is not before
    assert np.array_equal(after.pixels, PIXELS)
    assert stored("key", refuse, tmp_path) is after


def test_whoever_has_an_entry_mapped_keeps_it_when_it_is_removed(tmp_path: Path) -> None:
    arrays = stored("key", build, tmp_path)
    for path in entry_in(tmp_path).iterdir():
        path.unlink()
    stored("key", build, tmp_path)
    assert np.array_equal(arrays.pixels, PIXELS)


def test_a_build_that_fails_leaves_nothing_and_hands_on_its_error(tmp_path: Path) -> None:
    def fail(folder: Path) -> Mapping[str, Any]:
        save(folder, ARRAYS)
        raise DataError("cannot be decoded")

    with pytest.raises(DataError, match="cannot be decoded"):
        stored("key", fail, tmp_path)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["key.lock"]
    assert np.array_equal(stored("key", build, tmp_path).pixels, PIXELS)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A folder on a disk in memory, which knows at once what it has no room for."""
    if not os.path.ismount("/dev/shm"):  # noqa: S108
        pytest.skip("needs /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(small_disk: Path) -> None:
    """A write into an array that is mapped, and for which there is no room, would be SIGBUS."""
    found = os.statvfs(small_disk)
    n_bytes = 2 * found.f_blocks * found.f_frsize

    def too_large(folder: Path) -> Mapping[str, Any]:
        create(folder, "pixels", (n_bytes,), np.uint8)
        return {}

    with pytest.raises(DataError, match=r"in /dev/shm/.*/cache/key: No space left on device"):
        stored("key", too_large, small_disk)
    assert [path.name for path in (small_disk / "cache").iterdir()] == ["key.lock"]


# --- several processes ---

BUILDER = """
import sys
from pathlib import Path
import numpy as np
from trainables.images.arrays import ImageArrays
from trainables.images.cache import save, stored

data_dir = Path(sys.argv[1])

def build(folder):
    with (data_dir / "builders").open("a") as log:
        log.write("built\\n")
    pixels = np.random.default_rng().integers(0, 256, (50, 1, 8, 8), np.uint8)
    np.save(folder / "pixels.npy", pixels)
    print("building", flush=True)
    sys.stdin.readline()
    return save(folder, ImageArrays.of(pixels, np.arange(50)))

def tell(event, arguments):
    if event == "fcntl.flock":
        print("at the lock", flush=True)

sys.addaudithook(tell)
arrays = stored("key", build, data_dir)
assert not arrays.pixels.flags.writeable
print(arrays.digest, int(arrays.pixels.sum()))
"""
"""Says when it comes to the lock, and while it builds; builds on when it may read a line."""


def start(data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def answers_of(processes: list[subprocess.Popen[str]]) -> set[str]:
    """Let them build on, to their ends; the last line that each of them prints."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    answers = set()
    for process in processes:
        assert process.stdout is not None
        with process:
            answers.add(process.stdout.read().splitlines()[-1])
    return answers


def test_of_processes_that_come_together_one_builds_and_all_get_the_same(tmp_path: Path) -> None:
    """Each would build other images: they are drawn at random."""
    processes = [start(tmp_path) for _ in range(4)]
    assert [next_line(process) for process in processes] == ["at the lock"] * 4
    assert len(answers_of(processes)) == 1
    assert (tmp_path / "builders").read_text() == "built\n"
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["key", "key.lock"]


def test_a_process_that_is_killed_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    """Those that waited for it go on at once, and one of them builds anew."""
    victim = start(tmp_path)
    assert [next_line(victim), next_line(victim)] == ["at the lock", "building"]
    waiting = [start(tmp_path) for _ in range(2)]
    assert [next_line(process) for process in waiting] == ["at the lock"] * 2
    assert not entry_in(tmp_path).exists()
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert len(answers_of(waiting)) == 1
    assert (tmp_path / "builders").read_text() == "built\n" * 2
    assert not (tmp_path / "cache" / "key.part").exists()


# --- where it lies ---


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's temporary folder, for a while."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def test_a_data_folder_that_cannot_be_made_is_replaced_by_the_temporary_one(
    temporary: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("a file is in the way")
    private = temporary / f"hpo-cache-{os.getuid()}"
    assert writable_folder(tmp_path / "data") == private
    assert private.stat().st_mode & 0o777 == 0o700
    stored("key", build, tmp_path / "data")
    stored("key", refuse, tmp_path / "data")
    assert (private / "key" / "entry.json").exists()


def test_a_temporary_folder_of_somebody_else_is_not_trusted(
    temporary: Path, tmp_path: Path
) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    (tmp_path / "data").write_text("a file is in the way")
    private = temporary / f"hpo-cache-{os.getuid()}"
    private.mkdir()
    os.chown(private, 65534, 65534)
    with pytest.raises(DataError, match=r"neither .*/data/cache nor .*hpo-cache-0 can be written"):
        stored("key", build, tmp_path / "data")


# --- hashes ---


def test_hashes_follow_the_content(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b", "c")]
    for file, text in zip(files, ("same", "same", "other"), strict=True):
        file.write_text(text)
    same, again, other = content_hashes(files, tmp_path)
    assert same == again != other
    assert content_hashes([*files, tmp_path / "gone"], tmp_path)[3].startswith(
        "unreadable: No such"
    )


def test_a_file_that_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    """Proven with an index that is wrong: it is believed as long as the times are the same."""
    old = Path(pytest.__file__)  # untouched since it was installed
    file = tmp_path / "a"
    file.symlink_to(old)
    (digest,) = content_hashes([file], tmp_path)
    (index,) = (tmp_path / "cache").glob("hashes-*.json")
    index.write_text(index.read_text().replace(digest, "0" * 64))
    assert content_hashes([file], tmp_path) == ["0" * 64]
    file.unlink()
    file.write_bytes(b"x" * old.stat().st_size)  # as long as before
    (changed,) = content_hashes([file], tmp_path)
    assert changed not in (digest, "0" * 64)


def test_a_file_that_has_just_changed_is_read_again(tmp_path: Path) -> None:
    """Within a tick of the clock it may change once more and keep its times."""
    file = tmp_path / "a"
    file.write_text("content")
    content_hashes([file], tmp_path)
    assert not any("/a" in path.read_text() for path in (tmp_path / "cache").glob("hashes-*"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"/x": 3}'])
def test_a_garbled_index_is_made_anew(text: str, tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("content")
    first = content_hashes([file], tmp_path)
    for index in (tmp_path / "cache").glob("hashes-*"):
        index.write_text(text)
    assert content_hashes([file], tmp_path) == first
