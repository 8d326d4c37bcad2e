"""Names as exporters write them: taken where it is certain which file is meant, or refused in one true line."""

import hashlib
import json
import os
import shutil
import socket
import unicodedata

import cv2
import pytest
from PIL import Image

from pipeline.datasets.images import SUFFIXES, is_whole, remedy, resolve_names
from pipeline.datasets.prepare import prepare
from pipeline.errors import ExperimentError

from .conftest import COCO_SET, LABELS

NFC, NFD = (unicodedata.normalize(form, "caf\u00e9.jpg") for form in ("NFC", "NFD"))


@pytest.fixture
def folder(tmp_path):
    """A function that makes a folder of a subset with files of these names."""

    def make(*names):
        for name in names:
            path = tmp_path / "train2017" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"image")
        return tmp_path / "train2017"

    return make


@pytest.mark.parametrize(
    "listed, present",
    [
        ("1.jpg", "1.jpg"),
        ("1.JPG", "1.JPG"),
        ("a/b/1.jpg", "a/b/1.jpg"),
        (NFC, NFD),
        (NFD, NFC),
        ("\u00e9/1.jpg", "e\u0301/1.jpg"),
        ("1.jpg", "1.JPG"),
        ("Photo 1.jpeg", "photo 1.jpeg"),
        ("train2017/1.jpg", "1.jpg"),
        ("coco/train2017/1.jpg", "1.jpg"),
        ("/home/me/coco/train2017/1.jpg", "1.jpg"),
        ("C:\\coco\\train2017\\1.jpg", "1.jpg"),
        ("a\\1.jpg", "a/1.jpg"),
        ("./1.jpg", "1.jpg"),
        ("train2017/1.jpg", "train2017/1.jpg"),
        ("train2017/" + NFC, NFD),
        ("a\\1.jpg", "a\\1.jpg"),
        ("stra\u00dfe.jpg", "STRASSE.jpg"),
    ],
)
def test_a_name_means_the_file_it_must_mean(folder, listed, present):
    assert resolve_names([listed], folder(present, "other.jpg")) == {listed: present}


def test_a_file_of_just_that_name_comes_first(folder):
    where = folder("1.jpg", "1.JPG", NFC, NFD, "train2017/1.jpg")
    names = ["1.jpg", "1.JPG", NFC, NFD, "train2017/1.jpg"]
    assert resolve_names(names, where) == {name: name for name in names}


@pytest.mark.parametrize(
    "listed, present, message",
    [
        (["2.jpg"], ["1.jpg"], "of the 1 images that its annotations list 1 cannot be used, the first '2.jpg' is"),
        (["../1.jpg"], ["1.jpg"], "'../1.jpg' is missing"),
        (["/etc/passwd"], ["1.jpg"], "'/etc/passwd' is missing"),
        ([""], ["1.jpg"], "'' is missing"),
        (["train2017"], ["1.jpg"], "'train2017' is missing"),
        (["a"], ["a/1.jpg"], "'a' is a folder"),
        (["val2017/1.jpg"], ["1.jpg"], "'val2017/1.jpg' is missing"),
        (["x" * 5000 + ".jpg"], ["1.jpg"], "is missing"),
        (["1.heic"], ["1.jpg"], "'1.heic' is missing (images are read with the endings jpg, "),
        (["A.jpg"], ["a.jpg", "a.JPG"], "the listed image 'A.jpg' may be 'a.JPG' or 'a.jpg'; correct file_name"),
        (["1.jpg", "train2017/1.jpg"], ["1.jpg"], "'1.jpg' and 'train2017/1.jpg' are both the file '1.jpg'"),
        ([NFC, NFD], [NFC], "are both the file"),
        ([7], ["1.jpg"], "file_name 7 is no text"),
        ([None], ["1.jpg"], "file_name None is no text"),
        ([["1.jpg"]], ["1.jpg"], r"file_name ['1.jpg'] is no text"),
    ],
)
def test_what_is_uncertain_is_refused(folder, listed, present, message):
    with pytest.raises(ExperimentError) as caught:
        resolve_names(listed, folder(*present))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device", "link to nowhere"])
def test_what_is_no_file_is_named_and_not_opened(folder, kind, monkeypatch):
    where = folder("1.jpg")
    if kind == "FIFO":
        os.mkfifo(where / "2.jpg")
    elif kind == "socket":
        monkeypatch.chdir(where)  # the address of a socket is short
        socket.socket(socket.AF_UNIX).bind("2.jpg")
    else:
        (where / "2.jpg").symlink_to("/dev/zero" if kind == "device" else where / "nowhere")
    found = kind if kind == "link to nowhere" else "no regular file"
    with pytest.raises(ExperimentError, match=f"'2.jpg' is .*{found}; put the images into"):
        resolve_names(["1.jpg", "2.jpg"], where)
    assert not is_whole(where / "2.jpg")


