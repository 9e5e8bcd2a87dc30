"""Anybody's pictures to figures: pairing by name, order and rounds; mismatches refused; what is missing is said."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from hvf.cli import main
from hvf.config import HvfError
from hvf.evaluation import evaluator, networks, picture_metrics
from hvf.evaluation import pictures as evaluation
from hvf.evaluation.catalogue import picture_metrics as all_metrics
from hvf.evaluation.evaluator import Evaluator
from hvf.evaluation.metrics.alexnet import LAYERS
from hvf.evaluation.metrics.base import correlation_distance
from hvf.evaluation.pairing import pair
from hvf.evaluation.pictures import evaluate_pictures
from hvf.registry import NETWORKS

pytestmark = pytest.mark.usefixtures("no_cached_weights")
NAMES = ["aardvark_01b", "beaver_02s", "cat_1", "dog_10", "eagle_03n", "fox_2"]
PIXELS = ["pixcorr", "ssim"]


def _picture(seed: int, size=(40, 30)) -> Image.Image:
    """Coarse noise: enough structure to survive resizing."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def _folder(path: Path, names, first_seed=0, **settings) -> Path:
    for i, name in enumerate(names):
        file = path / (name if name.endswith((".png", ".jpg")) else f"{name}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        _picture(first_seed + i, **settings).save(file)
    return path


@pytest.fixture
def images(tmp_path):
    return _folder(tmp_path / "images", NAMES)


# --- pairing ----------------------------------------------------------------------------------------------------------


def test_pairs_by_name_whatever_the_order_ending_and_folder(tmp_path, images):
    nested = _folder(tmp_path / "nested", [f"{i:05d}_{n.split('_')[0]}/{n}.jpg" for i, n in enumerate(NAMES)])
    paired = pair(nested, images)
    assert [name.split("/")[-1] for name in paired.seen.ids] == list(paired.rounds[0].ids)
    assert paired.how == "name"
    assert len(paired.rounds) == 1


def test_pairs_from_a_zip(tmp_path, images):
    with zipfile.ZipFile(tmp_path / "recons.zip", "w") as archive:
        for path in images.iterdir():
            archive.write(path, f"anything/{path.name}")
    assert pair(images, tmp_path / "recons.zip").how == "name"


@pytest.mark.parametrize("pattern", ["round_{r}/{n}", "{r}/{n}", "seed-{r}/{n}", "{n}_{r}", "{n}-round{r}", "{n}_r{r}"])
def test_rounds_are_folders_or_suffixes(tmp_path, images, pattern):
    names = [pattern.format(n=n, r=r) for r in range(11) for n in NAMES]
    paired = pair(images, _folder(tmp_path / "recons", names))
    assert len(paired.rounds) == 11
    assert paired.how == "name"
    assert [int("".join(filter(str.isdigit, name))) for name in paired.names] == list(range(11))  # 2 before 10
    for r, one_round in enumerate(paired.rounds):
        assert list(one_round.ids) == [str(Path(pattern.format(n=n, r=r))) for n in paired.seen.ids]


def test_names_that_end_in_numbers_are_no_rounds(tmp_path):
    names = [f"cat_{i}" for i in range(4)]
    paired = pair(_folder(tmp_path / "images", names), _folder(tmp_path / "recons", names))
    assert len(paired.rounds) == 1
    assert paired.rounds[0].ids == paired.seen.ids


def test_names_meet_in_every_form(tmp_path):
    _folder(tmp_path / "images", ["caf\u00e9_1.png", "the\u0301_2.png"])
    recons = _folder(tmp_path / "recons", ["the\u00e9_2", "x"])
    for path, name in zip(sorted(recons.iterdir()), ["th\u00e9_2.PNG", "cafe\u0301_1.JPG"], strict=True):
        path.rename(recons / name)
    paired = pair(tmp_path / "images", recons)
    assert paired.how == "name"
    assert [name[0] for name in paired.seen.ids] == [name[0] for name in paired.rounds[0].ids]


def test_order_is_refused_where_the_seen_pictures_have_two(tmp_path):
    seen = _folder(tmp_path / "images", [f"img{i}" for i in range(1, 12)])
    with pytest.raises(HvfError, match="two usual orders"):
        pair(seen, _folder(tmp_path / "recons", [str(i) for i in range(11)]))


def test_pairs_by_order_where_no_name_agrees_and_says_so(tmp_path, images):
    paired = pair(images, _folder(tmp_path / "recons", [str(i) for i in range(8, 14)]))
    assert paired.rounds[0].ids == ("8", "9", "10", "11", "12", "13")
    assert "order" in paired.how
    rounds = pair(images, _folder(tmp_path / "rounds", [f"round_{r}/{i}" for r in range(3) for i in range(6)]))
    assert (len(rounds.rounds), "order" in rounds.how) == (3, True)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (NAMES[:-1], r"lacks 1 of 6 \(fox_2\)"),
        ([*NAMES, "gnu_1"], r"holds 1 that are no image there \(gnu_1\)"),
        ([*NAMES[:-2], "x", "y"], r"lacks 2 of 6 \(eagle_03n, fox_2\) and holds 2"),
        ([*NAMES, "fox_2.jpg"], r"fox_2\.jpg and fox_2\.png, which share one name"),
        (["a", "b", "c"], r"holds 3 pictures and .* 6, and their names do not agree \(a, b, c against aardvark_01b"),
        ([f"round_{r}/{n}" for r in range(3) for n in NAMES if (r, n) != (2, "fox_2")], r"round round_2 lacks 1"),
        ([f"{n}_{r}" for r in range(3) for n in NAMES if (r, n) != (1, "fox_2")], r"round 1 lacks 1 of 6 \(fox_2\)"),
        ([f"round_{r}/{i}" for r in range(2) for i in range(5 + r)], "names do not agree"),
    ],
)
def test_a_mismatch_is_refused_in_one_line_that_names_files(tmp_path, images, names, said):
    recons = _folder(tmp_path / "recons", names)
    with pytest.raises(HvfError, match=said) as caught:
        evaluate_pictures(recons, images, PIXELS)
    assert "\n" not in str(caught.value)


