"""A server of answers on 127.0.0.1: bounded in time, threads and memory, whatever a client does.

uvicorn reads and writes; every connection is one state on one event loop, so that those that say nothing, half a
request, or never read their answer cost no thread, and are closed after `PATIENCE`. Answers are computed by `WORKERS`
threads.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any, NamedTuple

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HOST = "127.0.0.1"
BACKLOG = 1024  # connections that wait to be accepted
PATIENCE = 30.0  # s for a request and its answer
IDLE = 5  # s until a connection without a further request is closed
WORKERS = 4
HEAD = 16384  # bytes of a request's line and headers
PIECE = 65536  # bytes of an answer that are sent at once: a slow reader holds no more
POLICY = "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; " + (
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFE = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",  # no page elsewhere shows these pictures
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Answer(NamedTuple):
    """Status, media type and content."""

    status: int
    kind: str
    body: bytes


class Server:
    """Answers GET requests on a listening socket with what `answer(host name, path)` gives."""

    def __init__(self, listener: socket.socket, answer: Callable[[str, str], Answer]) -> None:
        self.server_address: tuple[str, int] = listener.getsockname()
        self._listener, self._answer, self._ended = listener, answer, threading.Event()
        self._workers = ThreadPoolExecutor(WORKERS, "hvf-explore")
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                self._app,
                http=_Impatient,
                ws="none",
                loop="asyncio",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="error",  # a line per picture says nothing
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=IDLE,
                timeout_graceful_shutdown=1,
                h11_max_incomplete_event_size=HEAD,
            )
        )

    def serve_forever(self) -> None:
        """Answer until `shutdown`, Ctrl-C or SIGTERM, which is raised again.

        Signals are taken before there is an event loop: one that unwinds asyncio half-built leaves its complaints.
        """
        came: list[int] = []

        def end(number: int, _frame: FrameType | None) -> None:
            came.append(number)
            self._uvicorn.should_exit = True

        in_main = threading.current_thread() is threading.main_thread()
        former = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM) if in_main}
        try:
            self._uvicorn.run(sockets=[self._listener])  # raises what it took again, for `end`
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
            self._ended.set()
        if came:
            signal.raise_signal(came[-1])

    def shutdown(self) -> None:
        """Let `serve_forever`, which runs in another thread, come to its end."""
        self._uvicorn.should_exit = True
        self._ended.wait()

    def server_close(self) -> None:
        """Stop listening."""
        self._listener.close()
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            status, kind, body = Answer(405, "text/plain", b"only GET\n")
        else:
            host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
            status, kind, body = await asyncio.get_running_loop().run_in_executor(
                self._workers, self._answer, host, scope["path"]
            )
        kept = "no-store" if kind.startswith("text/html") else "max-age=60"
        head = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": kept, **SAFE}
        headers = [(name.lower().encode(), value.encode()) for name, value in head.items()]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for at in range(0, len(body), PIECE):  # each waits until the one before it has gone
            await send({"type": "http.response.body", "body": body[at : at + PIECE], "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class _Impatient(H11Protocol):
    """Closes a connection whose request and answer take longer than `PATIENCE`; uvicorn itself waits for ever."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_again()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._start_again()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _start_again(self) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(PATIENCE, self.transport.abort)


def listening(port: int) -> socket.socket:
    """A socket that listens on 127.0.0.1; OSError if the port is not free."""
    return socket.create_server((HOST, port), backlog=BACKLOG)
