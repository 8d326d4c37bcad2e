"""index.html as a browser shows it: every row and picture visible, nothing fetched, no wider than a phone.

Without Chromium on PATH the same rows and pictures are looked for in the parsed page.
"""

import html
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from pipeline import methods
from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.reporting import style, tables
from pipeline.reporting.figures import build_figure
from pipeline.reporting.report import build_report
from tests.scores import change

from .test_report import attempt

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE, DESKTOP = 390, 1280

# A window of Chromium is at least 500 pixels wide, a frame as narrow as it is told.
FRAME = """<!DOCTYPE html><iframe style="border: 0; width: {width}px; height: 900px" src="copy.html"></iframe><script>
addEventListener("load", async () => {{
  const note = document.createElement("pre");
  note.id = "look";
  note.textContent = JSON.stringify(await frames[0].look());
  document.body.replaceChildren(note);
}});
</script>"""

# Tells what is visible in the page, tables and pictures by the part they stand in.
LOOK = """<script>
const blocked = [];
addEventListener("securitypolicyviolation", event => blocked.push(event.blockedURI));
function look() {
  const first = [document.querySelector("#headline table"), document.images[0]]
    .map(element => element.getBoundingClientRect().bottom);
  document.querySelectorAll("details").forEach(element => element.open = true);
  const seen = (element, text) => {
    const {width, height} = element.getBoundingClientRect();
    const part = element.closest("section[id], figure[id]").id;
    return {part, text: text.replace(/\\s+/g, " ").trim(), width, height};
  };
  return {
    rows: [...document.querySelectorAll("tbody tr")].map(row => seen(row, row.cells[0].textContent)),
    pictures: [...document.images].map(image => ({...seen(image, image.alt), loaded: image.naturalWidth > 0})),
    fetched: performance.getEntriesByType("resource").map(entry => entry.name).concat(blocked),
    document: document.documentElement.scrollWidth,
    window: innerWidth,
    first,
  };
}
</script>"""


def look_in_browser(page, width, folder, look=LOOK):
    """Open a copy of the page in a frame of this width; returns what LOOK tells."""
    policy = "default-src 'none'"
    text = page.read_text()
    assert policy in text
    text = text.replace(policy, f"{policy}; script-src 'unsafe-inline'").replace("</head>", f"{look}</head>")
    frame = folder / "frame.html"
    (folder / "copy.html").write_text(text)
    frame.write_text(FRAME.format(width=width))
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={max(width, 500)},900",
        "--allow-file-access-from-files",  # of the frame
        "--virtual-time-budget=20000",
        "--dump-dom",
        frame.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="look">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, f"{CHROMIUM} exited with {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(html.unescape(found[1]))


