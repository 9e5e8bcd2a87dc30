"""The command line: each command resolves a configuration, opens a run folder and calls one stage of the decoder.

What the stages need is imported inside the commands, so that `hvf --help` answers at once.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, arg

from hvf import presets
from hvf.cli import data as cli_data
from hvf.cli.options import study_settings
from hvf.config import EXECUTION_ONLY, Config, HvfError, did_you_mean, flatten, with_settings
from hvf.evaluation.catalogue import chance_name
from hvf.runs import Run, cache_dir, check_writable, write_json

# The settings that each flag sets, beside those of `study_settings`.
FLAGS: dict[str, tuple[str, ...]] = {
    "test_images": ("data.test_images",),
    "targets": ("targets.specs",),
    "mode": ("align.mode",),
    "epochs": ("align.epochs",),
    "steps": ("sampling.steps",),
    "guidance": ("sampling.guidance",),
    "rounds": ("sampling.rounds",),
    "start": ("sampling.start",),
    "strength": ("sampling.strength",),
    "prior": ("prior.path",),
    "pipeline": ("prior.pipeline",),
    "seed": ("align.seed", "sampling.seed"),
}

# A flag that was not given is None: the preset decides.
Int = Annotated[int | None, arg(metavar="N", constructor=int, help_behavior_hint="")]
Float = Annotated[float | None, arg(metavar="X", constructor=float, help_behavior_hint="")]
Word = Annotated[str | None, arg(metavar="NAME", constructor=str, help_behavior_hint="")]
Folder = Annotated[Path | None, arg(metavar="PATH", constructor=Path, help_behavior_hint="")]
Words = Annotated[tuple[str, ...] | None, arg(metavar="NAME [NAME ...]", help_behavior_hint="")]
Specs = Annotated[tuple[str, ...] | None, arg(metavar="SPEC [SPEC ...]", help_behavior_hint="")]


@dataclass(frozen=True)
class _Stage:
    """What every stage of a run can be told."""

    preset: Annotated[str, arg(metavar="NAME")] = "mini"  # a whole configuration: mini, things-eeg, things-meg
    study: Word = None  # simulated-eeg (the default), simulated-meg, or files
    subject: Int = None  # whose responses, of a simulated study or of a folder of trials (default: 8)
    trials: Folder = None  # responses: prepared ones (file or folder), .npy (N, C) or (N, C, T), or -epo.fif
    images: Folder = None  # the images they answer: folder or zip; in the same order, unless the trials name them
    test_images: Int = None  # how many of your images are held out for testing (default: 200)
    targets: Specs = None  # visual encoders to decode towards, e.g. openclip:mini-vit vae:mini
    epochs: Int = None  # passes of brain training over the images
    seed: Int = None  # of training and sampling
    out: Folder = None  # the run folder (default: a readable name in runs/)

    def config(self) -> Config:
        """The preset with the flags that were given."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name in FLAGS}
        settings = {s: value for name, value in given.items() if value is not None for s in FLAGS[name]}
        settings |= study_settings(self.subject, self.trials, self.images, self.study)
        return with_settings(presets.get(self.preset), settings)

    def run_folder(self) -> Run:
        """The run that the flags describe, made or entered again."""
        config = self.config()
        if self.targets is not None and config.align.mode == "reconstruction":
            raise HvfError(
                "--targets cannot be chosen for drawing: the prior decides which encoders are decoded towards; "
                "leave it out, or give it to hvf retrieve"
            )
        return Run.create(self.out or Path("runs") / run_name(config), config)


@dataclass(frozen=True)
class Train(_Stage):
    """Train the brain encoder to meet the images' embeddings."""

    mode: Word = None  # retrieval (the default: the fusion trains too) or reconstruction (against the prior's own)

    def __call__(self) -> int:
        run = self.run_folder()
        with _unless_refused(run):
            from hvf.experiments import stages

            stages.train_run(run)
        return _done(run)


