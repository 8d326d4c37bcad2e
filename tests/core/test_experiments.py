"""The declaration is checked before anything is run: every mistake has one clear line."""

import errno
import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from ruamel.yaml import YAML

from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError, Refused


@pytest.fixture
def declaration(tmp_path):
    """Write a changed copy of experiments.yaml; `change` edits the loaded mapping."""

    def write(change):
        content = YAML(typ="safe").load(paths.EXPERIMENTS)
        change(content)
        path = tmp_path / "experiments.yaml"
        YAML(typ="safe").dump(content, path)
        return path

    return write


def test_the_declaration_loads():
    declared = experiments.load()
    assert declared.run("current").pinned is False
    assert all(run.pinned for name, run in declared.runs.items() if name != "current")
    assert set(declared.backbones) <= set(declared.profile("generated")["backbones"])


MISTAKES = {
    "method": (
        lambda c: c["runs"]["current"].update(method="contrastmusk"),
        r"unknown method .*'contrastmusk'.*mask_rcnn",
    ),
    "backbone": (lambda c: c["runs"]["current"].update(backbone="r51"), r"unknown backbone .*'r51'.*r50"),
    "direction": (
        lambda c: c["runs"]["current"].update(direction="voc2voc"),
        r"unknown direction .*'voc2voc'.*nonvoc2voc",
    ),
    "schedule": (lambda c: c["runs"]["current"].update(schedule="2x"), r"unknown schedule .*'2x'.*1x, 3x"),
    "column": (
        lambda c: c["runs"]["current"].update(sheduel="1x"),
        r"runs\.current: unknown column 'sheduel'",
    ),
    "missing": (lambda c: c["runs"]["current"].pop("method"), r"runs\.current: column 'method' is missing"),
    "knobs": (
        lambda c: c["runs"]["current"].update(knobs="mine.yaml"),
        r"runs\.current\.knobs: 'mine\.yaml'",
    ),
    "name": (
        lambda c: c["runs"].update({"sigma0.2": c["runs"]["current"]}),
        r"runs\.sigma0\.2: names consist of",
    ),
    "profile": (
        lambda c: c["datasets"]["generated"].update(profile="tiny"),
        r"unknown profile .*'tiny'.*full",
    ),
    "table": (lambda c: c["tables"]["table2"]["rows"][0].update(runs=["nope"]), r"unknown run .*table2.*'nope'"),
    "row": (
        lambda c: c["tables"]["table2"]["rows"][0].update(run="current"),
        r"tables\.table2: row 'Baseline': unknown column 'run'; valid: label, published, runs",
    ),
    "same direction": (
        lambda c: c["tables"]["table2"]["rows"][0]["runs"].append("current"),
        r"tables\.table2: row 'Baseline' has two runs of one direction",
    ),
    "figure": (
        lambda c: c["figures"]["loss_curves"].update(tables=["table9"]),
        r"unknown table .*loss_curves.*'table9'",
    ),
    "title": (lambda c: c["tables"]["table2"].pop("title"), r"tables\.table2: column 'title' is missing"),
    "empty title": (lambda c: c["tables"]["table2"].update(title=None), r"tables\.table2: column 'title' is missing"),
    "rows": (lambda c: c["tables"]["table2"].pop("rows"), r"tables\.table2: column 'rows' is missing"),
    "rows no list": (
        lambda c: c["tables"]["table2"].update(rows={"a": 1}),
        r"tables\.table2\.rows: expected a list, found dict",
    ),
    "table no mapping": (
        lambda c: c["tables"].update(table2=["current"]),
        r"tables\.table2: expected a mapping, found list",
    ),
    "empty table": (lambda c: c["tables"].update(table2=None), r"tables\.table2: expected a mapping, found NoneType"),
    "label": (
        lambda c: c["tables"]["table2"]["rows"][1].pop("label"),
        r"tables\.table2: row 2: column 'label' is missing",
    ),
    "row no mapping": (
        lambda c: c["tables"]["table2"]["rows"].append("current"),
        r"tables\.table2: row 4: expected a mapping, found str",
    ),
    "runs no list": (
        lambda c: c["tables"]["table2"]["rows"][0].update(runs="current"),
        r"tables\.table2: row 'Baseline': runs: expected a list, found str",
    ),
    "nothing in a row": (
        lambda c: c["tables"]["table2"]["rows"].append({"label": "Empty"}),
        r"tables\.table2: row 'Empty': neither runs nor published",
    ),
    "published table": (
        lambda c: c["tables"]["table2"].pop("published"),
        r"tables\.table2: column 'published' is missing",
    ),
    "figure title": (
        lambda c: c["figures"]["loss_curves"].pop("title"),
        r"figures\.loss_curves: column 'title' is missing",
    ),
    "figure tables": (
        lambda c: c["figures"]["loss_curves"].pop("tables"),
        r"figures\.loss_curves: column 'tables' is missing",
    ),
    "kind": (lambda c: c["figures"]["loss_curves"].pop("kind"), r"figures\.loss_curves: column 'kind' is missing"),
    "images": (
        lambda c: c["figures"]["qualitative"].pop("images"),
        r"figures\.qualitative: column 'images' is missing",
    ),
    "objects": (
        lambda c: c["figures"]["fig4_keys"].pop("objects"),
        r"figures\.fig4_keys: column 'objects' is missing",
    ),
    "knob": (
        lambda c: c["figures"]["sensitivity_tau"].pop("knob"),
        r"figures\.sensitivity_tau: column 'knob' is missing",
    ),
    "figure run": (
        lambda c: c["figures"]["fig6_cl_head"]["runs"][0].pop("run"),
        r"figures\.fig6_cl_head: run 1: column 'run' is missing",
    ),
    "method label": (lambda c: c["methods"]["cam"].pop("label"), r"methods\.cam: column 'label' is missing"),
    "dataset kind": (
        lambda c: c["datasets"]["generated"].pop("kind"),
        r"datasets\.generated: column 'kind' is missing",
    ),
    "dataset name": (
        lambda c: c["datasets"].update(snapshot=c["datasets"]["generated"]),
        r"datasets\.snapshot: reports/snapshot is taken",
    ),
    "section": (lambda c: c.update(runns={}), r"unknown section 'runns'"),
    "no section": (lambda c: c.pop("tables"), r"section 'tables' is missing"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(declaration, mistake):
    change, message = MISTAKES[mistake]
    with pytest.raises(ExperimentError) as error:
        experiments.load(declaration(change))
    assert re.search(message, str(error.value)), str(error.value)
    assert "\n" not in str(error.value)


def test_broken_yaml(tmp_path):
    path = tmp_path / "experiments.yaml"
    path.write_text("runs: {a: [}\n")
    with pytest.raises(ExperimentError, match=r"experiments\.yaml line 1: not valid YAML"):
        experiments.load(path)


def test_a_colon_that_dvc_s_parser_refuses_is_named_with_its_remedy(tmp_path):
    path = tmp_path / "experiments.yaml"
    path.write_text("{url: http://localhost/a.zip}\n")
    with pytest.raises(ExperimentError, match="a value with a colon needs quotes"):
        experiments.read_yaml(path)
    assert experiments.read_yaml(path, pure=True) == {"url": "http://localhost/a.zip"}
    path.write_text("{url: 'http://localhost/a.zip'}\n")
    assert experiments.read_yaml(path) == {"url": "http://localhost/a.zip"}


def test_unknown_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params.yaml")
    paths.PARAMS.write_text("dataset: coco2071\n")
    with pytest.raises(ExperimentError, match=r"unknown dataset .*'coco2071'.*generated"):
        experiments.chosen_dataset()
    paths.PARAMS.write_text("sigma: 0.3\n")
    with pytest.raises(ExperimentError, match=r"params\.yaml: `dataset` is missing"):
        experiments.chosen_dataset()


PAPER = {
    "table1": 14,
    "table2": 3,
    "table3": 3,
    "table4": 4,
    "table5": 4,
    "table6": 3,
    "table7": 2,
    "oracle": 2,
}


@pytest.mark.parametrize("table", PAPER)
def test_a_table_needs_its_runs_and_the_free_one(table):
    declared = experiments.load()
    selection = declared.selection([table])
    assert list(selection["tables"]) == [table]
    assert len(selection["runs"]) == PAPER[table] + 1 and "current" in selection["runs"]
    assert set(selection["runs"]) - {"current"} == set(experiments.runs_of(declared.tables[table]))


def test_all_tables_need_every_run_once():
    declared = experiments.load()
    selection = declared.selection(list(declared.tables))
    assert set(selection["runs"]) == set(declared.runs)
    assert set(selection["backbones"]) == set(declared.backbones)
    assert set(selection["figures"]) == set(declared.figures)


def test_no_two_pinned_runs_are_the_same_training():
    rows = [str({**vars(run), "name": None}) for run in experiments.load().runs.values()]
    assert len(set(rows)) == len(rows)


@pytest.fixture
def selection_file(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "SELECTION", tmp_path / "selection.yaml")
    return paths.SELECTION


def test_a_selection_is_written_and_read_back(selection_file):
    written = experiments.select(["table7", "table2"])
    assert list(written["tables"]) == ["table2", "table7"]
    assert experiments.selected() == written


def test_a_selection_that_cannot_be_written_leaves_the_old_one_and_nothing_else(selection_file, monkeypatch):
    experiments.select(["table2"])
    former = selection_file.read_bytes()

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(Refused, match="selection.yaml: No space left on device; free some space"):
        experiments.select(["table7"])
    assert selection_file.read_bytes() == former and list(selection_file.parent.iterdir()) == [selection_file]


def test_selections_at_once_do_not_take_each_others_file(selection_file):
    chosen = ["table2", "table6", "table7"] * 4
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda table: experiments.select([table]), chosen))
    assert experiments.selected() in written and list(selection_file.parent.iterdir()) == [selection_file]


def test_priors_are_made_of_runs_that_chosen_figures_look_into(selection_file):
    looked_into = {"contrastmask_r50_1x_nonvoc2voc": {"direction": "nonvoc2voc"}}
    assert experiments.select(["table2"])["priors"] == looked_into
    assert experiments.select(["table6"])["priors"] == {}  # the run is chosen, the figures that need it are not


def test_a_stale_selection_is_refused(selection_file):
    experiments.select(["table2"])
    selection_file.write_text(selection_file.read_text().replace("schedule: 1x", "schedule: 3x", 1))
    with pytest.raises(ExperimentError, match="run `python -m commands.select`"):
        experiments.selected()


def test_an_unknown_table_leaves_the_selection_alone(selection_file):
    experiments.select(["table2"])
    with pytest.raises(ExperimentError, match=r"unknown table 'table9'; valid: table1, table2"):
        experiments.select(["table9"])
    assert list(experiments.selected()["tables"]) == ["table2"]


def test_the_committed_selection_is_up_to_date():
    assert "table2" in experiments.selected()["tables"]
