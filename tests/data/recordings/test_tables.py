"""Tables as labs' programs write them: read as what they say, or refused with the cause."""

from __future__ import annotations

import gzip

import pandas as pd
import pytest

from hvf.config import HvfError
from hvf.data.recordings.tables import check_bids_table, read_table, read_typed

TEXT = "onset\timage\n0.5\tcafé01.png\n1.25\tcafé02.png\n"
ROWS = [["0.5", "café01.png"], ["1.25", "café02.png"]]


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-32"),
        gzip.compress(TEXT.encode(), mtime=0),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        TEXT.replace("\t", ",").encode(),
        TEXT.replace("\t", ";").replace("0.5", "0,5").replace("1.25", "1,25").encode(),
        TEXT.replace("onset\t", "ONSET\tonset\t").replace("0.5", "0.5\t0.5").replace("1.25", "1.25\t1.25").encode(),
        TEXT.replace("\n", "\t\n").encode(),
        TEXT.replace(".png\n", ".png\t\t\n").encode(),
        TEXT.replace("\t", " \t ").encode(),
        ("# made by me, on a Monday\n" + TEXT).encode(),
        ("# made by me, on a Monday\n" + TEXT.replace("\t", ",")).encode(),
        ("% made by me\n" + TEXT).encode(),
        ("#" + TEXT).encode(),
        (TEXT + "# the end\n").encode(),
        ("sep=;\n" + TEXT.replace("\t", ";")).encode(),
        (TEXT + TEXT).encode()[: -len(TEXT.encode()) + len(b"onset\timage\n")],
        TEXT.replace("onset", "Onset").encode(),
        "".join(f"{line}\t{line.split(chr(9))[1]}\n" for line in TEXT.splitlines()).encode(),
        '"onset"\t"image"\n"0.5"\t"café01.png"\n"1.25"\t"café02.png"\n'.encode(),
    ],
)
def test_what_a_table_says_is_read(data, tmp_path):
    (tmp_path / "events.tsv").write_bytes(data)
    table = read_table(tmp_path / "events.tsv")
    assert table.columns.tolist() == ["onset", "image"]
    assert table.to_numpy().tolist() == ROWS


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (TEXT.encode("latin-1"), r"another encoding than UTF-8.*line 2"),
        (TEXT.encode("mac-roman"), "another encoding"),
        (b"\xff\xfe\x00" * 9, "mark of UTF-16"),
        (b"PK\x03\x04rest", "a workbook"),
        (b"\x00\x00\x00\x64\x00\x00\x00\x1f\x00\x00\x00\x14", "a FIF, such as MNE's events, no table of text"),
        (b"\x93NUMPY\x01\x00v\x00{", "an array of numpy, no table of text"),
        (b"MATLAB 5.0 MAT-file", "a file of MATLAB, no table of text"),
        (b"/annex/objects/MD5E-s99--0.tsv\n", "datalad get"),
        (b"", "it is empty"),
        (bytes(100), "it is empty"),
        (b"onset\timage\n", "no rows"),
        (TEXT[:-8].encode() + b"\n1.5", "row 3 has 1 of 2 fields"),
        (b"image\tonset\timage\na.png\t1\tb.png\n", "two columns 'image' that differ, first in row 1: 'a.png' and 'b"),
    ],
)
def test_the_cause_is_named(data, cause, tmp_path):
    (tmp_path / "events.tsv").write_bytes(data)
    with pytest.raises(HvfError, match=cause) as error:
        read_table(tmp_path / "events.tsv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", ["5,00E-01", "5,00e-01", "0,5", "0,5e+00"])
def test_decimal_commas_of_powers_of_ten(number, tmp_path):
    (tmp_path / "events.csv").write_text(f"onset;image\n{number};a.png\n1;b.png\n")
    assert [float(value) for value in read_table(tmp_path / "events.csv")["onset"]] == [0.5, 1.0]


def test_a_table_in_memory_is_read_as_one_of_a_file():
    table = pd.DataFrame({"Onset": [0.5, 1.25], "image": [" café01.png", None], 3: [1, 2]}, index=[7, 7])
    assert read_table(table).columns.tolist() == ["onset", "image", "3"]
    assert read_table(table).to_numpy().tolist() == [["0.5", "café01.png", "1"], ["1.25", "n/a", "2"]]
    twice = pd.concat([table, table], axis=1)
    assert read_table(twice).equals(read_table(table))
    twice.columns = ["onset", "image", "3", "onset", "other", "3"]
    twice.iloc[1, 3] = 1250.0
    with pytest.raises(HvfError, match="the table has two columns 'onset' that differ, first in row 2: '1.25' and '12"):
        read_table(twice)


def test_columns_that_differ_in_capitals_alone(tmp_path):
    (tmp_path / "events.csv").write_text("ONSET,onset,image\n500,0.5,a.png\n1250,1.25,b.png\n")
    with pytest.raises(HvfError, match="two columns 'onset' that differ, first in row 1: '500' and '0.5'"):
        read_table(tmp_path / "events.csv")


def test_rows_that_look_like_comments_stay(tmp_path):
    (tmp_path / "events.tsv").write_text("onset\timage\n1\ta.png\n#2\tb.png\n")
    assert read_table(tmp_path / "events.tsv")["onset"].tolist() == ["1", "#2"]
    (tmp_path / "names.csv").write_text("image\n#1.png\n#2.png\n")
    assert read_table(tmp_path / "names.csv")["image"].tolist() == ["#1.png", "#2.png"]


def test_types_are_those_of_pandas(tmp_path):
    (tmp_path / "a.csv").write_bytes("number;word\n1,5;a\nn/a;b\n".encode("utf-16"))
    table = read_typed(tmp_path / "a.csv")
    assert table["number"].tolist()[0] == 1.5
    assert table["number"].isna().tolist() == [False, True]


def test_what_mne_bids_cannot_read_is_named(tmp_path):
    (tmp_path / "a.tsv").write_text(TEXT)
    check_bids_table(tmp_path / "a.tsv")
    check_bids_table(None)
    for text in (TEXT.replace("\t", ","), f"# a\n{TEXT}", TEXT.replace("onset", "Onset")):
        (tmp_path / "a.tsv").write_text(text)
        with pytest.raises(HvfError, match="as BIDS asks"):
            check_bids_table(tmp_path / "a.tsv")
