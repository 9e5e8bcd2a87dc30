"""Train brain encoders by a protocol, over several seeds, and test each once: a run folder per seed and their mean.

    accelerate launch brain_training/train.py [--subject 8] [--protocol intra|loso|pooled] [--seeds 3] [--out DIR]
    accelerate launch brain_training/train.py --subjects 1 2 3 4 5 6 7 8 9 10 [--seeds 3] [--out DIR]

intra: trained and tested on one subject. loso: trained on all other subjects of the study, or of a folder of prepared
ones (`--trials DIR --images DIR`), tested on this one. pooled: one decoder trained on all of them, tested on each of
`--subjects` with the gate and the map of channels that are theirs, where it has learnt these (`--fusion.kind routed`,
`--brain.person-layer`). `--trained-on` names some of the people instead of all. Every setting of a configuration is
an option too (`--align.epochs 50`, see --help). Several processes share the runs; one that is finished is not trained
again. On a CUDA device runs that share a shape train together, as one batched model (`--together`).
Letters: N trials, C channels, T samples.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from hvf import alignment
from hvf.alignment import Alignment, TrainingSet, batched
from hvf.cli.options import StudyOptions, script
from hvf.cli.parser import parse
from hvf.config import SUBJECTS, Config, DataConfig, HvfError, check_files, with_settings
from hvf.data.trials.trials import Trials
from hvf.decoder import Decoder
from hvf.experiments.confidence import keep_gallery, validation_trials
from hvf.experiments.data_digests import input_digests
from hvf.experiments.descriptions import Training
from hvf.experiments.made_from import check_unchanged
from hvf.experiments.results import FILE, Result
from hvf.experiments.stages import about, started_result, write_test_result
from hvf.runs import Run
from hvf.study import Study, open_study, other_subjects, trials_of_subjects
from hvf.vision.processes import several_on_cpus

FIGURES = ("top1", "top5", "mrr")
ANOTHER = "choose another --out"


@dataclass(frozen=True)
class Options(StudyOptions):
    """Train brain encoders by a protocol, over several seeds, and test each once."""

    subjects: tuple[int, ...] = ()  # several, each in a folder of its own inside --out
    protocol: Training = "intra"  # train on this subject, on all others of the study, or on all
    trained_on: tuple[int, ...] = ()  # loso, pooled: the people trained on; none: all others, or all
    seeds: int = 3  # how many seeds, from --align.seed up
    members: int | None = None  # of each seed, trainings by further seeds that answer together
    together: int | None = None  # runs trained as one batched model, at most; none: all on CUDA, 1 on a CPU
    out: Path | None = None  # the folder of runs; none: a readable name in runs/

    def aliased(self) -> dict[str, Any]:
        first = {"data.subject": self.subjects[0]} if self.subjects else {}  # the preset's need not exist in the study
        return first | super().aliased()


@dataclass(frozen=True)
class Protocol:
    """What one subject is trained and tested on; row i of `train` shows image `row_N[i]` of the training images."""

    train: Trials
    row_N: np.ndarray
    person_N: np.ndarray | None  # whose each row is, of several people
    people: tuple[str, ...]  # their names
    others: tuple[int, ...] | None  # those of them who were named; None: all of the study
    study: Study
    training: Training


def train(options: Options) -> Path:
    """Train and test all runs, write everything, and return the folder. Raises HvfError before writing if refused."""
    state = PartialState(cpu=several_on_cpus())
    config = options.config
    subjects = options.subjects or (config.data.subject,)
    seeds = range(config.align.seed, config.align.seed + options.seeds)
    for subject in subjects:
        if subjects.count(subject) > 1:
            raise HvfError(f"--subjects names {subject} twice")
        check_files(with_settings(config, {"data.subject": subject, "align.seed": max(seeds, default=0)}))
    _check_people(options, config, subjects)
    several = config.data.study in SUBJECTS or Path(config.data.trials or "").is_dir()
    if (options.protocol != "intra" or options.subjects) and not several:
        option = "--subjects" if options.subjects else f"--protocol {options.protocol}"
        raise HvfError(f"{option} needs a study of several subjects: {' or '.join(SUBJECTS)}, or --trials DIR of them")
    for name, number in (("seeds", options.seeds), ("together", options.together)):
        if number is not None and number < 1:
            raise HvfError(f"--{name} must be at least 1, not {number}")
    together = _together(options, config, state.device.type)
    if options.subjects:
        who = "sub-" + "-".join(f"{subject:02d}" for subject in subjects)
    else:
        who = f"sub-{config.data.subject:02d}" if several else Path(config.data.trials or "").stem
    out = options.out or Path("runs") / f"{who}-{config.data.study}-{options.protocol}-{options.seeds}-seeds"
    folders = {subject: out / f"sub-{subject:02d}" if options.subjects else out for subject in subjects}
    with state.main_process_first():
        for folder, subject in ({out: subjects[0]} | {folder: s for s, folder in folders.items()}).items():
            _claim(folder, with_settings(config, {"data.subject": subject}), options)
    protocols: dict[Path, Protocol] = {}
    for subject, folder in folders.items():
        data = with_settings(config, {"data.subject": subject}).data
        protocols[folder] = _protocol(data, options, next(iter(protocols.values()), None))
    paths = [folder / f"seed-{seed}" for folder in folders.values() for seed in seeds]
    for path in paths:
        if (path / FILE).is_file():
            protocol, stored = protocols[path.parent], Run.open(path).config
            before = tuple(Result.read(path).details.get("trained_on", protocol.people))
            if before != protocol.people:
                raise HvfError(f"{path} was trained on {_listed(before)}, not on {_listed(protocol.people)}: {ANOTHER}")
            check_unchanged(path, input_digests(stored, protocol.study, protocol.others))
    trainings = paths if options.protocol != "pooled" else [f"seed-{seed}" for seed in seeds]
    own = trainings[state.process_index :: state.num_processes]
    share = [path for path in paths if path in own or path.name in own]
    _train(share, protocols, config, together, str(state.device))
    state.wait_for_everyone()
    if state.is_main_process:
        times = "1 seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
        for folder, protocol in protocols.items():
            print(f"{protocol.study.note}; protocol {options.protocol}; {times}")
            _combine(folder, [path for path in paths if path.parent == folder])
        if options.subjects:
            print(f"all {len(subjects)} subjects; protocol {options.protocol}; {times}")
            _combine(out, paths)
    return out


def _together(options: Options, config: Config, kind: str) -> int | None:
    """How many runs train as one at most; None: all. Refuses only an explicit --together."""
    why = batched.why_not_batched(config)
    if why and (options.together or 1) > 1:
        raise HvfError(f"--together {options.together}: {why}; leave it out, to train one after another")
    return 1 if why or (options.together is None and kind != "cuda") else options.together


def _check_people(options: Options, config: Config, subjects: Sequence[int]) -> None:
    """Refuse people trained on who are not those of the protocol, and layers of people where there is one."""
    protocol, trained_on = options.protocol, options.trained_on
    if protocol == "intra" and (trained_on or config.brain.person_layer):
        option = "--trained-on" if trained_on else "--brain.person-layer"
        raise HvfError(f"{option} is for several people: --protocol loso or pooled")
    for number in trained_on:
        if trained_on.count(number) > 1:
            raise HvfError(f"--trained-on names {number} twice")
        with_settings(config, {"data.subject": number})  # refuses people whom a simulated study does not have
    for subject in subjects if trained_on else ():
        if protocol == "loso" and subject in trained_on:
            raise HvfError(f"--protocol loso leaves subject {subject} out: take {subject} from --trained-on")
        if protocol == "pooled" and subject not in trained_on:
            raise HvfError(f"--protocol pooled tests people who are trained on: add {subject} to --trained-on")


def _claim(out: Path, config: Config, options: Options) -> None:
    """Make the folder, or enter it again if it belongs to the same protocol (and settings: Run.create sees to that)."""
    Run.create(out, config)
    for file in (out / FILE, *out.glob(f"seed-*/{FILE}")):
        stored = Result.read(file.parent) if file.is_file() else None
        if stored and stored.kind != "retrieval":
            raise HvfError(f"{file.parent} holds a result of kind {stored.kind}, not retrieval: {ANOTHER}")
        if stored and stored.protocol.training != options.protocol:
            raise HvfError(f"{out} holds runs of another protocol, not {options.protocol}: {ANOTHER}")


def _listed(people: Sequence[str]) -> str:
    return ", ".join(people) or "one person"


def _protocol(data: DataConfig, options: Options, first: Protocol | None) -> Protocol:
    """What one subject is trained and tested on; `first`, that of the first subject, whose training is everybody's."""
    study = open_study(data)
    if options.protocol == "pooled" and first is not None:
        if study.train_images.digest != first.study.train_images.digest:
            raise HvfError(
                f"{study.train.subject} and {first.study.train.subject} were shown other training images: a pooled "
                "decoder is trained on images that all have seen"
            )
        return replace(first, study=study)
    train, person_N, people, others = study.train, None, (), ()
    if options.protocol != "intra":
        others = options.trained_on or None
        of_several = other_subjects if options.protocol == "loso" else trials_of_subjects
        train, person_N, people = of_several(data, study, options.trained_on)
    row = {name: i for i, name in enumerate(study.train_images.ids)}
    row_N = np.array([row[name] for name in train.image_ids.tolist()])
    return Protocol(train, row_N, person_N, people, others, study, options.protocol)


