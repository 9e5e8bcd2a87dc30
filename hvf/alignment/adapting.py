"""A trained decoder is moved to a new person: made alike without images, then fine-tuned on some.

`on_person` computes what makes the person's trials like those of the people trained on; no image is looked at. `adapt`
then learns from the person's trials and images, by one of the methods of `AdaptConfig`:

none    nothing more is learnt
input   a linear map of the channels in front of the frozen brain encoder (`PersonLayer`)
all     all weights, starting from the trained ones, at a smaller rate; the prior's fusion stays frozen
chosen  whichever of these retrieves the person's validation concepts best

The epoch is chosen on the same concepts; before the first epoch stands the decoder as it was, which is kept where
nothing learnt is better. There is no argument for test data.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from hvf.alignment.checkpoint import Alignment
from hvf.alignment.epochs import adamw, retrieves_better, seeded
from hvf.alignment.fitting import prepare
from hvf.alignment.people import PersonInput
from hvf.alignment.training import Prepared, Training
from hvf.alignment.training_set import TrainingSet
from hvf.config import SOLVED, Config, HvfError, with_settings
from hvf.data.images.image_set import ImageSet
from hvf.data.trials.splitting import concept_split
from hvf.data.trials.trials import Trials
from hvf.models.brain import BrainEncoder
from hvf.models.brain.person_layer import PeopleLayers, PersonLayer
from hvf.models.fusions.routed import Routed
from hvf.runs import track

INPUT_RATE = 5.0  # of an input layer, which has few weights, beside that of all
LEARNT = ("input", "all")  # methods that train


def on_person(trained: Alignment, trials: Trials, person: str | None = None) -> Alignment:
    """The decoder for the person whose trials these are, before anything is learnt from their images.

    A decoder that takes people alike stays as it is, but for another person's layer. `person` is one of
    `trained.people`, whose gate over layers and whose map of the channels are taken, where it has learnt these; anybody
    else is given the shared gate and no map, which is the mean of everybody's. Raises HvfError for trials of another
    recording, or that are not finite, and for a person who was not trained on.
    """
    _refuse_members(trained)
    trained.recording.check(trials)
    trials.check()
    place = _place(trained, person)
    brain, normalisation = _shared(trained.brain), dict(trained.normalisation)
    own_CC = None
    if place is not None and isinstance(trained.brain, PeopleLayers):
        own_CC = trained.brain.maps_SCC[place].detach().clone()
    if trained.config.brain.people != "alike":
        own = PersonInput.of(trials, trained.config.brain.people, trained.device, trained.average_CC)
        own_CC = own.map_CC if own_CC is None or own.map_CC is None else own_CC @ own.map_CC
        normalisation["x"] = (own.mean, own.sd)
    brain, fusion = brain if own_CC is None else PersonLayer(brain, own_CC), copy.deepcopy(trained.hvf)
    if isinstance(fusion, Routed):
        fusion.of_person(place)
    belongings = trained.history, normalisation, trained.recording, trained.config
    moved = Alignment(brain, fusion, trained.log_scale, *belongings, people=trained.people)
    moved.person = trained.person if person is None else person
    moved.train_embeddings_MD, moved.average_CC = trained.train_embeddings_MD, trained.average_CC
    moved.learnt_mean = trained.learnt_mean
    return moved


def _refuse_members(trained: Alignment) -> None:
    if trained.members:
        raise HvfError("this decoder is several members together, and one alone is moved to a person: train it so")


def adapt(
    trained: Alignment, training_set: TrainingSet, config: Config, device: str | torch.device = "cpu"
) -> Alignment:
    """Move a decoder to a new person, and learn from the images that their trials answer.

    Parameters
    ----------
    trained : Alignment
        Trained on other people.
    training_set : TrainingSet
        The person's trials and images.
    config : Config
        Its section `adapt` says how; `align.seed` draws the validation concepts and the order of batches.
    device : str or torch.device
        Where to compute.

    Returns
    -------
    Alignment
        Its history is that of the person's images and names the method; epoch 0 is the decoder before it learnt.

    Raises
    ------
    HvfError
        As `fit` does; for fewer than three concepts, two of them to validate on; or for a method that the decoder's
        brain encoder, solved in closed form, cannot learn by.
    """
    _refuse_members(trained)
    config = adapted_config(config)
    check_concepts(training_set.concept_N.tolist(), config)
    placed = on_person(trained.on(torch.device(device)), training_set.trials)
    prepared = prepare(training_set, config, device, placed.normalisation)
    best: Alignment | None = None
    for method in methods(config):
        with seeded(config.align.seed, device):
            training = Adaptation(placed, prepared, method)
            training.start()
            for epoch in track(range(1, config.align.epochs + 1 if method in LEARNT else 1), f"adapting: {method}"):
                training.run(epoch)
        fitted = training.finish()
        if best is None or retrieves_better(fitted.best, best.best):
            best = fitted
    assert best is not None
    best.train_embeddings_MD = trained.train_embeddings_MD  # of the prior's fusion, which stays as it was
    best.learnt_mean = placed.learnt_mean  # of z_b in that fusion's space, whoever's it is
    best.average_CC = trained.average_CC
    best.people, best.person = placed.people, placed.person
    return best


def methods(config: Config) -> tuple[str, ...]:
    """The methods that `config.adapt.method` stands for. Raises HvfError for one that cannot be learnt by."""
    method, encoder = config.adapt.method, config.brain.encoder
    if method == "chosen":
        return ("none",) if encoder in SOLVED else ("none", *LEARNT)
    if encoder in SOLVED and method in LEARNT:
        raise HvfError(
            f"adapt.method {method!r} learns step by step, and {encoder} was solved at once: train another "
            "brain.encoder, or take adapt.method 'none'"
        )
    return (method,)


def adapted_config(config: Config) -> Config:
    """The settings by which a decoder learns from a new person: those of `adapt` in the place of those of `align`."""
    adapt = config.adapt
    settings = {
        "align.learning_rate": adapt.learning_rate,
        "align.batch_size": adapt.batch_size,
        "align.epochs": adapt.epochs,
        "align.validation_fraction": adapt.validation_fraction,
        "align.unit_length": "both",  # the decoder's τ is that of its cosines
        "align.refit": False,
    }
    of_people = {"brain.person_layer": False, "align.mmd_weight": 0.0, "align.mean_weight": 0.0}
    settings |= {"targets.views": (), "targets.text": None, "align.text_weight": 0.0}
    return with_settings(config, settings | of_people)


def check_concepts(concepts: list[str], config: Config) -> None:
    """Raise HvfError if there are too few concepts to learn from some and validate on two others."""
    n = len(set(concepts))
    if n < 3:
        raise HvfError(
            f"the trials answer images of {n} concept{'' if n == 1 else 's'}: two are needed to validate on and one to "
            "learn from; give more images, or none (--fraction 0)"
        )


def share_of(images: ImageSet, fraction: float, seed: int) -> ImageSet:
    """A share of the images, whole concepts at random; a larger share of the same seed holds the smaller.

    Raises HvfError if it holds no whole concept.
    """
    if not 0 < fraction <= 1:
        raise HvfError(f"the share of the images must be greater than 0 and at most 1, not {fraction:g}")
    if fraction == 1:
        return images
    _, kept = concept_split(images.concepts, fraction, seed)
    return images.select(kept.tolist())


def _shared(brain: BrainEncoder) -> BrainEncoder:
    """A copy of the encoder that all people share, without people's layers."""
    return copy.deepcopy(brain.encoder if isinstance(brain, (PersonLayer, PeopleLayers)) else brain)


