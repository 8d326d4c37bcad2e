"""The snapshot is a copy of a finished report, and taking one changes nothing unless all of it can be taken."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from pipeline.reporting import provenance, snapshot, study, study_page
from pipeline.reporting.table_files import build_table

from .studies import grid, rows, write

REPOSITORY = Path(__file__).resolve().parents[2]
README = "# Title\n\n<!-- snapshot: written by `make snapshot` -->\nold\n<!-- end of snapshot -->\n\nend\n"


@pytest.fixture
def finished(workspace, chosen, monkeypatch):
    """A workspace whose report can be taken; `toy` stands for the embedded default."""
    monkeypatch.setattr(snapshot, "DATASET", "toy")
    monkeypatch.setattr(paths, "SNAPSHOT", workspace.root / "reports" / "snapshot")
    monkeypatch.setattr(provenance, "commit", lambda: {"hash": "0123456789abcdef", "changed": []})
    monkeypatch.setattr(provenance, "processor", lambda: "Abacus 9")
    workspace.everything()
    workspace.result("swapped")
    for name in experiments.load().tables:
        build_table(name)
    for name in experiments.load().figures:
        text = PngInfo()
        text.add_text("Source", "toy")
        text.add_text("Description", f"The {name}.")
        for extension in ("png", "pdf"):
            workspace.write(paths.figure("toy", name, extension), "")
        Image.new("RGB", (2, 2)).save(paths.figure("toy", name, "png"), pnginfo=text)
    workspace.write(paths.ROOT / "README.md", README)
    workspace.write(paths.SNAPSHOT / "tables" / "gone.md", "of an earlier snapshot")
    return workspace


def contents():
    """{path: bytes} of all that a snapshot may change."""
    files = [paths.ROOT / "README.md", *(path for path in paths.SNAPSHOT.rglob("*") if path.is_file())]
    return {str(path.relative_to(paths.ROOT)): path.read_bytes() for path in files}


def test_it_holds_tables_pictures_and_page_and_says_what_they_are_of(finished):
    snapshot.take()
    found = {name.removeprefix("reports/snapshot/") for name in contents()}
    figures = {f"figures/{name}.png" for name in experiments.load().figures}
    tables = {f"tables/{name}.{extension}" for name in ("table1", "table2") for extension in ("csv", "md", "tex")}
    assert found == {"README.md"} | figures | tables
    page = (paths.SNAPSHOT / "README.md").read_text()
    assert "revision 0123456789abcdef" in page and "Abacus 9" in page
    assert ".pdf" not in page and ".svg" not in page and "index.html" not in page
    assert sorted(path.name for path in paths.SNAPSHOT.parent.iterdir()) == ["snapshot", "toy"]


def test_the_table_of_the_readme_is_that_of_the_snapshot(finished):
    snapshot.take()
    readme = (paths.ROOT / "README.md").read_text()
    rows = [line for line in (paths.SNAPSHOT / "tables" / "table2.md").read_text().splitlines() if line.startswith("|")]
    assert "\n".join(rows) in readme and "Abacus 9" in readme and "old" not in readme
    assert readme.startswith("# Title\n") and readme.endswith("\nend\n")
    snapshot.take()
    assert (paths.ROOT / "README.md").read_text() == readme


def take_away(name):
    paths.figure("toy", name, "png").unlink()


def stand_in(commit):
    return lambda monkeypatch: monkeypatch.setattr(provenance, "commit", lambda: commit)


REFUSALS = {
    "not run": (lambda _: paths.results("toy", "plain").unlink(), r"not run: plain.*make reproduce TABLES=all"),
    "figure": (lambda _: take_away("loss_curves"), "not drawn: loss_curves"),
    "figures": (
        lambda _: [take_away(name) for name in ("loss_curves", "category_ap")],
        r"not drawn: (loss_curves, category_ap|category_ap, loss_curves)\)",
    ),
    "table": (lambda _: paths.table("toy", "table2", "tex").unlink(), "not built: table2"),
    "malformed": (lambda _: paths.results("toy", "plain").write_text("{"), "results/toy/plain.json: not JSON"),
    "chosen": (lambda _: experiments.select(["table1"]), "table2 is not chosen"),
    "dataset": (lambda _: paths.PARAMS.write_text("dataset: coco2017\n"), "dataset: coco2017; the snapshot"),
    "changed": (stand_in({"hash": "1", "changed": ["params.yaml"]}), "params.yaml: not as committed"),
    "no git": (stand_in({"hash": "unknown", "changed": []}), "no git repository"),
    "readme": (lambda _: (paths.ROOT / "README.md").write_text("# Title\n"), "git checkout README.md"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_is_not_finished_is_refused_and_nothing_changes(finished, monkeypatch, refusal):
    change, message = REFUSALS[refusal]
    change(monkeypatch)
    before = contents()
    with pytest.raises(ExperimentError, match=message):
        snapshot.take()
    assert contents() == before


def test_with_a_study_the_readme_shows_its_rows_and_what_one_training_a_row_gave(finished, toys, monkeypatch):
    write(rows({"plain": grid(1.0, 2.0, 3.0)}))
    monkeypatch.setattr(study_page, "first_screen", lambda found, *_: f"| of the study | {found.described}")
    snapshot.take()
    block = snapshot.BLOCK.search((paths.ROOT / "README.md").read_text())[0]
    assert "\n| of the study | 3 data sets, seed 0, code at 0123456789ab\n" in block
    assert "made of revision 0123456789ab on the processor Abacus 9, mAP: Baseline 10.0, Ours 22.0." in block


def test_the_readme_begins_with_the_picture_of_the_same_objects_and_its_rule(finished):
    name, title = snapshot.README_FIGURE, 'The "same" objects'
    experiments.load().figures[name] = experiments.load().figures["qualitative"] | {"title": title}
    experiments.select(list(experiments.load().tables))
    for extension in ("png", "pdf"):
        shutil.copy(paths.figure("toy", "qualitative", extension), paths.figure("toy", name, extension))
    snapshot.take()
    block = snapshot.BLOCK.search((paths.ROOT / "README.md").read_text())[0].splitlines()
    assert block[2].startswith(f'<img src="reports/snapshot/figures/{name}.png" width="')
    assert 'alt="The &quot;same&quot; objects, generated images">' in block[2]
    assert (paths.SNAPSHOT / "figures" / f"{name}.png").exists() and "The qualitative." in block


def test_the_committed_readme_shows_the_committed_study_or_snapshot():
    shown = snapshot.BLOCK.search((REPOSITORY / "README.md").read_text(encoding="utf-8"))[0]
    declared = experiments.load()
    if found := study.of(snapshot.DATASET, declared):
        assert study_page.first_screen(found, declared, snapshot.DATASET) in shown
        return
    table = (REPOSITORY / "reports/snapshot/tables/table2.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in shown.splitlines() if line.startswith("|")] == [line for line in table if line[:1] == "|"]


def test_a_readme_without_its_comments_is_brought_back_as_printed(finished):
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    for arguments in (["init", "-q"], ["add", "README.md"], [*identity, "commit", "-qm", "x"]):
        subprocess.run(["git", *arguments], cwd=paths.ROOT, check=True)
    (paths.ROOT / "README.md").write_text("# Title\n")
    with pytest.raises(ExperimentError, match="the comments around") as caught:
        snapshot.take()
    subprocess.run(re.search("`(.*)`", str(caught.value))[1].split(), cwd=paths.ROOT, check=True)
    snapshot.take()
