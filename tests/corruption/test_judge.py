"""The judge itself: readers that pair by order, lose a trial, fail or refuse without a reason are caught."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps

import hvf
from hvf.config import HvfError
from hvf.data.trials.trials import Trials
from tests.corruption.case import Case, Input, Reading, in_last_channel
from tests.corruption.judge import judge, read_and_compare
from tests.corruption.makers.arrays import array_input
from tests.corruption.makers.epochs import epochs_input
from tests.corruption.numbered import draw, number_in, number_of, trials_of, write_pictures

SHOWN = [3, 1, 2, 4]


def paired(names, shown=SHOWN, images=None) -> Reading:
    return Reading.of_trials(Trials(trials_of(shown), names, "s", 100.0, 0.0, ["Fz", "Cz", "Pz", "Oz"], "eeg"), images)


def verdict_of(read, refused=None, readable=True, **more):
    given = Input(read, SHOWN, None, carried=in_last_channel, **more)
    return read_and_compare(Case(1, "array", "x", lambda folder: given, refused, readable), given)


def by_name():
    return paired([f"img{i:02d}" for i in SHOWN])


def by_order():
    return paired([f"img{i:02d}" for i in sorted(SHOWN)])


def refuse():
    raise HvfError("the images have two orders")


def fail():
    raise KeyError("image")


@pytest.mark.parametrize(
    ("read", "refused", "readable", "outcome"),
    [
        (by_name, None, True, "right"),
        (by_name, "order", True, "right"),
        (by_name, "order", False, "not refused"),
        (by_order, None, True, "mispaired"),
        (by_order, "order", True, "mispaired"),
        (by_order, "order", False, "mispaired"),
        (refuse, "two orders", False, "refused"),
        (refuse, "two orders", True, "refused"),
        (refuse, "encoding", False, "unhelpful"),
        (refuse, None, True, "refused wrongly"),
        (fail, "image", False, "traceback"),
        (lambda: paired(["img03", "img01", "img02"], [3, 1, 2]), None, True, "mispaired"),
        (lambda: paired([f"img{i:02d}" for i in [*SHOWN, 4]], [*SHOWN, 4]), None, True, "mispaired"),
    ],
)
def test_what_a_reader_does_is_judged(read, refused, readable, outcome):
    verdict = verdict_of(read, refused, readable)
    assert verdict.outcome == outcome, verdict
    assert verdict.is_fault == (outcome not in ("right", "refused"))


def test_a_reader_that_pairs_by_order_is_caught(tmp_path):
    """The control: epochs in the order of presentation, given the images of a folder in the order of their names."""

    def write(folder):
        given = epochs_input(folder)
        images = hvf.open_images(given.images)

        def read():
            values = Trials.from_epochs(hvf_epochs(given.path), images.ids)
            return Reading.of_trials(values.replace(image_ids=images.ids), images)

        return replace(given, read=read, path=None)

    verdict = judge(Case(1, "epochs", "by order", write, None, True), tmp_path)
    assert verdict.outcome == "mispaired"


def hvf_epochs(path):
    import mne

    epochs = mne.read_epochs(path, verbose="error")
    epochs.metadata = None
    return epochs


def test_a_picture_that_is_turned_is_caught(tmp_path):
    images = hvf.open_images(write_pictures(tmp_path, lambda i: f"img{i:02d}.png", range(1, 5)))
    right = [f"img{i:02d}" for i in SHOWN]
    assert verdict_of(lambda: paired(right, images=images)).outcome == "right"
    Image.open(tmp_path / "img02.png").transpose(Image.Transpose.ROTATE_180).save(tmp_path / "img02.png")
    turned = hvf.open_images(tmp_path)
    assert verdict_of(lambda: paired(right, images=turned)).outcome == "mispaired"
    assert verdict_of(lambda: paired(right, images=turned), pictures={i: draw(i) for i in SHOWN}).outcome == "mispaired"


def test_a_concept_in_both_parts_is_caught(tmp_path):
    images = hvf.open_images(write_pictures(tmp_path, lambda i: f"img{i:02d}.png", range(1, 5)))
    (one,), (two,) = paired(["img03", "img01"], [3, 1]).parts, paired(["img02", "img04"], [2, 4]).parts

    def read():
        return Reading(((one[0], images.select([2, 0])), (two[0], images.select([1, 3]))))

    assert verdict_of(read, concepts={1: "a", 2: "b", 3: "a", 4: "b"}).outcome == "right"
    assert verdict_of(read, concepts={1: "a", 2: "a", 3: "b", 4: "b"}).outcome == "mispaired"


def test_a_channel_that_is_no_brain_is_caught():
    assert verdict_of(by_name, channels=("Fz", "Cz", "Pz", "Oz")).outcome == "right"
    assert verdict_of(by_name, channels=("Fz", "Cz", "Oz")).outcome == "mispaired"


def test_the_doctor_must_agree(tmp_path, monkeypatch):
    finding = hvf_finding()
    case = Case(1, "array", "x", array_input, None, True)
    monkeypatch.setattr("tests.corruption.judge.examine", lambda path, images, events: [finding])
    (tmp_path / "a").mkdir()
    assert judge(case, tmp_path / "a").outcome == "doctor: false alarm"
    monkeypatch.setattr("tests.corruption.judge.examine", lambda path, images, events: [])
    (tmp_path / "b").mkdir()
    assert judge(case, tmp_path / "b").outcome == "right"
    short = Case(1, "array", "x", lambda folder: array_input(folder, rows=range(1, 12)), "11", False)
    (tmp_path / "c").mkdir()
    assert judge(short, tmp_path / "c").outcome == "doctor: nothing wrong"


def hvf_finding():
    from hvf.data.doctor.checks import Finding

    return Finding("error", "pairing", "x", "it is wrong", "mend it")


@pytest.mark.parametrize("number", [1, 12, 40, 63])
def test_a_picture_shows_its_number(number):
    image = Image.fromarray(draw(number))
    assert number_in(image) == number
    assert number_in(image.convert("L").convert("RGB")) == number
    for turned in (ImageOps.mirror(image), ImageOps.flip(image), image.rotate(90, expand=True), image.rotate(180)):
        assert number_in(turned) is None
    assert number_in(Image.fromarray(np.zeros((16, 32, 3), np.uint8))) is None


def test_a_name_says_its_number():
    assert [number_of(n) for n in ("img07", "a1/img12.png", "v1\\x_03.jp2", "cat")] == [7, 12, 3, None]
