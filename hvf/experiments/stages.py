"""The stages of a run: train, retrieve, reconstruct, evaluate.

Each stage leaves its files in the run folder and takes up what an earlier one left there.

Letters: N trials or images, M gallery, D embedding, H and W pixels.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hvf import alignment
from hvf.config import Config, DataConfig, HvfError
from hvf.decoder import Decoder
from hvf.evaluation import pictures as evaluation
from hvf.evaluation import retrieval
from hvf.evaluation.catalogue import findings
from hvf.evaluation.metrics.kind import kinds_of
from hvf.evaluation.pictures import ROWS
from hvf.experiments.caveats import caveats
from hvf.experiments.confidence import confidence_details, keep_gallery, validation_trials
from hvf.experiments.data_digests import data_digests, encoders_digest
from hvf.experiments.descriptions import StudyInfo, Training
from hvf.experiments.made_from import DECODER, stamped
from hvf.experiments.protocols import device
from hvf.experiments.results import FILE, Kind, Result, Row, selection
from hvf.experiments.run_pictures import are_whole, leave_pictures, picture_names, pictures_of, write_pictures
from hvf.experiments.scaled_scores import check_fitted, with_scalings
from hvf.files.checksums import known_sha256
from hvf.files.tensors import digest_of, read_tensors, write_tensors
from hvf.prior.hub_weights import fused_specs
from hvf.runs import Run, say, write_json
from hvf.study import Study, open_study
from hvf.vision.loading import load_encoder
from hvf.vision.processes import ALONE, Processes
from hvf.vision.specs import parse_spec

ANSWERS = "retrieval.json"
FLOOR_SEED = 0


def train_run(run: Run, decoder: Decoder | None = None, to_test: int = 0) -> tuple[Decoder, Study]:
    """Train the run's brain encoder, or take up the one it holds. Leaves ``checkpoint/``, ``history.json``, a result.

    Raises HvfError if the run holds a checkpoint made for other data, naming what differs, or if there are fewer than
    `to_test` test images.
    """
    study = open_study(run.config.data)
    if len(study.test_images) < to_test:
        raise HvfError(
            f"pictures of {len(study.test_images)} test image cannot be measured: two-way identification compares "
            f"{to_test} at least; test on more, or draw it with hvf decode --draw"
        )
    decoder = decoder or Decoder(run.config, device())
    folder = run.path / "checkpoint"
    trained_before = (folder / alignment.FILE).exists()
    if trained_before:
        decoder.resume(folder, study.train, study.train_images)
    else:
        alignment.check_recording(run.config, study.train)  # before any feature is computed
        decoder.fit(study.train, study.train_images, validation_trials(study, run.config.align))
    if decoder.gallery is None:  # trained just now, or by an older version, or killed before all was written
        if decoder.confidence is None:
            decoder.calibrate(study.train, study.train_images, validation_trials(study, run.config.align))
        keep_gallery(made_ready(decoder, study), study)
        decoder.save(folder, about(started_result("training", run, study)))
    trained = decoder.fitted()
    run.write_json("history.json", trained.history)
    if not (trained_before and run.has(FILE)):
        validation, chosen = selection(trained.best)
        row = Row(validation=validation, chosen=(chosen,))
        started_result("training", run, study).with_row("brain", row).write(run.path)
    return decoder, study


def retrieve_run(run: Run, decoder: Decoder | None = None, scalings: Sequence[str] = ()) -> tuple[Decoder, Study]:
    """Train if need be, and retrieve the test images from the brain (`write_test_result`).

    `scalings` of the scores are measured, too (`hvf.evaluation.scaling`). Leaves images/seen where there are pictures.
    """
    scalings = check_fitted(scalings, run.config)
    # Pictures, where there will be any, are measured against each other.
    decoder, study = train_run(run, decoder, to_test=0 if run.config.align.mode == "retrieval" else 2)
    write_test_result(run, decoder, study, scalings=scalings)
    images = study.test_images
    if not images.has_pictures:
        return decoder, study
    side = min(min(images[0].size), 512)  # squares of one size: that of the first image's shorter side, at most 512
    write_pictures(run, "seen", images.ids, images.array(size=side))
    return decoder, study


def write_test_result(
    run: Run,
    decoder: Decoder,
    study: Study,
    training: Training = "intra",
    scalings: Sequence[str] = (),
    others: Sequence[int] | None = (),
) -> None:
    """Rank the test images for every test trial, and for the same trials permuted against the images.

    Leaves ``result.json``, ``embeddings.safetensors`` and figures.

    Parameters
    ----------
    run, decoder, study
        Where the result is left, what is tested, and on what.
    training : "intra", "loso" or "pooled"
        Whose trials the decoder was fitted on: the tested subject's, others', or both.
    scalings : sequence of str
        Of scores, measured beside the cosine.
    others : sequence of int, optional
        The numbers of other people who were trained on; None: all of the study.
    """
    z = _embeddings(run, decoder, study)
    validation, chosen = selection(decoder.fitted().best)
    result = started_result("retrieval", run, study, training)
    scores_NN = {row: retrieval.similarity(z[f"z_{row}"], z["z_ceiling"]) for row in ("brain", "floor")}
    result = result.with_row("brain", Row.of_scores(scores_NN["brain"], validation, chosen))
    result = result.with_row("floor", Row.of_scores(scores_NN["floor"]))
    result = with_scalings(result, z, decoder.confidence, scalings)
    confidence = confidence_details(decoder, study)
    result = result.with_details(confidence=confidence) if confidence else result
    people = decoder.fitted().people
    result = result.with_details(trained_on=people) if people else result
    made_from = data_digests(run.config, study, others) | encoders_digest(decoder.encoders)
    result = stamped(result, made_from | {DECODER: known_sha256(run.path / "checkpoint" / alignment.FILE)})
    result.write(run.path)
    write_json(run.path / ANSWERS, plain_answers(result))
    decoder.describe(run.path / "checkpoint", about(result))


def plain_answers(result: Result) -> dict[str, Any]:
    """What every row answered, as plain lists for other programs: nothing of hvf reads it.

    "gallery": the images' ids; of each row "target", the place in it of the image that was seen, "rank" of that image,
    from 1, and "top5", the places of the first five answers.
    """
    place = {name: i for i, name in enumerate(result.gallery)}
    targets = [place[name] for name in result.image_ids]
    rows = {name: {"target": targets, "rank": row.ranks, "top5": row.top5} for name, row in result.rows.items()}
    return {"gallery": result.gallery, **rows}


def about(result: Result) -> dict[str, Any]:
    """What a decoder's card says of its data, its protocol and its figures."""
    main = f"retrieval/{result.main}/"
    figures = {name: entry for name, entry in result.metrics().items() if name.startswith((main, "confidence/brain"))}
    return {
        "study": result.study.note,
        "subject": result.study.subject,
        "simulated": result.study.simulated,
        "protocol": f"{result.protocol.label}; among {result.gallery_size} images" if figures else "",
        "figures": figures,
        "chance": result.chance if figures else {},
    }


