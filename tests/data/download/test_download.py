"""Data sets from servers that look like OSF, the Hub and OpenNeuro: whole files, or one clear error."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from hvf.config import HvfError
from hvf.data.download import catalogue as module
from hvf.data.download.catalogue import download, sources
from hvf.data.download.transfer import RemoteFile
from tests.data.download.http_server import CONTENT, offer, visible


def osf(server, node="crxs4", sizes=True, hashes=True):
    """A project with an add-on, subfolders and two pages, as OSF's API tells it."""
    base = f"{server.url}/v2/nodes/{node}/files"

    def folder(name, href):
        link = {"links": {"related": {"href": href, "meta": {}}}}
        return {"attributes": {"kind": "folder", "name": name}, "relationships": {"files": link}, "links": {}}

    def file(path, content):
        server.files[f"/dl{path}"] = content
        told = {"kind": "file", "name": Path(path).name, "materialized_path": path}
        told["size"] = len(content) if sizes else None
        found = {"md5": hashlib.md5(content).hexdigest(), "sha256": hashlib.sha256(content).hexdigest()}
        told["extra"] = {"hashes": found if hashes else {}}
        return {"attributes": told, "links": {"download": f"{server.url}/dl{path}"}}

    root, drive = f"/v2/nodes/{node}/files/", f"/v2/nodes/{node}/files/googledrive/"
    providers = [folder("osfstorage", base + "/osfstorage/"), folder("googledrive", base + "/googledrive/")]
    server.answers[root] = {"data": providers, "links": {"next": None}}
    server.answers[f"/v2/nodes/{node}/files/osfstorage/"] = {"data": [file("/notes.txt", b"hello")], "links": {}}
    first, second = file("/sub-01.zip", b"one" * 1000), file("/sub-02.zip", b"two" * 1000)
    server.answers[drive] = {"data": [first, folder("more", base + "/more/")], "links": {"next": base + "/page2/"}}
    server.answers[f"/v2/nodes/{node}/files/page2/"] = {"data": [second], "links": {"next": None}}
    server.answers[f"/v2/nodes/{node}/files/more/"] = {"data": [file("/more/sub-10.zip", b"ten")], "links": {}}
    return server.url + "/v2"


ALL = ["raw_data", "raw_data/more", "raw_data/more/sub-10.zip"]
ALL += ["raw_data/notes.txt", "raw_data/sub-01.zip", "raw_data/sub-02.zip"]


def get(server, out, name="things-eeg2-raw", subjects=None, api=None, attempts=3):
    return download(name, out, subjects, api=api or server.url + "/v2", attempts=attempts, backoff=0.001)


@pytest.mark.parametrize("told", [{}, {"hashes": False}, {"hashes": False, "sizes": False}], ids=str)
def test_osf(server, tmp_path, told):
    osf(server, **told)
    out = tmp_path / "out"
    paths = get(server, out)
    assert visible(out) == ALL
    assert sorted(p.relative_to(out).as_posix() for p in paths) == [p for p in ALL if "." in p]
    assert (out / "raw_data" / "sub-02.zip").read_bytes() == b"two" * 1000
    assert not list(out.rglob(".*"))


def test_osf_subjects(server, tmp_path):
    osf(server)
    get(server, tmp_path, subjects=[1])
    assert visible(tmp_path) == ["raw_data", "raw_data/notes.txt", "raw_data/sub-01.zip"]
    get(server, tmp_path, subjects=[1, 10])
    assert (tmp_path / "raw_data" / "more" / "sub-10.zip").exists()
    for subjects, words in (([11], "subjects 1 to 10"), ([0], "does not exist"), ([3], "no file of subject 3")):
        with pytest.raises(HvfError, match=words):
            get(server, tmp_path, subjects=subjects)


def test_what_is_whole_is_kept(server, tmp_path):
    osf(server)
    get(server, tmp_path)
    sent = [r for r in server.requests if r[1].startswith("/dl")]
    get(server, tmp_path)
    assert [r for r in server.requests if r[1].startswith("/dl")] == sent
    (tmp_path / "raw_data" / "sub-01.zip").unlink()
    get(server, tmp_path)
    assert [r[1] for r in server.requests if r[1].startswith("/dl")][len(sent) :] == ["/dl/sub-01.zip"]


def test_another_file_of_the_name_is_never_overwritten(server, tmp_path):
    osf(server)
    mine = tmp_path / "raw_data" / "sub-01.zip"
    mine.parent.mkdir()
    for content in (b"mine", b"xxx" * 1000):
        mine.write_bytes(content)
        with pytest.raises(HvfError, match="move it away"):
            get(server, tmp_path)
        assert mine.read_bytes() == content
    assert visible(tmp_path) == ["raw_data", "raw_data/sub-01.zip"]


