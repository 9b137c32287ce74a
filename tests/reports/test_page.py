"""The pages: one file, nothing from elsewhere; corpus text stays text; and in a real browser, where there is one."""

import dataclasses
import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cdgen import open_corpus
from cdgen.builders.trace import Step
from cdgen.reports.explained import explained_page, explained_text, shade
from cdgen.reports.page import text
from cdgen.reports.statistics import Position, Statistics, statistics
from cdgen.reports.statistics_page import statistics_page

pytest.importorskip("matplotlib", reason="plots need matplotlib: pip install 'cdgen[report]'")

GOLDEN = Path(__file__).resolve().parents[2] / "shards/golden/format-1"
HOSTILE = (
    '</p></article></style><script>document.title="stolen"</script>'
    "<img src=x onerror=alert(1)> & \"quotes' \x00\u202e"
)
BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium here: the page is not looked at in a browser"
)
VOID = {"meta", "img", "br"}


class Elements(HTMLParser):
    """Every element with its attributes; fails where they are not nested."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def steps() -> list[Step]:
    tokens = (
        ("the", -1.0, -3.0),
        (" fox", -1.0, -1.5),
        (" ran", -2.0, -2.1),
        ("<b>", -3.0, -1.0),
        (HOSTILE, -1.5, -1.0),
    )
    return [
        Step(token=t, logp_expert=g, logp_amateur=b, head_size=3, plain="x") for t, g, b in tokens
    ]


@pytest.fixture(scope="module")
def report() -> Statistics:
    """Of the golden corpus, with hostile text wherever text comes from a corpus, and a replay."""
    found = statistics(open_corpus(GOLDEN), num_samples=1)
    shown = [
        dataclasses.replace(
            one,
            key=HOSTILE,
            text=HOSTILE,
            prefix=HOSTILE,
            meta=dataclasses.replace(one.meta, origin=HOSTILE),
        )
        for one in found.samples
    ]
    assert found.mix is not None
    parts = (dataclasses.replace(found.mix.parts[0], source="<script>"), *found.mix.parts[1:])
    positions = tuple(
        Position(position=t, num_rows=3, logp_expert=-2.0, logp_amateur=-3.0 - t / 9, head_size=4.0)
        for t in range(20)
    )
    return dataclasses.replace(
        found, name=HOSTILE, samples=tuple(shown), mix=dataclasses.replace(found.mix, parts=parts), positions=positions,
        texts=tuple(dataclasses.replace(one, name=HOSTILE) for one in found.texts),
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(report: Statistics) -> str:
    return statistics_page(report)


@pytest.mark.parametrize("which", ["report", "explained"])
def test_a_page_has_no_script_and_nothing_from_elsewhere(page: str, which: str) -> None:
    """No element that runs or loads, no handler, no address, and a policy that forbids them all."""
    found = Elements(page if which == "report" else explained_page(HOSTILE, steps())).found
    tags = {tag for tag, _ in found}
    attributes = [(name, value or "") for _, attrs in found for name, value in attrs.items()]
    policies = [attrs for tag, attrs in found if tag == "meta" and "http-equiv" in attrs]

    assert not tags & {"script", "img", "link", "iframe", "object", "base", "form", "a", "image"}
    assert not [name for name, _ in attributes if name.startswith("on") or name == "src"]
    assert not [v for n, v in attributes if "//" in v and not n.startswith("xmlns")]
    assert all(value.startswith("#") for name, value in attributes if name.endswith("href"))
    assert policies[0]["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert {attrs.get("name") for tag, attrs in found if tag == "meta"} >= {"viewport"}


def test_corpus_text_is_text(page: str) -> None:
    """It is all there, escaped, without what HTML forbids and what turns a line around."""
    shown = escape(HOSTILE.replace("\x00", "\ufffd").replace("\u202e", "\ufffd"), quote=True)

    assert text(HOSTILE) == shown
    assert shown in page and "<script" not in page and "stolen&quot;" in page


def test_plots_follow_the_page_and_have_ids_of_their_own(page: str) -> None:
    """No colour of their own, no date, one use of each id, and every reference has its target."""
    svgs = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    ids = re.findall(r'\bid="([^"]*)"', page)
    used = re.findall(r'(?:href="#|url\(#)([^")]*)', page)

    assert len(svgs) >= 6
    assert not re.search(r"#[0-9a-fA-F]{6}", "".join(svgs))
    assert all("currentColor" in svg and "var(--line)" in svg for svg in svgs)
    assert len(ids) == len(set(ids)) and set(used) <= set(ids)
    assert "<metadata" not in page and not re.search(r"\b20[0-9]{2}-[0-9]{2}-[0-9]{2}T", page)


def test_the_bytes_are_the_same_for_the_same_corpus(page: str, report: Statistics) -> None:
    """Whatever matplotlib is told elsewhere."""
    import matplotlib as mpl

    with mpl.rc_context({"axes.facecolor": "red", "font.size": 20}):
        assert statistics_page(report) == page


def test_tokens_are_coloured_by_their_contrast() -> None:
    """On the page and on a terminal; without an amateur there is no colour."""
    shades = [shade(step) for step in steps()]
    alone = dataclasses.replace(steps()[0], logp_amateur=None)
    colored = explained_text(steps(), width=80)

    assert shades == ["for-2", "for-1", "", "against-2", "against-1"]
    assert shade(alone) == ""
    assert "\x1b[1;32mthe" in colored and "\x1b[1;31m<b>" in colored and "\x00" not in colored
    for name in shades:
        assert f'<span class="{name}" title=' in explained_page("k", steps())


# ---- in a browser ----

_MEASURE = """<!doctype html><title>before</title><pre id="said"></pre>
<iframe id="frame" style="width:{width}px;height:800px;border:0" srcdoc="{page}"></iframe>
<script>
onload = () => {{
  const page = document.getElementById("frame").contentDocument, root = page.documentElement;
  const wide = [...page.querySelectorAll("svg")].filter(s => s.getBoundingClientRect().width < 100);
  document.getElementById("said").textContent = [root.scrollWidth, root.clientWidth, wide.length,
    page.querySelectorAll("svg").length, page.querySelectorAll("script").length, document.title].join(" ");
}};
</script>"""


def browse(file: Path, profile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Open a page in headless chromium, cut off from any network; returns what it prints."""
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}",
        "--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:1",
        *arguments, file.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


