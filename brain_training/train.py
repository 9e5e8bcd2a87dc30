"""Train brain encoders by a protocol, over several seeds, and test each once: a run folder per seed and their mean.

    accelerate launch brain_training/train.py [--subject 8] [--protocol intra|loso] [--seeds 3] [--out DIR]

intra: trained and tested on one subject. loso: trained on all other subjects of the study, or of a folder of prepared
ones (`--trials DIR --images DIR`), tested on this one. Every setting of a configuration is an option too
(`--align.epochs 50`, see --help). Several processes share the seeds; a seed that is finished is not trained again.
Letters: N trials, C channels, T samples.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from accelerate import PartialState

from hvf import alignment, presets, retrieval
from hvf.alignment import Alignment
from hvf.config import SUBJECTS, Config, DataConfig, HvfError, check, with_settings
from hvf.data.study import Study, open_study, other_subjects
from hvf.data.trials import Trials
from hvf.decoder import Decoder
from hvf.runs import Run
from hvf.scripts import parse_preset, run_script

FIGURES = ("top1", "top5", "mrr")
FLOOR_SEED = 0


@dataclass(frozen=True)
class Training:
    """Train brain encoders by a protocol, over several seeds, and test each once."""

    config: Annotated[Config, tyro.conf.arg(name="")]  # every setting of the preset
    preset: str = "mini"  # a whole configuration: mini, things-eeg, things-meg
    subject: int | None = None  # whose test trials; the same as --data.subject
    trials: Path | None = None  # your own responses, or a folder of prepared subjects; same as --data.trials
    images: Path | None = None  # the images they answer: folder or zip
    protocol: Literal["intra", "loso"] = "intra"  # train on this subject, or on all others of the study
    seeds: int = 3  # how many seeds, from --align.seed up
    out: Path | None = None  # the folder of runs (default: a readable name in runs/)


@dataclass(frozen=True)
class Material:
    """What one protocol trains and tests on; row i of `train` shows image `row_N[i]` of the study's training images."""

    train: Trials
    row_N: np.ndarray
    study: Study


def train(options: Training) -> Path:
    """Train and test all seeds, write everything, and return the folder. Raises HvfError before writing if refused."""
    state = PartialState()
    settings: dict[str, Any] = {} if options.subject is None else {"data.subject": options.subject}
    for name in ("trials", "images"):
        path = getattr(options, name)
        settings |= {} if path is None else {"data.study": "files", f"data.{name}": str(path.absolute())}
    config = with_settings(options.config, settings)
    check(config)
    several = config.data.study in SUBJECTS or Path(config.data.trials or "").is_dir()
    if options.protocol == "loso" and not several:
        studies = " or ".join(SUBJECTS)
        raise HvfError(
            f"--protocol loso needs a study of several subjects: {studies}, or --trials DIR of prepared ones"
        )
    if options.seeds < 1:
        raise HvfError(f"--seeds must be at least 1, not {options.seeds}")
    who = f"sub-{config.data.subject:02d}" if several else Path(config.data.trials or "").stem
    out = options.out or Path("runs") / f"{who}-{config.data.study}-{options.protocol}-{options.seeds}-seeds"
    seeds = range(config.align.seed, config.align.seed + options.seeds)
    with state.main_process_first():
        _claim(out, config, options.protocol)
    material = _material(config.data, options.protocol)
    for seed in list(seeds)[state.process_index :: state.num_processes]:
        run = Run.create(out / f"seed-{seed}", with_settings(config, {"align.seed": seed}))
        if not run.has("retrieval.json"):
            _train_seed(run, material, str(state.device))
        _recording(run).check(material.study.test)
    state.wait_for_everyone()
    if state.is_main_process:
        _summarise(out, config, seeds, material.study, options.protocol)
    return out