class Parser(HTMLParser):
    """The rows and pictures of LOOK without their sizes."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.pictures, self.parts, self.in_body, self.cells = [], [], [], False, 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag in ("section", "figure"):
            self.parts.append(attributes.get("id"))
        elif tag == "tbody":
            self.in_body = True
        elif tag == "tr" and self.in_body:
            self.rows.append({"part": self.parts[-1], "text": ""})
            self.cells = 0
        elif tag == "td":
            self.cells += 1
        elif tag == "img":
            self.pictures.append({"part": self.parts[-1], "text": attributes["alt"], "source": attributes["src"]})

    def handle_endtag(self, tag):
        if tag in ("section", "figure"):
            self.parts.pop()
        elif tag == "tbody":
            self.in_body = False

    def handle_data(self, data):
        if self.in_body and self.cells == 1:
            self.rows[-1]["text"] = " ".join((self.rows[-1]["text"] + data).split())


BUILT = {}  # the page's text: drawing its figures takes seconds


@pytest.fixture
def page(workspace, chosen, monkeypatch):
    """Made once; each test has a workspace of its own."""
    path = paths.reports("toy") / "index.html"
    workspace.everything()
    experiments.load().figures["qualitative"]["images"] = 1
    if not BUILT:
        monkeypatch.setattr(style, "EXTENSIONS", ("png",))
        for name in experiments.load().figures:
            build_figure(name)
        build_report({"plain": {"f": "http://127.0.0.1:9/#/experiments/1/runs/2"}})
        BUILT["text"] = path.read_text()
    workspace.write(path, BUILT["text"])
    return path


def expected_rows():
    """{part of the page: first cells of its rows}"""
    declared = experiments.load()
    rows = {
        name: list(tables.display_frame(tables.table_frame(name, declared, "toy"), str).iloc[:, 0])
        for name in declared.tables
    }
    headline = {"headline": ["Baseline", "Ours"]}
    return (
        rows
        | headline
        | {
            "runs": list(declared.runs),
            "free-current": ["current", "ours", "difference"],
            "groups": ["plain", "ours", "current"],
            "agreement": ["Table 2"],
        }
    )


def by_part(rows):
    parts = {}
    for row in rows:
        parts.setdefault(row["part"], []).append(row["text"])
    return parts


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_every_row_and_picture_is_visible(page, width, tmp_path):
    parsed = Parser(page.read_text())
    rows, pictures = parsed.rows, parsed.pictures
    if CHROMIUM:
        seen = look_in_browser(page, width, tmp_path)
        rows, pictures = seen["rows"], seen["pictures"]
        assert all(row["width"] > 100 and row["height"] > 10 for row in rows)
        assert all(picture["loaded"] for picture in pictures)
        assert all(50 < picture["width"] <= width and picture["height"] > 20 for picture in pictures)
        assert seen["fetched"] == []
        assert seen["window"] == width and seen["document"] <= width
    assert by_part(rows) == expected_rows()
    assert [picture["part"] for picture in pictures] == ["qualitative", "loss_curves", "category_ap", "base_novel_gap"]
    assert all(picture["source"].startswith("data:image/png;base64,") for picture in parsed.pictures)


@pytest.mark.parametrize("width, height", [(PHONE, 844), (DESKTOP, 900)])
def test_numbers_and_a_strip_of_predictions_are_on_the_first_screen(page, width, height, tmp_path):
    sections = re.findall(r'<section id="(\w+)">', page.read_text())
    assert sections[0] == "headline" and sections[-1] == "provenance"
    if CHROMIUM:
        table, strip = look_in_browser(page, width, tmp_path)["first"]
        assert table < strip <= height


# Follow the link on each picture, then the one that closes it.
ZOOM = """<script>
async function look() {
  const follow = link => new Promise(done => { addEventListener("hashchange", done, {once: true}); link.click(); });
  const seen = [];
  for (const zoom of document.querySelectorAll(".zoom")) {
    const image = zoom.querySelector("img");
    const small = image.getBoundingClientRect().width;
    await follow(zoom.querySelector(".open"));
    const large = image.getBoundingClientRect().width;
    const inside = zoom.getBoundingClientRect().width <= innerWidth;
    const page = document.documentElement.scrollWidth;
    await follow(zoom.querySelector(".close"));
    const after = image.getBoundingClientRect().width;
    seen.push({small, large, after, natural: image.naturalWidth, inside, page});
  }
  return {seen, window: innerWidth};
}
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")
def test_a_tap_opens_a_picture_at_full_size_and_the_page_stays_as_wide_as_a_phone(page, tmp_path):
    look = look_in_browser(page, PHONE, tmp_path, ZOOM)
    assert len(look["seen"]) == len(experiments.load().figures)
    for picture in look["seen"]:
        assert picture["small"] < PHONE and picture["after"] == picture["small"]
        assert picture["large"] == picture["natural"] > PHONE
        assert picture["inside"] and picture["page"] <= look["window"] == PHONE


ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Tags(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.seen = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))


