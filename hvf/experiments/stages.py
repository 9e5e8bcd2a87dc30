"""The stages of a run: train, retrieve, reconstruct, evaluate.

Each stage leaves its files in the run folder and takes up what an earlier one left there.

Letters: N trials or images, M gallery, D embedding, H and W pixels.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from hvf import alignment
from hvf.alignment import Alignment
from hvf.config import Config, HvfError
from hvf.data.images.image_set import ImageSet
from hvf.decoder import Decoder, array_hash, rank, weights_hash
from hvf.evaluation import pictures as evaluation
from hvf.evaluation import retrieval
from hvf.evaluation.catalogue import findings
from hvf.experiments.results import LIBRARIES
from hvf.runs import Run, code_version, write_atomic
from hvf.study import Study, open_study
from hvf.vision.loading import load_encoder
from hvf.vision.specs import parse_spec

ROWS = ("ceiling", "brain", "floor")  # the image's own z_f; z_b; z_b of trials permuted against the images
FLOOR_SEED = 0


def train_run(run: Run, decoder: Decoder | None = None) -> tuple[Decoder, Study]:
    """Train the run's brain encoder, or take up the one it holds. Leaves ``checkpoint/`` and ``history.json``.

    Raises HvfError if the run holds a checkpoint made for other data, naming what differs.
    """
    study = open_study(run.config.data)
    decoder = decoder or Decoder(run.config, _device())
    folder = run.path / "checkpoint"
    if (folder / alignment.FILE).exists():
        decoder.alignment = Alignment.load(folder, decoder.device)
        decoder.alignment.recording.check(study.train, decoder.fingerprint(study.train, study.train_images))
    else:
        decoder.fit(study.train, study.train_images).save(folder)
    trained = decoder._fitted()
    run.write_json("history.json", trained.history)
    run.write_json("study.json", _described(study))
    run.write_json("versions.json", {name: version(name) for name in ("hvf", *LIBRARIES)} | {"code": code_version()})
    best = trained.best
    run.write_metrics(
        {
            f"validation/brain/{name}": {"value": best[f"validation_{name}"], "ci95": None, "n": best["validation_n"]}
            for name in ("top1", "mrr")
        }
    )
    return decoder, study


def retrieve_run(run: Run, decoder: Decoder | None = None) -> tuple[Decoder, Study]:
    """Find the test images from the brain. Leaves ``embeddings.safetensors``, ``retrieval.json`` and figures."""
    decoder, study = train_run(run, decoder)
    z = _embeddings(run, decoder, study)
    found = {row: rank(z[f"z_{row}"], z["z_ceiling"]) for row in ("brain", "floor")}
    n = len(study.test_images)
    run.write_metrics({k: v for row, f in found.items() for k, v in retrieval.figures(f.scores_NM, row).items()})
    told = {
        row: {"target": list(range(n)), "rank": f.ranks_N.tolist(), "top5": f.top_NK.tolist()}
        for row, f in found.items()
    }
    run.write_json("retrieval.json", {"gallery": list(study.test_images.ids), **told})
    _write_pictures(run, "seen", study.test_images.ids, _at_size(study.test_images))
    return decoder, study


def reconstruct_run(run: Run) -> None:
    """Draw the test images: from their own embedding, from the brain, from permuted trials; then `evaluate_run`.

    Leaves ``images/{seen,ceiling,brain,floor}/``. Pictures that the same checkpoint has drawn already are kept.
    """
    decoder = Decoder(run.config, _device())
    prior = weights_hash(decoder.reconstructor.prior)
    for spec in _two_way_encoders(run.config):  # whatever is missing is missed before anything is trained
        load_encoder(spec, decoder.device)
    decoder, study = retrieve_run(run, decoder)
    z = load_file(run.path / "embeddings.safetensors")
    ids = study.test_images.ids
    rounds = run.config.sampling.rounds
    figures = [name for name in run.metrics() if name.startswith("reconstruction/")]
    measured = bool(figures) and run.has("evaluation.json") and run.has("per_image.json")
    for row in ROWS:
        stamp, made_from = f"images/{row}.json", {"embeddings": array_hash(z[f"z_{row}"]), "prior": prior}
        folders = [row] if rounds == 1 else [f"{row}/round_{r}" for r in range(rounds)]
        if run.has(stamp) and run.read_json(stamp) == made_from and all(_whole(run, f, ids) for f in folders):
            continue
        measured = False
        (run.path / "evaluation.json").unlink(missing_ok=True)  # what it tells was of other pictures
        if not decoder.ready_to_draw:  # an older checkpoint, or one of a decoder that starts from latents
            decoder.fit_drawing(study.train, study.train_images)
        drawn_ND = z[f"z_{row}"] if row == "ceiling" else decoder.towards_posterior_mean(z[f"z_{row}"])
        for round_index, folder in enumerate(folders):
            _write_pictures(run, folder, ids, decoder.draw(drawn_ND, round_index))
        run.write_json(stamp, made_from)
    if not measured:
        evaluate_run(run)


def evaluate_run(run: Run) -> list[str]:
    """Measure the pictures that the run holds; returns what is wrong, in words.

    Leaves the figures, ``per_image.json``, ``per_image.csv``, and in ``evaluation.json`` the protocol and what was not
    computed. Two-way scores of the run's own CLIP encoders carry their names: another encoder gives another figure.
    """
    if _pictures(run, "seen") and not any((run.path / "images" / row).is_dir() for row in ROWS):
        return findings(run.metrics())  # retrieval alone: nothing was drawn
    encoders = {name: spec for spec, name in _two_way_encoders(run.config).items()}
    found = evaluation.evaluate_run(run, encoders=encoders)
    evaluation.write_evaluation(found, run.path, run.metrics())
    return findings(run.metrics())


def _two_way_encoders(config: Config) -> dict[str, str]:
    """{spec: name of its two-way score} of the run's CLIP encoders."""
    return {spec: f"two_way_{parse_spec(spec).name}" for spec in config.targets.specs if spec.startswith("openclip")}


