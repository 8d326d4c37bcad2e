import re
from html.parser import HTMLParser

import pytest

from pipeline import paths
from pipeline.errors import ExperimentError
from pipeline.reporting.figures import build_figure
from pipeline.reporting.report import build_report


class Page(HTMLParser):
    """Collect what a test asks about: rows, pictures, addresses that need a network, and the text."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.pictures, self.addresses, self.words, self.open = 0, [], [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.rows += tag == "tr"
        if tag == "img":
            self.pictures.append(attributes["src"])
        self.addresses += [value for name, value in attributes.items() if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def pages():
    build_report()
    folder = paths.ROOT / "reports"
    return (folder / "README.md").read_text(), Page((folder / "index.html").read_text())


def test_page_shows_runs_tables_groups_and_figures(workspace):
    workspace.everything()
    drawn = ("category_ap", "base_novel_gap")
    for name in drawn:
        build_figure(name)
    markdown, html = pages()
    for text in (markdown, html.text):
        for expected in ("results on toy", "evaluate@plain", "22.0", "box AP, novel", "not comparable"):
            assert expected in text
    for name in drawn:
        assert f"![The {name}](figures/{name}.png)" in markdown
    assert len(html.pictures) == 2 and all(p.startswith("data:image/png;base64,") for p in html.addresses)
    assert html.open == []
    # Four headed tables and a free one: 3 runs, 2 and 4 table rows, 2 runs and their difference, 3 groups.
    assert html.rows == 5 + 3 + 2 + 4 + 3 + 3


def test_free_run_is_shown_beside_its_pinned_twin_and_not_in_the_table(workspace):
    workspace.everything()
    markdown, _ = pages()
    table, free = markdown.split("## The free run `current`")
    assert "pinned twin `ours`" in free
    assert "`sigma` 0.3 → 0.2" in free and "`delta`" not in free
    assert re.search(r"\| current +\| 19\.0 ", free) and re.search(r"\| difference +\| −3\.0 ", free)
    assert "current" not in table.split("## Tables")[1]


def test_empty_workspace_gives_a_page_of_commands(workspace):
    markdown, html = pages()
    for text in (markdown, html.text):
        assert "not run" in text
        assert "No run has been evaluated on toy." in text
        assert "dvc repro figures@qualitative" in text
    assert html.pictures == []


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
    markdown = (paths.ROOT / "reports" / "README.md").read_text()
    assert "result unreadable" in markdown
    assert "Not built: results/toy/plain.json" in markdown
    assert re.search(r"\| ours +\| 10\.0 ", markdown)


def test_same_input_gives_the_same_page(workspace):
    workspace.everything()
    build_report()
    first = [(paths.ROOT / "reports" / name).read_bytes() for name in ("README.md", "index.html")]
    build_report()
    assert first == [(paths.ROOT / "reports" / name).read_bytes() for name in ("README.md", "index.html")]


def test_labels_are_escaped_in_html(workspace):
    workspace.everything()
    build_report()
    text = (paths.ROOT / "reports" / "index.html").read_text()
    assert "Unpublished &lt;b&gt;" in text and "Unpublished <b>" not in text
