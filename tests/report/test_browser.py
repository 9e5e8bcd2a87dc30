"""The report and the explorer in a real browser: nothing complained about, nothing asked of any other machine.

Chromium is driven through chromedriver's own protocol (W3C WebDriver, JSON over HTTP), so that no package is needed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image

from hvf import report
from hvf.config import Config
from hvf.report import explore
from hvf.runs import Run
from tests.a_result import a_result

pytestmark = pytest.mark.browser
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Escape": "\ue00c", "Right": "\ue014", "Down": "\ue015", "Space": " "}
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-quic", "--no-proxy-server"]  # fmt: skip


class Browser:
    """One window. `width` under 500 is a phone."""

    def __init__(self, port: int, profile, width: int = 1200, dark: bool = False) -> None:
        self._url = f"http://127.0.0.1:{port}/session"
        options = {
            "binary": BROWSER,
            "args": [*FLAGS, f"--user-data-dir={profile}", f"--window-size={max(width, 500)},900"],
        }
        if width < 500:
            options["mobileEmulation"] = {"deviceMetrics": {"width": width, "height": 800, "pixelRatio": 2.0}}
        logs = {"browser": "ALL", "performance": "ALL"}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logs}
        self._url += "/" + self._ask("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        if dark:
            media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
            self._ask("/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": media})

    def _ask(self, path: str, body: dict | None = None, method: str = ""):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"})
        request.method = method or ("GET" if body is None else "POST")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def open(self, url: str) -> None:
        self._ask("/url", {"url": url})

    def run(self, script: str):
        """What the script returns."""
        return self._ask("/execute/sync", {"script": script, "args": []})

    def until(self, script: str, seconds: float = 15.0):
        """What the script returns, as soon as it is true."""
        end = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < end, script
            time.sleep(0.05)
        return found

    def press(self, *keys: str) -> None:
        """Real key strokes, each down and up."""
        codes = [KEYS.get(key, key) for key in keys]
        strokes = [{"type": kind, "value": code} for code in codes for kind in ("keyDown", "keyUp")]
        self._ask("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def complaints(self) -> list[str]:
        """Everything that was written to the console, refusals of the security policy among it."""
        return [entry["message"] for entry in self._ask("/se/log", {"type": "browser"})]

    def asked_for(self) -> set[str]:
        """Where every request since the last call went: "file", "data", "blob", or scheme://host:port."""
        events = [json.loads(e["message"])["message"] for e in self._ask("/se/log", {"type": "performance"})]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        places = {"/".join(u.split("/")[:3]) if u.startswith("http") else u.split(":")[0] for u in urls}
        return places - {"chrome"}  # the browser's own first page

    def close(self) -> None:
        self._ask("", method="DELETE")


@pytest.fixture(scope="module")
def driver():
    if BROWSER is None or DRIVER is None:
        pytest.skip("no Chromium with chromedriver on this machine")
    process = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    port = None
    for line in process.stdout:
        if "started successfully on port" in line:
            port = int(line.strip().rstrip(".").split()[-1])
            break
    threading.Thread(target=process.stdout.read, daemon=True).start()
    yield port
    process.terminate()
    process.wait(20)


@pytest.fixture
def browser(driver, tmp_path):
    opened = []

    def make(**settings) -> Browser:
        opened.append(Browser(driver, tmp_path / f"profile{len(opened)}", **settings))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def a_run(path, n: int, rounds: int = 1) -> Run:
    """Pictures of plain colours with scores that run against their order."""
    run = Run.create(path, Config())
    rng = np.random.default_rng(0)
    for stage in ("seen", "ceiling", "brain"):
        for r in range(rounds if stage == "brain" else 1):
            folder = run.path / "images" / stage / (f"round_{r}" if rounds > 1 and stage == "brain" else "")
            folder.mkdir(parents=True)
            for i in range(n):
                picture = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((32, 32))
                picture.save(folder / f"{i:04d}_id{i}.png")
    ids = [f"thing_{i}" for i in range(n)]
    scores = {f"reconstruction/brain/{name}": np.linspace(0.1, 0.9, n).tolist() for name in ("pixcorr", "ssim")}
    scores["reconstruction/brain/effnet"] = np.linspace(0.1, 0.9, n).tolist()
    run.write_json("per_image.json", {"ids": ids, "concepts": ids, "scores": scores})
    run.write_metrics({key: {"value": 0.5, "ci95": [0.4, 0.6], "n": n} for key in scores})
    top5 = [[(i + k) % n for k in range(5)] for i in range(n)]
    a_result(ids, {"brain": [1] * n}, top5).write(run.path)
    windows = [{"tmin": 0.1 * i, "tmax": 0.1 * (i + 1), "value": 0.1 * i, "top5": top5} for i in range(3)]
    run.write_json("windows.json", [{"title": "by window", "windows": windows}])
    return run


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Run:
    return a_run(tmp_path_factory.mktemp("small") / "run", 30, rounds=2)


@pytest.fixture
def page(small, tmp_path) -> str:
    return report.write_report([small.path, small.path], tmp_path / "report.html").as_uri()


CARDS = (
    'return [...document.querySelectorAll("#run0-gallery > .card:not([hidden]) h3")].map(h => h.firstChild.textContent)'
)
SELECTED = "return document.querySelector('[aria-selected=\"true\"]').firstChild.textContent"


