"""A folder that a report is about, read only: a run of hvf, or the figures that `hvf evaluate --out` left.

What is read, all of it optional but metrics.json or config.json: config.json; metrics.json; evaluation.json (protocol,
what was not computed); per_image.json {"ids", "concepts", "scores": {figure: a number per image}}; retrieval.json
{"protocol", "gallery": ids, ROW: {"target", "rank", "top5"}} (columns of the gallery, ranks from 1); history.json;
versions.json; study.json; sensors.json and windows.json (`hvf.report.sensors`); images/{seen,ceiling,brain,floor}/,
each NNNN_id.png or, of several rounds, round_R/NNNN_id.png. Picture NNNN is row NNNN of the two tables.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from PIL import Image

from hvf.config import Config, HvfError
from hvf.evaluation.catalogue import leaf
from hvf.runs import Run

STAGES = {
    "seen": "seen",
    "ceiling": "from the image itself",
    "brain": "from the brain",
    "floor": "from shuffled trials",
}
# {stage: {index of the image: one function per round that gives its picture}}
Pictures = dict[str, dict[int, list[Callable[[], Image.Image]]]]


class Folder:
    """What one folder holds. Raises HvfError if it is neither a run nor a folder of figures, or a file is broken."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.run = Run.open(path) if (self.path / "config.json").is_file() else None
        if self.run is None and not (self.path / "metrics.json").is_file():
            raise HvfError(f"{path} is not a run folder: it has no config.json; nor figures: it has no metrics.json")

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name

    @property
    def config(self) -> Config | None:
        """The run's settings; None of a folder of figures."""
        return self.run.config if self.run else None

    @property
    def simulated(self) -> bool:
        """Whether its figures come from simulated data."""
        return self.run.simulated if self.run else False

    @property
    def preset(self) -> str:
        """The preset of the run; "" where it has none, or the study is simulated."""
        return "" if self.config is None or self.simulated else self.config.name

    @cached_property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """The figures, as metrics.json has them."""
        return self.json("metrics.json") or {}

    @cached_property
    def per_image(self) -> dict[str, Any]:
        """per_image.json, or {}."""
        return self.json("per_image.json") or {}

    @cached_property
    def retrieval(self) -> dict[str, Any]:
        """retrieval.json, or {}."""
        return self.json("retrieval.json") or {}

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """evaluation.json, or {}."""
        return self.json("evaluation.json") or {}

    @cached_property
    def study(self) -> dict[str, Any]:
        """study.json, or {}."""
        return self.json("study.json") or {}

    def json(self, name: str) -> Any:
        """What the file holds; None if it is not there."""
        files = self.run or Run(self.path, Config())  # reads JSON, says what is broken
        return files.read_json(name) if files.has(name) else None

    @cached_property
    def scores(self) -> dict[str, dict[int, float]]:
        """{figure: {index: score}} per image, undefined ones NaN; ranks and hits of retrieval too."""
        columns = self.per_image.get("scores", {})
        found = {key: {i: math.nan if s is None else float(s) for i, s in enumerate(c)} for key, c in columns.items()}
        for row, ranked in self.retrieval.items():
            if isinstance(ranked, Mapping) and "rank" in ranked:
                found[f"retrieval/{row}/rank"] = {i: float(rank) for i, rank in enumerate(ranked["rank"])}
        return found

    @cached_property
    def ids(self) -> list[str]:
        """The images' ids, in order."""
        gallery, brain = self.retrieval.get("gallery"), self.retrieval.get("brain")
        if gallery and brain:
            return [gallery[target] for target in brain["target"]]
        return list(self.per_image.get("ids") or gallery or ())

    @cached_property
    def names(self) -> dict[int, str]:
        """What each image shows: its concept where images have one each, or else its id."""
        concepts = self.concepts
        told = concepts if len(set(concepts)) == len(concepts) and concepts else [Path(name).name for name in self.ids]
        named = {i: words(without_ending(str(name))) for i, name in enumerate(told)}
        for i, drawn in self.pictures.get("seen", {}).items():
            if i not in named:
                named[i] = words(_stem(drawn[0]) or str(i))
        return named

    @property
    def concepts(self) -> list[str]:
        """The concept of each image; [] if it is not told."""
        told = self.per_image.get("concepts") or self.study.get("concepts") or []
        return list(told) if not self.ids or len(told) == len(self.ids) else []

    @cached_property
    def pictures(self) -> Pictures:
        """The pictures of each stage that left some."""
        if self.run is None:
            return self._measured_pictures()
        found: Pictures = {}
        for stage in STAGES:
            folder = self.path / "images" / stage
            rounds = sorted((p for p in folder.glob("*") if p.is_dir()), key=lambda p: (len(p.name), p.name))
            for one_round in rounds or [folder]:
                for path in sorted(one_round.glob("*.png")):
                    number = path.name.split("_")[0]
                    if number.isdigit():
                        found.setdefault(stage, {}).setdefault(int(number), []).append(partial(open_picture, path))
        return found

    def _measured_pictures(self) -> Pictures:
        """Those that an evaluation of somebody's folders was about, if they are still there and still pair."""
        images, recons = (Path(self.evaluation.get(name) or "") for name in ("images", "recons"))
        if "images" not in self.evaluation or not images.exists() or not recons.exists():
            return {}
        from hvf.evaluation.pairing import pair

        try:
            paired = pair(images, recons)
        except HvfError:
            return {}
        if list(paired.seen.ids) != self.ids:
            return {}
        each = range(len(paired.seen))
        return {
            "seen": {i: [partial(paired.seen.__getitem__, i)] for i in each},
            "brain": {i: [partial(one_round.__getitem__, i) for one_round in paired.rounds] for i in each},
        }

    @property
    def title(self) -> str:
        """What a reader would call it."""
        if self.config is None:
            return self.name
        data = self.config.data
        if data.study != "files":
            return f"Simulated {data.study.removeprefix('simulated-').upper()}, subject {data.subject}"
        name = Path(data.trials).name if data.trials else data.study
        return f"{name} (simulated)" if self.simulated else name

    @property
    def protocol(self) -> str:
        """How its figures were obtained, in a line: a figure without it cannot be compared."""
        told = []
        if self.config is not None:
            told = [self.retrieval.get("protocol") or self._retrieval_protocol()]
        elif any(name.startswith("retrieval/") for name in self.metrics):
            n = self.metrics.get("chance/retrieval/top1", {}).get("n")
            told = [f"{n}-way, embeddings ranked by cosine" if n else "embeddings ranked by cosine"]
        if self.evaluation:
            rounds = self.evaluation.get("rounds", 1)
            rounds = max(rounds.values()) if isinstance(rounds, Mapping) else rounds
            first = self.evaluation.get("first_resize")
            told.append(f"{self.evaluation.get('pairs')} pictures")
            told.append(f"{rounds} rounds averaged" if rounds > 1 else "1 round")
            told.append(f"first resized to {first} px" if first else "not resized first")
            if "matched_by" in self.evaluation:
                told.append(f"matched by {self.evaluation['matched_by']}")
        return ", ".join(told)

    def _retrieval_protocol(self) -> str:
        assert self.config is not None
        data = self.config.data
        way = f"{len(self.retrieval['gallery'])}-way, " if self.retrieval.get("gallery") else ""
        unseen = data.study != "files" or "split as prepared" in self.study.get("note", "")
        zero_shot = "concepts unseen in training" if unseen else f"held-out images, split {data.split_seed}"
        return f"{way}within-subject, {zero_shot}, averaged trials, plain test images as gallery"

    def column(self, figure: str) -> dict[int, float]:
        """Scores per image of a figure's own name: reconstruction/brain/..., retrieval/brain/top1 from the ranks."""
        if figure in self.scores:
            return self.scores[figure]
        section, row, name = figure.split("/")
        ranks = self.scores.get(f"{section}/{row}/rank", {})
        if name == "mrr":
            return {i: 1 / rank for i, rank in ranks.items()}
        if re.fullmatch(r"top\d+", name):
            return {i: float(rank <= int(name[3:])) for i, rank in ranks.items()}
        return {}


def open_folders(paths: Sequence[str | Path]) -> list[Folder]:
    """Each of them; HvfError if there is none, or one of them is nothing to report on."""
    if not paths:
        raise HvfError("a report needs at least one run folder")
    return [Folder(path) for path in paths]


def open_picture(path: Path) -> Image.Image:
    """An RGB picture; HvfError naming the file if it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise HvfError(f"{path} cannot be read as a picture: {error}") from error


def without_ending(name: str) -> str:
    """A picture's name without .png and the like."""
    return re.sub(r"\.(png|jpe?g|webp|bmp|tiff?)$", "", name, flags=re.IGNORECASE)


def words(name: object) -> str:
    """checked_red_truck -> checked red truck."""
    return str(name).replace("_", " ").strip()


def main_figure(folder: Folder) -> str:
    """The figure per image that orders pictures: PixCorr, or the first other one; "" if there is none."""
    keys = [key for key in folder.scores if "/brain/" in key]
    return next((key for key in keys if leaf(key) == "pixcorr"), keys[0] if keys else "")


def _stem(picture: Callable[[], Image.Image]) -> str:
    path = picture.args[0] if isinstance(picture, partial) and picture.args else ""
    return path.stem.partition("_")[2] if isinstance(path, Path) else ""
