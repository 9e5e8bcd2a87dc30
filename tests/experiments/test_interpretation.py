"""Occlusion, retraining and variance partitioning: in worked examples, and where the simulator knows the truth."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from hvf import alignment, presets
from hvf.alignment.training_set import TrainingSet
from hvf.config import DataConfig, HvfError, with_settings
from hvf.data.sensor_positions import flat, positions_of
from hvf.data.trials.trials import Trials
from hvf.experiments import occlusion, variance
from hvf.experiments.interpretation import by_category, joint_map
from hvf.experiments.occlusion import Occlusion, neighbours
from hvf.experiments.protocols import Split
from hvf.experiments.variance import band, explained, identified, partition
from hvf.simulation.brain import simulated_brain
from hvf.simulation.features import concept_drive, low_level
from hvf.simulation.head import sensor_info
from hvf.simulation.study import simulate_trials, simulated_stimuli

WINDOW = 0.05
FINE = "mrr"


# --- worked examples --------------------------------------------------------------------------------------------------


def test_scores_of_ranks():
    found = occlusion.scores(np.array([1, 2, 5]), 5)
    assert found["top1"].tolist() == [1, 0, 0]
    assert found["mrr"].tolist() == [1, 0.5, 0.2]
    assert found["percentile"].tolist() == [1, 0.75, 0]
    with pytest.raises(HvfError, match="two images or more"):
        occlusion.scores(np.array([1]), 1)


def test_losses_are_paired_and_the_threshold_is_of_all_parts_together():
    ids = tuple(str(i) for i in range(50))
    rng = np.random.default_rng(0)
    intact_N = rng.integers(1, 6, 50)
    nothing_ON = np.array([rng.permutation(intact_N) for _ in range(30)])
    everything_N = np.full(50, 50)
    out = Occlusion(ids, intact_N, np.vstack([nothing_ON, everything_N]))
    lost = out.figures(FINE)
    assert lost[-1]["value"] == pytest.approx((1 / intact_N - 1 / 50).mean())
    assert lost[-1]["n"] == 50
    assert lost[0]["value"] == pytest.approx(0, abs=1e-12)  # the same ranks, at other images
    assert lost[0]["ci95"][0] < 0 < lost[0]["ci95"][1]
    marked = np.array([entry["value"] for entry in lost]) > out.threshold(FINE)
    assert marked.tolist() == [False] * 30 + [True]


def test_windows_side_by_side():
    trials = Trials(np.zeros((1, 1, 25), np.float32), ["a"], "s", 100.0, -0.1, ["c"], "eeg")
    windows = occlusion.windows_of(trials, 0.05)
    assert np.allclose(windows, [(-0.1, -0.05), (-0.05, 0), (0, 0.05), (0.05, 0.1), (0.1, 0.15)])
    masks = np.array(occlusion.window_masks(windows, trials))
    assert (masks.sum(axis=0) == 1).all()  # each sample in one
    assert [trials.crop(*window).shape[2] for window in windows] == [5] * 5
    one = Trials(np.zeros((1, 1, 1), np.float32), ["a"], "s", 1.0, 0.0, ["c"], "features")
    assert occlusion.windows_of(one, 0.05) == []
    for width in (0.004, 0.2):
        with pytest.raises(HvfError, match="do not part 250 ms"):
            occlusion.windows_of(trials, width)


def test_neighbours_and_their_masks():
    groups = neighbours(np.array([[0, 0], [0.02, 0], [0.1, 0]]), 0.03)
    assert [group.tolist() for group in groups] == [[0, 1], [0, 1], [2]]
    trials = Trials(np.zeros((1, 3, 20), np.float32), ["a"], "s", 100.0, 0.0, list("abc"), "eeg")
    mask_CT = occlusion.sensor_masks(groups, trials, (0.05, 0.1))[0]
    assert np.argwhere(mask_CT).tolist() == [[c, t] for c in (0, 1) for t in range(5, 10)]


def test_explained_variance_is_parted_as_it_was_put_together():
    rng = np.random.default_rng(0)
    a_ND, b_ND, common_ND = (rng.normal(size=(1100, 6)).astype(np.float32) for _ in range(3))
    mixing = [rng.normal(size=(6, 20)) * strength for strength in (1.0, 2.0, 3.0**0.5)]
    signal = sum(x @ w for x, w in zip((a_ND, b_ND, common_ND), mixing, strict=True))
    y = (signal + rng.normal(size=(1100, 20)) * 48**0.5)[..., None].astype(np.float32)
    own_a, own_b, shared = (float(np.square(w).sum() / 20) for w in mixing)
    total = own_a + own_b + shared + 48
    fit, test = slice(0, 700), slice(700, None)
    bands = {name: band([own[fit], common_ND[fit]], [own[test], common_ND[test]])
             for name, own in (("a", a_ND), ("b", b_ND))}  # fmt: skip
    r2, predicted = partition(bands, y[fit], y[test], [str(i) for i in range(700)])
    found = {name: r2_NT.mean() for name, r2_NT in r2.items()}
    assert found["only a"] == pytest.approx(own_a / total, abs=0.04)
    assert found["only b"] == pytest.approx(own_b / total, abs=0.04)
    assert found["shared"] == pytest.approx(shared / total, abs=0.04)
    assert found["only a"] + found["shared"] + found["only b"] == pytest.approx(found["both"])
    (entry,) = variance.r2_intervals(r2["both"], variance.variance(y[fit], y[test]))
    assert entry["value"] == pytest.approx(found["both"], rel=1e-5)
    assert found["both"] - 0.1 < entry["ci95"][0] < found["both"] < entry["ci95"][1] < found["both"] + 0.1
    assert (identified(y[test][..., 0], predicted["both"][..., 0]) == 1).mean() > 0.3
    noise_MPT = rng.normal(size=(700, 20, 1)).astype(np.float32)
    nothing_NT, _ = explained([bands["a"][0]], [bands["a"][1]], noise_MPT, y[test], [str(i) for i in range(700)])
    assert nothing_NT.mean() < 0.01


def test_orientation_energy_tells_edges_and_places():
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    waves = [np.where(x < 32, 128 + 100 * np.cos(2 * np.pi * (along / 8)), 128) for along in (x, y)]
    energy = variance.orientation_energy(np.stack(waves)[..., None].repeat(3, axis=3).astype(np.uint8))
    energy = energy.reshape(2, 3, 4, 4, 4)  # image, frequency, orientation, patch
    for image, orientation in ((0, 0), (1, 2)):  # cosines along x, along y
        assert np.unravel_index(energy[image].sum(axis=(2, 3)).argmax(), (3, 4)) == (1, orientation)
    assert energy[..., 0].sum() > 5 * energy[..., 3].sum()


def test_categories_best_first_with_their_chance():
    found = by_category(np.array([1, 2, 1, 3]), np.array([0, 0, 2, 1]), ["cat", "cat", "dog", "dog"])
    assert list(found) == ["cat", "dog"]
    assert found["cat"]["category"]["value"] == 1
    assert found["dog"]["category"]["value"] == found["cat"]["top1"]["value"] == 0.5
    assert found["dog"]["chance"] == 0.5


@pytest.mark.slow(part=6)  # UMAP is compiled when it is first used
def test_the_map_brings_pairs_together_across_the_gap():
    rng = np.random.default_rng(0)
    z_f_ND = rng.normal(size=(30, 16))
    z_b_ND = z_f_ND + 0.1 * rng.normal(size=(30, 16)) + 10  # on a cone of its own
    brain_N2, image_N2 = joint_map(z_b_ND, z_f_ND)
    apart_NN = np.linalg.norm(brain_N2[:, None] - image_N2[None], axis=-1)
    assert (apart_NN.argmin(axis=1) == np.arange(30)).mean() > 0.9
    assert np.array_equal(joint_map(z_b_ND, z_f_ND)[0], brain_N2)


def test_what_a_map_needs(monkeypatch):
    z_ND = np.random.default_rng(0).normal(size=(4, 8))
    with pytest.raises(HvfError, match="four images"):
        joint_map(z_ND[:3], z_ND[:3])
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(HvfError, match=r"pip install 'hvf\[interpret\]'"):
        joint_map(z_ND, z_ND)


def test_places_of_sensors():
    whole = positions_of(["Oz", "O1", "Pz", "T7", "Fp1"])
    part = positions_of(["Oz", "O1"])
    assert whole is not None
    assert part is not None
    assert np.allclose(whole[:2], part)  # a part of a cap stays at the back of the head
    assert part[:, 1].max() < -0.07
    assert whole[3, 0] < -0.08
    assert positions_of(["MLO11", "MRT21-1609"]) is not None
    assert positions_of(["Oz", "nowhere"]) is None
    assert np.allclose(
        flat(np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]]), np.zeros(3)), [[0, 0], [0.095, 0], [0, -0.095]]
    )


# --- the simulated world ----------------------------------------------------------------------------------------------

LINEAR = {"brain.encoder": "ridge", "fusion.kind": "concatenated", "align.validation_fraction": 0.2}
SMALL = DataConfig(
    train_concepts=240, images_per_concept=1, test_concepts=60, train_repeats=10, test_repeats=20, tmin=-0.1, tmax=0.5
)  # fmt: skip


class World:
    """A subject, and the simulator's own drivers in the place of encoders: what its sources say is known."""

    def __init__(self, data: DataConfig, subject: int) -> None:
        images = simulated_stimuli(data)
        self.concepts = images[0].concepts
        self.train, self.test = (simulate_trials(data, part, subject, split, averaged=True)
                                 for part, split in zip(images, ("train", "test"), strict=True))  # fmt: skip
        self.low, self.late = ([drive(part) for part in images] for drive in (low_level, concept_drive))
        info = sensor_info(self.train.kind, 100.0)
        self.positions = flat(np.array([channel["loc"][:3] for channel in info["chs"]]))
        self.brain = simulated_brain(data.study, subject, data.sfreq, data.tmin, self.train.shape[2])
        self.windows = occlusion.windows_of(self.test, WINDOW)
        self.groups = neighbours(self.positions, 0.03)

    def occluded(self, drive, masks, train=None, test=None) -> Occlusion:
        train, test = train or self.train, test or self.test
        config = with_settings(presets.mini(), LINEAR | {"targets.specs": ("x:x",)})
        fitted = alignment.fit(TrainingSet(train, {"x:x": drive[0]}, self.concepts), config)
        return occlusion.occlude(fitted, test, {"x:x": drive[1]}, occlusion.mean_response(train), masks)

    def window(self, out: Occlusion) -> tuple[float, float]:
        return self.windows[int(out.lost(FINE).mean(axis=1).argmax())]