def _train(
    paths: Sequence[Path], protocols: dict[Path, Protocol], config: Config, together: int | None, device: str
) -> None:
    """Train what is not finished, as many at once as may be, and test each run as soon as it is trained."""
    everyones = Decoder(config, device)  # its prior and encoders are those of all runs
    runs: dict[tuple[int, int], list[Run]] = {}  # those of one training: by the trials trained on, and the seed
    sets: dict[int, TrainingSet] = {}
    for path in paths:
        protocol, images = protocols[path.parent], protocols[path.parent].study.train_images
        seed, subject = int(path.name.removeprefix("seed-")), Run.open(path.parent).config.data.subject
        run = Run.create(path, with_settings(config, {"data.subject": subject, "align.seed": seed}))
        if run.has(FILE):
            Alignment.load(path / "checkpoint").recording.check(protocol.study.test)
            continue
        hvf = everyones.prior.hvf if config.align.mode == "reconstruction" else None
        of = id(protocol.train)
        if of not in sets:
            features = alignment.training_features(images, config, hvf, device)
            whose = protocol.person_N, protocol.people
            alone = protocol.training == "intra"  # then what reads the run knows the data by the decoder's own hash
            digest = everyones.fingerprint(protocol.study.train, images) if alone else images.digest
            sets[of] = TrainingSet(protocol.train, features, images.concepts, protocol.row_N, hvf, digest, *whose)
        runs.setdefault((of, seed), []).append(run)
    trainings = list(runs.values())
    fits = [(sets[of], tested[0].config) for (of, _), tested in runs.items()]
    for group in batched.groups(fits, together):
        fitted = batched.fit_together([fits[i] for i in group], device)
        for i, one in zip(group, fitted, strict=True):
            for run in trainings[i]:
                _test(run, one, protocols[run.path.parent], device)


