"""Continuous recordings in any format that MNE reads: opened, checked for damage, channel types corrected."""

from __future__ import annotations

import difflib
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mne
import numpy as np
from mne.io.constants import FIFF

from hvf.config import HvfError
from hvf.data.montages import montage_1005
from hvf.data.recordings.channels import brain_channels, steps
from hvf.files.guard import guarded
from hvf.registry import listed

# What MNE only warns about, but what means that a part of the file is missing or wrong.
DAMAGE = re.compile(r"(?i)truncat|corrupt|invalid tag|does not match the file size|incomplete|unexpected end|premature")
EPOCHS = re.compile(r"[-_]epo\.fif(\.gz)?$")
RAW_NAME = re.compile(r"[-_](raw|meg|eeg|ieeg|nirs|sss|tsss)(-\d+)?\.fif(\.gz)?$")
NOT_RAW = re.compile(r"[-_](cov|ave|fwd|inv|src|trans|proj|ica|sol|bem|eve|annot|epo(-\d+)?)\.fif(\.gz)?$")
FOREIGN_UNITS = 200.0  # what recordings of one person differ by is less, units differ by 1000
BINARY_BYTES = {"INT_16": 2, "UINT_16": 2, "INT_32": 4, "IEEE_FLOAT_32": 4}


def is_epochs(path: Path) -> bool:
    """Whether a file holds epochs: by its name, or a FIF of another name by its content."""
    if EPOCHS.search(path.name):
        return True
    if not path.name.lower().endswith((".fif", ".fif.gz")) or RAW_NAME.search(path.name) or NOT_RAW.search(path.name):
        return False
    try:
        return path.is_file() and guarded(path, "kind", lambda: mne.what(path)) == "epochs"
    except Exception:  # damaged in any way: whoever reads it as a recording says how
        return False


def open_recording(path: str | Path) -> Any:
    """Open a continuous recording in any format that MNE reads; its values are read later.

    Raises HvfError if there is none, MNE does not know it, or it is damaged or cut off as far as the file can tell.
    """
    path = Path(path)
    if not path.exists():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        missing = "its content is not here (git annex or datalad get)" if path.is_symlink() else "there is none"
        raise HvfError(f"cannot read the recording {path}: {missing}{nearest(path.name, names)}")
    if path.suffix.lower() in (".eeg", ".vmrk") and path.with_suffix(".vhdr").is_file():
        raise HvfError(
            f"{path} is a part of a BrainVision recording: give its header, {path.with_suffix('.vhdr').name}"
        )
    refuse_empty(path)
    raw = attempt(path, lambda: guarded(path, "recording", lambda: mne.io.read_raw(path, verbose="warning")))
    first = continued(path)
    if first:
        raise HvfError(
            f"{path} is a further part of a recording that was split, {first} comes before it: give the first part, "
            "which leads to all others"
        )
    return raw


def continued(path: Path) -> str:
    """The name of the file that a FIF continues, as a further part of a recording too large for one; or ""."""
    if not path.name.lower().endswith((".fif", ".fif.gz")):
        return ""
    role, name = int(FIFF.FIFFV_ROLE_PREV_FILE), int(FIFF.FIFF_REF_FILE_NAME)
    try:
        lines = guarded(path, "kind", lambda: mne.io.show_fiff(path, tag=name, max_str=1000, verbose="error"))
    except Exception:  # damaged in any way: whoever reads it as a recording says how
        return ""
    before = re.search(rf"FIFF_REF_ROLE .*\[{role}\]\s+.*FIFF_REF_FILE_NAME .* = (.*) \.\.\. ", str(lines))
    return re.split(r"[\\/]", before[1])[-1] if before else ""


def refuse_empty(path: Path) -> None:
    """Raise HvfError for a CTF folder `.ds` whose files are not there, as git annex leaves it."""
    if path.is_dir() and path.suffix.lower() == ".ds":
        files = [p for p in path.iterdir() if p.suffix in (".meg4", ".res4")]
        lost = [p.name for p in files if not p.exists() or p.stat().st_size == 0]
        if lost or {p.suffix for p in files} != {".meg4", ".res4"}:
            what = f"{listed(lost)} has no content" if lost else "it lacks .meg4 or .res4"
            raise HvfError(f"cannot read the recording {path}: {what} here (git annex or datalad get)")