@dataclass(frozen=True)
class Retrieve(_Stage):
    """Find the seen images among the gallery, from the brain; or rank embeddings that somebody else computed."""

    embeddings: Word = None  # instead of a study: embeddings from the brain, row i of the image in row i of the gallery
    gallery: Word = None  # embeddings of the images; both .npy, .safetensors or .pt, FILE#KEY if a file holds several

    def __call__(self) -> int:
        if self.embeddings is not None or self.gallery is not None:
            return self._rank_embeddings()
        run = self.run_folder()
        with _unless_refused(run):
            from hvf import report
            from hvf.experiments import stages

            stages.retrieve_run(run)
            report.write_report([run.path], run.path / "report.html")
        return _done(run)

    def _rank_embeddings(self) -> int:
        if self.embeddings is None or self.gallery is None:
            raise HvfError("--embeddings and --gallery belong together: the brain's and the images'")
        if self.out is not None:
            if (self.out / "metrics.json").exists():
                raise HvfError(f"{self.out} holds figures already: choose another --out")
            check_writable(self.out / "metrics.json")
        from hvf.evaluation import retrieval
        from hvf.evaluation.embeddings import load_embeddings

        z_ND, gallery_MD = (load_embeddings(name) for name in (self.embeddings, self.gallery))
        if len(z_ND) != len(gallery_MD):
            raise HvfError(
                f"{len(z_ND)} embeddings from the brain but {len(gallery_MD)} images: row i must answer row i"
            )
        figures = retrieval.figures(retrieval.similarity(z_ND, gallery_MD))
        _show(figures, f"{Path(self.embeddings).name} among {len(gallery_MD)} images")
        if self.out is not None:
            write_json(self.out / "metrics.json", figures)
            print(f"wrote {self.out / 'metrics.json'}")
        return 0


@dataclass(frozen=True)
class Reconstruct(_Stage):
    """Draw the seen images, from the brain."""

    steps: Int = None  # denoising steps
    guidance: Float = None  # strength of classifier-free guidance; 1 or less switches it off
    rounds: Int = None  # pictures of each image, each from other noise
    start: Word = None  # what denoising starts from: noise, or latents predicted from the brain
    strength: Float = None  # with --start latents: the share of the steps that is still done
    prior: Word = None  # Fusion Prior: a folder, or a Hub id (owner/name); Brain-HIVE's published ones too
    pipeline: Word = None  # SDXL pipeline: a folder, or a Hub id such as stabilityai/sdxl-turbo

    def config(self) -> Config:
        # Only an encoder trained against the prior's frozen fusion speaks the language that the prior draws from.
        settings = {"align.mode": "reconstruction"}
        for name, given in (("prior.path", self.prior), ("prior.pipeline", self.pipeline)):
            if given is not None and Path(given).expanduser().exists():  # absolute: a run is opened from elsewhere too
                settings[name] = str(Path(given).expanduser().absolute())
        return with_settings(super().config(), settings)

    def __call__(self) -> int:
        run = self.run_folder()
        with _unless_refused(run):
            from hvf import report
            from hvf.experiments import stages

            stages.reconstruct_run(run)
            report.write_grid(run.path)
            report.write_report([run.path], run.path / "report.html")
        return _done(run)


