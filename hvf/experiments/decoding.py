"""`hvf decode`: trials whose images nobody knows are answered from a gallery, and the answers written.

Letters: N trials, K answers of each, M gallery images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet, open_images
from hvf.data.trials.trials import Trials
from hvf.decoder import Decoder
from hvf.decoding import artefact, sources
from hvf.decoding.gallery import Gallery
from hvf.decoding.ranking import LEVEL, Answers, Search
from hvf.decoding.recording import NewTrials, check_values, open_new_trials
from hvf.decoding.sources import Looker
from hvf.evaluation import retrieval
from hvf.evaluation.scaling import INDUCTIVE, TRANSDUCTIVE, check_scalings
from hvf.experiments.caveats import caveats
from hvf.experiments.confidence import row_of
from hvf.runs import check_writable, code_version, padded, write_atomic, write_csv, write_json

ANSWERS, TRIALS, SUMMARY = "answers.csv", "trials.csv", "decode.json"


@dataclass(frozen=True)
class Question:
    """What is asked of a decoder."""

    decoder: str  # a run's folder, a decoder's folder, or a Hub id
    trials: Path  # -epo.fif, prepared trials, or .npy
    gallery: str | Path | None = None  # folder, zip, shards, features; None: the decoder's own
    same_image: str | None = None  # column: rows of one value are averaged
    presentations: int = 1  # how many presentations each row of the file is a mean of
    level: float = LEVEL  # share of trials whose set shall hold their image
    draw: bool = False
    search: Search = "blocks"  # what finds the nearest images
    scaling: str = "cosine"  # of the scores: cosine, centred or csls


@dataclass(frozen=True, eq=False)
class Decoded:
    """Trials with their answers, and pictures where they were asked for."""

    question: Question
    trials: NewTrials
    answers: Answers
    images: ImageSet | None  # of the gallery, where there are pictures
    drawn_NHWC: np.ndarray | None
    summary: dict[str, Any]


def decode(question: Question, device: str = "cpu") -> Decoded:
    """The answers to the trials of a file. Raises HvfError if decoder, trials and gallery do not fit."""
    opened = open_decoder(question, device)
    new = open_new_trials(question.trials, opened.decoder.fitted().recording, question.same_image)
    opened.check(new.trials, question.trials.name)
    return opened.answered(new)


def check_question(question: Question, out: Path) -> None:
    """Refuse what needs no look into files: a folder that holds something, numbers that cannot be."""
    for file, what in ((ANSWERS, "answers"), ("config.json", "a run")):
        if (out / file).exists():
            raise HvfError(f"{out} holds {what} already: choose another --out")
    for given, what in ((question.decoder, "DECODER"), (question.gallery, "--gallery")):
        if given == "":  # a shell variable that is not set would stand for the folder one is in
            raise HvfError(f"{what} is empty: name a folder or a file")
    if not 0 < question.level < 1:
        raise HvfError(f"--level must lie between 0 and 1, not {question.level}")
    if question.presentations < 1:
        raise HvfError(f"--presentations must be at least 1, not {question.presentations}")
    check_scalings([question.scaling])
    if question.scaling in TRANSDUCTIVE:
        raise HvfError(
            f"--scaling {question.scaling} takes all trials at once: a trial's answer would hang on which others are "
            f"asked; there is {', '.join(INDUCTIVE)}"
        )
    check_writable(out / ANSWERS)


@dataclass(frozen=True, eq=False)
class Opened:
    """A decoder with what it looks in."""

    question: Question
    decoder: Decoder
    gallery: Gallery
    images: ImageSet | None

    def check(self, trials: Trials, where: str) -> None:
        """Refuse trials that are not like those of training (`check_values`)."""
        mean, sd = (x.cpu().numpy().reshape(-1) for x in self.decoder.fitted().normalisation["x"])
        check_values(trials, mean, sd, where)

    def answered(self, new: NewTrials) -> Decoded:
        """Answer trials, and draw them if that was asked for."""
        question = self.question
        repeats = question.presentations * np.array(new.repeats)
        asked = (repeats, new.image_ids, question.level, question.search)
        answers = self.decoder.decode(new.trials, self.gallery, *asked)
        drawn = self.decoder.reconstruct(new.trials) if question.draw else None
        summary = _summary(question, self.decoder, new, answers)
        return Decoded(question, new, answers, self.images, drawn, summary)


def open_decoder(question: Question, device: str = "cpu") -> Opened:
    """The decoder and the gallery that a question names. Raises HvfError if there is none, or it cannot draw."""
    folder = artefact.find(question.decoder)
    decoder = Decoder.load(folder, device)
    if question.draw and not decoder.draws:
        raise HvfError(f"{question.decoder} was trained for retrieval and cannot draw: hvf train --mode reconstruction")
    if question.draw and not decoder.ready_to_draw:
        raise HvfError(
            f"{question.decoder} does not hold all that drawing needs, for it is of an earlier version, or the VAE of "
            f"{decoder.config.prior.pipeline} has changed since: train it again, or leave out --draw"
        )
    if question.scaling != "cosine" and decoder.confidence is None:
        raise HvfError(f"--scaling {question.scaling} is fitted to validation trials, and {question.decoder} has none")
    gallery, images = open_gallery(question.gallery, decoder)
    if decoder.confidence is not None:
        gallery = gallery.scaled(decoder.confidence.scaling(question.scaling))
    return Opened(question, decoder, gallery, _seen_beside(folder, gallery) if question.gallery is None else images)


def open_gallery(source: str | Path | None, decoder: Decoder) -> tuple[Gallery, ImageSet | None]:
    """The images to look in (`hvf.decoding.sources`; None: those of the decoder's test), and their pictures."""
    if source is None:
        if decoder.gallery is None:
            raise HvfError("this decoder has no gallery of its own: give --gallery with the images to look in")
        return decoder.gallery, None
    looker = Looker(decoder.fitted(), decoder.encoders, decoder.device, decoder.config.data.background)
    return sources.open_gallery(source, looker)


def _seen_beside(checkpoint: Path, gallery: Gallery) -> ImageSet | None:
    """The pictures of the decoder's own gallery, if its run shows them."""
    folder = checkpoint.parent / "images" / "seen"
    pictures = sorted(folder.glob("[0-9]*.png")) if checkpoint.name == "checkpoint" else []
    if len(pictures) != len(gallery):
        return None
    seen = open_images(folder)
    return seen if len(seen) == len(gallery) else None


def _summary(question: Question, decoder: Decoder, new: NewTrials, answers: Answers) -> dict[str, Any]:
    """What was asked, what was done to the trials, how answers are calibrated, and figures where images are known."""
    known, scaling = int(answers.known_N.sum()), answers.gallery.scaling
    row = "brain" if scaling.name == "cosine" else scaling.name
    figures: dict[str, Any] = {}
    if known:
        ranks_N, shown = answers.rank_N[answers.known_N], answers.known_images
        figures = {f"retrieval/{row}/{name}": entry for name, entry in retrieval.summarise(ranks_N, shown).items()}
        images, m = len(set(shown)), len(answers.gallery)
        figures |= {f"chance/retrieval/top{k}": retrieval.chance(k, images, m) for k in retrieval.KS}
        if answers.calibrated:
            figures |= {f"confidence/{row}/{name}": entry for name, entry in row_of(answers)["figures"].items()}
    most = max(decoder.confidence.z_b) if decoder.confidence else 0
    notes = list(new.notes)
    scaled = {"name": scaling.name} | ({"k": scaling.k} if scaling.k else {})
    if scaling.name != "cosine":
        by = f" of {scaling.k} of {len(scaling.bank_BD)} training trials" if scaling.bank_BD is not None else ""
        notes.append(f"scores are scaled: {scaling.name}{by}; similarities are no cosines")
    if not answers.calibrated:
        notes.append("this decoder has no validation trials: there are no probabilities and no sets")
    elif int(answers.repeats_N.max()) > most:
        notes.append(
            f"answers rest on up to {answers.repeats_N.max()} trials, calibration on {most}: sets are rather too large"
        )
    simulated = new.trials.simulated or bool(decoder.about.get("simulated"))
    notes += caveats(decoder.config, simulated) if question.draw else []
    return {
        "decoder": question.decoder,
        "trials": str(question.trials),
        "gallery": answers.gallery.what,
        "gallery_size": len(answers.gallery),
        "simulated": simulated,
        "n_trials": len(new.trials),
        "known": known,
        "scaling": scaled,
        "level": answers.level,
        "says_nothing": int(answers.says_nothing_N.sum()),
        "mean_set_size": float(answers.set_size_N.mean()) if answers.calibrated else None,
        "calibration": {
            str(r): {
                "temperature": 1 / one.sharpness.scale,
                "penalty": one.sharpness.penalty,
                "threshold": one.threshold,
            }
            for r, one in answers.calibrated.items()
        },
        "notes": notes,
        "metrics": figures,
        "code": code_version(),
    }


def answer_rows(decoded: Decoded) -> list[list[Any]]:
    """The lines of `answers.csv`: trial, rank, image_id, similarity, probability, in_set."""
    answers, rows = decoded.answers, []
    for i, name in enumerate(decoded.trials.names):
        for rank, column in enumerate(answers.top_NK[i].tolist(), start=1):
            p = answers.probability_NK[i, rank - 1]
            in_set = ("yes" if answers.in_set_NK[i, rank - 1] else "no") if answers.calibrated else ""
            similarity = f"{answers.similarity_NK[i, rank - 1]:.6f}"
            probability = "" if np.isnan(p) else f"{p:.6g}"
            rows.append([name, rank, answers.gallery.ids[column], similarity, probability, in_set])
    return rows


def trial_rows(decoded: Decoded) -> list[list[Any]]:
    """The lines of `trials.csv`: trial, repeats, set_size, p_nothing, says_nothing, image_id, rank, held."""
    answers, rows = decoded.answers, []
    for i, name in enumerate(decoded.trials.names):
        sure = [answers.set_size_N[i], f"{answers.nothing_N[i]:.4g}", "yes" if answers.says_nothing_N[i] else "no"]
        known = bool(answers.known_N[i])
        truth = [
            decoded.trials.image_ids[i],
            int(answers.rank_N[i]) if known else "",
            ("yes" if answers.held_N[i] else "no") if known and answers.calibrated else "",
        ]
        rows.append([name, int(answers.repeats_N[i]), *(sure if answers.calibrated else ["", "", ""]), *truth])
    return rows


def write(decoded: Decoded, out: Path) -> None:
    """Write `decode.json`, figures, pictures if asked for, `trials.csv` and, last, `answers.csv`.

    A folder without the last one was not finished: whatever else goes into it is written before.
    """
    if decoded.drawn_NHWC is not None:
        for i, picture_HWC in enumerate(decoded.drawn_NHWC):
            path = out / "images" / "drawn" / f"{padded(i, len(decoded.drawn_NHWC))}.png"
            write_atomic(path, lambda tmp, picture=picture_HWC: Image.fromarray(picture).save(tmp))
    write_json(out / SUMMARY, decoded.summary)
    if decoded.summary["metrics"]:
        write_json(out / "metrics.json", decoded.summary["metrics"])
    about = ["trial", "repeats", "set_size", "p_nothing", "says_nothing", "image_id", "rank", "held"]
    write_csv(out / TRIALS, about, trial_rows(decoded))
    answered = ["trial", "rank", "image_id", "similarity", "probability", "in_set"]
    write_csv(out / ANSWERS, answered, answer_rows(decoded))