def _embeddings(run: Run, decoder: Decoder, study: Study) -> dict[str, np.ndarray]:
    permuted = study.test.permuted(FLOOR_SEED).aligned_to(study.test_images)
    z = {
        "z_brain": decoder.embed_trials(study.test.aligned_to(study.test_images)),
        "z_floor": decoder.embed_trials(permuted),
        "z_ceiling": decoder.embed_images(study.test_images),
    }
    told = {"image_ids": json.dumps(list(study.test_images.ids))}
    write_atomic(run.path / "embeddings.safetensors", lambda path: save_file(z, path, told))
    return z


def _described(study: Study) -> dict:
    """What a reader of the run should know of its data."""
    return {
        "name": study.name,
        "note": study.note,
        "simulated": study.simulated,
        "kind": study.train.kind,
        "subject": study.train.subject,
        "ch_names": list(study.train.ch_names),
        "sfreq": study.train.sfreq,
        "window": [study.train.tmin, float(study.train.times[-1] + 1 / study.train.sfreq)],
        "train_images": {"n": len(study.train_images), "digest": study.train_images.digest},
        "test_images": {"n": len(study.test_images), "digest": study.test_images.digest},
        "concepts": list(study.test_images.concepts),
    }


def _write_pictures(run: Run, row: str, ids: tuple[str, ...], images_NHWC: np.ndarray) -> None:
    names = _picture_names(ids)
    for stale in _pictures(run, row).keys() - set(names):
        (run.path / "images" / row / stale).unlink()
    for name, image in zip(names, images_NHWC, strict=True):
        path = run.path / "images" / row / name
        write_atomic(path, lambda tmp, image=image: Image.fromarray(image).save(tmp))


def _picture_names(ids: tuple[str, ...]) -> list[str]:
    return [f"{i:04d}_{_file_name(name)}.png" for i, name in enumerate(ids)]


def _whole(run: Run, row: str, ids: tuple[str, ...]) -> bool:
    """Whether all pictures of a row are there, no other is, and each can be read."""
    pictures = _pictures(run, row)
    if list(pictures) != _picture_names(ids):
        return False
    try:
        return len(_stack(pictures)) == len(ids)
    except HvfError:
        return False


def _at_size(images: ImageSet, longest: int = 512) -> np.ndarray:
    """Squares of one size: that of the first image's shorter side, at most ``longest`` pixels."""
    return images.array(size=min(min(images[0].size), longest))


def _pictures(run: Run, row: str) -> dict[str, Path]:
    folder = run.path / "images" / row
    return {path.name: path for path in sorted(folder.glob("[0-9]*.png"))}


def _stack(pictures: dict[str, Path]) -> np.ndarray:
    try:
        return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in pictures.values()])
    except (OSError, ValueError) as error:
        raise HvfError(f"the pictures of this run cannot be read ({error}): draw them again") from error


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:80]


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
