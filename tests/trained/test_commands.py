"""The commands for checkpoints in and out."""

import sys

import pytest
from ruamel.yaml import YAML

from commands import export, start_from
from pipeline.artifacts import paths
from pipeline.declaration import schema, strict
from pipeline.trained import exporting, reading, starting
from pipeline.trained.loading import load_model
from tests import tiny


def test_start_from_shows_what_would_be_taken_and_how_to_declare_it(trained, of_mmdetection, monkeypatch, capsys):
    file = of_mmdetection(("disc", "star"))
    monkeypatch.setattr(sys, "argv", ["start_from", str(file), tiny.RUN])
    start_from.main()
    said = capsys.readouterr().out
    assert "| backbone " in said and "| roi_head.cl_head " in said
    line = next(line for line in said.splitlines() if "initial_weights:" in line)
    declared = YAML(typ="safe").load(line)["initial_weights"]
    assert declared == {"kind": "checkpoint", "file": str(file), "sha256": reading.sha256(file)}
    strict.check(schema.FromCheckpoint, declared, "datasets.yaml")
    own = paths.checkpoint(tiny.DATASET, tiny.RUN, 0)
    assert starting.file_of(YAML(typ="safe").load(starting.declaration(own))) == own


def test_an_export_is_refused_with_the_operators(trained, monkeypatch, capsys, tmp_path):
    out = tmp_path / "model.pt"
    monkeypatch.setattr(sys, "argv", ["export", str(paths.checkpoint(tiny.DATASET, tiny.RUN, 0)), str(out)])
    with pytest.raises(SystemExit):
        export.main()
    said = capsys.readouterr().err
    assert said.startswith(f"error: {out}: not written: TorchScript cannot record mmcv.ops.roi_align (pools")
    assert len(said.splitlines()) == 1 and not out.exists()


def test_the_obstacles_are_tried_and_not_assumed(trained):
    found = exporting.obstacles(load_model(tiny.RUN).model)
    assert found.keys() == {"mmcv.ops.roi_align", "mmcv.ops.nms"}
    assert exporting._unrecordable(lambda a, b: a + b, [(1 * reading.torch.ones(1), reading.torch.ones(1))] * 2) is None
