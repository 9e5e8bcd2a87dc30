"""Embeddings and scores of another program: which row belongs to which image, and the figures."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from hvf.cli import main
from hvf.evaluation import retrieval, scaling
from hvf.evaluation.others import Bank, rank_embeddings, rank_scores
from hvf.registry import HvfError

# Query 0 finds its own first, 1 its own third, 2 its own second; matched at once, 1 and 2 change places.
SCORES = np.array([[0.9, 0.1, 0.2], [0.8, 0.3, 0.6], [0.1, 0.7, 0.5]])


BOTH = ["--embeddings", "b.npz", "--gallery", "g.npz"]


def value(figures, name):
    return figures[f"retrieval/brain/{name}"]["value"]


def test_square_scores_are_ranked_row_by_row(tmp_path):
    np.save(tmp_path / "s.npy", SCORES)
    figures, title = rank_scores(tmp_path / "s.npy")
    assert title == "s.npy: row i belongs to column i of 3"
    assert (value(figures, "top1"), value(figures, "mrr")) == (1 / 3, pytest.approx((1 + 1 / 3 + 1 / 2) / 3))
    assert value(figures, "one_to_one") == pytest.approx(1 / 3)
    assert figures["chance/retrieval/top1"]["value"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("kind", ["npy", "float.npy", "strings.npy", "pt", "txt", "csv", "heading.csv", "table.csv"])
def test_labels_say_which_column_belongs_to_a_query(tmp_path, kind):
    order = [2, 0, 1]  # row i of the shuffled scores is row order[i] of those above
    np.save(tmp_path / "s.npy", SCORES[order])
    (tmp_path / "s.txt").write_text("a.png\nb.png\nc.png\n")  # the images of the columns
    path = tmp_path / f"labels.{kind}"
    if kind.endswith("npy"):
        np.save(path, {"npy": np.array([order]).T, "float.npy": np.array(order), "strings.npy": list("cab")}[kind])
    elif kind == "pt":
        torch.save(torch.tensor(order), path)
    else:
        lines = {
            "txt": "c\nx/a.PNG\nb\n",
            "csv": "2\n0\n1\n",
            "heading.csv": "label\n2\n0\n1\n",
            "table.csv": "trial,column\n7,2\n8,0\n9,1\n",
        }
        path.write_text(lines[kind])
    figures, _ = rank_scores(tmp_path / "s.npy", path)
    np.save(tmp_path / "plain.npy", SCORES)
    expected, _ = rank_scores(tmp_path / "plain.npy")
    for name in ("top1", "mrr", "one_to_one", "median_rank"):
        assert value(figures, name) == pytest.approx(value(expected, name)), name
    assert figures.keys() == expected.keys()


def test_more_queries_than_columns_and_repeated_ones(tmp_path):
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(8, 5)), np.array([0, 0, 1, 1, 2, 2, 3, 4])
    np.savez(tmp_path / "s.npz", s=scores.astype(np.float16))
    np.save(tmp_path / "labels.npy", labels)
    figures, _ = rank_scores(f"{tmp_path}/s.npz#s", tmp_path / "labels.npy")
    ranks_N = retrieval.ranks(scores.astype(np.float16), labels)
    assert "retrieval/brain/one_to_one" not in figures  # not one column for each query
    assert figures["retrieval/brain/top1"]["n"] == 5  # images
    assert value(figures, "top1") == pytest.approx(np.mean(ranks_N <= 1))


def test_small_differences_of_float64_count(tmp_path):
    scores = np.ones((2, 2)) + 1e-12 * np.eye(2)
    np.save(tmp_path / "s.npy", scores)
    assert value(rank_scores(tmp_path / "s.npy").figures, "top1") == 1
    np.save(tmp_path / "s.npy", np.ones((2, 2)))
    assert value(rank_scores(tmp_path / "s.npy").figures, "top1") == 0  # a tie is a miss


def spoilt(folder, kind):
    """A file of scores, and of labels or None, each with one fault."""
    scores, labels = np.random.default_rng(0).normal(size=(6, 4)), np.array([0, 1, 2, 3, 0, 1])
    path, of = folder / "s.npy", folder / "l.npy"
    if kind == "not square":
        of = None
    elif kind == "nan":
        scores[1, 2], of = np.nan, None
    elif kind == "other length":
        labels = labels[:5]
    elif kind == "transposed":
        scores = scores.T
        labels = labels[:6]
    elif kind == "from 1":
        labels = labels + 1
    elif kind == "negative":
        labels = labels - 1
    elif kind == "halves":
        labels = labels + 0.5
    elif kind == "names without columns":
        labels = np.array(list("abcdef"))
    elif kind == "unknown name":
        (folder / "s.txt").write_text("a\nb\nc\nd\n")
        labels = np.array(list("abcdex"))
    elif kind == "three axes":
        scores = scores.reshape(2, 3, 4)
    np.save(path, scores)
    if of is not None:
        np.save(of, labels)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-24])
    return path, of


FAULTS = {
    "not square": "has 6 rows and 4 columns (queries, gallery): say with --labels",
    "nan": "hold NaN or infinite values",
    "other length": "has 5 labels for the 6 rows",
    "transposed": "has 6 labels for the 4 rows of .*; 6 is the number of columns: are the scores transposed?",
    "from 1": "says column 4 for query 3; there are columns 0 to 3; columns are counted from 0",
    "negative": "says column -1 for query 0",
    "halves": "does not hold one label for each query",
    "names without columns": "does not say which column is which image: put the 4 names",
    "unknown name": "2 of the 6 images named in l.npy are not in the columns of .*: e, x",
    "three axes": "should be an array",
    "truncated": "cannot be read as plain numbers",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_scores_and_labels_that_do_not_fit(tmp_path, kind, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores, labels = spoilt(tmp_path, kind)
    with pytest.raises(HvfError, match=FAULTS[kind].replace("(", r"\(").replace(")", r"\)").replace("?", r"\?")):
        rank_scores(scores, labels)
    command = ["retrieve", "--scores", str(scores), "--out", "out"]
    assert main(command if labels is None else [*command, "--labels", str(labels)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def pair(tmp_path):
    """Embeddings of 30 trials and of their images, in two orders, named."""
    rng = np.random.default_rng(0)
    z_MD = rng.normal(size=(30, 8))
    z_ND = z_MD + rng.normal(size=(30, 8))
    order, names = rng.permutation(30), [f"c{i // 2}/img_{i:02d}.png" for i in range(30)]
    np.savez(tmp_path / "brain.npz", z=z_ND[order], names=[names[i].rpartition("/")[2][:-4] for i in order])
    np.savez(tmp_path / "gallery.npz", z=z_MD, names=names)
    return tmp_path, z_ND, z_MD, order


def test_embeddings_are_matched_by_name(pair):
    folder, z_ND, z_MD, order = pair
    figures, title = rank_embeddings(folder / "brain.npz", folder / "gallery.npz")
    expected = retrieval.figures(retrieval.similarity(z_ND, z_MD))
    for name in ("top1", "top5", "mrr", "one_to_one"):
        assert value(figures, name) == pytest.approx(value(expected, name)), name
    assert value(figures, "top1") > 0.3
    assert title == "brain.npz among 30 images, matched by name (brain.npz itself; gallery.npz itself)"
    # The control: the same rows under each other's names.
    names = np.load(folder / "brain.npz")["names"]
    np.savez(folder / "brain.npz", z=z_ND[order], names=np.roll(names, 1))
    assert value(rank_embeddings(folder / "brain.npz", folder / "gallery.npz").figures, "top1") < 0.2


def test_some_trials_of_some_images(pair):
    folder, z_ND, z_MD, _ = pair
    np.savez(folder / "brain.npz", z=z_ND[[3, 3, 7]], names=["img_03", "img_03", "img_07"])
    figures, _ = rank_embeddings(folder / "brain.npz", folder / "gallery.npz")
    ranks_N = retrieval.ranks(retrieval.similarity(z_ND[[3, 3, 7]], z_MD), [3, 3, 7])
    assert value(figures, "mrr") == pytest.approx(np.mean(1 / ranks_N))
    assert (figures["retrieval/brain/mrr"]["n"], figures["chance/retrieval/top1"]["value"]) == (2, 1 / 30)


def test_embeddings_are_matched_by_order_where_names_say_nothing(pair):
    folder, z_ND, z_MD, _ = pair
    np.save(folder / "brain.npy", z_ND)
    figures, title = rank_embeddings(folder / "brain.npy", folder / "gallery.npz")
    assert figures == retrieval.figures(retrieval.similarity(z_ND, z_MD))
    assert title == "brain.npy among 30 images, matched by order: brain.npy names no images"
    np.savez(folder / "brain.npz", z=z_ND, names=[f"trial_{i}" for i in range(30)])
    by_order, title = rank_embeddings(folder / "brain.npz", folder / "gallery.npz")
    assert by_order == figures
    assert "no name occurs in both files ('trial_0' against 'c0/img_00.png')" in title


def test_embeddings_that_cannot_be_matched(pair):
    folder, z_ND, z_MD, _ = pair
    np.savez(folder / "brain.npz", z=z_ND[:2], names=["img_03", "img_33"])
    with pytest.raises(HvfError, match=r"1 of the 2 images named in .*brain.npz is not in .*gallery.npz: img_33"):
        rank_embeddings(folder / "brain.npz", folder / "gallery.npz")
    np.save(folder / "brain.npy", z_ND[:29])
    (folder / "brain.txt").write_text("a\nb\n")
    message = "29 embeddings from the brain but 30 images: row i must answer row i, or both files name their images; "
    with pytest.raises(HvfError, match=re.escape(message + "brain.txt has 2 names, brain.npy 29 rows")):
        rank_embeddings(folder / "brain.npy", folder / "gallery.npz")
    np.savez(folder / "twice.npz", z=z_MD, names=["img_03"] * 30)
    with pytest.raises(HvfError, match="names 'img_03' twice"):
        rank_embeddings(folder / "brain.npz", folder / "twice.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*BOTH, "--subject", "3"], "--subject: leave it out beside --embeddings"),
        ([*BOTH, "--epochs", "3", "--align.batch-size", "9"], "--epochs, --align.batch-size: leave it out"),
        (["--scores", "s.npy", "--gallery", "g.npz"], "--gallery: leave it out beside --scores"),
        (["--scores", "s.npy", "--preset", "things-eeg"], "--preset: leave it out beside --scores"),
        (["--scores", "s.npy", "--trials", "t.npy", "--images", "p"], "--trials, --images: leave it out"),
        (["--labels", "l.npy"], "--labels says which column of --scores"),
        ([*BOTH, "--labels", "l.npy"], "--labels says which column of --scores"),
        (BOTH[:2], "--embeddings and --gallery belong together"),
        ([*BOTH, "--scaling", "cssl"], "--scaling is 'cssl'; did you mean 'csls'?"),
        ([*BOTH, "--scaling", "csls"], "--scaling csls needs --bank TRIALS and --bank-gallery IMAGES"),
        ([*BOTH, "--scaling", "centred"], "by the test trials themselves it is centred-transductive"),
        ([*BOTH, "--scaling", "csls", "--bank", "t.npy"], "--bank and --bank-gallery belong together"),
        ([*BOTH, "--scaling", "csls", "--bank-gallery", "t.npy"], "--bank and --bank-gallery belong together"),
        ([*BOTH, "--scaling", "sinkhorn", "--bank", "t.npy", "--bank-gallery", "t.npy"], "--bank is what --scaling"),
        (["--scores", "s.npy", "--scaling", "centred-transductive"], "takes the mean of embeddings off, which scores"),
        (["--scores", "s.npy", "--scaling", "csls"], "--scaling csls needs --bank, scores with this gallery"),
        (
            ["--scores", "s.npy", "--scaling", "csls", "--bank", "t", "--bank-gallery", "g"],
            "--bank alone is the bank's",
        ),
        (["--bank", "t.npy"], "--bank is for --embeddings and --scores"),
    ],
)
def test_options_that_would_be_ignored_are_refused(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert main(["retrieve", *options]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_the_figures(pair, capsys):
    folder, *_ = pair
    files = ["--embeddings", f"{folder}/brain.npz", "--gallery", f"features:{folder}/gallery.npz#z"]
    assert main(["retrieve", *files, "--out", f"{folder}/out"]) == 0
    written = json.loads((folder / "out" / "metrics.json").read_text())
    assert written == rank_embeddings(folder / "brain.npz", folder / "gallery.npz").figures
    assert "matched by name" in capsys.readouterr().out


def a_bank(folder, n=12):
    """Files of training trials and their images, none of which is tested."""
    rng = np.random.default_rng(7)
    names = [f"other/img_{i:02d}.png" for i in range(100, 100 + n)]
    np.savez(folder / "bank.npz", z=rng.normal(size=(n, 8)), names=names)
    np.savez(folder / "bank_g.npz", z=rng.normal(size=(n, 8)), names=names)
    return Bank(folder / "bank.npz", folder / "bank_g.npz")


def test_scaled_scores_are_matched_by_name_too(pair):
    folder, z_ND, z_MD, order = pair
    bank = a_bank(folder)
    names = ["csls", "csls-transductive", "hungarian"]
    figures, _ = rank_embeddings(folder / "brain.npz", folder / "gallery.npz", names, bank)
    fitted = scaling.Scaling.of_bank("csls", np.load(bank.trials)["z"], np.load(bank.images)["z"])
    ranks_N = retrieval.ranks(fitted.scores(z_ND.astype(np.float32), z_MD.astype(np.float32)))
    assert figures["retrieval/csls/mrr"]["value"] == pytest.approx(np.mean(1 / ranks_N))
    centred_NN = scaling.centred_cosine(z_ND, z_MD)
    ranks_N = scaling.transductive_ranks("csls-transductive", centred_NN)
    assert figures["transductive/csls-transductive/mrr"]["value"] == pytest.approx(np.mean(1 / ranks_N), rel=1e-4)
    assert figures["transductive/hungarian/top1"]["value"] == retrieval.one_to_one(centred_NN).mean()
    assert figures["transductive/hungarian/top1_gain"]["n"] == 30


def test_columns_of_a_bank_are_matched_by_name(tmp_path):
    rng = np.random.default_rng(0)
    scores, bank, order = rng.normal(size=(5, 5)), rng.normal(size=(9, 5)), [3, 0, 4, 1, 2]
    np.savez(tmp_path / "s.npz", scores=scores, names=list("abcde"))
    np.savez(tmp_path / "bank.npz", scores=bank[:, order], names=[list("abcde")[i] for i in order])
    figures, _ = rank_scores(tmp_path / "s.npz", None, ["csls"], Bank(tmp_path / "bank.npz"))
    expected = 1 / retrieval.ranks(2 * scores - bank.mean(axis=0))  # k is 10, and there are 9
    assert figures["retrieval/csls/mrr"]["value"] == pytest.approx(expected.mean())


@pytest.mark.parametrize("fault", ["a tested name", "a tested row", "a tested image", "another width"])
def test_banks_that_hold_what_is_tested(pair, fault):
    folder, z_ND, z_MD, _ = pair
    bank = a_bank(folder)
    trials, images = np.load(bank.trials), np.load(bank.images)
    if fault == "a tested name":
        np.savez(bank.trials, z=trials["z"], names=["c0/img_00.png", *trials["names"][1:]])
        said = "bank.npz names 'c0/img_00.png', which is tested: a bank is of training trials"
    elif fault == "a tested row":
        np.savez(bank.trials, z=np.vstack([trials["z"][:-1], z_ND[3]]), names=trials["names"])
        said = "bank.npz holds rows of .*brain.npz .1, the first 11.: a bank is of training trials"
    elif fault == "a tested image":
        np.savez(bank.images, z=np.vstack([z_MD[5], images["z"][1:]]), names=images["names"])
        said = "bank_g.npz holds rows of .*gallery.npz"
    else:
        np.savez(bank.trials, z=trials["z"][:, :7], names=trials["names"])
        said = "bank.npz is 7 wide and the gallery 8"
    with pytest.raises(HvfError, match=said):
        rank_embeddings(folder / "brain.npz", folder / "gallery.npz", ["csls"], bank)


def test_a_matching_needs_one_trial_of_each_image(pair):
    folder, z_ND, _, _ = pair
    np.savez(folder / "brain.npz", z=z_ND[[3, 3, 7]], names=["img_03", "img_03", "img_07"])
    with pytest.raises(HvfError, match="here 3 trials answer 2 of 30 images"):
        rank_embeddings(folder / "brain.npz", folder / "gallery.npz", ["hungarian"])
    figures, _ = rank_embeddings(folder / "brain.npz", folder / "gallery.npz", ["sinkhorn"])  # these can be
    assert figures["transductive/sinkhorn/mrr"]["n"] == 2
