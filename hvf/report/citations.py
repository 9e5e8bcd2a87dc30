"""What a run used, as BibTeX: data sets, methods, encoders, what draws, metrics and libraries.

The entries are those of references.bib; here stands when each is used. What has none is named in a comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from hvf import __version__
from hvf.config import HvfError
from hvf.evaluation.catalogue import leaf
from hvf.methods import METHODS
from hvf.report.folder import Folder

REFERENCES = Path(__file__).with_name("references.bib")
ENTRY = re.compile(r"^@\w+\{([\w-]+),\n.*?^\}$", flags=re.DOTALL | re.MULTILINE)

# {kind of recording: (data set, its entries)} of trials that a recipe of `hvf data prepare things-*` made.
DATA_SETS = {"EEG": ("THINGS-EEG2", ("things_eeg2", "things")), "MEG": ("THINGS-MEG", ("things_data", "things"))}
OWN = ("recording", "bids")  # recipes of one's own recordings
WHITENED = ("official", "nice", "ubp", "neurobridge", "hvf")  # recipes of EEG
METHOD = {
    "hvf": "zheng2026", "shallow": "du2026", "ubp": "wu2025", "neurobridge": "neurobridge", "nice": "song2024",
    "atm": "li2024", "human_aligned": "rajabi2025", "ridge": "sklearn", "encoding": "kay2008",
}  # fmt: skip
BRAIN = {
    "mbp": ("zheng2026",), "eegproject": ("wu2025",), "neurobridge": ("neurobridge",), "tsconv": ("song2024",),
    "atm": ("li2024",), "ridge": ("sklearn",), "encoding": ("kay2008", "nunez2019"), "linear": (),
    "eegnet": ("lawhern2018", "braindecode"), "shallownet": ("schirrmeister2017", "braindecode"),
    "deepnet": ("schirrmeister2017", "braindecode"), "eegconformer": ("song2023", "braindecode"),
    "labram": ("labram", "braindecode"), "cbramod": ("cbramod", "braindecode"), "eegpt": ("eegpt", "braindecode"),
    "reve": ("reve", "braindecode"), "luna": ("luna", "braindecode"), "luna-large": ("luna", "braindecode"),
    "luna-huge": ("luna", "braindecode"), "biot": ("biot", "braindecode"), "signal-jepa": ("sjepa", "braindecode"),
}  # fmt: skip
FUSION = {"hvf": "zheng2026", "linear": "du2026"}
# A pattern of a feature spec, and the entries of the encoder that it names; the first that fits.
ENCODERS = (
    (r"^features:|[:/]mini(-|$|[@:~])", ()),
    (r"^(openclip|text):.*laion", ("radford2021", "cherti2023", "schuhmann2022")),
    (r"^(openclip|text):", ("radford2021",)),
    (r"^glocal:", ("muttenthaler2023", "radford2021")),
    (r"^dreamsim:synclr", ("fu2023", "synclr")),
    (r"^dreamsim:", ("fu2023",)),
    (r"(?i)internvit", ("internvl",)),
    (r"(?i)dinov2", ("dinov2",)),
    (r"(?i)synclr", ("synclr",)),
    (r"(?i)dino", ("caron2021",)),
    (r"(?i)clip", ("radford2021",)),
    (r"(?i)^vae:.*sdxl", ("podell2024",)),
    (r"^torchvision:squeezenet", ("iandola2016",)),
    (r"^torchvision:alexnet", ("krizhevsky2012",)),
    (r"(?i)efficientnet", ("tan2019",)),
    (r"(?i)inception", ("szegedy2016",)),
    (r"(?i)resnet", ("he2016",)),
)  # fmt: skip
METRICS = {
    "pixcorr": ("scotti2023",), "ssim": ("wang2004", "scotti2023"), "alexnet2": ("krizhevsky2012", "scotti2023"),
    "alexnet5": ("krizhevsky2012", "scotti2023"), "inception": ("szegedy2016", "scotti2023"),
    "clip": ("radford2021", "scotti2023"), "effnet": ("tan2019", "scotti2023"), "swav": ("caron2020", "scotti2023"),
    "lpips": ("zhang2018",), "dreamsim": ("fu2023",), "dino": ("caron2021",), "one_to_one": ("kuhn1955",),
    "ece": ("guo2017",), "coverage": ("romano2020",),
}  # fmt: skip
SCALINGS = {"csls": "conneau2018", "sinkhorn": "sinkhorn1967", "hungarian": "kuhn1955"}
LIBRARIES = ("torch", "diffusers", "transformers", "open_clip_torch", "mne", "numpy")


class Use(NamedTuple):
    """Why an entry is cited; without a key, what has none."""

    why: str
    key: str = ""


def bibtex(folders: Sequence[str | Path]) -> str:
    """BibTeX of all that runs used, each entry once, under a comment that says for what.

    Raises HvfError if a folder is no run, or a file in it is damaged.
    """
    if not folders:
        raise HvfError("name at least one run folder: hvf cite RUN [RUN ...]")
    uses: dict[str, list[str]] = {}
    notes: list[str] = []
    versions: dict[str, str] = {"hvf": __version__}
    for path in folders:
        folder = Folder(path)
        versions |= {} if folder.result is None else folder.result.versions
        for why, key in _uses(folder):
            target = uses.setdefault(key, []) if key else notes
            if why not in target:
                target.append(why)
    known = _entries()
    parts = [f"% {note}" for note in notes]
    parts += [f"% {'; '.join(why)}\n{_versioned(key, known[key], versions)}" for key, why in uses.items()]
    return "\n\n".join(parts) + "\n"


@cache
def _entries() -> dict[str, str]:
    """{key: entry} of references.bib."""
    return {match[1]: match[0] for match in ENTRY.finditer(REFERENCES.read_text(encoding="utf-8"))}


def _versioned(key: str, entry: str, versions: dict[str, str]) -> str:
    return entry if key not in versions else entry.removesuffix("}") + f"  note = {{Version {versions[key]}}},\n}}"


def _all(why: str, keys: Iterable[str]) -> Iterator[Use]:
    return (Use(why, key) for key in keys)


def _unknown(what: str, name: str) -> Use:
    return Use(f"no entry for the {what} {name}: cite its authors")


def _uses(folder: Folder) -> Iterator[Use]:
    yield Use("hvf", "hvf")
    result, config = folder.result, folder.config
    if result is not None or config is not None:
        yield from _data(folder)
    if config is not None:
        rows = result.rows if result is not None else {}
        compared = [name for name in rows if name in METHODS]
        for name in compared:
            yield Use(f"method {name}", METHOD[name]) if name in METHOD else _unknown("method", name)
        if not compared:
            yield from _method(config)
        specs = [*_specs(folder, config), *([config.targets.text] if config.targets.text else [])]
        for row in rows.values():
            specs += [str(spec) for spec in row.settings.get("targets.specs", ())]
        for spec in dict.fromkeys(specs):
            yield from _encoder(spec)
        if config.align.mode == "reconstruction":
            yield from _drawing(config)
    yield from _figures(folder)
    for library in LIBRARIES if result is not None else ():
        yield Use(f"library {library}", library)


def _data(folder: Folder) -> Iterator[Use]:
    result = folder.result
    if folder.simulated:
        yield Use("the data are simulated: no data set is to be cited")
        return
    found = re.search(r": (EEG|MEG), .*?recipe ([\w-]+)", result.study.note) if result is not None else None
    kind, recipe = (found[1], found[2]) if found else ("", "")
    if recipe and recipe not in OWN:
        name, keys = DATA_SETS[kind]
        yield from _all(f"data set {name}", keys)
        if kind == "EEG" and recipe in WHITENED:
            yield Use(f"noise normalisation of the recipe {recipe}", "guggenmos2018")
    else:
        yield Use("the data are your own files: cite where they come from")


def _method(config: Any) -> Iterator[Use]:
    if config.brain.encoder in BRAIN:
        yield from _all(f"brain encoder {config.brain.encoder}", BRAIN[config.brain.encoder])
    else:
        yield _unknown("brain encoder", config.brain.encoder)
    if config.fusion.kind in FUSION:
        yield Use(f"fusion {config.fusion.kind}", FUSION[config.fusion.kind])
    if config.brain.encoder not in ("ridge", "encoding"):
        yield Use("InfoNCE", "oord2018")
    if config.brain.people == "euclidean":
        yield Use("Euclidean alignment of people", "he2020")
    if config.brain.person_layer:
        yield Use("layers of people", "defossez2023")
    if config.align.mmd_weight:
        yield Use("maximum mean discrepancy", "gretton2012")


def _specs(folder: Folder, config: Any) -> Sequence[str]:
    """The encoders that were decoded towards: drawing, those of the prior, which the checkpoint lists."""
    kept = folder.json("checkpoint/decoder.json", dict[str, Any] | None) or {}
    listed = kept.get("encoders") if config.align.mode == "reconstruction" else None
    return list(map(str, listed)) if isinstance(listed, dict) and listed else config.targets.specs


def _encoder(spec: str) -> Iterator[Use]:
    for pattern, keys in ENCODERS:
        if re.search(pattern, spec):
            yield from _all(f"encoder {spec}", keys)
            return
    yield _unknown("encoder", spec)


def _drawing(config: Any) -> Iterator[Use]:
    yield Use("Fusion Prior", "zheng2026")
    yield Use("IP-Adapter", "ye2023")
    yield Use(f"pipeline {config.prior.pipeline}", "podell2024")
    if "turbo" in config.prior.pipeline.lower():
        yield Use(f"pipeline {config.prior.pipeline}", "sauer2023")


def _figures(folder: Folder) -> Iterator[Use]:
    names = [name for name in folder.metrics if not name.startswith("chance/")]
    for name in dict.fromkeys(map(leaf, names)):
        yield from _all(f"metric {name}", METRICS.get(name, ("scotti2023",) if name.startswith("two_way_") else ()))
    for scaling, key in SCALINGS.items():
        if any(scaling in name.split("/")[1] for name in names if name.startswith(("retrieval/", "transductive/"))):
            yield Use(f"scaling {scaling}", key)
    if folder.result is not None and folder.result.kind == "timecourse":
        yield Use("decoding over time", "king2014")
    if folder.result is not None and folder.result.kind == "population":
        yield Use("alignment at feature maps", "dina")