def _place(trained: Alignment, person: str | None) -> int | None:
    """The place of a person among those trained on, whose gate and layer the decoder still has."""
    if person is None:
        return None
    if person not in trained.people:
        known = ", ".join(trained.people) or "one person alone"
        raise HvfError(f"{person} is not among the people that this decoder was trained on: {known}")
    fusion, layered = trained.hvf, trained.config.brain.person_layer
    gone = isinstance(fusion, Routed) and len(fusion.offset_SK) < len(trained.people)
    if gone or (layered and not isinstance(trained.brain, PeopleLayers)):
        raise HvfError(
            f"this decoder was moved to {trained.person or 'a new person'} already: what was learnt of {person} is in "
            "the one that it was moved from"
        )
    return trained.people.index(person)


class Adaptation(Training):
    """Contrastive training that goes on from a trained decoder, of all of it or of a person's layer alone."""

    def __init__(self, placed: Alignment, data: Prepared, method: str) -> None:
        brain, fusion = copy.deepcopy(placed.brain), copy.deepcopy(placed.hvf)
        if method == "input" and not isinstance(brain, PersonLayer):
            brain = PersonLayer(brain).to(placed.device)
        super().__init__(brain, fusion, data)
        self.method = method
        self.log_scale.data.fill_(placed.log_scale)
        if method != "input":
            return
        assert isinstance(brain, PersonLayer)
        brain.encoder.requires_grad_(False)
        fusion.requires_grad_(False)
        if self.fusion_learns:
            self.fusion_learns = False
            self.frozen_z_f_MD = self.all_images()
        self.learners, self.parameters = [brain], [brain.change_CC]
        align = self.config.align
        faster = replace(align, learning_rate=INPUT_RATE * align.learning_rate)
        self.optimizer, self.schedule = adamw(self.parameters, faster, self.batches)

    @torch.no_grad()
    def all_images(self) -> torch.Tensor:
        """z_f (M, D) of all images."""
        self.fusion.eval()
        (n, *_), device = next(iter(self.image_features.values())).shape, self.x_NCT.device
        return torch.cat([self.images(part) for part in torch.arange(n, device=device).split(1024)])

    def start(self) -> None:
        """Judge the decoder as it is, before it learns: epoch 0."""
        self.brain.eval()
        self.fusion.eval()
        with torch.no_grad():
            rows = self.train_N[: self.config.align.batch_size]
            image_N = self.image_N[rows]
            same_N = None if self.same_N is None else self.same_N[rows]
            loss = self.contrast(self.brain(self.x_NCT[rows]), self.targets(image_N), same_N)
        self.judge(0, float(loss))

    def finish(self) -> Alignment:
        """The decoder with the weights of the best epoch; its history names the method."""
        self.history = [{**entry, "method": self.method} for entry in self.history]
        return super().finish()
