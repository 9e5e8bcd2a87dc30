"""Weights from the Hub: what is missing is said at once, and a server that speaks its protocol gives it all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest

from hvf import presets
from hvf.cli import main
from hvf.config import HvfError, with_settings
from hvf.data.download import catalogue
from hvf.experiments import stages
from hvf.prior import hub_weights, loading
from hvf.prior.hub_weights import PIPELINE_FILES, fetch_all, fused_specs, missing, required
from tests.data.download.conftest import server  # noqa: F401  (a fixture)
from tests.data.download.http_server import offer

SHA = "c" * 40
LARGE = np.random.default_rng(0).bytes(2_000_000)
TURBO, PRIOR = "stabilityai/sdxl-turbo", "fakekungfu/Fusion-Prior-H14_B32_VAE"
UNET = "unet/diffusion_pytorch_model.safetensors"
PARTS = ("scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae")
UNUSED = ("sd_xl_turbo_1.0.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.onnx")


@pytest.fixture
def hub(server, tmp_path, monkeypatch):  # noqa: F811
    """Everything that things-eeg needs, in small, and an empty cache of the Hub's client."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 5)
    for clip in hub_weights.CLIPS.values():
        offer(server, clip, {hub_weights.CLIP_FILE: clip.encode(), "README.md": b"a card"})
    vae = {"vae/config.json": b"{}", "vae/diffusion_pytorch_model.safetensors": b"vae", UNET: b"not of the VAE"}
    offer(server, "stabilityai/stable-diffusion-xl-base-1.0", vae)
    turbo = {path: b"{}" if path.endswith("json") else path.encode() for path in (*PIPELINE_FILES, *UNUSED)}
    turbo |= {"model_index.json": json.dumps({part: ["diffusers", "X"] for part in PARTS}).encode(), UNET: LARGE}
    offer(server, TURBO, turbo)
    parts = ("fusion_encoder", "proj", "attn_adapter")
    prior = {f"{part}/config.json": b"{}" for part in parts}
    offer(server, PRIOR, prior | {f"{part}/diffusion_pytorch_model.safetensors": b"x" for part in parts})
    server.config = presets.things_eeg()
    return server


def get(hub, attempts: int = 3) -> int:
    return fetch_all(required(hub.config), hub.url, attempts=attempts, backoff=0.001)


def test_the_names_of_clips_are_those_that_open_clip_knows():
    for spec, repository in hub_weights.CLIPS.items():
        model, tag = spec.removeprefix("openclip:").split("/")
        assert open_clip.get_pretrained_cfg(model, tag)["hf_hub"].rstrip("/") == repository


def test_all_that_a_preset_needs_comes_once_and_nothing_else(hub, tmp_path):
    assert [one.repository for one in missing(hub.config)] == [one.repository for one in required(hub.config)]
    assert len(required(hub.config)) == 5
    size = get(hub)
    assert missing(hub.config) == []
    names = {str(path) for path in (tmp_path / "hub").rglob("*")}
    assert not any(name.endswith(unused) for name in names for unused in (*UNUSED, "README.md"))
    assert any(name.endswith(UNET) for name in names if "sdxl-turbo" in name)
    assert not any(name.endswith(UNET) for name in names if "base-1.0" in name)
    assert size > len(LARGE)
    sent = hub.sent
    assert get(hub) == size
    assert hub.sent - sent < 20_000  # the lists alone


def test_a_download_that_is_cut_goes_on_where_it_broke_off(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)  # 10 MB, more than the file
    path = f"/{TURBO}/resolve/{SHA}/{UNET}"
    hub.faults[path] = hub.faults[path.replace(SHA, "main")] = ["drops"]
    get(hub)
    assert missing(hub.config) == []
    ranges = [asked for command, name, asked in hub.requests if name.endswith(UNET) and command == "GET" and asked]
    assert any(asked.startswith("bytes=") and asked != "bytes=0-" for asked in ranges)


def test_wrong_bytes_are_fetched_again_and_never_kept(hub):
    for revision in ("main", SHA):
        hub.faults[f"/{TURBO}/resolve/{revision}/{UNET}"] = ["wrong bytes"]
    get(hub)
    assert missing(hub.config) == []
    assert Path(hub_weights.snapshot(TURBO) / UNET).read_bytes() == LARGE


@pytest.mark.parametrize("fault", ["wrong bytes", "truncates", 404, 503])
def test_faults_that_stay_end_in_one_line(hub, fault):
    for revision in ("main", SHA):
        hub.always[f"/{TURBO}/resolve/{revision}/{UNET}"] = fault
    with pytest.raises(HvfError, match=f"cannot download {UNET} of {TURBO}") as error:
        get(hub, attempts=2)
    assert "\n" not in str(error.value)
    assert TURBO in [one.repository for one in missing(hub.config)]