def test_a_full_disk_is_refused_before_the_first_byte(server, tmp_path, monkeypatch):
    osf(server)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=2**40, used=0, free=2**26 + 5000))
    with pytest.raises(HvfError, match=r"needs 0.00 GB more .* free"):
        get(server, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not [r for r in server.requests if r[1].startswith("/dl")]
    get(server, tmp_path / "out", subjects=[1])  # that much fits


def test_osf_trouble(server, tmp_path):
    osf(server)
    root, page = "/v2/nodes/crxs4/files/", "/v2/nodes/crxs4/files/page2/"
    server.faults[root] = [500, 429]
    server.faults["/dl/sub-01.zip"] = ["drops", "wrong bytes"]
    get(server, tmp_path / "good")
    assert visible(tmp_path / "good") == ALL
    good = dict(server.answers)
    for change, words in (
        ({page: b"<html>"}, "not JSON"),
        ({page: {"errors": []}}, "another form"),
        ({page: {"data": [{"attributes": {"kind": "file"}}]}}, "another form"),
        ({root: {"data": [], "links": {}}}, "lists no file"),
    ):
        server.answers = {**good, **change}
        with pytest.raises(HvfError, match=words):
            get(server, tmp_path / "bad")
    server.answers = good
    good[page]["data"][0]["attributes"]["materialized_path"] = "/../../evil.zip"
    with pytest.raises(HvfError, match="outside"):
        get(server, tmp_path / "bad")
    server.answers = {}
    with pytest.raises(HvfError, match="404"):
        get(server, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_one_bad_file_leaves_the_others_whole(server, tmp_path):
    osf(server)
    server.always["/dl/sub-02.zip"] = "wrong bytes"
    with pytest.raises(HvfError, match="sub-02.zip: its checksum"):
        get(server, tmp_path)
    assert "raw_data/sub-02.zip" not in visible(tmp_path)
    assert (tmp_path / "raw_data" / "sub-01.zip").read_bytes() == b"one" * 1000


def test_a_list_that_turns_in_circles_ends(server, tmp_path):
    osf(server)
    server.answers["/v2/nodes/crxs4/files/more/"]["links"]["next"] = server.url + "/v2/nodes/crxs4/files/"
    get(server, tmp_path)
    assert visible(tmp_path) == ALL


SHA = "c" * 40


REPO = "Haitao999/things-eeg"


TRAIN = "Preprocessed_data_250Hz_whiten/sub-01/train.pt"


@pytest.fixture
def hub(server, monkeypatch):
    """A repository with a large (LFS) and a small file, as the Hub tells it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 5)
    contents = {TRAIN: CONTENT, TRAIN.replace("01", "02"): b"two", "README.md": b"# data\n"}
    offer(server, REPO, contents, "datasets")
    return lambda out, **kwargs: get(server, out, "things-eeg2-whitened", api=server.url, **kwargs)


def test_hub(server, hub, tmp_path):
    hub(tmp_path, subjects=[1])
    assert (tmp_path / TRAIN).read_bytes() == CONTENT
    assert "README.md" in visible(tmp_path)
    assert TRAIN.replace("01", "02") not in visible(tmp_path)
    assert not list(tmp_path.glob(".*"))
    sent = server.sent
    hub(tmp_path, subjects=[1])
    assert server.sent - sent < 5000  # the list alone


def test_hub_faults_that_pass(server, hub, tmp_path):
    server.faults[f"/datasets/{REPO}/resolve/{SHA}/{TRAIN}"] = ["wrong bytes", "drops"]
    hub(tmp_path)
    assert (tmp_path / TRAIN).read_bytes() == CONTENT
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("fault", ["wrong bytes", "truncates", 404, 403])
def test_hub_faults_that_stay(server, hub, tmp_path, fault):
    server.always[f"/datasets/{REPO}/resolve/{SHA}/{TRAIN}"] = fault
    with pytest.raises(HvfError, match="train.pt of things-eeg2-whitened") as error:
        hub(tmp_path, subjects=[1], attempts=2)
    assert "\n" not in str(error.value)
    assert TRAIN not in visible(tmp_path)


def test_hub_repository_that_is_gone(server, tmp_path):
    with pytest.raises(HvfError, match="cannot list the files of Haitao999/things-eeg"):
        get(server, tmp_path / "out", "things-eeg2-whitened", api=server.url, attempts=2)
    assert not (tmp_path / "out").exists()


EPOCHS = "derivatives/preprocessed/preprocessed_P1-epo.fif"


@pytest.fixture
def openneuro(server, monkeypatch):
    """A snapshot as OpenNeuro's GraphQL tells it, with its files on the same server."""
    pytest.importorskip("openneuro")
    monkeypatch.setattr("openneuro._download.gql_url", server.url + "/graphql")
    contents = {
        EPOCHS: CONTENT,
        EPOCHS.replace("P1", "P2"): b"two",
        "sourcedata/sample_attributes_P1.csv": b"a,b\n",
        "sub-BIGMEG1/ses-01/meg/sub-BIGMEG1_ses-01.ds/x.meg4": b"raw",
        "dataset_description.json": json.dumps({"Name": "THINGS-MEG", "BIDSVersion": "1.8.0"}).encode(),
    }
    files = []
    for path, content in contents.items():
        server.files[f"/s3/{path}"] = content
        files.append({"filename": path, "size": len(content), "urls": [f"{server.url}/s3/{path}"], "id": path})
    snapshot = {"id": "ds004212:3.0.0", "files": files}
    dataset = {"latestSnapshot": snapshot, "snapshots": [{"id": "ds004212:3.0.0"}]}
    server.answers["/graphql"] = {"data": {"dataset": dataset, "snapshot": snapshot}}
    return lambda out, name="things-meg", **kwargs: get(server, out, name, api=server.url + "/graphql", **kwargs)


def test_openneuro(server, openneuro, tmp_path):
    openneuro(tmp_path, subjects=[1])
    assert (tmp_path / EPOCHS).read_bytes() == CONTENT
    found = [p for p in visible(tmp_path) if (tmp_path / p).is_file()]
    assert found == ["dataset_description.json", EPOCHS, "sourcedata/sample_attributes_P1.csv"]
    assert not list(tmp_path.glob(".*"))
    openneuro(tmp_path, "things-meg-raw")
    assert (tmp_path / "sub-BIGMEG1/ses-01/meg/sub-BIGMEG1_ses-01.ds/x.meg4").read_bytes() == b"raw"


def test_openneuro_faults_that_pass(server, openneuro, tmp_path):
    server.faults[f"/s3/{EPOCHS}"] = ["drops", 503]
    openneuro(tmp_path)
    assert (tmp_path / EPOCHS).read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["truncates", 404])
def test_openneuro_faults_that_stay(server, openneuro, tmp_path, fault, monkeypatch):
    library = module._openneuro_transfer

    def impatient(*args):
        import openneuro

        monkeypatch.setattr(openneuro, "download", _with(openneuro.download, max_retries=1))
        return library(*args)

    monkeypatch.setattr(module, "_openneuro_transfer", impatient)
    server.always[f"/s3/{EPOCHS}"] = fault
    with pytest.raises(HvfError, match="preprocessed_P1-epo.fif of things-meg") as error:
        openneuro(tmp_path, attempts=1)
    assert "\n" not in str(error.value)
    assert EPOCHS not in visible(tmp_path)


def _with(function, **more):
    return lambda **kwargs: function(**kwargs, **more)


def test_openneuro_without_the_dataset(server, openneuro, tmp_path):
    server.answers["/graphql"] = {"data": {"dataset": None}, "errors": [{"message": "not found"}]}
    with pytest.raises(HvfError, match="does not list the files of ds004212"):
        openneuro(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sources():
    for name, source in sources().items():
        assert source.service in module.SERVICES, name
        assert source.page.startswith("https://"), name


def test_unknown_names_and_subjects(tmp_path):
    with pytest.raises(HvfError, match="did you mean 'things-eeg2-raw'"):
        download("things-eeg2-row", tmp_path)
    with pytest.raises(HvfError, match="not divided by subject"):
        download("things-images", tmp_path, subjects=[1])
    with pytest.raises(HvfError, match="subjects 1 to 4"):
        download("things-meg", tmp_path, subjects=[5])


@pytest.mark.parametrize(
    ("name", "path", "subject"),
    [
        ("things-eeg2-raw", "sub-08.zip", 8),
        ("things-eeg2-raw", "sub-10/ses-01/raw_eeg_test.npy", 10),
        ("things-meg", "derivatives/preprocessed/preprocessed_P4-epo-2.fif", 4),
        ("things-meg", "sourcedata/sample_attributes_P2.csv", 2),
        ("things-meg-raw", "sub-BIGMEG3/ses-01/meg/x.meg4", 3),
        ("things-eeg2-whitened", TRAIN, 1),
    ],
)
def test_the_subject_is_found_in_the_path(name, path, subject):
    files = [RemoteFile(path, 1)]
    assert module._chosen(name, sources()[name], files, [subject])
    with pytest.raises(HvfError, match="no file"):
        module._chosen(name, sources()[name], files, [subject % 4 + 1])
