"""The decoder: from trials to the images found among a gallery, and to the images drawn.

`Decoder` is for Python, in the manner of scikit-learn and MNE. The `*_run` functions are the stages of the command
line: each leaves its files in the run folder, and takes up what an earlier one left there.

Shapes: N trials or images, M gallery, D embedding, H and W pixels.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from hvf import alignment, presets
from hvf.alignment import Alignment
from hvf.config import Config, HvfError, with_settings
from hvf.data.images.image_set import ImageSet
from hvf.data.trials.trials import Trials, concept_split
from hvf.evaluation import pictures as evaluation
from hvf.evaluation import retrieval
from hvf.evaluation.catalogue import findings
from hvf.prior.model import FusionPrior
from hvf.prior.reconstruction import Reconstructor, load_pipeline, load_prior
from hvf.runs import Run, code_version, write_atomic
from hvf.study import Study, open_study
from hvf.vision.cache import embed, embed_all
from hvf.vision.loading import load_encoder
from hvf.vision.specs import parse_spec
from hvf.vision.texts import captions_of

ROWS = ("ceiling", "brain", "floor")  # the image's own z_f; z_b; z_b of trials permuted against the images
FLOOR_SEED = 0
LIBRARIES = ("torch", "diffusers", "transformers", "open_clip_torch", "mne", "numpy")  # those that figures may hang on
TOP = 5  # gallery images kept per trial


@dataclass(frozen=True)
class Retrieval:
    """What was found for each trial.

    ``scores_NM`` cosine of each trial's embedding with each gallery image; ``ranks_N`` rank of the image that was seen,
    from 1, ties counted as misses; ``top_NK`` gallery indices, best first.
    """

    scores_NM: np.ndarray
    ranks_N: np.ndarray
    top_NK: np.ndarray

    def top(self, k: int) -> float:
        """Share of trials whose image is among the first k."""
        return retrieval.topk(self.ranks_N, k)


class Decoder:
    """Learns to meet images in an embedding, then finds and draws what was seen.

    ``config`` is a whole configuration (default: the preset `mini`, made for drawing). Trained weights stay in
    ``alignment``. In reconstruction mode the target is the Fusion Prior's frozen fusion, and `reconstruct` works; in
    retrieval mode the fusion is trained too, which finds images better and cannot draw.
    """

    def __init__(self, config: Config | None = None, device: str = "cpu") -> None:
        self.config = config or with_settings(presets.mini(), {"align.mode": "reconstruction"})
        self.device = device
        self.alignment: Alignment | None = None
        self._prior: FusionPrior | None = None
        self._reconstructor: Reconstructor | None = None
        self._initial_latents_fitted = False  # for sampling.start "latents"

    def fit(self, trials: Trials, images: ImageSet) -> Decoder:
        """Train on trials and the images they answer. Repeats of an image are averaged; validation is split off inside.

        Raises HvfError where an image has no trial, values are not finite, weights are missing, or views or captions
        should be learnt from in reconstruction mode, whose target is frozen.
        """
        features = alignment.training_features(images, self.config, self._frozen_hvf(), self.device)
        averaged = trials.aligned_to(images).in_memory(alignment.RESIDENT_BYTES)
        self.alignment = alignment.fit(
            averaged,
            features,
            self.config,
            images.concepts,
            self._frozen_hvf(),
            self.device,
            images_digest=self.fingerprint(averaged, images),
        )
        self._initial_latents_fitted = False
        if self.config.align.mode == "reconstruction":
            self.fit_drawing(averaged, images)
        return self

    def embed_trials(self, trials: Trials) -> np.ndarray:
        """z_b (N, D), one row per trial."""
        return self._fitted().embed_brain(trials)

    def embed_images(self, images: ImageSet) -> np.ndarray:
        """z_f (N, D), what a trial's embedding should be near to."""
        return self._fitted().embed_images(self.features(images))

    def retrieve(self, trials: Trials, images: ImageSet) -> Retrieval:
        """Rank the gallery ``images`` (M) for every trial (N); a trial's own image is the one that it names."""
        column = {name: i for i, name in enumerate(images.ids)}
        unknown = [name for name in trials.image_ids.tolist() if name not in column]
        if unknown:
            raise HvfError(f"the gallery lacks {len(unknown)} of the images that were seen, the first {unknown[0]!r}")
        target_N = np.array([column[name] for name in trials.image_ids.tolist()])
        return _rank(self.embed_trials(trials), self.embed_images(images), target_N)

    def reconstruct(self, trials: Trials) -> np.ndarray:
        """One picture per trial, uint8 (N, H, W, 3). Raises HvfError when fitted for retrieval alone."""
        return self.draw(self.towards_posterior_mean(self.embed_trials(trials)))

    def towards_posterior_mean(self, z_b_ND: np.ndarray) -> np.ndarray:
        """z_b (N, D) moved towards the posterior mean E[z_f | z_b] by the share `sampling.posterior_mean`, for drawing.

        A brain's z_b is as long as an image's z_f, however uncertain; the posterior mean is the best guess in squared
        error, and shorter the less certain. Raises HvfError before `fit_drawing` where that share is above 0.
        """
        share = self.config.sampling.posterior_mean
        if not share:
            return z_b_ND
        trained = self._fitted()
        if trained.train_embeddings_MD is None:
            raise HvfError("sampling.posterior_mean needs the training images' embeddings: call fit_drawing first")
        return z_b_ND + share * (trained.posterior_mean(z_b_ND, trained.train_embeddings_MD) - z_b_ND)

    def draw(self, z_ND: np.ndarray, round_index: int = 0) -> np.ndarray:
        """Pictures uint8 (N, H, W, 3) of embeddings: z_b, or an image's z_f for the best that drawing can do.

        Every round starts from other noise. Raises HvfError for sampling.start "latents" before `fit_drawing`.
        """
        if self.config.align.mode != "reconstruction":
            raise HvfError("this decoder was fitted for retrieval: set align.mode to 'reconstruction' and fit again")
        return self.reconstructor.draw(z_ND, self.config.sampling, round_index)

    def fit_drawing(self, trials: Trials, images: ImageSet) -> None:
        """Fit what drawing needs of the training data: `keep_train_embeddings`, and latents for sampling.start.

        Nothing that the configuration does not ask for. `fit` does it too; a checkpoint carries the former alone.
        """
        self.keep_train_embeddings(images)
        if self.config.sampling.start == "noise":
            return
        align = self.config.align
        _, rows = concept_split(images.concepts, align.validation_fraction, align.seed, at_least=2)
        held_out = dict(zip(rows.tolist(), self.embed_trials(trials.aligned_to(images))[rows], strict=True))
        self.reconstructor.fit_initial_latents(self._latents(images), self.embed_images(images), held_out)
        self._initial_latents_fitted = True

    def keep_train_embeddings(self, images: ImageSet) -> None:
        """Keep z_f of the training images where the posterior mean is drawn; the checkpoint carries them."""
        if self.config.align.mode == "reconstruction" and self.config.sampling.posterior_mean:
            self._fitted().train_embeddings_MD = self.embed_images(images)

    @property
    def ready_to_draw(self) -> bool:
        """Whether all that `fit_drawing` fits is there."""
        sampling = self.config.sampling
        known = not sampling.posterior_mean or self._fitted().train_embeddings_MD is not None
        return known and (sampling.start == "noise" or self._initial_latents_fitted)

    def _latents(self, images: ImageSet) -> np.ndarray:
        """Latents of the pipeline's VAE: from the cache, where the prior fuses the very same ones."""
        shown = self.reconstructor.encode([images[i] for i in range(min(2, len(images)))])
        for spec in self.prior.specs:
            if spec.startswith("vae:") and self.prior.dims[spec] == shown[0].size:
                kept = embed(images, spec, self.device).reshape(-1, *shown.shape[1:])
                if np.allclose(kept[: len(shown)], shown, atol=1e-2):  # another VAE's would not be near
                    return kept
        return self.reconstructor.encode(images)

    @property
    def reconstructor(self) -> Reconstructor:
        """The pipeline with the prior in it, loaded on first use."""
        if self._reconstructor is None:
            pipeline = load_pipeline(self.config.prior.pipeline, self.device)
            self._reconstructor = Reconstructor(pipeline, self.prior, self.device)
        return self._reconstructor

    @property
    def prior(self) -> FusionPrior:
        """The Fusion Prior that the configuration names, loaded on first use."""
        if self._prior is None:
            self._prior = load_prior(self.config.prior.path, self.device)
        return self._prior

    def features(self, images: ImageSet) -> dict[str, np.ndarray]:
        """{spec: (N, d_k)} of the encoders that the target fuses, from the cache where they are there.

        Training takes more where views or captions are learnt from: `alignment.training_features`.
        """
        drawn = self.config.align.mode == "reconstruction"
        specs = self.prior.specs if drawn else self.config.targets.specs
        return embed_all(images, specs, self.device)

    def save(self, folder: str | Path) -> Path:
        """Write the trained part, with its configuration, into ``folder``."""
        return self._fitted().save(folder)

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> Decoder:
        """Read what `save` wrote. Raises HvfError if it is missing or damaged."""
        trained = Alignment.load(folder, device)
        decoder = cls(trained.config, device)
        decoder.alignment = trained
        return decoder

    def fingerprint(self, trials: Trials, images: ImageSet) -> str:
        """A hash of all that training sees: responses, images, captions if asked for, the prior's frozen fusion."""
        hvf = self._frozen_hvf()
        responses = hashlib.sha256()
        for _, x_NCT in trials.aligned_to(images).batches():
            responses.update(x_NCT.tobytes())
        seen = [images.digest, responses.hexdigest()[:16], _weights_hash(hvf) if hvf else ""]
        seen += captions_of(images) if self.config.targets.text else []
        return hashlib.sha256("\n".join(seen).encode()).hexdigest()

    def _frozen_hvf(self):
        return self.prior.hvf if self.config.align.mode == "reconstruction" else None

    def _fitted(self) -> Alignment:
        if self.alignment is None:
            raise HvfError("this decoder is not fitted: call fit(trials, images) first")
        return self.alignment


