"""Time course of a hierarchy: when responses tell what a picture looks like, its features, and what it shows.

Targets: luminance, contrast and size, measured on the pixels; features of encoders, as principal components; categories
and concepts. Each is decoded at every time bin and tested at all others (`hvf.experiments.generalisation`), in the
training part of the study alone; its test images stay unseen. Beside every course stand chance and the same for trials
permuted against the images. Intervals are over folds, which share training images and so vary somewhat less than new
recordings would, or over subjects.

Letters: N images, C channels, B time bins, F folds, R runs (folds or subjects), S pixels of a side, d width of an
encoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

import numpy as np
from rich.table import Table

from hvf.config import Config, HvfError, check_files, with_settings
from hvf.data.images.image_set import ImageSet
from hvf.evaluation import statistics
from hvf.experiments.categories import categories_of
from hvf.experiments.descriptions import StudyInfo
from hvf.experiments.generalisation import SCORES, Target, binned, decode
from hvf.experiments.protocols import device
from hvf.experiments.repeated import each_repeat, open_folder
from hvf.experiments.results import Entry, Result, Row
from hvf.runs import Run, say, track, write_atomic
from hvf.schema.bounds import Positive
from hvf.study import Study, open_study
from hvf.vision.cache import embed_all
from hvf.vision.specs import check_targets

FILE = "timecourse.json"
LOW = ("luminance", "contrast", "size")
Named = Literal["luminance", "contrast", "size", "category", "concept"]
CHANGING = ("what", "folds", "step", "components", "score", "classes")  # options that change a subject's courses
PIXELS = 64  # of a side, on which luminance, contrast and size are measured


@dataclass(frozen=True)
class Timecourse:
    """Time-resolved decoding of targets, from what a picture looks like to what it shows.

    Encoders are those of ``--targets``, as openclip:mini-vit@0:mean. `run` writes the `Result`; timecourse.json with
    every course and its generalisation over time; windows.json, which the page shows; and timecourse.png.
    """

    what: tuple[Named, ...] = ("luminance", "contrast", "size", "category")  # beside the encoders of --targets
    subjects: tuple[int, ...] = ()  # several people: means and intervals over them; none: one, over folds
    folds: int = 5  # parts that are tested in turn
    step: Positive = 20.0  # ms, width of the time bins
    components: int = 20  # principal components of an encoder's features, at most
    score: Literal["pairwise", "correlation"] = "pairwise"  # of what is no label
    classes: int = 20  # concepts that are told apart, those with most images
    categories: Path | None = None  # CSV of concept,category; none: the simulated ones

    def run(self, config: Config, out: Path | None = None) -> Path:
        """Decode every target of every subject, write results and figure, and return their folder."""
        self._check()
        check_files(config)
        check_targets(config.targets)
        numbers = self.subjects or (config.data.subject,)
        if len(set(numbers)) < len(numbers):
            raise HvfError("a subject counts once: --subjects names one twice")
        configs = {f"sub-{n:02d}": with_settings(config, {"data.subject": n}) for n in numbers}
        options = {name: getattr(self, name) for name in CHANGING} | {"categories": str(self.categories or "")}
        run = open_folder(out, config, "timecourse")
        results = each_repeat(run, configs, self._one_subject, options)
        Result.combined(results).write(run.path)
        found = _over([run.read_json(f"{name}/{FILE}") for name in configs])
        run.write_json(FILE, found)
        run.write_json("windows.json", _windows(found))
        title = f"{results[0].study.note}; {_counted(found)}"
        write_atomic(run.path / "timecourse.png", lambda path: _draw(found, title, path))
        return run.path

    def summary(self, folder: Path) -> Iterator[Table | str]:
        """A line per target: chance, the best time and its score, from when it is above chance, and permuted trials."""
        found = Run.open(folder).read_json(FILE)
        table = Table(title=f"{Result.read(folder).study.note}; {_counted(found)}", title_justify="left")
        for heading in ("target", "score", "chance", "best [95 %]", "at ms", "above chance from ms", "permuted, best"):
            table.add_column(heading, justify="left" if heading in ("target", "score") else "right", overflow="fold")
        for name, course in found["courses"].items():
            best = course["diagonal"][course["best"]]
            low, high = best["ci95"] or ("–", "–")
            ends = f" [{low:.3f}, {high:.3f}]" if best["ci95"] else ""
            onset = "–" if course["onset"] is None else f"{1000 * course['onset']:.0f}"
            permuted = max(entry["value"] for entry in course["permuted"])
            at = f"{1000 * found['centres'][course['best']]:.0f}"
            cells = (f"{course['chance']:.3f}", f"{best['value']:.3f}{ends}", at, onset, f"{permuted:.3f}")
            table.add_row(name, SCORES[course["score"]], *cells)
        yield table

    def _check(self) -> None:
        for name, least in (("folds", 2), ("components", 1), ("classes", 2)):
            if getattr(self, name) < least:
                raise HvfError(f"--{name} must be at least {least}, not {getattr(self, name)}")
        if not self.step > 0:
            raise HvfError(f"--step must be greater than 0, not {self.step:g}")
        if len(set(self.what)) < len(self.what):
            raise HvfError(f"name each target once: --what {' '.join(dict.fromkeys(self.what))}")

    def _one_subject(self, run: Run) -> Result:
        """Decode every target of one subject; leaves the courses in timecourse.json."""
        config, study = run.config, open_study(run.config.data)
        trials, images = study.train.aligned_to(study.train_images), study.train_images
        x_NCB, edges = binned(trials, self.step / 1000)
        permuted_NCB, _ = binned(study.train.permuted(config.align.seed).aligned_to(images), self.step / 1000)
        targets = self._targets(config, study)
        courses = {
            name: decode(
                x_NCB, permuted_NCB, target, self.folds, self.score, components=self.components, seed=config.align.seed
            )
            for name, target in track(list(targets.items()), "decoding over time")
        }
        arrays = {name: asdict(course) for name, course in courses.items()}
        run.write_json(FILE, {"edges": edges, "subject": trials.subject, "courses": arrays})
        info, ids = StudyInfo.of(study), images.ids
        result = Result.start(
            "timecourse", config, info, ids, images.concepts, run=run.path.name, main=next(iter(targets))
        )
        for name, course in courses.items():
            result = result.with_row(name, Row(settings={"score": course.score, "chance": course.chance}))
        return result

    def _targets(self, config: Config, study: Study) -> dict[str, Target]:
        """The targets by name, in the order from looks to meaning."""
        images, specs = study.train_images, config.targets.specs
        every_N, concept_N = np.arange(len(images)), np.array(images.concepts)
        if len(set(images.concepts)) < self.folds:
            raise HvfError(f"{len(set(images.concepts))} concepts cannot be parted into {self.folds} folds: --folds 2")
        labels: dict[str, Target] = {}
        if "category" in self.what:
            named = categories_of(images.concepts, config.data, self.categories)
            if named is not None:
                labels["category"] = Target(np.array(named), concept_N, every_N)
            elif self.what == Timecourse.what:
                say("category", ["left out, for nobody knows the concepts' categories: --categories FILE.csv"])
            else:
                raise HvfError("nobody knows the categories of these concepts: --categories FILE.csv, concept,category")
        if "concept" in self.what:
            labels["concept"] = self._of_concepts(concept_N)
        for name, target in labels.items():
            if len(set(target.y_N.tolist())) < 2:
                raise HvfError(f"all images are of one {name}: there is nothing to tell apart")
        looks = set(LOW) & set(self.what)
        measured = low_level(images) if looks else {}
        values = {name: measured[name][:, None] for name in LOW if name in looks}
        values |= {spec: x_Nd.reshape(len(x_Nd), -1) for spec, x_Nd in embed_all(images, specs, device()).items()}
        return {name: Target(y_NP, concept_N, every_N) for name, y_NP in values.items()} | labels

    def _of_concepts(self, concept_N: np.ndarray) -> Target:
        names, counts = np.unique(concept_N, return_counts=True)
        order = np.argsort(-counts, kind="stable")[: self.classes]
        kept = [names[i] for i in order if counts[i] >= self.folds]
        if len(kept) < 2:
            most = int(counts.max())
            raise HvfError(
                f"concepts have at most {most} images, which {self.folds} folds keep apart: "
                + (f"--folds {most}" if most > 1 else "leave out concept, or name categories")
            )
        rows = np.flatnonzero(np.isin(concept_N, kept))
        return Target(concept_N[rows], None, rows)


def low_level(images: ImageSet) -> dict[str, np.ndarray]:
    """Luminance, contrast and size of each image, (N,), from its pixels.

    Luminance is the mean of the grey values, contrast their standard deviation. Size is how far the edges lie from
    their centre: the root mean square distance, in sides of the picture, of gradient energy from its centroid.
    """
    if not images.has_pictures:
        raise HvfError("luminance, contrast and size are measured on pixels, and these images are names alone: --what")
    at = (np.arange(PIXELS) + 0.5) / PIXELS
    measured: dict[str, list[np.ndarray]] = {name: [] for name in LOW}
    for start in range(0, len(images), 256):
        rows = np.arange(start, min(start + 256, len(images)))
        grey_NSS = images.array(rows, size=PIXELS) @ np.array([0.299, 0.587, 0.114]) / 255
        down_NSS, right_NSS = np.gradient(grey_NSS, axis=(1, 2))
        energy_NSS = np.square(down_NSS) + np.square(right_NSS) + 1e-12
        weight_NSS = energy_NSS / energy_NSS.sum(axis=(1, 2), keepdims=True)
        spread = [
            (weight_NSS.sum(axis=2 - axis) * np.square(at)).sum(axis=1)
            - np.square((weight_NSS.sum(axis=2 - axis) * at).sum(axis=1))
            for axis in (0, 1)
        ]
        measured["luminance"].append(grey_NSS.mean(axis=(1, 2)))
        measured["contrast"].append(grey_NSS.std(axis=(1, 2)))
        measured["size"].append(np.sqrt(np.maximum(spread[0] + spread[1], 0)))
    return {name: np.concatenate(parts) for name, parts in measured.items()}


# --- what is found ----------------------------------------------------------------------------------------------------


def _over(subjects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Courses with intervals: over the folds of one subject, or over several subjects' means of folds."""
    first = subjects[0]
    edges = first["edges"]
    if any(one["edges"] != edges for one in subjects):
        raise HvfError("the subjects' responses differ in window or rate: their courses cannot be averaged")
    courses = {}
    for name, course in first["courses"].items():
        of = {
            key: [np.array(one["courses"][name][f"{key}_FB"]) for one in subjects] for key in ("diagonal", "permuted")
        }
        entries = {key: _entries(parts) for key, parts in of.items()}
        general = np.mean([one["courses"][name]["general_BB"] for one in subjects], axis=0)
        best = int(np.argmax([entry["value"] for entry in entries["diagonal"]]))
        above = [entry["ci95"] is not None and entry["ci95"][0] > course["chance"] for entry in entries["diagonal"]]
        onset = next((edges[i] for i in range(len(above) - 1) if above[i] and above[i + 1]), None)
        courses[name] = {"chance": course["chance"], "score": course["score"], "best": best, "onset": onset}
        courses[name] |= entries | {"general": general.tolist()}
    centres = [(a + b) / 2 for a, b in zip(edges[:-1], edges[1:], strict=True)]
    n = len(subjects[0]["courses"][next(iter(courses))]["diagonal_FB"])
    names = [one["subject"] for one in subjects]
    return {"edges": edges, "centres": centres, "subjects": names, "folds": n, "courses": courses}


