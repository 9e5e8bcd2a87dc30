"""The decoder: from trials to images retrieved from a gallery, and to reconstructed images.

`Decoder` is for Python, in the manner of scikit-learn and MNE. `hvf.experiments.stages` runs it for the command line.

Shapes: N trials or images, M gallery, D embedding, H and W pixels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from hvf import alignment, presets
from hvf.alignment import TrainingSet
from hvf.alignment.estimator import ConfiguredEstimator
from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet
from hvf.data.images.matching import ImageNames
from hvf.data.trials.splitting import concept_split
from hvf.data.trials.trials import Trials
from hvf.decoding import artefact
from hvf.decoding.card import model_card
from hvf.decoding.confidence import ENOUGH, Confidence
from hvf.decoding.gallery import Gallery
from hvf.decoding.ranked import Retrieval, rank
from hvf.decoding.ranking import LEVEL, Answers, Search, answer
from hvf.models.fusions.hvf import HVF
from hvf.prior.initial_latents import InitialLatents
from hvf.prior.loading import load_pipeline, load_prior
from hvf.prior.model import FusionPrior
from hvf.prior.reconstruction import Reconstructor
from hvf.vision.cache import content_hashes, embed, embed_all, weights_hashes
from hvf.vision.latents import LatentDecoder
from hvf.vision.texts import captions_of


class Decoder(ConfiguredEstimator):
    """Embeds trials and images in one space; retrieves images from a gallery and reconstructs them.

    ``config`` is a whole configuration (default: the preset `mini`, made for drawing). Trained weights stay in
    ``alignment``. In reconstruction mode the target is the Fusion Prior's frozen fusion, and `reconstruct` works; in
    latents mode it is a VAE's latents, which its decoder makes pictures of, without a prior; in retrieval mode the
    fusion is trained too, which ranks images better and cannot draw.

    A scikit-learn estimator, of trials as X and images as y: `cross_val_score(decoder, trials, images, cv=GroupKFold(),
    groups=images.concepts)`, where trial i is the response to image i (`Trials.aligned_to`), tests on unseen concepts.
    """

    default = presets.in_mode(presets.mini(), "reconstruction")
    loaded = ("_prior", "_reconstructor", "_latent_decoder")
    of_prior = ("_initial_latents",)
    confidence: Confidence | None = None  # validation trials, by which answers are calibrated
    gallery: Gallery | None = None  # that `decode` looks in by default
    encoders: Mapping[str, str] = MappingProxyType({})  # {spec: hash of the weights} that it was trained with
    fusion_hash: str = ""  # of the prior that it was trained towards; "" where nobody said
    about: Mapping[str, Any] = MappingProxyType({})  # what its card says of data and figures: `save`
    _prior: FusionPrior | None = None
    _reconstructor: Reconstructor | None = None
    _latent_decoder: LatentDecoder | None = None
    _initial_latents: InitialLatents | None = None  # for sampling.start "latents"

    def fit(self, trials: Trials, images: ImageSet, single_trials: Trials | None = None) -> Decoder:
        """Train on trials and the images that they are responses to; repeats of an image are averaged.

        Every image needs at least one trial; trials of other images are dropped. Validation concepts are split off
        inside. The trials are aligned to the images, read and hashed once; those of validation images are read again
        to say how sure an answer is, or `single_trials` in their place (`calibrate`). Returns itself. Raises HvfError
        if an image has no trial, values are not finite, or weights are missing.
        """
        self.check_params()
        self.confidence, self.gallery, self.encoders, self._initial_latents = None, None, {}, None
        self.fusion_hash = ""
        prior_fusion = self._prior_fusion()
        features = alignment.training_features(images, self.config, prior_fusion, self.device)
        aligned, fingerprint = self._load(trials.aligned_to(images), images)
        whole = TrainingSet(aligned, features, images.concepts, prior_fusion=prior_fusion, fingerprint=fingerprint)
        self.alignment = alignment.fit(whole, self.config, self.device)
        if self.config.align.mode == "reconstruction":
            self._fit_drawing(aligned, images)
        self.calibrate(aligned, images, trials if single_trials is None else single_trials)
        self.about = {"subject": trials.subject, "simulated": trials.simulated}
        return self

    def adapt(self, trials: Trials, images: ImageSet | None = None) -> Decoder:
        """This decoder moved to a new person, whose trials answer these images, as `config.adapt` says.

        Without images trials are only made like those of the people trained on. Raises HvfError as `fit` does.
        """
        moved = Decoder(self.config, self.device)
        moved.encoders, moved.gallery, moved._prior = self.encoders, self.gallery, self._prior
        moved.fusion_hash = self.fusion_hash
        moved._initial_latents = self._initial_latents  # of the prior's fusion, which stays as it was
        moved.about = {"subject": trials.subject, "simulated": trials.simulated or bool(self.about.get("simulated"))}
        moved.about["adapted"] = {"method": "none", "images": 0}
        if images is None:
            moved.alignment = alignment.on_person(self.fitted(), trials)
            return moved
        aligned, fingerprint = self._load(trials.aligned_to(images), images)
        fusion, features = self._prior_fusion(), self.features(images)
        whole = TrainingSet(aligned, features, images.concepts, prior_fusion=fusion, fingerprint=fingerprint)
        moved.alignment = alignment.adapt(self.fitted(), whole, self.config, self.device)
        moved.config, best = moved.alignment.config, moved.alignment.best
        moved.about["adapted"] = {"method": best["method"], "images": len(images)}
        moved.gallery = None if best["method"] == "all" and fusion is None else self.gallery  # z_f was another one's
        if best["validation_n"] >= ENOUGH:
            moved.calibrate(aligned, images, trials)
        return moved

    def calibrate(self, trials: Trials, images: ImageSet, single_trials: Trials | None = None) -> None:
        """Keep what says how sure an answer is: embeddings of the validation concepts' trials (`Confidence`).

        Parameters
        ----------
        trials, images
            What the decoder was fitted to.
        single_trials : Trials, optional
            Of the validation images at least: several rows of an image are single trials, of which means over 1, 2,
            4, ... are calibrated, each for itself (default: `trials`). Nothing is kept where none is left to judge by.
        """
        align = self.config.align
        specs = self.prior.specs if align.mode == "reconstruction" else self.config.targets.specs
        self.encoders = weights_hashes(specs, self.device)
        if {"penalty", "refit_loss"} & self.fitted().best.keys():  # fitted to these images too: found too surely
            return
        train, held_out = concept_split(images.concepts, align.validation_fraction, align.seed, at_least=2)
        z_f_MD, shown = self.embed_images(images), images.select(held_out.tolist())
        bank = trials.paired_with(images.select(train.tolist()))
        single = trials if single_trials is None else single_trials
        self.confidence = Confidence.fit(self.embed_trials, z_f_MD[held_out], single, shown, bank)

    def decode(
        self,
        trials: Trials,
        gallery: Gallery | ImageSet | None = None,
        repeats: Sequence[int] | np.ndarray | None = None,
        image_ids: Sequence[str] | None = None,
        level: float = LEVEL,
        search: Search = "blocks",
    ) -> Answers:
        """Look for the image that each trial answers, without being told it.

        Parameters
        ----------
        trials : Trials
            Of the recording that the decoder was trained on; what they say of images is not looked at.
        gallery : Gallery or ImageSet, optional
            What is looked in (default: the images that the decoder was tested on).
        repeats : sequence of int, optional
            How many single trials each row is a mean of (default: 1).
        image_ids : sequence of str, optional
            The images that trials are known to answer, "" where it is not known: these get a rank.
        level : float
            Share of the trials whose set shall hold their image.
        search : "blocks" or "faiss"
            What finds the nearest images of a large gallery.

        Raises
        ------
        HvfError
            If there is no gallery, or trials and gallery do not fit the decoder.
        """
        gallery = self.gallery if gallery is None else gallery
        if gallery is None:
            raise HvfError("this decoder has no gallery of its own: give the images to look in")
        if isinstance(gallery, ImageSet):
            gallery = self.gallery_of(gallery)
        z_b_ND = self.embed_trials(trials)
        return answer(z_b_ND, gallery, self.confidence, repeats, image_ids, level, search)

    def gallery_of(self, images: ImageSet, what: str = "the gallery") -> Gallery:
        """The gallery of an image set."""
        return Gallery.of(images.ids, self.embed_images(images), images.concepts, what)

    def resume(self, folder: str | Path, trials: Trials, images: ImageSet) -> Decoder:
        """Load what `save` wrote, if it was trained on these trials and images, which are read once.

        Raises HvfError if it is missing or damaged, or was trained on other data, naming what differs.
        """
        whole = artefact.read(folder, self.device, resumed=True)
        whole.alignment.recording.check(trials, self.fingerprint(trials, images))
        return self._take(whole)

    def embed_trials(self, trials: Trials) -> np.ndarray:
        """z_b (N, D), one row per trial."""
        return self.fitted().embed_brain(trials)

    def embed_images(self, images: ImageSet) -> np.ndarray:
        """z_f (N, D), what a trial's embedding should be near to."""
        return self.fitted().embed_images(self.features(images))

    def retrieve(self, trials: Trials, images: ImageSet) -> Retrieval:
        """Rank the gallery ``images`` (M) for every trial (N); a trial's own image is the one that it names."""
        target_N = np.array(ImageNames(images.ids, "the gallery").indices(trials.image_ids.tolist()), dtype=int)
        found = rank(self.embed_trials(trials), self.embed_images(images), target_N)
        return replace(found, gallery=images, target_N=target_N)

    def score(self, trials: Trials, images: ImageSet) -> float:
        """Top-1 of `retrieve`: the share of trials whose own image comes first among the images given."""
        return self.retrieve(trials, images).top(1)

    def reconstruct(self, trials: Trials) -> np.ndarray:
        """One picture per trial, uint8 (N, H, W, 3). Raises HvfError when fitted for retrieval alone."""
        return self.draw(self.to_draw(self.embed_trials(trials)))

    def to_draw(self, z_b_ND: np.ndarray) -> np.ndarray:
        """z_b (N, D) as pictures are drawn from it: as `sampling.posterior_mean` and `restore_variance` say.

        A contrastive z_b is as long as an image's z_f, however uncertain. The posterior mean E[z_f | z_b], towards
        which it is moved by that share, is the best guess in squared error, and shorter the less certain. It is learnt
        (`align.mean_weight`), or taken over the training images: HvfError before `fit_drawing`. What a ridge predicts
        is such a mean already; with `restore_variance` it is stretched until it varies as images do.
        """
        if self.config.sampling.restore_variance:
            return z_b_ND / np.float32(self.fitted().best["validation_spread"])
        share = self.config.sampling.posterior_mean
        return z_b_ND + share * (self.fitted().expected(z_b_ND) - z_b_ND) if share else z_b_ND

    def draw(self, z_ND: np.ndarray, round_index: int = 0) -> np.ndarray:
        """Pictures uint8 (N, H, W, 3) of embeddings: z_b, or an image's z_f for the best that drawing can do.

        Every round starts from other noise, which pictures denoised in no step do without. Raises HvfError for
        sampling.start "latents" before `fit_drawing`.
        """
        if not self.draws:
            raise HvfError("this decoder was fitted for retrieval: set align.mode to 'reconstruction' and fit again")
        if self.config.align.mode == "latents":
            mean_1D, sd_11 = (x.cpu().numpy() for x in self.fitted().normalisation[self.latent_decoder.spec])
            return self.latent_decoder.decode(z_ND * sd_11 + mean_1D)
        return self.reconstructor.draw(z_ND, self.config.sampling, round_index)

    def fit_drawing(self, trials: Trials | None, images: ImageSet) -> None:
        """Fit what drawing needs: `keep_train_embeddings`, latents for sampling.start; trials are the person's own."""
        self._fit_drawing(None if trials is None else trials.aligned_to(images), images)

    def _fit_drawing(self, aligned: Trials | None, images: ImageSet) -> None:
        self.keep_train_embeddings(images)
        if self.config.align.mode != "reconstruction" or self.config.sampling.start == "noise":
            return
        align, z_f_MD = self.config.align, self.embed_images(images)
        _, rows = concept_split(images.concepts, align.validation_fraction, align.seed, at_least=2)
        drawn_ND = z_f_MD[rows]
        if aligned is not None and self.config.sampling.posterior_mean < 1:  # of a mean z_f's map gives about the mean
            drawn_ND = self.to_draw(self.embed_trials(aligned)[rows])
        reconstructor = self.reconstructor
        reconstructor.fit_initial_latents(
            self._latents(images), z_f_MD, dict(zip(rows.tolist(), drawn_ND, strict=True))
        )
        self._initial_latents = reconstructor.latents_of_z

    def keep_train_embeddings(self, images: ImageSet) -> None:
        """Keep z_f of the training images where the mean over them is drawn from, for the checkpoint to carry."""
        drawn = self.config.align.mode == "reconstruction" and self.config.sampling.posterior_mean
        if drawn and self.fitted().learnt_mean is None:
            self.fitted().train_embeddings_MD = self.embed_images(images)

    @property
    def draws(self) -> bool:
        """Whether pictures can be drawn from what it embeds trials in."""
        return self.config.align.mode != "retrieval"

    @property
    def drawing_models(self) -> Reconstructor | LatentDecoder:
        """What makes pictures of embeddings, loaded on first use; its ``fingerprint`` tells it from any other."""
        return self.latent_decoder if self.config.align.mode == "latents" else self.reconstructor

    @property
    def latent_decoder(self) -> LatentDecoder:
        """The decoder of the VAE whose latents are predicted, loaded on first use."""
        if self._latent_decoder is None:
            self._latent_decoder = LatentDecoder(self.config.targets.specs[0], self.device)
        return self._latent_decoder

    @property
    def ready_to_draw(self) -> bool:
        """Whether all that `fit_drawing` fits is there."""
        sampling = self.config.sampling
        known = not sampling.posterior_mean or self.fitted().knows_mean
        if sampling.start == "noise":
            return known
        return known and self._initial_latents is not None and self.reconstructor.latents_of_z is not None

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
            sampling = self.config.sampling
            self._reconstructor.make_scheduler(sampling.scheduler, sampling.steps)  # refused now, not after training
        if self._initial_latents is not None:  # of a pipeline that several decoders share, each its own
            fits = self._initial_latents.vae in ("", self._reconstructor.vae_hash)  # latents of another VAE do not
            self._reconstructor.latents_of_z = self._initial_latents if fits else None
        return self._reconstructor

    @property
    def prior(self) -> FusionPrior:
        """The Fusion Prior that the configuration names, loaded on first use. HvfError if its fusion is another now."""
        if self._prior is None:
            self._prior = load_prior(self.config.prior.path, self.device, self.fusion_hash)
        return self._prior

    def sharing(self, other: Decoder) -> Decoder:
        """This decoder, drawing by the models that another of the same prior and pipeline has loaded."""
        for name in self.loaded:
            setattr(self, name, getattr(other, name))
        return self

    def features(self, images: ImageSet) -> dict[str, np.ndarray]:
        """{spec: (N, d_k)} of the encoders that the target fuses, from the cache where they are there.

        Training takes more where views or captions are learnt from: `alignment.training_features`.
        """
        specs = self.prior.specs if self.config.align.mode == "reconstruction" else self.config.targets.specs
        return embed_all(images, specs, self.device, weights=self.encoders)

    def save(self, folder: str | Path, about: Mapping[str, Any] | None = None) -> Path:
        """Write the decoder into ``folder`` with a model card (`hvf.decoding.artefact`).

        `about` adds to the card: "study", "subject", "protocol", "simulated", and "figures" with their "chance".
        """
        whole = self._whole(about or {})
        return artefact.write(folder, whole, model_card(whole))

    def describe(self, folder: str | Path, about: Mapping[str, Any]) -> None:
        """Write the card of a saved decoder and its gallery anew, with what `about` says of it (`save`)."""
        whole = self._whole(about)
        artefact.describe(Path(folder), whole, model_card(whole))

    def _whole(self, about: Mapping[str, Any]) -> artefact.Artefact:
        self.about = {**self.about, **about}
        if self._prior is not None and self.config.align.mode == "reconstruction":
            self.fusion_hash = self._prior.fusion_hash
        known = self.confidence, self.gallery, self.encoders, self.about
        return artefact.Artefact(self.fitted(), *known, self._initial_latents, self.fusion_hash)

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> Decoder:
        """Read what `save` wrote. Raises HvfError if it is missing, damaged or of a newer version."""
        whole = artefact.read(folder, device)
        return cls(whole.alignment.config, device)._take(whole)

    def _take(self, whole: artefact.Artefact) -> Decoder:
        self.alignment, self.confidence, self.gallery = whole.alignment, whole.confidence, whole.gallery
        self.encoders, self.about = dict(whole.encoders), dict(whole.about)
        self._initial_latents, self.fusion_hash = whole.initial_latents, whole.fusion_hash
        return self

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str = "cpu") -> Decoder:
        """A decoder from a run's folder, from a folder that `save` wrote, or from the Hub (owner/name).

        Raises HvfError as `load` does, and if there is none of that name.
        """
        return cls.load(artefact.find(name), device)

    def push_to_hub(self, repo_id: str, folder: str | Path, *, private: bool = False, token: str | None = None) -> str:
        """Upload a saved decoder's folder to the Hub (owner/name), and return its address. HvfError if that fails."""
        return artefact.push(artefact.find(folder), repo_id, private=private, token=token)

    def fingerprint(self, trials: Trials, images: ImageSet) -> str:
        """A hash of the training data: responses, images, captions where they take part, the prior's frozen fusion."""
        return self._load(trials.aligned_to(images), images, most=0)[1]

    def _load(self, aligned: Trials, images: ImageSet, most: int = alignment.RESIDENT_BYTES) -> tuple[Trials, str]:
        """Read trials aligned to the images once: in memory if they take at most `most` bytes, and the fingerprint."""
        x_NCT = np.empty(aligned.shape, np.float32) if 4 * math.prod(aligned.shape) <= most else None
        responses = hashlib.sha256()
        for rows, block_NCT in aligned.batches():
            responses.update(block_NCT.tobytes())
            if x_NCT is not None:
                x_NCT[rows] = block_NCT
        fusion = self._prior_fusion()
        parts = [images.digest, responses.hexdigest()[:16], self.prior.fusion_hash if fusion else ""]
        parts += captions_of(images) if self.config.targets.text else []
        parts += [] if fusion else content_hashes(self.config.targets.specs)
        fingerprint = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        return aligned if x_NCT is None else aligned.replace(x_NCT=x_NCT), fingerprint

    def _prior_fusion(self) -> HVF | None:
        return self.prior.hvf if self.config.align.mode == "reconstruction" else None
