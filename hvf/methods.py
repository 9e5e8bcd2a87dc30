"""Published figures to print beside ours, as the papers' own tables give them; none was reproduced here.

200-way zero-shot retrieval within the subject ("intra") and leave-one-subject-out ("loso"), and reconstruction, on
THINGS-EEG2 and THINGS-MEG, averaged over subjects unless a row names one. Sources: arXiv 2602.07495 (HVF), 2601.21948
(SA), and the works they compare with.
"""

from __future__ import annotations

from dataclasses import dataclass

from hvf.config import HvfError, did_you_mean

# Top-1 and top-5 in %, real recordings, each paper's own protocol; by the name in `presets.METHODS` where there is one.
RETRIEVAL: dict[str, dict[str, tuple[float, float]]] = {
    "nice": {"eeg intra": (16.1, 43.6), "eeg loso": (6.2, 21.4), "meg intra": (12.8, 36.0)},
    "atm": {"eeg intra": (27.1, 58.1), "eeg loso": (11.9, 33.8)},
    "mb2c/atm": {"eeg intra": (28.5, 60.4), "eeg loso": (11.8, 33.7)},
    "neural-mcrl": {"eeg intra": (32.4, 64.1), "eeg loso": (14.0, 34.3)},
    "cogcap": {"eeg intra": (35.6, 80.2)},
    "ubp": {"eeg intra": (50.9, 79.7), "eeg loso": (12.4, 33.4), "meg intra": (26.7, 55.2), "meg loso": (2.2, 10.4)},
    "neurobridge": {
        "eeg intra": (63.2, 89.9), "eeg loso": (19.0, 45.9), "meg intra": (32.2, 60.8), "meg loso": (3.4, 12.8)
    },
    "hvf": {"eeg intra": (75.7, 94.6), "eeg loso": (20.0, 44.1), "meg intra": (33.7, 60.5), "meg loso": (5.4, 15.2)},
    "shallow": {
        "eeg intra": (82.6, 97.7), "eeg loso": (21.8, 49.4), "meg intra": (48.0, 74.4), "meg loso": (3.7, 13.0)
    },
}  # fmt: skip
# What a figure of that paper was ranked against; ours is always the plain test images through the method's own tower.
GALLERY = {
    "nice": "concept centres of other images", "ubp": "blurred test images",
    "neurobridge": "features averaged over 4 augmentations",
}  # fmt: skip
# How the papers write the names.
TITLES = {
    "nice": "NICE", "atm": "ATM (as in SA)", "mb2c/atm": "MB2C/ATM (as in HVF)", "neural-mcrl": "Neural-MCRL",
    "cogcap": "CogCap (All)", "ubp": "UBP", "neurobridge": "NeuroBridge", "hvf": "HVF", "shallow": "SA (InternViT)",
}  # fmt: skip
PICTURES = ("pixcorr", "alexnet5", "inception", "clip", "swav")
# THINGS-EEG2: method, averaged over what, and PICTURES.
RECONSTRUCTION: tuple[tuple[str, str, tuple[float, ...]], ...] = (
    ("cogcap", "within subject", (0.150, 0.623, 0.669, 0.715, 0.590)),
    ("hvf", "within subject", (0.195, 0.905, 0.756, 0.808, 0.554)),
    ("atm", "subject 8", (0.160, 0.866, 0.734, 0.786, 0.582)),
    ("hvf", "subject 8", (0.227, 0.924, 0.796, 0.826, 0.531)),
)
PROTOCOLS = {"intra": "within subject", "loso": "LOSO"}
DATA = {"things-eeg": "eeg", "things-meg": "meg"}  # preset -> kind of recording


@dataclass(frozen=True)
class Published:
    """A row of somebody's table: the method, what it was averaged over, and {figure: value} as metrics.json counts."""

    method: str
    of: str
    figures: dict[str, float]


def published(preset: str) -> list[Published]:
    """The field's rows for a preset, [] where it has none."""
    if preset not in DATA:
        return []
    kind, rows = DATA[preset], []
    for protocol, of in PROTOCOLS.items():
        for method, figures in RETRIEVAL.items():
            if told := figures.get(f"{kind} {protocol}"):
                values = {f"retrieval/top{k}": round(v / 100, 4) for k, v in zip((1, 5), told, strict=True)}
                rows.append(Published(TITLES[method], of, values))
    for method, of, told in RECONSTRUCTION if kind == "eeg" else ():
        values = {f"reconstruction/{name}": v for name, v in zip(PICTURES, told, strict=True)}
        rows.append(Published(TITLES[method], of, values))
    return rows


def known(name: str) -> str:
    """The name of the preset itself; HvfError naming the nearest if nothing was published under it here."""
    key = name.replace("_", "-")
    if key not in DATA:
        raise HvfError(f"there are no published figures of {name!r}{did_you_mean(key, DATA)}")
    return key
