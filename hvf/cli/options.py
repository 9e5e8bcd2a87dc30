"""Options that commands and scripts share: whose data, what a run is called."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, cast

from tyro.conf import arg

from hvf import presets
from hvf.cli.endings import run_to_end
from hvf.cli.parser import Configured, preset_named, read_options
from hvf.config import EXECUTION_ONLY, SUBJECTS, Config, flatten
from hvf.registry import FEATURES, HvfError, did_you_mean, feature_file

Settings = TypeVar("Settings")

# An option that is not given is None: the preset decides. `Union`, None first: for other types that allow None tyro
# imports typeguard, and --help takes half as long again.
Int = Annotated[Union[None, int], arg(metavar="N", constructor=int, help_behavior_hint="")]  # noqa: UP007
Ints = Annotated[Union[None, tuple[int, ...]], arg(metavar="N [N ...]", help_behavior_hint="")]  # noqa: UP007
Float = Annotated[Union[None, float], arg(metavar="X", constructor=float, help_behavior_hint="")]  # noqa: UP007
Word = Annotated[Union[None, str], arg(metavar="NAME", constructor=str, help_behavior_hint="")]  # noqa: UP007
Folder = Annotated[Union[None, Path], arg(metavar="PATH", constructor=Path, help_behavior_hint="")]  # noqa: UP007
Words = Annotated[Union[None, tuple[str, ...]], arg(metavar="NAME [NAME ...]", help_behavior_hint="")]  # noqa: UP007
Specs = Annotated[Union[None, tuple[str, ...]], arg(metavar="SPEC [SPEC ...]", help_behavior_hint="")]  # noqa: UP007


@dataclass(frozen=True)
class StudyOptions(Configured):
    """Options of whatever decodes a study."""

    study: Word = None  # simulated-eeg (the default), simulated-eeg-hard, simulated-meg, or files
    subject: Int = None  # whose responses, of a simulated study or of a folder of trials (default: 8)
    trials: Folder = None  # responses: prepared ones (file or folder), .npy (N, C) or (N, C, T), or -epo.fif
    images: Folder = None  # the images they answer: folder, zip or features:FILE#KEY; in order unless trials name them
    test_images: Int = None  # how many of your images are held out for testing (default: 200)
    targets: Specs = None  # visual encoders to decode towards, e.g. openclip:mini-vit vae:mini
    epochs: Int = None  # passes of brain training over the images
    seed: Int = None  # of training and sampling

    def aliased(self) -> dict[str, Any]:
        settings = super().aliased() | study_settings(self.subject, self.trials, self.images, self.study)
        images = settings.get("data.images", self.settings.get("data.images"))
        if images is not None and feature_file(images) and "targets.specs" not in {**self.settings, **settings}:
            settings["targets.specs"] = (str(feature_file(images)),)  # whoever has no pictures decodes towards these
        return settings


def parse_settings(default: Settings, argv: Sequence[str] | None = None) -> Settings:
    """`default` with the options of a command line (None: this process's) put in; raises as `parse` does."""
    return read_options(type(default), default, sys.argv[1:] if argv is None else list(argv))


def parse_preset(
    known: Mapping[str, Callable[[], Settings]], argv: Sequence[str] | None = None, first: str = "mini"
) -> Settings:
    """The preset of options that ``--preset`` names (none: `first`), with the options given beside it."""
    words = sys.argv[1:] if argv is None else list(argv)
    name = preset_named(words, first)
    if name not in known:
        raise HvfError(f"there is no preset {name!r}{did_you_mean(name, known)}")
    return parse_settings(known[name](), words)


def run_script(main: Callable[[Sequence[str] | None], object], argv: Sequence[str] | None = None) -> int:
    """Run a script's `main` on its arguments; the exit code (`hvf.cli.endings`)."""

    def work() -> int:
        main(argv)
        return 0

    return run_to_end(work)


def script(main: Callable[[Sequence[str] | None], object]) -> Callable[..., int]:
    """A script's `main` as it is called, with its arguments or the command line's, for its exit code (`run_script`)."""

    @wraps(main)
    def ended(arguments: Sequence[str] | None = None) -> int:
        return run_script(main, arguments)

    return ended


def study_settings(
    subject: int | None, trials: Path | None, images: Path | None, study: str | None = None
) -> dict[str, Any]:
    """The settings that --subject, --trials, --images and --study stand for; None: not given.

    Paths are absolute, because a run is opened again from elsewhere. Raises HvfError for files of a simulated study.
    """
    if study not in (None, "files") and (trials or images):
        raise HvfError(f"--trials and --images need --study files, not {study!r}")
    settings: dict[str, Any] = {} if subject is None else {"data.subject": subject}
    settings |= {} if study is None else {"data.study": study}
    for name, path in (("trials", trials), ("images", images)):
        file = feature_file(path) if path is not None and name == "images" else None
        place = None if path is None else str(file.absolute() if file else path.expanduser().absolute())
        settings |= {} if place is None else {"data.study": "files", f"data.{name}": place}
    return settings


def check_people(subjects: Sequence[int], study: str, trials: str | Path | None) -> None:
    """Refuse --subjects that name nobody, somebody twice, or several of a file, which holds one."""
    if not subjects:
        raise HvfError("--subjects names nobody: give the numbers of people")
    if len(set(subjects)) < len(subjects):
        raise HvfError(f"--subjects names one twice: {' '.join(map(str, subjects))}")
    if len(subjects) > 1 and study not in SUBJECTS and not Path(trials or "").is_dir():
        raise HvfError(
            f"--subjects names {len(subjects)} people, but {trials or study} is of one: give a folder of prepared "
            f"subjects, or a study of several ({', '.join(SUBJECTS)})"
        )


def _brief(value: object) -> str:
    """A value in the name of a run: of a file of features its stem and key."""
    file = feature_file(str(value)) if str(value).startswith(FEATURES) else None
    return f"{Path(file.path).stem}-{file.key or ''}".rstrip("-") if file else str(value)


def run_name(config: Config) -> str:
    """A readable folder name: whose data, then every setting that differs from the preset, e.g. "sub-08-eeg-seed-1"."""
    data = config.data
    if data.study in SUBJECTS:
        words = [f"sub-{data.subject:02d}", data.study.removeprefix("simulated-")]
    else:
        words = [Path(data.trials or data.study).stem]
        if data.trials is None or Path(data.trials).is_dir():  # of several subjects
            words.append(f"sub-{data.subject:02d}")
    if config.name != "mini":
        words.insert(0, config.name)
    named = {"data.asked", "data.study", "data.subject", "data.trials", "data.images"} | EXECUTION_ONLY
    usual = dict(flatten(presets.get(config.name))) | presets.settings_of(config.name, config.align.mode)
    for name, value in flatten(config):
        if name in named or value == usual[name]:
            continue
        leaf = name.rpartition(".")[2]
        value = Path(str(value)).stem if name == "brain.weights" else value
        label = "-".join(map(_brief, cast("tuple[Any, ...]", value))) if isinstance(value, tuple) else str(value)
        word = label if leaf in ("mode", "specs") else f"{leaf}-{label}"
        if word not in words:  # one --seed sets two
            words.append(word)
    return re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(words)).strip("-.")[:120]
