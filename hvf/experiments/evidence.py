"""Evidence adds up: what a run's decoder finds and draws from means over 1, 2, 4, ... single trials.

The single trials of a test image are drawn without replacement, several times; a mean over all of them is one draw.
Nothing is trained or chosen here. `repeats.json` holds the figures, images/repeats/R/ what was drawn from the first
draw of R trials.

Letters: R trials averaged, N test images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hvf.alignment import FILE as CHECKPOINT
from hvf.config import HvfError
from hvf.data.trials.trials import Trials
from hvf.decoder import Decoder
from hvf.decoding import artefact
from hvf.decoding.confidence import mean_over, trials_of
from hvf.decoding.ranking import Answers, answer
from hvf.evaluation import retrieval
from hvf.evaluation.calibration import coverage
from hvf.evaluation.pictures import evaluate_pictures
from hvf.evaluation.statistics import interval
from hvf.experiments.confidence import gallery_of_test
from hvf.experiments.data_digests import data_digests
from hvf.experiments.made_from import DECODER, changed, said_by
from hvf.experiments.results import FILE, Result
from hvf.experiments.run_pictures import write_pictures
from hvf.experiments.stages import made_ready
from hvf.files.checksums import known_sha256
from hvf.registry import listed
from hvf.runs import Run, say, track
from hvf.schema.run_folder import EVIDENCE, EVIDENCE_PICTURES, MADE_FROM
from hvf.study import Study, open_study

DRAWS, SEED = 5, 0
PIXELS = ("pixcorr", "ssim")


def evidence_run(run: Run, repeats: Sequence[int], device: str = "cpu") -> dict[str, Any]:
    """Figures and pictures against the number of single trials averaged; writes and returns `repeats.json`.

    Parameters
    ----------
    run : Run
        Trained within the subject, by `hvf train`, `retrieve` or `reconstruct`.
    repeats : sequence of int
        How many trials are averaged, in any order.
    device : str
        Where networks run.

    Raises
    ------
    HvfError
        Before anything is computed, if the run holds no decoder, its study has no single trials, or an image fewer
        than asked for.
    """
    repeats = sorted(repeats)
    if not repeats or repeats[0] < 1 or len(set(repeats)) < len(repeats):
        raise HvfError(f"--repeats takes different numbers of trials, from 1 up, not {listed(map(str, repeats))}")
    folder = artefact.find(run.path)
    decoder = Decoder.load(folder, device)
    study = open_study(run.config.data)
    images = study.test_images
    single = study.single_trials("test", images)
    rows = trials_of(single, images)
    fewest = min(map(len, rows))
    if fewest == 1:
        raise HvfError(f"{study.name} has one row of each test image, a mean already: there are no single trials")
    if repeats[-1] > fewest:
        few = images.ids[min(range(len(rows)), key=lambda i: len(rows[i]))]
        raise HvfError(f"--repeats {repeats[-1]}: {few} has {fewest} trials; ask for at most as many")
    draws = made_ready(decoder, study).draws
    lines = []
    for r in track(repeats, "averaging trials"):
        line, z_first_ND = _line(decoder, study, single, rows, r)
        if draws:
            drawn_NHWC = decoder.draw(decoder.to_draw(z_first_ND))
            write_pictures(run, f"{EVIDENCE_PICTURES}/{r}", images.ids, drawn_NHWC)
            line["figures"] |= _measured(run, r)
        lines.append(line)
    chance = {f"top{k}": retrieval.chance(k, len(images), len(images)) for k in (1, 5)}
    level = lines[0]["level"]
    result = {"images": len(images), "draws": DRAWS, "level": level, "chance": chance, "repeats": lines}
    digests = data_digests(run.config, study) | {DECODER: known_sha256(folder / CHECKPOINT)}
    result[MADE_FROM] = digests
    tested = Result.read(run.path) if run.has(FILE) else None
    if other := changed(said_by(tested), digests):
        say(run.path.name, [f"its other figures are of other {' and '.join(other)}: hvf retrieve makes them anew"])
    run.write_json(EVIDENCE, result)
    return result


def _line(
    decoder: Decoder, study: Study, single: Trials, rows: Sequence[np.ndarray], r: int
) -> tuple[dict[str, Any], np.ndarray]:
    """Figures of means over R trials, averaged over draws for each image; and the embeddings of the first draw."""
    rng = np.random.default_rng(SEED)
    draws = 1 if all(len(of_image) == r for of_image in rows) else DRAWS
    images, found, first_ND = study.test_images, [], None
    gallery = gallery_of_test(decoder, study)
    for _ in range(draws):
        groups = [np.sort(rng.permutation(of_image)[:r]) for of_image in rows]
        z_b_ND = decoder.embed_trials(mean_over(single, groups))
        first_ND = z_b_ND if first_ND is None else first_ND
        found.append(answer(z_b_ND, gallery, decoder.confidence, [r] * len(images), images.ids))
    assert first_ND is not None
    return {"trials": r, "draws": draws, "level": found[0].level, "figures": _figures(found)}, first_ND


def _figures(found: Sequence[Answers]) -> dict[str, dict[str, Any]]:
    """Top-1 and top-5; coverage and size of the sets where there are any. Intervals over images."""
    ids = [name for one in found for name in one.gallery.ids]
    ranks = np.concatenate([one.rank_N for one in found])
    figures = {f"top{k}": interval((ranks <= k).astype(float), ids) for k in (1, 5)}
    if found[0].calibrated:
        figures["coverage"] = coverage(np.concatenate([one.held_N for one in found]), ids)
        figures["set_size"] = interval(np.concatenate([one.set_size_N for one in found]).astype(float), ids)
        nothing = np.concatenate([one.says_nothing_N for one in found])
        figures["says_nothing"] = interval(nothing.astype(float), ids)
    return figures


def _measured(run: Run, r: int) -> dict[str, dict[str, Any]]:
    """How like the seen pictures those drawn from R trials are."""
    folder = run.path / "images"
    if not (folder / "seen").is_dir():
        return {}
    measured = evaluate_pictures(folder / EVIDENCE_PICTURES / str(r), folder / "seen", PIXELS, row=f"brain_{r}").metrics
    return {name: measured[f"reconstruction/brain_{r}/{name}"] for name in PIXELS}
