"""`hvf explore`: a local page to look images up: what was seen, retrieved and drawn, over rounds, windows and two runs.

A small server on 127.0.0.1 (`hvf.report.server`) that only reads, and answers with what belongs to the run folders it
was given: pictures by stage, number and round, never files by name. Requests under another host name are refused (a
page elsewhere could rebind its own).
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hvf.config import HvfError
from hvf.evaluation.catalogue import label, lower_is_better
from hvf.report.folder import Folder
from hvf.report.server import HOST, Answer, Server, listening
from hvf.report.tables import number, ranged, tables
from hvf.schema.run_folder import TimeCourse

PORT, TRIED = 8050, 20
HERE = Path(__file__).parent
SHOWN = ("top1", "top5", "mrr")  # of each row of a study
KEPT = 256  # pictures in memory
OWN_NAME = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?", re.ASCII | re.IGNORECASE)  # any port: of an SSH tunnel
OWN = {
    "/": ("explore.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/explore.css": ("explore.css", "text/css; charset=utf-8"),
    "/explore.js": ("explore.js", "text/javascript; charset=utf-8"),
}
PICTURE = re.compile(r"/picture/([01])/(\w{1,40})/(\d{1,9})/(\d{1,9})\.png", re.ASCII)


def serve(paths: Sequence[str | Path], port: int | None = None) -> None:
    """Serve one run, or two beside each other, until interrupted. HvfError if a folder is no run or no port is free."""
    server = make_server(paths, port)
    print(f"open http://{HOST}:{server.server_address[1]} in a browser; Ctrl+C ends it", flush=True)
    try:
        server.serve_forever()
    finally:
        server.server_close()


def make_server(paths: Sequence[str | Path], port: int | None = None) -> Server:
    """The server, listening but not yet answering. ``port`` 0 takes any that is free."""
    pages = Pages([Folder(path) for path in paths])
    last: OSError | None = None
    for number_ in range(PORT, PORT + TRIED) if port is None else (port,):
        if not 0 <= number_ < 2**16:
            raise HvfError(f"--port {number_}: a port is a number up to {2**16 - 1}")
        try:
            return Server(listening(number_), pages.answer)
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
            for course in folder.json("windows.json", list[TimeCourse]) or []
        ],
    }  # fmt: skip


class Pages:
    """What the server answers: the page, its data, or a picture; anything else is not there."""

    def __init__(self, folders: Sequence[Folder]) -> None:
        self._folders = folders
        self._runs = json.dumps({"runs": [described(folder) for folder in folders]}, ensure_ascii=False).encode(
            errors="replace"
        )
        self._files = {path: Answer(200, kind, (HERE / name).read_bytes()) for path, (name, kind) in OWN.items()}
        self._picture = lru_cache(maxsize=KEPT)(self._read)

    def answer(self, host: str, path: str) -> Answer:
        """To a request under the name `host`."""
        if not OWN_NAME.fullmatch(host):
            return Answer(403, "text/plain", b"this server answers on 127.0.0.1 only\n")
        if path in self._files:
            return self._files[path]
        if path == "/runs.json":
            return Answer(200, "application/json; charset=utf-8", self._runs)
        match = PICTURE.fullmatch(path)
        if match:
            try:
                picture = self._picture(int(match[1]), match[2], int(match[3]), int(match[4]))
            except HvfError as error:
                return Answer(500, "text/plain; charset=utf-8", f"{error}\n".encode(errors="replace"))
            if picture is not None:
                return Answer(200, "image/png", picture)
        return Answer(404, "text/plain", b"not found\n")

    def _read(self, run: int, stage: str, index: int, of_round: int) -> bytes | None:
        """A picture as PNG, at most 512 pixels; None if there is none."""
        pictures = self._folders[run].pictures if run < len(self._folders) else {}
        rounds = pictures.get(stage, {}).get(index, [])
        if of_round >= len(rounds):
            return None
        picture = rounds[of_round]()
        picture.thumbnail((512, 512))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return buffer.getvalue()


def _plain(value: float | None) -> float | None:
    return None if value is None or value != value else value
