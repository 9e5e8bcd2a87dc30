"""`hvf explore`: a local page to look images up: what was seen, retrieved and drawn, over rounds, windows and two runs.

A small server of the standard library on 127.0.0.1, so that nothing has to be installed and nothing is asked of any
other machine. It only reads, and answers with what belongs to the run folders it was given: pictures by stage, number
and round, never files by name. Requests under another host name are refused (a page elsewhere could rebind its own).
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hvf.config import HvfError
from hvf.evaluation.catalogue import label, lower_is_better
from hvf.report.folder import Folder
from hvf.report.tables import number, ranged, tables

HOST, PORT, TRIED = "127.0.0.1", 8050, 20
HERE = Path(__file__).parent
SHOWN = ("top1", "top5", "mrr")  # of each row of a study
POLICY = "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; " + (
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
OWN = {
    "/": ("explore.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/explore.css": ("explore.css", "text/css; charset=utf-8"),
    "/explore.js": ("explore.js", "text/javascript; charset=utf-8"),
}
PICTURE = re.compile(r"/picture/([01])/(\w+)/(\d+)/(\d+)\.png")


def serve(paths: Sequence[str | Path], port: int | None = None) -> None:
    """Serve one run, or two beside each other, until interrupted. HvfError if a folder is no run or no port is free."""
    server = make_server(paths, port)
    print(f"open http://{HOST}:{server.server_address[1]} in a browser; Ctrl+C ends it", flush=True)
    try:
        server.serve_forever()
    finally:
        server.server_close()


def make_server(paths: Sequence[str | Path], port: int | None = None) -> ThreadingHTTPServer:
    """The server, bound but not yet serving. ``port`` 0 takes any that is free."""
    folders = [Folder(path) for path in paths]
    runs = json.dumps({"runs": [described(folder) for folder in folders]}, ensure_ascii=False).encode()
    handler = type("Handler", (_Handler,), {"runs": runs, "picture": staticmethod(_reader(folders))})
    last: OSError | None = None
    for number_ in range(PORT, PORT + TRIED) if port is None else (port,):
        try:
            return ThreadingHTTPServer((HOST, number_), handler)
        except OSError as error:
            last = error
    raise HvfError(f"cannot listen on {HOST}, port {port or f'{PORT} to {PORT + TRIED - 1}'}: {last}: choose --port")


def described(folder: Folder) -> dict[str, Any]:
    """The page's data of a run: its images by number, their scores, what was retrieved, and when; a study's rows."""
    keys = folder.keys
    indices = sorted(set(folder.pictures.get("seen", {})) | set(range(len(folder.ids))))
    names = [folder.names.get(i, str(i)) for i in indices]
    per_round = folder.per_image.get("rounds", {})
    return {
        "name": folder.name,
        "title": folder.title,
        "simulated": folder.simulated,
        "protocol": folder.protocol,
        "ids": folder.ids,
        "names": names,
        "indices": indices,
        "gallery": folder.gallery_names,
        "stages": [
            {"stage": stage, "label": folder.stages[stage], "rounds": max(map(len, folder.pictures[stage].values()))}
            for stage in folder.stages
            if stage in folder.pictures
        ],
        "keys": [{"label": folder.label(key), "lower": lower_is_better(key)} for key in keys],
        "values": [[_plain(folder.scores[key].get(i)) for i in indices] for key in keys],
        "texts": [[number(folder.scores[key].get(i), key) for i in indices] for key in keys],
        "rounds": [[[number(v, key) for v in column] for column in per_round.get(key, [])] for key in keys],
        "target": folder.targets,
        "top5": folder.top5,
        "columns": [label(name) for name in SHOWN],
        "rows": [
            [line.label, *(ranged(line.entries.get(name), name) for name in SHOWN)]
            for table in tables([folder]) if table.section == "retrieval" for line in table.rows
        ] if folder.is_study else [],
        "windows": [
            {"title": course.get("title", ""), "windows": [
                {"from": w["tmin"], "to": w["tmax"], "value": w["value"], "top5": w.get("top5", [])}
                for w in course["windows"]]}
            for course in folder.json("windows.json") or []
        ],
    }  # fmt: skip


def _reader(folders: Sequence[Folder]) -> Callable[[int, str, int, int], bytes | None]:
    @lru_cache(maxsize=512)
    def read(run: int, stage: str, index: int, of_round: int) -> bytes | None:
        """A picture as PNG, at most 512 pixels; None if there is none."""
        rounds = folders[run].pictures.get(stage, {}).get(index, []) if run < len(folders) else []
        if of_round >= len(rounds):
            return None
        picture = rounds[of_round]()
        picture.thumbnail((512, 512))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return buffer.getvalue()

    return read


class _Handler(BaseHTTPRequestHandler):
    runs: bytes
    picture: Any
    server_version, sys_version = "hvf", ""

    def do_GET(self) -> None:
        """Answer the page, its data, or a picture; anything else is not there."""
        host = (self.headers.get("Host") or "").rpartition(":")[0]
        if host not in (HOST, "localhost"):
            return self._answer(403, "text/plain", b"this server answers on 127.0.0.1 only\n")
        path = self.path.partition("?")[0]
        if path in OWN:
            name, kind = OWN[path]
            return self._answer(200, kind, (HERE / name).read_bytes())
        if path == "/runs.json":
            return self._answer(200, "application/json; charset=utf-8", self.runs)
        match = PICTURE.fullmatch(path)
        if match:
            try:
                picture = self.picture(int(match[1]), match[2], int(match[3]), int(match[4]))
            except HvfError as error:
                return self._answer(500, "text/plain; charset=utf-8", f"{error}\n".encode())
            if picture is not None:
                return self._answer(200, "image/png", picture)
        return self._answer(404, "text/plain", b"not found\n")

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store" if kind.startswith("text/html") else "max-age=60")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base class's name)
        """Silence: a line per picture says nothing."""


def _plain(value: float | None) -> float | None:
    return None if value is None or value != value else value