def check_fetched(*paths: Path) -> None:
    """Raise HvfError if recordings of a BIDS data set, or files beside them that belong to them, have no content."""
    for path in paths:
        refuse_empty(path)
        run = path.name.removesuffix(path.suffix).rpartition("_")[0]
        for file in (path, *sorted(path.parent.glob(f"{run}_*"))):
            if (file.is_symlink() and not file.exists()) or (file.is_dir() and not any(file.iterdir())):
                raise HvfError(f"cannot read the recording {file}: its content is not here (git annex or datalad get)")


def not_fetched(folder: Path) -> str:
    """A hint that names a file below a folder whose content is not here, or whose ending is in capitals; or ""."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.exists():
            return f"; the content of {path} is not here (git annex or datalad get)"
        if path.suffix != path.suffix.lower() and path.suffix.lower() in (".vhdr", ".edf", ".bdf", ".set", ".fif"):
            return f"; the ending of {path} is in capitals, which BIDS does not know: write it in small letters"
    return ""


def attempt(path: Path, read: Callable[[], Any]) -> Any:
    """The result of `read`; HvfError with the reason if it fails or MNE warns of damage to the recording `path`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            raw = read()
        except HvfError:  # of who looked at the file first
            raise
        except Exception as error:  # MNE's readers raise many kinds on a damaged file, struct.error among them
            raise HvfError(f"cannot read the recording {path}: {one_line(error)}; is it whole?") from error
    for warning in caught:
        words = re.sub(r"\S*/\S*", "", str(warning.message).replace(str(path.parent), ""))  # folders may be called so
        if DAMAGE.search(words):
            raise HvfError(f"the recording {path} is damaged: {one_line(warning.message)}; copy it again")
    fault = _fault(path, raw)
    if fault:
        raise HvfError(f"the recording {path} is damaged: {fault}; copy it again")
    return raw


