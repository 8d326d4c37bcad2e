"""`commands.predict`: the evaluation's numbers, pictures of any mode, nothing predicted twice, results that fit."""

import json
import re
import runpy
import shlex
import shutil
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.artifacts import paths
from pipeline.declaration import config
from pipeline.errors import ExperimentError
from pipeline.inference import fillers, models, outputs, pictures, predict
from pipeline.tasks.instances import prediction
from tests.reporting.test_page import CHROMIUM
from tools.pins import ROOT

from .conftest import DATASET, RUN
from .looking import look

pytestmark = pytest.mark.slow

SCORE = 0.0  # random weights are sure of nothing


def run(capsys, command, *arguments):
    """What a command prints, and its error lines; those there are go with an exit code that is not 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [command, *map(str, arguments)])
        try:
            runpy.run_module(f"commands.{command}", run_name="__main__")
            code = 0
        except SystemExit as ended:
            code = ended.code
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert bool(code) == bool(errors)
    return said.out, errors


@pytest.fixture(scope="module")
def out(root, tmp_path_factory):
    """The results of the validation images."""
    out = tmp_path_factory.mktemp("results") / "out"
    folder = paths.images(DATASET, "val2017")
    detector = models.load(RUN)
    found, skipped = pictures.measured(pictures.find([folder]))
    with predict.predicted(detector, found, out, SCORE, 1) as lines:
        outputs.write(lines, found, skipped, detector, out, SCORE, detector.names)
    return out


def test_numbers_are_those_of_the_evaluation(root, out, tmp_path):
    training = config.resolve(RUN, DATASET, 0)
    training.model["test_cfg"]["rcnn"]["score_thr"] = SCORE
    prediction.predict(training, tmp_path / "seed0.json")
    evaluated = json.loads((tmp_path / "seed0.json").read_text())
    names = {i["id"]: i["file_name"] for i in json.loads(paths.annotations(DATASET, "val2017").read_text())["images"]}
    ours = {i["id"]: i["file_name"] for i in json.loads((out / "annotations.json").read_text())["images"]}

    def by_image(records, names):
        named = [record | {"image_id": names[record["image_id"]]} for record in records]
        return sorted(named, key=lambda record: (record["image_id"], -record["score"], record["category_id"]))

    assert len(evaluated) > 5
    assert by_image(json.loads((out / "results.json").read_text()), ours) == by_image(evaluated, names)


def test_results_fit_each_other(out):
    content = json.loads((out / "annotations.json").read_text())
    results = json.loads((out / "results.json").read_text())
    assert len(content["images"]) == 4 and len(content["annotations"]) == len(results)
    assert [entry["id"] for entry in content["annotations"]] == list(range(1, len(results) + 1))
    for image in content["images"]:
        mine = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
        stem = image["file_name"].rpartition(".")[0]
        labels = cv2.imread(str(out / "masks" / f"{stem}.png"), cv2.IMREAD_UNCHANGED)
        assert labels.dtype == np.uint16 and labels.shape == (image["height"], image["width"])
        assert set(np.unique(labels)) <= {0, *(entry["mask_value"] for entry in mine)}
        assert [entry["score"] for entry in mine] == sorted((entry["score"] for entry in mine), reverse=True)
        surest = [entry for entry in mine if entry["area"]][:1]
        assert all((labels == entry["mask_value"]).sum() == entry["area"] for entry in surest)
        for kind in ("overlays", "thumbnails"):
            assert cv2.imread(str(out / kind / f"{stem}.jpg")) is not None
    assert {category["id"] for category in content["categories"]} >= {r["category_id"] for r in results}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def test_a_killed_prediction_goes_on(root, images, out, tmp_path, monkeypatch, capsys):
    command = ("predict", RUN, images, "--out", tmp_path / "out", "--score", SCORE)
    records, seen = prediction._records, []

    def counted(image, *detected):
        if len(seen) == 2:
            raise Killed
        seen.append(image)
        return records(image, *detected)

    monkeypatch.setattr(prediction, "_records", counted)
    with pytest.raises(Killed):
        run(capsys, *command)
    assert not (tmp_path / "out" / "results.json").exists()
    again = []
    monkeypatch.setattr(prediction, "_records", lambda image, *found: again.append(image) or records(image, *found))
    said, errors = run(capsys, *command)
    assert again == [3, 4] and not errors and "4 images" in said
    for name in ("predictions.jsonl", "results.json", "annotations.json"):
        assert (tmp_path / "out" / name).read_bytes() == (out / name).read_bytes()
    _, errors = run(capsys, *command[:-1], 0.02)
    assert errors == [
        f"error: {tmp_path / 'out'}: holds predictions of other --score; name another folder or remove it"
    ]


def test_pictures_of_any_mode_and_what_cannot_be_read(root, images, tmp_path, capsys):
    first, second, third, *_ = sorted(images.iterdir())
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    side = Image.open(first).width
    Image.open(first).convert("L").save(folder / "gray.png")
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6
    Image.open(second).crop((0, 0, 128, 96)).save(folder / "sub" / "phone.JPG", exif=exif)
    Image.open(third).convert("CMYK").save(folder / "gray.jpg")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    arguments = ("predict", RUN, folder, "--out", folder / "out", "--score", SCORE, "--batch", 2)
    said, errors = run(capsys, *arguments)
    assert not errors and "3 images, 1 skipped" in said
    listed = json.loads((folder / "out/annotations.json").read_text())["images"]
    assert {image["file_name"]: (image["width"], image["height"]) for image in listed} == {
        "gray.jpg": (side, side),
        "gray.png": (side, side),
        "sub/phone.JPG": (96, 128),
    }
    assert (folder / "out/overlays/gray.png.jpg").exists() and (folder / "out/overlays/sub/phone.jpg").exists()
    assert "broken.jpg is truncated or not an image" in (folder / "out/index.html").read_text()
    classes = sorted(re.findall(r"^\| *([a-z ]+?) *\|", said, re.MULTILINE))
    name = next(name for name in classes if name != "class")
    said, errors = run(capsys, *arguments, "--classes", name)
    assert not errors
    content = json.loads((folder / "out/annotations.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert {names[entry["category_id"]] for entry in content["annotations"]} == {name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "contrastmask_r50_1x_nonvoc2vok"}, "neither a file nor a run; valid: "),
        ({"model": "mask_rcnn_r50_1x_nonvoc2voc"}, "not trained yet; run `"),
        ({"model": "gone/checkpoint.pth"}, "gone/checkpoint.pth"),
        ({"images": "gone"}, "no image found; name a file, a folder or a glob in quotes"),
        ({"classes": "persn"}, "unknown class 'persn'; valid: "),
        ({"out": "full"}, "is not empty and no prediction of ours; name another folder"),
        ({"out": "file"}, "is a file; name another folder"),
        ({"seed": "7"}, "seed"),
    ],
)
def test_a_mistake_is_one_line(root, images, tmp_path, change, said, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    (tmp_path / "file").touch()
    given = {"model": RUN, "images": images, "out": "out"} | change
    options = [f"--{name}={value}" for name, value in given.items() if name in ("classes", "seed")]
    arguments = (given["model"], given["images"], "--out", tmp_path / given["out"], "--score", "0.9")
    _, errors = run(capsys, "predict", *arguments, *options)
    assert len(errors) == 1 and said in errors[0]
    assert not (tmp_path / "out").exists()


def test_masks_of_given_boxes_come_with_the_map_of_the_given_class(root, images, monkeypatch):
    filler = fillers.Model(models.load(RUN))
    head = filler.detector.model.roi_head
    maps, asked = head.bbox_head.activation_maps, []
    monkeypatch.setattr(
        head.bbox_head,
        "activation_maps",
        lambda features, labels: asked.append(labels.tolist()) or maps(features, labels),
    )
    picture = pictures.read(next(iter(sorted(images.iterdir()))))
    boxes = np.array([[10.0, 10, 60, 70], [40, 30, 120, 110], [10, 10, 60, 70]])
    first, second, third = filler(picture, boxes, ["dog", "car", "cat"])
    names = filler.detector.names
    assert asked[0] == [names.index(name) for name in ("dog", "car", "cat")]
    for mask, confidence in (first, second, third):
        assert mask.shape == picture.shape[:2] and 0.5 <= confidence <= 1
    assert not second[0][:25].any(), "a mask is inside of its box"
    with pytest.raises(ExperimentError, match="class 'dgo' is none of .* did you mean 'dog'"):
        filler.require(["dgo"], "file")


def test_boxes_of_the_validation_are_completed_and_compared(root, images, tmp_path, capsys):
    given = json.loads(paths.annotations(DATASET, "val2017").read_text())
    for annotation in given["annotations"][::2]:
        del annotation["segmentation"]
    (tmp_path / "boxes.json").write_text(json.dumps(given))
    said, errors = run(
        capsys,
        "complete",
        RUN,
        "--images",
        images,
        "--annotations",
        tmp_path / "boxes.json",
        "--out",
        tmp_path / "o.json",
    )
    assert not errors and "masks added" in said
    done = json.loads((tmp_path / "o.json").read_text())["annotations"]
    assert done[1::2] == given["annotations"][1::2]
    assert all(a["source"].startswith(f"{RUN} seed 0 (") for a in done[::2] if "source" in a)
    said, errors = run(capsys, "complete", RUN, "--compare", "--most", 3)
    assert not errors and "novel classes" in said
    assert {"model", "grabcut", "filled_box"} <= set(said.replace("|", " ").split())


def documented():
    """The commands of docs/predict.md, lists of words."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "predict.md").read_text(), re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_what_the_document_says_to_type(root, images, monkeypatch, capsys):
    monkeypatch.chdir(root)
    shutil.copytree(images, "photos")
    first, *_ = names = sorted(file.name for file in images.iterdir())
    side = Image.open(images / first).width
    listed = [{"id": n, "file_name": name, "width": side, "height": side} for n, name in enumerate(names)]
    cat = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [20, 30, 50, 60]}
    content = {"images": listed, "categories": [{"id": 1, "name": "cat"}], "annotations": [cat]}
    (root / "boxes.json").write_text(json.dumps(content))
    known = cat | {"segmentation": [[20, 30, 70, 30, 70, 90, 40, 90]]}
    (root / "known.json").write_text(json.dumps(content | {"annotations": [known]}))
    commands = [words for words in documented() if "places_simformer" not in words]  # that: tests/e2e/test_own_maps.py
    assert {words[2] for words in commands} == {"commands.predict", "commands.complete"}
    for words in commands:
        assert words[:2] == ["python", "-m"]
        said, errors = run(capsys, words[2].removeprefix("commands."), *words[3:])
        assert not errors, words
    assert (root / "found" / "index.html").exists() and (root / "complete.html").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_looked_through_by_keys(out, width, tmp_path):
    seen = look(out / "index.html", width)
    assert seen["places"] == ["1 of 4", "2 of 4", "3 of 4", "2 of 4", "4 of 4"]
    assert seen["loaded"] and seen["document"] <= width and not seen["blocked"]
