"""The report: one page that holds everything, says what was not run, and trusts no name that it prints."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from hvf import report
from hvf.config import Config, DataConfig, HvfError
from hvf.runs import Run

N = 12
EVIL = '<script>alert("x")</script> & "co"'
VOID = {"meta", "link", "img", "line", "polyline", "br", "input"}


class Page(HTMLParser):
    """Checks that tags nest, and collects what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str, cls: str = "") -> list[dict]:
        return [a for t, a in self.tags if t == tag and cls in (a.get("class") or "").split() + [""]]


def entry(value):
    return {"value": value, "ci95": [value - 0.05, value + 0.05], "n": N}


@pytest.fixture
def run(tmp_path) -> Run:
    """What a whole `hvf reconstruct` leaves; picture 3 is undefined under PixCorr, picture 0 named badly."""
    run = Run.create(tmp_path / "sub-08", Config())
    rng = np.random.default_rng(0)
    for stage in ("seen", "ceiling", "brain", "floor"):
        folder = run.path / "images" / stage
        folder.mkdir(parents=True)
        for i in range(N):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{i:04d}_id{i}.png")
    pixcorr = [float(p) for p in np.linspace(-0.1, 0.9, N)]
    pixcorr[3] = float("nan")
    metrics = {f"reconstruction/{r}/pixcorr": entry(v) for r, v in (("ceiling", 0.9), ("brain", 0.4), ("floor", 0.0))}
    metrics |= {
        "reconstruction/brain/two_way_mini-vit": entry(0.8),
        "chance/reconstruction/two_way_mini-vit": entry(0.5),
    }
    metrics |= {"retrieval/brain/top1": entry(0.4321), "retrieval/brain/top5": entry(0.75)}
    metrics |= {"chance/retrieval/top1": entry(0.083), "retrieval/brain/median_rank": entry(2.0)}
    run.write_metrics(metrics)
    concepts = [EVIL, *(f"red_truck_{i}" for i in range(1, N))]
    scores = {"reconstruction/brain/pixcorr": pixcorr, "reconstruction/floor/pixcorr": [0.0] * N}
    ids = [f"id{i}" for i in range(N)]
    run.write_json("per_image.json", {"ids": ids, "concepts": concepts, "scores": scores})
    top5 = [[(i + k) % N for k in range(5)] for i in range(N)]
    top5[1] = [5, 6, 7, 8, 9]
    rank = [1, 9, *([1] * (N - 2))]
    run.write_json("retrieval.json", {"gallery": ids, "brain": {"target": list(range(N)), "rank": rank, "top5": top5}})
    run.write_json("history.json", [{"loss": 3.0 / e, "validation_loss": 4.0 / e, "validation_top1": 0.1 * e,
                                     "best": e == 4} for e in range(1, 6)])  # fmt: skip
    run.write_json("versions.json", {"hvf": "0.1.0", "torch": "2.10.0"})
    return run


def written(run_paths, out) -> tuple[str, Page]:
    text = report.write_report(run_paths, out).read_text(encoding="utf-8")
    return text, Page(text)


def test_the_page_says_what_was_found(run, tmp_path):
    _, page = written([run.path], tmp_path / "report.html")
    for said in ("Simulated EEG, subject 8", "12-way", "43.2 %", "38.2 % to 48.2 %", "chance 8.3 %", "0.400",
                 "two-way (mini-vit)", "ceiling: the image's own embedding", "kept: epoch 4", "0.1.0",
                 "8 of 12 images, evenly spaced from the best PixCorr to the worst"):  # fmt: skip
        assert said in page.text, said
    assert len(page.all("span", "badge")) == 1
    assert "not run" in page.text  # the two-way of ceiling and floor was not measured
    assert page.text.count("not run:") == 0  # but no stage is missing


def test_the_page_asks_nothing_of_the_network(run, tmp_path):
    text, page = written([run.path], tmp_path / "report.html")
    for tag, attrs in page.tags:
        for name in ("src", "href", "action", "srcset", "poster", "data"):
            assert attrs.get(name, "#").startswith(("data:", "#")), (tag, attrs)
    assert "://" not in text
    assert all(url.startswith("data:") for url in re.findall(r"url\(([^)]*)\)", text))
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_names_are_escaped_everywhere(run, tmp_path):
    text, page = written([run.path], tmp_path / "report.html")
    assert "<script>alert" not in text
    assert len(page.all("script")) == 2  # ours
    assert EVIL in page.text
    assert any(a["alt"].startswith(EVIL) for a in page.all("img"))


def test_every_picture_has_a_text_and_every_right_answer_a_mark(run, tmp_path):
    _, page = written([run.path], tmp_path / "report.html")
    images, thumbs = page.all("img"), page.all("span", "thumb")
    assert len(images) == 3 * N + 3 * 8  # the gallery and the strip
    assert all(a.get("alt") for a in images)
    assert len(thumbs) == 5 * N
    assert all(a["role"] == "img" and a["aria-label"] for a in thumbs)
    assert len(page.all("li", "right")) == N - 1  # image 1 is not among its first five
    assert sum("the image that was seen" in a["aria-label"] for a in thumbs) == N - 1
    assert "rank 9 of 12" in page.text


