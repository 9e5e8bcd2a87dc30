"""`hvf adapt`: a decoder trained on several people is moved to a new one, and kept as a decoder of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hvf.alignment import adapting
from hvf.config import AdaptConfig, Config, HvfError, with_settings
from hvf.data.images.image_set import ImageSet
from hvf.data.images.matching import ImageNames
from hvf.data.trials.trials import Trials
from hvf.decoder import Decoder
from hvf.decoding import artefact
from hvf.decoding.recording import check_values, open_new_trials
from hvf.runs import check_writable, write_json
from hvf.study import with_concepts
from hvf.vision.feature_images import open_image_set

SUMMARY = "adapt.json"


@dataclass(frozen=True)
class NewPerson:
    """A decoder, and what a new person gives."""

    decoder: str  # a run's folder, a decoder's folder, or a Hub id
    trials: Path  # -epo.fif, prepared trials, or .npy
    images: str | None = None  # that the trials answer: folder, zip or features; None: nobody says
    fraction: float = 1.0  # share of the images that is learnt from, whole concepts at random; 0: none
    settings: AdaptConfig = field(default_factory=AdaptConfig)
    seed: int | None = None  # of the share, the validation concepts and the batches; None: the decoder's


@dataclass(frozen=True, eq=False)
class Moved:
    """The decoder of the new person, and what is told of it."""

    decoder: Decoder
    summary: dict[str, Any]


def adapt(person: NewPerson, out: Path, device: str = "cpu") -> Moved:
    """Adapt a decoder to a new person and write it with `adapt.json` into a folder that `hvf decode` takes.

    Raises HvfError before anything is learnt or written if decoder, trials and images do not fit.
    """
    for file, what in ((artefact.MANIFEST, "a decoder"), ("config.json", "a run"), ("checkpoint", "a run")):
        if (out / file).exists():
            raise HvfError(f"{out} holds {what} already: choose another --out")
    if not 0 <= person.fraction <= 1:
        raise HvfError(f"--fraction is a share of the images, between 0 and 1, not {person.fraction:g}")
    if person.fraction and person.images is None:
        raise HvfError("name the images that the trials answer with --images, or learn from none with --fraction 0")
    check_writable(out / SUMMARY)
    folder = artefact.find(person.decoder)
    decoder = Decoder.load(folder, device)
    decoder.config = _config(person, decoder.config)
    trained = decoder.fitted()
    shown = open_image_set(person.images, decoder.config.data.background) if person.fraction and person.images else None
    new = open_new_trials(person.trials, trained.recording, images=shown)
    trials, images = new.trials, None
    if shown is not None:
        trials, images = _answered(trials, new.image_ids, shown, person)
        images = adapting.share_of(images, person.fraction, decoder.config.align.seed)
        adapting.check_concepts(list(images.concepts), decoder.config)
        trials = trials.paired_with(images)
    mean, sd = (x.cpu().numpy().reshape(-1) for x in trained.normalisation["x"])
    check_values(trials, mean, sd, person.trials.name)
    moved = decoder.adapt(trials, images)
    moved.about = {**moved.about, "adapted": {**moved.about["adapted"], "from": _named(folder)}}
    summary = _summary(person, moved, images, list(new.notes))
    write_json(out / SUMMARY, summary)  # first: a folder that holds a decoder is finished
    moved.save(out, {"study": _said(person, trials, images)})
    return Moved(moved, summary)


def _config(person: NewPerson, config: Config) -> Config:
    """The decoder's configuration with what was asked for. HvfError if nothing would come of it."""
    settings: dict[str, Any] = {f"adapt.{name}": value for name, value in vars(person.settings).items()}
    settings |= {} if person.seed is None else {"align.seed": person.seed}
    config = with_settings(config, settings)
    methods = adapting.methods(config)
    if person.fraction == 0:
        if config.adapt.method in adapting.LEARNT:
            raise HvfError(f"adapt.method {config.adapt.method!r} learns from images: --fraction must be above 0")
        methods = ("none",)
    if methods == ("none",) and config.brain.people == "alike":
        raise HvfError(
            "without images this decoder cannot be adapted, for it takes all people alike: train it with "
            "--brain.people standardised or euclidean, or give images and an adapt.method that learns"
        )
    return config


def _answered(trials: Trials, names: tuple[str, ...], shown: ImageSet, person: NewPerson) -> tuple[Trials, ImageSet]:
    """The trials under their images, and these with their concepts; trials of a test split are left out."""
    nameless = [i for i, name in enumerate(names) if not name]
    if nameless:
        raise HvfError(f"{person.trials.name}: {len(nameless)} trials name no image, the first is row {nameless[0]}")
    trials = trials.replace(image_ids=list(names))
    if trials.splits is not None:
        trials = trials.split("train")
    ids = np.unique(trials.image_ids).tolist()
    ImageNames(shown.ids, str(person.images)).indices(ids, person.trials.name)
    trials = trials.paired_with(shown)
    return trials, with_concepts(shown, trials)


def _named(folder: Path) -> str:
    """A decoder in words that still say something elsewhere: its run and the start of its checksum."""
    name = folder.parent.name if folder.name == "checkpoint" else folder.name
    digest = artefact.fingerprint(folder)
    return f"{name}, sha256 {digest[:12]}" if digest else name


def _said(person: NewPerson, trials: Trials, images: ImageSet | None) -> str:
    whose = f"{person.trials.name}, {trials.subject}: {len(trials)} trials"
    return whose if images is None else f"{whose} of {len(images)} images of {len(set(images.concepts))} concepts"


def _summary(person: NewPerson, moved: Decoder, images: ImageSet | None, notes: list[str]) -> dict[str, Any]:
    """What was asked and done; validation figures before and after, where anything was learnt."""
    history = moved.fitted().history if images is not None else []
    best = moved.fitted().best if images is not None else {}
    names = ("validation_top1", "validation_mrr", "validation_n")
    if images is not None and moved.confidence is None:
        notes = [*notes, f"{best['validation_n']} validation images are too few to say how sure an answer is"]
    if images is not None and moved.gallery is None:
        notes = [*notes, "the images' embeddings were learnt too: hvf decode needs --gallery"]
    return {
        "decoder": person.decoder,
        "trials": str(person.trials),
        "images": 0 if images is None else len(images),
        "concepts": 0 if images is None else len(set(images.concepts)),
        "fraction": person.fraction,
        "people": moved.config.brain.people,
        "method": moved.about["adapted"]["method"],
        "epoch": best.get("epoch"),
        "before": {name: history[0][name] for name in names} if history else None,
        "validation": {name: best[name] for name in names} if best else None,
        "simulated": bool(moved.about.get("simulated")),
        "notes": notes,
    }