def test_a_full_disk_is_refused_before_the_first_byte(hub, monkeypatch):
    free = SimpleNamespace(free=1_000_000)
    monkeypatch.setattr(catalogue.shutil, "disk_usage", lambda path: free)
    with pytest.raises(HvfError, match=r"the weights needs? 0.00 GB more .* \$HF_HOME"):
        get(hub)
    assert not any("/resolve/" in name for _, name, _ in hub.requests)


def test_a_repository_that_lacks_a_file_is_refused(hub):
    offer(hub, TURBO, {"model_index.json": b"{}"})
    with pytest.raises(HvfError, match="sdxl-turbo at .* has no scheduler/scheduler_config.json"):
        get(hub)
    del hub.answers[f"/api/models/{PRIOR}"]
    hub.answers.pop(f"/api/models/{PRIOR}/revision/main")


def test_folders_and_shipped_models_need_nothing(tmp_path):
    assert required(presets.mini()) == []
    own = with_settings(presets.things_eeg(), {"prior.path": str(tmp_path), "prior.pipeline": "mini"})
    assert required(own) == []  # which encoders it fuses the folder says, when it is read
    other = with_settings(presets.things_eeg(), {"prior.path": "you/prior"})
    assert [one.repository for one in required(other)] == [TURBO, "you/prior"]


def test_a_pipeline_in_another_layout_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(hub_weights, "snapshot", lambda repository: tmp_path)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "X", "unet": ["diffusers", "Y"], "image_encoder": [null, null]}'
    )
    one = [one for one in required(presets.things_eeg()) if one.repository == TURBO]
    assert not hub_weights._is_here(one[0])
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"")
    assert hub_weights._is_here(one[0])


def snapshot_of(tmp_path, monkeypatch, files: dict[str, str]) -> Path:
    """A repository's folder in the cache, with these files."""
    monkeypatch.setattr(hub_weights, "snapshot", lambda repository: tmp_path)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


MAPPED = json.dumps({"weight_map": {"a": "w-00001-of-00002.safetensors", "b": "w-00002-of-00002.safetensors"}})
SHARDS = {"w.safetensors.index.json": MAPPED, "w-00001-of-00002.safetensors": "", "w-00002-of-00002.safetensors": ""}


@pytest.mark.parametrize(
    ("unet", "whole"),
    [
        ({"config.json": "{}", "w.safetensors": ""}, True),
        ({"config.json": "{}", "w.bin": ""}, True),
        ({"config.json": "{}", **SHARDS}, True),
        ({"config.json": "{}", "w.fp16.safetensors": ""}, False),  # what variant="fp16" left in the cache
        ({"config.json": "{}", "w.safetensors.index.json": MAPPED, "w-00001-of-00002.safetensors": ""}, False),
        ({"config.json": "{}", "w-00001-of-00002.safetensors": "", "w-00002-of-00002.safetensors": ""}, False),
        ({"w.safetensors": ""}, False),  # its config had not come yet
    ],
)
def test_a_pipeline_is_here_where_its_weights_can_be_read(tmp_path, monkeypatch, unet, whole):
    index = {"unet": ["diffusers", "U"], "scheduler": ["diffusers", "S"]}
    files = {"model_index.json": json.dumps(index), "scheduler/scheduler_config.json": "{}"}
    snapshot_of(tmp_path, monkeypatch, files | {f"unet/{name}": content for name, content in unet.items()})
    assert (TURBO not in [one.repository for one in missing(presets.things_eeg())]) is whole


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        (("fusion_encoder", "proj", "attn_adapter"), True),
        (("fusion_encoder", "proj"), False),  # a download that was killed between two folders
        ((".",), True),  # ours
    ],
)
def test_a_prior_is_here_where_all_its_parts_are(tmp_path, monkeypatch, parts, whole):
    files = [f"{part}/{name}" for part in parts for name in ("config.json", "diffusion_pytorch_model.safetensors")]
    snapshot_of(tmp_path, monkeypatch, dict.fromkeys(files, "{}"))
    assert (PRIOR not in [one.repository for one in missing(presets.things_eeg())]) is whole
    (tmp_path / files[-1]).unlink()
    assert PRIOR in [one.repository for one in missing(presets.things_eeg())]


def test_offline_a_prior_in_parts_names_the_command_that_fetches_it(tmp_path, monkeypatch):
    part = tmp_path / "models--you--prior" / "snapshots" / SHA / "fusion_encoder"
    part.mkdir(parents=True)
    (part / "config.json").write_text("{}")
    (tmp_path / "models--you--prior" / "refs").mkdir()
    (tmp_path / "models--you--prior" / "refs" / "main").write_text(SHA)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(loading, "snapshot_download", lambda name, allow_patterns: str(part.parent))
    with pytest.raises(HvfError, match="you/prior is not whole on this machine: fetch it with `hf download you/prior`"):
        loading.load_prior("you/prior")


BRAIN_HIVE = {"proj_meta": {"CLIP-ViT-B-32-laion2B-s34B-b79K": 512, "SynCLR": 768}, "hidden_size": 1024}