def test_cards_carry_what_they_are_sorted_by(run, tmp_path):
    _, page = written([run.path], tmp_path / "report.html")
    cards = [a["data-scores"].split(" ; ") for a in page.all("li", "card")]
    assert [a.get("data-lower") for a in page.all("option")] == [None, "", "1"]  # order shown, PixCorr, rank
    assert cards[0] == ["-0.1", "1"]
    assert cards[3] == ["", "1"]
    assert cards[1][1] == "9"


def test_a_bare_folder_is_a_page_of_what_was_not_run(tmp_path):
    run = Run.create(tmp_path / "bare", Config())
    _, page = written([run.path], tmp_path / "report.html")
    assert page.text.count("not run:") == 4  # retrieval, reconstruction, images, training
    assert "not recorded" in page.text
    with pytest.raises(HvfError, match="no pictures in images/seen"):
        report.write_grid(run.path)


def test_retrieval_alone_shows_names(run, tmp_path):
    shutil.rmtree(run.path / "images")
    (run.path / "per_image.json").unlink()
    _, page = written([run.path], tmp_path / "report.html")
    assert len(page.all("li", "card")) == N
    assert page.all("img") == []
    assert page.text.count("not run:") == 0  # figures of earlier pictures stand
    assert "id5" in page.text


def test_several_runs_stand_in_one_table(run, tmp_path):
    other = Run.create(tmp_path / "bare", Config(data=DataConfig(subject=3)))
    _, page = written([run.path, other.path], tmp_path / "both.html")
    assert "2 runs" in page.text
    assert [a["href"] for a in page.all("a")] == ["#run0", "#run1"]
    assert {"run0", "run1"} <= {a.get("id") for a in page.all("section")}


def test_own_recordings_are_not_called_simulated_and_their_folders_are_kept_quiet(tmp_path):
    trials = tmp_path / "secret" / "mine-epo.fif"
    trials.parent.mkdir()
    trials.touch()
    data = DataConfig(study="files", trials=str(trials), images=str(tmp_path))
    run = Run.create(tmp_path / "mine", Config(data=data))
    text, page = written([run.path], tmp_path / "report.html")
    assert page.all("span", "badge") == []
    assert "mine-epo.fif" in page.text
    assert str(tmp_path) not in text


def test_pages_are_the_same_twice_and_failures_leave_nothing(run, tmp_path):
    first, _ = written([run.path], tmp_path / "a.html")
    second, _ = written([run.path], tmp_path / "b.html")
    assert first == second
    (run.path / "images" / "brain" / "0002_id2.png").write_bytes(b"not a picture")
    with pytest.raises(HvfError, match="0002_id2.png cannot be read as a picture"):
        report.write_report([run.path], tmp_path / "c.html")
    assert not (tmp_path / "c.html").exists()
    with pytest.raises(HvfError, match="not a run folder"):
        report.write_report([tmp_path], tmp_path / "c.html")
    with pytest.raises(HvfError, match="at least one run"):
        report.write_report([], tmp_path / "c.html")


def test_large_pictures_are_made_small(run, tmp_path):
    path = run.path / "images" / "brain" / "0000_id0.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)).save(path)
    _, page = written([run.path], tmp_path / "report.html")
    assert max(len(a["src"]) for a in page.all("img")) < path.stat().st_size / 5


def test_the_grid_is_evenly_spaced_from_best_to_worst(run):
    seen = report._pictures(run)["seen"]
    chosen, how = report._evenly_spaced(run, seen, 4)
    assert chosen == [11, 7, 4, 3]  # 3 is undefined: worst of all
    assert "PixCorr" in how
    everything, _ = report._evenly_spaced(run, seen, 100)
    assert everything == [11, 10, 9, 8, 7, 6, 5, 4, 2, 1, 0, 3]
    (run.path / "per_image.json").unlink()
    chosen, how = report._evenly_spaced(run, seen, 3)
    assert chosen in ([0, 5, 11], [0, 6, 11])
    assert "order of the images" in how


def test_the_grid_holds_the_pictures_in_their_places(run):
    for stage, colour in (("seen", (200, 0, 0)), ("ceiling", (0, 200, 0)), ("brain", (0, 0, 200))):
        for path in (run.path / "images" / stage).iterdir():
            Image.new("RGB", (16, 16), colour).save(path)
    path = report.write_grid(run.path, n_rows=2)
    assert path == run.path / "grid.png"
    grid = np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB")).astype(int)
    area = [(grid == colour).all(axis=2) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    assert [int(a.sum()) for a in area] == [2 * 192 * 192] * 3
    columns = [np.flatnonzero(a.any(axis=0)) for a in area]
    assert columns[0].max() < columns[1].min() < columns[1].max() < columns[2].min()


def test_a_grid_without_the_brains_pictures_says_so(run):
    shutil.rmtree(run.path / "images" / "brain")
    with Image.open(report.write_grid(run.path, n_rows=3)) as grid:
        assert grid.width > 3 * 192
        assert (np.asarray(grid.convert("RGB")) == (241, 243, 245)).all(axis=2).sum() > 2 * 192 * 192


@pytest.mark.browser
def test_a_browser_opens_it_without_complaint(run, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    report.write_report([run.path], tmp_path / "report.html")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
    ]
    flags += ["--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--dump-dom"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "report.html").as_uri()]
    done = subprocess.run([browser, *flags], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    assert '<html lang="en" class="js">' in done.stdout
    assert ">reverse</button>" in done.stdout  # the script ran to its end
