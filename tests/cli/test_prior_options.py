"""`hvf reconstruct` with somebody's prior and pipeline: the flags, what they refuse, and a whole run from folders."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest

from hvf import presets
from hvf.cli import Reconstruct, Retrieve, main
from hvf.cli.parser import parse
from hvf.config import HvfError, check_files, with_settings
from hvf.vision.weights import MINI_WEIGHTS

PUBLISHED = "fakekungfu/Fusion-Prior-SynCLR_B32_VAE"


def resolved(*flags: str):
    return parse(Reconstruct, flags).config


def test_hub_ids_stay_and_folders_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-prior").mkdir()
    config = resolved("--prior", "my-prior", "--pipeline", "stabilityai/sdxl-turbo")
    assert config.prior.path == str(tmp_path / "my-prior")
    assert config.prior.pipeline == "stabilityai/sdxl-turbo"
    assert resolved("--preset", "things-eeg").prior == presets.things_eeg().prior
    assert resolved("--preset", "things-eeg", "--prior", PUBLISHED).prior.path == PUBLISHED
    assert resolved().prior == presets.mini().prior


def test_base_turbo_and_img2img_are_flags():
    base = resolved("--pipeline", "stabilityai/stable-diffusion-xl-base-1.0", "--steps", "30", "--guidance", "5")
    assert (base.sampling.steps, base.sampling.guidance) == (30, 5.0)
    turbo = resolved("--preset", "things-eeg").sampling
    assert (turbo.steps, turbo.guidance, turbo.rounds) == (4, 0.0, 10)
    drawn = resolved("--start", "latents", "--strength", "0.5", "--rounds", "3").sampling
    assert (drawn.start, drawn.strength, drawn.rounds) == ("latents", 0.5, 3)
    assert resolved("--start", "latents").sampling.strength is None  # as uncertain as the embedding is


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sampling.start": "latent"}, "sampling.start is 'latent'; did you mean 'latents'"),
        ({"sampling.strength": 0.0}, "sampling.strength must be at most 1"),
        ({"sampling.strength": 1.5}, "sampling.strength must be at most 1"),
        ({"sampling.start": "noise", "sampling.strength": 0.5}, "sampling.strength is for sampling.start 'latents'"),
        ({"sampling.start": "latents", "sampling.steps": 4, "sampling.strength": 0.2}, "leave one of 4 steps to do"),
    ],
)
def test_impossible_sampling_is_refused(settings, said):
    with pytest.raises(HvfError, match=said):
        check_files(with_settings(presets.mini(), settings))
    for start in ("noise", "latents"):
        check_files(with_settings(presets.mini(), {"sampling.steps": 1, "sampling.start": start}))


def test_a_prior_that_is_nowhere_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["reconstruct", "--prior", "./nowhere"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("hvf: ")
    assert "no Fusion Prior at ./nowhere" in said or "no Fusion Prior at nowhere" in said
    assert not list(tmp_path.rglob("config.json"))


def test_help_names_the_flags(capsys):
    with pytest.raises(SystemExit):
        main(["reconstruct", "--help"])
    said = capsys.readouterr().out
    assert all(flag in said for flag in ("--prior", "--pipeline", "--start", "--strength", "--rounds"))
    assert "Draw the seen images, from the brain;" in said
    assert "by what the embedding leaves open" in " ".join(said.replace("│", " ").split())


@pytest.mark.slow(part=6)
def test_from_a_prior_in_a_folder_to_rounds_of_pictures(tmp_path, monkeypatch):
    """The command of the README for a user who has a prior and no ImageNet, at the mini size, from local folders."""
    monkeypatch.chdir(tmp_path)
    small = {"data.train_concepts": 20, "data.images_per_concept": 2, "data.test_concepts": 20, "align.epochs": 2}
    preset = with_settings(presets.mini(), {**small, "data.test_repeats": 4})
    monkeypatch.setitem(presets.PRESETS, "mini", lambda: preset)
    flags = [
        "--prior",
        str(MINI_WEIGHTS / "prior"),
        "--pipeline",
        str(MINI_WEIGHTS / "sdxl"),
        "--steps",
        "2",
        "--rounds",
        "2",
    ]
    assert main(["reconstruct", *flags, "--start", "latents", "--out", "it"]) == 0
    run = types.SimpleNamespace(path=Path("it"))
    for row in ("ceiling", "brain", "floor"):
        for r in range(2):
            assert len(list((run.path / "images" / row / f"round_{r}").glob("*.png"))) == 20
    figures = json.loads((run.path / "metrics.json").read_text())
    assert figures["reconstruction/brain/pixcorr"]["n"] == 20
    assert json.loads((run.path / "config.json").read_text())["prior"]["path"] == str(MINI_WEIGHTS / "prior")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--seed 3 --sampling.seed 9", "--sampling.seed 9 contradicts 3"),
        ("--epochs 3 --align.epochs 9", "--align.epochs 9 contradicts 3"),
        ("--trials a.npy --data.trials b.npy", r"--data.trials b.npy contradicts /\S*/a.npy"),
        ("--trials a.npy --data.study simulated-meg", "--data.study simulated-meg contradicts files"),
        ("--align.mode latents", "--align.mode latents contradicts reconstruction"),
        ("--draw latents --brain.encoder mbp", "brain.encoder is 'ridge' where latents are drawn from"),
        ("--draw latents --sampling.posterior-mean 0.5", "sampling.posterior_mean is 0.0 where latents are drawn from"),
        ("--draw latents --targets.specs openclip:mini-vit", "latents are drawn from one VAE"),
        ("--draw latents --sampling.steps 50", "--sampling.steps: leave it out with --draw latents"),
        ("--draw latents --prior.path x", "--prior.path: leave it out with --draw latents"),
        ("--trials a.npy --data.train-concepts 7", "data.train_concepts is for simulated studies"),
        ("--test-images 10", "data.test_images is for your own files"),
        ("--subjects", "--subjects names nobody"),
        ("--subjects 1 2 --trials a.npy --images b.zip", "--subjects names 2 people, but /.*/a.npy is of one"),
    ],
)
def test_what_contradicts_itself_is_refused(words, said, tmp_path, monkeypatch):
    """An option never wins over another in silence, whatever their order."""
    monkeypatch.chdir(tmp_path)
    options = words.split(" --")
    for ordered in (options, options[::-1]):
        with pytest.raises(HvfError, match=said):
            parse(Reconstruct, [part for word in ordered for part in f"--{word.removeprefix('--')}".split()])()
    assert list(tmp_path.iterdir()) == []


def test_what_agrees_may_be_said_twice():
    assert resolved("--seed", "3", "--align.seed", "3").align.seed == 3
    latents = resolved("--draw", "latents", "--targets.specs", "vae:mini@32", "--brain.encoder", "ridge")
    assert (latents.targets.specs, latents.brain.encoder) == (("vae:mini@32",), "ridge")


def test_settings_that_are_paths_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "prior").mkdir()
    (tmp_path / "mini").mkdir()
    given = resolved(
        "--data.trials", "a.npy", "--data.images", "~/images", "--prior.path", "prior", "--pipeline", "mini"
    )
    assert (given.data.study, given.data.trials) == ("files", str(tmp_path / "a.npy"))
    assert (given.data.images, given.prior.path) == (str(home / "images"), str(tmp_path / "prior"))
    assert given.prior.pipeline == "mini"  # package data, whatever lies here
    drawn = resolved("--draw", "latents", "--targets", "vae:./taesd@64")
    assert drawn.targets.specs == (f"vae:{tmp_path}/taesd@64",)
    assert parse(Retrieve, ["--trials", "~/x.npy"]).config.data.trials == str(home / "x.npy")
