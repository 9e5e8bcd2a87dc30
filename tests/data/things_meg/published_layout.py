"""What the tests of prepare share."""

from __future__ import annotations

from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest

from hvf.config import HvfError
from hvf.data.things_meg import ctf
from hvf.data.things_meg.prepare import prepare

CONCEPTS = ("aardvark", "abacus", "acorn", "camera_lens", "camera1")  # in the order of THINGS


TESTED = {"abacus", "camera_lens"}


EXEMPLARS, REPEATS, SESSIONS = 6, 3, 3


NAMES = tuple(f"ML{region}{row}{column}-1609" for region in "CFOPT" for row in (1, 2) for column in (1, 2, 3))


def sample_attributes(seed: int = 0) -> pd.DataFrame:
    """Per session: some exp trials of every concept, each test image once, a catch trial; in random order."""
    rng = np.random.default_rng(seed)
    sessions = []
    for session in range(1, SESSIONS + 1):
        rows = []
        for category, concept in enumerate(CONCEPTS, 1):
            first = (category - 1) * (EXEMPLARS + 1)
            for exemplar in range(session, EXEMPLARS + 1, SESSIONS):
                path = f"images_meg/{concept}/{concept}_{exemplar:02d}s.jpg"
                rows.append(["exp", first + exemplar, category, path])
            if concept in TESTED:
                last = EXEMPLARS + 1
                rows.append(["test", first + last, category, f"images_test_meg/{concept}_{last:02d}n.jpg"])
        rows.append(["catch", np.nan, np.nan, "images_catch_meg/catch_001.jpg"])
        table = pd.DataFrame(rows, columns=["trial_type", "things_image_nr", "things_category_nr", "image_path"])
        table["session_nr"], table["run_nr"] = session, 1
        sessions.append(table.iloc[rng.permutation(len(table))])
    return pd.concat(sessions, ignore_index=True)


def write_csv(root: Path, table: pd.DataFrame) -> None:
    (root / "sourcedata").mkdir(parents=True, exist_ok=True)
    table.to_csv(root / "sourcedata" / "sample_attributes_P1.csv", index=False)


def write_epochs(root: Path, table: pd.DataFrame, *, told=True, codes=None, sfreq=200.0, spoil=None) -> Path:
    n = len(table)
    x = np.random.default_rng(1).standard_normal((n, len(NAMES), 281)).astype(np.float32)
    if spoil is not None:
        spoil(x)
    codes = table.things_image_nr.fillna(ctf.CATCH).astype(int).to_numpy() if codes is None else codes
    events = np.stack([np.arange(n) * 400 + 100, np.zeros(n, int), codes], axis=1)
    info = mne.create_info(list(NAMES), sfreq, "mag", verbose="error")
    metadata = table if told else None
    epochs = mne.EpochsArray(x, info, events, tmin=-0.1, baseline=None, metadata=metadata, proj=False, verbose="error")
    path = root / "derivatives" / "preprocessed" / "preprocessed_P1-epo.fif"
    path.parent.mkdir(parents=True, exist_ok=True)
    epochs.save(path, split_size="2MB", overwrite=True, verbose="error")
    return path


def several(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table] * 3, ignore_index=True)


def refuse(root: Path, tmp_path: Path, match: str, recipe: str = "ubp") -> None:
    out = tmp_path / "refused"
    with pytest.raises(HvfError, match=match) as error:
        prepare(root, out, recipe)
    assert "\n" not in str(error.value)
    assert not out.exists() or not any(out.rglob("*")), "something half-written remains"