def _claim(out: Path, config: Config, protocol: str) -> None:
    """Make the folder, or enter it again if it belongs to the same protocol (and settings: Run.create sees to that)."""
    run = Run.create(out, config)
    if run.has("protocol.json") and run.read_json("protocol.json")["protocol"] != protocol:
        raise HvfError(f"{out} holds runs of the other protocol, not {protocol}: choose another --out")
    run.write_json("protocol.json", {"protocol": protocol})


def _material(data: DataConfig, protocol: str) -> Material:
    study = open_study(data)
    train = other_subjects(data, study) if protocol == "loso" else study.train
    row = {name: i for i, name in enumerate(study.train_images.ids)}
    return Material(train, np.array([row[name] for name in train.image_ids.tolist()]), study)


def _train_seed(run: Run, material: Material, device: str) -> None:
    study = material.study
    decoder = Decoder(run.config, device)
    hvf = decoder.prior.hvf if run.config.align.mode == "reconstruction" else None
    decoder.alignment = alignment.fit(
        material.train,
        decoder.features(study.train_images),
        run.config,
        study.train_images.concepts,
        hvf,
        device,
        image_N=material.row_N,
        images_digest=study.train_images.digest,
    )
    decoder.save(run.path / "checkpoint")
    run.write_json("history.json", decoder.alignment.history)
    test = study.test.aligned_to(study.test_images)
    ranks = {
        "brain": decoder.retrieve(test, study.test_images).ranks_N,
        "floor": decoder.retrieve(test.permuted(FLOOR_SEED), study.test_images).ranks_N,
    }
    run.write_metrics(_figures(ranks, None, len(study.test_images)))
    run.write_json("retrieval.json", {"image_ids": list(study.test_images.ids), **ranks})


def _recording(run: Run) -> alignment.Recording:
    return Alignment.load(run.path / "checkpoint").recording


def _figures(ranks: dict[str, np.ndarray], image_ids: list[str] | None, n: int) -> dict[str, dict]:
    """metrics.json entries of the rows brain and floor, and of chance among n images."""
    figures = {
        f"retrieval/{row}/{name}": entry
        for row, ranks_N in ranks.items()
        for name, entry in retrieval.summarise(ranks_N, image_ids).items()
    }
    return figures | {f"chance/retrieval/top{k}": retrieval.chance(k, n, n) for k in retrieval.KS}


def _summarise(out: Path, config: Config, seeds: range, study: Study, protocol: str) -> None:
    """The mean over seeds, its interval over images, and the spread over seeds: metrics.json and a table."""
    found = {seed: Run.open(out / f"seed-{seed}").read_json("retrieval.json") for seed in seeds}
    ids = [name for told in found.values() for name in told["image_ids"]]
    ranks = {row: np.concatenate([told[row] for told in found.values()]) for row in ("brain", "floor")}
    figures = _figures(ranks, ids, len(study.test_images))
    run = Run.open(out)
    run.write_metrics(figures, merge=False)
    each = {seed: Run.open(out / f"seed-{seed}").metrics() for seed in seeds}
    print(f"{study.note}; protocol {protocol}; {len(seeds)} seeds")
    for row in ("brain", "floor"):
        for name in FIGURES:
            entry = figures[f"retrieval/{row}/{name}"]
            low, high = entry["ci95"]
            spread = [m[f"retrieval/{row}/{name}"]["value"] for m in each.values()]
            chance = figures.get(f"chance/retrieval/{name}")
            told = f"  chance {chance['value']:.3f}" if chance else ""
            seen = f"seeds {min(spread):.3f} to {max(spread):.3f}"
            print(f"  {row:5} {name:4} {entry['value']:.3f}  95 % [{low:.3f}, {high:.3f}]  {seen}{told}")


def main(arguments: Sequence[str] | None = None) -> int:
    return run_script(run, arguments)


def run(arguments: Sequence[str] | None) -> None:
    known = {name: lambda name=name: Training(presets.get(name), name) for name in presets.PRESETS}
    out = train(parse_preset(known, arguments))
    if PartialState().is_main_process:
        print(f"wrote {out}")


if __name__ == "__main__":
    sys.exit(main())
