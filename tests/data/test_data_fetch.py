from __future__ import annotations

import gzip
import hashlib
import io
import socket
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from withstand.data import fetch, verify
from withstand.data.cifar import CIFAR10, CIFAR100
from withstand.data.fetch import REMOTES, Remote, RemoteArchive, RemoteIdx
from withstand.data.idx import IDX_FILES
from withstand.types import DataError

CONTENTS = {"a-ubyte": b"first", "b-ubyte": b"second"}


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def everything_below(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def install(monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
    monkeypatch.setitem(REMOTES, "mnist", remote)


@pytest.fixture
def idx(serve: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> RemoteIdx:
    """Two small gzipped files on a loopback server, installed as mnist."""
    folder, url = serve
    for name, content in CONTENTS.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    remote = RemoteIdx(url, "MNIST/raw", {name: md5(content) for name, content in CONTENTS.items()})
    install(monkeypatch, remote)
    return remote


@pytest.fixture
def archive(serve: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> RemoteArchive:
    """A small archive on a loopback server, installed as mnist; one member tries to get out."""
    folder, url = serve
    with tarfile.open(folder / "c.tar.gz", "w:gz") as file:
        for name, content in {
            "bin/x.bin": b"xx",
            "bin/y.bin": b"yyy",
            "../evil": b"!",
            "bin/no": b"",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    digest = md5((folder / "c.tar.gz").read_bytes())
    remote = RemoteArchive(url, "bin", "c.tar.gz", digest, {"x.bin": 2, "y.bin": 3})
    install(monkeypatch, remote)
    return remote


def test_fetch_puts_gzipped_files_into_their_folder(idx: RemoteIdx, tmp_path: Path) -> None:
    root = tmp_path / "new" / "root"
    paths = fetch("mnist", root)
    assert paths == [root / "MNIST/raw/a-ubyte.gz", root / "MNIST/raw/b-ubyte.gz"]
    assert [gzip.decompress(path.read_bytes()) for path in paths] == list(CONTENTS.values())
    assert everything_below(root) == {"MNIST/raw/a-ubyte.gz", "MNIST/raw/b-ubyte.gz"}
    verify("mnist", root)


def test_fetch_unpacks_only_the_requested_members_of_an_archive(
    archive: RemoteArchive, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    paths = fetch("mnist", root)
    assert [path.read_bytes() for path in paths] == [b"xx", b"yyy"]
    assert everything_below(root) == {"bin/x.bin", "bin/y.bin"}
    assert not list(tmp_path.glob("**/evil"))


@pytest.mark.parametrize("kind", ["idx", "archive"])
def test_fetch_does_not_repeat_what_is_there(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    remote: Remote = request.getfixturevalue(kind)
    paths = fetch("mnist", tmp_path / "root")
    install(monkeypatch, replace(remote, base_url="http://127.0.0.1:1/"))
    assert fetch("mnist", tmp_path / "root") == paths


def test_fetch_counts_unpacked_files_as_there(
    idx: RemoteIdx, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "root" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    install(monkeypatch, replace(idx, base_url="http://127.0.0.1:1/"))
    assert fetch("mnist", tmp_path / "root") == [folder / name for name in CONTENTS]
    verify("mnist", tmp_path / "root")


@pytest.mark.parametrize(("kind", "file"), [("idx", "MNIST/raw/b-ubyte.gz"), ("archive", "bin/y.bin")])
def test_fetch_replaces_a_damaged_file(
    kind: str, file: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    request.getfixturevalue(kind)
    fetch("mnist", tmp_path / "root")
    path = tmp_path / "root" / file
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    fetch("mnist", tmp_path / "root")
    assert path.read_bytes() == whole


def test_fetch_takes_a_mirror(serve: tuple[Path, str], idx: RemoteIdx, tmp_path: Path) -> None:
    folder, url = serve
    (folder / "mirror").mkdir()
    for path in folder.glob("*.gz"):
        path.rename(folder / "mirror" / path.name)
    with pytest.raises(DataError, match="404"):
        fetch("mnist", tmp_path / "root")
    assert len(fetch("mnist", tmp_path / "root", base_url=f"{url}mirror")) == 2


def test_fetch_takes_the_root_from_the_environment(
    idx: RemoteIdx, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WITHSTAND_DATA", str(tmp_path / "named"))
    assert fetch("mnist")[0].is_relative_to(tmp_path / "named")


def test_fetch_throws_a_wrong_content_away(serve: tuple[Path, str], idx: RemoteIdx, tmp_path: Path) -> None:
    folder, url = serve
    (folder / "b-ubyte.gz").write_bytes(gzip.compress(b"other"))
    message = f"{url}b-ubyte.gz has md5 {md5(b'other')} instead of {md5(b'second')}, so it was thrown away"
    with pytest.raises(DataError, match=message):
        fetch("mnist", tmp_path / "root")
    assert everything_below(tmp_path / "root") == {"MNIST/raw/a-ubyte.gz"}


def test_fetch_throws_a_login_page_away(serve: tuple[Path, str], idx: RemoteIdx, tmp_path: Path) -> None:
    (serve[0] / "a-ubyte.gz").write_text("<html>Please log in</html>")
    with pytest.raises(DataError, match=r"md5 \(cannot be unpacked\) instead of .* a login page"):
        fetch("mnist", tmp_path / "root")
    assert everything_below(tmp_path / "root") == set()


def test_fetch_throws_a_wrong_archive_away(
    serve: tuple[Path, str], archive: RemoteArchive, tmp_path: Path
) -> None:
    path = serve[0] / "c.tar.gz"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=f"instead of {archive.md5}, so it was thrown away"):
        fetch("mnist", tmp_path / "root")
    assert everything_below(tmp_path / "root") == set()


def test_fetch_refuses_an_archive_without_its_files(
    archive: RemoteArchive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, replace(archive, sizes={"x.bin": 2, "z.bin": 1}))
    with pytest.raises(DataError, match=r"c.tar.gz lacks bin/z.bin"):
        fetch("mnist", tmp_path / "root")
    assert everything_below(tmp_path / "root") == set()


@pytest.mark.parametrize("kind", ["idx", "archive"])
def test_fetch_without_a_network_says_what_to_put_where(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    remote: Remote = request.getfixturevalue(kind)
    with socket.socket() as listener:
        # Bound but not listening: connections to this port are refused.
        listener.bind(("127.0.0.1", 0))
        install(monkeypatch, replace(remote, base_url=f"http://127.0.0.1:{listener.getsockname()[1]}/"))
        with pytest.raises(DataError) as error:
            fetch("mnist", tmp_path / "root")
    message = str(error.value)
    assert "Cannot fetch http://127.0.0.1:" in message
    assert f"into {tmp_path / 'root' / remote.folder} by hand" in message
    assert "--data.root" in message
    assert "WITHSTAND_DATA" in message
    assert everything_below(tmp_path / "root") == set()


def test_fetch_reports_an_unwritable_root(idx: RemoteIdx, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"Cannot write to the data root .*file/root.*WITHSTAND_DATA"):
        fetch("mnist", tmp_path / "file" / "root")


@pytest.mark.parametrize("name", ["digits", "cifar10-jpeg", "folder:x", "nist"])
def test_fetch_knows_only_some_data_sets(name: str) -> None:
    with pytest.raises(
        DataError, match=f"no download of the data set '{name}'.*mnist, fashion-mnist, cifar10"
    ):
        fetch(name)


def test_verify_names_what_is_wrong(idx: RemoteIdx, tmp_path: Path) -> None:
    first, second = fetch("mnist", tmp_path)
    second.write_bytes(gzip.compress(b"other"))
    with pytest.raises(
        DataError, match=f"{second.name} is damaged: its content has md5 {md5(b'other')} instead"
    ):
        verify("mnist", tmp_path)
    first.unlink()
    with pytest.raises(DataError, match=r"a-ubyte.gz is missing.*WITHSTAND_DATA"):
        verify("mnist", tmp_path)


def test_verify_says_that_unpacked_archives_have_no_hashes(archive: RemoteArchive, tmp_path: Path) -> None:
    fetch("mnist", tmp_path)
    with pytest.raises(
        DataError, match=r"Hashes are published for c.tar.gz, not for the files in it.*fetch it again"
    ):
        verify("mnist", tmp_path)


def test_remotes_fit_their_readers() -> None:
    assert set(REMOTES) == {"mnist", "fashion-mnist", "cifar10", "cifar100"}
    for remote in REMOTES.values():
        assert remote.base_url.endswith("/")
    for name, folder in {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}.items():
        idx = REMOTES[name]
        assert isinstance(idx, RemoteIdx)
        assert (idx.folder, tuple(idx.hashes)) == (folder, IDX_FILES)
        assert {len(digest) for digest in idx.hashes.values()} == {32}
    for name, files in {"cifar10": CIFAR10, "cifar100": CIFAR100}.items():
        archive = REMOTES[name]
        assert isinstance(archive, RemoteArchive)
        assert (archive.folder, archive.sizes) == (files.folder, files.sizes)
