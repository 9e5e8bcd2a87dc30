"""Figures of trials hold the right values, and notebooks the facts."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet, open_images
from hvf.data.trials.plots import similarity
from hvf.data.trials.trials import Trials
from hvf.decoding.ranked import rank

RNG = np.random.default_rng(0)
CONCEPTS = ["dog", "cat", "dog", "cat", "owl", "owl"]
PATTERNS = {name: RNG.normal(size=(4, 10)) for name in ("cat", "dog", "owl")}


def made(noise: float = 0.1, **more) -> Trials:
    x_NCT = 5 + np.stack([PATTERNS[name] + noise * RNG.normal(size=(4, 10)) for name in CONCEPTS])
    fields = {"kind": "eeg", "concepts": CONCEPTS, "simulated": True}
    ids = [f"{name}<{i}>" for i, name in enumerate(CONCEPTS)]
    return Trials(1e-6 * x_NCT, ids, "sub-01", 100.0, -0.05, ["Oz", "O1", "O2", "Pz"], **fields | more)


def test_evoked_is_the_mean_of_the_concept() -> None:
    trials = made()
    for concept, rows in ((None, range(6)), ("cat", [1, 3])):
        figure = trials.plot_evoked(concept)
        assert isinstance(figure, Figure)
        (axes,) = figure.axes
        mean_CT = 1e6 * trials.load_array()[list(rows)].mean(axis=0)
        np.testing.assert_allclose([line.get_ydata() for line in axes.lines[:4]], mean_CT, rtol=1e-5)
        np.testing.assert_allclose(axes.lines[0].get_xdata(), np.arange(-50, 50, 10), atol=1e-9)
        np.testing.assert_allclose(axes.lines[4].get_ydata(), mean_CT.std(axis=0), rtol=1e-5)
        assert "simulated EEG, sub-01" in axes.get_title()
        assert axes.get_ylabel() == "µV"
    with pytest.raises(HvfError, match="shows the concept 'cats'; did you mean 'cat'"):
        trials.plot_evoked("cats")
    with pytest.raises(HvfError, match="they name no concepts"):
        made(concepts=None).plot_evoked("cat")
    features = Trials(np.ones((2, 3, 1)), ["a", "b"], "s", 1.0, 0.0, "123", "features").plot_evoked()
    assert [bar.get_height() for bar in features.axes[0].patches] == [1, 1, 1]
    whitened = made(history={"units": "standard deviations"}).plot_evoked()
    assert whitened.axes[0].get_ylabel() == "standard deviations"  # and not 1e6 of them
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_similarity_is_the_correlation_of_centred_patterns() -> None:
    trials = made()
    names, r_II = similarity(trials, "image")
    order = [1, 3, 0, 2, 4, 5]  # cats, dogs, owls
    assert names == [trials.image_ids[i] for i in order]
    x_NCT = trials.load_array().astype(float)[order]
    x_NCT = x_NCT - x_NCT.mean(axis=0)
    x_NCT /= np.sqrt(np.square(x_NCT).mean(axis=(0, 2), keepdims=True))
    np.testing.assert_allclose(r_II, np.corrcoef(x_NCT.reshape(6, -1)), atol=1e-6)
    same = np.array([[a[:3] == b[:3] for a in names] for b in names])
    assert r_II[same].min() > 0.9 > 0 > r_II[~same].max()  # three patterns about their mean lie apart
    _, control = similarity(trials.permuted(1), "image")
    assert control[same].min() < 0.5
    by_concept, r_33 = similarity(trials)  # by default, where some have several images
    assert by_concept == ["cat", "dog", "owl"]
    assert r_33.shape == (3, 3)
    figure = trials.plot_similarity("image")
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), r_II)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == names
    assert similarity(made(concepts=None))[0] == sorted(trials.image_ids.tolist())
    with pytest.raises(HvfError, match="name no concepts"):
        similarity(made(concepts=None), "concept")
    with pytest.raises(HvfError, match="2 images cannot be compared"):
        similarity(trials[:2], "image")
    with pytest.raises(HvfError, match="by image or concept, not by 'images'"):
        similarity(trials, "images")  # pyright: ignore[reportArgumentType]


def test_notebooks_show_facts_and_thumbnails(tmp_path) -> None:
    html = made(splits=["train"] * 5 + ["test"], sessions=[1, 1, 2, 2, 3, 3])._repr_html_()
    for words in ("6 of 6 images", "5 train", "1 test", "4 eeg: Oz, O1, O2, Pz", "-50 to 40 ms at 100 Hz", "simulated"):
        assert words in html
    pictures = RNG.integers(0, 255, (10, 20, 30, 3)).astype(np.uint8)
    images = ImageSet.from_arrays(pictures, [f"<i>{i}" for i in range(10)], "abcdefghij")
    html = images._repr_html_()
    assert (html.count("data:image/webp;base64,"), "and 2 more" in html, "&lt;i&gt;0" in html) == (8, True, True)
    assert "<i>" not in html
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "whole.png").write_bytes(b"no picture either")
    assert open_images(tmp_path)._repr_html_().count("<img") == 2  # grey, and no error
    z = RNG.normal(size=(10, 4))
    found = rank(z, z)
    assert str(found) == "<Retrieval: 10 trials among 10 images, top-1 100.0 %, top-5 100.0 %>"
    assert "<img" not in found._repr_html_()