def started_result(kind: Kind, run: Run, study: Study, training: Training = "intra") -> Result:
    """The result of a run on a study, before any row is tested."""
    images = study.test_images
    return Result.start(kind, run.config, StudyInfo.of(study), images.ids, images.concepts, training=training)


def reconstruct_run(run: Run) -> None:
    """Draw the test images: from their own embedding, from the brain, from permuted trials; then `evaluate_run`.

    Leaves ``images/{seen,ceiling,brain,floor}/``. Pictures that the same checkpoint has drawn already are kept; those
    of permuted trials are the brain's under other images' names, where each image has one trial.
    """
    reconstruct_runs([run])


def reconstruct_runs(runs: Sequence[Run], processes: Processes = ALONE) -> None:
    """`reconstruct_run` of several people, whose settings differ in nothing else; processes share the work.

    People are parted for training and measuring; rounds of pictures, of whomever, for drawing. Each process loads the
    models once. A picture's noise is its own, so the pictures are those of one process alone. HvfError in all
    processes if one of them refuses.
    """
    mine = runs[processes.rank :: processes.count]
    shared = Decoder(runs[0].config, device())
    decoders: dict[Path, Decoder] = {}

    def train() -> None:
        _ = shared.drawing_models
        for spec in _two_way_encoders(runs[0].config):  # whatever is missing is missed before anything is trained
            load_encoder(spec, shared.device)
        for run in mine:
            decoder, study = retrieve_run(run, Decoder(run.config, shared.device).sharing(shared))
            say(run.path.name, caveats(run.config, study.simulated))
            if decoder.draws and not decoder.ready_to_draw:  # as where its VAE has been replaced
                made_ready(decoder, study).save(run.path / "checkpoint")
            decoders[run.path] = decoder
            stale = [part for part in _parts(run) if not _is_drawn(run, part, decoder)]
            for name in ("evaluation.json", *map(_stamp, stale)) if stale else ():
                (run.path / name).unlink(missing_ok=True)  # it is about other pictures

    def draw() -> None:
        parts = [(run, part) for run in runs for part in _parts_to_draw(run)]
        for run, part in parts[processes.rank :: processes.count]:
            if run.has(_stamp(part)):
                continue
            if run.path not in decoders:
                decoders[run.path] = _trained_elsewhere(run, shared)
            _draw(run, part, decoders[run.path])

    def measure() -> None:
        for run in mine:
            if (source_N := _same_as_brain(run)) is not None:
                for part in _parts(run):
                    if part.row == "floor" and not run.has(_stamp(part)):
                        _copy_floor(run, part, source_N, decoders[run.path])
            figures = [name for name in run.metrics() if name.startswith("reconstruction/")]
            if not (figures and run.has("evaluation.json") and run.has("per_image.json")):
                evaluate_run(run)

    for work in (train, draw, measure):
        processes.attempt(work)


