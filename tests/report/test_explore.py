"""The explorer's server: what it answers, to whom, and that no client keeps it from answering others."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvf import report
from hvf.config import Config, HvfError
from hvf.report import explore, server
from hvf.report.folder import Folder
from hvf.runs import Run
from tests.a_result import a_result

N = 6
SECONDS = int(os.environ.get("HVF_SECONDS", "10"))  # of load; docs/reliability.md has the figures of a minute


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run with a picture for each of its images."""
    run = Run.create(tmp_path_factory.mktemp("explored") / "run", Config())
    a_result(
        [f"id{i}" for i in range(N)], {"brain": [1] * N}, [[(i + k) % N for k in range(5)] for i in range(N)]
    ).write(run.path)
    (run.path / "images" / "seen").mkdir(parents=True)
    for i in range(N):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(run.path / "images" / "seen" / f"{i:04d}_id{i}.png")
    return run.path


@contextmanager
def served(*paths: Path):
    """The port of a server of these runs."""
    one = explore.make_server(paths, 0)
    thread = threading.Thread(target=one.serve_forever, daemon=True)
    thread.start()
    try:
        yield one.server_address[1]
    finally:
        one.shutdown()
        one.server_close()
        thread.join()


def request(port: int, path: str, host: str = "", method: str = "GET") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: {host or f'127.0.0.1:{port}'}\r\nConnection: close\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), 60) as link:
        link.sendall(head)
        return b"".join(iter(lambda: link.recv(2**16), b""))


def ask(port: int, *words: str) -> str:
    """The status of an answer, or why there was none."""
    try:
        return (request(port, *words) or b" none ").split(b" ", 2)[1].decode()
    except OSError as error:
        return type(error).__name__


def test_what_is_answered_and_to_whom(run):
    with served(run) as port:
        for path, status in {
            "/": "200", "/explore.js?x=1": "200", "/runs.json": "200", "/picture/0/seen/0/0.png": "200",
            "/picture/1/seen/0/0.png": "404", "/picture/0/seen/6/0.png": "404", "/picture/0/seen/0/1.png": "404",
            "/picture/0/floor/0/0.png": "404", f"/picture/0/seen/0/{'9' * 5000}.png": "404",
            f"/picture/0/{'9' * 5000}/0/0.png": "404", "/picture/0/seen/٣/0.png": "404", "/../config.json": "404",
            "/%2e%2e/config.json": "404", "/config.json": "404", "http://elsewhere/": "404",
        }.items():  # fmt: skip
            quoted = path.replace("٣", "%D9%A3")
            assert ask(port, quoted) == status, path
        for host, status in {
            "localhost": "200", "LocalHost:1234": "200", "127.0.0.1:{}": "200", "127.0.0.1": "200",
            "127.0.0.1:{}@elsewhere": "403", "elsewhere@127.0.0.1:{}": "403", "127.0.0.1.elsewhere:{}": "403",
            "localhost.elsewhere": "403", "elsewhere:{}": "403", "127.0.0.1:{}:80": "403", "127.0.0.1:x": "403",
            "[::1]:{}": "403", "127.0.0.2:{}": "403", "127.0.0.1:٣": "403",
        }.items():  # fmt: skip
            told = host.format(port)
            if told.isascii():
                assert ask(port, "/runs.json", told) == status, host
            else:
                assert explore.Pages([Folder(run)]).answer(told, "/runs.json").status == int(status)
        assert ask(port, "/runs.json", "", "POST") == "405"
        assert ask(port, "/runs.json", "a\r\nHost: localhost") == "400"
        said = request(port, "/")
        assert b"content-security-policy: default-src 'none'" in said
        assert b"unsafe-inline" not in said
        assert request(port, "/runs.json", "", "HEAD").endswith(b"\r\n\r\n")


def test_two_hundred_at_once_are_answered_by_a_few_threads(run):
    before, most = threading.active_count(), []
    with served(run) as port:
        gate, crowd = threading.Barrier(200), []
        several = [
            threading.Thread(target=lambda: (gate.wait(), crowd.append(ask(port, "/runs.json")))) for _ in range(200)
        ]
        for thread in several:
            thread.start()
        most.append(threading.active_count() - before - 200)
        for thread in several:
            thread.join()
        most.append(threading.active_count() - before)
    assert Counter(crowd) == {"200": 200}
    assert max(most) <= server.WORKERS + 1