def test_seen_pictures_that_share_a_name_are_refused(tmp_path, images):
    _folder(images, ["fox_2.jpg"])
    with pytest.raises(HvfError, match="share one name"):
        pair(images, images)


# --- figures ----------------------------------------------------------------------------------------------------------


def test_pictures_of_any_size_as_the_formulas_give_them(tmp_path, images):
    recons = _folder(tmp_path / "recons", NAMES, first_seed=3, size=(300, 300))  # three of them are right, elsewhere
    found = evaluate_pictures(recons, images, PIXELS)
    reals = np.stack([np.asarray(_picture(i)) for i in range(6)])
    drawn = np.stack([np.asarray(_picture(3 + i, (300, 300))) for i in range(6)])
    for name, values_N in picture_metrics.pixel_scores(reals, drawn).items():
        entry = f"reconstruction/brain/{name}"
        np.testing.assert_allclose(found.per_image["scores"][entry], values_N, atol=1e-6)
        assert found.metrics[entry]["value"] == pytest.approx(values_N.mean(), abs=1e-6)
        assert found.metrics[entry]["ci95"][0] < values_N.mean() < found.metrics[entry]["ci95"][1]
    assert found.not_computed == {}
    assert found.protocol["first_resize"] == 256
    assert found.protocol["matched_by"] == "name"


def test_rounds_are_averaged_per_image(tmp_path, images):
    for r in range(3):
        _folder(tmp_path / "recons" / f"round_{r}", NAMES, first_seed=10 * r)
    found = evaluate_pictures(tmp_path / "recons", images, PIXELS)
    per_round = np.array(found.per_image["rounds"]["reconstruction/brain/pixcorr"])
    assert per_round.shape == (3, 6)
    np.testing.assert_allclose(per_round[0], 1.0, atol=1e-6)
    np.testing.assert_allclose(found.per_image["scores"]["reconstruction/brain/pixcorr"], per_round.mean(axis=0))
    assert found.metrics["reconstruction/brain/pixcorr"]["n"] == 6
    assert found.protocol["rounds"] == 3


def test_a_constant_picture_is_left_out_and_counted(tmp_path, images):
    recons = _folder(tmp_path / "recons", NAMES)
    Image.new("RGB", (20, 20), "grey").save(recons / "fox_2.png")
    found = evaluate_pictures(recons, images, PIXELS)
    assert found.per_image["scores"]["reconstruction/brain/pixcorr"][-1] is None
    assert found.metrics["reconstruction/brain/pixcorr"]["n"] == 5
    assert found.metrics["reconstruction/brain/ssim"]["n"] == 6
    for path in recons.iterdir():
        Image.new("RGB", (20, 20), "grey").save(path)
    none = evaluate_pictures(recons, images, PIXELS)
    assert "constant" in none.not_computed["pixcorr"]
    assert list(none.metrics) == ["reconstruction/brain/ssim"]


