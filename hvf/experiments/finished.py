"""Whether a run is finished: nothing that it is made from, and nothing that it left, has changed since it was.

A command that is given again then has nothing to load. Importing this loads no torch.
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from hvf import presets
from hvf.config import Config
from hvf.files.remembered import Remembered
from hvf.registry import feature_file
from hvf.runs import Run, code_version
from hvf.vision.specs import parse_spec
from hvf.vision.weights import MINI_WEIGHTS

FOLDER = "runs"  # in the cache folder
TICK = 0.2  # s; a file that was written less long ago could be written again under the same time


def is_finished(run: Run) -> bool:
    """Whether `keep_finished` saw the run as it is now, by this version of hvf."""
    return Remembered(_files(run), _about(run), FOLDER).get("finished") is True


def keep_finished(run: Run) -> None:
    """Remember, in the cache folder, that all of the run is done."""
    time.sleep(TICK)
    Remembered(_files(run), _about(run), FOLDER).put({"finished": True})


def _about(run: Run) -> str:
    return f"run {run.path.resolve()} by {code_version()}"


def _files(run: Run) -> list[Path]:
    """Every file that the run is made from, and every one in its folder."""
    return sorted({path.absolute() for path in (*_inputs(run.config), *_inside(run.path))})


def _inputs(config: Config) -> Iterator[Path]:
    """Recordings, images, files of features, and weights that are folders or came from the Hub."""
    yield from data_files(config)
    yield from _files_of((config.prior.path, config.prior.pipeline, config.brain.weights))
    for spec in map(parse_spec, config.targets.specs):
        yield from _files_of((spec.name, spec.weights))  # where they are paths
    yield from _inside(MINI_WEIGHTS)
    if _weights_named(config) != _weights_named(presets.mini()):  # of which none is on the Hub
        from hvf.prior.hub_weights import required, snapshot

        for folder in filter(None, (snapshot(weights.repository) for weights in required(config))):
            yield from _inside(folder)


def _weights_named(config: Config) -> tuple[str, ...]:
    return config.prior.path, config.prior.pipeline, *config.targets.specs


def data_files(config: Config) -> Iterator[Path]:
    """All files that trials, images and features are read from; of a simulated study there may be none."""
    if config.data.trials is not None:
        trials = Path(config.data.trials)
        # With its sidecar, or the parts that a large FIF file comes in.
        beside = trials.parent.glob(f"{glob.escape(trials.stem.removesuffix('-epo'))}*")
        yield from _inside(trials) if trials.is_dir() else (path for path in beside if path.is_file())
    yield from _files_of((config.data.images, *config.targets.specs))


def _files_of(names: Iterable[str | None]) -> Iterator[Path]:
    """The files of those names, of weights, images or features, that are paths: in folders, all of them."""
    for name in filter(None, names):
        file = feature_file(name)
        yield from _inside(Path(name if file is None else file.path).expanduser())


def _inside(place: Path) -> Iterator[Path]:
    """A file, or all files of a folder; hidden ones are being written."""
    if place.is_file():
        yield place
    for folder, _, names in os.walk(place):
        yield from (Path(folder) / name for name in names if not name.startswith("."))