class Part(NamedTuple):
    """A row of pictures, of one round."""

    row: str
    round_index: int
    folder: str  # in images/


def _parts(run: Run) -> list[Part]:
    rounds = run.config.sampling.rounds
    return [Part(row, r, row if rounds == 1 else f"{row}/round_{r}") for row in ROWS for r in range(rounds)]


def _drawn_from(run: Run, part: Part, decoder: Decoder) -> np.ndarray:
    """The embeddings (N, D) that the pictures of a part are drawn from."""
    z, _ = read_tensors(run.path / "embeddings.safetensors")
    return to_draw(decoder, part.row, z[f"z_{part.row}"])


def _made_from(z_ND: np.ndarray, decoder: Decoder) -> dict[str, str]:
    """What pictures hang on besides the run's settings: embeddings, and all that makes a picture of one."""
    return {
        "drawn_from": digest_of({"z": np.ascontiguousarray(z_ND)}, ""),
        "drawn_by": decoder.drawing_models.fingerprint,
    }


def _stamp(part: Part) -> str:
    """The file that says what the pictures of a part were made from, written after the last of them."""
    return f"images/{part.folder.replace('/', '.')}.json"


def _is_drawn(run: Run, part: Part, decoder: Decoder) -> bool:
    """Whether all pictures of a part are there, drawn from the same embeddings by the same models."""
    expected = _made_from(_drawn_from(run, part, decoder), decoder)
    stamped = run.has(_stamp(part)) and run.read_json(_stamp(part)) == expected
    return stamped and are_whole(run, part.folder, Result.read(run.path).image_ids)


def _draw(run: Run, part: Part, decoder: Decoder) -> None:
    z_ND = _drawn_from(run, part, decoder)
    write_pictures(run, part.folder, Result.read(run.path).image_ids, decoder.draw(z_ND, part.round_index))
    run.write_json(_stamp(part), _made_from(z_ND, decoder))


def _same_as_brain(run: Run) -> np.ndarray | None:
    """For each picture of the floor the brain's that is drawn from the very same embedding, (N,); None if one has none.

    Where each image has one trial, the floor's embeddings are the brain's in another order: drawn anew, its pictures
    would differ from the brain's by their noise alone.
    """
    z, _ = read_tensors(run.path / "embeddings.safetensors")
    place = {z_D.tobytes(): i for i, z_D in enumerate(z["z_brain"])}
    source_N = np.array([place.get(z_D.tobytes(), -1) for z_D in z["z_floor"]])
    return None if (source_N < 0).any() else source_N


def _parts_to_draw(run: Run) -> list[Part]:
    """The parts but those that `_copy_floor` leaves."""
    parts = _parts(run)
    return parts if _same_as_brain(run) is None else [part for part in parts if part.row != "floor"]


