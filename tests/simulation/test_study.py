"""The embedded world: fixed by its seed, decodable as life is, and by nothing when the pairing is broken."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from safetensors.numpy import save_file

from hvf.config import SUBJECTS, TEST_REPEATS, DataConfig, HvfError
from hvf.data.images.image_set import ImageSet
from hvf.data.trials.trials import Trials
from hvf.files.tensors import read_tensors, write_tensors
from hvf.simulation import brain as brains
from hvf.simulation import features, rendering
from hvf.simulation import stimuli as pictures
from hvf.simulation import study as simulated
from hvf.simulation.brain import simulated_brain
from hvf.simulation.features import concept_drive, feature_layout, low_level
from hvf.simulation.head import sensor_info
from hvf.simulation.study import repeats_of, simulate_trials

SMALL = DataConfig(train_concepts=160, images_per_concept=1, test_concepts=40, train_repeats=8, test_repeats=8)
TIMES = np.arange(80) / 100


@cache
def stimuli() -> tuple[ImageSet, ImageSet]:
    return simulated.simulated_stimuli(SMALL)


@cache
def averaged(subject: int) -> tuple[Trials, Trials]:
    train, test = stimuli()
    return tuple(simulate_trials(SMALL, images, subject, split, averaged=True)
                 for images, split in ((train, "train"), (test, "test")))  # fmt: skip


def brain_of(subject: int, study: str = "simulated-eeg"):
    return simulated_brain(study, subject, 100.0, 0.0, 80)


def decode(train: list[Trials], y_train: list[np.ndarray], test: Trials, y_test: np.ndarray) -> float:
    """Mean correlation, over features, of a ridge's prediction with the truth."""

    def standardised(trials: Trials) -> np.ndarray:
        x = trials.load_array()
        return ((x - x.mean((0, 2), keepdims=True)) / x.std((0, 2), keepdims=True)).reshape(len(x), -1)

    x, y = np.concatenate([standardised(t) for t in train]), np.concatenate(y_train)
    x_test = standardised(test) - x.mean(0)
    x = x - x.mean(0)
    kernel = x @ x.T
    weight = np.linalg.solve(kernel + 0.1 * np.trace(kernel) / len(x) * np.eye(len(x)), y - y.mean(0))
    found, truth = x_test @ x.T @ weight, y_test - y_test.mean(0)
    found = found - found.mean(0)
    return float(np.mean((found * truth).sum(0) / np.sqrt((found**2).sum(0) * (truth**2).sum(0))))


def test_test_concepts_are_unseen_and_training_is_a_prefix_of_the_full_study():
    train, test = stimuli()
    everything = rendering.concepts()
    assert list(test.concepts) == [c.name for c in everything[:40]]
    assert list(train.concepts) == [c.name for c in everything[200:360]]
    assert len(set(test.concepts)) == 40
    assert len(everything) >= 200 + 1654
    more = simulated.simulated_stimuli(replace(SMALL, train_concepts=4, images_per_concept=3, test_concepts=2))[0]
    assert len(more) == 12
    assert len(set(more.content_hashes())) == 12
    np.testing.assert_array_equal(more.array([0, 3]), train.array([0, 1]))
    assert len(train.captions) == 160


@pytest.mark.parametrize("study", ["simulated-eeg", "simulated-meg"])
def test_a_brain_from_the_cache_answers_to_the_bit_as_the_one_that_was_built(study, tmp_path, monkeypatch):
    images, data = stimuli()[1].select(range(3)), replace(SMALL, study=study, subject=2)

    def answers() -> np.ndarray:
        simulated._built_once.cache_clear()
        return simulate_trials(data, images, 2, "test").load_array()

    monkeypatch.setattr(simulated, "cache_dir", lambda: tmp_path)
    built = answers()
    (file,) = (tmp_path / "brains").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(simulated, "simulated_brain", None)  # not built again
        np.testing.assert_array_equal(answers(), built)
    kept = file.read_bytes()
    for damaged in (kept[:-8], kept[:-1] + bytes([kept[-1] ^ 1]), b""):
        file.write_bytes(damaged)
        np.testing.assert_array_equal(answers(), built)
        assert file.read_bytes() == kept
    simulated._built_once.cache_clear()


