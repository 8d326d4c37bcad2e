"""A page in a browser, its keys pressed."""

import html
import json
import re
import subprocess

from tests.reporting.test_page import CHROMIUM

# A window of Chromium is at least 500 pixels wide, a frame as narrow as it is told.
FRAME = """<!DOCTYPE html><iframe style="border: 0; width: {width}px; height: 844px" src="{page}"></iframe><script>
addEventListener("load", async () => {{
  const note = document.createElement("pre");
  note.id = "look";
  note.textContent = JSON.stringify(await frames[0].look());
  document.body.replaceChildren(note);
}});
</script>"""
# Where one is: what the page of predictions says, the number of the card of the page of doubtful masks.
LOOK = """<script>
const blocked = [];
addEventListener("securitypolicyviolation", event => blocked.push(event.blockedURI));
function place() {
  const cards = [...document.querySelectorAll("#cards li")];
  return cards.length ? cards.indexOf(document.activeElement) + 1 : document.getElementById("place").textContent;
}
async function look() {
  const places = [place()];
  for (const key of ["j", "ArrowRight", "k", "End"]) {
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
    places.push(place());
  }
  const picture = document.getElementById("picture") ?? document.querySelector("#cards img");
  await picture.decode();
  return {places, blocked, loaded: picture.naturalWidth > 0, document: document.documentElement.scrollWidth};
}
</script></head>"""


def look(page, width):
    """What `look()` tells of a copy of a page in a frame of this width."""
    copy, frame = page.with_name("copy.html"), page.with_name("frame.html")
    copy.write_text(page.read_text().replace("</head>", LOOK))
    frame.write_text(FRAME.format(width=width, page=copy.name))
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={page.parent / '.profile'}",
        f"--window-size={max(width, 500)},900",
        "--allow-file-access-from-files",  # of the frame
        "--virtual-time-budget=20000",
        "--dump-dom",
        frame.as_uri(),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    finally:
        copy.unlink()
        frame.unlink()
    found = re.search(r'<pre id="look">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, f"{CHROMIUM} exited with {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(html.unescape(found[1]))
