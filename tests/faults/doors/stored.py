"""Doors of what hvf wrote earlier and reads again: trials, features, decoders, priors, shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from hvf.alignment import Alignment
from hvf.config import Config, from_dict
from hvf.data.images.image_set import ImageSet
from hvf.data.trials.reading import read_trials
from hvf.data.trials.trials import Trials
from hvf.decoder import Decoder
from hvf.decoding import artefact
from hvf.prior.loading import load_prior
from hvf.vision import shards
from hvf.vision.cache import embed
from hvf.vision.embeddings import load_embeddings
from tests.faults.door import Door

N = 24
IDS = [f"c{i // 2}_{i:02d}" for i in range(N)]
CONCEPTS = [name.split("_")[0] for name in IDS]
CHANNELS = ["O1", "Oz", "O2"]


def images(n: int = N) -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 255, (n, 24, 24, 3), dtype=np.uint8)
    return ImageSet.from_arrays(pixels, IDS[:n], CONCEPTS[:n])


def trials(n_times: int = 12) -> Trials:
    x_NCT = np.random.default_rng(1).standard_normal((N, len(CHANNELS), n_times)).astype(np.float32)
    history = {"recipe": "none", "sources": {"a.eeg": "12"}}
    sessions = np.arange(N) // 12
    return Trials(
        x_NCT, IDS, "sub-01", 100.0, -0.1, CHANNELS, "eeg", concepts=CONCEPTS,
        splits=["train"] * 20 + ["test"] * 4, sessions=sessions, history=history,
    )  # fmt: skip


def content_of(one: Trials) -> list[Any]:
    labels = [one.subject, one.sfreq, one.tmin, one.ch_names, one.kind, one.simulated]
    return [one.load_array(), [str(name) for name in one.image_ids], *labels]


def write_numbers(folder: Path) -> None:
    z_ND = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))
    np.save(folder / "z.npy", z_ND.numpy())
    np.savez(folder / "z.npz", z=z_ND.numpy())
    torch.save(z_ND, folder / "z.pt")
    save_file({"z": z_ND}, folder / "z.safetensors")


def write_decoder(folder: Path) -> None:
    settings = {
        "align": {"epochs": 1, "validation_fraction": 0.3, "batch_size": 16},
        "targets": {"specs": ["vae:mini"]},
    }
    settings |= {"brain": {"width": 16}, "fusion": {"width": 16, "intermediate": 16}}
    decoder = Decoder(from_dict(Config, settings)).fit(trials().replace(splits=None), images())
    decoder.gallery = decoder.gallery_of(images(), "its images")
    decoder.save(folder)


def alignment_of(folder: Path) -> list[Any]:
    one = Alignment.load(folder)
    return [one.log_scale, one.recording, one.brain.state_dict(), one.hvf.state_dict(), one.normalisation]


def decoder_of(folder: Path) -> list[Any]:
    one = artefact.read(folder)
    gallery = [] if one.gallery is None else [one.gallery.ids, one.gallery.read(0, len(one.gallery))]
    return [*alignment_of(folder), gallery, None if one.confidence is None else one.confidence.tensors()]


def write_shards(folder: Path) -> None:
    rng = np.random.default_rng(2)
    encoders = {"vae:mini": {"dim": 6, "weights_hash": "aa"}, "openclip:mini-vit": {"dim": 3, "weights_hash": "bb"}}
    settings = shards.Settings("pictures", "f00d", N, "vae:mini", encoders, 9)
    shards.start(folder / "it", settings)
    for number in range(settings.shards):
        rows = settings.rows(number)
        features = {spec: rng.normal(size=(len(rows), one["dim"])) for spec, one in encoders.items()}
        shards.write_shard(folder / "it", settings, number, [IDS[i] for i in rows], ["c"] * len(rows), features)
    shards.finish(folder / "it", settings)


def shards_of(folder: Path) -> list[Any]:
    opened = shards.open_shards(folder / "it")
    return [opened.ids, opened.concepts, opened.batch(np.arange(len(opened)))]


Door("trials-npy", lambda p: np.save(p / "x.npy", trials(4).load_array()), ["x.npy"],
     lambda p, name: content_of(read_trials(p / name, images())))  # fmt: skip
Door("prepared", lambda p: trials(400).save(p / "x.npy"), ["x.npy"],
     lambda p, name: content_of(read_trials(p / name, images())), checked=True)  # fmt: skip
Door("sidecar", lambda p: trials().save(p / "x.npy"), ["x.json"],
     lambda p, _: content_of(read_trials(p / "x.npy", images())))  # fmt: skip
Door("embeddings", write_numbers, ["z.*"], lambda p, name: load_embeddings(p / name))
Door("features", lambda p: embed(images(4), "vae:mini", cache=p), ["*.safetensors"],
     lambda p, _: embed(images(4), "vae:mini", cache=p), checked=True)  # fmt: skip
Door("alignment", write_decoder, ["alignment.safetensors"], lambda p, _: alignment_of(p), checked=True)
Door("decoder", write_decoder, ["*"], lambda p, _: decoder_of(p), checked=True)
Door("prior", lambda p: load_prior("mini").save_pretrained(p), ["*.safetensors", "*.json"],
     lambda p, _: load_prior(str(p)).state_dict(), checked=True)  # fmt: skip
Door("shards", write_shards, ["it/*.arrow"], lambda p, _: shards_of(p), checked=True)
Door("index", write_shards, ["it/index.json"], lambda p, _: shards_of(p))
