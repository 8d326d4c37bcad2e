"""Pictures of any mode, and masks as annotation tools take them."""

import json
import os
import re
import subprocess
import sys
import tracemalloc
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from pipeline.errors import ExperimentError
from pipeline.inference import drawing, masks, outputs, pictures
from pipeline.inference.ahead import in_order
from tools.pins import ROOT

LEFT_RED = np.zeros((20, 30, 3), np.uint8)
LEFT_RED[:, :15] = (250, 10, 10)  # red, green, blue


def saved(path, mode="RGB", **options):
    Image.fromarray(LEFT_RED).convert(mode).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.png", "P"), ("a.png", "L"), ("a.png", "RGBA"), ("a.jpg", "CMYK"), ("a.tif", "CMYK"), ("a.bmp", "RGB")],
)
def test_any_mode_becomes_three_channels(name, mode, tmp_path):
    path = saved(tmp_path / name, mode)
    image = pictures.read(path)
    assert image.shape == (20, 30, 3) and image.dtype == np.uint8 and pictures.size(path) == (30, 20)
    if mode == "L":
        assert (image[..., 0] == image[..., 2]).all()
    else:
        assert image[10, 3, 2] > 150 > 100 > image[10, 3, 0], "red is the last channel"
    assert image[10, 25].max() < 60


def test_sixteen_bits_lose_the_lower_eight(tmp_path):
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), np.full((8, 9), 0x4321, np.uint16))
    assert (pictures.read(path) == 0x43).all() and pictures.size(path) == (9, 8)


def test_a_picture_is_turned_upright_unless_its_stored_pixels_are_asked_for(tmp_path):
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6
    path = saved(tmp_path / "phone.jpg", exif=exif)
    assert pictures.read(path).shape == (30, 20, 3) and pictures.size(path) == (20, 30)
    assert pictures.read(path, stored=True).shape == (20, 30, 3)
    assert pictures.read(path)[3, 10, 2] > 150, "what was left is above"