@pytest.fixture(scope="module")
def world() -> World:
    return World(SMALL, 8)


def marked(out: Occlusion) -> np.ndarray:
    return out.lost(FINE).mean(axis=1) > out.threshold(FINE)


@pytest.mark.slow(part=7)
def test_occlusion_finds_when_the_sources_speak(world):
    masks = occlusion.window_masks(world.windows, world.test)
    low, late = (world.occluded(drive, masks) for drive in (world.low, world.late))
    assert 0.05 <= world.window(low)[0] <= 0.15  # low-level features have their bells at 85 to 160 ms
    assert 0.15 <= world.window(late)[0] <= 0.35  # concepts at 170 to 290, and again 75 ms later
    for out in (low, late):
        assert (out.intact_N == 1).mean() > 0.2
        assert marked(out)[world.windows.index(world.window(out))]
        assert not marked(out)[:2].any()  # nothing is known before the image is there
        assert all(entry["ci95"][0] < 0.02 for entry in out.figures(FINE)[:2])


@pytest.mark.slow(part=7)
def test_occlusion_finds_where_the_sources_lie(world):
    masks = occlusion.sensor_masks(world.groups, world.test)
    low, late = (world.occluded(drive, masks).lost(FINE).mean(axis=1) for drive in (world.low, world.late))
    y_C = world.positions[:, 1]
    assert (y_C[np.argsort(-low)[:10]] < 0).all()  # the strongest are behind the ears
    truth_C = np.sqrt(np.square(world.brain.early_FCT).sum(axis=(0, 2)))
    assert np.corrcoef(truth_C, low)[0, 1] > 0.5
    assert np.average(y_C, weights=np.maximum(late, 0)) > np.average(y_C, weights=np.maximum(low, 0))


