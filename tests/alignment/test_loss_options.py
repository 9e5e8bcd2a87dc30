"""What training may add: views chosen by confidence, captions, smoothed responses, one-sided losses, a fixed τ."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hvf import alignment
from hvf.alignment import info_nce, training
from hvf.alignment.epochs import adamw
from hvf.alignment.fitting import prepare
from hvf.alignment.image_views import ImageViews
from hvf.alignment.inputs import augmented
from hvf.alignment.training_set import TrainingSet
from hvf.config import BrainConfig, Config, HvfError, with_settings
from hvf.data.trials.trials import Trials

SPEC, VIEWS, TEXT = "openclip:mini-vit", ("blur9", "blur11", "blur13"), "text:mini-vit"
N, D, CHANNELS = 160, 8, 14


def material(seed: int = 0) -> tuple[Trials, np.ndarray]:
    """Trials that tell y (N, D), with noise."""
    y_ND = np.random.default_rng(seed).normal(size=(N, D)).astype(np.float32)
    mixing = np.random.default_rng(9).normal(size=(D, CHANNELS))
    x_NC = y_ND @ mixing + 0.3 * np.random.default_rng(seed + 50).normal(size=(N, CHANNELS))
    names = [f"c{i}" for i in range(CHANNELS)]
    return Trials(
        x_NC[..., None].astype(np.float32), [f"{seed}-{i}" for i in range(N)], "s", 1.0, 0.0, names, "features"
    ), y_ND


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, D)).astype(np.float32)


def settings(**changes) -> Config:
    small = {"targets.specs": (SPEC,), "align.epochs": 30, "align.batch_size": 32, "align.learning_rate": 0.02}
    small |= {"brain.encoder": "linear", "fusion.kind": "concatenated", "align.validation_fraction": 0.2}
    return with_settings(Config(), small | {name.replace("__", "."): value for name, value in changes.items()})


def found(fitted: alignment.Alignment, trials: Trials, y_ND: np.ndarray) -> float:
    """Share of trials whose embedding is nearest to their own row of y, as it was standardised."""
    mean, sd = (s.numpy() for s in fitted.normalisation[SPEC])
    z_b, z_f = fitted.embed_brain(trials), (y_ND - mean) / sd
    cosine_NN = z_b @ (z_f / np.linalg.norm(z_f, axis=1, keepdims=True)).T
    return float((cosine_NN.argmax(1) == np.arange(len(y_ND))).mean())


def test_one_sided_losses_average_to_the_whole():
    z_b, z_f = torch.randn(6, 4), torch.randn(6, 4)
    rows, columns, both = (info_nce(z_b, z_f, 1.0, None, loss) for loss in ("brain-to-image", "image-to-brain", "both"))
    torch.testing.assert_close((rows + columns) / 2, both)
    cosine_NN = torch.nn.functional.cosine_similarity(z_b[:, None], z_f[None], dim=2)
    torch.testing.assert_close(rows, -(math.e * cosine_NN).log_softmax(1).diagonal().mean())
    assert abs(float(rows - columns)) > 1e-4


@pytest.mark.parametrize("loss", ["both", "brain-to-image", "image-to-brain"])
def test_every_loss_learns(loss):
    trials, y_ND = material()
    fitted = alignment.fit(TrainingSet(trials, {SPEC: y_ND}, list(trials.image_ids)), settings(align__loss=loss))
    assert found(fitted, *material(1)) > 0.4


def test_a_temperature_that_is_not_learnt_stays():
    trials, y_ND = material()
    fixed = settings(align__learn_temperature=False, align__temperature=0.2, align__epochs=4)
    fitted = alignment.fit(TrainingSet(trials, {SPEC: y_ND}, list(trials.image_ids)), fixed)
    assert {round(entry["temperature"], 6) for entry in fitted.history} == {0.2}
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"]
    cold = with_settings(fixed, {"align.temperature": 0.001})  # below what a learnt one may reach
    fitted = alignment.fit(TrainingSet(trials, {SPEC: y_ND}, list(trials.image_ids)), cold)
    assert fitted.log_scale == pytest.approx(math.log(1000))


def test_smoothing_is_a_moving_average_of_some_channels():
    x_NCT = torch.randn(40, 20, 9)
    torch.manual_seed(0)
    seen_NCT = augmented(x_NCT, BrainConfig(input_smooth=0.3))
    changed_NC = (seen_NCT != x_NCT).any(2)
    assert changed_NC.float().mean().item() == pytest.approx(0.3, abs=0.06)
    for n, c in changed_NC.nonzero()[:20].tolist():
        expected = [float(x_NCT[n, c, max(0, t - 2) : t + 3].mean()) for t in range(9)]
        np.testing.assert_allclose(seen_NCT[n, c].numpy(), expected, atol=1e-5)
    assert augmented(x_NCT, BrainConfig()) is x_NCT
    single = torch.randn(3, 4, 1)  # one sample has nothing to be averaged with
    torch.testing.assert_close(augmented(single, BrainConfig(input_smooth=1.0)), single)


def test_smoothing_once_gives_the_same_inputs_in_each_epoch():
    trials, y_ND = material()
    x_NCT = np.random.default_rng(3).normal(size=(N, CHANNELS, 9)).astype(np.float32)
    trials = trials.replace(x_NCT=x_NCT)
    rows, steps = torch.arange(N), {}
    for once in (True, False):
        config = settings(brain__input_smooth=0.3, brain__smooth_once=once, align__epochs=1)
        prepared = prepare(TrainingSet(trials, {SPEC: y_ND}, list(trials.image_ids)), config)
        torch.manual_seed(0)
        started = prepared.start()
        steps[once] = [started.inputs(rows) for _ in range(3)]
        assert (steps[once][0] != started.x_NCT[rows]).any(2).float().mean().item() == pytest.approx(0.3, abs=0.04)
        assert not torch.equal(started.embedded()[0], started.brain(steps[once][0][prepared.val_N]))  # as they are
    assert all(torch.equal(seen, steps[True][0]) for seen in steps[True])
    assert not torch.equal(steps[False][0], steps[False][1])


def test_where_the_brains_vectors_keep_their_length_it_multiplies_the_scale():
    z_b, z_f = 3 * torch.randn(6, 4), torch.randn(6, 4)
    logits_NN = math.e * z_b @ torch.nn.functional.normalize(z_f, dim=1).T
    expected = -(logits_NN.log_softmax(1).diagonal() + logits_NN.log_softmax(0).diagonal()).mean() / 2
    torch.testing.assert_close(info_nce(z_b, z_f, 1.0, None, "both", "images"), expected)
    assert abs(float(info_nce(z_b, z_f, 1.0)) - float(expected)) > 1e-3


def test_the_temperature_kept_is_that_of_cosines():
    """Logits scale · z_b · z_f, with z_b of length L, are cosines over 1 / (scale · L): what a posterior mean takes."""
    trials, y_ND = material()
    on = settings(align__unit_length="images", align__learn_temperature=False, align__temperature=0.5, align__epochs=6)
    fitted = alignment.fit(TrainingSet(trials, {SPEC: y_ND}, list(trials.image_ids)), on)
    _, val_N = TrainingSet(trials, {SPEC: y_ND}, list(trials.image_ids)).validation_split(on.align)
    length = np.linalg.norm(fitted.embed_brain(trials.select(val_N)), axis=1).mean()
    assert math.exp(fitted.log_scale) == pytest.approx(length / 0.5, rel=1e-4)
    assert fitted.best["temperature"] == pytest.approx(0.5 / length, rel=1e-4)
    assert found(fitted, *material(1)) > 0.2


def test_normal_weights_are_of_one_width_whatever_their_inputs():
    trials, y_ND = material()
    data = TrainingSet(trials, {SPEC: y_ND}, list(trials.image_ids))
    wide = {"brain__encoder": "mbp", "brain__width": 256, "fusion__width": 256, "fusion__kind": "hvf"}
    for normal in (True, False):
        torch.manual_seed(0)
        started = prepare(data, settings(**wide, align__normal_weights=normal)).start()
        brain, (of_image,) = started.brain, started.fusion.projections
        for layer in (brain.project, of_image):  # of 14 and of 8 inputs: torch's own have sd 0.15 and 0.20
            assert (abs(layer.weight.std().item() - 0.02) < 0.002) == normal
            assert (layer.bias.abs().max().item() == 0) == normal
        assert brain.block.up.weight.std().item() == pytest.approx(0.02 if normal else 1 / math.sqrt(3 * 256), rel=0.1)
        assert torch.equal(brain.norm.weight, torch.ones(256))


def test_a_constant_rate_stays_and_a_cosine_ends_at_0():
    weight = torch.nn.Parameter(torch.ones(2, 2))
    for schedule, last in (("constant", 0.02), ("cosine", 0.0)):
        optimizer, rates = adamw([weight], settings(align__schedule=schedule).align, batches=2)
        for _ in range(60):
            optimizer.step()
            rates.step()
        assert rates.get_last_lr()[0] == pytest.approx(last, abs=1e-9)


def test_views_follow_confidence():
    """Outliers of a batch's cosines meet the first or third view next time; the others stay with the second."""
    config = settings(targets__views=VIEWS, targets__view_choice="confidence")
    features = {f"{SPEC}~{view}": np.full((50, 2), k, np.float32) for k, view in enumerate(VIEWS)}
    views = ImageViews(config, features, 50, torch.device("cpu"))
    rows = torch.arange(40)
    assert (views.gather(rows, rows)[SPEC] == 1).all()
    cosine_N = torch.linspace(-0.01, 0.01, 40)
    cosine_N[3], cosine_N[7] = 1.0, -1.0
    z_b = torch.stack([cosine_N, (1 - cosine_N.square()).sqrt()], 1)
    z_f = torch.tensor([[1.0, 0.0]]).expand(40, 2)
    for _ in range(30):  # until the running means have forgotten that they began at 1
        views.choose_next(rows, z_b, z_f)
    assert views.version_N[:40].bincount().tolist() == [1, 38, 1]
    assert (views.version_N[3].item(), views.version_N[7].item(), views.version_N[45].item()) == (0, 2, 1)
    assert views.gather(torch.tensor([3, 7, 0]), torch.tensor([3, 7, 0]))[SPEC][:, 0].tolist() == [0.0, 2.0, 1.0]
    torch.testing.assert_close(views.running_N[:40], cosine_N, atol=1e-3, rtol=0)


