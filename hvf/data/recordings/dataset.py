"""Any BIDS data set of EEG or MEG, and any recording: what `hvf data` and the doctor know of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvf.data.datasets import Dataset, Option
from hvf.data.recordings.options import EVENTS, IMAGES, PREPROCESSING, with_settings
from hvf.registry import DATASETS, HvfError

if TYPE_CHECKING:
    from hvf.data.doctor.checks import Finding


@DATASETS.register("bids")
class BIDS(Dataset):
    """Recordings of any person who saw images, whose events.tsv name them."""

    title = "a BIDS data set whose events name images, EEG or MEG"
    layout = "a BIDS dataset"
    options = (
        Option("task", "which task, if there are several", checked=True),
        IMAGES,
        Option("stimuli", "a table of event code and image, where events.tsv has codes alone", Path, checked=True),
        *EVENTS,
        *PREPROCESSING,
    )

    def prepare(self, root: Path, out: Path, subjects: Sequence[str] | None = None, **options: Any) -> list[Path]:
        from hvf.data.recordings.prepare import prepare_bids

        return prepare_bids(root, out, subjects=subjects, **with_settings(options))

    def checks(self, path: Path, images: Path | None, **options: Any) -> Iterator[Iterator[Finding]]:
        from hvf.data.doctor import files, recordings, rehearsal, tables
        from hvf.data.doctor.checks import Finding

        if path.is_dir():
            if tables.tables(path):
                yield recordings.examine_bids(path)
            of_subjects = [folder for folder in path.glob("sub-*") if (path / "dataset_description.json").is_file()]
            there = tables.tables(path) or any(files.raw_below(folder) for folder in of_subjects)
            if there and not any(path.glob("sub-BIGMEG*")):  # those are THINGS-MEG's
                yield rehearsal.rehearse_dataset(path, images, **with_settings(options))
        elif re.search(r"events\.tsv(\.gz)?$", path.name):
            yield (item for item in tables.examine_events(path, path.name) if isinstance(item, Finding))
        elif path.name.endswith("channels.tsv"):
            yield tables.examine_channels(path, path.name)


@DATASETS.register("recording")
class Recording(Dataset):
    """One recording of a person who saw images; the doctor takes it as any file that MNE reads."""

    title = "one file of EEG or MEG that MNE reads, with a table of events"
    layout = "a recording that MNE reads"
    place = "file"
    options = (
        Option("file", "the recording, such as my.vhdr, or MNE's -epo.fif", Path),
        Option("events", "its table of image and onset, sample or code (default: its annotations)", Path),
        IMAGES,
        Option("subject", "which person it is of (default: by the file's name, else 1)"),
        Option("stim_channel", "the trigger channel that shows the images, where several hold codes", checked=True),
        *EVENTS,
        *PREPROCESSING,
    )

    def prepare(self, root: Path, out: Path, subjects: Sequence[str] | None = None, **options: Any) -> list[Path]:
        from hvf.data.recordings.single import prepare_recording

        if subjects is not None:
            raise HvfError("--subjects means nothing for recording, which is of one person: say --subject")
        return [prepare_recording(root, out, **with_settings(options))]