# --- stages of the command line ---------------------------------------------------------------------------------------


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
    found = {row: _rank(z[f"z_{row}"], z["z_ceiling"]) for row in ("brain", "floor")}
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
    prior = _weights_hash(decoder.reconstructor.prior)
    for spec in _two_way_encoders(run.config):  # whatever is missing is missed before anything is trained
        load_encoder(spec, decoder.device)
    decoder, study = retrieve_run(run, decoder)
    z = load_file(run.path / "embeddings.safetensors")
    ids = study.test_images.ids
    rounds = run.config.sampling.rounds
    figures = [name for name in run.metrics() if name.startswith("reconstruction/")]
    measured = bool(figures) and run.has("evaluation.json") and run.has("per_image.json")
    for row in ROWS:
        stamp, made_from = f"images/{row}.json", {"embeddings": _fingerprint(z[f"z_{row}"]), "prior": prior}
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
    evaluation.write(found, run.path, run.metrics())
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


def _rank(z_b_ND: np.ndarray, z_f_MD: np.ndarray, target_N: np.ndarray | None = None) -> Retrieval:
    scores_NM = retrieval.similarity(z_b_ND, z_f_MD)
    return Retrieval(scores_NM, retrieval.ranks(scores_NM, target_N), retrieval.top_items(scores_NM, TOP))


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


def _fingerprint(z_ND: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(z_ND).tobytes()).hexdigest()[:16]


def _weights_hash(module: torch.nn.Module) -> str:
    hashes = [_fingerprint(tensor.cpu().float().numpy()) for tensor in module.state_dict().values()]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:80]


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
