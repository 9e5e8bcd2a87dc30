"""Kind 3: triggers, onsets and bad segments: never more trials than were shown, and none of another image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd

from tests.corruption.case import Input, case
from tests.corruption.makers.bids import bids_input
from tests.corruption.makers.eeg2 import edit_raw, eeg2_raw_input
from tests.corruption.makers.meg import CATCH, attributes, meg_input, shown_numbers
from tests.corruption.makers.raw import SHOWN, annotated, at, brainvision, codes_table, events_of, raw_input, raw_with
from tests.corruption.numbered import GAP, LEAD, SFREQ, codes_of, onsets_of, png, raw_of

# --- the channel of a recording ---------------------------------------------------------------------------------------


def coded(folder: Path, change: Callable[[np.ndarray], np.ndarray | None], *others: Any, **more: Any) -> Input:
    """A recording with a trigger channel that is changed; the table gives each code its image."""
    code_N = codes_of(SHOWN)
    changed = change(code_N)
    code_N = code_N if changed is None else changed
    channels = [("STI 014", "stim", code_N), *others]
    return raw_input(folder, raw=raw_with(others=channels), events=codes_table(), **more)


def bits_apart(samples: int) -> Callable[[np.ndarray], None]:
    """The lowest bit of every code of several bits comes some samples late."""

    def change(code_N: np.ndarray) -> None:
        for onset, number in zip(onsets_of(SHOWN), SHOWN, strict=True):
            if number & (number - 1):
                code_N[onset : onset + samples] = number & (number - 1)

    return change


def bits_fall_apart(code_N: np.ndarray) -> None:
    """The lowest bit of every code of several bits stays one sample longer."""
    for onset, number in zip(onsets_of(SHOWN), SHOWN, strict=True):
        if number & (number - 1):
            code_N[onset + 20] = number & -number


def high_at_first(code_N: np.ndarray) -> None:
    code_N[:40] = 5


def bounce(code_N: np.ndarray) -> None:
    """Every code falls to zero for two samples and comes again."""
    for onset in onsets_of(SHOWN):
        code_N[onset + 5 : onset + 7] = 0


def one_bounce(code_N: np.ndarray) -> None:
    onset = onsets_of(SHOWN)[3]
    code_N[onset + 5 : onset + 7] = 0


def rest_high(code_N: np.ndarray) -> None:
    code_N[code_N == 0] = 255


def back_to_back(code_N: np.ndarray) -> None:
    """A code stands until the next one comes."""
    for onset, number in zip(onsets_of(SHOWN), SHOWN, strict=True):
        code_N[onset : onset + GAP] = number


def spike(code_N: np.ndarray) -> None:
    """One sample of a code of an image long before that image."""
    code_N[LEAD // 2] = 7


def one_sample(code_N: np.ndarray) -> None:
    high = code_N > 0
    code_N[1:][high[:-1] & high[1:]] = 0


SAMPLE = r"(?i)one sample|1 sample|\bsamples?\b|\bbits?\b"
CLOSE = r"(?i)close|apart|shown|sample|bounce|\bms\b"
case(3, "raw", "clean codes", coded, lambda code: None)
case(3, "raw", "codes of one sample", coded, one_sample)
for samples in (1, 2):
    case(
        3,
        "raw",
        f"bits rise {samples} apart",
        coded,
        bits_apart(samples),
        either=SAMPLE,
    )
case(3, "raw", "bits fall one apart", coded, bits_fall_apart, either=SAMPLE)
case(3, "raw", "a code high at the first sample", coded, high_at_first, either=r"(?i)first sample|start|begin|high")
case(
    3, "raw", "codes plus 65536", coded, lambda code: np.where(code > 0, code + 65536, code), either=r"65[0-9]{3}|mask"
)
case(3, "raw", "a channel plus 65536", coded, lambda code: code + 65536, either=r"65[0-9]{3}|mask")
case(3, "raw", "a channel minus 65536", coded, lambda code: code - 65536, either=r"65[0-9]{3}|mask")
case(3, "raw", "codes that bounce", coded, bounce, either=CLOSE)
case(3, "raw", "one code that bounces", coded, one_bounce, either=CLOSE)
case(3, "raw", "a channel that rests at 255", coded, rest_high)
case(3, "raw", "codes back to back", coded, back_to_back)
case(3, "raw", "other codes between", coded, lambda code: between(code, 99))
case(3, "raw", "an empty trigger channel", coded, lambda code: 0 * code, refused=r"(?i)none|no event|holds")


def between(code_N: np.ndarray, value: int) -> None:
    for onset in onsets_of(SHOWN):
        code_N[onset + 75 : onset + 85] = value


RESPONSES = np.roll(codes_of([1 + i % 4 for i in range(12)]), 90)
case(
    3,
    "raw",
    "a response channel beside",
    coded,
    lambda code: None,
    ("Response", "stim", RESPONSES),
    either=r"STI 014.*Response|Response.*STI 014|Response",
)
case(
    3,
    "raw",
    "a response channel before",
    raw_input,
    raw=raw_with(others=[("Response", "stim", RESPONSES), ("Stimulus", "stim", codes_of(SHOWN))]),
    events=codes_table(),
    either=r"Stimulus.*Response|Response.*Stimulus",
)
case(
    3, "raw", "responses on the same channel", coded, lambda code: code + np.where(code == 0, 100 * (RESPONSES > 0), 0)
)


# --- annotations ------------------------------------------------------------------------------------------------------


def by_marks(folder: Path, text: Callable[[int], str], *more: tuple[str, int], by_description: bool = False) -> Input:
    marks = [(text(i), onset + 1) for i, onset in zip(SHOWN, onsets_of(SHOWN), strict=True)]
    table = codes_table()
    if by_description:
        table = pd.DataFrame(
            {"description": [text(i).replace(",", "/") for i in table["code"]], "image": table["image"]}
        )
    return raw_input(
        folder, write=lambda r, path: brainvision(r, path, marks=[*marks, *more]), file="sub-01.vhdr", events=table,
    )  # fmt: skip


STIMULUS = "Stimulus,S{:3d}".format
case(3, "raw", "markers of BrainVision", by_marks, STIMULUS)
case(3, "raw", "markers by description", by_marks, STIMULUS, by_description=True)
case(3, "raw", "markers of responses beside", by_marks, STIMULUS, ("Response,R 99", 2000))
case(
    3,
    "raw",
    "a response of the same number",
    by_marks,
    STIMULUS,
    ("Response,R  4", 2000),
    either=r"S  4.*R  4|R  4.*S  4|may be",
)


def marked(
    folder: Path, *marks: tuple[float, float, str], lost: tuple[int, ...] = (), may_lose: tuple[int, ...] = ()
) -> Input:
    """Annotations over the recording; the images shown at the places `lost` are left out."""
    expected = [i for place, i in enumerate(SHOWN) if place not in lost]
    return raw_input(
        folder,
        raw=annotated(raw_with(), *marks),
        expected=expected,
        may_lack=[SHOWN[i] for i in may_lose],
    )


IN = at(4) + 0.1  # within the trial of the image shown as the fifth
case(3, "raw", "BAD over a trial", marked, (IN, 0.05, "BAD_blink"), lost=(4,))
case(3, "raw", "bad in small letters", marked, (IN, 0.05, "bad segment"), lost=(4,))
case(3, "raw", "BAD of no length in a trial", marked, (IN, 0.0, "BAD_boundary"), lost=(4,))
case(3, "raw", "BAD between trials", marked, (at(4) + 0.3, 0.1, "BAD_blink"))
case(3, "raw", "BAD of no length between trials", marked, (at(4) + 0.3, 0.0, "BAD_boundary"))
case(3, "raw", "BAD over two trials", marked, (IN, 0.6, "BAD_move"), lost=(4, 5))
case(3, "raw", "BAD_ACQ_SKIP over a trial", marked, (IN, 0.05, "BAD_ACQ_SKIP"), lost=(4,))
case(3, "raw", "EDGE boundary in a trial", marked, (IN, 0.0, "EDGE boundary"), may_lose=(4,))
case(3, "raw", "annotations that are not bad", marked, (IN, 0.05, "badger"), may_lose=(4,))
case(3, "raw", "a comment over a trial", marked, (IN, 0.05, "good segment"))


def seam(folder: Path) -> Input:
    """Two recordings joined in the middle of a trial."""
    x_CN = raw_with().get_data()
    cut = onsets_of(SHOWN)[6] + 25
    joined = mne.concatenate_raws([raw_of(x_CN[:, :cut]), raw_of(x_CN[:, cut:])], verbose="error")
    return raw_input(folder, raw=joined, expected=[i for k, i in enumerate(SHOWN) if k != 6])


case(3, "raw", "a seam in a trial", seam)


def bids_marked(folder: Path) -> Input:
    table = events_of()
    table.loc[len(table)] = [IN, 0.05, "n/a"]
    table["trial_type"] = ["image"] * 12 + ["BAD_blink"]
    return bids_input(folder, table=table.sort_values("onset"), expected=[i for k, i in enumerate(SHOWN) if k != 4])


case(3, "bids", "BAD over a trial", bids_marked)

# --- onsets of a table ------------------------------------------------------------------------------------------------

frame = events_of()
TWICE = pd.concat([frame.iloc[:4], frame.iloc[3:]], ignore_index=True)
OTHER = TWICE.copy()
OTHER.loc[4, "image"] = png(SHOWN[0])
NEAR = TWICE.copy()
NEAR.loc[4, "onset"] += 2 / SFREQ
NEAR_OTHER = OTHER.assign(onset=NEAR["onset"])
SAMPLES = pd.DataFrame({"sample": onsets_of(SHOWN), "image": frame["image"]})
TABLES: dict[str, tuple[pd.DataFrame, dict[str, Any]]] = {
    "a row twice": (TWICE, {}),
    "a row twice, far below": (pd.concat([frame, frame.iloc[3:4]], ignore_index=True), {}),
    "a row twice with another image": (OTHER, {"refused": r"(?i)two images|same time"}),
    "a row twice, two samples later": (NEAR, {"either": CLOSE}),
    "another image two samples later": (NEAR_OTHER, {"refused": CLOSE}),
    "an onset beyond the end": (
        frame.assign(onset=[*frame["onset"][:-1], 1000.0]),
        {"refused": r"(?i)beyond|after the end"},
    ),
    "an onset before the start": (
        frame.assign(onset=[-5.0, *frame["onset"][1:]]),
        {"refused": r"(?i)beyond|before|negative"},
    ),
    "onsets in ms": (frame.assign(onset=1000 * frame["onset"]), {"refused": r"(?i)millisec|\bms\b"}),
    "onsets in samples": (frame.assign(onset=onsets_of(SHOWN)), {"refused": r"(?i)beyond|samples"}),
    "an empty onset": (frame.assign(onset=[*frame["onset"][:-1].astype(str), ""]), {"refused": r"(?i)onset"}),
    "an onset n/a": (frame.assign(onset=[*frame["onset"][:-1].astype(str), "n/a"]), {"refused": r"(?i)onset"}),
    "an onset in words": (
        frame.assign(onset=[*frame["onset"][:-1].astype(str), "soon"]),
        {"refused": r"(?i)onset.*soon|soon"},
    ),
    "rows that show no image": (
        pd.concat(
            [frame, pd.DataFrame({"onset": [2.9, 3.3], "duration": [0.1, 0.1], "image": ["n/a", "n/a"]})],
            ignore_index=True,
        ).sort_values("onset"),
        {},
    ),
}
for what, (table, outcome) in TABLES.items():
    case(3, "raw", what, raw_input, events=table, **outcome)
    case(3, "bids", what, bids_input, table=table, **outcome)
case(3, "raw", "samples", raw_input, events=SAMPLES)
case(
    3,
    "raw",
    "samples that count the file's first sample",
    raw_input,
    raw=mne.io.RawArray(raw_with().get_data(), raw_with().info, first_samp=20000, verbose="error"),
    events=SAMPLES.assign(sample=SAMPLES["sample"] + 20000),
    either=r"(?i)first sample",
)
case(
    3,
    "raw",
    "onset and sample disagree",
    raw_input,
    events=frame.assign(sample=np.roll(onsets_of(SHOWN), 1)),
    refused=r"(?i)sample.*onset|onset.*sample",
)
case(3, "raw", "onset and sample agree", raw_input, events=frame.assign(sample=onsets_of(SHOWN)))

# --- THINGS -----------------------------------------------------------------------------------------------------------


def stim(change: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    def edit(held: dict[str, Any]) -> None:
        stim_N = held["raw_eeg_data"][63]
        changed = change(stim_N)
        held["raw_eeg_data"][63] = stim_N if changed is None else changed

    return edit_raw(edit)


def longer(stim_N: np.ndarray, n: int = 3) -> None:
    for onset in np.flatnonzero(stim_N):
        stim_N[onset : onset + n] = stim_N[onset]


def bits(stim_N: np.ndarray) -> None:
    longer(stim_N, 20)
    for onset in np.flatnonzero(np.diff(stim_N, prepend=0) > 0):
        code = int(stim_N[onset])
        if code & (code - 1):
            stim_N[onset] = code & (code - 1)


def first_high(stim_N: np.ndarray) -> None:
    stim_N[:5] = 3


def doubled(stim_N: np.ndarray) -> None:
    """Every code comes again two samples later."""
    for onset in np.flatnonzero(stim_N):
        stim_N[onset + 2] = stim_N[onset]


def one_doubled(stim_N: np.ndarray) -> None:
    onset = np.flatnonzero(stim_N)[2]
    stim_N[onset + 2] = stim_N[onset]


def one_lost(stim_N: np.ndarray) -> None:
    stim_N[np.flatnonzero(stim_N)[2]] = 0


def target_added(stim_N: np.ndarray) -> None:
    stim_N[np.flatnonzero(stim_N)[2] + 300] = 99999


STIM: dict[str, tuple[Callable[[np.ndarray], Any], dict[str, str]]] = {
    "codes of three samples": (longer, {}),
    "bits rise one apart": (bits, {"either": SAMPLE}),
    "a code high at the first sample": (first_high, {"either": r"(?i)first sample|start|begin|high"}),
    "codes plus 65536": (lambda s: np.where(s > 0, s + 65536, s), {"either": r"65[0-9]{3}|mask"}),
    "each code twice": (doubled, {"either": CLOSE}),
    "one code twice": (one_doubled, {"either": CLOSE}),
    "a code lost": (one_lost, {"refused": r"(?i)fewer|lost|missing|seldom"}),
    "a target more": (target_added, {}),
    "codes from 0": (lambda s: np.where(s > 0, s - 1, s), {"refused": r"(?i)fewer|code|event"}),
    "codes one higher": (lambda s: np.where(s > 0, s + 1, s), {"refused": r"(?i)code|event|knows"}),
}
for what, (change, outcome) in STIM.items():
    case(3, "eeg2-raw", what, eeg2_raw_input, change=stim(change), images=False, **outcome)


def recoded(codes: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    right = attributes(shown_numbers())["things_image_nr"].fillna(CATCH).astype(int).to_numpy()
    return {"codes": codes(right)}


MEG_CODES = r"(?i)misordered|other images|differ"
case(3, "meg", "codes moved by one", meg_input, **recoded(lambda c: np.roll(c, 1)), refused=MEG_CODES)
case(3, "meg", "codes plus 65536", meg_input, **recoded(lambda c: c + 65536), either=MEG_CODES)
case(3, "meg", "codes all one", meg_input, **recoded(np.ones_like), refused=MEG_CODES)