@dataclass(frozen=True)
class Embed:
    """Compute the visual features of images, into the cache."""

    images: Folder = None  # folder or zip (default: the simulated study's images)
    targets: Specs = None  # visual encoders (default: the preset's)
    preset: Annotated[str, arg(metavar="NAME")] = "mini"  # where the encoders come from if not named

    def __call__(self) -> int:
        config = presets.get(self.preset)
        if self.images is not None and not self.images.exists():
            raise HvfError(f"--images: no such file or folder: {self.images}")
        if self.images is None and config.data.study == "files":
            raise HvfError(f"the preset {self.preset} has no images of its own: give --images FOLDER-OR-ZIP")
        check_writable(cache_dir())
        from hvf.vision.cache import embed

        if self.images is not None:
            from hvf.data.images.image_set import open_images

            sets = [open_images(self.images)]
        else:
            from hvf.study import stimuli

            sets = list(stimuli(config.data))
        for spec in self.targets if self.targets is not None else config.targets.specs:
            for images in sets:
                features_ND = embed(images, spec)
                print(f"{spec}: {features_ND.shape[0]} images, {features_ND.shape[1]} features each")
        print(f"wrote {cache_dir()}")
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Measure a run again from the files it left, or anybody's pictures. Exit code 1 if a run has something wrong."""

    run: Annotated[Positional[Path | None], arg(metavar="[RUN]", help_behavior_hint="")] = None  # a run folder
    recons: Folder = None  # instead of a run: a folder or zip of reconstructions, rounds in sub-folders or as _0 _1 ...
    images: Folder = None  # and of the images that were seen, matched by name, or by order where no names match
    metrics: Words = None  # which figures, e.g. pixcorr ssim clip (default: all that this machine has the networks for)
    weights: Folder = None  # a folder of network weights, beside those of torchvision and the Hub
    out: Folder = None  # a folder for the figures, of each image too (default: they are only shown)

    def __call__(self) -> int:
        if self.recons is not None or self.images is not None:
            return self._evaluate_pictures()
        if self.run is None:
            raise HvfError("name a folder: hvf evaluate RUN, or give --recons and --images")
        for name in ("metrics", "weights", "out"):
            if getattr(self, name) is not None:
                raise HvfError(f"--{name} belongs to --recons and --images; a run is measured as its settings say")
        run = Run.open(self.run)
        check_writable(run.path)
        from hvf.experiments import stages

        findings = stages.evaluate_run(run) or []
        _done(run)
        _say_not_computed(run.read_json("evaluation.json")["not_computed"] if run.has("evaluation.json") else {})
        for finding in findings:
            print(f"hvf: {finding}", file=sys.stderr)
        return 1 if findings else 0

    def _evaluate_pictures(self) -> int:
        if self.run is not None:
            raise HvfError("measure either a run or --recons and --images, not both")
        if self.recons is None or self.images is None:
            raise HvfError("--recons and --images belong together: what was drawn and what was seen")
        if self.out is not None and (self.out / "metrics.json").exists():
            raise HvfError(f"{self.out} holds figures already: choose another --out")
        from hvf.evaluation import pictures as evaluation

        found = evaluation.evaluate_pictures(self.recons, self.images, self.metrics, self.out, weights=self.weights)
        rounds = f", {found.protocol['rounds']} rounds" if found.protocol["rounds"] > 1 else ""
        title = (
            f"{self.recons.name}: {found.protocol['pairs']} pictures{rounds}, matched by {found.protocol['matched_by']}"
        )
        _show(found.metrics, title)
        _say_not_computed(found.not_computed)
        if self.out is not None:
            print(f"wrote {self.out}")
        return 0


@dataclass(frozen=True)
class Report:
    """Put runs, or folders of figures, on a page or in a table; two or more are tested against each other."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN ...]", help_behavior_hint="")]  # folders
    out: Folder = None  # page.html, table.md or table.tex (default: report.html in the only run, or in this folder)
    published: Word = None  # the field's figures beside ours: things-eeg or things-meg (default: the run's preset)

    def __call__(self) -> int:
        if not self.runs:
            raise HvfError("name at least one run folder: hvf report RUN [RUN ...]")
        out = self.out or (self.runs[0] / "report.html" if len(self.runs) == 1 else Path("report.html"))
        check_writable(out)
        from hvf import report

        for sentence in report.write(self.runs, out, self.published):
            print(sentence)
        print(f"wrote {out}")
        return 0


@dataclass(frozen=True)
class Explore:
    """Look at a run in the browser, image by image: what was retrieved and drawn. A second run stands beside it."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN]", help_behavior_hint="")]  # one or two
    port: Int = None  # on 127.0.0.1 (default: 8050, or the next that is free)

    def __call__(self) -> int:
        if not 1 <= len(self.runs) <= 2:
            raise HvfError("name one run folder, or two to compare: hvf explore RUN [RUN]")
        from hvf.report import explore

        explore.serve(self.runs, self.port)
        return 0