def test_what_cannot_be_read_is_skipped_and_named(tmp_path):
    saved(tmp_path / "good.jpg")
    whole = saved(tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").touch()
    found, skipped = pictures.measured(pictures.find([tmp_path]))
    assert [picture.name for picture in found] == ["good.jpg"]
    assert [name for name, _ in skipped] == ["cut.jpg", "empty.png"]
    assert all("is truncated or not an image" in reason for _, reason in skipped)


def test_files_folders_and_globs(tmp_path):
    for name in ("a/1.JPG", "a/b/2.png", "c/3.jpg", "c/note.txt", "out/overlays/1.jpg", "a/.hidden.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(pictures.find([tmp_path], apart_from=tmp_path / "out")) == ["a/1.JPG", "a/b/2.png", "c/3.jpg"]
    assert list(pictures.find([f"{tmp_path}/c/*.jpg", tmp_path / "a"])) == ["a/1.JPG", "a/b/2.png", "c/3.jpg"]
    assert list(pictures.find([tmp_path / "c/3.jpg"])) == ["3.jpg"]
    for nothing in ("gone", "*.webp", "c/*.nothing"):
        with pytest.raises(ExperimentError, match="no image found; name a file, a folder or a glob in quotes"):
            pictures.find([tmp_path / "a", tmp_path / nothing])


def test_what_is_no_picture_is_told(tmp_path):
    for name in ("photos/1.jpg", "photos/2.jpg", "clip.MP4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\xff\xd8\xff")
    with pytest.raises(
        ExperimentError, match=r"clip.MP4: is a video; make pictures of it, `ffmpeg -i clip.MP4 frames/"
    ):
        pictures.find([tmp_path / "photos", tmp_path / "clip.MP4"])
    with pytest.raises(ExperimentError, match="results cannot go among the images; name another folder: --out DIR"):
        pictures.find([tmp_path / "photos"], apart_from=tmp_path / "photos")
    files = pictures.find([tmp_path / "photos"], apart_from=tmp_path / "photos" / "out")
    with pytest.raises(
        ExperimentError, match=r"1.jpg is truncated or not an image, and so are 1 more: no image is left"
    ):
        pictures.measured(files)
    saved(tmp_path / "photos" / "1.jpg")
    assert [len(part) for part in pictures.measured(files)] == [1, 1]


def test_results_of_many_images_take_the_memory_of_few(tmp_path, monkeypatch):
    """What the page and annotations.json say of each image does not wait in memory."""
    row = {"name": "x", "size": [9, 9], "overlay": "x", "thumbnail": "x", "objects": [["bolt", 0.5]] * 100}
    made = ({"file_name": "x", "width": 9, "height": 9}, [{"score": 0.5}], [{"category_id": 1}], row)
    monkeypatch.setattr(outputs, "_one", lambda *_: json.loads(json.dumps(made)))
    monkeypatch.setattr(outputs, "records", lambda lines: ([] for _ in range(lines)))
    detector = SimpleNamespace(ids=(1,), names=("bolt",), title="tiny")

    def peak(number):
        found = [pictures.Picture(tmp_path, f"{k}.jpg", 9, 9) for k in range(number)]
        monkeypatch.setattr(outputs, "output_names", lambda names: dict.fromkeys(names, "x"))
        tracemalloc.start()
        try:
            outputs.write(number, found, [], detector, tmp_path, 0.5, detector.names)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)  # what is imported and compiled once
    few, many = peak(20), peak(300)
    assert many - few < 0.5e6, "a list of what 280 images have would be 3 MB"
    page = (tmp_path / "index.html").read_text()
    listed = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert listed["rows"] == [row] * 300 and listed["classes"][0]["count"] == 300
    content = json.loads((tmp_path / "annotations.json").read_text())
    assert [image["id"] for image in content["images"]] == list(range(1, 301)) and len(content["annotations"]) == 300
    assert len(json.loads((tmp_path / "results.json").read_text())) == 300


GROWTH = """
import psutil, torch
from pipeline.inference import models

torch.set_num_threads(1)
models.KERNELS = 16
models.limit_kernels()
layer, images = torch.nn.Conv2d(16, 16, 3, padding=1), torch.rand(120, 16, 14, 14)
with torch.no_grad():
    layer(images)
    before = psutil.Process().memory_info().rss
    for number in range(1, 120):
        layer(images[:number])
print((psutil.Process().memory_info().rss - before) / 1e6)
"""


def test_numbers_of_objects_do_not_pile_up_kernels():
    """oneDNN compiles a convolution for each number of objects; keeping these 119 would be 46 MB."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ONEDNN")}  # a test loaded one
    command = [sys.executable, "-c", GROWTH]
    grown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    assert float(grown.stdout) < 30


def test_names_of_results_are_those_of_the_pictures():
    assert outputs.output_names(["a/x.jpg", "a/y.png", "a/y.jpg"]) == {
        "a/x.jpg": "a/x",
        "a/y.png": "a/y.png",
        "a/y.jpg": "a/y.jpg",
    }


def shapes():
    disc = np.zeros((40, 50), np.uint8)
    cv2.circle(disc, (20, 20), 12, 1, -1)
    two = np.zeros((40, 50), bool)
    two[2:9, 3:20] = two[20:39, 30:50] = True
    dot = np.zeros((40, 50), bool)
    dot[7, 9] = True
    line = np.zeros((40, 50), bool)
    line[5, 3:30] = True
    return {"disc": disc.astype(bool), "two": two, "dot": dot, "line": line, "all": np.ones((40, 50), bool)}


@pytest.mark.parametrize("name", shapes())
def test_a_mask_is_the_same_as_polygons_and_as_run_lengths(name):
    mask = shapes()[name]
    height, width = mask.shape
    assert (masks.decoded(masks.encoded(mask, "rle"), height, width) == mask).all()
    polygons = masks.encoded(mask)
    assert all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in polygons)
    again = masks.decoded(polygons, height, width)
    assert (again & mask).sum() / (again | mask).sum() > (0.95 if name == "disc" else 0.999)


def test_an_empty_mask_has_no_polygon():
    assert masks.encoded(np.zeros((4, 5), bool)) == []
    counts = rle.frPyObjects([[0, 0, 3, 0, 3, 3, 0, 3]], 4, 5)[0]["counts"]
    assert masks.decoded({"size": [4, 5], "counts": counts.decode()}, 4, 5).sum() == 9
    assert masks.decoded({"size": [4, 5], "counts": [0, 4, 16]}, 4, 5).sum() == 4


def test_an_overlay_changes_what_is_inside_and_the_surest_object_is_in_front():
    image = np.full((60, 80, 3), 200, np.uint8)
    mask = np.zeros((60, 80), bool)
    mask[20:50, 10:70] = True
    drawn = drawing.overlay(image, [(0, mask, "first 0.9"), (1, mask, "second 0.8"), (2, mask & False, "none")])
    assert (image == 200).all() and drawn.shape == image.shape
    assert (drawn[35, 40] != 200).any() and (drawn[55, 75] == 200).all()
    edge = drawn[35, 10].astype(int)
    assert np.abs(edge - drawing.colour(0)[::-1]).sum() < np.abs(edge - drawing.colour(1)[::-1]).sum()


def test_work_ahead_comes_in_order():
    assert list(in_order(lambda x: x * x, ((n,) for n in range(50)), threads=3)) == [n * n for n in range(50)]