def test_links_to_files_and_folders_are_followed_once(folder, tmp_path):
    where = folder("1.jpg")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "2.jpg").write_bytes(b"image")
    (where / "linked").symlink_to(tmp_path / "elsewhere")
    (where / "2.jpg").symlink_to(tmp_path / "elsewhere" / "2.jpg")
    (where / "loop").symlink_to(where)
    names = ["1.jpg", "2.jpg", "linked/2.jpg"]
    assert resolve_names(names, where) == {name: name for name in names}


def small(folder, names, listed):
    """A COCO folder of images with the given names, listed otherwise."""
    for subset in ("train2017", "val2017"):
        images = []
        for number, (name, file_name) in enumerate(zip(names, listed, strict=True)):
            path = folder / subset / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6), (number, 0, 0)).save(path, "JPEG" if path.suffix == ".jfif" else None)
            images.append({"id": number, "file_name": file_name, "width": 8, "height": 6, "note": "caf\u00e9"})
        box = {"bbox": [1, 1, 3, 3], "area": 9.0, "segmentation": [[1, 1, 4, 1, 4, 4, 1, 4]], "iscrowd": 0}
        content = {
            "info": {"year": 2026},
            "images": images,
            "categories": [category._asdict() for category in COCO_SET.categories],
            "annotations": [{"id": 1, "image_id": 0, "category_id": 1, **box}],
        }
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{subset}.json").write_text(json.dumps(content))


ENTRY = {
    "kind": "coco",
    "profile": "smoke",
    **LABELS,
    "root_env": "COCO_ROOT",
    "base_url": "http://127.0.0.1:9",
    "archives": {"a.zip": {"bytes": 5, "md5": "0" * 32}},
}


@pytest.mark.parametrize("how", ["folder", "archive"])
def test_annotations_are_handed_on_with_the_names_on_disk(tmp_path, monkeypatch, how):
    names = [NFD, "a/2.JPG", "3.PNG", "4.bmp", "5.webp", "6.tiff"]
    small(tmp_path / "coco", names, [NFC, "train2017\\a\\2.jpg", "3.PNG", "./4.bmp", "5.WEBP", "6.tiff"])
    # the prefix of the other subset is another folder's
    path = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace("train2017", "val2017"))
    entry = dict(ENTRY)
    if how == "folder":
        monkeypatch.setenv("COCO_ROOT", str(tmp_path / "coco"))
    else:
        monkeypatch.delenv("COCO_ROOT", raising=False)
        packed = shutil.make_archive(tmp_path / "mirror" / "a", "zip", tmp_path / "coco")
        content = open(packed, "rb").read()
        entry |= {
            "base_url": str(tmp_path / "mirror"),
            "archives": {"a.zip": {"bytes": len(content), "md5": hashlib.md5(content).hexdigest()}},
        }
    prepare("mini", entry, images_root=tmp_path / "images", out_dir=tmp_path / "out")
    for subset in ("train2017", "val2017"):
        source = json.loads((tmp_path / "coco" / "annotations" / f"instances_{subset}.json").read_text())
        written = json.loads((tmp_path / "out" / "annotations" / f"instances_{subset}.json").read_text())
        assert [image["file_name"] for image in written["images"]] == names
        for image in written["images"]:
            assert cv2.imread(str(tmp_path / "images" / subset / image["file_name"])).shape == (6, 8, 3)
        for image, name in zip(source["images"], names, strict=True):
            image["file_name"] = name
        assert written == source, "nothing else is changed"
    assert sorted(path.name for path in (tmp_path / "out" / "annotations").iterdir()) == [
        "findings.md",
        "instances_train2017.json",
        "instances_val2017.json",
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_ending_that_is_unpacked_can_be_read(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    kind = {"jfif": "JPEG", "dib": "BMP"}.get(suffix)
    Image.new("L" if suffix == "pgm" else "RGB", (32, 16)).save(path, kind)
    assert is_whole(path) and cv2.imread(str(path)).shape == (16, 32, 3)
    path.write_bytes(path.read_bytes()[:-40])
    assert not is_whole(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"<html>" + bytes(100), b"\xff\xd9" * 40, b"RIFF" + bytes(40)])
def test_what_is_no_image_is_not_whole(tmp_path, content):
    (tmp_path / "1.jpg").write_bytes(content)
    assert not is_whole(tmp_path / "1.jpg")


def test_the_remedy_knows_whose_folder_it_is(tmp_path):
    root = tmp_path / "data" / "mini" / "images"
    (root / "train2017").mkdir(parents=True)
    assert remedy(root / "train2017") == f"{root / 'train2017'} is your own folder: restore the file there"
    (root / "archives.json").write_text("{}")
    assert remedy(root / "train2017").startswith("run `python -m stages.download mini`, which brings back")
