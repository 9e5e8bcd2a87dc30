"""What the names of image files say: an id for each, and its concept, one spelling for each."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

# Folders that part images or hold them all, and say nothing of what they show.
NO_CONCEPT = re.compile(
    r"(?i)(train|training|test|testing|val|valid|validation|dev)?[ _-]?"
    r"(images?|imgs?|pictures?|pics?|photos?|stimuli|stim|set)?"
)


def ids_and_concepts(names: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The id and the concept of each picture file, from their paths below one folder; and notes on what was joined.

    The id is the path without ending, or the file's name where all lie side by side. The concept is the folder that an
    image lies in (``train``, ``images`` and folders of single exemplars, ``cat/cat_01/x.png``, do not count), or, where
    all lie side by side, its own name.
    """
    names = [name.replace("\\", "/") for name in names]
    paths = [PurePosixPath(name) for name in names]
    side_by_side = len({path.parent for path in paths}) == 1
    ids = [path.stem if side_by_side else str(path.with_suffix("")) for path in paths]
    if len(set(ids)) < len(ids):  # a.png beside a.jpg
        ids = names
    if side_by_side:
        return ids, [path.stem for path in paths], []
    folders = [path.parent.parts for path in paths]
    telling = [_telling(parts) for parts in folders]
    n_in = Counter(folders)
    if all(
        n_in[parts] == 1 and len(say) > 1 and _exemplar(*say[-2:]) for parts, say in zip(folders, telling, strict=True)
    ):
        telling = [say[:-1] for say in telling]
    own = [path.stem if not say else "" for path, say in zip(paths, telling, strict=True)]
    concepts, spellings = unified(say[-1] if say else "" for say in telling)
    notes = [f"{' and '.join(map(repr, several))} are one concept, {one!r}" for one, several in spellings.items()]
    return ids, [mine or concept for mine, concept in zip(own, concepts, strict=True)], notes


def below_common_folder(names: Sequence[str]) -> list[str]:
    """Paths of files without the folders that all of them lie in, as those of a folder that was listed elsewhere.

    >>> below_common_folder(["/data/set/cat/1.jpg", "/data/set/dog/2.jpg"]), below_common_folder(["a/1.jpg"])
    (['cat/1.jpg', 'dog/2.jpg'], ['1.jpg'])
    """
    paths = [name.replace("\\", "/").split("/") for name in names]
    n = 0
    while paths and all(len(path) > n + 1 and path[n] == paths[0][n] for path in paths):
        n += 1
    return ["/".join(path[n:]) for path in paths]


def _telling(folders: Sequence[str]) -> list[str]:
    """The folders that may be concepts; all of them if none of them is."""
    return [name for name in folders if not NO_CONCEPT.fullmatch(name.strip())] or list(folders)


def _exemplar(above: str, folder: str) -> bool:
    """Whether a folder of one image is called after its concept, or by a number."""
    return folder.isdecimal() or concept_key(folder).startswith(concept_key(above))


def bare_concept(folder: str) -> str:
    """The concept of an image folder, without its number.

    >>> bare_concept("00001_aardvark")
    'aardvark'
    """
    return re.sub(r"^\d+_", "", folder)


def concept_name(folder: str) -> str:
    """The concept of an image folder without its number, unless numbers are all that there is.

    >>> concept_name("00001_aardvark"), concept_name("01_2")
    ('aardvark', '01_2')
    """
    bare = bare_concept(folder)
    return bare if re.search(r"[^\W\d_]", bare) else folder


def concept_key(concept: str) -> str:
    """What all spellings of a concept share: case, Unicode form, a leading number, how words are parted do not count.

    >>> concept_key("00012_Ice-Cream ") == concept_key("ice_cream")
    True
    >>> concept_key("01_2") == concept_key("02_2")  # numbers alone are told apart
    False
    """
    text = unicodedata.normalize("NFC", concept).strip()
    return re.sub(r"[\s_-]+", " ", concept_name(text)).strip().casefold() or text


def unified(concepts: Iterable[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Concepts with one spelling each, the first that occurs; and {that: all its spellings} where there are several.

    >>> unified(["Cat", "dog", "cat "])
    (['Cat', 'dog', 'Cat'], {'Cat': ['Cat', 'cat ']})
    """
    concepts = list(concepts)
    keys = {concept: concept_key(concept) for concept in dict.fromkeys(concepts)}
    spellings: dict[str, list[str]] = {}
    for concept, key in keys.items():
        spellings.setdefault(key, []).append(concept)
    one = {concept: spellings[key][0] for concept, key in keys.items()}
    return [one[concept] for concept in concepts], {
        several[0]: several for several in spellings.values() if len(several) > 1
    }
