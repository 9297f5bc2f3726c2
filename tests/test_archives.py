"""Archives from the network: what is in them arrives in their folder, or nothing does."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from trainables import DataError
from trainables.images.archives import unpack

Member = tuple[str, bytes, dict[str, object]]


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Path]:
    """Write a compressed tar file; each member is a name, its content, and what is odd about it."""

    def write(*members: Member) -> Path:
        path = tmp_path / "archive.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            for name, content, odd in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                for key, value in odd.items():
                    setattr(info, key, value)
                tar.addfile(info, io.BytesIO(content))
        return path

    return write


def unpacked(path: Path, **limits: int) -> dict[str, bytes]:
    (folder := path.parent / "data").mkdir(exist_ok=True)
    unpack(path, folder, **limits)
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_files_and_folders_arrive_and_replace_what_was_there(archive: Callable[..., Path]) -> None:
    path = archive(
        ("batches", b"", {"type": tarfile.DIRTYPE}),
        ("batches/one", b"1", {}),
        ("./batches/deep/two", b"22", {"mode": 0o4777}),
    )
    (path.parent / "data" / "batches").mkdir(parents=True)
    (path.parent / "data" / "batches" / "one").write_bytes(b"old")
    (path.parent / "data" / "mine").write_bytes(b"stays")
    assert unpacked(path) == {"batches/one": b"1", "batches/deep/two": b"22", "mine": b"stays"}
    mode = (path.parent / "data" / "batches" / "deep" / "two").stat().st_mode
    assert mode & 0o7022 == 0  # neither setuid nor for others to write


@pytest.mark.parametrize(
    "member",
    [
        ("../evil", b"x", {}),
        ("batches/../../evil", b"x", {}),
        ("/tmp/hpo-evil", b"x", {}),  # noqa: S108
        ("link", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        ("link", b"", {"type": tarfile.SYMTYPE, "linkname": "good"}),
        ("link", b"", {"type": tarfile.LNKTYPE, "linkname": "../outside"}),
        ("device", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
        ("pipe", b"", {"type": tarfile.FIFOTYPE}),
    ],
    ids=lambda member: f"{member[0]}-{member[2].get('type', b'')!r}",
)
def test_what_leads_elsewhere_is_refused_and_nothing_arrives(
    archive: Callable[..., Path], member: Member
) -> None:
    path = archive(("good", b"x", {}), member)
    (path.parent / "outside").write_bytes(b"secret")
    with pytest.raises(DataError, match=r"archive\.tar\.gz cannot be unpacked"):
        unpacked(path)
    assert sorted(file.name for file in path.parent.rglob("*")) == [
        "archive.tar.gz",
        "data",
        "outside",
    ]
    assert not Path("/tmp/hpo-evil").exists()  # noqa: S108


def test_a_bomb_is_refused_before_it_fills_the_disk(archive: Callable[..., Path]) -> None:
    path = archive(("good", b"x", {}), ("zeros", bytes(10_000_000), {}))
    assert path.stat().st_size < 20_000
    with pytest.raises(DataError, match="more than 5,000,000 bytes"):
        unpacked(path, max_bytes=5_000_000)
    assert list((path.parent / "data").iterdir()) == []


def test_an_archive_that_was_cut_off_is_refused(archive: Callable[..., Path]) -> None:
    path = archive(("good", bytes(range(256)) * 100, {}))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpacked(path)
    assert list((path.parent / "data").iterdir()) == []
