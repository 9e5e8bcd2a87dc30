"""Images that are known by their features alone: as targets, as an image set, as a gallery."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from hvf import presets
from hvf.config import HvfError, check_files, with_settings
from hvf.data.images.image_set import ImageSet, open_images
from hvf.registry import BACKBONES, FeatureFile, feature_file
from hvf.study import open_study
from hvf.vision.cache import content_hashes, embed, embed_all
from hvf.vision.feature_images import open_gallery_features, open_image_set
from hvf.vision.loading import load_encoder
from hvf.vision.specs import parse_spec, versions

NAMES = ["set/dog/dog_1.jpg", "set/cat/cat_2.jpg", "set/cat/cat_1.jpg"]
X_ND = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture
def clip(tmp_path):
    np.savez(tmp_path / "clip.npz", image=X_ND, vae=-X_ND, names=NAMES)
    return tmp_path / "clip.npz"


def pictures(folder):
    for i, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / name)
    return open_images(folder / "set")


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("clip.npz", FeatureFile("clip.npz", None)),
        ("features:clip.npz#image", FeatureFile("clip.npz", "image")),
        ("features:a#1/b:c@2~d/e.NPZ#k/e#y@2:x~z", FeatureFile("a#1/b:c@2~d/e.NPZ", "k/e#y@2:x~z")),
        ("features:folder", FeatureFile("folder", None)),
        ("features:a#b/folder#RN50", FeatureFile("a#b/folder", "RN50")),
        ("features:a#b/folder", FeatureFile("a#b/folder", None)),
        ("folder", None),
        ("photos.zip", None),
    ],
)
def test_what_names_a_file_of_features(text, file):
    assert feature_file(text) == file
    if file is not None and text.startswith("features:"):
        spec = parse_spec(text)
        assert (str(spec), spec.layer, spec.pool, spec.view) == (text, None, None, None)
        assert feature_file(str(file)) == file
        assert file.absolute().path.endswith(f"/{file.path}")


@pytest.mark.parametrize("text", ["features:clip.npz@3", "features:clip.npz:mean", "features:a/clip.pt~fovea51"])
def test_features_have_no_layer_pool_or_view(text):
    with pytest.raises(HvfError, match="they have no @LAYER, no :POOL and no ~VIEW"):
        parse_spec(text)


def test_features_have_no_views_and_no_network(clip):
    spec = f"features:{clip}#image"
    with pytest.raises(HvfError, match="no ~VIEW"):
        versions([spec, "vae:mini"], ["blur9"])
    with pytest.raises(HvfError, match="there is no network that could be run on others"):
        load_encoder(spec)
    with pytest.raises(HvfError, match="nothing follows '#'"):
        parse_spec(f"features:{clip}#")
    with pytest.raises(HvfError, match="no model is named"):
        parse_spec("features:")


def test_targets_are_matched_by_name(clip, tmp_path):
    images = pictures(tmp_path)
    assert images.ids == ("cat/cat_1", "cat/cat_2", "dog/dog_1")
    features = embed_all(images, [f"features:{clip}#image", f"features:{clip}#vae"])
    np.testing.assert_array_equal(features[f"features:{clip}#image"], X_ND[::-1])
    np.testing.assert_array_equal(features[f"features:{clip}#vae"], -X_ND[::-1])
    np.testing.assert_array_equal(embed(images.select([2]), f"features:{clip}#image"), X_ND[:1])
    Image.new("RGB", (8, 8)).save(tmp_path / "set" / "cat" / "cat_3.png")
    with pytest.raises(HvfError, match=r"1 of the 4 images named in the images is not in .*clip.npz#image: cat/cat_3"):
        embed(open_images(tmp_path / "set"), f"features:{clip}#image")


def test_a_training_depends_on_the_content_of_the_file(clip):
    spec = f"features:{clip}#image"
    before = content_hashes([spec, "vae:mini"])
    assert before == [BACKBONES["features"].weights_hash(parse_spec(spec))]
    np.savez(clip, image=X_ND + 1, vae=-X_ND, names=NAMES)
    assert content_hashes([spec]) != before


def test_an_image_set_without_pictures(clip, tmp_path):
    with_pictures, images = pictures(tmp_path), open_image_set(clip)
    assert (images.ids, images.concepts) == (with_pictures.ids, with_pictures.concepts)
    assert (with_pictures.has_pictures, images.has_pictures, images.select([1]).has_pictures) == (True, False, False)
    assert images.digest == open_image_set(f"features:{clip}").digest != open_image_set(f"{clip}#image").digest
    assert images.select([2, 0]).content_hashes() == tuple(images.content_hashes()[i] for i in (2, 0))
    for ask in (lambda: images[0], lambda: images.array(size=8), lambda: embed(images, "vae:mini")):
        with pytest.raises(HvfError, match=r"clip.npz holds no pictures, and this needs them: give the folder or zip"):
            ask()
    with pytest.raises(HvfError, match="holds features, and this needs pictures"):
        open_images(clip)
    assert isinstance(open_image_set(tmp_path / "set"), ImageSet)


def test_rows_without_names_are_images_by_their_number(tmp_path):
    np.save(tmp_path / "clip.npy", X_ND)
    images = open_image_set(tmp_path / "clip.npy")
    assert images.ids == ("clip#00000", "clip#00001", "clip#00002")
    np.testing.assert_array_equal(embed(images.select([2, 1]), f"features:{tmp_path}/clip.npy"), X_ND[[2, 1]])
    np.save(tmp_path / "other.npy", X_ND)
    with pytest.raises(HvfError, match="other.npy names no images, so that its rows cannot be matched"):
        embed(images, f"features:{tmp_path}/other.npy")


def test_a_gallery_of_features(clip, tmp_path):
    ids, features = open_gallery_features(clip)
    assert ids == tuple(NAMES)
    assert list(features) == ["image", "vae"]
    np.testing.assert_array_equal(features["vae"], -X_ND)
    assert list(open_gallery_features(f"{clip}#vae").features) == ["vae"]
    np.savez(tmp_path / "two.npz", train=X_ND, test=X_ND[:2], names=NAMES)
    with pytest.raises(
        HvfError, match=r"rows of several sets of images \(train of 3, test of 2\): say which, as two.npz"
    ):
        open_gallery_features(tmp_path / "two.npz")
    assert open_gallery_features(f"{tmp_path}/two.npz#train").ids == tuple(NAMES)
    np.savez(tmp_path / "differ.npz", z=X_ND, names=["a", "b", "a"])
    with pytest.raises(HvfError, match="names 'a' twice"):
        open_gallery_features(tmp_path / "differ.npz")


def test_responses_without_names_need_the_order_of_the_names(clip, tmp_path):
    np.save(tmp_path / "t.npy", np.random.default_rng(0).normal(size=(3, 4)))
    data = with_settings(
        presets.mini(),
        {
            "data.study": "files",
            "data.trials": str(tmp_path / "t.npy"),
            "data.images": str(clip),
            "data.test_images": 1,
        },
    ).data
    with pytest.raises(HvfError, match="the rows of the features are in another order than the names"):
        open_study(data)
    np.savez(clip, image=X_ND, names=["ape/x.jpg", *sorted(NAMES[1:])])
    study = open_study(data)
    assert (study.train_images.ids, study.test_images.ids) == (("set/cat/cat_1", "set/cat/cat_2"), ("ape/x",))
    assert study.train_images.concepts == ("cat", "cat")


def test_images_of_equal_features_are_one_picture(tmp_path):
    x_ND = np.eye(6, dtype=np.float32)
    x_ND[5] = x_ND[0]
    np.savez(tmp_path / "clip.npz", z=x_ND, names=[f"c{i}/x.png" for i in range(6)])
    np.save(tmp_path / "t.npy", np.random.default_rng(0).normal(size=(6, 4)))
    settings = {"data.study": "files", "data.trials": str(tmp_path / "t.npy"), "data.test_images": 2}
    for seed in range(5):  # neither is ever trained on while the other is tested
        study = open_study(
            with_settings(
                presets.mini(), {**settings, "data.images": str(tmp_path / "clip.npz"), "data.split_seed": seed}
            ).data
        )
        assert len({"c0/x", "c5/x"} & set(study.train_images.ids)) in (0, 2) or "c0/x" not in study.test_images.ids
        assert not ({"c0/x", "c5/x"} & set(study.train_images.ids) and {"c0/x", "c5/x"} & set(study.test_images.ids))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets.specs": ["features:{clip}#image", "vae:mini"]}, "vae:mini looks at pictures and .* holds none"),
        ({"targets.specs": ["features:{clip}"], "align.mode": "reconstruction"}, "drawing needs pictures"),
        (
            {"targets.specs": ["features:/gone/z.npz#image"]},
            "there is no file of features /gone/z.npz, which features:",
        ),
        ({"data.images": "features:/gone/z.npz#image"}, "data.images: no such file or folder: /gone/z.npz"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_read(clip, settings, message):
    base = {"data.study": "files", "data.trials": str(clip), "data.images": f"features:{clip}#image"}
    settings = json.loads(json.dumps(settings).replace("{clip}", str(clip)))
    with pytest.raises(HvfError, match=message):
        check_files(with_settings(presets.mini(), base | settings))
