"""THINGS-MEG as a data set: what `hvf data` and the doctor know of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvf.data.datasets import RECIPE, Dataset, Source, subject_numbers
from hvf.registry import DATASETS

if TYPE_CHECKING:
    from hvf.data.doctor.checks import Finding

_BIDS_ROOT = ("dataset_description.json", "participants.*", "README*", "CHANGES")
_SUBJECT = r"(?:^sub-BIGMEG|_P)0*(\d+)(?=[-_/.])"


@DATASETS.register("things-meg")
class ThingsMEG(Dataset):
    """Four people, 22,448 images in 12 sessions, 271 sensors; raw or as published epochs."""

    title = "THINGS-MEG (Hebart et al. 2023), MEG"
    doi = "10.7554/eLife.82580"
    licence = "CC0"
    layout = "THINGS-MEG (derivatives/preprocessed/*-epo.fif, or runs with *_events.tsv)"
    options = (RECIPE,)
    sources = {
        "things-meg": Source(
            "THINGS-MEG, preprocessed epochs",
            "openneuro",
            "ds004212",
            patterns=("derivatives/preprocessed/*", "sourcedata/sample_attributes_P*.csv", *_BIDS_ROOT),
            subjects=4,
            subject=_SUBJECT,
        ),
        "things-meg-raw": Source(
            "THINGS-MEG, raw CTF recordings",
            "openneuro",
            "ds004212",
            patterns=("sub-BIGMEG*", *_BIDS_ROOT),
            subjects=4,
            subject=_SUBJECT,
        ),
    }

    def prepare(
        self, root: Path, out: Path, subjects: Sequence[str] | None = None, *, recipe: str = "hvf"
    ) -> list[Path]:
        from hvf.data.things_meg.prepare import prepare

        return prepare(root, out, recipe, subject_numbers(subjects))

    def checks(self, path: Path, images: Path | None, **options: Any) -> Iterator[Iterator[Finding]]:
        from hvf.data.doctor import rehearsal, tables

        epochs = any(path.glob("derivatives/preprocessed/preprocessed_P*-epo*.fif"))
        raw = any(path.glob("sub-BIGMEG*")) and bool(tables.tables(path))
        if epochs or raw:
            yield rehearsal.rehearse_things_meg(path)
