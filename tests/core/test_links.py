"""Every relative link in tracked Markdown leads to a tracked file, and to a heading that exists."""

import subprocess

import pytest

from pipeline.artifacts import paths
from tests.links import anchors, broken, relative_links


def tracked():
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=paths.ROOT, capture_output=True, text=True)
    return [paths.ROOT / name for name in listing.stdout.split("\0") if name]


FILES = tracked()
PAGES = [path for path in FILES if path.suffix == ".md"]


@pytest.mark.skipif(not FILES, reason="no git repository: what is tracked is not known")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(paths.ROOT)))
def test_links_lead_to_tracked_files(page):
    known = {path.resolve() for path in FILES} | {folder.resolve() for path in FILES for folder in path.parents}
    assert broken(page, known.__contains__) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    page = tmp_path / "page.md"
    (tmp_path / "there.md").write_text("# A `b`: c, d\n\n# Twice\n\n# Twice\n")
    good = ["there.md", "there.md#a-b-c-d", "there.md#twice-1", "#here", "https://example.org/x.md", "mailto:a@b"]
    bad = ["gone.md", "there.md#nowhere", "#gone", "gone.png", "inner.png", "name.md", "html.md"]
    page.write_text(
        "# Here\n\n"
        + " ".join(f"[text]({link})" for link in good + bad[:3])
        + f"\n![picture]({bad[3]}) [![picture]({bad[4]})](there.md)\n\n[name]: {bad[5]}\n\n<a href='{bad[6]}'>x</a>\n"
        "\n`[code](code.md)`\n\n```\n[code](block.md)\n```\n"
    )
    assert sorted(broken(page, lambda path: path.exists())) == sorted(bad)


def test_anchors_and_links_as_github_reads_them():
    assert anchors("## Must show\n\n```\n# no heading\n```\n<a id='set'></a>") == {"must-show", "set"}
    assert relative_links("[a](b.md 'title') and [c](<d.md>)") == ["b.md", "d.md"]
