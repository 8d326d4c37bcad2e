"""What commands.estimate prints and writes on a few drawn images, and that it goes on from what is finished."""

import json
import re

import pandas as pd
import pytest

from pipeline.artifacts import paths
from tests.e2e.clone import TINY, Clone

pytestmark = pytest.mark.slow

IMAGES = {"train_images": 40, "val_images": 24, "image_size": 96}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return Clone(tmp_path_factory.mktemp("clone"), TINY | {("datasets", "generated"): IMAGES})


def test_masks_are_taken_away_in_turn_and_what_is_finished_is_reused(clone):
    lines = re.findall(r"^python -m .*(?=\n)", (paths.ROOT / "docs/estimate.md").read_text(), re.MULTILINE)
    assert lines == ["python -m stages.download generated", "python -m commands.estimate generated --groups 3"]
    call = (*lines[1].split()[:-1], "2", "--iterations", "2")
    refused = clone.run(*call, check=False)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr, refused.stderr
    assert f"run `{lines[0]}`" in refused.stderr
    clone.run(*lines[0].split())
    told = clone.run(*call)
    assert "Trainings of 2 of the 6 iterations of the schedule" in told.stdout and "in 2 groups" in told.stdout
    folder = clone.folder / "reports/generated/estimate"
    table = pd.read_csv(folder / "estimate.csv")
    counts = table["group"].value_counts()
    assert counts["base"] >= 3 and counts["novel"] >= 1
    assert (folder / "estimate.png").stat().st_size > 5_000 and (folder / "estimate.md").read_text() in told.stdout

    parts = sorted((folder / "parts").glob("*.json"))
    assert len(parts) == 3  # all base masks, and without those of each group
    hidden = table[table["group"] == "base"]["class"]
    lost = []
    for split in (clone.folder / "data/generated/splits").glob("estimate_*/train.json"):
        content = json.loads(split.read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        with_mask = {names[each["category_id"]] for each in content["annotations"] if "segmentation" in each}
        assert not with_mask & set(table[table["group"] == "novel"]["class"])
        lost += [name for name in hidden if name not in with_mask]
    assert sorted(lost) == sorted(hidden)  # each in one training
    left = [path for name in ("runs", "predictions") for path in (clone.folder / name).glob("generated/estimate_*")]
    assert not left

    parts[0].unlink()
    before = {path: path.stat().st_mtime_ns for path in parts[1:]}
    again = clone.run(*call)
    assert "2 of 3 trainings are there and reused" in again.stderr and "already trained, reusing" in again.stderr
    assert again.stdout == told.stdout and before == {path: path.stat().st_mtime_ns for path in parts[1:]}