def test_pictures_from_the_cache_are_those_that_were_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "cache_dir", lambda: tmp_path)
    drawn = pictures.rendered(rendering.concepts()[:3], 2)
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "draw", None)  # not drawn again
        kept = pictures.rendered(rendering.concepts()[:3], 2)
    assert kept.captions == drawn.captions
    alone = np.stack([rendering.render(c, i).image for c in rendering.concepts()[:3] for i in range(2)])
    for images in (drawn, kept):
        np.testing.assert_array_equal(images.array(), alone)


def _words_as_text(path, tensors, captions):
    """As version 0.1 wrote it: each value of the metadata a text, without a checksum."""
    save_file(tensors, str(path), {"captions": json.dumps(captions)})


def _one_short(path, tensors, captions):
    write_tensors(path, tensors, {"captions": captions[:-1]})


def _numbers_as_captions(path, tensors, captions):
    write_tensors(path, tensors, {"captions": [1] * len(captions)})


def _pictures_of_another_size(path, tensors, captions):
    write_tensors(path, {"x_NHWC": np.ascontiguousarray(tensors["x_NHWC"][:, :32])}, {"captions": captions})


@pytest.mark.parametrize("write", [_words_as_text, _one_short, _numbers_as_captions, _pictures_of_another_size])
def test_pictures_of_another_version_in_the_cache_are_drawn_again(tmp_path, monkeypatch, write):
    monkeypatch.setattr(pictures, "cache_dir", lambda: tmp_path)
    drawn = pictures.rendered(rendering.concepts()[:3], 2)
    (kept,) = tmp_path.rglob("*.safetensors")
    write(kept, {"x_NHWC": drawn.array()}, list(drawn.captions))
    again = pictures.rendered(rendering.concepts()[:3], 2)
    assert again.captions == drawn.captions
    np.testing.assert_array_equal(again.array(), drawn.array())
    assert read_tensors(kept)[1]["captions"] == list(drawn.captions)  # mended for the next time


def test_low_level_features_see_what_they_should():
    layout = feature_layout()
    x = np.zeros((5, 64, 64, 3), np.uint8)
    x[1, :8, 56:] = 255  # white, upper right
    x[2, :, :, 0] = 200  # red
    x[3] = (np.sin(2 * np.pi * 0.2 * np.arange(64)) * 100 + 120)[None, :, None]  # upright bars
    x[4] = x[3].swapaxes(0, 1)  # lying bars
    features = low_level(ImageSet.from_arrays(x, "abcde", "abcde"))
    assert features.shape == (5, len(layout)) == (5, 224)
    assert features.dtype == np.float32
    brighter = np.flatnonzero(features[1] - features[0] > 1)
    assert [layout[i][1:] for i in brighter if layout[i][0] == "luminance"] == [(0.875, 0.875)]
    for name, higher in (("red-green", 1), ("blue-yellow", -1)):
        of_kind = [i for i, f in enumerate(layout) if f[0] == name]
        assert ((features[2] - features[0])[of_kind] * higher > 0.5).all()
    fine = [i for i, f in enumerate(layout) if f[0] == "gabor-fine"]
    upright, lying = features[3][fine].reshape(4, 16).mean(1), features[4][fine].reshape(4, 16).mean(1)
    assert (np.argmax(upright), np.argmax(lying)) == (0, 2)
    assert upright[0] > 5 * abs(upright[2])


def test_concepts_of_one_category_are_alike():
    kinds = {c.kind: c for c in rendering.concepts()}
    names = sorted(kinds)
    vectors = np.stack([features._concept_vector(kinds[k])[:20] for k in names])
    alike = np.corrcoef(vectors)
    same = np.array([[kinds[a].category == kinds[b].category for b in names] for a in names])
    assert alike[same & ~np.eye(len(names), dtype=bool)].mean() > 0.2
    assert abs(alike[~same].mean()) < 0.1
    with pytest.raises(HvfError, match="does not know the concept 'unicorn'"):
        concept_drive(ImageSet.from_arrays(np.zeros((1, 8, 8, 3), np.uint8), "a", ["unicorn"]))


