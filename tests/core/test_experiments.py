"""The declaration is checked before anything is run: every mistake has one clear line."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError, Refused


def test_the_declaration_loads():
    declared = experiments.load()
    assert declared.run("current").pinned is False
    assert all(run.pinned for name, run in declared.runs.items() if name != "current")
    assert set(declared.backbones) <= set(declared.profile("generated")["backbones"])


def test_broken_yaml(tmp_path):
    (tmp_path / "mine.yaml").write_text("runs: {a: [}\n")
    with pytest.raises(ExperimentError, match=r"mine\.yaml line 1: not valid YAML"):
        experiments.load(tmp_path)


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
    selection = declared.selection([table], "generated")
    assert list(selection["tables"]) == [table]
    assert len(selection["runs"]) == PAPER[table] + 1 and "current" in selection["runs"]
    assert set(selection["runs"]) - {"current"} == set(experiments.runs_of(declared.tables[table]))


def test_all_tables_need_every_run_once():
    declared = experiments.load()
    selection = declared.selection(list(declared.tables), "generated")
    assert set(selection["runs"]) == set(declared.runs)
    assert set(selection["weights"]) == set(declared.backbones)
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
    assert experiments.select(["table2"])["look_inside"] == looked_into
    assert experiments.select(["table6"])["look_inside"] == {}  # the run is chosen, the figures that need it are not


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
