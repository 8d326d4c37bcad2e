"""What a message about images says to do is done, in a copy of the repository; then the failing step works."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.datasets.prepare import _check_subset, ensure_images
from pipeline.errors import ExperimentError
from pipeline.tasks.instances.packed_coco import LoadWholeImage
from tests.e2e.clone import Clone

from .conftest import COCO_SET, LABELS, SPEC
from .test_prepare import cut, edited, flip, remove, tree

DRAWN = {"kind": "generated", "profile": "embedded", **LABELS, **SPEC, "train_images": 3, "val_images": 2}


def packed(root, mirror, names=("train2017", "val2017", "annotations")):
    """Archives of folders, and their declaration."""
    archives = {}
    for name in names:
        content = Path(shutil.make_archive(mirror / name, "zip", root, name)).read_bytes()
        archives[f"{name}.zip"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return archives


class Copy(Clone):
    """A copy of the repository with two data sets: `mini`, of archives in a folder, and `drawn`."""

    def __init__(self, folder, generated_root):
        self.mirror = folder.parent / f"{folder.name}-mirror"
        archives = packed(generated_root, self.mirror)
        self.entries = {
            "mini": {
                "kind": "coco",
                "profile": "embedded",
                **LABELS,
                "root_env": "COCO_ROOT",
                "base_url": self.mirror.as_uri(),
                "archives": archives,
            },
            "drawn": DRAWN,
        }
        super().__init__(folder, {("datasets",): self.entries})
        self.environment.pop("COCO_ROOT", None)
        params = folder / "params.yaml"
        params.write_text(re.sub(r"(?m)^dataset: .*", "dataset: drawn", params.read_text()))
        for name in self.entries:
            self.run("python", "-m", "stages.download", name)

    def images(self, name):
        return self.folder / "data" / name / "images"

    def look(self, name):
        ensure_images(
            name,
            self.entries[name],
            images_root=self.images(name),
            manifest=self.folder / "data" / name / "manifest.json",
        )

    def load(self, name, file):
        """What a data worker does with an image."""
        subset, _, image = file.partition("/")
        info = {"filename": image, "width": SPEC["image_size"], "height": SPEC["image_size"]}
        LoadWholeImage()({"img_prefix": str(self.images(name) / subset), "img_info": info})

    def obey(self, text):
        """Run the command that a message prints."""
        [command] = set(re.findall(r"`([^`]*python -m stages\.[^`]*)`", text))
        result = subprocess.run(
            command, shell=True, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        return result.stderr


@pytest.fixture(scope="module")
def copy(tmp_path_factory, generated_root):
    return Copy(tmp_path_factory.mktemp("copy"), generated_root)


def message(step, *arguments):
    with pytest.raises(ExperimentError) as caught:
        step(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def fifo(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name, file", [("mini", "train2017/000000000003.png"), ("drawn", "val2017/000001000001.png")])
@pytest.mark.parametrize("damage", [remove, cut, fifo])
def test_a_damaged_image_is_mended_as_printed(copy, name, file, damage):
    before = tree(copy.images(name))
    damage(copy.images(name) / file)
    copy.obey(message(copy.load, name, file))
    copy.load(name, file)
    assert tree(copy.images(name)) == before


def test_a_missing_folder_is_mended_as_printed(copy):
    for name in ("mini", "drawn"):
        before = tree(copy.images(name))
        shutil.rmtree(copy.images(name))
        copy.obey(message(copy.look, name))
        copy.look(name)
        assert tree(copy.images(name)) == before


def test_missing_outputs_are_mended_as_printed(copy):
    (copy.folder / "data" / "mini" / "manifest.json").unlink()
    shutil.rmtree(copy.folder / "data" / "mini" / "annotations")
    copy.obey(message(copy.look, "mini"))
    copy.look("mini")
    assert (copy.folder / "data" / "mini" / "annotations" / "instances_train2017.json").exists()


def test_an_edited_sum_is_mended_as_printed(copy):
    """The message offers to undo the edit, or to download; the latter says what is wrong, at no loss."""
    before, good = tree(copy.images("mini")), copy.entries["mini"]
    copy.entries["mini"] = edited(good)
    copy.edit_experiments({("datasets",): copy.entries})
    text = message(copy.look, "mini")
    result = copy.run("python", "-m", "stages.download", "mini", check=False)
    assert result.returncode == 1 and "either the file is damaged or" in result.stderr
    assert "Traceback" not in result.stderr and "undo that edit" in text
    after = tree(copy.images("mini"))
    assert after == before
    copy.entries["mini"] = good
    copy.edit_experiments({("datasets",): copy.entries})
    copy.look("mini")
    copy.run("python", "-m", "stages.download", "mini")


def test_a_linked_image_is_restored_by_its_owner_and_the_links_by_hand(tmp_path, copy, generated_root):
    folder = tmp_path / "coco"
    shutil.copytree(generated_root, folder)
    copy.environment["COCO_ROOT"] = str(folder)
    shutil.move(copy.images("mini"), tmp_path / "unpacked")
    try:
        copy.run("python", "-m", "stages.download", "mini")
        del copy.environment["COCO_ROOT"]
        remove(folder / "train2017" / "000000000003.png")
        text = message(copy.load, "mini", "train2017/000000000003.png")
        assert text.endswith(f"{folder}/train2017 is your own folder: restore the file there")
        shutil.copy(generated_root / "train2017" / "000000000003.png", folder / "train2017")
        copy.load("mini", "train2017/000000000003.png")
        folder.rename(tmp_path / "moved")
        result = copy.run("python", "-m", "stages.download", "mini", check=False)
        assert result.returncode == 1 and "`COCO_ROOT= python -m stages.download mini` fetches" in result.stderr
        copy.obey(result.stderr)
        assert not (copy.images("mini") / "train2017").is_symlink()
        copy.look("mini")
    finally:
        copy.environment.pop("COCO_ROOT", None)


def test_annotations_are_corrected_where_they_come_from(tmp_path, copy, generated_root):
    """In an archive, whose new sum is declared, or in a folder of one's own; not where they were unpacked."""
    root, mirror = tmp_path / "coco", tmp_path / "mirror"
    shutil.copytree(generated_root, root)
    file = root / "annotations" / "instances_val2017.json"
    right = file.read_text()
    content = json.loads(right)
    content["annotations"][0]["bbox"] = [1, 2]
    file.write_text(json.dumps(content))
    entry = copy.entries["mini"] | {"base_url": mirror.as_uri(), "archives": packed(root, mirror)}
    copy.edit_experiments({("datasets",): {"other": entry}})
    failed = copy.run("python", "-m", "stages.download", "other", check=False)
    assert failed.returncode == 1 and "correct the file there and declare the archive's new bytes" in failed.stderr
    copy.environment["COCO_ROOT"] = str(root)
    try:
        failed = copy.run("python", "-m", "stages.download", "other", check=False)
        assert failed.returncode == 1 and f"error: {file}" in failed.stderr
        assert "; correct the file, then run `python -m stages.download`" in failed.stderr
        file.write_text(right)
        copy.run("python", "-m", "stages.download", "other")
    finally:
        del copy.environment["COCO_ROOT"]
    shutil.rmtree(copy.folder / "data" / "other")
    copy.edit_experiments({("datasets",): {"other": entry | {"archives": packed(root, mirror)}}})
    copy.run("python", "-m", "stages.download", "other")
    assert (copy.images("other") / "annotations" / file.name).read_text() == right