def test_what_cannot_be_computed_is_listed_with_the_reason(images):
    found = evaluate_pictures(images, images)
    assert set(found.not_computed) == set(all_metrics()) - {*PIXELS, "kind_top1"}  # photographs have no kinds
    assert {entry.split("/")[-1] for entry in found.metrics} == set(PIXELS)
    assert "alexnet-owt-7be5be79.pth is missing; fetch it with: curl" in found.not_computed["alexnet2"]
    assert "hf download" in found.not_computed["clip"]


def test_a_folder_of_results(tmp_path, images):
    found = evaluate_pictures(images, images, out=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == found.metrics
    assert json.loads((tmp_path / "out" / "per_image.json").read_text()) == found.per_image
    told = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert told["not_computed"] == found.not_computed
    with open(tmp_path / "out" / "per_image.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", "brain/pixcorr", "brain/ssim"]
    assert [row[0] for row in rows[1:]] == sorted(NAMES)


def test_bad_requests(tmp_path, images):
    with pytest.raises(HvfError, match="did you mean 'pixcorr'"):
        evaluate_pictures(images, images, ["pixcor"])
    with pytest.raises(HvfError, match="no folder or zip"):
        evaluate_pictures(tmp_path / "absent", images)
    (images / "fox_2.png").write_bytes(b"damaged")
    with pytest.raises(HvfError, match="fox_2.png is truncated"):
        evaluate_pictures(images, images, PIXELS)


# --- networks ---------------------------------------------------------------------------------------------------------


class Pooled(torch.nn.Module):
    """A small stand-in for a network of one output: what it gives can be worked out by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1) * self.scale


class Layers(Pooled):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {layer: torch.nn.functional.avg_pool2d(x, 8) * (i + 1) for i, layer in enumerate(LAYERS)}


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Files for every network but DreamSim; the networks themselves are small."""
    import dataclasses

    for name, network in [(name, NETWORKS[name]) for name in NETWORKS if name != "dreamsim"]:
        if name == "lpips":
            heads = {f"lin{i}.model.1.weight": torch.rand(1, 3, 1, 1) for i in range(5)}
            save_file(heads, tmp_path / "lpips.safetensors")
            continue
        small = dataclasses.replace(network, build=Layers if name == "alexnet" else Pooled, prefix="")
        monkeypatch.setitem(NETWORKS._entries, name, small)
        save_file({"scale": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    return tmp_path


def test_every_metric_from_networks_run_once_per_picture(tmp_path, images, weights, monkeypatch):
    runs: dict[str, int] = {}
    whole = networks.MetricNetwork.__call__

    def counted(self, x):
        runs[self.name] = runs.get(self.name, 0) + len(x)
        return whole(self, x)

    monkeypatch.setattr(networks.MetricNetwork, "__call__", counted)
    for r in range(2):
        _folder(tmp_path / "recons" / f"round_{r}", NAMES, first_seed=r)
    found = evaluate_pictures(tmp_path / "recons", images, weights=weights)
    assert set(found.not_computed) == {"dreamsim"}
    assert set(found.protocol["weights"]) == set(NETWORKS) - {"dreamsim", "kind-reader"}
    assert runs["clip"] == runs["effnet"] == 6 * (1 + 2)
    assert runs["alexnet"] == 6 * (2 + 2)  # LPIPS goes back to the seen pictures, too large to keep

    scores = {entry.split("/")[-1]: np.array(v) for entry, v in found.per_image["rounds"].items()}
    np.testing.assert_allclose(scores["clip"][0], 1.0)  # the same pictures: every other is less like it
    np.testing.assert_allclose(scores["lpips"][0], 0.0, atol=1e-6)
    np.testing.assert_allclose(scores["effnet"][0], 0.0, atol=1e-6)
    np.testing.assert_allclose(scores["dino"][0], 1.0, atol=1e-6)

    # Round 1 shows each picture's neighbour. By hand, from the features themselves:
    see = NETWORKS["effnet"].prepare
    x = [np.stack([picture_metrics.resized(np.asarray(_picture(i + r)), 256, 256) for i in range(6)]) for r in (0, 1)]
    features = [Pooled()(see(torch.from_numpy(p.transpose(0, 3, 1, 2)))).detach().numpy() for p in x]
    distances = correlation_distance(picture_metrics.SeenFeatures(features[0]), features[1], np.arange(6))
    np.testing.assert_allclose(scores["effnet"][1], distances, atol=1e-5)
    np.testing.assert_allclose(scores["inception"][1], picture_metrics.two_way(*features))
    assert found.metrics["chance/reconstruction/inception"]["value"] == pytest.approx(0.5)
    low, high = found.metrics["chance/reconstruction/inception"]["ci95"]
    assert low < 0.5 < high


def test_cosine_is_not_centred(weights):
    a, b = np.full((2, 8, 8, 3), 200, np.uint8), np.full((2, 8, 8, 3), 100, np.uint8)
    evaluator = Evaluator(a, ["dino", "effnet"], weights=weights)
    scores = evaluator.measure([b]).per_image
    x, y = (NETWORKS["dino"].prepare(torch.full((1, 3, 256, 256), v / 255)).mean(dim=(2, 3)) for v in (200, 100))
    assert scores["dino"] == pytest.approx(torch.nn.functional.cosine_similarity(x, y).item(), abs=1e-4)


def test_rounds_that_do_not_pair(images):
    evaluator = Evaluator([_picture(i) for i in range(3)], PIXELS)
    with pytest.raises(HvfError, match="3 seen pictures but"):
        evaluator.measure([[_picture(0)] * 3, [_picture(0)] * 2])
    with pytest.raises(HvfError, match="at least two"):
        Evaluator([_picture(0)], PIXELS)


def test_an_empty_list_of_metrics_is_refused_and_nothing_written(images, tmp_path, capsys):
    given = ["evaluate", "--recons", str(images), "--images", str(images), "--out", str(tmp_path / "out")]
    assert main([*given, "--metrics"]) == 2
    assert "no figure is asked for: name some, as --metrics pixcorr ssim" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    shown = [_picture(0, (64, 64)), _picture(1, (64, 64))]
    scores = Evaluator(shown, (), encoders={"vit": "openclip:mini-vit"}, first=None).measure([shown]).figures()
    assert list(scores) == ["vit"]


def test_pictures_as_they_are_have_to_be_squares(images):
    with pytest.raises(HvfError, match="squares of one size"):
        evaluate_pictures(images, images, PIXELS, first=None)


def test_a_run_with_rounds_and_its_own_encoders(tmp_path, monkeypatch):
    from hvf import presets
    from hvf.runs import Run

    run = Run.create(tmp_path / "run", presets.mini())
    names = [f"{i:04d}_{name}" for i, name in enumerate(NAMES)]
    with pytest.raises(HvfError, match="holds no pictures"):
        evaluation.evaluate_run(run)
    square = {"size": (32, 32)}
    _folder(run.path / "images" / "seen", names, **square)
    for r in range(2):
        _folder(run.path / "images" / "brain" / f"round_{r}", names, first_seed=r, **square)
    _folder(run.path / "images" / "floor", names[::-1], **square)
    monkeypatch.setattr(evaluator, "load_encoder", lambda spec, device: Pooled().requires_grad_(False))
    found = evaluation.evaluate_run(run, PIXELS, encoders={"two_way_mini-vit": "openclip:mini-vit"})
    assert found.protocol["rounds"] == {"brain": 2, "floor": 1}
    assert found.metrics["reconstruction/brain/two_way_mini-vit"]["value"] > 0.5
    assert found.metrics["reconstruction/floor/pixcorr"]["value"] < 0.9
    assert "chance/reconstruction/two_way_mini-vit" in found.metrics
    for row in ("floor", "brain"):  # measured alone, each has the same figures
        (run.path / "images" / row).rename(tmp_path / row)
        alone = evaluation.evaluate_run(run, PIXELS, encoders={"two_way_mini-vit": "openclip:mini-vit"})
        (tmp_path / row).rename(run.path / "images" / row)
        figures = {name: entry for name, entry in alone.metrics.items() if not name.startswith("chance")}
        assert figures == {name: found.metrics[name] for name in figures}
        assert len(figures) == 3
    run.write_metrics(found.metrics)  # in the format of metrics.json
    names = ("retrieval/brain/top1", "reconstruction/brain/two_way_old", "chance/reconstruction/old")
    earlier = dict.fromkeys(names, {"value": 0.5, "ci95": None, "n": 2})
    evaluation.write_evaluation(found, run.path, earlier)
    assert set(run.metrics()) == {"retrieval/brain/top1", *found.metrics}  # no figure of an earlier measurement stays
    assert run.read_json("evaluation.json")["not_computed"] == found.not_computed
