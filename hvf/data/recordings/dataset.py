"""Any BIDS data set of EEG or MEG: what `hvf data` and the doctor know of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvf.data.datasets import Dataset, Option
from hvf.registry import DATASETS

if TYPE_CHECKING:
    from hvf.data.doctor.checks import Finding


@DATASETS.register("bids")
class BIDS(Dataset):
    """Recordings of any person who saw images, whose events.tsv name them."""

    title = "a BIDS data set whose events name images, EEG or MEG"
    layout = "a BIDS dataset"
    options = (
        Option("task", "which task, if there are several"),
        Option("image_column", "the column of events.tsv that names the image (default: found by its values)"),
        Option("stimuli", "a table of event code and image, where events.tsv has codes alone", Path),
        Option("onset_unit", "s, ms or samples, where events.tsv gives onsets in another unit than it should"),
    )

    def prepare(self, root: Path, out: Path, subjects: Sequence[str] | None = None, **options: Any) -> list[Path]:
        from hvf.data.recordings.prepare import prepare_bids

        return prepare_bids(root, out, subjects=subjects, **options)

    def checks(self, path: Path, images: Path | None) -> Iterator[Iterator[Finding]]:
        from hvf.data.doctor import files, recordings, rehearsal, tables
        from hvf.data.doctor.checks import Finding

        if path.is_dir():
            if tables.tables(path):
                yield recordings.examine_bids(path)
            of_subjects = [folder for folder in path.glob("sub-*") if (path / "dataset_description.json").is_file()]
            there = recordings.recordings_of(path) or any(files.raw_below(folder) for folder in of_subjects)
            if there and not any(path.glob("sub-BIGMEG*")):  # those are THINGS-MEG's
                yield rehearsal.rehearse_dataset(path, images)
        elif re.search(r"events\.tsv(\.gz)?$", path.name):
            yield (item for item in tables.examine_events(path, path.name) if isinstance(item, Finding))
        elif path.name.endswith("channels.tsv"):
            yield tables.examine_channels(path, path.name)