def one_line(error: object) -> str:
    """The first line of an error's message, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__


def nearest(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"`, or nothing when nothing is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def give_positions(raw: Any) -> list[str]:
    """If no EEG channel has a position, set those of the 10-05 system by name, in place; return notes."""
    names, _ = brain_channels(raw.info, "eeg")
    if not names or any(has_position(raw.info, name) for name in names):
        return []
    raw.set_montage(montage_1005(), match_case=False, match_alias=True, on_missing="ignore", verbose="error")
    unknown = [name for name in names if not has_position(raw.info, name)]
    if not unknown:
        return [f"the {len(names)} electrodes have no positions; those of the 10-05 system are taken"]
    return [f"{len(unknown)} electrodes have no position and no name of the 10-05 system: {listed(unknown)}"]


def has_position(info: mne.Info, name: str) -> bool:
    loc = info["chs"][info["ch_names"].index(name)]["loc"][:3]
    return bool(np.isfinite(loc).all() and loc.any())


def data_channels(raw: Any, picks: str | Sequence[str] | None, where: str | Path) -> tuple[list[str], list[str]]:
    """Names of the channels to decode from, and notes.

    `picks` names them or is "eeg" or "meg"; by default MEG if there is any, else EEG. Bad ones are included if they
    have a position to be interpolated by. Raises HvfError if there is none, or a named one is missing.
    """
    notes = []
    if picks is not None and not isinstance(picks, str):
        names = list(picks)
        missing = [name for name in names if name not in raw.ch_names]
        if missing:
            close = nearest(missing[0], raw.ch_names)
            raise HvfError(f"{where} has no channel {listed(missing)}; it has {listed(raw.ch_names)}{close}")
    else:
        kind = picks or ("meg" if brain_channels(raw.info, "meg")[0] else "eeg")
        names, _ = brain_channels(raw.info, kind)
        names, more = brain_channels(raw.info, kind, known=steps(raw, names))
        notes += more
        if not names:
            types = ", ".join(f"{n} {t}" for t, n in Counter(raw.get_channel_types()).items())
            what = "EEG or MEG" if picks is None else kind.upper()
            raise HvfError("; ".join([f"{where} has no {what} channel; it has {types}", *notes]))
        beside = brain_channels(raw.info, "eeg")[0] if picks is None and kind == "meg" else []
        if beside:
            notes.append(f"{len(beside)} EEG channels beside the MEG are left out (--picks eeg takes those)")
    lost = [name for name in names if name in raw.info["bads"] and not has_position(raw.info, name)]
    if lost:
        notes.append(f"bad channels without a position are left out: {listed(lost)}")
    return [name for name in names if name not in lost], notes


def load(raw: Any, ch_names: Sequence[str], where: str | Path) -> Any:
    """A copy in memory of the channels named, in that order, the bad ones interpolated.

    Raises HvfError if the values cannot be read, or naming channels that hold NaN or infinity or never change.
    """
    with mne.use_log_level("error"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            part = raw.copy().pick(list(ch_names)).reorder_channels(list(ch_names)).load_data()
        except Exception as error:
            raise HvfError(f"cannot read the recording {where}: {one_line(error)}; is it whole?") from error
        for i, name in enumerate(ch_names):
            if name in part.info["bads"]:
                continue
            x_N = part[i][0]
            fault = "holds NaN or infinite values" if not np.isfinite(x_N).all() else None
            fault = fault or ("never changes" if np.ptp(x_N) == 0 else None)
            if fault:
                raise HvfError(f"channel {name} of {where} {fault}: mark it as bad, or name the others (--picks)")
        if part.info["bads"]:
            if len(part.info["bads"]) > len(ch_names) // 2:
                raise HvfError(f"{len(part.info['bads'])} of {len(ch_names)} channels of {where} are bad: leave it out")
            try:
                part.interpolate_bads(reset_bads=True, origin=(0.0, 0.0, 0.04))
            except Exception as error:
                bads = listed(part.info["bads"])
                raise HvfError(f"cannot interpolate the bad channels {bads} of {where}: {one_line(error)}") from error
    return part


def check_scales(scales: Mapping[str, float]) -> None:
    """Raise HvfError for a recording in another unit than the first: {its name: how much its values vary}."""
    first = next(iter(scales))
    for where, scale in scales.items():
        ratio = scale / scales[first] if scales[first] else 1.0
        if not 1 / FOREIGN_UNITS < ratio < FOREIGN_UNITS:
            raise HvfError(
                f"the values of {where} vary {ratio:.1g} times as much as those of {first}: one of them is in another "
                "unit, or names none (MNE reads EEG in V and MEG in T); correct its header"
            )


def _fault(path: Path, raw: Any) -> str | None:
    """A contradiction in the file's own header that MNE does not check, in words."""
    if path.suffix.lower() in (".vhdr", ".ahdr", ".set"):
        data = next((Path(name) for name in raw.filenames if name), path)
        own = path.with_suffix(data.suffix)
        if data.stem != path.stem and own.is_file():
            return (
                f"{path.name} names {data.name} as its data, but {own.name} lies beside it: were the files renamed? "
                "The name stands inside, too (mne_bids.copyfiles renames both)"
            )
    if path.suffix.lower() in (".vhdr", ".ahdr"):
        return _brainvision_fault(path, raw)
    if path.suffix.lower() == ".ds":
        for part in map(Path, raw.filenames):
            with open(part, "rb") as file:
                if not file.read(8).startswith(b"MEG4"):
                    return f"{part.name} does not begin as CTF data do"
    return None


def _brainvision_fault(path: Path, raw: Any) -> str | None:
    header = dict(re.findall(r"(?m)^(\w+)=([^\r\n]*)", path.read_text(encoding="latin-1")))
    data, width = Path(raw.filenames[0]), BINARY_BYTES.get(header.get("BinaryFormat", "").strip().upper())
    size = data.stat().st_size
    if width:
        frame = width * int(header["NumberOfChannels"])
        if size % frame:
            return f"{data.name} ends within a sample ({size} bytes, {frame} per sample)"
        if header.get("DataPoints", "").strip().isdigit() and size // frame != int(header["DataPoints"]):
            return f"{data.name} holds {size // frame} samples, its header says {header['DataPoints'].strip()}"
    if not header.get("MarkerFile", "").strip():
        return None
    markers = path.with_name(header.get("MarkerFile", "").strip().replace("$b", path.stem))
    if not markers.is_file():
        return f"its file of markers {markers.name} is missing" if markers != path else None
    for line in re.findall(r"(?m)^Mk\d+[^\r\n]*", markers.read_text(encoding="latin-1")):
        fields = line.split(",")
        if len(fields) < 5 or not fields[2].strip().isdigit():
            return f"{markers.name} has a broken line ({line})"
        if int(fields[2]) > raw.n_times:
            return f"{markers.name} marks sample {fields[2]}, but {data.name} holds {raw.n_times}"
    return None
