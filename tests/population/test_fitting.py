"""DINA: towers meet at a map, the map says where and how coarse, test trials stay out of every choice."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hvf import alignment, presets, report
from hvf.alignment.training_set import TrainingSet
from hvf.config import HvfError, with_settings
from hvf.data.trials.trials import Trials
from hvf.experiments.protocols import HeldOut, Split, choose
from hvf.experiments.results import FILE, Result
from hvf.population import fitting as dina
from hvf.population.feature_maps import analyse_feature_maps, band_numbers
from hvf.population.frozen_maps import FrozenMaps, Maps, map_shape
from hvf.population.towers import Dina, ImageTower, ResponseTower
from tests.script_module import load_script

POPULATION = Path(__file__).resolve().parents[2] / "brain_training" / "population.py"
N, M, NEURONS, SIDE, WIDE = 240, 60, 24, 4, 3
SPEC = f"torchvision:any/thing@1:grid{SIDE}"
MAPS = Maps(side=SIDE, channels=8, components=8, categories=4, semantic="sem:sem")


def material(seed: int, n: int) -> tuple[Trials, dict[str, np.ndarray]]:
    """Neurons that report the left half of a map, coarsely, and the last of which say nothing."""
    rng = np.random.default_rng(seed)
    f_NPSS = rng.normal(size=(n, WIDE, SIDE, SIDE)).astype(np.float32)
    half = f_NPSS[..., : SIDE // 2]
    coarse_ND = half.reshape(n, WIDE, 2, SIDE // 2, SIDE // 2).mean(3).reshape(n, -1)  # pairs of rows pooled
    mixing = np.random.default_rng(99).normal(size=(coarse_ND.shape[1], NEURONS))
    mixing[:, -6:] = 0
    x_NC = coarse_ND @ mixing + 0.2 * rng.normal(size=(n, NEURONS))
    names = [f"n{i}" for i in range(NEURONS)]
    trials = Trials(
        x_NC[..., None].astype(np.float32), [f"{seed}-{i}" for i in range(n)], "s", 1.0, 0.0, names, "features"
    )
    return trials, {SPEC: f_NPSS.reshape(n, -1), "sem:sem": f_NPSS.mean((2, 3))}


@pytest.fixture(scope="module")
def parts() -> tuple[Split, HeldOut]:
    trials, features = material(0, N)
    return Split(trials, features, tuple(trials.image_ids.tolist()), np.arange(N)), HeldOut(*material(1, M))


def config(**settings):
    base = {
        "brain.width": 32, "fusion.width": 32, "brain.intermediate": 16, "fusion.intermediate": 16,
        "align.epochs": 40, "align.batch_size": 64, "align.learning_rate": 3e-3, "align.validation_fraction": 0.2,
        "targets.specs": (SPEC,), "brain.input_noise": 0.1, "brain.dropout": 0.0,
    }  # fmt: skip
    return with_settings(presets.mini(), base | {k.replace("__", "."): v for k, v in settings.items()})


def fitting(**losses):
    return functools.partial(dina.fit, maps=MAPS, losses=dina.Losses(**losses))


@pytest.fixture(scope="module")
def chosen(parts):
    return choose(parts[0], config(), fit=fitting())


def test_towers_meet_at_one_shape():
    response, image = ResponseTower(7, 5, 3, width=8), ImageTower({"a": 2, "b": 4}, 5)
    maps = {"a": torch.randn(6, 2, 3, 3), "b": torch.randn(6, 4, 3, 3)}
    assert response(torch.randn(6, 7)).shape == image(maps).shape == (6, 5, 3, 3)
    with pytest.raises(HvfError, match="7 neurons, not"):
        response(torch.randn(6, 8))
    with pytest.raises(HvfError, match="no frozen map of b"):
        image({"a": maps["a"]})


@pytest.mark.parametrize(
    ("spec", "width", "shape"),
    [
        ("torchvision:squeezenet1_0/f.npz@9:grid6", 384 * 36, (384, 6, 6)),
        ("vae:taesdxl@112", 4 * 14 * 14, (4, 14, 14)),
        ("vae:taesdxl@112:grid7", 4 * 49, (4, 7, 7)),
        ("torchvision:squeezenet1_0/f.npz@9:mean", 384, None),
        ("torchvision:squeezenet1_0/f.npz@9:flat", 384 * 36, None),
    ],
)
def test_places_are_told_by_the_spec(spec, width, shape):
    if shape:
        assert map_shape(spec, width) == shape
    else:
        with pytest.raises(HvfError, match="name a grid"):
            map_shape(spec, width)


def test_frozen_maps_are_centred_scaled_and_keep_their_places():
    _, features = material(0, N)
    frozen = FrozenMaps(features, [SPEC], np.arange(100), MAPS, "cpu")
    f_MPSS = frozen(features)[SPEC]
    assert f_MPSS.shape == (N, WIDE, SIDE, SIDE)
    torch.testing.assert_close(f_MPSS[:100].mean(0), torch.zeros(WIDE, SIDE, SIDE), atol=1e-5, rtol=0)
    assert f_MPSS[:100].square().mean() == pytest.approx(1, abs=1e-4)
    # all components kept: a rotation at each place, so that distances there are what they were
    raw = torch.from_numpy(features[SPEC]).unflatten(1, (WIDE, SIDE, SIDE))
    ratio = (f_MPSS[0] - f_MPSS[1]).norm(dim=0) / (raw[0] - raw[1]).norm(dim=0)
    torch.testing.assert_close(ratio, ratio[0, 0].expand(SIDE, SIDE), atol=1e-4, rtol=1e-4)
    with pytest.raises(HvfError, match="the shared map 5 x 5"):
        FrozenMaps(features, [SPEC], np.arange(9), Maps(side=5), "cpu")


def test_local_contrast_is_the_mean_of_every_places_contrast():
    r, i = torch.randn(5, 4, 2, 2), torch.randn(5, 4, 2, 2)
    each = [alignment.info_nce(r[:, :, a, b], i[:, :, a, b], 1.3) for a in range(2) for b in range(2)]
    torch.testing.assert_close(dina.local_info_nce(r, i, torch.tensor(1.3)), torch.stack(each).mean())
    same = torch.tensor([0, 0, 1, 2, 3])
    each = [alignment.info_nce(r[:, :, a, b], i[:, :, a, b], 1.3, same) for a in range(2) for b in range(2)]
    torch.testing.assert_close(dina.local_info_nce(r, i, torch.tensor(1.3), same), torch.stack(each).mean())


def test_bands_part_a_map_whole():
    assert band_numbers(3).tolist() == [[0, 1, 2], [1, 1, 2], [2, 2, 2]]


def test_it_finds_the_images_and_the_map_says_where_and_how_coarse(parts, chosen):
    ranks_N = np.array(parts[1].row(chosen).ranks)
    assert (ranks_N <= 5).mean() > 0.5
    found = parts[1].analyse_feature_maps(chosen)
    np.testing.assert_array_equal(found.low_BN[-1], ranks_N)  # all bands: the whole map
    np.testing.assert_array_equal(found.high_BN[0], ranks_N)
    np.testing.assert_array_equal(found.kept[NEURONS], ranks_N)
    left, right = found.explained_KSS[0][:, :2].mean(), found.explained_KSS[0][:, 2:].mean()
    assert left > 0.15 > 0.05 > right  # the neurons know of the left half alone
    assert found.place_mrr_SS[:, :2].mean() > 1.5 * found.place_mrr_SS[:, 2:].mean()
    assert found.explained_KB[0, 0] > found.explained_KB[0, -1]
    assert found.explained_N.mean() == pytest.approx(found.explained_KSS.mean(), rel=1e-4)
    assert found.variance_KB.sum() == pytest.approx(1)
    assert found.neuron_drop_C[:-6].min() > found.neuron_drop_C[-6:].max()  # the last six are noise
    np.testing.assert_allclose(found.neuron_drop_CSS.sum((1, 2)), found.neuron_drop_C, atol=1e-6)
    assert set(chosen.alignment.order[-4:]) <= set(range(NEURONS - 6, NEURONS)) | set(chosen.alignment.order[-4:-2])
    np.testing.assert_allclose(found.pair_PP, found.pair_PP.T)


@pytest.mark.slow(part=7)
def test_permuted_trials_find_nothing(parts):
    choice = choose(parts[0].permuted(0), config(), fit=fitting())
    assert parts[1].row(choice).hits(1).mean() <= 0.1
    found = parts[1].analyse_feature_maps(choice)
    assert found.explained_KSS.mean() < 0.02


@pytest.mark.parametrize("alone", ["contrast", "local", "reconstruction", "category"])
def test_every_loss_learns_alone(parts, alone):
    none = dict.fromkeys(("contrast", "local", "reconstruction", "category"), 0.0)
    history = choose(parts[0], config(align__epochs=12), fit=fitting(**none | {alone: 1.0})).alignment.history
    assert history[-1]["loss"] < history[0]["loss"]


def test_the_same_seed_gives_the_same_numbers_and_repeats_share_an_image(parts):
    split, _ = parts
    rows = np.repeat(np.arange(N // 2), 2)
    twice = Split(split.trials.select(rows), split.features, split.concepts, rows)
    made = [choose(twice, config(align__epochs=2), fit=fitting()) for _ in range(2)]
    assert made[0].alignment.history == made[1].alignment.history
    assert made[0].validation["n"] % 2 == 0


def test_what_cannot_work_is_refused(parts, chosen):
    split, held_out = parts
    with pytest.raises(HvfError, match="by a Choice"):
        held_out.analyse_feature_maps(chosen.alignment)
    with pytest.raises(HvfError, match="feature maps are analysed, and Alignment has none"):
        held_out.analyse_feature_maps(choose(split, config(align__epochs=1)))
    with pytest.raises(HvfError, match="made on a Split, not on HeldOut"):
        choose(held_out, config(), fit=fitting())
    with pytest.raises(HvfError, match="every loss has weight 0"):
        choose(split, config(), fit=fitting(contrast=0.0, local=0.0, reconstruction=0.0))
    with pytest.raises(HvfError, match="leave targets.views and targets.text out"):
        choose(split, config(targets__views=("blur9",)), fit=fitting())
    with pytest.raises(HvfError, match="needs semantic features"):
        choose(split, config(), fit=functools.partial(dina.fit, maps=Maps(SIDE), losses=dina.Losses(category=1.0)))
    long = Trials(
        np.repeat(split.trials.load_array(), 2, axis=2),
        split.trials.image_ids,
        "s",
        1.0,
        0.0,
        split.trials.ch_names,
        "features",
    )
    with pytest.raises(HvfError, match="one number per neuron"):
        dina.fit(TrainingSet(long, split.features, split.concepts), config())


def test_silencing_is_measured_place_by_place():
    torch.manual_seed(0)
    model = Dina(3, {"a": 2}, 4, 2, 2, width=8, intermediate=4).eval()
    x_NC, maps = torch.randn(6, 3), {"a": torch.randn(6, 2, 2, 2)}
    cosine = torch.nn.functional.cosine_similarity
    with torch.no_grad():
        image = model.image(maps).flatten(1)
        whole = cosine(model.response(x_NC).flatten(1), image).mean()
        silent = x_NC.clone()
        silent[:, 1] = 0
        drop = whole - cosine(model.response(silent).flatten(1), image).mean()
    assert analyse_feature_maps(model, x_NC, maps, ()).neuron_drop_C[1] == pytest.approx(float(drop), abs=1e-6)


@pytest.mark.slow(part=5)
def test_the_script_from_files_to_pictures(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rng = np.random.default_rng(0)
    colours = rng.integers(256, size=(70, 2, 2, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    for i, colour in enumerate(colours):
        Image.fromarray(colour).resize((32, 32), Image.Resampling.BICUBIC).save(
            tmp_path / "images" / f"image{i:03d}.png"
        )
    np.save(tmp_path / "x.npy", (colours.reshape(70, 12) @ rng.normal(size=(12, 30)) / 128).astype(np.float32))
    out = tmp_path / "out"
    arguments = ["--trials", tmp_path / "x.npy", "--images", tmp_path / "images", "--layers", "0", "1", "--splits", "1"]
    arguments += ["--brain.width", "24", "--fusion.width", "24", "--align.epochs", "3", "--data.test-images", "20"]
    arguments += ["--maps.channels", "8", "--maps.components", "8", "--maps.categories", "3"]
    arguments += ["--align.batch-size", "32"]
    call = load_script(POPULATION).main
    assert call([str(a) for a in [*arguments, "--out", out]]) == 0
    assert "without contrast" in capsys.readouterr().out
    rows = Result.read(out).rows
    assert {"DINA", "without local", "reconstruction alone", "categories alone", "ridge"} <= set(rows)
    assert rows["DINA, permuted"].figures["top1"]["value"] <= 0.2
    assert set(json.loads((out / "population.json").read_text())["scales"]) == set(rows) - {"HVF, contrastive", "ridge"}
    for name in ("population", "places", "scales", "neurons"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    before = [(out / name).read_bytes() for name in (FILE, "population.json")]
    kept = (out / "split-0" / FILE).stat().st_mtime_ns
    assert call([str(a) for a in [*arguments, "--out", out]]) == 0  # taken up, not made again
    assert [(out / name).read_bytes() for name in (FILE, "population.json")] == before
    assert (out / "split-0" / FILE).stat().st_mtime_ns == kept
    assert report.write_report([out], tmp_path / "report.html").is_file()
    for option, value, difference in (("--losses.local", 0, "1.0, not 0.0"), ("--vector-grid", 1, "2, not 1")):
        assert call([str(a) for a in [*arguments, option, value, "--out", out]]) == 2
        assert f"split-0 with {option} {difference}: choose another --out" in capsys.readouterr().err
    assert call(["--images", str(tmp_path)]) == 2
    assert "give --trials FILE" in capsys.readouterr().err
    assert call([str(a) for a in [*arguments, "--targets.views", "blur9", "--out", tmp_path / "viewed"]]) == 2
    assert "leave targets.views and targets.text out" in capsys.readouterr().err
    assert not (tmp_path / "viewed").exists()
