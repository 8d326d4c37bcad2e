"""No measured row poses as a reproduction: what differs from the published recipe stands below its table."""

import csv
from dataclasses import replace

import pytest

from pipeline import methods
from pipeline.artifacts import paths
from pipeline.declaration import experiments, schema
from pipeline.reporting import deviations
from pipeline.reporting.table_files import build_table


@pytest.fixture
def profile(workspace):
    return experiments.load().profile("toy")


def of(name, profile, **overrides):
    run = experiments.load().runs[name]
    return deviations.of_run(replace(run, overrides=overrides), profile)


def test_knobs_that_are_not_the_released_code_s_are_named_but_those_that_a_row_turns(profile):
    assert of("ours", profile) == "loss_denominator temperature (released code: plain)"
    assert of("ours", profile, loss_denominator="plain") == ""
    scaled = profile | {"knobs": {"recipe": "released", "cl_features": "direct"}}
    assert "cl_features direct (released code: enhanced)" in of("ours", scaled)
    assert of("ours", scaled, cl_features="direct") == of("ours", profile)


def test_what_a_method_says_of_itself_is_said(profile, monkeypatch):
    assert "unknown" in of("plain", profile)
    told = replace(methods.method("contrastmask"), differs=lambda knobs: f"sigma {knobs.sigma} of its own")
    monkeypatch.setattr(methods, "method", lambda name: told)
    assert of("ours", profile).endswith("; sigma 0.3 of its own")


def test_an_oracle_says_that_the_published_one_is_another_training_and_names_no_knob_it_does_not_read():
    declared = experiments.load()
    oracle, basic, whole = (
        deviations.of_run(declared.runs[name], declared.profile("coco_stuff_10k"))
        for name in ("simformer_oracle_s4", "simformer_basic_s4", "simformer_s4")
    )
    assert "public checkpoint, batch 32" in oracle and not {"student", "balance_pairs", "image_labels"} & set(
        oracle.replace(",", " ").split()
    )
    assert "image_labels image (released code: crop)" in basic and "student" not in basic
    assert "student cross_image (released code: same_image)" in whole


def test_presets_of_another_method_do_not_tell_its_released_code(profile, monkeypatch, tmp_path):
    elsewhere = replace(methods.method("contrastmask"), knob_file=tmp_path / "knobs.yaml")
    monkeypatch.setattr(methods, "method", lambda name: elsewhere)
    assert of("ours", profile) == ""


def test_the_differences_stand_below_the_rows_that_have_a_published_one(workspace):
    workspace.result("ours")
    declared = experiments.load()
    declared.tables["table1"]["rows"][2]["layers"] = 4
    declared.tables["table1"]["rows"][0]["layers"] = 8
    build_table("table1")
    rows = list(csv.DictReader(paths.table("toy", "table1", "csv").open()))
    assert [row["layers"] for row in rows] == ["8", "8", "", "4", "4", ""]
    told = "loss_denominator temperature (released code: plain)"
    assert [row["differs"] for row in rows] == ["", "", "", told, told, ""], "the last has no published row beside it"
    markdown, tex = (paths.table("toy", "table1", extension).read_text() for extension in ("md", "tex"))
    assert "Trained otherwise than the published rows" in markdown and f"- Both: {told}\n" in markdown
    assert "| Layers" in markdown and "layers: convolutions of the mask head as the paper counts them" in markdown
    assert tex.index(r"\end{tabular}") < tex.index(r"Both: loss\_denominator temperature") < tex.index(r"\end{table*}")
    assert r"4 & Both & measured" in tex.replace(r"\multirow[t]{2}{*}", "").replace("{", "").replace("}", "")


def test_a_table_without_published_rows_tells_of_no_differences(workspace):
    declared = experiments.load()
    declared.tables["table2"] = {"title": "T", "rows": [{"label": "A", "runs": ["ours"]}]}
    build_table("table2")
    assert "differs" not in paths.table("toy", "table2", "csv").read_text().splitlines()[0]
    assert "Trained otherwise" not in paths.table("toy", "table2", "md").read_text()


@pytest.mark.parametrize("layers", [0, "four", 2.5])
def test_layers_are_a_count(layers):
    with pytest.raises(ValueError, match="layers"):
        schema.Row(label="A", published="p", layers=layers)