def test_controls_show_nothing(world):
    rng = np.random.default_rng(0)
    noisy = [Trials(np.concatenate([x := t.load_array(), rng.normal(size=(len(t), 1, t.shape[2])) * x.std()], axis=1),
                    t.image_ids, t.subject, t.sfreq, t.tmin, (*t.ch_names, "noise"), t.kind)
             for t in (world.train, world.test)]  # fmt: skip
    groups = [*world.groups, [len(world.groups)]]
    masks = occlusion.sensor_masks(groups, noisy[1])
    out = world.occluded(world.low, masks, *noisy)
    assert marked(out)[:-1].any()
    assert not marked(out)[-1]  # a channel that tells nothing
    permuted = world.test.select(rng.permutation(len(world.test)))
    masks = [
        *occlusion.sensor_masks(world.groups, permuted),
        *occlusion.window_masks(world.windows, permuted),
    ]
    assert not marked(world.occluded(world.low, masks, test=permuted)).any()


def test_variance_partitioning_tells_early_from_late(world):
    y_MPT, y_NPT = world.train.load_array(), world.test.load_array()
    r2, _ = partition({"low": band([world.low[0]], [world.low[1]]), "late": band([world.late[0]], [world.late[1]])},
                      y_MPT * 1e6, y_NPT * 1e6, world.concepts)  # fmt: skip
    course = {name: r2_NT.mean(axis=0) for name, r2_NT in r2.items()}
    times = world.test.times
    assert 0.07 <= times[course["only low"].argmax()] <= 0.17
    assert 0.15 <= times[course["only late"].argmax()] <= 0.4
    assert course["both"][times < 0].max() < 0.05 < course["both"].max()


