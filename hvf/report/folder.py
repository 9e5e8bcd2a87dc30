"""A folder that a report is about, read only: a run, a study of several runs, or the figures of `hvf evaluate --out`.

`result.json` (`hvf.experiments.results`) says what was tested: rows with their ranks, the images, the study, the
protocol. Beside it, all of it optional: config.json; metrics.json (figures of drawn pictures, too); evaluation.json
(how pictures were measured, what was not computed); per_image.json {"ids", "concepts", "scores": {figure: a number per
image}}; history.json; sensors.json and windows.json (`hvf.report.sensors`); images/{seen,ceiling,brain,floor}/, each
NNNN_id.png or, of several rounds, round_R/NNNN_id.png; of figures measured/, alike. Picture NNNN is image NNNN of the
result.

A folder may come from anybody: nothing outside it is read, whatever a link or a path in it says.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hvf.config import HvfError
from hvf.data.images.decoding import decode
from hvf.data.images.matching import without_ending
from hvf.data.trials.provenance import modality
from hvf.evaluation.catalogue import label, leaf, retrieval_metrics
from hvf.evaluation.pictures import MEASURED
from hvf.experiments.made_from import changed, said_by
from hvf.experiments.results import FILE, TOP, Result, Row
from hvf.runs import NO_CONFIG, Run, why_no_run
from hvf.schema.reading import read_as
from hvf.schema.run_folder import EVIDENCE, EVIDENCE_PICTURES, MADE_FROM, EvaluationInfo, Evidence, Figures, PerImage

STAGES = {
    "seen": "seen",
    "ceiling": "from the image itself",
    "brain": "from the brain",
    "floor": "from shuffled trials",
}
OLDER = "retrieval.json"  # what runs left before results had a version
KINDS = {"benchmark": "methods compared", "targets": "targets compared", "layers": "layers compared"}  # of a study
NUMBERED = re.compile(r"(\d{1,6})(_.*)?", re.ASCII | re.DOTALL)  # the name of a picture, without its ending
# {stage: {index of the image: one function per round that gives its picture}}
Pictures = dict[str, dict[int, list[Callable[[], Image.Image]]]]


class Folder:
    """What one folder holds. Raises HvfError if it is neither a run nor a folder of figures, or a file is broken."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = self.path.resolve().name
        self.run = Run.open(path) if self._inside("config.json").is_file() else None
        self.config = self.run.config if self.run else None  # None of a folder of figures
        if self.run is None and not self._inside("metrics.json").is_file():
            why = why_no_run(self.path)
            nor = "; nor figures: it has no metrics.json" if why == NO_CONFIG else ""
            raise HvfError(f"{path} is not a run folder: {why}{nor}")
        self.per_image: PerImage = self.json("per_image.json", PerImage | None) or {}
        self.evaluation: EvaluationInfo = self.json("evaluation.json", EvaluationInfo | None) or {}
        n = len(self.per_image.get("ids") or ())
        if n and any(len(column) != n for column in self.per_image.get("scores", {}).values()):
            raise HvfError(f"{self.path / 'per_image.json'} is damaged: its scores are not those of its {n} images")

    @cached_property
    def result(self) -> Result | None:
        """What was tested; None before a test, and of a folder of figures. HvfError if it is of another version."""
        there = any(self._inside(name).is_file() for name in (FILE, OLDER))
        return Result.read(self.path) if there else None

    @property
    def simulated(self) -> bool:
        """Whether its figures come from simulated data."""
        if self.result:
            return self.result.study.simulated
        return self.config is not None and self.config.data.study.startswith("simulated")

    @property
    def is_study(self) -> bool:
        """Whether it compares rows (targets, layers, methods, ...) instead of being one decoder's run."""
        return self.result is not None and self.result.kind not in ("training", "retrieval")

    @property
    def preset(self) -> str:
        """The preset of the run; "" where it has none, or the study is simulated."""
        return "" if self.config is None or self.simulated else self.config.name

    @cached_property
    def rows(self) -> dict[str, Row]:
        """The rows that were tested, the main one as "brain" where it stands for a decoder, the others by name."""
        return {name: row for name, row in self.result.rows.items() if row.ranks} if self.result else {}

    @cached_property
    def main(self) -> str:
        """The name of the row that stands for the folder; "" if nothing was tested."""
        wanted = self.result.main if self.result else ""
        return wanted if wanted in self.rows else next(iter(self.rows), "")

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The figures: those of drawn pictures, and of retrieval, where the main row is called brain."""
        figures = self.json("metrics.json", Figures) or {}
        if not self.main or self.main == "brain":
            return figures
        return figures | {f"retrieval/brain/{name}": entry for name, entry in self.rows[self.main].figures.items()}

    def json(self, name: str, kind: Any) -> Any:
        """The contents of a JSON file; None if it is not there. HvfError if it is broken, or of another type."""
        return read_as(kind, self.path / name) if self._inside(name).exists() else None

    def picture(self, name: str) -> Image.Image | None:
        """An RGB picture of the folder; None if it is not there. HvfError naming the file if it cannot be read."""
        return self._drawn(self.path / name) if self._inside(name).exists() else None

    def _drawn(self, path: Path) -> Image.Image:
        self._inside(path.relative_to(self.path))
        try:
            return decode(path.read_bytes(), str(path))
        except OSError as error:
            raise HvfError(f"{path} cannot be read as a picture: {error}") from error

    def _inside(self, name: str | Path) -> Path:
        """A file of the folder, there or not. HvfError if it is a link that leads out of the folder, or no file."""
        path = self.path / name
        try:
            outside = not path.resolve().is_relative_to(self.path.resolve())
            no_file = path.exists() and not path.is_file()  # a pipe would keep its reader waiting
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            raise HvfError(f"{path} cannot be read: {error}") from error
        if outside:
            raise HvfError(f"{path} leads out of the folder: put a copy in the place of the link")
        if no_file:
            raise HvfError(f"{path} is no file: take it away")
        return path

    @cached_property
    def scores(self) -> dict[str, dict[int, float]]:
        """{figure: {index: score}} per image, undefined ones NaN; the mean rank over runs, too."""
        columns = self.per_image.get("scores", {})
        scores = {key: {i: math.nan if s is None else float(s) for i, s in enumerate(c)} for key, c in columns.items()}
        for row in self.rows:
            ranks = self.ranks(row)
            scores[f"retrieval/{'brain' if row == self.main else row}/rank"] = {
                i: sum(of_image) / len(of_image) for i, of_image in enumerate(ranks)
            }
        return scores

    @cached_property
    def keys(self) -> list[str]:
        """The figures per image that are shown: those of the brain; in a study, the ranks of every row."""
        brain = [key for key in self.scores if "/brain/" in key]
        return brain + [key for key in self.scores if self.is_study and leaf(key) == "rank" and key not in brain]

    def label(self, key: str) -> str:
        """What a figure per image is called: in a study, with its row."""
        row = key.partition("/")[2].rpartition("/")[0]
        return f"{label(key)}: {self.main if row == 'brain' else row}" if self.is_study else label(key)

    def ranks(self, row: str) -> list[list[int]]:
        """The ranks of each image in a row, one for each run that tested it."""
        return self._by_image(self.rows[row].ranks)

    @cached_property
    def gallery(self) -> tuple[str, ...]:
        """Ids of the images that trials were ranked among; () where runs had different ones."""
        return self.result.gallery if self.result and self.main else ()

    @cached_property
    def targets(self) -> list[int]:
        """For each image its place in the gallery; [] without one."""
        place = {name: i for i, name in enumerate(self.gallery)}
        return [place[name] for name in self.ids] if place else []

    @cached_property
    def top5(self) -> list[list[int]]:
        """For each image the gallery indices retrieved first; of several runs, those most often and highest."""
        if not self.main or not self.rows[self.main].top5:
            return []
        return [_most_often(lists) for lists in self._by_image(self.rows[self.main].top5)]

    def _by_image(self, values: Iterable[Any]) -> list[list[Any]]:
        """One value per test item, as a list per image."""
        assert self.result is not None
        place = {name: i for i, name in enumerate(self.ids)}
        grouped: list[list[Any]] = [[] for _ in self.ids]
        for name, value in zip(self.result.image_ids, values, strict=True):
            grouped[place[name]].append(value)
        return grouped

    @cached_property
    def ids(self) -> list[str]:
        """The images' ids, in order."""
        if self.result and self.main:
            return list(dict.fromkeys(self.result.image_ids))
        return list(self.per_image.get("ids") or ())

    @cached_property
    def names(self) -> dict[int, str]:
        """What each image shows: its concept where images have one each, or else its id."""
        concepts = self.concepts
        distinct = concepts if len(set(concepts)) == len(concepts) and concepts else []
        named = distinct or [Path(name).name for name in self.ids]
        names = {i: words(without_ending(str(name))) for i, name in enumerate(named)}
        for i, drawn in self.pictures.get("seen", {}).items():
            if i not in names:
                names[i] = words(_stem(drawn[0]) or str(i))
        return names

    @cached_property
    def gallery_names(self) -> list[str]:
        """What each image of the gallery shows."""
        if list(self.gallery) == self.ids:
            return [self.names[i] for i in range(len(self.gallery))]
        return [words(name) for name in self.gallery]

    @property
    def concepts(self) -> list[str]:
        """The concept of each image; [] if unknown."""
        concepts = list(self.per_image.get("concepts") or [])
        if not concepts and self.result:
            concepts = list(dict(zip(self.result.image_ids, self.result.concepts, strict=False)).values())
        return concepts if not self.ids or len(concepts) == len(self.ids) else []

    @cached_property
    def evidence(self) -> dict[str, Any]:
        """What was found from means over single trials (`hvf.experiments.evidence`); {} if nothing was.

        Of other trials, or by another decoder, than the result is about: {} as well.
        """
        found = self.json(EVIDENCE, Evidence) or {}
        return {} if changed(said_by(self.result), found.get(MADE_FROM, {})) else found

    @cached_property
    def stages(self) -> dict[str, str]:
        """{stage: what its pictures are called}, those drawn from means over few trials last."""
        counts = [int(line["trials"]) for line in self.evidence.get("repeats", [])]
        return STAGES | {f"trials_{r}": f"from {r} trial{'s' if r > 1 else ''}" for r in counts}

    @cached_property
    def pictures(self) -> Pictures:
        """The pictures of each stage that left some."""
        pictures: Pictures = {}
        for stage in self.stages:
            folder = (
                self.path / ("images" if self.run else MEASURED) / stage.replace("trials_", f"{EVIDENCE_PICTURES}/")
            )
            rounds = sorted((p for p in folder.glob("*") if p.is_dir()), key=lambda p: (len(p.name), p.name))
            for one_round in rounds or [folder]:
                for path in sorted(one_round.glob("*.png" if self.run else "*.webp")):
                    number = NUMBERED.fullmatch(path.stem)
                    if number:
                        pictures.setdefault(stage, {}).setdefault(int(number[1]), []).append(partial(self._drawn, path))
        return pictures

    @property
    def title(self) -> str:
        """What a reader would call it."""
        if self.config is None and self.is_study and self.result is not None:
            study = self.result.study
            title = f"{'Simulated ' * study.simulated}{modality(study.kind)}, {study.subject}"
            return f"{title}: {KINDS.get(self.result.kind, self.result.kind)}"
        if self.config is None:
            return self.name
        data = self.config.data
        if data.study != "files":
            title = f"Simulated {data.study.removeprefix('simulated-').upper()}, subject {data.subject}"
        else:
            name = Path(data.trials).name if data.trials else data.study
            title = f"{name} (simulated)" if self.simulated else name
        return f"{title}: {KINDS.get(self.result.kind, self.result.kind)}" if self.is_study and self.result else title

    @property
    def protocol(self) -> str:
        """How its figures were obtained, in a line: a figure without it cannot be compared."""
        parts = []
        if self.result:
            way = f"{self.result.gallery_size}-way, " if self.main else ""
            runs = f", mean of {len(self.result.runs)} runs" if len(self.result.runs) > 1 else ""
            parts = [f"{way}{self.result.protocol.label}{runs}"]
        elif self.config is None and any(name.startswith("retrieval/") for name in self.metrics):
            n = self.metrics.get("chance/retrieval/top1", {}).get("n")
            parts = [f"{n}-way, embeddings ranked by cosine" if n else "embeddings ranked by cosine"]
        if self.evaluation:
            rounds = self.evaluation.get("rounds", 1)
            rounds = max(rounds.values(), default=1) if isinstance(rounds, Mapping) else rounds
            first = self.evaluation.get("first_resize")
            parts.append(f"{self.evaluation.get('pairs')} pictures")
            parts.append(f"{rounds} rounds averaged" if rounds > 1 else "1 round")
            parts.append(f"first resized to {first} px" if first else "not resized first")
            if "matched_by" in self.evaluation:
                parts.append(f"matched by {self.evaluation['matched_by']}")
        return ", ".join(parts)

    def column(self, figure: str) -> dict[int, float]:
        """Scores per image of a figure's own name: reconstruction/brain/..., retrieval/brain/top1 from the ranks.

        Of several runs the mean over those that tested the image.
        """
        if figure in self.scores:
            return self.scores[figure]
        row, _, name = figure.partition("/")[2].rpartition("/")
        row, metric = self.main if row == "brain" else row, retrieval_metrics().get(name)
        if row not in self.rows or metric is None or metric.per_query is None:
            return {}
        return {i: float(metric.per_query(np.array(ranks)).mean()) for i, ranks in enumerate(self.ranks(row))}


def words(name: object) -> str:
    """checked_red_truck -> checked red truck."""
    return str(name).replace("_", " ").strip()


def main_figure(folder: Folder) -> str:
    """The figure per image that orders pictures: PixCorr, or the first other one; "" if there is none."""
    keys = folder.keys
    return next((key for key in keys if leaf(key) == "pixcorr"), keys[0] if keys else "")


def _most_often(lists: Sequence[Sequence[int]]) -> list[int]:
    """The indices that stand most often and highest in ranked lists; those of the only list as they are."""
    weights: Counter[int] = Counter()
    for ranked in lists:
        weights.update({index: TOP - place for place, index in enumerate(ranked)})
    return [index for index, _ in weights.most_common(TOP)]


def _stem(picture: Callable[[], Image.Image]) -> str:
    return picture.args[0].stem.partition("_")[2] if isinstance(picture, partial) else ""