@needs_browser
@pytest.mark.parametrize("which", ["report", "explained"])
def test_a_browser_shows_it_on_a_phone_without_a_word_of_complaint(
    page: str, which: str, tmp_path: Path
) -> None:
    """At 390 pixels nothing scrolls sideways, plots have a size, nothing ran, the console is silent."""
    content = page if which == "report" else explained_page(HOSTILE, steps())
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(
        _MEASURE.format(width=390, page=escape(content, quote=True)), encoding="utf-8"
    )

    done = browse(wrapper, tmp_path / "profile", "--dump-dom", "--virtual-time-budget=5000")
    said = re.search(r'<pre id="said">([^<]+)</pre>', done.stdout)

    assert said, done.stdout[:500]
    scroll, client, small, plots, scripts, title = said[1].split()
    assert int(scroll) <= int(client) <= 390  # a scroll bar at the side may take some
    assert (small, scripts, title) == ("0", "0", "before")
    assert int(plots) >= 6 if which == "report" else plots == "0"
    assert "CONSOLE" not in done.stderr, [
        line for line in done.stderr.splitlines() if "CONSOLE" in line
    ]


@needs_browser
def test_it_is_light_or_dark_as_the_reader_has_it(page: str, tmp_path: Path) -> None:
    """A picture of each: the corner of the page is white, or nearly black."""
    from matplotlib import image

    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    corners = {}
    for name, value in (("dark", 0), ("light", 1)):
        picture = tmp_path / f"{name}.png"
        browse(
            file, tmp_path / name, f"--screenshot={picture}", "--window-size=800,600", "--hide-scrollbars",
            f"--blink-settings=preferredColorScheme={value}",
        )  # fmt: skip
        corners[name] = float(image.imread(picture)[2, 2, :3].mean())

    assert corners["light"] == 1.0 and corners["dark"] < 0.2
