"""Kind 5: channels that are no brain are left out, whatever they are typed; those of the brain stay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.corruption.case import Input, case
from tests.corruption.makers.bids import bids_input, stem_of, write_session
from tests.corruption.makers.eeg2 import edit_raw, eeg2_raw_input
from tests.corruption.makers.epochs import epochs_input
from tests.corruption.makers.meg import SENSORS, meg_input
from tests.corruption.makers.raw import SHOWN, events_of, raw_input, raw_with
from tests.corruption.numbered import BRAIN, codes_of, continuous, raw_of, shown_in_order

CODE = codes_of(SHOWN)
N = len(CODE)
RNG = np.random.default_rng(9)
SIGNALS = {
    "TRIGGER": CODE, "Status": CODE + 1, "STI 014": CODE, "STI101": CODE, "STATUS": CODE, "Trigger 1": CODE,
    "DIN": CODE,
    "photodiode": (CODE > 0) + RNG.normal(size=N) * 1e-3, "Photo": (CODE > 0) * 1.0, "Diode": (CODE > 0) * 1.0,
    "Sample Counter": np.arange(N), "COUNTER": np.arange(N) % 128, "TimeStamp": 1.7e9 + np.arange(N) / 250,
    "Timestamp (ms)": np.arange(N) * 4.0, "GSR1": 1 + RNG.normal(size=N) * 1e-3, "EDA": 1 + RNG.normal(size=N) * 1e-3,
    "ACC_X": RNG.normal(size=N), "x_dir": RNG.normal(size=N), "Accelerometer Y": RNG.normal(size=N),
    "Gyro_Z": RNG.normal(size=N), "Resp": np.sin(np.arange(N) / 300), "Plet": np.sin(np.arange(N) / 50),
    "Temp": 36 + RNG.normal(size=N) * 1e-2, "BATTERY": 80 - np.arange(N) / N, "Packet": np.arange(N) // 32,
    "VEOG": RNG.normal(size=N) * 1e-5, "EOG L": RNG.normal(size=N) * 1e-5, "ECG": RNG.normal(size=N) * 1e-4,
    "EMG_chin": RNG.normal(size=N) * 1e-5, "Pupil": 3 + RNG.normal(size=N) * 1e-2, "GazeX": 512 + RNG.normal(size=N),
    "Audio": RNG.normal(size=N), "Erg1": RNG.normal(size=N), "Marker": CODE, "MKIDX": CODE,
}  # fmt: skip
for name, values in SIGNALS.items():
    case(
        5,
        "raw",
        f"{name} typed eeg",
        raw_input,
        raw=raw_with(others=[(name, "eeg", values * 1e-6)]),
        either=name.split()[0],
    )

OF_ALL = ("TRIGGER", "Status", "photodiode", "Sample Counter", "TimeStamp", "GSR1", "ACC_X", "VEOG")


def in_epochs(folder: Path, *names: str, kind: str = "eeg", flat: bool = False) -> Input:
    shown = shown_in_order()
    extra_NCT = np.stack(
        [np.repeat(np.asarray(shown, float)[:, None], 20, axis=1) + i for i in range(len(names))], axis=1
    )
    extra_NCT = extra_NCT + np.random.default_rng(1).normal(size=extra_NCT.shape) * 1e-3
    extra_NCT = 0 * extra_NCT if flat else extra_NCT
    kinds = ["eeg"] * len(BRAIN) + [kind] * len(names)
    given = epochs_input(folder, shown=shown, names=[*BRAIN, *names], kinds=kinds, extra=1e-6 * extra_NCT)
    return Input(given.read, given.shown, given.path, given.images, channels=BRAIN)


for name in OF_ALL:
    case(5, "epochs", f"{name} typed eeg", in_epochs, name, either=name.split()[0])
    case(
        5,
        "bids",
        f"{name} typed EEG",
        bids_input,
        raw=raw_with(others=[(name, "eeg", SIGNALS[name] * 1e-6)]),
        either=name.split()[0],
    )
case(5, "epochs", "three that are no brain", in_epochs, "TRIGGER", "GSR1", "Status", either="TRIGGER")
for kind in ("stim", "misc", "eog"):
    case(5, "epochs", f"typed {kind}", in_epochs, "X1", kind=kind)
    case(5, "raw", f"typed {kind}", raw_input, raw=raw_with(others=[("X1", kind, CODE * 1e-6)]))
case(
    5, "bids", "typed TRIG and MISC", bids_input, raw=raw_with(others=[("UDIO", "stim", CODE), ("Marks", "misc", CODE)])
)


# --- electrodes whose names look like something else ------------------------------------------------------------------

CAPS: dict[str, Sequence[str]] = {
    "BioSemi's names": ("A1", "A2", "B15", "C32", "D7"),
    "EGI's names": ("E1", "E12", "E128", "Cz"),
    "EEG with numbers": ("EEG 001", "EEG 002", "EEG003"),
    "10-05 names": ("T7", "TP9", "TP10", "FT9", "Fpz", "POz", "CPP1h", "PPO10h", "I1", "P1"),
    "names in capitals": ("FP1", "FPZ", "CZ", "POZ", "FCZ"),
    "names with a reference": ("Fp1-A1", "C3-M2", "O1-Ref"),
    "EEG before the name": ("EEG Fp1", "EEG C3-REF", "EEG O1"),
    "plain numbers": ("1", "2", "17"),
}
for what, cap in CAPS.items():
    names = [*dict.fromkeys([name for name in cap if name != "Oz"]), "Oz"]
    case(5, "raw", what, raw_input, raw=raw_of(continuous(SHOWN, names=names), names), channels=names)
for what in ("BioSemi's names", "10-05 names"):
    names = [*CAPS[what], "Oz"]
    case(5, "bids", what, bids_input, raw=raw_of(continuous(SHOWN, names=names), names), channels=names)


def mark_bad(root: Path) -> None:
    path = Path(f"{stem_of(root)}_channels.tsv")
    rows = path.read_text(encoding="utf-8").splitlines()
    states = ["status", *("bad" if row.startswith("X9") else "good" for row in rows[1:])]
    path.write_text("\n".join(map("\t".join, zip(rows, states, strict=True))) + "\n", encoding="utf-8")


def flat_channel() -> Any:
    raw = raw_with()
    raw._data[0] = 0
    return raw


def spoilt_channel(value: float) -> Any:
    raw = raw_with()
    raw._data[1, 700] = value
    return raw


def beside(kind: str = "eeg", value: float = 0.0, *, bad: bool = False, name: str = "X9") -> Any:
    """A further channel that holds one value throughout."""
    raw = raw_with(others=[(name, kind, value)])
    raw.info["bads"] = [name] if bad else []
    return raw


def of_meg_and_eeg() -> Any:
    """Sensors of the head, and an electrode that was not connected."""
    names = ("MEG 0111", "MEG 0121", "MEG 0131", "Oz", "EEG060")
    x_CN = continuous(SHOWN, names=names[:4])
    kinds = ["mag"] * 4 + ["eeg"]
    return raw_of(np.vstack([x_CN, 0 * x_CN[:1]]), names, kinds)


FLAT = r"(Fz|X9).*never changes"
case(5, "raw", "a flat channel", raw_input, raw=flat_channel(), refused=FLAT)
case(5, "raw", "a flat channel that is bad", raw_input, raw=beside(bad=True))
case(5, "raw", "a flat channel of another type", raw_input, raw=beside("misc"))
case(5, "raw", "a flat channel that is a trigger by its name", raw_input, raw=beside(name="TRIGGER"))
case(5, "raw", "a channel of NaN that is bad", raw_input, raw=beside(value=np.nan, bad=True))
case(5, "raw", "a channel of NaN of another type", raw_input, raw=beside("misc", np.nan))
case(5, "raw", "a flat electrode beside MEG", raw_input, raw=of_meg_and_eeg(), channels=of_meg_and_eeg().ch_names[:4])
case(5, "bids", "a flat channel", bids_input, raw=flat_channel(), refused=FLAT)
case(5, "bids", "a flat channel that is bad by channels.tsv", bids_input, raw=beside(), change=mark_bad)
case(5, "bids", "a channel of NaN that is bad by channels.tsv", bids_input, raw=beside(value=np.nan), change=mark_bad)
case(5, "epochs", "a flat trigger typed eeg", in_epochs, "TRIGGER", flat=True)
case(5, "epochs", "a flat electrode", in_epochs, "CP1", flat=True, refused=r"CP1.*same value")
case(
    5,
    "raw",
    "NaN in a channel",
    raw_input,
    raw=spoilt_channel(np.nan),
    refused=r"Cz.*NaN|NaN.*Cz",
)

# --- runs that differ -------------------------------------------------------------------------------------------------


def two_runs(folder: Path, second: Any, **more: Any) -> Input:
    """Two sessions, the second recorded otherwise."""
    given = bids_input(folder, **more)
    write_session(folder / "dataset", second, events_of(), "02")
    return Input(given.read, [*SHOWN, *SHOWN], given.path, given.images, channels=more.get("channels", BRAIN))


REORDERED = ("Oz", "Pz", "Fz", "Cz")
case(
    5,
    "bids",
    "channels in another order in a session",
    two_runs,
    raw_of(continuous(SHOWN, 1, REORDERED), REORDERED),
)
case(
    5,
    "bids",
    "a channel less in a session",
    two_runs,
    raw_of(continuous(SHOWN, 1, ("Cz", "Pz", "Oz")), ("Cz", "Pz", "Oz")),
    channels=("Cz", "Pz", "Oz"),
)
case(
    5,
    "bids",
    "a channel of another name in a session",
    two_runs,
    raw_of(continuous(SHOWN, 1, ("Fz", "CZ", "Pz", "Oz")), ("Fz", "CZ", "Pz", "Oz")),
    channels=("Fz", "Pz", "Oz"),
    either="(?i)channel",
)


def eeg_change(change: Any, session: int = 1) -> Any:
    return lambda f: eeg2_raw_input(f, change=edit_raw(change, session), images=False)


def renamed(name: str) -> Any:
    """The electrode Fp1 bears the name of something else."""

    def change(held: dict[str, Any]) -> None:
        held["ch_names"][held["ch_names"].index("Fp1")] = name

    return change


def permuted(held: dict[str, Any]) -> None:
    """Rows and names in another order, alike."""
    place = np.r_[np.random.default_rng(0).permutation(63), 63]
    held["raw_eeg_data"] = held["raw_eeg_data"][place]
    held["ch_names"] = [held["ch_names"][i] for i in place]


def names_alone(held: dict[str, Any]) -> None:
    held["ch_names"][:63] = held["ch_names"][62::-1]


def with_channel(name: str) -> Any:
    def change(held: dict[str, Any]) -> None:
        held["raw_eeg_data"] = np.insert(held["raw_eeg_data"], 63, held["raw_eeg_data"][63] * 1e-6, axis=0)
        held["ch_names"].insert(63, name)
        held["ch_types"].insert(63, "eeg")

    return change


def everywhere(change: Any) -> Any:
    """The corruption in all four files."""

    def corrupt(root: Path) -> None:
        for session in (1, 2):
            for part in ("training", "test"):
                edit_raw(change, session, part)(root)

    return lambda f: eeg2_raw_input(f, change=corrupt, images=False)


LISTS = r"(?i)channel"
case(5, "eeg2-raw", "channels in another order in one file", eeg_change(permuted), either=LISTS)
case(5, "eeg2-raw", "names reversed in one file", eeg_change(names_alone), refused=LISTS)
case(5, "eeg2-raw", "channels in another order in all files", everywhere(permuted))
case(5, "eeg2-raw", "an electrode of another name", eeg_change(renamed("TRIGGER")), refused=LISTS)
for name in ("photodiode", "TRIGGER", "GSR1"):
    case(5, "eeg2-raw", f"{name} beside the electrodes in all files", everywhere(with_channel(name)), either=name)
case(
    5,
    "eeg2-raw",
    "a channel less in a file",
    eeg_change(lambda held: held["ch_names"].pop(0) and None),
    refused=r"(?i)names|channel",
)
case(5, "eeg2-raw", "a name twice", eeg_change(renamed("Cz")), refused=r"Cz.*twice|twice")
case(5, "eeg2-raw", "another rate in a session", eeg_change(lambda held: held.update(sfreq=500), 2), refused=r"500")


def of_meg(folder: Path, name: str, kind: str) -> Input:
    names = [*SENSORS, name]
    return meg_input(folder, names=names, kinds=["mag"] * len(SENSORS) + [kind], channels=SENSORS)


for name in ("UPPT001", "STI101", "UADC001", "SCLK01", "photodiode"):
    case(5, "meg", f"{name} typed mag", of_meg, name, "mag", either=name)
    case(5, "meg", f"{name} typed misc", of_meg, name, "misc")
case(5, "meg", "a reference sensor", of_meg, "BG1-1609", "ref_meg")
case(5, "meg", "another rate", meg_input, rate=250.0, refused=r"250")