def _copy_floor(run: Run, floor: Part, source_N: np.ndarray, decoder: Decoder) -> None:
    """Leave the floor's pictures of a round: the brain's, of which `source_N` says one for each image."""
    brain = next(part for part in _parts(run) if part[:2] == ("brain", floor.round_index))
    ids = Result.read(run.path).image_ids
    pictures = [run.path / "images" / brain.folder / name for name in picture_names(ids)]
    leave_pictures(run, floor.folder, ids, [lambda tmp, i=i: shutil.copyfile(pictures[i], tmp) for i in source_N])
    run.write_json(_stamp(floor), _made_from(_drawn_from(run, floor, decoder), decoder))


def _trained_elsewhere(run: Run, shared: Decoder) -> Decoder:
    """The decoder that another process has trained and saved."""
    return made_ready(Decoder.load(run.path / "checkpoint", shared.device).sharing(shared), run.config.data)


def made_ready(decoder: Decoder, study: Study | DataConfig) -> Decoder:
    """The decoder with all that drawing needs: checkpoints of earlier versions lack some, and the study is asked."""
    if decoder.draws and not decoder.ready_to_draw:
        study = open_study(study) if isinstance(study, DataConfig) else study
        decoder.fit_drawing(study.train, study.train_images)
    return decoder


def to_draw(decoder: Decoder, row: str, z_ND: np.ndarray) -> np.ndarray:
    """What the pictures of a row are drawn from: an image's own embedding as it is, the brain's as settings say."""
    return z_ND if row == "ceiling" else decoder.to_draw(z_ND)


def evaluate_run(run: Run) -> list[str]:
    """Measure the pictures that the run holds; returns what is wrong, in words.

    Leaves the figures, ``per_image.json``, ``per_image.csv``, and in ``evaluation.json`` the protocol and what was not
    computed. Two-way scores of the run's own CLIP encoders carry their names: another encoder gives another figure.
    """
    if (pictures_of(run, "seen") or run.has("embeddings.safetensors")) and not any(
        (run.path / "images" / row).is_dir() for row in ROWS
    ):
        return findings(run.metrics())  # retrieval alone: nothing was drawn
    encoders = {name: spec for spec, name in _two_way_encoders(run.config).items()}
    result = Result.read(run.path) if run.has(FILE) else None
    names = (result.image_ids, result.concepts) if result else None
    kinds = kinds_of(result.concepts) if result and result.study.simulated else None
    measured = evaluation.evaluate_run(run, encoders=encoders, names=names, kinds=kinds)
    evaluation.write_evaluation(measured, run.path, run.metrics())
    return findings(run.metrics())


def _two_way_encoders(config: Config) -> dict[str, str]:
    """{spec: name of its two-way score} of the CLIP encoders that the run's embeddings are fused from."""
    models = {spec: parse_spec(spec).name for spec in fused_specs(config) if spec.startswith("openclip")}
    shared = {model for model, n in Counter(models.values()).items() if n > 1}  # told apart by weights and layer
    names = {spec: spec.partition(":")[2] if model in shared else model for spec, model in models.items()}
    return {spec: "two_way_" + re.sub(r"[^\w.-]+", "-", name) for spec, name in names.items()}


def _embeddings(run: Run, decoder: Decoder, study: Study) -> dict[str, np.ndarray]:
    test, images = study.test, study.test_images
    permuted = test.permuted(FLOOR_SEED)
    z_brain_ND = decoder.embed_trials(test.aligned_to(images))
    shown_N, said_N = test.image_indices(images), permuted.image_indices(images)  # of each trial; -1: another image
    if all(np.array_equal(np.sort(image_N), np.arange(len(images))) for image_N in (shown_N, said_N)):
        z_floor_ND = np.empty_like(z_brain_ND)
        z_floor_ND[said_N] = z_brain_ND[shown_N]  # one trial of each image: the same trials in another order
    else:
        z_floor_ND = decoder.embed_trials(permuted.aligned_to(images))
    z = {"z_brain": z_brain_ND, "z_floor": z_floor_ND, "z_ceiling": decoder.embed_images(images)}
    write_tensors(run.path / "embeddings.safetensors", z, {"image_ids": list(images.ids)})
    return z