@pytest.mark.slow(part=7)
@pytest.mark.parametrize("study", sorted(SUBJECTS))
def test_averaging_while_simulating_is_averaging_afterwards(study):
    data = replace(SMALL, study=study, subject=1, train_repeats=3)
    images = stimuli()[0].select(range(5))
    single = simulate_trials(data, images, 1, "train")
    assert single.load_array().shape == (15, len(single.ch_names), 80)
    assert single.load_array().dtype == np.float32
    mean = simulate_trials(data, images, 1, "train", averaged=True)
    np.testing.assert_array_equal(mean.load_array(), single.average().load_array())
    assert mean.image_ids.tolist() == list(images.ids)
    mean.check()


def test_trials_follow_from_subject_split_and_image_alone():
    data, images = replace(SMALL, train_repeats=2, test_repeats=2), stimuli()[0]
    together = simulate_trials(data, images.select(range(6)), 8, "train")
    alone = simulate_trials(data, images.select([4]), 8, "train")
    np.testing.assert_allclose(alone.load_array(), together.load_array()[8:10], rtol=1e-4, atol=1e-9)
    for subject, split in ((7, "train"), (8, "test")):
        assert not np.allclose(
            simulate_trials(data, images.select([4]), subject, split).load_array(), alone.load_array(), atol=1e-7
        )
    assert not np.allclose(alone.load_array()[0], alone.load_array()[1], atol=1e-7)  # repeats differ by their noise


@pytest.mark.parametrize(("study", "low", "high"), [("simulated-eeg", 4e-6, 1.3e-5), ("simulated-meg", 1.5e-13, 5e-13)])
def test_noise_has_a_brains_size_and_spectrum(study, low, high):
    brain = brain_of(1, study)
    x_RCT = brains.noisy_trials(brain, np.zeros(brain.evoked_CT.shape, np.float32), 60, "noise")
    assert low < x_RCT.std() < high
    power = (np.abs(np.fft.rfft(x_RCT * np.hanning(80), axis=2)) ** 2).mean((0, 1))
    hz = np.fft.rfftfreq(80, 0.01)
    at = {f: power[np.argmin(abs(hz - f))] for f in (2.5, 6.25, 10.0, 15.0, 30.0)}
    assert at[2.5] > 3 * at[15.0] > 3 * at[30.0]  # 1/f
    assert at[10.0] > 2 * at[6.25]
    assert at[10.0] > 3 * at[15.0]
    near = np.corrcoef(x_RCT[:, :2].swapaxes(0, 1).reshape(2, -1))  # neighbours hear the same brain
    assert np.abs(near[0, 1]) > 0.3


@pytest.mark.slow(part=7)
@pytest.mark.parametrize("study", sorted(SUBJECTS))
def test_early_is_low_level_and_posterior_late_is_concept(study):
    brain = brain_of(2, study)
    early_T, late_T = (np.square(m).sum((0, 1)) for m in (brain.early_FCT, brain.late_DCT))
    early_T, late_T = early_T / early_T.sum(), late_T / late_T.sum()
    assert 0.07 < TIMES[np.argmax(early_T)] < 0.15
    assert 0.16 < TIMES[np.argmax(late_T)] < 0.32
    assert early_T[TIMES >= 0.30].sum() < 1e-3
    assert late_T[TIMES <= 0.10].sum() < 1e-2
    y = np.array([ch["loc"][1] for ch in sensor_info(brains.sensors(study), 100.0)["chs"]])
    early_C, late_C = (np.square(m).sum((0, 2)) for m in (brain.early_FCT, brain.late_DCT))
    assert np.average(y, weights=early_C) < np.average(y, weights=late_C) - 0.01 < 0


def test_upper_and_lower_field_make_opposite_v1_fields_and_sides_cross():
    x, y = np.array([0.5, 0.5, -0.5]), np.array([0.5, -0.5, 0.5])
    position, moment = brains._retinotopy(0, x, y)
    assert (np.sign(position[:, 0]) == -np.sign(x)).all()
    assert moment[0, 2] > 0 > moment[1, 2]


@pytest.mark.slow(part=7)
def test_both_parts_are_decoded_and_permuted_trials_are_not():
    train, test = averaged(8)
    images, test_images = stimuli()
    for drive, window in ((low_level, (0.05, 0.25)), (concept_drive, (0.15, 0.45))):
        y, y_test = drive(images), drive(test_images)
        part, test_part = train.crop(*window), test.crop(*window)
        score = decode([part], [y], test_part, y_test)
        floor = [decode([part.permuted(s).aligned_to(images)], [y], test_part, y_test) for s in range(3)]
        assert 0.15 < score < 0.9
        assert abs(np.mean(floor)) < 0.07
        assert max(floor) < score / 2