@pytest.mark.slow(part=7)
def test_who_says_nothing_half_or_reads_nothing_keeps_nobody_waiting_and_is_sent_away(run, monkeypatch):
    monkeypatch.setattr(server, "PATIENCE", 3.0)
    with served(run) as port:
        idle = [socket.create_connection(("127.0.0.1", port), 30) for _ in range(300)]
        for link in idle[:100]:
            link.sendall(b"GET /runs.json HTTP/1.1\r\nHost: localhost\r\nX-")
        assert ask(port, "/picture/0/seen/1/0.png") == "200"
        slow, end = idle[0], time.monotonic() + 60
        with suppress(OSError):
            while time.monotonic() < end:  # a byte now and then does not count as a request
                slow.sendall(b"a")
                time.sleep(0.1)
        assert time.monotonic() < end
        for link in idle[1:]:
            with suppress(ConnectionResetError):
                assert link.recv(1) == b""
            link.close()
        assert ask(port, "/picture/0/seen/2/0.png") == "200"


def test_links_that_lead_out_are_refused_by_page_and_explorer(run, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), "red").save(secret)
    for link, target in (
        ("images/seen/0007_x.png", secret),
        ("embedding.png", secret),
        ("windows.json", "/etc/hostname"),
    ):
        copy = tmp_path / f"copy_{Path(link).stem}"
        subprocess.run(["cp", "-r", run, copy], check=True)
        (copy / link).symlink_to(target)
        with pytest.raises(HvfError, match=f"{Path(link).name} leads out of the folder"):
            report.write_report([copy], tmp_path / "page.html")
        if link.startswith("images"):
            answer = explore.Pages([Folder(copy)]).answer("localhost", "/picture/0/seen/7/0.png")
            assert answer.status == 500
            assert b"leads out" in answer.body
    assert not (tmp_path / "page.html").exists()
    inside = tmp_path / "copy_0007_x" / "images" / "seen" / "0007_x.png"
    inside.unlink()
    inside.symlink_to("0001_id1.png")  # a link within the folder is as good as the file
    (tmp_path / "link").symlink_to(tmp_path / "copy_0007_x")
    report.write_report([tmp_path / "link"], tmp_path / "page.html")


def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(run, tmp_path):
    subprocess.run(["cp", "-r", run, tmp_path / "copy"], check=True)
    os.mkfifo(tmp_path / "copy" / "windows.json")
    with pytest.raises(HvfError, match=r"windows.json is no file"):
        report.write_report([tmp_path / "copy"], tmp_path / "page.html")


def test_ports(run):
    with pytest.raises(HvfError, match="a port is a number up to 65535"):
        explore.make_server([run], 70000)
    taken = server.listening(0)
    with pytest.raises(HvfError, match="choose --port"):
        explore.make_server([run], taken.getsockname()[1])
    taken.close()


@pytest.mark.slow(part=8)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_it_with_one_line(run, number, code):
    command = [sys.executable, "-m", "hvf", "explore", str(run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1]
        open_one = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
        open_one.close()
    assert process.returncode == code
    assert len(said.splitlines()) == 1
    assert said.startswith("hvf: ")


@pytest.mark.slow(part=8)
def test_three_hundred_clients(run, capsys):
    """Each asks for pictures and data without a pause; every answer comes, in bounded memory."""
    end, counts, late = time.monotonic() + SECONDS, Counter(), []

    def client(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while time.monotonic() < end:
            began = time.monotonic()
            path = "/runs.json" if rng.random() < 0.2 else f"/picture/0/seen/{rng.integers(N)}/0.png"
            counts[ask(port, path)] += 1
            late.append(time.monotonic() - began)

    with served(run) as port:
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        clients = [threading.Thread(target=client, args=(seed,)) for seed in range(300)]
        for one in clients:
            one.start()
        for one in clients:
            one.join()
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 1024
    median, most = np.quantile(late, (0.5, 1.0))
    with capsys.disabled():
        took = f"{median:.2f} s in the median, {most:.1f} s at most"
        print(f"\n300 clients, {SECONDS} s: {dict(counts)}; {took}; {more:.0f} MiB more")
    assert set(counts) == {"200"}
    assert counts["200"] > 300
    assert more < 300


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_event_loop_is_there_ends_it_and_is_raised_again(run, monkeypatch, number):
    server, came = explore.make_server([run], 0), []
    monkeypatch.setattr(server._uvicorn, "run", lambda sockets: signal.raise_signal(number))
    former = signal.signal(number, lambda got, _frame: came.append(got))
    try:
        server.serve_forever()
    finally:
        signal.signal(number, former)
        server.server_close()
    assert came == [number]
    assert server._uvicorn.should_exit
