"""What the tests of download share."""

from __future__ import annotations

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import numpy as np

CONTENT = np.random.default_rng(0).bytes(3_000_000)


class Server(ThreadingHTTPServer):
    """Serves `files` (path: bytes) and `answers` (path: JSON); `faults` (path: list) spoil a file's next answers."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, object] = {}
        self.faults: dict[str, list] = {}
        self.always: dict[str, object] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.sent = 0

    def handle_error(self, request, client_address):
        pass  # clients hang up


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format, *args):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        fault = None
        if self.command != "HEAD":
            fault = self.server.faults.get(path) and self.server.faults[path].pop(0) or self.server.always.get(path)
        if isinstance(fault, int):
            return self.send_error(fault)
        if path in self.server.answers:
            answer = self.server.answers[path]
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            return self.reply(200, body, {"Content-Type": "application/json"})
        if path not in self.server.files:
            return self.send_error(404)
        return self.reply_file(self.server.files[path], fault)

    def reply_file(self, content, fault):
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        digest = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": "c" * 40, "X-Linked-Etag": f'"{digest}"'}
        headers |= {"X-Linked-Size": str(len(content)), "Accept-Ranges": "bytes"}
        if fault == "ignores range":
            first = 0
        if first >= len(content) and first:
            return self.send_error(416)
        body = content[first:]
        if first:
            start = 0 if fault == "other part" else first
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if fault == "wrong bytes":
            body = bytes(len(body))
        if fault == "web page":
            body, headers["Content-Type"] = b"<html>quota</html>", "text/html; charset=utf-8"
        length = {"announces more": len(body) + 1000, "announces less": len(body) // 2}.get(fault, len(body))
        if fault == "truncates":  # an honest length of half a file
            body = body[: len(body) // 2]
            length = len(body)
        if fault == "endless":
            body, length = body + bytes(1_000_000), None
        cut = len(body) // 2 if fault == "drops" else 0 if fault == "drops at once" else len(body)
        if fault == "drops without length":
            cut, length = len(body) // 2, None
        self.reply(206 if first else 200, body, headers, length, cut)

    def reply(self, status, body, headers, length=-1, cut=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length < 0 else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
            self.server.sent += len(body[:cut])


def visible(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.name.startswith("."))


def offer(server, repository: str, contents: dict[str, bytes], kind: str = "models", sha: str = "c" * 40) -> None:
    """A repository, as the Hub tells it: large files under their sha256, small ones under git's."""
    siblings, prefix = [], "" if kind == "models" else f"{kind}/"
    for path, content in contents.items():
        git = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        told = {"rfilename": path, "size": len(content), "blobId": git}
        if path.endswith((".safetensors", ".pt")):
            told["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        siblings.append(told)
        for revision in ("main", sha):
            server.files[f"/{prefix}{repository}/resolve/{revision}/{path}"] = content
    info = {"id": repository, "sha": sha, "siblings": siblings, "private": False, "disabled": False, "downloads": 0,
            "likes": 0, "tags": [], "createdAt": "2025-01-01T00:00:00.000Z"}  # fmt: skip
    tree = [
        {"type": "file", "path": s["rfilename"], "size": s["size"], "oid": s["blobId"]}
        | ({"lfs": {"oid": s["lfs"]["sha256"], "size": s["size"], "pointerSize": 130}} if "lfs" in s else {})
        for s in siblings
    ]
    for name in ("", "/revision/main", f"/revision/{sha}"):
        server.answers[f"/api/{kind}/{repository}{name}"] = info
    for revision in ("main", sha):
        server.answers[f"/api/{kind}/{repository}/tree/{revision}"] = tree