def test_retraining_finds_the_window_and_tests_once(world):
    n = len(world.train)
    split = Split(world.train, {"x:x": world.low[0]}, world.concepts, np.arange(n))
    config = with_settings(presets.mini(), LINEAR)
    early, before = (occlusion.retrain(split, world.test, {"x:x": world.low[1]}, config, window)
                     for window in ((0.1, 0.15), (-0.1, -0.05)))  # fmt: skip
    assert early.hits(1).mean() > 0.15 > before.hits(1).mean()
    assert np.shape(early.top5) == (60, 5)
    first_N = np.array(early.top5)[:, 0] == np.arange(60)
    assert first_N.mean() == early.hits(1).mean()
    assert early.validation["n"] == 48  # a fifth of the training concepts


@pytest.mark.slow(part=6)
def test_the_helmet_too():
    data = replace(SMALL, study="simulated-meg", subject=2)
    world = World(data, 2)
    windows = world.occluded(world.low, occlusion.window_masks(world.windows, world.test))
    assert 0.05 <= world.window(windows)[0] <= 0.15
    lost_C = world.occluded(world.low, occlusion.sensor_masks(world.groups, world.test)).lost(FINE).mean(axis=1)
    assert np.average(world.positions[:, 1], weights=np.maximum(lost_C, 0)) < world.positions[:, 1].mean()