GROUPS = {"data": cli_data.COMMANDS}  # `hvf data prepare ...`
COMMANDS = {
    "reconstruct": Reconstruct,
    "retrieve": Retrieve,
    "train": Train,
    "embed": Embed,
    "evaluate": Evaluate,
    "report": Report,
    "explore": Explore,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0: done; 1: done, and something is wrong with what was looked at; 2: refused."""
    # Read when torch is loaded. Its threads otherwise wait for one another by spinning; where anything else wants a
    # core, they spin while the one that they wait for cannot run, and drawing takes fifteen times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return _parse(list(sys.argv[1:] if argv is None else argv))()
    except HvfError as error:
        print(f"hvf: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, e.g. `| head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a disk that fills up, a file that goes away: nothing that a traceback would explain
        print(f"hvf: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hvf: interrupted; the same command continues from what is finished", file=sys.stderr)
        return 130


def run_name(config: Config) -> str:
    """A readable folder name: whose data, then every setting that differs from the preset, e.g. "sub-08-eeg-seed-1"."""
    data = config.data
    if data.study == "files":
        words = [Path(data.trials or "files").stem]
        if Path(data.trials or "").is_dir():  # of several subjects
            words.append(f"sub-{data.subject:02d}")
    else:
        words = [f"sub-{data.subject:02d}", data.study.removeprefix("simulated-")]
    if config.name != "mini":
        words.insert(0, config.name)
    said = {"data.study", "data.subject", "data.trials", "data.images"} | EXECUTION_ONLY
    usual = dict(flatten(presets.get(config.name)))
    for name, value in flatten(config):
        if name in said or value == usual[name]:
            continue
        leaf = name.rpartition(".")[2]
        label = "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
        word = label if leaf in ("mode", "specs") else f"{leaf}-{label}"
        if word not in words:  # one --seed sets two
            words.append(word)
    return re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(words)).strip("-.")[:120]


def _parse(argv: list[str]) -> Callable[[], int]:
    """The command that `argv` asks for; misspelt commands and options are answered with the nearest one."""
    group = GROUPS.get(argv[0]) if argv else None  # `hvf data ...`
    if group is None:
        return _parse_among(COMMANDS, "hvf", "Decode what a person saw from EEG or MEG.", argv)
    return _parse_among(group, f"hvf {argv[0]}", "Recordings: fetched, checked, and made into trials.", argv[1:])


def _parse_among(commands: Mapping[str, Any], prog: str, description: str, argv: list[str]) -> Callable[[], int]:
    if not argv or argv == ["--help"] or argv == ["-h"]:
        print(_overview(commands, prog, description))
        raise SystemExit(0)
    name = argv[0]
    if not name.startswith("-") and name not in commands:
        known = [*commands, *(GROUPS if commands is COMMANDS else ())]
        raise HvfError(f"unknown command {name!r}{did_you_mean(name, known)}")
    if name in commands:
        known = [f"--{f.name.replace('_', '-')}" for f in fields(commands[name])] + ["--help"]
        for word in argv[1:]:
            option = word.split("=")[0]
            if option.startswith("--") and option not in known:
                raise HvfError(f"{prog} {name} has no option {option!r}{did_you_mean(option, known)}")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.extras.subcommand_cli_from_dict(dict(commands), prog=prog, description=description, args=argv)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise HvfError(_one_line(complaint.getvalue())) from None


def _overview(commands: Mapping[str, Any], prog: str, description: str) -> str:
    """The commands, one line each."""
    groups = GROUPS if commands is COMMANDS else {}
    told = {name: command.__doc__.splitlines()[0] for name, command in commands.items()}
    told |= {name: f"Recordings: {', '.join(group)}." for name, group in groups.items()}
    lines = [f"  {name:12} {what}" for name, what in told.items()]
    more = f"{prog} COMMAND --help says more."
    return "\n".join([f"usage: {prog} COMMAND ...", "", description, "", *lines, "", more])


def _one_line(box: str) -> str:
    """What tyro says inside its box, before its advice."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    said = []
    for line in lines:
        if not line or line.startswith("─"):
            break
        said.append(line)
    return " ".join(said)


@contextlib.contextmanager
def _unless_refused(run: Run) -> Iterator[None]:
    """If the inputs are refused before any work is done, no run folder stays behind."""
    try:
        yield
    except BaseException:
        run.discard_if_unused()
        raise


def _done(run: Run) -> int:
    """Say where the results are, and show the figures."""
    from hvf.experiments.results import is_simulated

    _show(run.metrics(), run.path.name + (" (simulated)" if is_simulated(run) else ""))
    print(f"wrote {run.path}")
    for name in ("metrics.json", "grid.png", "report.html"):
        if run.has(name):
            print(f"  {run.path / name}")
    return 0


def _say_not_computed(reasons: Mapping[str, str]) -> None:
    for name, reason in reasons.items():
        print(f"not computed: {name}: {reason}")


def _show(metrics: Mapping[str, Mapping], title: str) -> None:
    """Figures as a table: value, interval, chance, n."""
    if not metrics:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("figure", overflow="fold")
    for column in ("value", "95% interval", "chance", "n"):
        table.add_column(column, justify="right")
    for name, m in metrics.items():
        if name.startswith("chance/"):
            continue
        chance = metrics.get(chance_name(name))
        interval = "{:.3f} to {:.3f}".format(*m["ci95"]) if m["ci95"] else ""
        table.add_row(name, f"{m['value']:.3f}", interval, f"{chance['value']:.3f}" if chance else "", str(m["n"]))
    Console().print(table)