@pytest.mark.parametrize(
    ("file", "config", "specs"),
    [
        ("config.json", {"specs": ["openclip:ViT-B-32/laion2b_s34b_b79k"]}, ("openclip:ViT-B-32/laion2b_s34b_b79k",)),
        ("fusion_encoder/config.json", BRAIN_HIVE, ("openclip:ViT-B-32/laion2b_s34b_b79k", "SynCLR")),
    ],
)
def test_the_encoders_are_those_that_the_prior_fuses(tmp_path, file, config, specs):
    """Not those of the preset: a prior without ViT-H-14 was measured by it, and not drawn with where it was missing."""
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(json.dumps(config))
    drawn = presets.in_mode(presets.things_eeg(), "reconstruction", {"prior.path": str(tmp_path)})
    assert fused_specs(drawn) == specs
    assert [one.repository for one in required(drawn)] == ["laion/CLIP-ViT-B-32-laion2B-s34B-b79K", TURBO]
    assert stages._two_way_encoders(drawn) == {specs[0]: "two_way_ViT-B-32"}
    assert fused_specs(presets.things_eeg()) == presets.things_eeg().targets.specs
    gone = with_settings(drawn, {"prior.path": str(tmp_path / "gone")})
    assert fused_specs(gone) == presets.things_eeg().targets.specs


def test_the_presets_own_priors_fuse_what_the_presets_say():
    mini = presets.in_mode(presets.mini(), "reconstruction")
    assert fused_specs(mini) == mini.targets.specs


def test_two_way_scores_of_one_model_are_told_by_its_weights(tmp_path):
    """The second one took the first one's place."""
    specs = ["openclip:ViT-B-32/openai", "openclip:ViT-B-32/laion2b_s34b_b79k", f"openclip:{tmp_path}", "vae:sdxl"]
    config = with_settings(presets.things_eeg(), {"targets.specs": tuple(specs)})
    names = list(stages._two_way_encoders(config).values())
    assert names[:2] == ["two_way_ViT-B-32-openai", "two_way_ViT-B-32-laion2b_s34b_b79k"]
    assert "/" not in names[2]


def test_offline_nothing_is_waited_for(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(catalogue, "wait", lambda *_: pytest.fail("waited"))
    with pytest.raises(HvfError, match="offline mode is enabled"):
        fetch_all(required(presets.things_eeg()), "https://huggingface.co")


WITHOUT = """
import sys, time
begun = time.process_time()
from hvf.cli import main
code = main(sys.argv[1:])
print(code, time.process_time() - begun, sorted({"torch", "diffusers", "transformers", "open_clip"} & set(sys.modules)))
"""


def test_without_weights_all_is_said_before_anything_heavy_is_loaded(tmp_path):
    np.save(tmp_path / "responses.npy", np.zeros((4, 3), np.float32))
    (tmp_path / "images").mkdir()
    words = ["reconstruct", "--preset", "things-eeg", "--trials", "responses.npy", "--images", "images", "--out", "run"]
    environment = os.environ | {"HF_HOME": str(tmp_path / "empty"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", WITHOUT, *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    code, seconds, heavy = done.stdout.split(maxsplit=2)
    assert (code, heavy.strip()) == ("2", "[]")
    assert float(seconds) < 5
    lines = done.stderr.splitlines()
    assert len(lines) == 6
    for weights, line in zip(required(presets.things_eeg()), lines, strict=False):
        assert line == f"{weights.what}, about {weights.gigabytes} GB: {weights.command}"
    assert lines[-1].endswith("about 20.2 GB; all at once: hvf data download weights --preset things-eeg")
    assert not (tmp_path / "run").exists()


def test_the_command_fetches_them(hub, tmp_path, capsys):
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url}
    command = [sys.executable, "-m", "hvf", "data", "download", "weights", "--preset", "things-eeg"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "things-eeg: 5 sets of weights, 0.0 GB, are on this machine", done.stderr
    for words in (["weights"], ["things-images", "--preset", "mini"], ["weights", "--preset", "mini", "--out", "x"]):
        assert main(["data", "download", *words]) == 2
        assert "hvf data download weights --preset things-eeg" in capsys.readouterr().err
    assert main(["data", "download", "weights", "--preset", "mini"]) == 0


def test_a_misspelt_folder_is_said_to_be_none_and_no_size_is_made_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lacking = [hub_weights.HubWeights("Fusion Prior", "mine/priro", ("*",))]
    lines, about = hub_weights.not_here(presets.mini(), lacking)
    assert lines == ["Fusion Prior, of a size that is not known here: hf download mine/priro"]
    assert about == "weights are missing on this machine; the commands stand above"
    (tmp_path / "mine").mkdir()
    lines, _ = hub_weights.not_here(presets.mini(), lacking)
    assert lines[0].endswith("hf download mine/priro (there is no mine/priro on this machine, but a folder mine)")
