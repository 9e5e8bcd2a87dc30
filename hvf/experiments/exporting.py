"""`hvf export`: what a run draws from, for drawing it without hvf.

A folder with the adapter (`ip-adapter.safetensors`), the projected embeddings z_c of every row, the latents that they
start from where that is not noise alone, the settings and the seeds of the noise, and a script that makes the pictures
of them with diffusers and safetensors alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from hvf.config import HvfError
from hvf.decoder import Decoder
from hvf.decoding import artefact
from hvf.evaluation.pictures import ROWS
from hvf.experiments.results import Result
from hvf.experiments.run_pictures import picture_names
from hvf.experiments.stages import made_ready, to_draw
from hvf.files.tensors import read_tensors
from hvf.prior import reconstruction
from hvf.runs import Run, code_version, temporary_beside, write_atomic, write_json
from hvf.vision.weights import MINI_WEIGHTS

Z_C, SETTINGS, SCRIPT, PIPELINE = "z_c.safetensors", "settings.json", "draw.py", "pipeline"
INITIAL_LATENTS = "initial_latents.safetensors"


def export_run(run: Run, out: Path, device: str = "cpu") -> None:
    """Write what a run draws from into a new folder; the pipeline itself only where it is the mini one.

    Raises HvfError, writing nothing, if the run does not draw by a Fusion Prior, or was not tested yet.
    """
    config = run.config
    if config.align.mode != "reconstruction":
        raise HvfError(f"{run.path} has no embeddings that a Fusion Prior draws from: export a run of hvf reconstruct")
    if not run.has("embeddings.safetensors"):
        raise HvfError(f"{run.path} holds no embeddings of test images: run hvf reconstruct first")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise HvfError(f"{out} holds something already: choose another --out")
    decoder = made_ready(Decoder.load(artefact.find(run.path), device), config.data)
    z, _ = read_tensors(run.path / "embeddings.safetensors")
    drawn = {row: to_draw(decoder, row, z[f"z_{row}"]) for row in ROWS}
    prior = decoder.prior
    with torch.no_grad():
        z_c = {row: prior.project(torch.from_numpy(z_ND).float().to(device)).cpu() for row, z_ND in drawn.items()}
    ids = Result.read(run.path).image_ids
    sampling, drawer = config.sampling, decoder.reconstructor
    scheduler = drawer.make_scheduler(sampling.scheduler)
    plain: dict[str, Any] = {k: v for k, v in dict(scheduler.config).items() if k != "_use_default_values"}
    settings = {
        "pipeline": config.prior.pipeline,
        "scheduler": {"_class_name": type(scheduler).__name__} | plain,
        "steps": sampling.steps,
        "guidance": sampling.guidance,
        "names": picture_names(ids),
        "seeds": [
            [reconstruction.noise_seed(sampling.seed, r, i) for i in range(len(ids))] for r in range(sampling.rounds)
        ],
        "code": code_version(),
    }
    initial_latents = {}
    if sampling.start == "latents":
        initial_latents = {row: drawer.initial_latents(z_ND) for row, z_ND in drawn.items()}
        settings["steps_done"] = {row: drawer.steps_done(z_ND, sampling).tolist() for row, z_ND in drawn.items()}
    tmp = temporary_beside(out)
    try:
        tmp.mkdir(parents=True)
        prior.export_ip_adapter(tmp)
        _write_rows({row: x.numpy() for row, x in z_c.items()}, ids, "z_c of the Fusion Prior, (N, D)", tmp / Z_C)
        if initial_latents:
            what = "latents that denoising starts from, (N, C, h, w)"
            _write_rows(initial_latents, ids, what, tmp / INITIAL_LATENTS)
        shutil.copyfile(Path(reconstruction.__file__).with_name("draw.txt"), tmp / SCRIPT)
        if config.prior.pipeline == "mini":
            shutil.copytree(MINI_WEIGHTS / "sdxl", tmp / PIPELINE)
        write_json(tmp / SETTINGS, settings)
        if out.exists():
            out.rmdir()
        tmp.rename(out)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise


def _write_rows(rows: Mapping[str, np.ndarray], ids: Sequence[str], what: str, path: Path) -> None:
    """Arrays by row, with the images' names in the file's metadata."""
    arrays = {row: np.ascontiguousarray(x) for row, x in rows.items()}
    said = {"image_ids": json.dumps(list(ids)), "what": f"{what} for each row"}
    write_atomic(path, lambda tmp: save_file(arrays, tmp, said))