@pytest.mark.slow(part=8)
def test_the_gallery_is_sorted_searched_and_walked_by_keyboard_alone(browser, page):
    window = browser()
    window.open(page)
    assert window.run(CARDS)[:2] == ["thing 0", "thing 1"]
    window.run('document.querySelector("#run0 select").focus()')
    window.press("Down")  # PixCorr: best first
    assert window.run(CARDS)[:2] == ["thing 29", "thing 28"]
    assert window.run('return document.querySelector("#run0 .card h3 span").textContent') == "PixCorr 0.900"
    window.press("Down", "Down")  # EffNet-B, of which less is better
    assert window.run(CARDS)[:2] == ["thing 0", "thing 1"]
    window.press("Tab", "Space")  # worst first
    assert window.run(CARDS)[:2] == ["thing 29", "thing 28"]
    window.press("Tab", *"thing 2")
    assert window.run(CARDS) == [f"thing {i}" for i in (*range(29, 19, -1), 2)]
    window.press("Tab")  # into the gallery, one stop for all cards
    assert window.run("return document.activeElement.querySelector('h3').firstChild.textContent") == "thing 29"
    window.press("Right", "Enter")
    assert window.until('return document.querySelector("dialog[open] h3")?.textContent') == "thing 28"
    window.press("Right")
    assert window.run('return document.querySelector("dialog[open] h3").textContent') == "thing 27"
    assert window.run('return document.querySelectorAll("dialog[open] dd").length') == 4
    window.press("Escape")
    window.until('return !document.querySelector("dialog[open]")')
    # The page moves the focus when it is told of the closing, a moment after the browser has given it to the opener.
    window.until("return document.activeElement.querySelector('h3')?.firstChild.textContent === 'thing 27'")
    assert window.complaints() == []
    assert window.asked_for() <= {"file", "data"}


@pytest.mark.slow(part=8)
def test_the_page_is_dark_in_the_dark_and_fits_a_phone(browser, page):
    light, dark = browser(width=390), browser(width=390, dark=True)
    colour = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    for window in (light, dark):
        window.open(page)
        assert window.run("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
        assert window.run("return [...document.images].every(i => i.alt && (!i.complete || i.naturalWidth > 0))")
        assert window.complaints() == []
    assert min(light.run(colour)) > 200
    assert max(dark.run(colour)) < 60


@pytest.mark.slow(part=6)
def test_two_thousand_images_load_sort_and_scroll_at_once(browser, tmp_path):
    run = a_run(tmp_path / "large", 2000)
    out = report.write_report([run.path], tmp_path / "report.html")
    assert out.stat().st_size < 40e6
    window = browser()
    window.open(out.as_uri())
    assert window.run('return document.querySelectorAll(".card").length') == 2000
    sorting = """
        const select = document.querySelector("#run0 select"), start = performance.now();
        select.value = "0"; select.dispatchEvent(new Event("change"));
        document.body.getBoundingClientRect();
        return performance.now() - start;"""
    assert window.run(sorting) < 1500
    scrolling = """
        const step = document.body.scrollHeight / 40, spent = [];
        for (let k = 1; k <= 40; k++) {
          const start = performance.now();
          scrollTo({ top: step * k, behavior: "instant" });
          document.body.getBoundingClientRect();
          spent.push(performance.now() - start);
        }
        return spent.sort((a, b) => a - b)[20];"""
    assert window.run(scrolling) < 50  # the median screen
    assert window.complaints() == []


@pytest.mark.slow(part=8)
def test_a_phone_gets_cards_in_parts(browser, page):
    window = browser(width=390)
    window.open(page)
    assert len(window.run(CARDS)) == 24
    more = 'document.querySelector("#run0 .more")'
    assert window.run(f"return {more}.textContent") == "show 6 more of 6"
    window.run(f"{more}.click()")
    assert len(window.run(CARDS)) == 30
    assert window.run(f"return {more}.hidden")
    window.run('document.querySelector("#run0 input").value = "thing 2"')
    window.run('document.querySelector("#run0 input").dispatchEvent(new Event("input"))')
    assert len(window.run(CARDS)) == 11
    means = window.run('return [...document.querySelectorAll(".meanings dt")].map(x => x.textContent)')
    assert "PixCorr" in means


@pytest.mark.slow(part=8)
def test_the_explorer_shows_rounds_windows_and_two_runs_and_nothing_else(browser, small, tmp_path):
    other = a_run(tmp_path / "other", 30)
    server = explore.make_server([small.path, other.path], 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        window = browser()
        window.open(address)
        window.until('return document.querySelectorAll("#columns .one").length === 2')
        assert window.run('return document.querySelectorAll("#columns .one:first-child .round img").length') == 2
        window.press("Right", "Down")
        assert window.run(SELECTED) == "thing 2"
        assert "thing 2 ✓" in window.run('return document.querySelector(".hits .is-right").textContent')
        window.run('document.querySelector("#round").focus()')
        window.press("Right")
        assert "round 2" in window.run('return document.querySelector("#columns").textContent')
        window.run('document.querySelector("#window").focus()')
        window.press("Right")
        assert "100 to 200 ms" in window.run('return document.querySelector("#columns").textContent')
        window.run('document.querySelector("#find").focus()')
        window.press(*"thing 17")
        assert window.run('return document.querySelector("#name").textContent') == "thing 17"
        window.until("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert window.complaints() == []
        assert window.asked_for() <= {address, "data"}
        assert window.run('return document.querySelector("#drawer").open')
        phone = browser(width=390, dark=True)
        phone.open(address)
        phone.until('return document.querySelectorAll("#columns .one").length === 2')
        assert phone.run("return document.documentElement.scrollWidth") == 390
        assert not phone.run('return document.querySelector("#drawer").open')
        top = phone.run('return document.querySelector("#columns .shown img").getBoundingClientRect().top')
        assert top < 800 - 150  # the first picture is on the first screen
    finally:
        server.shutdown()
        server.server_close()