def test_an_entry_of_the_annotations_is_taken_out_or_corrected(tmp_path, generated_root):
    """Of an image that is broken, one that has another name and one of another size, in a folder of one's own."""
    root = tmp_path / "coco"
    shutil.copytree(generated_root, root)
    file = root / "annotations" / "instances_train2017.json"
    right = json.loads(file.read_text())
    image = root / "train2017" / right["images"][0]["file_name"]

    def failing(said):
        with pytest.raises(ExperimentError, match=said):
            _check_subset(root, "train2017", COCO_SET)

    def passing(content):
        file.write_text(json.dumps(content))
        _check_subset(root, "train2017", COCO_SET)

    whole = image.read_bytes()
    image.write_bytes(whole[:100])
    failing("restore the file there|take them out of the annotations")
    first = right["images"][0]["id"]
    passing(
        right
        | {
            "images": right["images"][1:],
            "annotations": [each for each in right["annotations"] if each["image_id"] != first],
        }
    )
    image.write_bytes(whole)
    for change, said in (({"file_name": "elsewhere.png"}, "correct file_name"), ({"width": 7}, ".")):
        wrong = json.loads(json.dumps(right))
        wrong["images"][0].update(change)
        file.write_text(json.dumps(wrong))
        failing(said)
        passing(right)


def test_a_plan_knows_the_images_after_a_download(copy):
    params, manifest = copy.folder / "params.yaml", copy.folder / "data" / "mini" / "manifest.json"
    chosen = params.read_text()
    params.write_text(chosen.replace("dataset: drawn", "dataset: mini"))
    manifest.unlink()
    try:
        failed = copy.run("python", "-m", "commands.plan", check=False)
        assert failed.returncode == 1 and "how many training images is unknown" in failed.stderr
        copy.obey(failed.stderr)
        copy.run("python", "-m", "commands.plan")
    finally:
        params.write_text(chosen)


@pytest.mark.slow
def test_the_remedy_works_where_dvc_says_that_nothing_is_to_be_done(copy):
    image = copy.images("drawn") / "train2017" / "000000000001.png"
    copy.run("dvc", "repro", "download")
    for damage in (remove, flip):
        damage(image)
        assert "didn't change, skipping" in copy.run("dvc", "repro", "download").stdout
        copy.run("python", "-m", "stages.download")
        copy.load("drawn", "train2017/000000000001.png")
    assert "up to date" in copy.run("dvc", "status", "download").stdout
    remove(image)
    copy.run("dvc", "repro", "--force", "download")
    copy.load("drawn", "train2017/000000000001.png")


@pytest.mark.slow
def test_a_download_that_fails_under_dvc_takes_nothing_away(copy):
    params = copy.folder / "params.yaml"
    chosen = params.read_text()
    params.write_text(chosen.replace("dataset: drawn", "dataset: mini"))
    copy.run("dvc", "repro", "download")
    before, good = tree(copy.folder / "data" / "mini"), copy.entries["mini"]
    try:
        copy.edit_experiments({("datasets",): {**copy.entries, "mini": edited(good)}})
        result = copy.run("dvc", "repro", "download", check=False)
        assert result.returncode and "train2017.zip: expected sha256" in result.stderr
        after = tree(copy.folder / "data" / "mini")
        assert {name: after.get(name) for name in before} == before
        copy.edit_experiments({("datasets",): copy.entries})
        copy.look("mini")
        copy.run("dvc", "repro", "download")
        copy.load("mini", "train2017/000000000003.png")
    finally:
        params.write_text(chosen)
