"""Kind of object: what the reader reads, its chance, and where there is no such figure."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from hvf.cli import main
from hvf.evaluation.catalogue import is_share, picture_metrics
from hvf.evaluation.evaluator import Evaluator
from hvf.evaluation.metrics.kind import KINDS, kinds_of
from hvf.evaluation.picture_metrics import chance_of_labels
from hvf.registry import HvfError
from hvf.simulation import rendering
from hvf.simulation.shapes import PARTS

N = 60


@pytest.fixture(scope="module")
def shown() -> list[rendering.Rendered]:
    """Pictures of test concepts, which the reader has never seen."""
    return [rendering.render(concept, 9000) for concept in rendering.concepts()[:N]]


def test_the_kinds_are_those_of_the_simulated_world():
    assert tuple(sorted(PARTS)) == KINDS


def test_kinds_are_read_from_names_of_the_simulated_world_alone():
    assert kinds_of(["striped_red_car", "plain_blue_cat"]) == ["car", "cat"]
    assert kinds_of(["striped_red_car", "aardvark"]) is None
    assert kinds_of([concept.name for concept in rendering.concepts()]) is not None


def test_most_kinds_are_read_from_pictures_and_none_from_what_shows_no_object(shown):
    kinds = [one.concept.kind for one in shown]
    blurred = [Image.fromarray(one.image).filter(ImageFilter.GaussianBlur(1)) for one in shown]
    grey = [np.full_like(one.image, 128) for one in shown]
    evaluator = Evaluator([one.image for one in shown], ["kind_top1"], kinds=kinds)
    assert evaluator.readers()["kind_top1"]["value"] > 0.9
    scores = evaluator.measure([blurred, grey])
    assert scores.per_image["kind_top1"][0].mean() > 0.85
    assert scores.per_image["kind_top1"][1].mean() < 0.1  # a control: one and the same kind is read everywhere
    low, high = scores.chance()["kind_top1"]["ci95"]
    assert low < 1 / 60 < high
    other = Evaluator([one.image for one in shown], ["kind_top1"], kinds=kinds[1:] + kinds[:1])
    assert other.readers()["kind_top1"]["value"] < 0.1


def test_chance_is_the_mean_over_all_pairings():
    read_RN, own_N = np.array([[0, 0, 1, 2], [0, 1, 1, 2]]), np.array([0, 1, 1, 2])
    every = [np.mean(read_RN[:, list(order)] == own_N) for order in permutations(range(4))]
    found = chance_of_labels(read_RN, own_N)
    assert found["value"] == pytest.approx(np.mean(every))
    assert found["ci95"] == pytest.approx(np.percentile(every, [2.5, 97.5]), abs=0.03)
    assert found["n"] == 4


def test_it_comes_first_and_is_a_share():
    assert next(iter(picture_metrics())) == "kind_top1"
    assert is_share("reconstruction/brain/kind_top1")


def test_photographs_have_no_kinds(shown, tmp_path, capsys):
    pictures = [one.image for one in shown[:4]]
    assert "kind_top1" not in Evaluator(pictures).names
    with pytest.raises(HvfError, match="kind_top1 needs kinds of object"):
        Evaluator(pictures, ["kind_top1"])
    for folder in ("drawn", "seen"):
        (tmp_path / folder).mkdir()
        for i, picture in enumerate(pictures):
            Image.fromarray(picture).save(tmp_path / folder / f"{i}.png")
    words = ["--recons", str(tmp_path / "drawn"), "--images", str(tmp_path / "seen"), "--metrics", "kind_top1"]
    assert main(["evaluate", *words]) == 2
    assert "photographs do not" in capsys.readouterr().err