def test_nothing_that_is_declared_or_reported_is_markup(workspace, chosen, monkeypatch):
    """Labels, titles, knobs, errors, undefined reasons and addresses: all are text."""
    monkeypatch.setattr(style, "EXTENSIONS", ("png",))
    workspace.everything()
    declared = experiments.load()
    for row in declared.backbones.values():
        row["label"] += ATTACK
    plain = methods.method("mask_rcnn")
    monkeypatch.setattr(sys.modules["pipeline.methods.mask_rcnn"], "METHOD", replace(plain, label=plain.label + ATTACK))
    declared.backbones["other"] = {"label": "other" + ATTACK}
    object.__setattr__(declared.runs["plain"], "backbone", "other")  # two backbones: the tables show the column
    object.__setattr__(declared.runs["ours"], "schedule", "1x" + ATTACK)
    object.__setattr__(declared.runs["ours"], "overrides", {"sigma": ATTACK})
    for table in declared.tables.values():
        table["title"] += ATTACK
        for row in table["rows"]:
            row["label"] += ATTACK
    for figure in declared.figures.values():
        figure["title"] += ATTACK
        figure["note"] = ATTACK
        figure["runs"] = [row | {"label": ATTACK} for row in figure["runs"]]
    content = json.loads(paths.results("toy", "ours").read_text())
    content["per_seed"][0]["undefined"] = {"segm": {ATTACK: ATTACK}}
    change(content["per_seed"][0], None, kind="segm", group="novel", metric="mAP")
    workspace.write(paths.results("toy", "ours"), json.dumps(content))
    workspace.write(paths.PARAMS, f"dataset: toy\nsigma: {json.dumps(ATTACK)}\n")
    paths.results("toy", "current").unlink()
    attempt(workspace, "current", state="failed", error=ATTACK)
    chosen(list(declared.tables))
    for name in declared.figures:
        build_figure(name)
    build_report({"plain": {"f": "javascript:alert(3)"}, "ours": {"f": f"http://127.0.0.1/{ATTACK}"}})
    text = (paths.reports("toy") / "index.html").read_text()
    tags = Tags(text).seen
    assert not {"script", "iframe", "object", "b"} & {tag for tag, _ in tags}
    assert not [attributes for _, attributes in tags if any(name.startswith("on") for name in attributes)]
    assert all(attributes["src"].startswith("data:image/png") for tag, attributes in tags if tag == "img")
    links = [attributes.get("href", "#") for tag, attributes in tags if tag == "a"]
    assert all(link.startswith(("#", "http://127.0.0.1/")) for link in links)
    shown = html.unescape(re.sub(r"<[^>]*>", "", text))
    assert shown.count("alert(1)") > 30  # all of it is there, to be read


def test_an_undefined_ap_is_called_so_with_its_reason(workspace, chosen):
    workspace.everything()
    content = json.loads(paths.results("toy", "ours").read_text())
    for seed in content["per_seed"]:
        change(seed, None, kind="segm", group="novel", metric="mAP")
        seed["undefined"] = {"segm": {"person": "no validation object has a mask"}}
    workspace.write(paths.results("toy", "ours"), json.dumps(content))
    build_report()
    text = (paths.reports("toy") / "index.html").read_text()
    first = text[text.index('<section id="headline">') : text.index('<section id="summary">')]
    assert '<td class="ap">undefined</td>' in first
    assert "mask AP of person: no validation object has a mask" in first


def test_data_that_are_not_of_the_paper_are_labelled_at_the_top_and_published_values_as_published(page):
    text = page.read_text()
    top = text[text.index("<header>") : text.index("</header>")]
    assert "Generated images, drawn by a program, not COCO" in top
    assert "published (COCO val2017)" in text
    assert text.count("contrastive learning") == 1 and text.count("class activation map") == 1


def test_nothing_in_the_page_has_an_address_of_its_own(page):
    """What a browser loads without being asked: links to follow are no part of it."""
    text = page.read_text()
    assert not re.search(r"<(link|script|iframe|object|embed|video|audio|source)\b|@import|url\(|srcset", text)
    assert all(source.startswith("data:") for source in re.findall(r'src="(.{0,5})', text))
