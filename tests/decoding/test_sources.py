"""Galleries out of files: pictures and features give the same answers; other encoders' features are refused."""

from __future__ import annotations

from copy import copy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import save_file

from hvf import presets
from hvf.config import HvfError, with_settings
from hvf.decoder import Decoder
from hvf.decoding import sources
from hvf.experiments.decoding import Question, check_question, open_decoder, open_gallery
from hvf.vision import shards
from hvf.vision.cache import embed_all
from hvf.vision.feature_images import open_image_set
from tests.decoding.test_artefact import SETTINGS, a_study

SPECS = ("openclip:mini-vit", "vae:mini")


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(with_settings(presets.mini(), {**SETTINGS, "targets.specs": SPECS})).fit(*a_study())


@pytest.fixture(scope="module")
def alone() -> Decoder:
    """Of one encoder."""
    return Decoder(with_settings(presets.mini(), {**SETTINGS, "targets.specs": SPECS[:1]})).fit(*a_study())


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    for i in range(15):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"photo{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def features(photos) -> tuple[list[str], dict[str, np.ndarray]]:
    images = open_image_set(photos)
    return list(images.ids), embed_all(images, SPECS)


def answers(decoder: Decoder, source: Path | str) -> tuple[list[list[str]], np.ndarray]:
    gallery, _ = open_gallery(source, decoder)
    found = decoder.decode(a_study()[0].select(slice(0, 6)), gallery)
    return [[gallery.ids[i] for i in row] for row in found.top_NK], found.similarity_NK


def same(decoder: Decoder, source: Path | str, photos: Path, exact: float = 1e-5) -> None:
    names, similarity_NK = answers(decoder, photos)
    others, others_NK = answers(decoder, source)
    assert names == others
    assert similarity_NK == pytest.approx(others_NK, abs=exact)


def test_features_named_after_the_encoders(decoder, photos, features, tmp_path):
    ids, arrays = features
    order = np.random.default_rng(0).permutation(len(ids))
    content = {spec: x_Md[order] for spec, x_Md in arrays.items()}
    np.savez(tmp_path / "features.npz", names=np.array(ids)[order], **content)
    same(decoder, tmp_path / "features.npz", photos)


def test_pictures_of_the_test_belong_to_its_own_gallery_alone(decoder, photos, features, tmp_path):
    ids, arrays = features
    np.savez(tmp_path / "others.npz", names=[f"other{i}" for i in range(len(ids))], **arrays)
    tested = copy(decoder)
    tested.gallery = tested.gallery_of(open_image_set(photos))
    tested.save(tmp_path / "run" / "checkpoint")
    seen = tmp_path / "run" / "images" / "seen"
    seen.mkdir(parents=True)
    for i, path in enumerate(sorted(photos.iterdir())):
        (seen / f"{i:04d}_{path.name}").write_bytes(path.read_bytes())
    trials = tmp_path / "new-epo.fif"
    assert open_decoder(Question(str(tmp_path / "run"), trials)).images is not None
    assert open_decoder(Question(str(tmp_path / "run"), trials, tmp_path / "others.npz")).images is None


def test_prepared_shards(decoder, photos, features, tmp_path):
    ids, arrays = features
    hashes = decoder.encoders
    known = {spec: {"dim": x_Md.shape[1], "weights_hash": hashes[spec]} for spec, x_Md in arrays.items()}
    settings = shards.Settings("photos", "0", len(ids), "vae:mini", known, 4)
    shards.start(tmp_path / "shards", settings)
    for number in range(settings.shards):
        rows = settings.rows(number)
        part = {spec: x_Md[rows.start : rows.stop] for spec, x_Md in arrays.items()}
        names = ids[rows.start : rows.stop]
        shards.write_shard(tmp_path / "shards", settings, number, names, names, part)
    shards.finish(tmp_path / "shards", settings)
    same(decoder, tmp_path / "shards", photos, exact=2e-3)  # float16
    decoder.encoders = {**hashes, "vae:mini": "another"}
    with pytest.raises(HvfError, match="other weights"):
        open_gallery(tmp_path / "shards", decoder)
    decoder.encoders = hashes


@pytest.mark.parametrize("streamed", [2**28, 0])
def test_one_column_of_a_parquet_file(alone, photos, features, tmp_path, monkeypatch, streamed):
    monkeypatch.setattr(sources, "STREAMED", streamed)
    ids, arrays = features
    column = pa.array(arrays[SPECS[0]].tolist(), pa.list_(pa.float32()))
    table = pa.table({"image_id": ids, "embedding": column})
    pq.write_table(table, tmp_path / "features.parquet", row_group_size=4)
    same(alone, tmp_path / "features.parquet", photos)


def test_features_of_other_encoders_are_refused(decoder, alone, features, tmp_path):
    ids, arrays = features
    vit, vae = (arrays[spec] for spec in SPECS)

    def refused(decoder: Decoder, reason: str, **content: np.ndarray) -> None:
        np.savez(tmp_path / "features.npz", names=np.array(ids), **content)
        with pytest.raises(HvfError, match=reason):
            open_gallery(tmp_path / "features.npz", decoder)

    refused(decoder, "name its arrays after the encoders", **{SPECS[0]: vit})
    refused(decoder, "name its arrays after the encoders", vit=vit, vae=vae)
    refused(alone, "wide", features=vae)
    refused(alone, "name its arrays", **{"openclip:other": vit})
    turned = vit @ np.linalg.qr(np.random.default_rng(0).standard_normal((vit.shape[1],) * 2))[0].astype(np.float32)
    refused(alone, "lie elsewhere", features=turned)
    refused(alone, "10 times as long", features=10 * vit)
    refused(alone, "0.1 times as long", features=0.1 * vit)


def test_questions_that_need_no_look_into_files(tmp_path):
    (tmp_path / "file").touch()
    trials = tmp_path / "new-epo.fif"
    for question, out, reason in (
        (Question("", trials), "out", "DECODER is empty"),
        (Question("run", trials, ""), "out", "--gallery is empty"),
        (Question("run", trials), "file", "is a file, not a folder"),
    ):
        with pytest.raises(HvfError, match=reason):
            check_question(question, tmp_path / out)
    check_question(Question("run", trials), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_no_gallery(decoder, tmp_path):
    save_file({"x": np.zeros((2, 2), np.float32)}, tmp_path / "x.safetensors")
    for source, reason in ((tmp_path / "nowhere", "nothing at"), (tmp_path / "x.safetensors", "name its arrays")):
        with pytest.raises(HvfError, match=reason):
            open_gallery(source, decoder)
    decoder.gallery = None
    with pytest.raises(HvfError, match="no gallery of its own"):
        open_gallery(None, decoder)
