"""Single checks of `hvf data doctor`: each examines one property and returns `Finding`s in plain words.

Letters: N trials or events, C channels, T samples.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import multimode

import numpy as np
from PIL import Image

from hvf.config import HvfError, did_you_mean
from hvf.data.images.image_set import ImageSet
from hvf.data.images.matching import stem
from hvf.data.montages import EEG_CHANNELS, FRONT_TO_BACK, montage_1005
from hvf.data.recordings.channels import CTF_SENSOR, other_than_brain
from hvf.registry import listed

SEVERITIES = ("error", "warning", "ok")

NEUROMAG_SENSOR = re.compile(r"MEG ?\d{3,4}")
BROKEN_SENSOR = "MRO11"  # of the CTF that recorded THINGS-MEG; the official pipeline drops it
ALIKE = 0.05  # mean difference of two thumbnails, in their standard deviation, up to which they show one picture


@dataclass(frozen=True)
class Finding:
    """The result of one check: "error", "warning" or "ok", which check, where, what is the case, what to do."""

    severity: str
    check: str
    where: str
    message: str
    advice: str = ""


def names(ch_names: Sequence[str], where: str, *, published: Sequence[str] | None = None) -> list[Finding]:
    """Check channel names: none empty, none twice, and the `published` ones in the published order.

    Without `published`, names that are all of THINGS-EEG2's or CTF's are compared with those data sets' orders; a part
    of them, as many caps have it, is in whatever order it is.
    """
    findings, twice = [], [name for name, n in Counter(ch_names).items() if n > 1]
    if twice:
        expected = published or (EEG_CHANNELS if set(ch_names) < set(EEG_CHANNELS) else ())
        missing = [name for name in expected if name not in ch_names]
        likely = f"; {missing[0]} is missing, so one of them is probably {missing[0]}" if len(missing) == 1 else ""
        if "Oz" in twice and "POz" not in ch_names:
            likely = "; POz is missing, so one of them is probably POz: a list with this slip was published"
        message = f"{listed(twice)} {'is' if len(twice) == 1 else 'are'} named twice{likely}"
        findings.append(
            Finding("error", "channels", where, message, "correct the names; rows of data keep their order")
        )
    if any(not name.strip() for name in ch_names):
        findings.append(Finding("warning", "channels", where, "a channel has no name", "name every channel"))
    if not twice:
        findings += _order(tuple(ch_names), where, published)
    return findings or [Finding("ok", "channels", where, f"{len(ch_names)} channels, none twice")]


def _order(ch_names: tuple[str, ...], where: str, published: Sequence[str] | None) -> list[Finding]:
    if published is not None:
        lacking, unknown = ([n for n in a if n not in b] for a, b in ((published, ch_names), (ch_names, published)))
        if lacking or unknown:
            lacks = f"lacks {listed(lacking)}" if lacking else ""
            has = (
                f"has {listed(unknown)}, which {'is' if len(unknown) == 1 else 'are'} not published" if unknown else ""
            )
            close = did_you_mean(unknown[0], lacking) if unknown and lacking else ""
            message = f"{len(ch_names)} of {len(published)} channels: {' and '.join(filter(None, (lacks, has)))}{close}"
            severity = "error" if "stim" in lacking else "warning"  # channels are taken by their names
            return [
                Finding(severity, "channels", where, message, "fine if you made it so; else use the published file")
            ]
        if ch_names != tuple(published):
            at = next(i for i, (a, b) in enumerate(zip(ch_names, published, strict=True)) if a != b)
            message = f"channel {at} is {ch_names[at]} where the published order has {published[at]}"
            return [Finding("warning", "order", where, message, "see that names and rows were reordered together")]
    elif set(ch_names) == set(EEG_CHANNELS):
        if ch_names not in (tuple(EEG_CHANNELS), tuple(FRONT_TO_BACK)):
            message = "the channels are THINGS-EEG2's, in neither the raw files' nor NICE's order"
            advice = "see that names and rows of data were reordered together"
            return [Finding("warning", "order", where, message, advice)]
    elif len(ch_names) > 8 and all(map(CTF_SENSOR.fullmatch, ch_names)) and list(ch_names) != sorted(ch_names):
        name, other = next((a, b) for a, b in zip(ch_names, sorted(ch_names), strict=True) if a != b)
        message = f"CTF sensors are not in the published order: {name} comes where {other} should"
        advice = "see that names and rows of data were reordered together"
        return [Finding("warning", "order", where, message, advice)]
    return []


def montage(ch_names: Sequence[str], kind: str, where: str, *, located: bool = False) -> list[Finding]:
    """Check that the position of each channel on the head is known.

    Parameters
    ----------
    ch_names : sequence of str
    kind : str
        "eeg" or "meg".
    where : str
        File or folder, for messages.
    located : bool
        Whether the file itself gives positions.
    """
    if kind == "features":
        return []
    odd = [name for name in ch_names if kind == "eeg" and other_than_brain(name)]
    findings = []
    if odd:
        message = f"{listed(odd)} {'is' if len(odd) == 1 else 'are'} typed EEG"
        findings.append(
            Finding(
                "warning", "montage", where, message, "hvf leaves them out; give them their type for other programs"
            )
        )
    broken = [name for name in ch_names if name.split("-")[0] == BROKEN_SENSOR]
    if kind == "meg" and broken and all(map(CTF_SENSOR.fullmatch, ch_names)) and broken[0].endswith("-1609"):
        message = f"{broken[0]} was broken throughout THINGS-MEG"
        findings.append(Finding("ok", "montage", where, message, "`hvf data prepare things-meg` drops it"))
    if kind == "eeg":
        electrodes = montage_1005().ch_names
        known = {name.lower(): name for name in electrodes}
        unknown = [name for name in ch_names if name not in odd and name.lower() not in known]
        cased = [name for name in ch_names if name not in electrodes and name.lower() in known]
        if cased and not located:
            usual = listed(known[name.lower()] for name in cased)
            message = f"{listed(cased)} {'is' if len(cased) == 1 else 'are'} written {usual} elsewhere"
            findings.append(Finding("warning", "montage", where, message, "write them so, or picks by name miss them"))
        system = "the 10-05 system"
    else:
        unknown = [n for n in ch_names if not (CTF_SENSOR.fullmatch(n) or NEUROMAG_SENSOR.fullmatch(n))]
        system = "CTF or Neuromag"
    if unknown and not located:
        close = did_you_mean(unknown[0], known.values()) if kind == "eeg" and len(unknown) < len(ch_names) else ""
        close = close if "mean" in close else ""
        message = f"{len(unknown)} of {len(ch_names)} names are unknown to {system}: {listed(unknown)}{close}"
        advice = "rename them, or set a montage; decoding works without, maps of the head do not"
        findings.append(Finding("warning", "montage", where, message, advice))
    origin = "have positions in the file" if located else f"have names of {system}"
    return findings or [Finding("ok", "montage", where, f"all {len(ch_names)} {kind.upper()} channels {origin}")]


def sampling_rate(sfreq: float, where: str, *, published: Sequence[float] = ()) -> list[Finding]:
    """Check the sampling rate (Hz): that it is possible, and one of the published ones if there are any."""
    if not np.isfinite(sfreq) or sfreq <= 0:
        message = f"the sampling rate is {sfreq} Hz"
        return [Finding("error", "sampling rate", where, message, "write the rate of the recording")]
    if published and not any(abs(sfreq - rate) < 1e-3 * rate for rate in published):
        message = f"{sfreq:g} Hz where {' or '.join(f'{rate:g}' for rate in published)} Hz was published"
        advice = "every latency would be wrong: correct it, or use the file as it was published"
        return [Finding("error", "sampling rate", where, message, advice)]
    return [Finding("ok", "sampling rate", where, f"{sfreq:g} Hz")]


def codes(codes_N: np.ndarray, n_images: int, where: str) -> list[Finding]:
    """Check that event codes are whole numbers between 1 and `n_images`."""
    codes_N = np.asarray(codes_N)
    if not len(codes_N):
        return [Finding("error", "events", where, "there is no event", "see that the trigger channel was recorded")]
    if (codes_N != np.round(codes_N)).any():
        odd = codes_N[codes_N != np.round(codes_N)]
        message = f"{len(odd)} of {len(codes_N)} event codes are no whole numbers, such as {odd[0]:g}"
        return [Finding("error", "events", where, message, "do not filter or resample the trigger channel")]
    outside = codes_N[(codes_N < 1) | (codes_N > n_images)]
    if len(outside):
        message = f"{len(outside)} of {len(codes_N)} event codes are outside 1..{n_images}: {listed(_ints(outside))}"
        if outside.min() == 0 == outside.max():
            message += "; they seem to count from 0"
        advice = "see that file, partition and stimulus list belong together"
        return [Finding("error", "events", where, message, advice)]
    return [Finding("ok", "events", where, f"{len(codes_N)} events, codes {codes_N.min():g} to {codes_N.max():g}")]


def counts(
    ids_N: Sequence, published: Sequence, repeats: int, where: str, *, complete: bool = True, part: str = ""
) -> list[Finding]:
    """Check how often each image was shown; more often than published is normal.

    Parameters
    ----------
    ids_N : sequence
        The image of each trial.
    published : sequence
        All images of the study.
    repeats : int
        Published number of repeats of each.
    where : str
        File or folder, for messages.
    complete : bool
        Whether all files are there: if not, missing images are a warning, as are fewer repeats of all images alike.
    part : str
        "training" or "test", for messages.
    """
    shown = Counter(ids_N)
    n = np.array([shown.get(name, 0) for name in published])
    what = f"{part} " if part else ""
    never = [name for name, k in zip(published, n, strict=True) if k == 0]
    usual = max(multimode(n[n > 0].tolist()), default=0)
    least = min(repeats, usual) if complete else min(repeats, usual) // 2  # sessions may show different images
    few = [name for name, k in zip(published, n, strict=True) if 0 < k < least]
    findings = []
    advice = "see that every session's file is there and whole"
    if never:
        message = f"{len(never)} of {len(published)} {what}images were never shown: {listed(map(str, never))}"
        findings.append(Finding("error" if complete else "warning", "events", where, message, advice))
    if few:
        message = f"{len(few)} of {len(published)} {what}images were shown less than {least} times"
        message += f": {listed(map(str, few))}"
        findings.append(Finding("error" if complete else "warning", "events", where, message, advice))
    if 0 < usual < repeats:
        message = f"each of the {what}images was shown {usual} times, where {repeats} were published"
        findings.append(Finding("warning", "events", where, message, "fine for a part of the study or a smaller one"))
    if not findings and len(published):
        surplus = int((n > repeats).sum())
        more = f"; {surplus} of them more often, as is normal" if surplus else ""
        message = f"each of the {len(published)} {what}images was shown {repeats} times{more}"
        findings.append(Finding("ok", "events", where, message))
    return findings


def leak(train: Iterable[str], test: Iterable[str], where: str, what: str = "concepts") -> list[Finding]:
    """Check that no test concept (or image) is in training too.

    Parameters
    ----------
    train, test : iterable of str
    where : str
        File or folder, for messages.
    what : str
        "concepts" or "images".
    """
    train, test = set(train), set(test)
    both = sorted(train & test)
    if both:
        message = f"{len(both)} of {len(test)} test {what} are in training too: {listed(both)}"
        advice = "a zero-shot figure would be wrong: drop their training trials"
        return [Finding("error", "leak", where, message, advice)]
    return [Finding("ok", "leak", where, f"no test {what.rstrip('s')} among {len(train)} training {what}")]


def listed_as(given: Sequence[str], truth: Sequence[str], where: str, source: str) -> list[Finding]:
    """Compare image files, one per condition, with the sorted files of another source.

    Parameters
    ----------
    given, truth : sequence of str
        File names, compared by their stems.
    where, source : str
        Where `given` and `truth` come from, for messages.
    """
    given, truth = [stem(name) for name in given], [stem(name) for name in truth]
    if given == truth:
        return [Finding("ok", "pairing", where, f"{len(given)} images as in {source}, in that order")]
    advice = f"pair by name, or use the list and the images of one release ({source})"
    lacking, extra = set(given) - set(truth), set(truth) - set(given)
    if lacking or extra:
        parts = [f"{source} lacks {len(lacking)}: {listed(sorted(lacking))}"] if lacking else []
        parts += [f"{source} has {len(extra)} that are not listed: {listed(sorted(extra))}"] if extra else []
        severity = "error" if lacking else "warning"
        return [Finding(severity, "pairing", where, "; ".join(parts), advice)]
    if len(given) != len(truth):
        twice = [name for name, n in Counter(given).items() if n > 1] or [n for n, k in Counter(truth).items() if k > 1]
        return [Finding("error", "pairing", where, f"{listed(twice)} stands for more than one image", advice)]
    at = [i for i, (a, b) in enumerate(zip(given, truth, strict=True)) if a != b]
    message = f"{len(at)} of {len(given)} images are in another order than in {source}: number {at[0] + 1} is "
    message += f"{given[at[0]]} here and {truth[at[0]]} there"
    return [Finding("warning", "pairing", where, message, advice)]


def sensor_types(types: dict[str, str], where: str) -> list[Finding]:
    """Check a BIDS channels.tsv, {name: type}, for MEG sensors typed OTHER and for no brain channel at all."""
    sensors = [name for name in types if CTF_SENSOR.fullmatch(name) or NEUROMAG_SENSOR.fullmatch(name)]
    other = [name for name in sensors if not types[name].upper().startswith("MEG")]
    if other:
        message = f"{len(other)} MEG sensors are typed {types[other[0]]}: {listed(other, 3)}"
        advice = "as in ds004212; hvf knows them by name, other readers would drop them: type them MEGGRADAXIAL"
        return [Finding("warning", "channels", where, message, advice)]
    brain = [name for name, kind in types.items() if re.match(r"(?i)meg(mag|grad)|eeg$", kind)]
    if not brain:
        message = "no channel is typed EEG or MEG"
        return [Finding("error", "channels", where, message, "correct the column `type`")]
    return [Finding("ok", "channels", where, f"{len(brain)} channels typed EEG or MEG")]


def contents(train: ImageSet | None, test: ImageSet | None, where: str) -> list[Finding]:
    """Check that every image decodes and no test image is a training image, under whatever name, size or format."""
    findings, hashed = [], {}
    for part, images in (("training", train), ("test", test)):
        hashes, thumbs, broken = [], [], []
        for i in range(len(images or ())):
            try:
                image = images[i]  # pyright: ignore[reportOptionalSubscript]
            except HvfError as error:
                broken.append(str(error))
                continue
            hashes.append((images.ids[i], content_of(image)))  # pyright: ignore[reportOptionalMemberAccess]
            thumbs.append(np.asarray(image.resize((12, 12), Image.Resampling.BOX), np.float32).ravel())
        if broken:
            message = f"{len(broken)} of {len(images or ())} {part} images cannot be read: {broken[0]}"
            findings.append(Finding("error", "images", where, message, "copy them again"))
        hashed[part] = hashes, thumbs
    (train_hashes, train_thumbs), (test_hashes, test_thumbs) = hashed["training"], hashed["test"]
    name_of, both = {content: name for name, content in train_hashes}, {}
    for (name, content), thumb in zip(test_hashes, test_thumbs, strict=True):
        if content in name_of:
            both[name] = name_of[content]
        elif train_thumbs and np.std(thumb) > 1:
            distance_N = np.abs(np.asarray(train_thumbs) - thumb).mean(1)
            if distance_N.min() < ALIKE * np.std(thumb):
                both[name] = train_hashes[int(distance_N.argmin())][0]
    if both:
        message = f"{len(both)} of {len(test_hashes)} test images are training images too: "
        message += listed(f"{a} is {b}" for a, b in both.items())
        findings.append(Finding("error", "leak", where, message, "drop the training trials of those images"))
    elif test_hashes and train_hashes:
        findings.append(Finding("ok", "leak", where, f"no test image among {len(train_hashes)} training images"))
    return findings


def content_of(image: Image.Image) -> str:
    """sha256 of a picture's size and pixels."""
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


def _ints(values: np.ndarray) -> list[str]:
    return [f"{value:g}" for value in np.unique(values)]
