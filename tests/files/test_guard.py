"""Foreign parsers at a distance: what hangs, crashes or explodes is refused, what is right is read as it was."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import mne
import numpy as np
import pytest
from scipy.io import savemat

from hvf.data.recordings.raw import is_epochs, open_recording
from hvf.data.trials.epochs import open_epochs
from hvf.files import guard
from hvf.files.guard import guarded
from hvf.registry import HvfError
from hvf.vision.embedding_files import read_content

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = {
    "read_raw",
    "read_raw_bids",
    "read_epochs",
    "what",
    "loadmat",
    "visititems",
    "ParquetFile",
}  # parsers of files from outside


@pytest.fixture(autouse=True)
def no_memory(tmp_path, monkeypatch):
    """Each test asks a child, and no index of files that passed."""
    monkeypatch.setenv("HVF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HVF_MAX_SECONDS", "1.5")


SETTLED = 0.2  # s after which a file that was written is remembered


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The files that a child was asked about."""
    paths: list[str] = []
    real = guard._Child.ask

    def ask(self: guard._Child, job: dict) -> dict:
        paths.append(job["path"])
        return real(self, job)

    monkeypatch.setattr(guard._Child, "ask", ask)
    return paths


@pytest.fixture
def fif(tmp_path) -> Path:
    path, x_NCT = tmp_path / "x-epo.fif", np.random.default_rng(0).standard_normal((6, 3, 20))
    mne.EpochsArray(x_NCT, mne.create_info(3, 100.0, "eeg"), verbose="error").save(path, verbose="error")
    return path


@pytest.fixture
def eeglab(tmp_path) -> Path:
    path, x_CT = tmp_path / "q.set", np.random.default_rng(0).standard_normal((3, 500))
    places = np.array([(f"E{i}", 0.1, 0.2, 0.3) for i in range(3)], [(k, "O") for k in ("labels", "X", "Y", "Z")])
    eeg = {"setname": "s", "nbchan": 3, "trials": 1, "pnts": 500, "srate": 100.0, "xmin": 0.0, "xmax": 5.0}
    eeg |= {"data": x_CT.astype(np.float32), "chanlocs": places, "event": [], "ref": "common"}
    savemat(path, {"EEG": eeg}, appendmat=False)
    return path


def tags(data: bytes) -> list[int]:
    """Where the tags of a FIFF file begin."""
    places = [0]
    while (tag := struct.unpack_from(">4i", data, places[-1]))[3] != -1:
        places.append(tag[3] or places[-1] + 16 + tag[2])
    return places