def _test(run: Run, fitted: Alignment, protocol: Protocol, device: str) -> None:
    decoder, own = Decoder(run.config, device), f"sub-{run.config.data.subject:02d}"
    person = own if protocol.training == "pooled" else None
    decoder.alignment = alignment.on_person(fitted, protocol.study.train, person) if fitted.people else fitted
    decoder.alignment.config = run.config
    own_trials = protocol.study.train if protocol.training == "intra" else None
    decoder.fit_drawing(own_trials, protocol.study.train_images)
    if protocol.training == "intra":  # other people's trials do not say how sure it is of this one
        study = protocol.study
        decoder.calibrate(study.train, study.train_images, validation_trials(study, run.config.align))
    keep_gallery(decoder, protocol.study)
    decoder.save(run.path / "checkpoint", about(started_result("training", run, protocol.study, protocol.training)))
    run.write_json("history.json", fitted.history)
    write_test_result(run, decoder, protocol.study, protocol.training, others=protocol.others)
    if protocol.people:
        Result.read(run.path).with_details(trained_on=protocol.people).write(run.path)  # also where it is one alone


def _combine(out: Path, paths: Sequence[Path]) -> None:
    """Write the mean over runs, with its interval over images, and print it with chance and the spread over runs."""
    result = Result.combined([Result.read(path) for path in paths])
    result.write(out)
    for name, row in result.rows.items():
        for figure in FIGURES:
            entry, each = row.figures[figure], row.each[figure]
            low, high = entry["ci95"]
            chance = f"  chance {result.chance[figure]['value']:.3f}" if figure in result.chance else ""
            spread = f"runs {min(each):.3f} to {max(each):.3f}"
            print(f"  {name:5} {figure:4} {entry['value']:.3f}  95 % [{low:.3f}, {high:.3f}]  {spread}{chance}")


@script
def main(arguments: Sequence[str] | None) -> None:
    out = train(parse(Options, arguments))
    if PartialState().is_main_process:
        print(f"wrote {out}")


if __name__ == "__main__":
    sys.exit(main())
