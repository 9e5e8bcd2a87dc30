from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from hvf.config import HvfError
from hvf.data.images.columns import image_column, is_picture_file, texts_of
from hvf.data.images.matching import ImageNames

SHOWN = [3, 0, 2, 0]
FILES = [f"img{i:02d}.png" for i in SHOWN]
NAMES = ImageNames([f"img{i:02d}" for i in range(5)])


@pytest.mark.parametrize("names", [None, NAMES])
@pytest.mark.parametrize(
    "column",
    ["image", "stim_file", "Image Path", "filename", "file_name", "stimulus", "event_name", "trial_type", "shown"],
)
def test_the_column_of_file_names_is_found_whatever_it_is_called(column, names):
    others = {"onset": [1.0, 2.0, 3.0, 4.0], "trial": [1, 2, 3, 4], "response": ["left", "right", "left", "n/a"]}
    table = pd.DataFrame(others | {column: [f"stim/{name}" for name in FILES], "block": ["a", "a", "b", "b"]})
    assert image_column(table, names) == (column, [f"stim/{name}" for name in FILES])


@pytest.mark.parametrize("column", ["image", "stimulus", "event_name", "item"])
def test_names_without_ending_are_known_by_the_images(column):
    stems = [name.removesuffix(".png") for name in FILES]
    table = pd.DataFrame({"condition": ["old", "new", "old", "new"], column: stems, "run": [1, 1, 2, 2]})
    assert image_column(table, NAMES) == (column, stems)
    found = image_column(table)
    assert found == (column, stems) if column in ("image", "stimulus") else found is None


def test_numbers_are_names_only_in_a_column_of_images_and_only_if_all_are():
    names = ImageNames([str(i) for i in range(1, 6)])
    table = pd.DataFrame({"trial": [1, 2, 3, 4], "image_id": [5.0, 1.0, 3.0, 1.0]})
    assert image_column(table, names) == ("image_id", ["5", "1", "3", "1"])
    assert image_column(table[["trial"]], names) is None
    assert image_column(table.assign(image_id=[0, 1, 2, 1]), names) is None  # counted from 0, or no names
    assert image_column(table, NAMES) is None
    table["image"] = ["5.png", "1.png", "3.png", "1.png"]
    assert image_column(table, names) == ("image", ["5.png", "1.png", "3.png", "1.png"])


def test_columns_that_disagree_are_refused():
    table = pd.DataFrame({"image": FILES, "stim_file": [f"x/{name}" for name in FILES], "prime": FILES[::-1]})
    for names in (None, NAMES):
        assert image_column(table, names) == ("stim_file", [f"x/{name}" for name in FILES])
        with pytest.raises(
            HvfError, match="'stim_file' and 'image' of s-epo.fif name different images in row 1: 'x/im"
        ):
            image_column(table.assign(image=[FILES[0], *FILES[:3]]), names, "s-epo.fif")
        with pytest.raises(HvfError, match="'cue' and 'prime' of the table name different"):
            image_column(pd.DataFrame({"cue": FILES, "prime": FILES[1:] + FILES[:1]}), names)


def test_columns_of_usual_names_without_endings_are_compared_where_they_have_names_in_common():
    named = pd.DataFrame(
        {"image": ["a", "b", "c"], "stim_file": ["a", "b", "c"], "stimulus": ["face", "house", "face"]}
    )
    assert image_column(named) == ("stim_file", ["a", "b", "c"])
    for swapped in (named.assign(image=["b", "a", "c"]), named.assign(stim_file=["b.png", "a.png", "c.png"])):
        with pytest.raises(HvfError, match="'stim_file' and 'image' of the table name different images in row 0"):
            image_column(swapped)


def test_absent_values_and_columns_without_images():
    table = pd.DataFrame({"image": [FILES[0], None, float("nan"), "n/a"], "rt": [0.4, 0.5, None, 0.6]})
    assert image_column(table) == ("image", [FILES[0], "", "", ""])
    assert image_column(table[["rt"]], NAMES) is None
    assert image_column(table.assign(image=None), NAMES) is None
    assert image_column(pd.DataFrame({"stimulus": ["visual"] * 3}), NAMES) is None
    twice = ImageNames(["a/one", "b/one"])
    with pytest.raises(HvfError, match="'one' is not clear"):
        image_column(pd.DataFrame({"image": ["one", "a/one"]}), twice)
    both = pd.DataFrame({"image": ["b/one", "a/one"], "label": ["one", "one"]})
    assert image_column(both, twice) == ("image", ["b/one", "a/one"])


def test_texts_of_values():
    assert texts_of([1.0, None, 12]) == ["1", "", "12"]
    assert texts_of([Path("a/b.png"), b"c.png", " d ", "NaN", 1.5]) == ["a/b.png", "c.png", "d", "", "1.5"]
    assert texts_of(["1.0", "x"]) == ["1.0", "x"]
    assert [is_picture_file(n) for n in ("a.PNG", "x/.png", "a", "a.wav", "a\\b.jpg ")] == [
        True,
        False,
        False,
        False,
        True,
    ]
