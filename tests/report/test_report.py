"""The report: one page that holds everything, says what was not run, and trusts no name that it prints."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from hvf import report
from hvf.config import Config, DataConfig, HvfError, to_dict, with_settings
from hvf.experiments.caveats import RENDERED_ALONE
from hvf.experiments.results import Result
from hvf.report.explore import described
from hvf.report.folder import Folder, _most_often
from hvf.report.pictures import evenly_spaced
from hvf.report.sections import describe
from hvf.report.tables import markdown
from hvf.runs import Run
from tests.a_result import a_result

N = 12
EVIL = '<script>alert("x")</script> & "co"'
VOID = {"meta", "link", "img", "line", "polyline", "polygon", "br", "input"}


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
    concepts = [EVIL, *(f"red_truck_{i}" for i in range(1, N))]
    scores = {"reconstruction/brain/pixcorr": pixcorr, "reconstruction/floor/pixcorr": [0.0] * N}
    ids = [f"id{i}" for i in range(N)]
    run.write_json("per_image.json", {"ids": ids, "concepts": concepts, "scores": scores})
    top5 = [[(i + k) % N for k in range(5)] for i in range(N)]
    top5[1] = [5, 6, 7, 8, 9]
    rank = [1, 9, *([1] * (N - 2))]
    a_result(ids, {"brain": rank}, top5).write(run.path)
    run.write_metrics(metrics)
    run.write_json("history.json", [{"loss": 3.0 / e, "validation_loss": 4.0 / e, "validation_top1": 0.1 * e,
                                     "best": e == 4} for e in range(1, 6)])  # fmt: skip
    return run


def written(run_paths, out) -> tuple[str, Page]:
    text = report.write_report(run_paths, out).read_text(encoding="utf-8")
    return text, Page(text)


def test_whether_the_right_kind_was_drawn_is_the_first_figure(run, tmp_path):
    run.write_metrics({"reconstruction/brain/kind_top1": entry(0.21), "chance/reconstruction/kind_top1": entry(0.0167)})
    run.write_json("evaluation.json", {"of_seen": {"kind_top1": entry(0.975)}})
    told = describe(Folder(run.path), "run0", "")
    assert told["headline"][0]["text"] == "21.0 %"
    assert told["headline"][0]["beside"] == "chance 1.7 %"
    text = markdown([Folder(run.path)], "", [])
    assert "right kind of object, read from the seen pictures themselves: 97.5 %" in text


def test_the_page_says_that_the_mini_prior_knows_rendered_pictures_alone(tmp_path, run):
    run.write_json("config.json", to_dict(with_settings(Config(), {"align.mode": "reconstruction"})))
    assert RENDERED_ALONE not in written([run.path], tmp_path / "report.html")[1].text
    result = json.loads((run.path / "result.json").read_text())
    result["study"]["simulated"] = False
    run.write_json("result.json", result)
    assert RENDERED_ALONE in written([run.path], tmp_path / "report.html")[1].text


def test_the_page_says_what_was_found(run, tmp_path):
    _, page = written([run.path], tmp_path / "report.html")
    for said in ("Simulated EEG, subject 8", "12-way", "43.2 %", "38.2 % to 48.2 %", "chance 8.3 %", "0.400",
                 "two-way (mini-vit)", "80.0 %", "chance 50.0 %", "shuffled trials 0.000", "kept: epoch 4", "0.1.0",
                 "ceiling: the image's own embedding",
                 "8 of 12 images, evenly spaced from the best PixCorr to the worst"):  # fmt: skip
        assert said in page.text, said
    assert len(page.all("span", "badge")) == 1
    assert "not run" in page.text  # the two-way of ceiling and floor was not measured
    assert page.text.count("not run:") == 0  # but no stage is missing
    assert "Something is wrong" not in page.text


def test_figures_that_cannot_be_right_are_said_on_the_page(run, tmp_path):
    run.write_metrics({"reconstruction/floor/two_way_mini-vit": entry(0.7)})
    _, page = written([run.path], tmp_path / "report.html")
    assert "Something is wrong" in page.text
    assert "permuted trials score 0.700, above chance" in page.text


def test_the_page_asks_nothing_of_the_network(run, tmp_path):
    text, page = written([run.path], tmp_path / "report.html")
    for tag, attrs in page.tags:
        for name in ("src", "href", "action", "srcset", "poster", "data"):
            assert attrs.get(name, "#").startswith(("data:", "#")), (tag, attrs)
    assert "://" not in text
    assert all(url.startswith("data:") for url in re.findall(r"url\(([^)]*)\)", text))
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_the_policy_names_our_script_and_style_by_hash_and_nothing_else_is_inline(run, tmp_path):
    text, page = written([run.path], tmp_path / "report.html")
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    rules = {rule.split()[0]: set(rule.split()[1:]) for rule in policy.split(";")}
    inline = {kind: re.findall(rf"<{kind}>(.*?)</{kind}>", text, flags=re.S) for kind in ("style", "script")}
    assert [len(parts) for parts in inline.values()] == [1, 2]
    for kind, parts in inline.items():
        digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts]
        assert rules[f"{kind}-src"] == {f"'sha256-{digest}'" for digest in digests}
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == {"'none'"}
    assert "unsafe" not in policy
    assert not [(tag, name) for tag, a in page.tags for name in a if name == "style" or name.startswith("on")]
    places = re.findall(r"\.run0-(\d+)\{background-position:", text)
    assert {*places} >= {*re.findall(r"run0-thumb run0-(\d+)", text)}


def test_names_in_tables_are_text(run, tmp_path):
    name = "<img src=x>|[a](javascript:b) ![c](d) `e` *f* _g_ $h$ &amp; \\input{i} %\n# j www.k.l"
    shutil.copytree(run.path, tmp_path / "evil" / name.replace("/", "-"))
    evil = tmp_path / "evil" / name.replace("/", "-")
    report.write([evil, run.path], tmp_path / "t.md")
    table = (tmp_path / "t.md").read_text()
    assert "<img" not in table
    assert (
        r"&lt;img src=x&gt;\|\[a\](javascript:b) !\[c\](d) \`e\` \*f\* \_g\_ \$h\$ &amp;amp; \\input{i} % # j www\.k.l"
        in table
    )
    report.write([evil, run.path], tmp_path / "t.tex")
    table = (tmp_path / "t.tex").read_text()
    assert (
        r"\textless{}img src=x\textgreater{}\textbar{}{[}a{]}(javascript:b) !{[}c{]}(d) `e` {*}f{*} \_g\_ \$h\$"
        in table
    )
    assert r"\textbackslash{}input\{i\} \% \# j" in table
    assert not [line for line in table.splitlines() if line.lstrip().startswith(("# j", "\\input"))]


def test_names_are_escaped_everywhere(run, tmp_path):
    text, page = written([run.path], tmp_path / "report.html")
    assert "<script>alert" not in text
    assert len(page.all("script")) == 3  # ours
    assert EVIL in page.text
    assert any(a["alt"].startswith(EVIL) for a in page.all("img"))


def test_every_picture_has_a_text_and_every_right_answer_a_mark(run, tmp_path):
    _, page = written([run.path], tmp_path / "report.html")
    images, thumbs = page.all("img"), page.all("i", "thumb")
    assert len(images) == N + 8  # one strip of all stages for each image: in the gallery, and at the top
    assert all(a.get("alt") and a["width"] and a["height"] for a in images)
    assert all(a["role"] == "img" and a["aria-label"] for a in thumbs)
    assert sum("right" in a["class"].split() for a in thumbs) == N - 1  # image 1 is not among its first five
    assert sum("the image that was seen" in a["aria-label"] for a in thumbs) == N - 1
    assert "rank 9 of 12" in page.text


def test_cards_carry_what_they_are_sorted_by(run, tmp_path):
    text, page = written([run.path], tmp_path / "report.html")
    told = json.loads(re.search(r'id="run0-gallery-data">(.*?)</script>', text, flags=re.S)[1])
    assert told["keys"] == [{"label": "PixCorr", "lower": False}, {"label": "rank", "lower": True}]
    assert told["columns"][0][0] == -0.1
    assert told["columns"][0][3] is None
    assert told["texts"][0][3] == "–"
    assert told["columns"][1][:3] == [1, 9, 1]
    assert len(page.all("li", "card")) == len(told["columns"][0]) == N


def test_failures_name_what_came_first_instead(run, tmp_path):
    _, page = written([run.path], tmp_path / "report.html")
    assert "1 of 12 not first; 1 of 12 not among the first 5; 0 of 12 not among the first 10." in page.text
    assert "rank 9; first came red truck 5" in page.text


def test_groups_are_words_that_names_share_or_concepts_of_several_images(run, tmp_path):
    told = run.read_json("per_image.json")
    names = [f"{'red' if i < 6 else 'blue'}_{'cat' if i % 2 else 'dog'}" for i in range(N)]
    run.write_json("per_image.json", {**told, "concepts": [f"{name}_{i}" for i, name in enumerate(names)]})
    _, page = written([run.path], tmp_path / "report.html")
    assert "Mean PixCorr by word in the image's name" in page.text
    worst, best = re.search(r"come out worst(.*)Groups that come out best(.*)Training", page.text).groups()
    assert worst.index("red") < worst.index("dog")  # every score of a red one is below
    assert best.index("blue") < best.index("cat")
    run.write_json("per_image.json", {**told, "concepts": names})
    _, page = written([run.path], tmp_path / "report.html")
    assert "by concept" not in page.text  # three images of each are too few to tell about
    run.write_json("per_image.json", {**told, "concepts": ["cat"] * 6 + ["dog"] * 6})
    _, page = written([run.path], tmp_path / "report.html")
    assert "by concept" in page.text


def test_a_bare_folder_is_a_page_of_what_was_not_run(tmp_path):
    run = Run.create(tmp_path / "bare", Config())
    _, page = written([run.path], tmp_path / "report.html")
    assert page.text.count("not run:") == 5  # retrieval, reconstruction, images, failures, training
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
    assert [a["href"] for a in page.all("a") if a["href"].startswith("#run")] == ["#run0", "#run1"] * 2
    assert "not compared: bare does not say which images its scores are of" in page.text
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
    with pytest.raises(HvfError, match="0002_id2.png is truncated or not an image"):
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
    folder = Folder(run.path)
    seen, scores = folder.pictures["seen"], folder.scores["reconstruction/brain/pixcorr"]
    assert evenly_spaced(scores, seen, 4) == ([11, 7, 4, 3], True)  # 3 is undefined: worst of all
    assert evenly_spaced(scores, seen, 100)[0] == [11, 10, 9, 8, 7, 6, 5, 4, 2, 1, 0, 3]
    chosen, by_score = evenly_spaced({}, seen, 3)
    assert chosen in ([0, 5, 11], [0, 6, 11])
    assert not by_score


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


def test_rounds_in_folders_are_found_and_the_first_is_shown(run, tmp_path):
    for r in (0, 1, 10):
        shutil.copytree(run.path / "images" / "floor", run.path / "images" / "brain" / f"round_{r}")
    for path in (run.path / "images" / "brain").glob("*.png"):
        path.unlink()
    pictures = Folder(run.path).pictures["brain"]
    assert [len(rounds) for rounds in pictures.values()] == [3] * N
    assert [p.args[0].parent.name for p in pictures[0]] == ["round_0", "round_1", "round_10"]
    _, page = written([run.path], tmp_path / "report.html")
    assert len(page.all("li", "card")) == N


def test_sensors_and_windows_are_drawn_where_an_analysis_left_them(run, tmp_path):
    windows = [{"tmin": 0.1 * i, "tmax": 0.1 * i + 0.1, "value": 0.1 * i, "ci95": [0.1 * i, 0.2 * i]} for i in range(4)]
    run.write_json(
        "windows.json", [{"title": "top-1 by window", "how": "retrained", "chance": 0.005, "windows": windows}]
    )
    values = [-0.1, 0.2, 0.4, 0.1, 0.3]
    names = ["O1", "Oz", "O2", "Pz", "Fz"]
    run.write_json("sensors.json", [{"title": "top-1 lost", "how": "occluded", "ch_names": names, "values": values}])
    _, page = written([run.path], tmp_path / "report.html")
    assert "Highest: 0.3 at 300–400 ms" in page.text
    assert "Strongest: O2 (+0.4), Fz (+0.3)" in page.text
    assert sum(a["src"].startswith("data:image/png") for a in page.all("img")) == 1
    run.write_json("sensors.json", [{"title": "t", "ch_names": ["A", "B"], "values": [1, 2]}])
    _, page = written([run.path], tmp_path / "report.html")  # of sensors nobody knows the places of: in words
    assert "Strongest: B (+2), A (+1)" in page.text
    run.write_json("sensors.json", [{"title": "t", "ch_names": ["A"], "values": [1, 2]}])
    with pytest.raises(HvfError, match="1 sensors but 2 values"):
        report.write_report([run.path], tmp_path / "report.html")


@pytest.fixture
def study(tmp_path) -> Run:
    """What a study of targets leaves: rows over two runs on the same images; run 1 is right where run 0 is."""
    run = Run.create(tmp_path / "targets", Config())
    ids = [f"id{i}" for i in range(N)]
    rows = {"fused (HVF)": [1] * 9 + [4] * 3, "a/b:c@1": [2] * N, "ridge": [1] * 3 + [5] * 9}
    top5 = [[i, *((i + k) % N for k in range(1, 5))] for i in range(N)]
    runs = [a_result(ids, rows, top5, kind="targets", run=f"seed-{seed}") for seed in range(2)]
    Result.combined(runs).write(run.path)
    return run


def test_a_study_is_a_table_of_its_rows(study, tmp_path):
    _, page = written([study.path], tmp_path / "report.html")
    for words in ("Simulated EEG, subject 8: targets", "12-way", "mean of 2 runs", "fused (HVF) (simulated)", "ridge",
                  "a/b:c@1", "75.0 %", "25.0 %", "chance 8.3 %", "validation mAP", "seed-0 · seed-1"):  # fmt: skip
        assert words in page.text, words
    assert page.text.count("not run:") == 0
    for ending, chance, row in ((".md", "| chance |", "| fused (HVF) (simulated) |"), (".tex", "chance & ", "ridge (")):
        report.write([study.path], tmp_path / f"t{ending}")
        text = (tmp_path / f"t{ending}").read_text()
        assert chance in text
        assert row in text
        assert "a/b:c@1" in text
    lines = (tmp_path / "t.md").read_text().splitlines()
    head, fused = ([cell.strip() for cell in next(x for x in lines if x.startswith(start)).split("|")]
                   for start in ("| | ", "| fused"))  # fmt: skip
    cells = dict(zip(head[1:], fused[1:], strict=True))
    assert cells["top-1 ↑"].startswith("75.0 % (")
    assert cells["validation mAP (= MRR) ↑"] == "0.500"


def test_explore_shows_a_study_by_row_and_image(study):
    data = described(Folder(study.path))
    assert [line[0] for line in data["rows"]] == [
        "fused (HVF) (simulated)", "a/b:c@1 (simulated)", "ridge (simulated)", "chance"
    ]  # fmt: skip
    assert data["rows"][0][1].startswith("75.0 % (")
    assert [key["label"] for key in data["keys"]] == ["rank: fused (HVF)", "rank: a/b:c@1", "rank: ridge"]
    assert [column[0] for column in data["values"]] == [1, 2, 1]
    assert data["top5"][2] == [2, 3, 4, 5, 6]
    assert len(data["names"]) == N


def test_what_runs_retrieved_is_put_together_by_how_often_and_how_high():
    assert _most_often([[7, 3, 5, 2, 1]]) == [7, 3, 5, 2, 1]
    assert _most_often([[7, 3, 5, 2, 1], [3, 7, 9, 8, 6], [3, 9, 7, 8, 6]])[:3] == [3, 7, 9]


def test_a_run_of_an_older_version_is_refused_by_name(run, tmp_path):
    (run.path / "result.json").unlink()
    run.write_json("retrieval.json", {"gallery": [], "brain": {}})
    with pytest.raises(HvfError, match=r"has no result.json: it holds no result of version 1; make the run again"):
        report.write([run.path], tmp_path / "t.md")


def test_a_study_shows_its_rows_as_bars_from_zero_the_best_first(tmp_path):
    ids = [f"im{i:02d}" for i in range(12)]
    ranks = {"nice": [1] * 3 + [5] * 9, "hvf": [1] * 9 + [2] * 3}
    runs = [a_result(ids, ranks, kind="benchmark", run=f"seed-{i}") for i in range(2)]
    Result.combined(runs).write(tmp_path / "table")
    folder = Folder(tmp_path / "table")
    said = describe(folder, "run0", "")
    assert said["title"].endswith(": methods compared")
    assert [(line["label"], line["text"], line["x"], line["each"]) for line in said["bars"]["lines"]] == [
        ("hvf", "75.0 %", 75.0, [75.0, 75.0]),
        ("nice", "25.0 %", 25.0, [25.0, 25.0]),
    ]
    assert said["bars"]["x_chance"] == 8.33
    assert [figure["label"] for figure in said["headline"]][0] == "of the seen images retrieved first, by nice"
    report.write_report([tmp_path / "table"], tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().count("<rect width") == 2
