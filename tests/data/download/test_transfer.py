"""One file from a real HTTP server that drops, truncates, lies and refuses: whole, or one clear error."""

from __future__ import annotations

import hashlib

import pytest

from hvf.config import HvfError
from hvf.data.download.transfer import RemoteFile, fetch
from tests.data.download.http_server import CONTENT, visible

SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


def run(server, tmp_path, checksum=SHA256, size=3_000_000, **kwargs):
    server.files["/x"] = CONTENT
    path = tmp_path / "x.npy"
    fetch(RemoteFile("x.npy", size, checksum, server.url + "/x"), path, attempts=3, backoff=0.001, **kwargs)
    return path


def test_whole_file(server, tmp_path):
    told = []
    path = run(server, tmp_path, advance=told.append)
    assert path.read_bytes() == CONTENT
    assert sum(told) == len(CONTENT)
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]


@pytest.mark.parametrize(
    "faults",
    [
        ["drops"],
        ["drops"] * 8,  # each brings something, so this is no reason to give up
        ["drops at once", "drops at once"],
        ["drops without length"],
        ["announces more"],
        ["announces less"],
        ["truncates"],
        ["wrong bytes"],
        ["drops", "wrong bytes"],
        ["drops", "ignores range"],
        ["drops", "other part"],
        ["endless"],
        ["web page"],
        [500, 503],
        [429],
        ["drops", 502, "drops", 416],
    ],
    ids=str,
)
@pytest.mark.parametrize("checksum", [SHA256, "md5:" + hashlib.md5(CONTENT).hexdigest()], ids=["sha256", "md5"])
def test_faults_that_pass(server, tmp_path, faults, checksum):
    server.faults["/x"] = list(faults)
    told = []
    path = run(server, tmp_path, checksum, advance=told.append)
    assert path.read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]
    assert not server.faults["/x"]
    assert sum(told) == len(CONTENT)


@pytest.mark.parametrize("fault", ["drops", "drops at once", "announces more", "truncates", "web page", "endless", 503])
def test_faults_that_pass_where_no_checksum_is_known(server, tmp_path, fault):
    server.faults["/x"] = [fault]
    assert run(server, tmp_path, checksum=None).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("drops at once", "connection"),
        ("announces more", "offers 3001000 bytes, the service lists 3000000"),
        ("announces less", "offers 1500000 bytes"),
        ("wrong bytes", "checksum"),
        ("web page", "web page|offers"),
        ("endless", "more than the 3000000 bytes"),
        (404, "404"),
        (403, "403"),
        (500, "500"),
    ],
)
def test_faults_that_stay(server, tmp_path, fault, words):
    server.always["/x"] = fault
    with pytest.raises(HvfError, match=words) as error:
        run(server, tmp_path)
    assert "\n" not in str(error.value)
    assert visible(tmp_path) == []
    server.always.clear()  # and later all is well
    assert run(server, tmp_path).read_bytes() == CONTENT


def test_a_refusal_is_not_repeated(server, tmp_path):
    server.always["/x"] = 404
    with pytest.raises(HvfError, match="404"):
        run(server, tmp_path)
    assert len(server.requests) == 1


def test_no_server(server, tmp_path):
    file = RemoteFile("x.npy", 5, None, "http://127.0.0.1:9/x")
    with pytest.raises(HvfError, match="cannot be reached"):
        fetch(file, tmp_path / "x.npy", attempts=2, backoff=0.001)
    assert list(tmp_path.iterdir()) == []


def test_a_partial_file_is_resumed(server, tmp_path):
    (tmp_path / ".x.npy.part").write_bytes(CONTENT[:2_000_000])
    assert run(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [("GET", "/x", "bytes=2000000-")]
    assert server.sent == 1_000_000


def test_a_wrong_partial_file_is_thrown_away(server, tmp_path):
    for wrong in (b"wrong" * 1000, bytes(len(CONTENT)), bytes(len(CONTENT) + 5)):
        (tmp_path / ".x.npy.part").write_bytes(wrong)
        path = run(server, tmp_path)
        assert path.read_bytes() == CONTENT
        path.unlink()


def test_sizes_that_the_service_does_not_tell(server, tmp_path):
    assert run(server, tmp_path, checksum=None, size=None).read_bytes() == CONTENT
    (tmp_path / "x.npy").unlink()
    server.always["/x"] = "drops at once"
    with pytest.raises(HvfError, match="connection broke"):
        run(server, tmp_path, checksum=None, size=None)
    assert visible(tmp_path) == []
    server.files["/e"] = b""
    fetch(RemoteFile("e", 0, None, server.url + "/e"), tmp_path / "e")
    assert (tmp_path / "e").read_bytes() == b""


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "..", "", "C:/x", "a\\..\\..\\x", "x\0y"])
def test_paths_that_leave_the_folder(path):
    with pytest.raises(HvfError, match="outside"):
        RemoteFile(path, 1)
