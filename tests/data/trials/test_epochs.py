"""Epochs whose channel Oz holds, in uV, the number of the image that was shown: each must end up under that image."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hvf.config import DataConfig, HvfError
from hvf.data.images.image_set import ImageSet, open_images
from hvf.data.trials.reading import read_trials
from hvf.data.trials.trials import Trials
from hvf.study import open_study

N = 12
SHOWN = np.random.default_rng(3).permutation(np.repeat(np.arange(N), 2))  # each image twice
FILES = [f"img{i:02d}.png" for i in range(N)]


def epochs_of(numbers, metadata: dict | None = None, **more) -> mne.EpochsArray:
    x_NCT = np.random.default_rng(0).normal(size=(len(numbers), 3, 20)) * 1e-8
    x_NCT[:, 2] += np.asarray(numbers)[:, None] * 1e-6
    info = mne.create_info(["Fz", "Cz", "Oz"], 100.0, "eeg")
    table = None if metadata is None else pd.DataFrame(metadata)
    return mne.EpochsArray(x_NCT, info, metadata=table, verbose="error", **more)


def with_events(numbers, names: list[str], **more) -> mne.EpochsArray:
    """Epochs whose events are called `names` (one per image; of another number each)."""
    codes = np.random.default_rng(1).permutation(len(names)) + 10
    events = np.stack([np.arange(len(numbers)) * 50, np.zeros(len(numbers), int), codes[numbers]], axis=1)
    ids = dict(zip(names, codes.tolist(), strict=True))
    return epochs_of(numbers, events=events, event_id=ids, on_missing="ignore", **more)


def folder_of(root: Path, files=FILES) -> ImageSet:
    for i, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(root / name)
    return open_images(root)


def pairs(trials: Trials) -> list[tuple[int, int]]:
    """(the number that the epoch holds, that of its image) of each trial."""
    held = np.rint(trials.load_array()[:, trials.ch_names.index("Oz")].mean(1) * 1e6).astype(int).tolist()
    return list(zip(held, [int(re.findall(r"\d+", name)[-1]) for name in trials.image_ids.tolist()], strict=True))


def read(epochs: mne.BaseEpochs, folder: Path, images: ImageSet) -> Trials:
    """As from the file; those in memory are read alike."""
    epochs.save(folder / "s-epo.fif", overwrite=True, verbose="error")
    trials = read_trials(folder / "s-epo.fif", images)
    assert pairs(Trials.from_epochs(epochs, images)) == pairs(trials)
    return trials


@pytest.mark.parametrize(
    ("column", "spelt"),
    [
        ("image", "img{:02d}.png"),
        ("image", "img{:02d}"),
        ("stim_file", "stimuli/img{:02d}.PNG"),
        ("filename", "C:\\exp\\img{:02d}.jpg"),
        ("image_path", " ./img{:02d}.png "),
        ("event_name", "img{:02d}.png"),
        ("stimulus", "img{:02d}"),
        ("what I showed", "img{:02d}.png"),
    ],
)
def test_metadata_name_the_images(tmp_path, capsys, column, spelt):
    images = folder_of(tmp_path / "images")
    others = {"trial": range(2 * N), "rt": np.linspace(0.3, 0.9, 2 * N), "condition": ["old", "new"] * N}
    trials = read(epochs_of(SHOWN, others | {column: [spelt.format(i) for i in SHOWN]}), tmp_path, images)
    assert pairs(trials) == [(i, i) for i in SHOWN]
    line = f'24 epochs of 12 images, paired by metadata["{column}"]'
    assert trials.history == {"notes": [line]}
    assert capsys.readouterr().err == f"note: s-epo.fif: {line}\n"


def test_columns_of_metadata_that_are_numbers(tmp_path):
    images = folder_of(tmp_path / "images")
    epochs = epochs_of(SHOWN, {"image": [FILES[i] for i in SHOWN], 3: SHOWN})
    assert all(held == named for held, named in pairs(Trials.from_epochs(epochs, images)))
    assert pairs(Trials.from_epochs(epochs)) == pairs(Trials.from_epochs(epochs, images))


@pytest.mark.parametrize("absent", [None, float("nan"), pd.NA, "n/a", ""])
def test_an_epoch_that_is_given_no_image_is_refused(absent):
    names = [FILES[i] for i in SHOWN]
    assert Trials.from_epochs(epochs_of(SHOWN), [Path(name) for name in names]).image_ids.tolist() == names
    with pytest.raises(HvfError, match="no image is named for epoch 5"):
        Trials.from_epochs(epochs_of(SHOWN), [*names[:5], absent, *names[6:]])


def test_channels_of_no_brain_are_left_out(tmp_path, capsys):
    images = folder_of(tmp_path / "images")
    epochs = epochs_of(SHOWN, {"image": [FILES[i] for i in SHOWN]})
    epochs.rename_channels({"Cz": "Status"})
    trials = read(epochs, tmp_path, images)
    assert trials.ch_names == ("Fz", "Oz")
    assert "note: s-epo.fif: 1 channel records no brain by its name and is left out: Status" in capsys.readouterr().err


def test_unicode_forms_and_folders(tmp_path):
    nfd = unicodedata.normalize("NFD", "café")
    images = folder_of(tmp_path / "images", [f"{nfd}{i % 3}/{nfd}{i:02d}.png" for i in range(N)])
    trials = read(epochs_of(SHOWN, {"image": [f"café{i:02d}.png" for i in SHOWN]}), tmp_path, images)
    assert pairs(trials) == [(i, i) for i in SHOWN]
    assert trials.concepts.tolist() == [f"{nfd}{i % 3}" for i in SHOWN]


@pytest.mark.parametrize(
    "spelt", ["img{:02d}", "img{:02d}.png", "stim/img{:02d}.jpg", "img{:02d}.png/left", "a/img{:02d}/b"]
)
def test_events_name_the_images(tmp_path, spelt):
    images = folder_of(tmp_path / "images")
    trials = read(with_events(SHOWN, [spelt.format(i) for i in range(N)]), tmp_path, images)
    assert pairs(trials) == [(i, i) for i in SHOWN]
    assert "paired by the names of their events" in trials.history["notes"][0]
    part = SHOWN[:7]
    few = read(with_events(part, [spelt.format(i) for i in range(N)]), tmp_path, images)
    assert pairs(few) == [(i, i) for i in part]
    assert f"; {N - len(set(part.tolist()))} of the 12 images were not shown" in few.history["notes"][0]


def test_numbers_as_events(tmp_path):
    images = folder_of(tmp_path / "images", [f"{i}.png" for i in range(N)])
    trials = read(with_events(SHOWN, [str(i) for i in range(N)]), tmp_path, images)
    assert pairs(trials) == [(i, i) for i in SHOWN]
    conditions = with_events(SHOWN % 3, ["0", "1", "2"])
    with pytest.raises(
        HvfError, match=r"events are numbers \(.*names of some of the images, too: name the image of each"
    ):
        read(conditions, tmp_path, images)
    padded = folder_of(tmp_path / "padded")
    with pytest.raises(HvfError, match="24 trials but there are 12 images, and nothing in it names the images"):
        read(conditions, tmp_path, padded)


def test_order_only_where_nothing_speaks_against_it(tmp_path):
    images = folder_of(tmp_path / "images")
    everyone = np.arange(N)
    plain = read(epochs_of(everyone), tmp_path, images)
    assert pairs(plain) == [(i, i) for i in everyone]
    assert "paired by order, for nothing in the file names them" in plain.history["notes"][0]
    for metadata in ({"image_id": everyone}, {"stim_nr": everyone + 1}, {"condition": ["a", "b"] * 6},
                     {"rt": everyone / 9}, {"stimulus": ["visual"] * N},
                     {"stim_onset": everyone[::-1] * 7}):  # fmt: skip
        assert pairs(read(epochs_of(everyone, metadata), tmp_path, images)) == pairs(plain)
    assert pairs(read(with_events(everyone, [f"stimulus {i}" for i in everyone]), tmp_path, images)) == pairs(plain)
    assert pairs(read(with_events(everyone % 2, ["one", "two"]), tmp_path, images)) == [(i % 2, i) for i in everyone]

    shown = np.random.default_rng(5).permutation(N)
    for metadata, message in (
        ({"image_id": shown}, "image_id.. numbers the images .*, not in the order of the epochs"),
        ({"stim_nr": shown + 1}, "from 0 or from 1 cannot be known"),
        ({"image": [f"pic{i:02d}" for i in shown]}, "12 of the 12 images named in epochs.metadata.* are not in the"),
        ({"what": [f"pic{i:02d}.png" for i in shown]}, "12 of the 12 images named in epochs.metadata.*; did you mean"),
    ):
        with pytest.raises(HvfError, match=message):
            read(epochs_of(shown, metadata), tmp_path, images)
    with pytest.raises(HvfError, match=r"Their events come in the order stimulus \d.* not that of the images \(img00"):
        read(with_events(shown, [f"stimulus {i}" for i in range(N)]), tmp_path, images)


@pytest.mark.parametrize("how", ["metadata", "events", "tags"])
def test_concepts_speak_against_the_order(tmp_path, how):
    """12 epochs in the order of presentation, 12 images in folders of four concepts: the count fits by chance."""
    images = folder_of(tmp_path / "images", [f"0{i // 3}_c{i // 3}/img{i:02d}.png" for i in range(N)])
    shown = np.random.default_rng(5).permutation(N)

    def epochs(numbers):
        if how == "metadata":
            return epochs_of(numbers, {"kind": [f"C{i // 3}" for i in numbers]})
        named = with_events(np.asarray(numbers) // 3, [f"c{i}" + "/left" * (how == "tags") for i in range(4)])
        named._data[:, 2] = np.asarray(numbers)[:, None] * 1e-6
        return named

    assert pairs(read(epochs(np.arange(N)), tmp_path, images)) == [(i, i) for i in range(N)]
    with pytest.raises(HvfError, match="paired by their order, epoch 0 shows an image of .*, but .* says"):
        read(epochs(shown), tmp_path, images)
    named = [f"img{i:02d}" for i in shown]
    with pytest.raises(HvfError, match="paired by their names, epoch 0 .* but .*metadata.*concept"):
        read(epochs_of(shown, {"image": named, "concept": [f"c{i // 3}" for i in range(N)]}), tmp_path, images)


def test_dropped_epochs_keep_their_place(tmp_path):
    images = folder_of(tmp_path / "images")
    epochs = epochs_of(np.arange(N))
    epochs.drop([2, 7], reason="EOG", verbose="error")
    trials = read(epochs, tmp_path, images)
    assert pairs(trials) == [(i, i) for i in range(N) if i not in (2, 7)]
    more = epochs_of([0, 1, 2, 2, *range(3, N), 5])
    more.drop([2, N + 1], reason="EOG", verbose="error")  # as many are left as there are images, by chance
    with pytest.raises(HvfError, match=r"epochs were dropped \(EOG\), so that there are as many as images"):
        read(more, tmp_path, images)
    catch = epochs_of([0, 1, 99, *range(2, N)])
    catch.drop([2], verbose="error")
    assert pairs(read(catch, tmp_path, images)) == [(i, i) for i in range(N)]
    several = epochs_of([99, *range(N)])[1:]
    assert pairs(read(several, tmp_path, images)) == [(i, i) for i in range(N)]


def test_contradictions_are_refused(tmp_path):
    images = folder_of(tmp_path / "images")
    named = [FILES[i] for i in SHOWN]
    for metadata, message in (
        (
            {"image": named, "stim_file": named[1:] + named[:1]},
            "'stim_file' and 'image' of the epochs' metadata name diff",
        ),
        ({"image": [*named[:-1], None]}, "image.. names no image for epoch 23"),
        ({"image": [*named[:-1], float("nan")]}, "names no image for epoch 23"),
        (
            {"image": [*named[:-1], "img12.png"]},
            r"1 of the 13 images .* is not in the image set: img12.png; did you me",
        ),
        ({"image": SHOWN}, "24 trials but there are 12 images"),
    ):
        with pytest.raises(HvfError, match=message):
            read(epochs_of(SHOWN, metadata), tmp_path, images)
    stems = [name.removesuffix(".png") for name in FILES]
    with pytest.raises(
        HvfError, match=r"epoch \d+ shows 'img\d\d' by epochs.metadata.* but 'img\d\d' by the name of its"
    ):
        read(with_events(SHOWN, stems, metadata={"image": named[::-1]}), tmp_path, images)
    with pytest.raises(HvfError, match=r"1 of the 12 events that occur are not named after an image \(other\)"):
        read(with_events(SHOWN, [*stems[:-1], "other"]), tmp_path, images)
    with pytest.raises(HvfError, match="the event 'img00/img01' is named after several images, img00, img01"):
        read(with_events(SHOWN, ["img00/img01", *stems[1:]]), tmp_path, images)
    with pytest.raises(HvfError, match=f"epoch 0 was given the image '{stems[SHOWN[0]]}', but its event is called"):
        Trials.from_epochs(with_events(SHOWN, FILES[::-1]), [stems[i] for i in SHOWN])
    (tmp_path / "images" / "img00.PNG").write_bytes((tmp_path / "images" / "img00.png").read_bytes())
    with pytest.raises(HvfError, match="holds two images of one name, 'img00.PNG' and 'img00.png'"):
        read(epochs_of(SHOWN, {"image": named}), tmp_path, open_images(tmp_path / "images"))


def test_the_order_of_presentation_is_that_of_the_events(tmp_path):
    images, table = folder_of(tmp_path / "images"), {"image": [FILES[i] for i in SHOWN]}
    epochs = epochs_of(SHOWN, table)
    assert (np.diff(epochs.events[:, 0]) > 0).all()
    trials = read(epochs, tmp_path, images)
    assert trials.positions.tolist() == list(range(2 * N))
    assert trials.average().positions is None
    left = epochs.copy().drop([0, 3], reason="bad", verbose="error")
    assert Trials.from_epochs(left, images).positions.tolist() == [1, 2, *range(4, 2 * N)]
    kept = trials.select([5, 2])
    assert kept.positions.tolist() == [5, 2]
    assert Trials.from_epochs(kept.to_epochs(), images).positions.tolist() == [5, 2]  # not that of the new file
    joined = mne.concatenate_epochs([left, epochs], verbose="error")
    assert (np.diff(Trials.from_epochs(joined, images).positions) > 0).all()
    backwards = epochs[np.arange(2 * N)[::-1]]
    assert Trials.from_epochs(backwards, images).positions is None


def test_sessions_splits_and_concepts_of_metadata(tmp_path):
    images = folder_of(tmp_path / "images")
    table = {"image": [FILES[i] for i in SHOWN], "session": ["ses-10", "ses-9"] * N, "split": ["train", "test"] * N}
    trials = read(epochs_of(SHOWN, table), tmp_path, images)
    assert trials.sessions.tolist() == [10, 9] * N
    assert trials.splits.tolist() == ["train", "test"] * N
    assert Trials.from_epochs(epochs_of(SHOWN, table | {"session": [3, 1] * N})).sessions.tolist() == [3, 1] * N


@pytest.mark.parametrize(
    ("named", "numbers"),
    [
        (["ses-02", "ses-03"], [2, 3]), (["Session 4", "session 11"], [4, 11]), (["day2", "day1"], [2, 1]),
        ([0, 1], [0, 1]), ([1.0, 7.0], [1, 7]), (["evening", "morning"], [1, 2]), (["ses-1", "day1"], [2, 1]),
    ],
)  # fmt: skip
def test_sessions_have_the_numbers_of_their_names(named, numbers):
    trials = Trials.from_epochs(epochs_of(SHOWN, {"image": [FILES[i] for i in SHOWN], "session": named * N}))
    assert trials.sessions.tolist() == numbers * N


def test_words_for_training_and_test():
    table = {"image": [FILES[i] for i in SHOWN], " Split": ["Training", "TEST"] * N}
    assert Trials.from_epochs(epochs_of(SHOWN, table)).splits.tolist() == ["train", "test"] * N


@pytest.mark.parametrize("column", ["split", "concept", "session"])
def test_a_column_that_is_empty_in_places_is_refused(column):
    """Left out as a whole, it would let test concepts, or another split than the user's, into training in silence."""
    table = {"image": [FILES[i] for i in SHOWN], column: ["test", "train"] * N}
    if column == "session":
        table[column] = [1, 2] * N
    for nothing in (None, float("nan"), "", "n/a"):
        table[column][3] = nothing
        with pytest.raises(HvfError, match=rf'metadata\["{column}"\] says nothing of epoch 3'):
            Trials.from_epochs(epochs_of(SHOWN, table))
    empty = Trials.from_epochs(epochs_of(SHOWN, table | {column: [None] * 2 * N}))
    assert getattr(empty, f"{column}s") is None


