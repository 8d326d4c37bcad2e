"""index.html as a browser shows it: every row and picture visible, nothing fetched, no wider than a phone.

Without Chromium on PATH the same rows and pictures are looked for in the parsed page.
"""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from pipeline import experiments, paths
from pipeline.reporting import tables
from pipeline.reporting.figures import build_figure
from pipeline.reporting.report import build_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE, DESKTOP = 390, 1280

# A window of Chromium is at least 500 pixels wide, a frame as narrow as it is told.
FRAME = """<!DOCTYPE html><iframe style="border: 0; width: {width}px; height: 900px" srcdoc="{page}"></iframe><script>
addEventListener("load", () => {{
  const note = document.createElement("pre");
  note.id = "look";
  note.textContent = JSON.stringify(frames[0].look());
  document.body.replaceChildren(note);
}});
</script>"""

# Tells what is visible in the page, tables and pictures by the part they stand in.
LOOK = """<script>
const blocked = [];
addEventListener("securitypolicyviolation", event => blocked.push(event.blockedURI));
function look() {
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
  };
}
</script>"""


def look_in_browser(page, width, folder):
    """Open a copy of the page in a frame of this width; returns what LOOK tells."""
    policy = "default-src 'none'"
    text = page.read_text()
    assert policy in text
    text = text.replace(policy, f"{policy}; script-src 'unsafe-inline'").replace("</head>", f"{LOOK}</head>")
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width=width, page=html.escape(text)))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
               f"--window-size={max(width, 500)},900", "--dump-dom", frame.as_uri()]  # fmt: skip
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


@pytest.fixture
def page(workspace, chosen):
    workspace.everything()
    for name in experiments.load().figures:
        build_figure(name)
    build_report({"plain": {"f": "http://127.0.0.1:9/#/experiments/1/runs/2"}})
    return paths.reports("toy") / "index.html"


def expected_rows():
    """{part of the page: first cells of its rows}"""
    declared = experiments.load()
    rows = {
        name: list(tables.display_frame(tables.table_frame(name, declared, "toy"), str).iloc[:, 0])
        for name in declared.tables
    }
    return rows | {
        "runs": list(declared.runs),
        "free-current": ["current", "ours", "difference"],
        "groups": ["plain", "ours", "current"],
        "agreement": ["Table 2"],
    }


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
    assert [picture["part"] for picture in pictures] == list(experiments.load().figures)
    assert all(picture["source"].startswith("data:image/png;base64,") for picture in parsed.pictures)


def test_nothing_in_the_page_has_an_address_of_its_own(page):
    """What a browser loads without being asked: links to follow are no part of it."""
    text = page.read_text()
    assert not re.search(r"<(link|script|iframe|object|embed|video|audio|source)\b|@import|url\(|srcset", text)
    assert all(source.startswith("data:") for source in re.findall(r'src="(.{0,5})', text))
