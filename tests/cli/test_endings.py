"""How commands and scripts end: by themselves, refused, interrupted, terminated, and with nobody reading."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hvf.cli.endings import Terminated, run_to_end
from hvf.cli.options import run_script
from hvf.registry import HvfError


def raising(error: BaseException):
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (HvfError("no such file"), 2, "hvf: no such file\n"),
        (HvfError("no \x1b[2Jsuch\nfile"), 2, "hvf: no [2Jsuch file\n"),
        (OSError(28, "No space left on device"), 2, "hvf: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, "hvf: interrupted; the same command continues from what is finished\n"),
        (Terminated(), 143, "hvf: terminated; the same command continues from what is finished\n"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_one_line_and_a_code(capfd, error, code, said):
    out = os.dup(1)
    try:
        assert run_to_end(raising(error)) == code
    finally:
        os.dup2(out, 1)
    assert capfd.readouterr().err == said


def test_codes_of_its_own_and_faults_of_ours_pass():
    assert run_to_end(lambda: 1) == 1
    with pytest.raises(ZeroDivisionError):
        run_to_end(raising(ZeroDivisionError()))


def test_sigterm_unwinds_as_ctrl_c_does(tmp_path, capsys):
    seen = []

    def script(argv) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000):
                pass
        finally:
            seen.append("cleaned up")

    assert run_script(script) == 143
    assert seen == ["cleaned up"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert "terminated" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_that_comes_while_an_object_is_taken_away_is_not_lost(number, code, capfd):
    class Doomed:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)
            for _ in range(1000):
                pass

    def work() -> int:
        Doomed()
        for _ in range(200):
            time.sleep(0.01)
        return 0

    former = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background shells ignore it
    try:
        assert run_to_end(work) == code
    finally:
        signal.signal(signal.SIGINT, former)
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_forked_child_dies_of_sigterm_without_a_word(capfd):
    def work() -> int:
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(told, b"x")
            time.sleep(30)
            os._exit(0)
        os.read(ready, 1)  # Python forgets a signal that comes while it forks
        os.kill(pid, signal.SIGTERM)
        return os.waitpid(pid, 0)[1]

    assert run_to_end(work) == signal.SIGTERM
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interr")]
)
def test_a_signal_that_a_library_tells_as_an_error_of_its_own_is_still_that_signal(capsys, number, code, word):
    def work() -> int:
        try:
            os.kill(os.getpid(), number)
            for _ in range(1000):
                pass
        except KeyboardInterrupt as error:  # as torch does while it reads a file
            raise HvfError("no open_clip model") from error
        return 0

    assert run_to_end(work) == code
    said = capsys.readouterr().err
    assert word in said
    assert "open_clip" not in said
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


WORKER = """
import sys, time
from hvf.cli.endings import run_to_end
sys.exit(run_to_end(lambda: print("up", flush=True) or time.sleep(60)))
"""
LAUNCHER = f"""
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", {WORKER!r}], start_new_session=True).pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process that its parent has gone")
def test_a_process_whose_launcher_has_gone_does_not_begin():
    """The shell stands for what adopts orphans."""
    orphan = f"{sys.executable} -c {shlex.quote(WORKER)}; echo ended with $?"
    environment = os.environ | {"TORCHELASTIC_RUN_ID": "x"}
    done = subprocess.run(["sh", "-c", orphan], env=environment, capture_output=True, text=True, timeout=50)
    assert "up" not in done.stdout
    assert "hvf: terminated" in done.stderr
    assert "ended with 143" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process that its parent has gone")
@pytest.mark.parametrize("launched", [True, False])
def test_processes_of_a_launcher_that_is_killed_go_with_it(launched):
    environment = os.environ | ({"TORCHELASTIC_RUN_ID": "x"} if launched else {})
    with subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, text=True, env=environment) as job:
        assert job.stdout is not None
        said = {job.stdout.readline().strip(), job.stdout.readline().strip()}
        assert "up" in said
        worker = int((said - {"up"}).pop())
        job.kill()
        job.wait()
        gone = False
        for _ in range(50 if launched else 5):
            time.sleep(0.1)
            try:
                gone = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
            except FileNotFoundError:
                gone = True
            if gone:
                break
        if not gone:
            os.kill(worker, signal.SIGKILL)
    assert gone == launched


PIPED = "import sys\nfrom hvf.cli.options import run_script\n" \
    "sys.exit(run_script(lambda argv: [print('line') for _ in range(100000)]))"  # fmt: skip


@pytest.mark.parametrize("words", [["-m", "hvf", "data", "--help"], ["-c", PIPED]], ids=["help", "lines"])
def test_a_reader_that_leaves_is_no_fault(words):
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
