"""How sure a run's decoder is: calibration on validation concepts, and its figures on the test images.

Letters: N test images.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hvf.config import AlignConfig
from hvf.data.trials.splitting import concept_split
from hvf.data.trials.trials import Trials
from hvf.decoder import Decoder
from hvf.decoding.confidence import Confidence, mean_over, trials_of
from hvf.decoding.gallery import Gallery
from hvf.decoding.ranking import LEVEL, Answers, answer
from hvf.evaluation import calibration
from hvf.study import Study

PERMUTED_SEED = 0
ROUNDING = 1e-3  # of embeddings of the same images on another machine


def validation_trials(study: Study, align: AlignConfig) -> Trials:
    """The single trials of the validation images, which tell how sure an answer is."""
    images = study.train_images
    _, held_out = concept_split(images.concepts, align.validation_fraction, align.seed, at_least=2)
    return study.single_trials("train", images.select(held_out.tolist()))


def keep_gallery(decoder: Decoder, study: Study) -> None:
    """Make the test images the gallery that the decoder looks in by default."""
    images = study.test_images
    decoder.gallery = decoder.gallery_of(images, f"the {len(images)} test images of {study.name}")


def gallery_of_test(decoder: Decoder, study: Study) -> Gallery:
    """The gallery of the test images as they are now: the decoder's own becomes it where they were replaced since."""
    images, own = study.test_images, decoder.gallery
    z_f_MD = decoder.embed_images(images)
    same = own is not None and tuple(own.ids) == images.ids and own.width == z_f_MD.shape[1]
    if own is None or not same or not np.allclose(own.read(0, len(own)), z_f_MD, atol=ROUNDING):
        keep_gallery(decoder, study)
    assert decoder.gallery is not None
    return decoder.gallery


def confidence_details(decoder: Decoder, study: Study, level: float = LEVEL) -> dict[str, Any]:
    """Coverage, set size and calibration error on the test images, as `Result.details["confidence"]`.

    Rows: "brain", all trials of an image averaged; "brain_R", means over R trials, as many as validation images have,
    for which the level is promised (more trials make sets that hold the image more often); and "permuted", a control:
    validation and test trials permuted against their images, whose sets must be nearly the whole gallery. {} for a
    decoder without validation trials.
    """
    gallery = gallery_of_test(decoder, study)  # also of a decoder that is never sure: `hvf decode` looks in it
    if decoder.confidence is None:
        return {}
    images, confidence = study.test_images, decoder.confidence
    single = study.single_trials("test", images)
    rows = trials_of(single, images)
    counts_N = np.array([len(of_image) for of_image in rows])
    matched = confidence.level(int(counts_N.min()))
    z_b_ND = decoder.embed_trials(study.test.aligned_to(images))
    everything = answer(z_b_ND, gallery, confidence, counts_N, images.ids, level)
    z_matched_ND = z_b_ND
    parts = {"brain": everything}
    if (counts_N > matched).any():
        z_matched_ND = decoder.embed_trials(mean_over(single, [of_image[:matched] for of_image in rows]))
        parts[f"brain_{matched}"] = answer(
            z_matched_ND, gallery, confidence, np.full(len(rows), matched), images.ids, level
        )
    order = np.random.default_rng(PERMUTED_SEED).permutation(len(images))
    parts["permuted"] = answer(
        z_matched_ND[order], gallery, permuted(confidence), np.full(len(rows), matched), images.ids, level
    )
    return {
        "level": level,
        "gallery": len(gallery),
        "trials": {"brain": [int(counts_N.min()), int(counts_N.max())], "validation": sorted(confidence.z_b)},
        "rows": {name: row_of(answers) for name, answers in parts.items()},
    }


def permuted(confidence: Confidence, seed: int = PERMUTED_SEED) -> Confidence:
    """A control: validation trials permuted against their images."""
    order = np.random.default_rng(seed).permutation(len(confidence.z_f_VD))
    return replace(confidence, z_b={r: z[order] for r, z in confidence.z_b.items()})


def row_of(answers: Answers) -> dict[str, Any]:
    """Figures with intervals, reliability, temperature, and the share of trials that say nothing, of known trials.

    Intervals are over images, of which one may have several trials.
    """
    known, shown = answers.known_N, answers.known_images
    first_N, right_N = answers.probability_NK[known, 0], answers.rank_N[known] == 1
    sets = answers.held_N[known], answers.set_size_N[known]
    figures = calibration.confidence_figures(first_N, right_N, *sets, shown)
    return {
        "figures": figures,
        "reliability": calibration.reliability(first_N, right_N),
        "says_nothing": float(answers.says_nothing_N[known].mean()),
        "top1": float(right_N.mean()),
        "temperature": {str(r): 1 / one.sharpness.scale for r, one in answers.calibrated.items()},
        "penalty": {str(r): one.sharpness.penalty for r, one in answers.calibrated.items()},
    }
