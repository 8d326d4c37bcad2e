import json
import os
import re
import socket
from html.parser import HTMLParser

import psutil
import pytest

from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from pipeline.reporting import measured, provenance
from pipeline.reporting.figures import build_figure
from pipeline.reporting.report import build_report
from tests.scores import change

pytestmark = pytest.mark.usefixtures("chosen")


class Page(HTMLParser):
    """Collect what a test asks about: rows, pictures, addresses, classes and the text."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.pictures, self.links, self.ids, self.words, self.open = 0, [], [], [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.rows += tag == "tr"
        if tag == "img":
            self.pictures.append(attributes["src"])
        if tag == "a":
            self.links.append(attributes["href"])
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def pages(links=None):
    build_report(links)
    folder = paths.reports(experiments.chosen_dataset())
    return (folder / "README.md").read_text(), Page((folder / "index.html").read_text())


def attempt(workspace, run, **changes):
    """Write the status of an attempt at a run by this process."""
    record = {
        "state": "running",
        "stage": "train",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": 0,
        "process_started": psutil.Process().create_time(),
        "fingerprint": f"{run}_print",
    }
    workspace.write(paths.statuses("toy") / f"{run}.json", json.dumps(record | changes))


def trained(workspace, run, fingerprint, seconds):
    """Say which training a result is of and how long that took."""
    path = paths.results("toy", run)
    content = json.loads(path.read_text())
    content["per_seed"][0]["fingerprint"] = fingerprint
    path.write_text(json.dumps(content))
    progress = {"iteration": 9, "of": 9, "seconds": seconds}
    workspace.write(paths.scratch(fingerprint) / "progress.json", json.dumps(progress))


def test_page_shows_runs_tables_groups_and_figures(workspace):
    workspace.everything()
    drawn = ("category_ap", "base_novel_gap")
    for name in drawn:
        build_figure(name)
    markdown, html = pages()
    for text in (markdown, html.text):
        for expected in ("results on toy", "22.0", "box AP, novel", "not comparable", "3 of 4", "tables@table2"):
            assert expected in text
    for name in drawn:
        assert f"![The {name}](figures/{name}.png)" in markdown
    assert len(html.pictures) == 2 and all(p.startswith("data:image/png;base64,") for p in html.pictures)
    assert html.open == [] and len(set(html.ids)) == len(html.ids)
    assert {link.removeprefix("#") for link in html.links} <= set(html.ids)


def test_free_run_is_shown_beside_its_pinned_twin(workspace):
    workspace.everything()
    markdown, _ = pages()
    free = markdown.split("## The free run `current`")[1]
    assert "pinned twin `ours`" in free
    assert "`sigma` 0.3 → 0.2" in free and "`delta`" not in free
    assert re.search(r"\| current +\| 19\.0 ", free) and re.search(r"\| difference +\| −3\.0 ", free)


def test_only_what_is_chosen_is_shown_and_the_rest_named(workspace, chosen):
    workspace.everything()
    chosen(["table2"])
    markdown, html = pages()
    assert "### Table 2: Parts & pieces_of 100%" in markdown and "### Table 1" not in markdown
    assert "3 of 3" in html.text and "swapped" not in html.text
    for text in (markdown, html.text):
        assert "python -m commands.select table2 table1" in text


def test_empty_workspace_gives_a_page_of_commands(workspace):
    markdown, html = pages()
    for text in (markdown, html.text):
        assert "not run" in text
        assert "No run has been evaluated on toy." in text
        assert "dvc repro figures@qualitative" in text
    assert html.pictures == []
    assert build_report() == {}


def test_what_became_of_a_run_is_shown_with_its_error_and_the_command(workspace):
    workspace.everything()
    for run in ("plain", "ours"):
        paths.results("toy", run).unlink()
    attempt(workspace, "plain", state="failed", error="loss is nan | lower lr")
    attempt(workspace, "ours", pid=2**22 + 1)  # above the largest process number
    attempt(workspace, "swapped")
    markdown, html = pages()
    page = (paths.reports("toy") / "index.html").read_text()
    for text in (markdown, html.text):
        assert "loss is nan" in text and "dvc repro evaluate@plain" in text
        assert "interrupted" in text and "dvc repro evaluate@ours" in text
    assert re.search(r"1 of 4\s+done\s*, 1 failed\s*, 1 interrupted\s*, 1 running", html.text)
    assert '<strong class="bad">failed: loss is nan | lower lr</strong>' in page
    assert '<strong class="busy">running (train)</strong>' in page
    assert r"failed: loss is nan \| lower lr |" in markdown


def test_figures_of_another_dataset_are_not_shown(workspace):
    workspace.everything()
    build_figure("base_novel_gap")
    workspace.write(paths.PARAMS, "dataset: coco2017\nsigma: 0.3\n")
    markdown, html = pages()
    assert "Not drawn for coco2017: `dvc repro figures@base_novel_gap`" in markdown
    assert html.pictures == []


def test_malformed_result_is_reported_and_the_rest_is_built(workspace):
    workspace.result("ours")
    workspace.write(paths.results("toy", "plain"), "{")
    with pytest.raises(ExperimentError, match="results/toy/plain.json: not JSON"):
        build_report()
    markdown = (paths.reports("toy") / "README.md").read_text()
    assert "result unreadable" in markdown
    assert "Not built: results/toy/plain.json" in markdown
    assert re.search(r"\| ours +\| 10\.0 ", markdown)


def test_same_input_gives_the_same_page(workspace):
    workspace.everything()
    build_report()
    first = [(paths.reports("toy") / name).read_bytes() for name in ("README.md", "index.html")]
    build_report()
    assert first == [(paths.reports("toy") / name).read_bytes() for name in ("README.md", "index.html")]


def test_where_it_was_built_is_told_by_the_page_alone(workspace, monkeypatch):
    workspace.everything()
    before, _ = pages()
    trained(workspace, "plain", "f1", 90.0)
    for name, told in (
        ("commit", {"hash": "0123abc", "changed": ["params.yaml"]}),
        ("machine", {"CPU": "Abacus, 3 cores", "GPU": "2 × Slide rule", "System": "Wood"}),
        ("versions", {"Python": "9.9"}),
    ):
        monkeypatch.setattr(provenance, name, lambda told=told: told)
    after, html = pages({"plain": {"f1": "http://host/#/runs/1", "older": "http://host/#/runs/0"}})
    assert after == before
    for expected in ("0123abc", "params.yaml", "Abacus, 3 cores", "2 × Slide rule", "Python 9.9", "1 min 30 s"):
        assert expected in html.text
    assert [link for link in html.links if not link.startswith("#")] == ["http://host/#/runs/1"]


def test_a_training_that_runs_share_counts_once(workspace):
    workspace.everything()
    trained(workspace, "current", "f1", 1800.0)
    trained(workspace, "plain", "f1", 1800.0)
    _, html = pages()
    assert "0.50 hours (30 min 00 s) in 2 of 4 runs" in html.text


def test_undefined_mask_ap_is_told_with_its_reason(workspace):
    workspace.everything()
    path = paths.results("toy", "current")
    content = json.loads(path.read_text())
    for group in ("novel", "all"):
        change(content["per_seed"][0], None, kind="segm", group=group)
    content["per_seed"][0]["undefined"] = {"segm": {"person": "none of its 3 objects has a <mask>"}}
    path.write_text(json.dumps(content))
    markdown, html = pages()
    assert re.search(r"\| current +\| undefined +\| 40\.0 +\| undefined +\| 19\.0 ", markdown)
    for text in (markdown, html.text):
        assert "Undefined mask AP of current: person: none of its 3 objects has a <mask>." in text


def test_order_is_compared_on_another_dataset(workspace):
    workspace.everything()  # 10 and 22 where the paper has 23.9 and 35.1
    markdown, html = pages()
    for text in (markdown, html.text):
        assert "1 of 1 pairs of rows in the paper's order (chance alone gives 0.5)" in text and "rder only" in text
    workspace.result("ours", (9.0,))
    assert "0 of 1 pairs" in pages()[0]
    workspace.result("ours", (10.04,))  # a tie as printed is no order
    assert "0 of 1 pairs" in pages()[0]


def test_values_are_compared_on_the_dataset_of_the_paper(workspace):
    workspace.write(paths.PARAMS, "dataset: coco2017\nsigma: 0.3\n")
    workspace.result("plain", (24.14,), on="coco2017")  # published: 23.9
    workspace.result("ours", (34.8,), on="coco2017")  # published: 35.1, in both tables
    markdown, html = pages()
    for text in (markdown, html.text):
        assert "chance" not in text
        assert "1 of 3 rows within ±0.2" in text and "Not compared for want of a result: 1." in text
        assert "not comparable" not in text and "rder only" not in text
    assert re.search(r"\| Table 2 +\| yes +\| 24\.1 +\| 23\.9 +\| \+0\.2 ", markdown)
    assert re.search(r"\| Table 2 +\| no +\| 34\.8 +\| 35\.1 +\| −0\.3 ", markdown)


def test_scores_are_the_means_of_the_chosen_runs(workspace):
    workspace.everything()
    expected = {"plain": 10.0, "ours": 22.0, "current": 19.0}
    assert build_report() == {run: {"novel/mask/AP": value} for run, value in expected.items()}


def test_labels_are_escaped_in_html(workspace):
    workspace.everything()
    build_report()
    text = (paths.reports("toy") / "index.html").read_text()
    assert "Unpublished &lt;b&gt;" in text and "Unpublished <b>" not in text


@pytest.mark.parametrize(
    "seconds, text", [(0.4, "0 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (90061, "25 h 01 min")]
)
def test_duration(seconds, text):
    assert provenance.duration(seconds) == text


def test_a_result_of_another_recipe_is_marked(workspace, monkeypatch):
    """Code or settings changed since, and only the report was built again."""
    workspace.everything()
    monkeypatch.setattr(measured.recipe, "identity", lambda content: "today")
    monkeypatch.setattr(measured.config, "resolve", lambda *run: None)
    monkeypatch.setattr(measured.recipe, "of_training", lambda training: {})
    workspace.result(recipe="today")
    assert "other code or settings" not in pages()[0]
    workspace.result(recipe="before")
    assert pages()[0].count("done (seed 0; with other code or settings than today's)") == 1
