"""The declaration is checked before anything is run: every mistake has one clear line."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from pipeline import methods, tasks
from pipeline.artifacts import paths
from pipeline.declaration import experiments
from pipeline.declaration.label_sets import label_set
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
    with pytest.raises(ExperimentError, match=r"unknown dataset .*'coco2071'.*did you mean 'coco2017'"):
        experiments.chosen_dataset()
    paths.PARAMS.write_text("sigma: 0.3\n")
    with pytest.raises(ExperimentError, match=r"params\.yaml: `dataset` is missing"):
        experiments.chosen_dataset()


PAPER = {
    "table1": 42,
    "table2": 3,
    "table3": 3,
    "table4": 4,
    "table5": 4,
    "table6": 3,
    "table7": 2,
    "oracle": 2,
    "priors": 5,  # not of the paper, as the next
    "table1b": 14,
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
    of_maps = declared.selection(list(declared.tables), "coco_stuff_10k")
    assert selection["runs"].keys() | of_maps["runs"].keys() == set(declared.runs)
    assert not selection["runs"].keys() & of_maps["runs"].keys() and len(of_maps["runs"]) == 53
    detectors = {f"one_stage_{backbone}" for backbone in ("r50", "r101")}  # CPMask's own
    assert set(selection["weights"]) == set(declared.backbones) | detectors
    assert selection["figures"].keys() | of_maps["figures"].keys() == set(declared.figures)


def test_the_table_of_priors_is_made_when_it_is_named():
    """It is a table of our own, which neither the default choice nor a table of the paper brings along."""
    declared = experiments.load()
    assert "published" not in declared.tables["priors"] and not any(
        "published" in r for r in declared.tables["priors"]["rows"]
    )
    assert "priors" not in experiments.chosen_tables(declared)
    others = declared.selection([name for name in declared.tables if name != "priors"], "generated")
    everything = declared.selection(list(declared.tables), "generated")
    own = set(everything["runs"]) - set(others["runs"])
    assert own and all(declared.runs[name].overrides["prior"] in ("points", "scribbles") for name in own)


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


OWN = "contrastmask_r50_1x_nonvoc2voc"  # a run of table2 that gets a dataset of its own


@pytest.fixture
def own(selection_file, tmp_path, monkeypatch):
    """The declaration with a run on `generated_study1`, and a function that chooses the dataset of all others."""
    declared = experiments.load()
    declared.runs[OWN] = replace(declared.runs[OWN], dataset="generated_study1")
    monkeypatch.setattr(experiments, "load", lambda: declared)
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params.yaml")

    def choose(dataset):
        paths.PARAMS.write_text(f"dataset: {dataset}\n")

    choose("generated")
    return choose


def test_a_run_with_a_dataset_of_its_own_is_made_there_whatever_is_chosen(own):
    selection = experiments.select(["table2"])
    elsewhere = selection["elsewhere"]
    assert OWN not in selection["runs"] and list(elsewhere["runs"]) == [OWN] and "current" in selection["runs"]
    assert list(elsewhere["datasets"]) == ["generated_study1"] and selection["look_inside"] == {}
    assert set(elsewhere["directions"]) == {"generated_study1_boxes", "generated_study1_nonvoc2voc"}
    assert elsewhere["weights"]["generated_study1_r50"]["direction"] == "boxes"
    assert list(elsewhere["look_inside"]) == [OWN]
    for chosen in ("generated", "coco2017"):
        own(chosen)
        assert experiments.selected() == selection, "the choice of another dataset leaves dvc.yaml as it is"
        assert experiments.dataset_of(OWN) == "generated_study1" and experiments.dataset_of("current") == chosen
        assert experiments.made_on(selection, chosen)[0] == tuple(selection["runs"])
    assert experiments.made_on(selection, "generated_study1") == ((OWN,), ("r50",))
    assert experiments.repro("train", OWN, "current") == f"dvc repro train_elsewhere@{OWN} train@current"


def test_a_run_on_the_chosen_dataset_is_none_elsewhere(own):
    own("generated_study1")
    selection = experiments.select(["table2"])
    assert OWN in selection["runs"] and not any(selection["elsewhere"].values())
    assert experiments.dataset_of(OWN) == "generated_study1"


@pytest.mark.parametrize("before, now", [("generated", "generated_study1"), ("generated_study1", "generated")])
def test_a_run_that_dvc_would_make_elsewhere_than_it_is_declared_is_refused(own, before, now):
    own(before)
    experiments.select(["table2"])
    own(now)
    for ask in (experiments.selected, lambda: experiments.dataset_of(OWN)):
        with pytest.raises(ExperimentError, match="run `python -m commands.select`$"):
            ask()
    experiments.select(["table2"])
    assert experiments.selected() and experiments.dataset_of(OWN) == "generated_study1"


def test_what_the_label_set_of_the_chosen_dataset_does_not_have_is_left_out(own, monkeypatch):
    labels = replace(label_set("coco"), directions={"voc2nonvoc": {"base": "voc", "novel": "nonvoc"}})
    monkeypatch.setattr(experiments, "label_set", lambda name: labels)
    selection = experiments.load().selection(["table1", "table2"], "generated")
    assert selection["chosen"] == ["table1", "table2"] and list(selection["directions"]) == ["voc2nonvoc"]
    assert {run["direction"] for run in selection["runs"].values()} == {"voc2nonvoc"} and selection["free"] == {}
    assert list(selection["tables"]) == ["table1", "table2"], "table2 still has its run elsewhere"
    experiments.load().runs[OWN] = replace(experiments.load().runs[OWN], dataset=None)
    selection = experiments.load().selection(["table1", "table2"], "generated")
    assert list(selection["tables"]) == ["table1"] and selection["figures"] == {}


def test_a_stale_selection_is_refused(selection_file):
    experiments.select(["table2"])
    selection_file.write_text(selection_file.read_text().replace("schedule: 1x", "schedule: 3x", 1))
    with pytest.raises(ExperimentError, match="run `python -m commands.select`"):
        experiments.selected()


def test_an_unknown_table_leaves_the_selection_alone(selection_file):
    experiments.select(["table2"])
    with pytest.raises(ExperimentError, match=r"unknown table 'table9'; valid: .*did you mean 'table7'"):
        experiments.select(["table9"])
    assert list(experiments.selected()["tables"]) == ["table2"]


def test_the_committed_selection_is_up_to_date():
    assert "table2" in experiments.selected()["tables"]


def test_a_task_has_training_annotations_of_its_own(own, monkeypatch):
    """Else DVC would write those of one task where another reads its own."""
    other = replace(methods.method("cam"), task="maps", detector="cam")
    real = methods.task_of
    maps = replace(tasks.task(tasks.FIRST), name="maps")
    monkeypatch.setattr(methods, "task_of", lambda name: maps if name == "cam" else real(name))
    monkeypatch.setattr(methods, "method", lambda name, real=methods.method: other if name == "cam" else real(name))
    declared = experiments.load()
    declared.runs[OWN] = replace(declared.runs[OWN], method="cam")
    selection = declared.selection(["table2"], "generated")
    named = {"nonvoc2voc_maps": {"direction": "nonvoc2voc", "task": "maps", "split": "nonvoc2voc.maps"}}
    assert selection["splits"].items() >= named.items() and "boxes_maps" in selection["splits"]
    assert selection["runs"]["cam_r50_1x_nonvoc2voc"]["split"] == "nonvoc2voc.maps"
    assert selection["runs"]["mask_rcnn_r50_1x_nonvoc2voc"]["split"] == "nonvoc2voc"
    assert selection["weights"]["cam_r50"]["split"] == "boxes.maps" and selection["weights"]["r50"]["split"] == "boxes"
    study = {"dataset": "generated_study1", "label_set": "coco", **named["nonvoc2voc_maps"]}
    assert selection["elsewhere"]["splits"]["generated_study1_nonvoc2voc_maps"] == study


def test_a_run_that_labels_images_is_chosen_with_those_that_train_on_them(own):
    own("scenes")
    declared = experiments.load()
    selection = declared.selection(["simformer3"], "scenes")
    assert selection["labels"] == {f"simformer_s{k}": {"split": f"s{k}.semantic"} for k in range(5, 10)}
    again, source = "simformer_retrained_s5", "simformer_s5"
    assert selection["runs"][again]["reads"] == f"labels/{source}" and declared.selection([], "scenes")["labels"] == {}
    declared.tables["simformer3"]["rows"] = [{"label": "*", "runs": [again]}]
    selection = declared.selection(["simformer3"], "scenes")
    assert set(selection["runs"]) == {again, source} and list(selection["labels"]) == [source]
    for name in (again, source):
        declared.runs[name] = replace(declared.runs[name], dataset="scenes_study1")
    elsewhere = declared.selection(["simformer3"], "scenes")["elsewhere"]
    assert set(elsewhere["runs"]) == {again, source}
    assert elsewhere["labels"] == {source: {"dataset": "scenes_study1", "split": "s5.semantic"}}
    experiments.select(["simformer3"])
    line = f"dvc repro -s -f label_elsewhere@{source}"
    assert experiments.repro("label", source, again=True) == line
