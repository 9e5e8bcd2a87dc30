"""The result of training and testing: one versioned file, `result.json`, whatever was trained and tested.

A run, a protocol's mean, a cell of the benchmark and every sweep leave a `Result`; `report`, `explore`, `compare` and
the tables read it and nothing else for what was tested. One run is one training (or one random split) and its test:

    split, held_out = open_split(config, specs)            # hvf.experiments.protocols
    result = held_out.result("targets", config, run="split-0", main="fused (HVF)")
    result = result.with_row("ridge", held_out.row(choose(split, linear)))
    result.write(folder)                                   # result.json, and the figures in metrics.json

Of other scores and data: `Result.start(...)` and `Row.of_scores`, or `Row.of_ranks` where only ranks are known.

Results of several seeds or splits are combined into one, with the mean over runs, intervals over images and each run's
figures; the rows of several results of the same images are put beside one another:

    Result.combined([Result.read(folder / name) for name in ("split-0", "split-1")]).write(folder)
    Result.side_by_side([result_of_hvf, result_of_ridge])

Letters: N test items (trials averaged per image), M gallery images, R runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Le

from hvf.config import Config, HvfError, from_dict, to_dict
from hvf.decoding.ranked import TOP
from hvf.evaluation import retrieval, statistics
from hvf.evaluation.scaling import scaled_figures, section
from hvf.experiments.descriptions import ProtocolInfo, RunInfo, StudyInfo, Training, common_protocol, common_study
from hvf.runs import Run, code_version, write_json
from hvf.schema.reading import as_type, read_json
from hvf.schema.run_folder import MADE_FROM, RESULT, ConfidenceInfo, Entry, Number

FILE = RESULT
VERSION = 1
# By a fit, beside the settings.
CHOSEN = ("epoch", "penalty", "bands", "field", "shrinkage", "constant", "method", "members")
LIBRARIES = ("torch", "diffusers", "transformers", "open_clip_torch", "mne", "numpy")  # figures depend on these

Rank = Annotated[int, Ge(1), Le(2**53)]
Place = Annotated[int, Ge(0), Le(2**53)]
Kind = Literal[
    "training", "retrieval", "benchmark", "targets", "layers", "scaling", "population", "timecourse", "adaptation"
]


@dataclass(frozen=True)
class Row:
    """One row of a table: what one method, target or control retrieved. Tuples with one entry per run are noted (R)."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    ranks: tuple[Rank, ...] = ()  # of each test item's own image, from 1; empty if nothing was tested yet
    figures: Mapping[str, Entry] = field(default_factory=dict)  # means over runs, intervals over images
    each: Mapping[str, tuple[Number, ...]] = field(default_factory=dict)  # (R) also validation_mrr, validation_top1
    validation: Mapping[str, Number] = field(default_factory=dict)  # mrr, top1 and number of images n, mean over runs
    chosen: tuple[Mapping[str, Any], ...] = ()  # (R) settings chosen on validation images, with the epoch or penalty
    top5: tuple[tuple[Place, ...], ...] = ()  # gallery indices that scored highest, best first; empty if unknown
    settings: Mapping[str, Any] = field(default_factory=dict)  # that set this row apart from the others

    @classmethod
    def of_ranks(
        cls,
        ranks_N: np.ndarray,
        validation: Mapping[str, float] | None = None,
        chosen: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Row:
        """The row of one run of which only the ranks are known."""
        figures = retrieval.summarise(ranks_N)
        return cls(
            ranks=tuple(np.asarray(ranks_N).tolist()),
            figures=figures,
            each={name: (entry["value"],) for name, entry in figures.items()}
            | {f"validation_{name}": (float(value),) for name, value in (validation or {}).items() if name != "n"},
            validation=as_json(validation or {}),
            chosen=(as_json(chosen or {}),),
            settings=as_json(settings or {}),
        )

    @classmethod
    def of_scores(cls, scores_NN: np.ndarray, *about: Mapping[str, Any] | None) -> Row:
        """As `of_ranks`, from scores (N, N) whose rows and columns pair: with one-to-one matching and the top 5."""
        row = cls.of_ranks(retrieval.ranks(scores_NN), *about)
        matched = retrieval.one_to_one_figures(scores_NN)["value"]
        return replace(
            row,
            figures={**row.figures, "one_to_one": matched},
            each={**row.each, "one_to_one": (matched["value"],)},
            top5=tuple(map(tuple, retrieval.top_items(scores_NN, TOP).tolist())),
        )

    @classmethod
    def of_scaling(cls, name: str, ranks_N: np.ndarray, of: Row, row: str = "brain", k: int = 0) -> Row:
        """The row of scaled scores (`hvf.evaluation.scaling`) beside that of the cosine.

        Parameters
        ----------
        name : str
            The scaling.
        ranks_N : ndarray
            Of each test item's own image under it.
        of, row : Row, str
            The row of the cosine, and its name.
        k : int
            Of CSLS.
        """
        figures = scaled_figures(name, ranks_N, None if row == "floor" else np.array(of.ranks))
        settings = {"scaling": name, "of": row} | ({"k": k} if k else {})
        each = {figure: (entry["value"],) for figure, entry in figures.items()}
        return cls(tuple(ranks_N.tolist()), figures, each, settings=settings)

    def hits(self, k: int) -> np.ndarray:
        """Whether each test item's image is among the first k, (N,) bool."""
        return np.asarray(self.ranks) <= k


@dataclass(frozen=True)
class Result:
    """What was trained and tested: rows of ranks and figures, on what data, by which protocol, with which settings.

    ``image_ids`` name the image of every test item, run after run where several are combined; ``gallery`` the images
    they are ranked among, () where runs have different ones. ``details`` holds what one kind of experiment adds (a
    gate's weights, the fit of a line) as plain numbers. ``main`` is the row that a summary shows first.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    kind: Kind
    study: StudyInfo
    protocol: ProtocolInfo
    config: Mapping[str, Any]
    image_ids: tuple[str, ...]
    concepts: tuple[str, ...]
    gallery: tuple[str, ...]
    runs: tuple[RunInfo, ...]
    rows: Mapping[str, Row] = field(default_factory=dict)
    main: str = "brain"
    details: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    transductive: Mapping[str, Row] = field(default_factory=dict)  # whose scores all test items were scaled by at once

    @classmethod
    def start(
        cls,
        kind: Kind,
        config: Config,
        study: StudyInfo,
        image_ids: Sequence[str],
        concepts: Sequence[str],
        *,
        training: Training = "intra",
        run: str = "",
        main: str = "brain",
    ) -> Result:
        """The result of one run before any row is tested; the gallery is the test images themselves.

        Parameters
        ----------
        kind : str
            "training" where nothing is tested yet, or what was tested.
        config : Config
            The settings of this run, its seeds included.
        study : StudyInfo
            The data that are trained and tested on.
        image_ids, concepts : sequence of str
            (N) The image of every test item, and what it shows.
        training : "intra", "loso" or "pooled"
            Whose trials are trained on.
        run : str
            The run's name, by default that of its seed.
        main : str
            The row that a summary shows first.
        """
        name, ids = run or f"seed-{config.align.seed}", tuple(image_ids)
        return cls(
            kind=kind,
            study=study,
            protocol=ProtocolInfo.of(config, study.note, training),
            config=to_dict(config),
            image_ids=ids,
            concepts=tuple(concepts),
            gallery=ids,
            runs=(RunInfo(name, config.align.seed, config.data.split_seed, len(ids)),),
            main=main,
            versions={lib: version(lib) for lib in ("hvf", *LIBRARIES)} | {"code": code_version()},
        )

    def with_row(self, name: str, row: Row) -> Result:
        """The same result with one more row, or with another one in its place. HvfError if its ranks do not fit."""
        if row.ranks and len(row.ranks) != len(self.image_ids):
            raise HvfError(f"row {name!r} has {len(row.ranks)} ranks for {len(self.image_ids)} test items")
        return replace(self, rows={**self.rows, name: row})

    def with_scaled(self, row: Row, name: str = "") -> Result:
        """The same result with a row of scaled scores, a transductive one apart from all others (`transductive`)."""
        scaling = row.settings["scaling"]
        name = name or (scaling if row.settings["of"] == self.main else f"{scaling} {row.settings['of']}")
        if section(scaling) == "retrieval":
            return self.with_row(name, row)
        return replace(self, transductive={**self.transductive, name: row})

    def with_details(self, **details: Any) -> Result:
        """The same result with more details."""
        return replace(self, details={**self.details, **as_json(details)})

    @property
    def gallery_size(self) -> int:
        """M: how many images a test item is ranked among."""
        return len(self.gallery) or self.runs[0].n

    @property
    def chance(self) -> dict[str, Entry]:
        """{name: entry} of guessing, for the figures that the rows have."""
        n, names = len(self.image_ids), {name for row in self.rows.values() for name in row.figures}
        entries = {f"top{k}": retrieval.chance(k, n, self.gallery_size) for k in retrieval.KS if f"top{k}" in names}
        return entries | ({"one_to_one": retrieval.one_to_one_chance(n)} if "one_to_one" in names else {})

    def metrics(self) -> dict[str, Entry]:
        """The figures as metrics.json has them: retrieval/ROW/NAME, chance/retrieval/NAME, and so on."""
        entries: dict[str, Entry] = {}
        for name, row in self.rows.items():
            entries |= {f"retrieval/{name}/{figure}": entry for figure, entry in row.figures.items()}
        entries |= {f"chance/retrieval/{name}": entry for name, entry in self.chance.items()}
        for name, row in self.transductive.items():
            entries |= {f"transductive/{name}/{figure}": entry for figure, entry in row.figures.items()}
        if self.transductive:
            n, m = len(self.image_ids), self.gallery_size
            entries |= {f"chance/transductive/top{k}": retrieval.chance(k, n, m) for k in retrieval.KS}
        for name, row in self.rows.items():
            n = int(row.validation.get("n", 0))
            entries |= {
                f"validation/{name}/{figure}": {"value": row.validation[figure], "ci95": None, "n": n}
                for figure in ("top1", "mrr")
                if figure in row.validation
            }
        for name, row in self.details.get("confidence", {}).get("rows", {}).items():
            entries |= {f"confidence/{name}/{figure}": entry for figure, entry in row["figures"].items()}
        return entries

    def write(self, folder: str | Path) -> None:
        """Write `result.json`, and the figures into `metrics.json`, where those of drawn pictures stay.

        Each file is written whole or not at all.
        """
        run = Run(Path(folder), from_dict(Config, self.config))
        ours = (
            "retrieval/",
            "transductive/",
            "validation/",
            "confidence/",
            "chance/retrieval/",
            "chance/transductive/",
        )
        kept = {name: entry for name, entry in run.metrics().items() if not name.startswith(ours)}
        run.write_metrics({**self.metrics(), **kept}, merge=False)  # in one order, whichever was written last
        write_json(run.path / FILE, {"version": VERSION, **asdict(self)})  # last: whoever finds it asks for no more

    @classmethod
    def read(cls, folder: str | Path) -> Result:
        """The result in a folder. HvfError if there is none, it is damaged, or another version of hvf wrote it."""
        path = Path(folder) / FILE
        again = "make the run again, in a folder of its own"
        if not path.is_file():
            raise HvfError(f"{folder} has no {FILE}: it holds no result of version {VERSION}; {again}")
        stored = read_json(path, again)
        there = stored.pop("version", None) if isinstance(stored, dict) else None
        if there != VERSION:
            was = "no version" if there is None else f"version {there}"
            raise HvfError(f"{path} has {was}, and this hvf reads version {VERSION}: {again}")
        try:
            result = as_type(Result, stored)
            fault = result.misfit()
        except ValueError as error:
            raise HvfError(f"{path} is not a whole result of version {VERSION} ({error}): {again}") from error
        if fault:
            raise HvfError(f"{path} is not a whole result of version {VERSION} ({fault}): {again}")
        return result

    def misfit(self) -> str:
        """What does not belong together; "" if all does."""
        n, images, known = len(self.image_ids), len(self.gallery), set(self.gallery)
        if len(self.concepts) != n:
            return f"{n} test items have {len(self.concepts)} concepts"
        if not self.runs:
            return "it has no run"
        if known and not known.issuperset(self.image_ids):
            return "a test item is not in the gallery"
        for name, row in (*self.rows.items(), *self.transductive.items()):
            if len(row.ranks) not in (0, n) or len(row.top5) not in (0, n):
                return f"row {name}: {len(row.ranks)} ranks and {len(row.top5)} lists of {n} test items"
            if any(not place < images for best in row.top5 for place in best):
                return f"row {name}: an image that the gallery has not"
            if "scaling" in row.settings and row.settings.get("of") not in self.rows:
                return f"row {name}: the row that it scales is missing"
        if "confidence" in self.details:
            as_type(ConfidenceInfo, self.details["confidence"])
        as_type(dict[str, str], self.details.get(MADE_FROM, {}))
        return ""

    @classmethod
    def combined(cls, results: Iterable[Result]) -> Result:
        """One result of several runs: means over runs, intervals over images, and the figures of each run.

        An image that several runs tested counts once in the interval: its figures are averaged first. Rows that only
        some runs have are left out. Raises HvfError if there is nothing to combine, or kinds differ.
        """
        results = list(results)
        if not results:
            raise HvfError("there are no results to combine")
        first = results[0]
        kinds = sorted({result.kind for result in results})
        if len(kinds) > 1:
            raise HvfError(f"results of different kinds cannot be combined: {', '.join(kinds)}")
        ids = tuple(name for result in results for name in result.image_ids)
        same = all(result.gallery == first.gallery for result in results)
        kept: list[dict[str, Row]] = []
        for each in ([result.rows for result in results], [result.transductive for result in results]):
            names = [name for name in each[0] if all(name in rows for rows in each)]
            kept.append({name: _combined_row([rows[name] for rows in each], ids, same) for name in names})
        rows, transductive = ({name: _scaled_again(row, kept[0], ids) for name, row in part.items()} for part in kept)
        return replace(
            first,
            study=common_study([result.study for result in results]),
            protocol=common_protocol([result.protocol for result in results]),
            image_ids=ids,
            concepts=tuple(concept for result in results for concept in result.concepts),
            gallery=first.gallery if same else (),
            runs=tuple(run for result in results for run in result.runs),
            rows=rows,
            transductive=transductive,
            details={},
        )

    @classmethod
    def side_by_side(cls, results: Iterable[Result], main: str | None = None) -> Result:
        """The rows of several results of the same test items in one. HvfError if they are not about the same ones."""
        first, *others = results
        joined = first
        for other in others:
            if other.image_ids != first.image_ids or other.gallery != first.gallery:
                raise HvfError("rows stand beside one another only where they were tested on the same images")
            joined = replace(
                joined,
                rows={**joined.rows, **other.rows},
                transductive={**joined.transductive, **other.transductive},
                details={**joined.details, **other.details},
            )
        protocol = common_protocol([first.protocol, *(other.protocol for other in others)])
        return replace(joined, protocol=protocol, main=main or next(iter(joined.rows)))

    def lead(self, row: str, over: str) -> Entry:
        """How much more often `row` is right than `over` on the same items: mean, interval over images, n."""
        return statistics.interval(self.rows[row].hits(1).astype(float) - self.rows[over].hits(1), self.image_ids)


def selection(best: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """(validation figures, what was chosen) of the best entry of a fit's history (`Alignment.best`)."""
    validation = {name: best[f"validation_{name}"] for name in ("mrr", "top1", "n")}
    return validation, {name: best[name] for name in CHOSEN if name in best}


def as_json(value: Any) -> Any:
    """The value as JSON gives it back: tuples as lists, numpy scalars and arrays as plain numbers."""
    return json.loads(json.dumps(value, default=lambda x: x.tolist() if hasattr(x, "tolist") else str(x)))


def _scaled_again(row: Row, rows: Mapping[str, Row], ids: Sequence[str]) -> Row:
    """A combined row of scaled scores with its own figures: those above the cosine's, of a matching top-1 alone."""
    if "scaling" not in row.settings:
        return row
    of = np.array(rows[row.settings["of"]].ranks) if "top1_gain" in row.each else None
    return replace(row, figures=scaled_figures(row.settings["scaling"], np.array(row.ranks), of, ids))


def _combined_row(rows: Sequence[Row], ids: Sequence[str], one_gallery: bool) -> Row:
    ranks = tuple(rank for row in rows for rank in row.ranks)
    figures = retrieval.summarise(np.array(ranks), ids) if all(row.ranks for row in rows) else {}
    validation = {key: float(np.mean([row.validation[key] for row in rows])) for key in rows[0].validation}
    return Row(
        ranks=ranks,
        figures=figures,
        each={name: tuple(value for row in rows for value in row.each.get(name, ())) for name in rows[0].each},
        validation=validation,
        chosen=tuple(chosen for row in rows for chosen in row.chosen),
        top5=tuple(top for row in rows for top in row.top5) if one_gallery else (),
        settings=rows[0].settings,
    )
