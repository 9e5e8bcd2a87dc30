"""What figures are called, and which cannot be right."""

from __future__ import annotations

import pytest

from hvf.evaluation.catalogue import chance_name, findings, is_two_way, label, lower_is_better, meaning
from hvf.registry import METRICS


@pytest.mark.parametrize(
    ("name", "said", "lower", "two_way"),
    [
        ("reconstruction/brain/pixcorr", "PixCorr", False, False),
        ("reconstruction/brain/swav", "SwAV", True, False),
        ("reconstruction/brain/clip", "CLIP", False, True),
        ("reconstruction/brain/two_way_mini-vit", "two-way (mini-vit)", False, True),
        ("retrieval/brain/mrr", "mAP (= MRR)", False, False),
        ("retrieval/brain/one_to_one", "one-to-one matching (Hungarian)", False, False),
        ("retrieval/brain/median_rank", "median rank", True, False),
        ("retrieval/brain/somebodys", "somebodys", False, False),
    ],
)
def test_names_and_directions(name, said, lower, two_way):
    assert (label(name), lower_is_better(name), is_two_way(name)) == (said, lower, two_way)


def test_every_figure_says_how_it_is_read():
    assert [name for name in METRICS if not meaning(name)] == []


def test_chance_stands_under_its_section():
    assert chance_name("retrieval/brain/top1") == "chance/retrieval/top1"


def entry(value, high=None):
    return {"value": value, "ci95": [0.0, high or value], "n": 10}


def test_floors_above_chance_and_brains_at_chance_are_found():
    figures = {"chance/retrieval/top1": entry(0.1, 0.3)}
    assert findings(figures | {"retrieval/brain/top1": entry(0.4), "retrieval/floor/top1": entry(0.3)}) == []
    by_luck = "chance (10.0 %, by luck up to 30.0 %)"
    assert findings(figures | {"retrieval/brain/top1": entry(0.3)}) == [
        f"retrieval, top-1: the brain scores 30.0 %, no better than {by_luck}"
    ]
    assert findings(figures | {"retrieval/floor/top1": entry(0.4), "retrieval/csls floor/top1": entry(0.5)}) == [
        f"retrieval, top-1: permuted trials score 40.0 %, above {by_luck}",
        f"retrieval, top-1 (csls): permuted trials score 50.0 %, above {by_luck}",
    ]


def test_a_chance_of_one_says_nothing():
    """Top-10 among ten images: everybody scores 1, and nothing is wrong with that."""
    figures = {
        "chance/retrieval/top10": entry(1.0),
        "retrieval/brain/top10": entry(1.0),
        "retrieval/floor/top10": entry(1.0),
    }
    assert findings(figures) == []