@pytest.mark.parametrize("choice", ["drawn", "confidence"])
def test_views_are_what_is_trained_on(choice):
    trials, y_ND = material()
    on = settings(targets__views=VIEWS, targets__view_choice=choice)
    told = {f"{SPEC}~{view}": y_ND + 0.1 * noise(k) for k, view in enumerate(VIEWS)}
    fitted = alignment.fit(TrainingSet(trials, {SPEC: y_ND} | told, list(trials.image_ids)), on)
    assert found(fitted, *material(1)) > 0.4
    again = alignment.fit(TrainingSet(trials, {SPEC: y_ND} | told, list(trials.image_ids)), on)
    assert again.history == fitted.history
    silent = {f"{SPEC}~{view}": noise(100 + k) for k, view in enumerate(VIEWS)}  # its own are not seen
    fitted = alignment.fit(TrainingSet(trials, {SPEC: y_ND} | silent, list(trials.image_ids)), on)
    assert found(fitted, *material(1)) < 0.1
    with pytest.raises(HvfError, match=f"no features of {SPEC}~blur9"):
        alignment.fit(TrainingSet(trials, {SPEC: y_ND}, list(trials.image_ids)), on)


def test_captions_pull_in_proportion_to_their_weight():
    trials, y_ND = material()
    features = {SPEC: noise(4), TEXT: y_ND}
    on = settings(targets__text=TEXT, align__text_weight=0.9)
    fitted = alignment.fit(TrainingSet(trials, features, list(trials.image_ids)), on)
    assert found(fitted, *material(1)) > 0.3
    off = alignment.fit(TrainingSet(trials, features, list(trials.image_ids)), settings())
    assert found(off, *material(1)) < 0.1
    with pytest.raises(HvfError, match="captions have 5 features, the embedding 8"):
        alignment.fit(TrainingSet(trials, features | {TEXT: y_ND[:, :5]}, list(trials.image_ids)), on)
    with pytest.raises(HvfError, match="no features of text:mini-vit"):
        alignment.fit(TrainingSet(trials, {SPEC: y_ND}, list(trials.image_ids)), on)


def test_images_of_one_caption_are_not_contrasted(monkeypatch):
    trials, y_ND = material()
    same: list[torch.Tensor] = []
    plain = training.info_nce

    def watched(z_b, z_f, scale, image_N=None, *how):
        if image_N is not None:
            same.append(image_N)
        return plain(z_b, z_f, scale, image_N, *how)

    monkeypatch.setattr(training, "info_nce", watched)
    on = settings(targets__text=TEXT, align__text_weight=0.5, align__epochs=1, align__batch_size=200)
    alignment.fit(TrainingSet(trials, {SPEC: y_ND, TEXT: np.repeat(y_ND[::4], 4, axis=0)}, list(trials.image_ids)), on)
    assert sorted(torch.unique(torch.cat(same), return_counts=True)[1].tolist())[-1] <= 4
    assert len(torch.unique(torch.cat(same))) <= N // 4