def _entries(parts: Sequence[np.ndarray]) -> list[Entry]:
    """An entry per time bin, from (F, B) of each subject."""
    values_RB = parts[0] if len(parts) == 1 else np.stack([part_FB.mean(axis=0) for part_FB in parts])
    return [statistics.over_runs(values_R) for values_R in values_RB.T]


def _counted(found: Mapping[str, Any]) -> str:
    """What the intervals are over, in words."""
    n = len(found["subjects"])
    return (
        f"mean and 95 % interval over {n} subjects" if n > 1 else f"mean and 95 % interval over {found['folds']} folds"
    )


def _windows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """windows.json: a course per target, as the page shows them."""
    bins = list(zip(found["edges"][:-1], found["edges"][1:], strict=True))
    return [
        {
            "title": f"{name}: {SCORES[course['score']]}",
            "how": f"a linear decoder for each bin, concepts apart; {_counted(found)}",
            "chance": course["chance"],
            "windows": [
                {"tmin": a, "tmax": b, "value": entry["value"], "ci95": entry["ci95"]}
                for (a, b), entry in zip(bins, course["diagonal"], strict=True)
            ],
        }
        for name, course in found["courses"].items()
    ]


def _draw(found: Mapping[str, Any], title: str, path: Path) -> None:
    """Draw the course of every target, and how each generalises over time."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    courses, times = found["courses"], 1000 * np.array(found["centres"])
    colours = colormaps["viridis"](np.linspace(0, 0.92, len(courses)))
    scores = list(dict.fromkeys(course["score"] for course in courses.values()))
    columns = min(4, len(courses))
    rows = -(-len(courses) // columns)
    figure = Figure(figsize=(10.5, 2.7 * len(scores) + 2.5 * rows + 0.5), layout="constrained")
    figure.suptitle(fill(title, 140), fontsize=8)  # it says so if the data are simulated
    halves: Any = figure.subfigures(2, 1, height_ratios=(2.7 * len(scores), 2.5 * rows))
    above, below = halves
    for axes, score in zip(np.atleast_1d(above.subplots(len(scores), 1, sharex=True)), scores, strict=True):
        for (name, course), colour in zip(courses.items(), colours, strict=True):
            if course["score"] == score:
                _draw_course(axes, times, name, course, colour)
        axes.set(ylabel=SCORES[score], xlim=(times[0], times[-1]))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02))
    axes.set_xlabel("time after image onset (ms); dots: best bin; dashed: chance; thin: trials permuted", fontsize=8)
    panels = np.ravel(below.subplots(rows, columns, squeeze=False))
    for axes, (name, course) in zip(panels, courses.items(), strict=False):
        matrix_BB, chance = np.array(course["general"]), course["chance"]
        limit = max(float(np.abs(matrix_BB - chance).max()), 1e-6)
        ends = {"vmin": chance - limit, "vmax": chance + limit}
        box = (times[0], times[-1], times[0], times[-1])
        picture = axes.imshow(matrix_BB, origin="lower", extent=box, cmap="RdBu_r", interpolation="nearest", **ends)
        axes.plot(box[:2], box[:2], color="k", linewidth=0.4)
        axes.set_title(name, fontsize=7)
        axes.tick_params(labelsize=6)
        bar = below.colorbar(picture, ax=axes, shrink=0.8, ticks=[chance, chance + limit], format="%.2f")
        bar.ax.tick_params(labelsize=6)
    for axes in panels[len(courses) :]:
        axes.set_axis_off()
    below.supxlabel("tested at (ms)", fontsize=8)
    below.supylabel("trained at (ms)", fontsize=8)
    figure.savefig(path, format="png", dpi=150)


def _draw_course(axes: Any, times: np.ndarray, name: str, course: Mapping[str, Any], colour: Any) -> None:
    value = np.array([entry["value"] for entry in course["diagonal"]])
    ends = np.array([entry["ci95"] or [entry["value"]] * 2 for entry in course["diagonal"]])
    axes.fill_between(times, ends[:, 0], ends[:, 1], color=colour, alpha=0.2, linewidth=0)
    axes.plot(times, value, color=colour, linewidth=1.4, label=f"{name}, best at {times[course['best']]:.0f} ms")
    axes.plot(times[course["best"]], value[course["best"]], "o", color=colour, markersize=4)
    axes.plot(times, [entry["value"] for entry in course["permuted"]], color=colour, linewidth=0.5)
    axes.axhline(course["chance"], color="k", linestyle="--", linewidth=0.7)