@pytest.mark.parametrize("word", ["val", "A", "0"])
def test_a_split_that_is_neither_part_is_refused(word):
    table = {"image": [FILES[i] for i in SHOWN], "split": ["train", "test", *[word] * (2 * N - 2)]}
    with pytest.raises(HvfError, match=f"says '{word}' of epoch 2: it takes train, training"):
        Trials.from_epochs(epochs_of(SHOWN, table))


def test_a_study_of_test_trials_alone_is_refused(tmp_path):
    folder_of(tmp_path / "images", [f"c{i // 2}/img{i:02d}.png" for i in range(N)])
    table = {"image": [FILES[i] for i in SHOWN], "split": ["test"] * 2 * N}
    epochs_of(SHOWN, table).save(tmp_path / "s-epo.fif", verbose="error")
    files = {"trials": str(tmp_path / "s-epo.fif"), "images": str(tmp_path / "images")}
    with pytest.raises(HvfError, match=r"s-epo.fif: every trial is marked as test"):
        open_study(DataConfig(study="files", test_images=4, **files))


@pytest.mark.parametrize("split", [False, True])
def test_a_study_of_epochs(tmp_path, split):
    folder_of(tmp_path / "images", [f"c{i // 2}/img{i:02d}.png" for i in range(N + 2)])  # two are not shown
    table = {"image": [FILES[i] for i in SHOWN]}
    if split:
        table["split"] = ["test" if i < 4 else "train" for i in SHOWN]
    epochs_of(SHOWN, table).save(tmp_path / "s-epo.fif", verbose="error")
    files = {"trials": str(tmp_path / "s-epo.fif"), "images": str(tmp_path / "images")}
    study = open_study(DataConfig(study="files", test_images=4, **files))
    assert sorted(pairs(study.train) + pairs(study.test)) == [(i, i) for i in range(N)]
    for trials, images in ((study.train, study.train_images), (study.test, study.test_images)):
        assert trials.image_ids.tolist() == list(images.ids)
        assert images.concepts == tuple(f"c{i // 2}" for i, _ in pairs(trials))
    assert not set(study.train_images.concepts) & set(study.test_images.concepts)
    assert '24 epochs of 12 images, paired by metadata["image"]; 2 of the 14 images were not shown' in study.note
    if split:
        assert [i for i, _ in pairs(study.test)] == [0, 1, 2, 3]
        assert "split as in the metadata" in study.note