@pytest.mark.slow(part=7)
def test_low_level_lives_early_and_concept_late():
    train, test = averaged(8)
    images, test_images = stimuli()

    def score(drive, tmin: float, tmax: float, seed: int | None = None) -> float:
        part = train.crop(tmin, tmax)
        part = part if seed is None else part.permuted(seed).aligned_to(images)
        return decode([part], [drive(images)], test.crop(tmin, tmax), drive(test_images))

    assert score(low_level, 0.05, 0.2) > 0.2 > score(low_level, 0.3, 0.8) + 0.05
    assert score(concept_drive, 0.2, 0.45) > 0.15 > score(concept_drive, 0.0, 0.12) + 0.03
    nothing_yet = 0.0, 0.04  # what is read before anything can have arrived is read from permuted trials, too
    assert score(low_level, *nothing_yet) < max(score(low_level, *nothing_yet, seed) for seed in range(5))


def test_averaging_helps():
    images, test_images = stimuli()
    once = replace(SMALL, train_repeats=1, test_repeats=1)
    train, test = (simulate_trials(once, s, 8, split) for s, split in ((images, "train"), (test_images, "test")))
    y, y_test = low_level(images), low_level(test_images)
    assert decode([train], [y], test, y_test) < decode([averaged(8)[0]], [y], averaged(8)[1], y_test) - 0.03


@pytest.mark.slow(part=7)
def test_another_subject_is_harder_than_ones_own():
    images, test_images = stimuli()
    for drive, window in ((low_level, (0.05, 0.25)), (concept_drive, (0.15, 0.45))):
        y, y_test = drive(images), drive(test_images)
        test = averaged(8)[1].crop(*window)
        own, *others = (averaged(subject)[0].crop(*window) for subject in (8, 1, 3, 6))
        within, across = decode([own], [y], test, y_test), decode(others, [y] * len(others), test, y_test)
        assert across < within - 0.02  # with three times as many trials


def test_subject_8_is_good_and_every_subject_has_an_ability():
    assert {study: len(brains.ABILITY[brains.sensors(study)]) for study in SUBJECTS} == SUBJECTS
    assert brains.ABILITY["eeg"][7] == max(brains.ABILITY["eeg"])


def test_unknown_subject_and_split():
    with pytest.raises(HvfError, match="subject 5 does not exist: simulated-meg has subjects 1 to 4"):
        simulate_trials(replace(SMALL, study="simulated-meg", subject=1), stimuli()[1], 5, "test")
    with pytest.raises(HvfError, match="train and test, not 'validation'"):
        simulate_trials(SMALL, stimuli()[1], 1, "validation")


def test_the_hard_study_is_the_same_people_heard_through_more_noise():
    easy, hard = brain_of(8), brain_of(8, "simulated-eeg-hard")
    np.testing.assert_array_equal(hard.late_DCT, easy.late_DCT)
    np.testing.assert_array_equal(hard.evoked_CT, easy.evoked_CT)
    for name in ("background_CJ", "alpha_CJ", "sensor_sd"):
        ratio = np.asarray(getattr(hard, name)) / np.asarray(getattr(easy, name))
        np.testing.assert_allclose(ratio, brains.NOISE_FACTOR["simulated-eeg-hard"], rtol=1e-5)
    assert brains.NOISE_FACTOR["simulated-eeg-hard"] > 1


def test_repeats_of_a_test_image_are_the_studys_own_unless_given():
    assert {study: repeats_of(DataConfig(study=study, subject=1), "test") for study in SUBJECTS} == TEST_REPEATS
    assert (TEST_REPEATS["simulated-eeg"], TEST_REPEATS["simulated-eeg-hard"]) == (20, 80)
    assert repeats_of(DataConfig(study="simulated-eeg-hard", test_repeats=20), "test") == 20
    assert DataConfig(test_repeats=20) == DataConfig()  # as runs of before named it
    assert DataConfig(test_repeats=80) != DataConfig()
    assert len(simulate_trials(DataConfig(study="simulated-eeg-hard"), stimuli()[1].select([3]), 8, "test")) == 80
