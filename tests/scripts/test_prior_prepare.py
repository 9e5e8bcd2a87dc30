"""prior_training/prepare.py as users run it: every kind of image set, killed and resumed, shared, and refusing."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from itertools import chain
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from hvf.config import HvfError
from hvf.data.images.image_set import open_images
from hvf.data.images.sources import open_image_source
from hvf.vision import shards
from hvf.vision.cache import embed
from hvf.vision.shards import open_shards
from tests.launched import launcher
from tests.leftovers import left_by_a_dead_process
from tests.script_module import load_script
from tests.tiny_sdxl import tiny_pipeline

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "prior_training" / "prepare.py"
N = 22


def launch(script, arguments: list[str]) -> int:
    return script.main(arguments)


@pytest.fixture(scope="module")
def script():
    return load_script(SCRIPT)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A tiny random SDXL pipeline, and the same 22 pictures of several sizes as folder, tars, and saved data set."""
    folder = tmp_path_factory.mktemp("world")
    tiny_pipeline().save_pretrained(folder / "sdxl")
    rng = np.random.default_rng(0)
    pictures, members = [], ([], [])
    for i in range(N):
        image = Image.fromarray(rng.integers(0, 256, (16 + i % 3, 20 - i % 2, 3), dtype=np.uint8))
        path = folder / "images" / f"concept-{i // 4}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        pictures.append(str(path))
        for name, data in ((f"{i:02d}.png", path.read_bytes()), (f"{i:02d}.cls", str(i // 4).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            members[i >= N // 2].append((member, data))
    (folder / "tars").mkdir()
    for i, half in enumerate(members):
        with tarfile.open(folder / "tars" / f"part-{i}.tar", "w") as archive:
            for member, data in half:
                archive.addfile(member, io.BytesIO(data))
    names = [f"concept-{i}" for i in range(N // 4 + 1)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    table = {"image": pictures, "label": [i // 4 for i in range(N)]}
    rows = datasets.Dataset.from_dict(table, features=features)
    datasets.disable_progress_bars()
    datasets.DatasetDict({"train": rows}).save_to_disk(folder / "saved")
    (folder / "parquet").mkdir()
    rows.to_parquet(folder / "parquet" / "train.parquet")
    return folder


def arguments(world: Path, out: Path, *flags: str, **settings) -> list[str]:
    sdxl = world / "sdxl"
    defaults = {"images": world / "images", "latents": f"vae:{sdxl}@16", "out": out, "shard_size": 5, "batch_size": 2}
    given = {f"--{name.replace('_', '-')}": str(value) for name, value in (defaults | settings).items()}
    return [*chain.from_iterable(given.items()), *flags, "--targets", f"vae:{sdxl}@16", f"vae:{sdxl}@8:grid2"]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def prepared(script, world, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "it"
    assert launch(script, arguments(world, out, "--check")) == 0
    return out


def test_holds_what_embed_gives(prepared, world):
    read = open_shards(prepared)
    images = open_images(world / "images")
    assert len(read) == N
    assert read.settings.latents == f"vae:{world / 'sdxl'}@16"
    assert list(read.dims.values()) == [256, 16]  # latents that are a target too are kept once
    assert (tuple(read.ids), tuple(read.concepts)) == (images.ids, images.concepts)
    batch = read.batch(np.arange(N))
    for spec, x_Nd in batch.items():
        np.testing.assert_allclose(x_Nd, embed(images, spec), rtol=1e-3, atol=1e-3)
    assert len(list(prepared.glob("shard-*.arrow"))) == 5


def test_tars_and_data_sets_give_the_same_pictures(script, prepared, world, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    expected = open_shards(prepared).batch(np.arange(N))
    for kind in ("tars", "saved", "parquet"):
        out = tmp_path / kind
        assert launch(script, arguments(world, out, images=world / kind)) == 0
        read = open_shards(out)
        for spec, x_Nd in read.batch(np.arange(N)).items():
            np.testing.assert_array_equal(x_Nd, expected[spec])
        named = [str(i // 4) if kind == "tars" else f"concept-{i // 4}" for i in range(N)]
        assert read.concepts == named


def test_fingerprints_tell_sets_apart_and_are_the_same_tomorrow(world, tmp_path):
    for kind in ("images", "tars", "saved"):
        first, again = (open_image_source(world / kind)[1] for _ in range(2))
        assert first == again
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "1.png")
    before = open_image_source(tmp_path)[1]
    Image.new("RGB", (9, 8), "red").save(tmp_path / "a" / "1.png")
    after = open_image_source(tmp_path)[1]
    assert before != after


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tar", b"no tar at all" * 100, "not a whole, uncompressed tar"),
        ("absent", None, "no images at"),
        ("state.json", b"{}", "cannot be read"),
    ],
)
def test_what_is_no_image_set_is_named(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(HvfError, match=said):
        open_image_source(tmp_path / name if content is None else tmp_path)


@pytest.mark.parametrize("stop_at", [0, 3])
def test_a_stopped_preparation_ends_in_the_same_folder(script, world, prepared, tmp_path, monkeypatch, stop_at):
    whole = shards.write_shard

    def dies(folder, settings, number, *rest):
        if number == stop_at:
            raise KeyboardInterrupt
        whole(folder, settings, number, *rest)

    monkeypatch.setattr(shards, "write_shard", dies)
    out = tmp_path / "it"
    assert launch(script, arguments(world, out)) == 130
    left_by_a_dead_process(out / f"shard-{stop_at:05d}.arrow")
    monkeypatch.setattr(shards, "write_shard", whole)
    assert launch(script, arguments(world, out, workers=3)) == 0
    assert files(out) == files(prepared)


def test_estimate_writes_nothing(script, world, tmp_path, capsys):
    out = tmp_path / "deep" / "it"
    assert launch(script, arguments(world, out, "--estimate", probe=6)) == 0
    said = capsys.readouterr().out
    assert "22 images of 6 concepts, 5 shards" in said
    assert "256 numbers, 512 bytes an image" in said
    assert f"{22 * 544 / 1e9:.3f} GB" in said
    assert "measured on 6 images" in said
    assert "hours with 1 process; nothing was written" in said
    assert not out.parent.exists()


def test_refuses_in_one_line_and_writes_nothing(script, world, prepared, tmp_path, capsys, monkeypatch):
    before, out = files(prepared), tmp_path / "it"
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"no picture")
    cases = {
        "was prepared with shard_size = 5, not 4": arguments(world, prepared, shard_size=4),
        "was prepared with precision = float32, not bfloat16": arguments(world, prepared, precision="bfloat16"),
        "was prepared with fingerprint": arguments(world, prepared, images=world / "tars"),
        "--batch-size must be at least 1": arguments(world, out, batch_size=0),
        "no images at": arguments(world, out, images=tmp_path / "absent"),
        "--images is missing": ["--preset", "sdxl", "--out", str(out)],
    }
    for message, given in cases.items():
        assert launch(script, given) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith("hvf: ")
        assert message in line or message == "was prepared with fingerprint" and "was prepared with dataset" in line
    assert not out.exists()
    assert files(prepared) == before
    assert launch(script, arguments(world, out, images=broken)) == 2
    assert "a.png" in capsys.readouterr().err
    assert not list(out.glob("*shard*"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 100})())
    assert launch(script, arguments(world, tmp_path / "full")) == 2
    assert "0.00 GB are free: choose another --out" in capsys.readouterr().err
    assert not (tmp_path / "full").exists()


@pytest.mark.slow(part=5)
def test_two_processes_killed_and_started_again_with_one_make_the_same_folder(world, prepared, tmp_path):
    out = tmp_path / "it"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HVF_QUIET": "1", "OMP_NUM_THREADS": "1"}

    def processes_of(processes: int) -> subprocess.Popen:
        command = [sys.executable, "-m", "accelerate.commands.launch", *launcher(processes)]
        return subprocess.Popen(
            [*command, str(SCRIPT), *arguments(world, out)], env=environment, cwd=tmp_path, start_new_session=True
        )

    first = processes_of(2)
    while first.poll() is None and not list(out.glob("shard-*.arrow")):
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert list(out.glob("shard-*.arrow"))
    second = processes_of(1)
    assert second.wait(300) == 0
    assert files(out) == files(prepared)
    third = processes_of(2)  # nothing left to do
    assert third.wait(300) == 0
    assert files(out) == files(prepared)