def in_a_circle(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    places = tags(data)
    struct.pack_into(">i", data, places[-4] + 12, places[2])
    path.write_bytes(data)
    return path


def of_false_size(path: Path) -> Path:
    """A .set one of whose fields says another type than it has: scipy crashes on it."""
    data = path.read_bytes()
    path.write_bytes(data[:324] + b"\x10" + data[325:])
    return path


def test_right_files_are_read_as_ever(fif, eeglab):
    assert np.array_equal(
        open_epochs(fif).get_data(verbose="error"), mne.read_epochs(fif, verbose="error").get_data(verbose="error")
    )
    direct = mne.io.read_raw(eeglab, verbose="error")
    assert np.array_equal(open_recording(eeglab)[:][0], direct[:][0])


@pytest.mark.slow(part=7)
def test_a_circle_of_tags_is_refused_everywhere(fif, tmp_path, asked):
    with pytest.raises(HvfError, match=r"x-epo\.fif.*(processor time|memory)"):
        open_epochs(in_a_circle(fif))
    with pytest.raises(HvfError):  # remembered: no second wait
        open_epochs(fif)
    assert len(asked) == 1
    other = fif.rename(tmp_path / "other.fif")
    assert not is_epochs(other)
    with pytest.raises(HvfError, match="processor time|memory"):
        open_recording(other)


def test_a_crash_stays_in_the_child(eeglab):
    with pytest.raises(HvfError, match=r"q\.set.*crashes on it \(SIG"):
        open_recording(of_false_size(eeglab))


def test_a_child_that_the_system_ends_is_no_fault_of_the_file_for_good(fif, monkeypatch):
    real, ended = guard._Child._answer, []

    def answer(self: guard._Child, *rest: object) -> dict:
        if not ended and rest[0] != json.dumps(sys.path):
            ended.append(os.kill(self.process.pid, signal.SIGKILL))
            self.process.wait()
        return real(self, *rest)

    monkeypatch.setattr(guard._Child, "_answer", answer)
    with pytest.raises(HvfError, match="the system ended mne while it read it"):
        open_epochs(fif)
    assert len(open_epochs(fif)) == 6


def test_the_next_file_after_a_crash_is_read(fif, eeglab):
    with pytest.raises(HvfError):
        open_recording(of_false_size(eeglab))
    assert len(open_epochs(fif)) == 6


def test_matlab_and_hdf5_go_the_same_way(tmp_path, eeglab):
    path = of_false_size(eeglab).rename(tmp_path / "features.mat")
    with pytest.raises(HvfError, match="scipy"):
        read_content(path, None)
    savemat(path, {"x": np.arange(6.0).reshape(2, 3)})
    assert read_content(path, None).entries["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.arange(6.0).reshape(2, 3)
    assert read_content(tmp_path / "a.h5", None).entries["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    with h5py.File(tmp_path / "a.h5", "w") as file:  # 8 TB of nothing in a few kB
        file.create_dataset("x", (10**6, 10**6), "f8", chunks=(1000, 1000))
    with pytest.raises(HvfError, match=r"a\.h5.*(memory|its values would take)"):
        read_content(tmp_path / "a.h5", None)


def test_a_file_that_cannot_be_read_is_tried_each_time(tmp_path, asked):
    path = tmp_path / "a_raw.fif"
    path.write_bytes(b"none")
    for n in (1, 2):
        with pytest.raises(HvfError, match=r"a_raw\.fif"):
            open_recording(path)
        assert len(asked) == n


def test_a_refusal_is_remembered_until_a_file_beside_it_changes(tmp_path, asked, monkeypatch):
    (tmp_path / "q.h5").write_bytes(b"none")
    guard._child()
    monkeypatch.setattr(guard._Child, "_send", lambda *_: {"fault": "{library} crashes on it"})
    for _ in range(2):
        with pytest.raises(HvfError, match="h5py crashes on it"):
            guarded(tmp_path / "q.h5", "hdf5", lambda: None)
    assert len(asked) == 1
    (tmp_path / "q.dat").write_bytes(b"")
    with pytest.raises(HvfError, match="h5py crashes on it"):
        guarded(tmp_path / "q.h5", "hdf5", lambda: None)
    assert len(asked) == 2


def test_a_file_that_passed_is_remembered_until_it_changes(fif, asked):
    time.sleep(SETTLED)
    for _ in range(3):
        guarded(fif, "epochs", lambda: None)
    assert asked == [str(fif)]
    fif.write_bytes(fif.read_bytes() + bytes(1))
    guarded(fif, "epochs", lambda: None)
    assert len(asked) == 2


def test_what_was_opened_beside_it_counts_too(tmp_path, asked):
    """The header of a BrainVision recording stays, its data change."""
    head = "Brain Vision Data Exchange {} File{} Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\nDataFile=other.eeg\n"
    header = head.format("Header", "") + "MarkerFile=s.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
    header += "NumberOfChannels=1\nSamplingInterval=10000\n\n[Binary Infos]\nBinaryFormat=INT_16\n\n[Channel Infos]\n"
    (tmp_path / "s.vhdr").write_text(header + "Ch1=Oz,,0.5,µV\n", encoding="utf-8")
    (tmp_path / "s.vmrk").write_text(head.format("Marker", ",") + "\n[Marker Infos]\nMk1=New Segment,,1,1,0\n")
    (tmp_path / "other.eeg").write_bytes(bytes(2000))
    time.sleep(SETTLED)
    for _ in range(2):
        open_recording(tmp_path / "s.vhdr")
    assert len(asked) == 1
    (tmp_path / "other.eeg").write_bytes(bytes(2002))
    open_recording(tmp_path / "s.vhdr")
    assert len(asked) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_are_refused(tmp_path):
    os.mkfifo(tmp_path / "a_raw.fif")
    with pytest.raises(HvfError, match="pipe"):
        open_recording(tmp_path / "a_raw.fif")


def test_a_forked_process_has_a_child_of_its_own(fif):
    open_epochs(fif)
    mine = guard._children[0].process.pid
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            guard._refused.clear()
            os.environ["HVF_CACHE"] = os.devnull + "/none"
            open_epochs(fif)
            os.write(write, str(guard._children[0].process.pid).encode())
            guard._children[0].stop()
        finally:
            os._exit(0)
    os.close(write)
    other = int(os.read(read, 100))
    os.waitpid(pid, 0)
    assert other != mine
    assert guard._children[0].process.pid == mine
    assert guard._children[0].lives()


@pytest.mark.slow(part=7)
def test_the_child_ends_with_its_parent(fif, tmp_path):
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom hvf.files import guard\n"
        f"guard.guarded(Path({str(fif)!r}), 'epochs', lambda: None)\n"
        "print(guard._children[0].process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    came = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert came.returncode == -signal.SIGKILL, came.stderr
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(int(came.stdout), 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{came.stdout.strip()}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the child lives on")


# --- there is no other way to a parser --------------------------------------------------------------------------------


def unguarded(source: str) -> list[str]:
    """Foreign parsers that are named outside of a call of `guarded`, or of what it is given by name."""
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    inside = [node for node in calls if isinstance(node.func, ast.Name) and node.func.id == "guarded"]
    named = {arg.id for node in inside for arg in node.args if isinstance(arg, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in named:
            inside.append(node)
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id in named for t in node.targets):
            inside.append(node)
    allowed = {id(part) for node in inside for part in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        of_mne = name != "what" or isinstance(node, ast.Attribute)
        of_mne &= not isinstance(node, ast.Attribute) or ast.unparse(node.value) in ("mne", "mne.io", "file", "pq")
        if (name in FOREIGN or name.startswith("read_raw_")) and of_mne and id(node) not in allowed:
            found.append(f"{name} (line {node.lineno})")
    return found


def test_every_foreign_parser_is_guarded():
    for folder in ("hvf", "eval", "brain_training", "prior_training"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.name == "parser_process.py" or path.parts[-2] == "things_eeg2":  # whose read_raw interprets pickles
                continue
            source = path.read_text(encoding="utf-8")
            if re.search(rf"\b({'|'.join(FOREIGN)}|read_raw_\w+)\b", source):
                assert unguarded(source) == [], path


@pytest.mark.parametrize(
    ("source", "n"),
    [
        ("mne.read_epochs(path)", 1),
        ("guarded(path, 'epochs', lambda: mne.read_epochs(path))", 0),
        ("read = partial(mne.io.read_raw, path)\nguarded(path, 'recording', read)", 0),
        ("read = partial(mne.io.read_raw, path)\nread()", 1),
        ("x = mne.io.read_raw_fif(path)", 1),
        ("loadmat(path)", 1),
    ],
)
def test_the_test_catches_what_it_should(source, n):
    assert len(unguarded(source)) == n
