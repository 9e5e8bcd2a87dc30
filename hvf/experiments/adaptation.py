"""Accuracy against the share of new people's images: adapted, trained from scratch, and leave-one-out.

A decoder is trained on several people once. People whom it has not seen then give a share of their training images:
it is adapted to these (`hvf.alignment.adapt`), beside a decoder trained on nothing else ("scratch") and the decoder of
the others, who are taken alike, as it is ("leave one out"). At 0 % no image is known: each person's trials are only
made alike (`brain.people`). Everything is chosen on validation concepts of the share; the test images are the same for
all. Letters: N test items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hvf import alignment
from hvf.alignment import Alignment
from hvf.alignment.adapting import LEARNT
from hvf.config import SUBJECTS, Config, HvfError, with_settings
from hvf.data.trials.splitting import concept_split
from hvf.data.trials.trials import Trials
from hvf.evaluation import retrieval, statistics
from hvf.experiments.protocols import Choice, HeldOut, Split, choose, open_split, recording_name
from hvf.experiments.repeated import each_repeat, open_folder, percent
from hvf.experiments.results import Result
from hvf.runs import Run, write_atomic
from hvf.schema.bounds import EachOnce
from hvf.study import open_study

FILE, PICTURE = "adaptation.json", "adaptation.png"
LOSO, PERMUTED = "leave one out", "adapted to permuted images"


@dataclass(frozen=True)
class AdaptationCurve:
    """Accuracy against the share of new people's images, of a decoder trained on others.

    `run` writes the `Result`, whose rows are the points; adaptation.json; and adaptation.png.
    """

    subjects: tuple[int, ...] = (3, 5, 7)  # new people
    others: tuple[int, ...] = (2, 4, 6, 10)  # people trained on
    shares: EachOnce[float] = (0, 1, 2, 5, 10, 25, 50, 100)  # per cent of a new person's training images
    seeds: int = 1  # training seeds, of which each also draws the images

    def run(self, config: Config, out: Path | None = None) -> Path:
        """Fit and test every point of every new person, write results and figure, and return their folder."""
        config = with_settings(config, {"align.mode": "retrieval", "adapt.method": "chosen"})
        self.check(config)
        run = open_folder(out, config, "adaptation")
        configs = {
            f"sub-{subject:02d}-seed-{seed}": with_settings(config, {"data.subject": subject, "align.seed": seed})
            for subject in self.subjects
            for seed in range(self.seeds)
        }
        options = {"others": self.others, "shares": self.shares}
        results = each_repeat(run, configs, partial(self._one_person, run.path / "others"), options)
        combined = Result.combined(results)
        combined.write(run.path)
        run.write_json(FILE, curves(results))
        title = f"{len(self.subjects)} new people of {recording_name(config).partition('-')[2].partition('-')[2]}"
        write_atomic(run.path / PICTURE, lambda path: _draw(run.read_json(FILE), title, path))
        return run.path

    def check(self, config: Config) -> None:
        """Raise HvfError for people, shares or a study that cannot be."""
        known = SUBJECTS.get(config.data.study)
        if known is None:
            raise HvfError("people are left out of a simulated study; move your own decoder with hvf adapt")
        for option, people in (("subjects", self.subjects), ("others", self.others)):
            wrong = [s for s in people if not 1 <= s <= known or people.count(s) > 1]
            if wrong or not people:
                raise HvfError(f"--{option} takes people 1 to {known}, each once, not {' '.join(map(str, people))}")
        if both := set(self.subjects) & set(self.others):
            raise HvfError(f"person {min(both)} is both new and trained on: leave them out of --others")
        if len(self.others) < 2:
            raise HvfError("a decoder of several people needs at least two --others")
        if self.seeds < 1:
            raise HvfError(f"--seeds must be at least 1, not {self.seeds}")
        if not self.shares or any(not 0 <= share <= 100 for share in self.shares):
            raise HvfError("--shares are per cent of the images, between 0 and 100")

    def summary(self, folder: Path) -> Iterator[str]:
        """The study; a line per curve: top-1 at every share with its interval."""
        study = Result.read(folder).study
        yield f"new people {study.subject}; {study.note}"
        for name, points in Run.open(folder).read_json(FILE).items():
            cells = [f"{point['share']:g} %: {percent(point['top1'])}" for point in points]
            yield f"{name:28} top-1 % {'  '.join(cells)}"

    def _one_person(self, folder: Path, run: Run) -> Result:
        """Fit and test every point of one new person."""
        config = run.config
        own, held_out = open_split(config, config.targets.specs)
        result = held_out.result("adaptation", config, run=run.path.name, main=f"adapted, {max(self.shares):g} %")
        alike, start = (self._of_others(folder, own, config, people) for people in ("alike", config.brain.people))
        as_it_is = choose(own, config, fit=lambda *_: alike)
        result = result.with_row(LOSO, held_out.row(as_it_is, settings=_settings(LOSO, 0, 0)))
        for share in self.shares:
            result = self._one_share(result, own, held_out, config, start, share)
        return result

    def _one_share(
        self, result: Result, own: Split, held_out: HeldOut, config: Config, start: Alignment, share: float
    ) -> Result:
        """The rows of one share of the person's images."""
        if share == 0:
            choice = choose(own, config, fit=lambda split, *_: alignment.on_person(start, split.trials))
            return result.with_row("adapted, 0 %", held_out.row(choice, settings=_settings("adapted", 0, 0)))
        part, scratch = _share_of(own, share / 100, config.align.seed), with_settings(config, {"brain.people": "alike"})
        about = (share, len(part.trials))
        choices: dict[str, Choice[Alignment]] = {}
        for method in ("none", *LEARNT):
            adapted = with_settings(config, {"adapt.method": method})
            choices[method] = choose(part, adapted, fit=partial(alignment.adapt, start))
        best = max(choices.values(), key=lambda choice: choice.validation["mrr"])
        rows = {"adapted": best, "scratch": choose(part, scratch)}
        rows |= {method: choices[method] for method in LEARNT}
        if share == self.shares[len(self.shares) // 2]:
            permuted = part.permuted(config.align.seed)
            rows[PERMUTED] = choose(
                permuted, with_settings(config, {"adapt.method": "all"}), fit=partial(alignment.adapt, start)
            )
        for name, choice in rows.items():
            row = held_out.row(choice, settings=_settings(name, *about))
            result = result.with_row(f"{name}, {share:g} %", row)
        return result

    def _of_others(self, folder: Path, own: Split, config: Config, people: str) -> Alignment:
        """The decoder of the other people, trained once and kept."""
        config = with_settings(config, {"brain.people": people})
        whose = "-".join(map(str, self.others))
        place = folder / f"{people}-{whose}-seed-{config.align.seed}"
        if (place / alignment.FILE).is_file():
            return Alignment.load(place)
        images = open_study(config.data).train_images
        parts = [open_study(replace(config.data, subject=s)).train.aligned_to(images) for s in self.others]
        n = len(images)
        together = Split(
            Trials.concatenate(parts, subject=f"subjects {whose}"),
            own.features,
            own.concepts,
            np.tile(np.arange(n), len(parts)),
            person_N=np.repeat(np.arange(len(parts)), n),
        )
        trained = choose(together, config).alignment
        trained.save(place)
        return trained


def _settings(model: str, share: float, images: int) -> dict[str, Any]:
    return {"model": model, "share": share, "images": images}


def _share_of(split: Split, fraction: float, seed: int) -> Split:
    """A share of a person's images: whole concepts at random, of which a larger share holds the smaller."""
    if fraction == 1:
        return split
    _, rows = concept_split(split.concept_N, fraction, seed, at_least=3)
    return split.select(rows)


def curves(results: Sequence[Result]) -> dict[str, list[dict[str, Any]]]:
    """{curve: points} over all people and seeds: share, images, top-1 with its interval, of each, and the settings."""
    combined = Result.combined(results)
    ids, points = combined.image_ids, {}
    for name, row in combined.rows.items():
        hits_N = np.concatenate([result.rows[name].hits(1) for result in results]).astype(float)
        names = [image for result in results for image in result.image_ids]
        point = {
            "share": row.settings["share"],
            "images": row.settings["images"],
            "top1": statistics.interval(hits_N, names),
            "each": list(row.each["top1"]),
            "chosen": [dict(chosen) for chosen in row.chosen],
        }
        points.setdefault(row.settings["model"], []).append(point)
    chance = retrieval.chance(1, len(ids), results[0].gallery_size)
    points["chance"] = [{"share": 0, "images": 0, "top1": chance, "each": [], "chosen": []}]
    return points


def _draw(points: Mapping[str, Sequence[Mapping[str, Any]]], title: str, path: Path) -> None:
    """Draw accuracy over the share of the images: curves with intervals, lines for what does not depend on it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    shares = [point["share"] for point in points["adapted"]]
    place = {share: i for i, share in enumerate(shares)}
    for name, label, colour in (("adapted", "adapted", "C0"), ("scratch", "trained from scratch", "C1")):
        x = [place[point["share"]] for point in points.get(name, [])]
        y = np.array([100 * point["top1"]["value"] for point in points.get(name, [])])
        ends = np.array([100 * np.array(point["top1"]["ci95"]) for point in points.get(name, [])])
        axes.errorbar(x, y, [y - ends[:, 0], ends[:, 1] - y], fmt="o-", color=colour, capsize=2, label=label)
    for name, label, style in (
        (LOSO, "leave one out", "--"),
        (PERMUTED, "adapted to permuted images", "-."),
        ("chance", "chance", ":"),
    ):
        if name in points:
            axes.axhline(100 * points[name][0]["top1"]["value"], color="0.4", linestyle=style, label=label)
    axes.set_xticks(range(len(shares)), [f"{share:g}" for share in shares])
    axes.set(xlabel="share of the new person's training images, %", ylabel="top-1 %", ylim=(0, None))
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, format="png", dpi=160)
