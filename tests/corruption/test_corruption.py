"""No input mispairs: each corruption is read rightly or refused with its cause, and the doctor says the same."""

from __future__ import annotations

import pytest

from tests.corruption.case import CASES, KINDS, READERS
from tests.corruption.judge import judge
from tests.corruption.kinds import (
    channels,
    concepts,
    data_sets,
    files,
    names,
    order,
    pairing,
    pairing_things,
    pictures,
    prepared,
    texts,
    things,
    triggers,
)

MODULES = (
    channels, concepts, data_sets, files, names, order, pairing, pairing_things, pictures, prepared, texts, things,
    triggers,
)  # fmt: skip
# What a reader has not: triggers (arrays, epochs, prepared files), names of channels (arrays), rows without names.
WITHOUT = {(3, "array"), (3, "epochs"), (3, "eeg2-prepared"), (5, "array")}
ALWAYS = 3  # cases of each kind and reader that are not slow
WITHOUT |= {(6, "raw"), (6, "bids"), (6, "eeg2-raw"), (6, "eeg2-prepared")}


def selected():
    """All cases: of each kind and reader a few run always, the others in a part of the slow tests."""
    seen: dict[tuple[int, str], int] = {}
    for name in sorted(CASES):
        key = CASES[name].kind, CASES[name].reader
        seen[key] = seen.get(key, 0) + 1
        yield pytest.param(name, marks=() if seen[key] <= ALWAYS else pytest.mark.slow(part=8))


@pytest.mark.parametrize("name", list(selected()))
def test_a_corruption_is_read_rightly_or_refused(name, tmp_path):
    verdict = judge(CASES[name], tmp_path)
    assert not verdict.is_fault, f"{verdict.outcome}: {verdict.words}"


def test_every_kind_meets_every_reader():
    assert len(CASES) >= 200
    met = {(case.kind, case.reader) for case in CASES.values()}
    assert met == {(kind, reader) for kind in KINDS for reader in READERS} - WITHOUT
