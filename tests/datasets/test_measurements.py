"""What the measurements of size rest on: memory of a process tree, exponents, and the two ways that are compared."""

import subprocess
import sys

import pytest

from benchmarks import growth, loading_scale
from benchmarks.measuring import exponent, watched
from benchmarks.split_scale import write_instances
from pipeline.tasks.instances.split import split

from .conftest import COCO_SET

FORKS = """
import os, time

block = bytearray(range(256)) * 400_000  # 102 MB
children = []
for _ in range(3):
    child = os.fork()
    if not child:
        if {touch}:
            block[::4096] = bytes(len(block) // 4096)  # in every page
        time.sleep(1)
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
print("first"); print("last")
"""


@pytest.mark.parametrize("touch, expected", [(False, 100), (True, 400)])
def test_memory_of_a_process_tree_counts_shared_pages_once(touch, expected):
    line, mb = watched([sys.executable, "-c", FORKS.format(touch=touch)])
    assert line == "last"
    assert expected <= mb < expected + 80


def test_a_failing_command_is_an_error():
    with pytest.raises(subprocess.CalledProcessError):
        watched([sys.executable, "-c", "raise SystemExit(3)"])


def test_exponent():
    assert exponent([1, 2, 8], [3, 6, 24]) == pytest.approx(1)
    assert exponent([0.25, 1], [5, 10]) == pytest.approx(0.5)


@pytest.mark.slow
def test_both_ways_of_loading_serve_the_same_samples(tmp_path):
    write_instances(tmp_path / "instances.json", 60, 500)
    split(tmp_path / "instances.json", COCO_SET, "nonvoc2voc", tmp_path)
    measured = {1.0: {way: loading_scale.run(way, tmp_path / "train.json", 2) for way in loading_scale.WAYS}}
    line = " ".join(loading_scale.figures(measured))
    assert "identical=true" in line and "mb_stock_to_ours=" in line
    assert all(0 < values["ready"] < values["first"] for values in measured[1.0].values())


def test_the_figure_of_growth_is_drawn_from_its_table(tmp_path, monkeypatch, capsys):
    rows = [
        f"{part},{scale},{100 * scale},{700 * scale},{8 * scale},{100 * scale**0.5}"
        for part in growth.PARTS
        for scale in (0.25, 0.5, 1)
    ]
    (tmp_path / "growth.csv").write_text("\n".join([",".join(growth.COLUMNS), *rows]) + "\n")
    monkeypatch.setattr(sys, "argv", ["growth", "--draw", "--out", str(tmp_path)])
    growth.main()
    assert (tmp_path / "growth.png").stat().st_size > 10_000
    assert "split_seconds_exponent=1.00 split_mb_exponent=0.50" in capsys.readouterr().out
