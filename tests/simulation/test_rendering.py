"""Pictures of the embedded world: the same everywhere, different where they should be, described truthfully."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from hvf.simulation import captioned, rendering, shapes
from hvf.simulation.rendering import Concept, concepts, render


def test_every_concept_is_listed_once_in_an_order_fixed_by_the_seed() -> None:
    everything = concepts()
    assert (
        len(set(everything)) == len(everything) == len(shapes.PARTS) * len(rendering.TEXTURES) * len(rendering.PALETTES)
    )
    assert len(everything) >= 1854  # the whole of THINGS
    assert concepts() == everything
    assert concepts(1) != everything
    assert set(concepts(1)) == set(everything)


def test_the_same_exemplar_gives_the_same_pixels() -> None:
    concept = Concept("car", "striped", "red")
    first = render(concept, 3)
    assert first.image.dtype == np.uint8
    assert first.image.shape == (64, 64, 3)
    assert hashlib.sha256(first.image.tobytes()).digest() == hashlib.sha256(render(concept, 3).image.tobytes()).digest()
    assert not np.array_equal(first.image, render(concept, 4).image)
    assert render(concept, 3, size=96).image.shape == (96, 96, 3)


def test_a_name_tells_the_colours_one_sees_and_sorts_as_its_key() -> None:
    assert Concept("boot", "banded", "white").name == "banded_white-blue_boot"
    assert Concept("boot", "plain", "white").name == Concept("boot", "plain", "white").key == "plain_white_boot"
    everything = concepts()
    assert all(concept.name.count("_") == 2 for concept in everything)
    assert sorted(everything, key=lambda c: c.name) == sorted(everything, key=lambda c: c.key)  # pairing by order


@pytest.mark.parametrize("palette", rendering.PALETTES)
def test_the_second_colour_is_called_what_it_is(palette: str) -> None:
    called = {
        "cream": (250, 226, 190), "brown": (112, 62, 44), "rust": (206, 84, 40), "yellow": (240, 220, 100),
        "white": (245, 245, 240), "pink": (236, 178, 222), "beige": (226, 190, 142), "blue": (66, 110, 178),
        "red": (216, 70, 66),
    }  # fmt: skip
    second = np.array(rendering.PALETTES[palette][1])
    nearest = min(called, key=lambda name: np.square(second - called[name]).sum())
    assert nearest == rendering.SECOND_COLOURS[palette]


@pytest.mark.parametrize(
    ("texture", "digest"),
    [
        ("plain", "2c96f89e6a84e897"),
        ("striped", "90df9685fb1a3b10"),
        ("banded", "5f135d462ca94c01"),
        ("dotted", "7e8bccc6ca389dde"),
        ("checked", "0f54a86318b28456"),
        ("diagonal", "f55e4c36df8f04a9"),
    ],
)
def test_pictures_stay_as_they_were(texture: str, digest: str) -> None:
    """All kinds in all scenes. Weights and figures come from these pictures: others are another study."""
    number, palettes = list(rendering.TEXTURES).index(texture), list(rendering.PALETTES)
    drawn = hashlib.sha256()
    for k, kind in enumerate(shapes.PARTS):
        picture = render(Concept(kind, texture, palettes[(number + k) % len(palettes)]), number)
        assert picture.image.flags.c_contiguous  # files keep bytes as they lie
        drawn.update(picture.image.tobytes() + picture.caption.encode())
    assert drawn.hexdigest()[:16] == digest


def test_sizes_agree_on_the_picture() -> None:
    concept = Concept("whale", "plain", "blue")
    small, large = (render(concept, 0, size).image.astype(float) for size in (32, 64))
    halved = large.reshape(32, 2, 32, 2, 3).mean((1, 3))
    other = render(concept, 1, 32).image.astype(float)
    assert np.abs(halved - small).mean() < 0.2 * np.abs(other - small).mean()


@pytest.mark.parametrize("kind", shapes.PARTS)
def test_an_object_stays_in_the_picture_and_shows_its_palette(kind: str) -> None:
    outline = np.concatenate([part.outline for part in shapes.PARTS[kind]])
    assert np.abs(outline).max() <= 1.12, "drawn outside its square"
    assert any(part.role == "body" for part in shapes.PARTS[kind]), "nothing to carry the texture"
    red, blue = (render(Concept(kind, "plain", palette), 0).image.astype(float) for palette in ("red", "blue"))
    redder = (red - blue)[..., 0] - (red - blue)[..., 2]
    assert redder.max() > 100


def test_a_caption_says_what_is_shown() -> None:
    picture = render(Concept("kite", "dotted", "green"), 0)
    assert picture.caption == f"a dotted green kite {rendering.SCENES[picture.scene][0]}"
    assert "plain" not in render(Concept("kite", "plain", "green"), 0).caption


def test_pretraining_never_shows_a_test_concept(monkeypatch: pytest.MonkeyPatch) -> None:
    order = concepts()
    monkeypatch.setattr(captioned.rendering, "concepts", lambda seed=0: order[:205])
    images = captioned.pretraining_images(exemplars=2, size=16)
    assert len(images) == 10
    assert images.captions is not None
    assert set(images.concepts).isdisjoint(concept.name for concept in order[: captioned.N_TEST_CONCEPTS])
    shown = render(order[200], captioned.FIRST_EXEMPLAR, 16)
    assert np.array_equal(np.asarray(images[0]), shown.image)
    assert images.captions[0] == shown.caption
