"""THINGS-EEG2 as a data set: what `hvf data` and the doctor know of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvf.data.datasets import RECIPE, Dataset, Option, Source, subject_numbers
from hvf.registry import DATASETS

if TYPE_CHECKING:
    from hvf.data.doctor.checks import Finding


@DATASETS.register("things-eeg")
class ThingsEEG2(Dataset):
    """Ten people, 16,540 training and 200 test images, 63 channels; raw or as other groups' code leaves it."""

    title = "THINGS-EEG2 (Gifford et al. 2022), EEG"
    doi = "10.1016/j.neuroimage.2022.119754"
    licence = "CC BY 4.0"
    layout = (
        "raw THINGS-EEG2 (raw_data/sub-XX/ses-YY/raw_eeg_*.npy), preprocessed_eeg_*.npy, UBP's {train,test}.pt, "
        "NeuroBridge's {train,test}.npy with info.json"
    )
    options = (
        RECIPE,
        Option("stimuli", "image_metadata.npy or its folder, where it is not near the data", Path, checked=True),
        Option("jobs", "threads that share a session's epochs (default: one per core)", int),
    )
    sources = {
        "things-eeg2-raw": Source(
            "THINGS-EEG2, raw EEG, one zip per subject to unpack in place", "osf", "crxs4", "raw_data", subjects=10
        ),
        "things-eeg2-preprocessed": Source(
            "THINGS-EEG2, the official preprocessing, one zip per subject to unpack in place",
            "osf",
            "anp5v",
            "preprocessed_data",
            subjects=10,
        ),
        "things-eeg2-images": Source(
            "THINGS-EEG2's images (two zips to unpack in place) and image_metadata.npy", "osf", "y63gw", "image_set"
        ),
        "things-eeg2-whitened": Source(
            "THINGS-EEG2, 63 channels at 250 Hz, whitened (UBP)", "hub", "Haitao999/things-eeg", subjects=10
        ),
    }

    def prepare(
        self,
        root: Path,
        out: Path,
        subjects: Sequence[str] | None = None,
        *,
        recipe: str | None = None,
        jobs: int | None = None,
        stimuli: Path | None = None,
    ) -> list[Path]:
        from hvf.data.things_eeg2.prepare import prepare

        return prepare(root, out, recipe, subject_numbers(subjects), jobs, stimuli)

    def checks(self, path: Path, images: Path | None, **options: Any) -> Iterator[Iterator[Finding]]:
        from hvf.data.doctor import rehearsal, things_eeg2, third_party
        from hvf.data.things_eeg2.preprocessing import get_recipe

        recipe = options.get("recipe")
        get_recipe(recipe or "hvf")
        listed = things_eeg2.Stimuli()
        if path.is_file():
            if re.fullmatch(r"raw_eeg_(training|test)\.npy", path.name):
                yield things_eeg2.examine_recording(path)
            elif path.name == "image_metadata.npy":
                yield things_eeg2.examine_list(path, listed)
        elif things_eeg2.is_raw_root(path):
            yield things_eeg2.examine_raw_root(path, images, options.get("stimuli"))
        elif images is not None and things_eeg2.image_folders(images):
            yield things_eeg2.examine_images(images, listed)
        files = third_party.prepared_by_others(path)
        for file in files:
            yield third_party.examine_prepared(file, recipe)
        if path.is_dir():
            for folder in sorted({file.parent for file in files}):
                yield third_party.examine_pair([file for file in files if file.parent == folder])
            if things_eeg2.is_raw_root(path) or ((path / "raw_data").is_dir() and not files):
                yield rehearsal.rehearse_things_eeg2(path, **options)
            elif files:
                yield rehearsal.rehearse_third_party(path, files, images, **options)
