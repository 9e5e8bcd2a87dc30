"""Reconstructions to figures: anybody's folders of pictures (`evaluate_pictures`), or a run of hvf (`evaluate_run`).

Shapes: N images, R rounds (reconstructions of each image).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hvf.evaluation.evaluator import Evaluator, Options
from hvf.evaluation.pairing import Paired, pair
from hvf.registry import HvfError
from hvf.runs import Run, check_writable, code_version, padded, write_atomic, write_csv, write_json

if TYPE_CHECKING:
    from typing_extensions import Unpack

MEASURED, COPIED, EXACT = "measured", 512, 128  # a folder; pixels; pixels up to which copies are lossless
ROWS = ("ceiling", "brain", "floor")  # of a run: from the image's own embedding, the brain's, a permuted trial's


class Evaluation(NamedTuple):
    """The result of an evaluation."""

    metrics: dict[str, dict[str, Any]]  # {"reconstruction/ROW/NAME" or "chance/...": {"value", "ci95", "n"}}
    per_image: dict[str, Any]  # {"ids", "concepts", "scores": {entry: one per image}, "rounds": {entry: R lists}}
    not_computed: dict[str, str]  # {name of a metric: why}
    protocol: dict[str, Any]  # pairs, rounds, how they were matched, first resize, weights, versions


def evaluate_pictures(
    recons: str | Path,
    images: str | Path,
    metrics: Iterable[str] | None = None,
    out: str | Path | None = None,
    *,
    row: str = "brain",
    **options: Unpack[Options],
) -> Evaluation:
    """Measure anybody's reconstructions: two folders or zips, pictures of any size, one or several rounds.

    Parameters
    ----------
    recons, images : path
        Folder or zip of the reconstructions, and of the seen pictures, paired as `hvf.evaluation.pairing.pair` says.
    metrics : iterable of str, optional
        Metrics of reconstruction in `hvf.registry.METRICS`; all by default.
    out : path, optional
        A folder that gets the files of `write_evaluation`, and small copies of the pictures in ``measured/``.
    row : str
        The reconstructions' name in the figures: reconstruction/ROW/....
    **options
        As for `Evaluator`.

    Raises
    ------
    HvfError
        The two do not pair, or a picture cannot be read; names the files.
    """
    if out is not None:
        check_writable(out)
    paired = pair(images, recons)
    evaluator = Evaluator(paired.seen, metrics, **options)
    protocol = {"images": str(images), "recons": str(recons), "rounds": len(paired.rounds), "matched_by": paired.how}
    evaluation = _evaluated(evaluator, {row: paired.rounds}, paired.seen.ids, paired.seen.concepts, protocol)
    if out is not None:
        write_measured(paired, row, Path(out))
        write_evaluation(evaluation, out)
    return evaluation


def evaluate_run(
    run: Run,
    metrics: Iterable[str] | None = None,
    *,
    names: tuple[Sequence[str], Sequence[str]] | None = None,
    **options: Unpack[Options],
) -> Evaluation:
    """Measure the pictures of a run: images/{ceiling,brain,floor}, each with or without rounds, against images/seen.

    Chance is that of the floor's pictures where there are any. ``names``: ids and concepts of the images, if not those
    of the pictures' files; ``options`` as for `Evaluator`. Nothing is written. Raises HvfError if the run holds no
    pictures, or a row that does not pair with the seen ones.
    """
    folder = run.path / "images"
    rows = [row for row in ROWS if (folder / row).is_dir()]
    if not (folder / "seen").is_dir() or not rows:
        raise HvfError(f"{run.path} holds no pictures to measure: draw them first, with hvf reconstruct")
    paired = {row: pair(folder / "seen", folder / row) for row in rows}
    seen = paired[rows[0]].seen
    evaluator = Evaluator(seen, metrics, **options)
    protocol = {"run": str(run.path), "rounds": {row: len(one.rounds) for row, one in paired.items()}}
    ids, concepts = names or (seen.ids, seen.concepts)
    return _evaluated(evaluator, {row: one.rounds for row, one in paired.items()}, ids, concepts, protocol)


def write_measured(paired: Paired, row: str, out: Path) -> None:
    """Copies of what is measured, at most `COPIED` pixels wide and high: measured/seen, measured/ROW/round_R.

    A report shows these, and nothing that a path in a file names: figures may come from anybody.
    """
    folders = {"seen": paired.seen} | {f"{row}/round_{r}": one for r, one in enumerate(paired.rounds)}
    for name, images in folders.items():
        for i in range(len(images)):
            picture = images[i]
            picture.thumbnail((COPIED, COPIED))
            lossless = max(picture.size) <= EXACT
            path = out / MEASURED / name / f"{padded(i, len(images))}.webp"
            write_atomic(path, lambda tmp, p=picture, exact=lossless: p.save(tmp, "WEBP", lossless=exact, quality=86))
        for stale in sorted((out / MEASURED / name).glob("*.webp"))[len(images) :]:  # of a run that was killed
            stale.unlink()


def write_evaluation(evaluation: Evaluation, out: str | Path, earlier: Mapping[str, Any] | None = None) -> None:
    """Write an evaluation into a folder: per_image.json, per_image.csv, evaluation.json and, last, metrics.json.

    Of the ``earlier`` figures of metrics.json those of other sections stay; those of reconstruction are replaced.
    """
    out = Path(out)
    kept = {name: entry for name, entry in (earlier or {}).items() if "reconstruction" not in name.split("/")[:2]}
    write_json(out / "per_image.json", evaluation.per_image)
    write_json(out / "evaluation.json", {**evaluation.protocol, "not_computed": evaluation.not_computed})
    scores = evaluation.per_image["scores"]
    header = ["image", *(entry.removeprefix("reconstruction/") for entry in scores)]
    write_csv(out / "per_image.csv", header, zip(evaluation.per_image["ids"], *scores.values(), strict=True))
    write_json(out / "metrics.json", {**kept, **evaluation.metrics})  # last: whoever finds it asks for no more


def _evaluated(
    evaluator: Evaluator,
    rows: Mapping[str, Sequence],
    ids: Sequence[str],
    concepts: Sequence[str],
    protocol: Mapping[str, Any],
) -> Evaluation:
    figures: dict[str, dict[str, Any]] = {}
    per_image: dict[str, Any] = {"ids": list(ids), "concepts": list(concepts), "scores": {}, "rounds": {}}
    not_computed, chance = dict(evaluator.not_computed), {}
    chance_row = "floor" if "floor" in rows else next(iter(rows))
    of_all, first = evaluator.measure([one for rounds in rows.values() for one in rounds]), 0  # each seen one read once
    for row, rounds in rows.items():
        scores, first = of_all.of_rounds(first, first + len(rounds)), first + len(rounds)
        for name, figure in scores.figures().items():
            if not figure["n"]:
                not_computed[name] = f"undefined for every picture ({row}): the pictures or their features are constant"
                continue
            entry = f"reconstruction/{row}/{name}"
            figures[entry] = figure
            per_image["scores"][entry] = _plain(scores.per_image[name].mean(axis=0))
            per_image["rounds"][entry] = [_plain(values_N) for values_N in scores.per_image[name]]
        if row == chance_row:
            chance = scores.chance()
    figures |= {f"chance/reconstruction/{name}": entry for name, entry in chance.items()}
    protocol = {
        **protocol,
        "pairs": len(evaluator.seen),
        "first_resize": evaluator.first,
        "of_seen": evaluator.readers(),
        "weights": evaluator.sources,
        "versions": {name: version(name) for name in ("torch", "torchvision", "numpy")} | {"code": code_version()},
    }
    return Evaluation(figures, per_image, not_computed, protocol)


def _plain(values_N: np.ndarray) -> list[float | None]:
    """JSON has no NaN."""
    return [None if np.isnan(value) else float(value) for value in values_N]
