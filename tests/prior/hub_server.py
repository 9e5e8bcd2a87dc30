"""A server that speaks the Hub's protocol for uploads (repository, preupload, LFS, commit) and gives back files."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SHA = "d" * 40


class HubServer(ThreadingHTTPServer):
    """`repositories` {owner/name: {path: bytes}} are what was committed; `created` says which are private."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.created: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}  # by sha256
        self.refuses = False


class Handler(BaseHTTPRequestHandler):
    server: HubServer

    def log_message(self, format, *args):
        pass

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, told, status: int = 200, headers=()) -> None:
        content = told if isinstance(told, bytes) else json.dumps(told).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self):
        content, path = self.body(), self.path.split("?")[0]
        if self.server.refuses:
            return self.answer({"error": "no"}, 403)
        if path == "/api/repos/create":
            told = json.loads(content)
            name = f"{told['organization']}/{told['name']}" if told.get("organization") else told["name"]
            self.server.created.setdefault(name, bool(told.get("private") or told.get("visibility") == "private"))
            return self.answer({"url": f"{self.server.url}/{name}", "name": name})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if match := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            names = [file["path"] for file in json.loads(content)["files"]]
            modes = ["lfs" if name.endswith(".safetensors") else "regular" for name in names]
            files = [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in zip(names, modes, strict=True)]
            return self.answer({"files": files})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(content)["objects"]
            for one in objects:
                one["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}
            return self.answer({"transfer": "basic", "objects": objects})
        if match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            files = self.server.repositories.setdefault(match[1], {})
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    files[line["value"]["path"]] = self.server.objects[line["value"]["oid"]]
            commit = f"{self.server.url}/{match[1]}/commit/{SHA}"
            return self.answer({"success": True, "commitUrl": commit, "commitOid": SHA})
        return self.answer({"error": "no such address"}, 404)

    def do_PUT(self):
        content = self.body()
        oid = self.path.rpartition("/")[2]
        if hashlib.sha256(content).hexdigest() != oid:
            return self.answer({"error": "other bytes"}, 400)
        self.server.objects[oid] = content
        return self.answer({})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            content = self.server.repositories.get(match[1], {}).get(match[2])
            if content is None:
                return self.answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            digest = hashlib.sha256(content).hexdigest()
            headers = {"ETag": f'"{digest}"', "X-Repo-Commit": SHA, "X-Linked-Size": len(content)}
            return self.answer(content, 200, headers)
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+|/tree/[^/]+)?", path)
        if match is None or match[1] not in self.server.created:
            return self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        files = self.server.repositories.get(match[1], {})
        if match[2] and match[2].startswith("/tree"):
            oids = {name: hashlib.sha1(content).hexdigest() for name, content in files.items()}
            told = [{"type": "file", "path": name, "size": len(files[name]), "oid": oid} for name, oid in oids.items()]
            return self.answer(told)
        siblings = [{"rfilename": name} for name in files]
        private = self.server.created[match[1]]
        return self.answer({"id": match[1], "sha": SHA, "siblings": siblings, "private": private, "tags": [],
                            "downloads": 0, "likes": 0})  # fmt: skip


@contextmanager
def serving() -> Iterator[HubServer]:
    server = HubServer()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
