"""Download of one file over HTTP: resumed where it broke off, verified, and given its name only when whole.

pooch verifies and renames; `_Resume` adds what it lacks, continuing a partial file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pooch
import requests

from hvf.config import HvfError

_BLOCK = 2**20  # bytes
_TIMEOUT = (10, 60)  # seconds to connect, and without a byte
_LONGEST_WAIT = 60  # seconds between two attempts
_AGAIN = {408, 425, 429}  # and all of 500 and above: HTTP states that pass


@dataclass(frozen=True)
class RemoteFile:
    """A file that a service offers."""

    path: str  # where it goes, relative to the output folder
    size: int | None  # bytes, if the service gives them
    checksum: str | None = None  # "sha256:...", "md5:..." or "git:..." (sha1 of a git blob)
    url: str = ""

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path.replace("\\", "/")).parts
        if not parts or ".." in parts or self.path.startswith(("/", "\\")) or ":" in parts[0] or "\0" in self.path:
            raise HvfError(f"the service offers a file called {self.path!r}, which would lie outside of the folder")

    def is_at(self, path: Path) -> bool:
        """Whether `path` holds this file, whole."""
        if not path.is_file() or (self.size is not None and path.stat().st_size != self.size):
            return False
        return self.checksum is None or _checksum(path, self.checksum.partition(":")[0]) == self.checksum.lower()


class _Passing(Exception):
    """A failure after which another attempt may succeed."""


class _Final(Exception):
    """A failure after which no attempt will."""


def fetch(
    file: RemoteFile,
    path: Path,
    *,
    attempts: int = 6,
    backoff: float = 1.0,
    advance: Callable[[int], None] = lambda n: None,
) -> None:
    """Download `file` to `path`, continuing an earlier partial file (`.NAME.part` beside it).

    Parameters
    ----------
    file : RemoteFile
    path : Path
    attempts : int
        In a row that brought nothing new, before giving up.
    backoff : float
        Seconds to wait after the first failure; doubles with each.
    advance : callable
        Receives the number of bytes as they come; negative where they are thrown away.

    Raises
    ------
    HvfError
        The server refuses, keeps failing, or sends something else than `file`; the disk is full. `path` does not exist
        then; a partial file is kept for the next time, unless its content was wrong.
    """
    part = partial(path)
    failures = 0
    pooch.get_logger().setLevel("WARNING")
    while True:
        before = size_of(part)
        try:
            resume: Any = _Resume(file, part, advance)
            pooch.retrieve(file.url, file.checksum, path.name, path.parent, downloader=resume)
            return
        except _Final as error:
            raise HvfError(f"cannot download {file.path}: {error} ({file.url})") from None
        except (_Passing, requests.RequestException) as error:
            reason = _words(error)
        except ValueError:  # how pooch says it
            reason = "its checksum is not the one that the service lists"
            advance(-(file.size or 0))
        except OSError as error:
            raise HvfError(f"cannot write {path}: {error.strerror or error}") from error
        failures = 1 if size_of(part) > before else failures + 1
        if failures >= attempts:
            raise HvfError(
                f"cannot download {file.path}: {reason}, {attempts} times without getting further; run the same "
                f"command again later to go on ({file.url})"
            )
        wait(failures, backoff)


def read_json(url: str, *, attempts: int = 6, backoff: float = 1.0, query: str | None = None) -> Any:
    """The JSON that a service answers.

    Parameters
    ----------
    url : str
    attempts, backoff
        As of `fetch`.
    query : str, optional
        GraphQL query, which is posted. Default: GET.

    Raises
    ------
    HvfError
        The service keeps failing.
    """
    for failures in range(1, attempts + 1):
        try:
            if query is None:
                response = requests.get(url, timeout=_TIMEOUT, headers={"Accept": "application/json"})
            else:
                response = requests.post(url, timeout=_TIMEOUT, json={"query": query})
            _check_status(response)
            return response.json()
        except _Final as error:
            raise HvfError(f"cannot list the files: {error} ({url})") from None
        except (_Passing, requests.RequestException) as error:
            reason = _words(error)
        if failures < attempts:
            wait(failures, backoff)
    raise HvfError(f"cannot list the files: {reason}, {attempts} times ({url}); try again later")


def partial(path: Path) -> Path:
    """Path of the partial file of `path`."""
    return path.with_name(f".{path.name}.part")


def size_of(path: Path) -> int:
    """Size in bytes; 0 if there is no file."""
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def wait(failures: int, backoff: float) -> None:
    time.sleep(min(backoff * 2 ** (failures - 1), _LONGEST_WAIT))


@dataclass
class _Resume:
    """A downloader for pooch."""

    file: RemoteFile
    part: Path
    advance: Callable[[int], None]

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        size = self.file.size
        if size is None or size_of(self.part) != size or not size:
            self._get(url)
        if size is not None and size_of(self.part) != size:
            raise _Passing(f"the connection ended after {size_of(self.part)} of {size} bytes")
        os.replace(self.part, output_file)

    def _get(self, url: str) -> None:
        have, size = size_of(self.part), self.file.size
        if size is not None and have > size:
            have = self._drop(have)
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if response.status_code == 416:
                self._drop(have)
                raise _Passing("the server does not resume")
            _check_status(response)
            resumed = response.status_code == 206
            if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                self._drop(have)
                raise _Passing("the server sent another part than it was asked for")
            self._check_headers(response, have if resumed else 0)
            if not resumed:
                self.advance(-have)
                have = 0
            with open(self.part, "ab" if resumed else "wb") as file:
                for block in response.iter_content(_BLOCK):
                    if size is not None and have + len(block) > size:
                        self._drop(have)
                        raise _Passing(f"the server sends more than the {size} bytes that the service lists")
                    file.write(block)
                    have += len(block)
                    self.advance(len(block))

    def _check_headers(self, response: requests.Response, have: int) -> None:
        """An error page, or another version of the file, must not be appended to what is there."""
        announced = response.headers.get("Content-Length", "")
        if self.file.size is not None and announced.isdigit() and have + int(announced) != self.file.size:
            raise _Passing(f"the server offers {have + int(announced)} bytes, the service lists {self.file.size}")
        is_page = response.headers.get("Content-Type", "").startswith("text/html")
        if is_page and not self.file.path.lower().endswith((".html", ".htm")):
            raise _Passing("the server sends a web page instead of the file")

    def _drop(self, have: int) -> int:
        self.part.unlink(missing_ok=True)
        self.advance(-have)
        return 0


def _check_status(response: requests.Response) -> None:
    status = response.status_code
    if status in _AGAIN or status >= 500:
        raise _Passing(f"the server answers {status} {response.reason}".rstrip())
    if status >= 400:
        raise _Final(f"the server answers {status} {response.reason}".rstrip())


def _words(error: Exception) -> str:
    """A network error in one line."""
    if isinstance(error, requests.Timeout):
        return "the server does not answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke"
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return "the answer is not JSON"
    if isinstance(error, requests.ConnectionError):
        return "the server cannot be reached, or the connection broke"
    return " ".join(str(error).split())[:200]


def _checksum(path: Path, kind: str) -> str:
    digest = hashlib.new("sha1" if kind == "git" else kind, usedforsecurity=False)
    if kind == "git":
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return f"{kind}:{digest.hexdigest()}"
