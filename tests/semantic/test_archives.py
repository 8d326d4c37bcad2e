"""Official archives, made up: either coding gives the same maps, what does not fit is refused in one line."""

import hashlib
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from pipeline.datasets import downloads
from pipeline.datasets.label_maps import decoding, official
from pipeline.datasets.label_maps.packs import Pack
from pipeline.datasets.prepare import ensure_images, prepare
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from tests.semantic import archives
from tests.semantic.archives import DROPPED, STUFF, TEST, TRAIN, label_map, stuff_archive, stuff_mat

ENTRY = {
    "kind": "label_maps",
    "layout": "coco_stuff_10k",
    "profile": "smoke_maps",
    "label_set": "coco_stuff",
    "train": "train",
    "validation": "test",
}
NAME = "stuff.zip"


def entry(folder, **options):
    return ENTRY | {"base_url": str(folder), "archives": {NAME: {}}} | options


def run(given, folder):
    """Prepare a dataset below a folder. Returns its manifest."""
    home, out = folder / "home" / "stuff" / "images", folder / "out"
    prepare("stuff", given, images_root=home, out_dir=out)
    ensure_images("stuff", given, images_root=home, manifest=out / "manifest.json")
    return json.loads((out / "manifest.json").read_text())


def maps_of(folder, subset):
    pack = Pack(folder / "out" / "annotations" / f"maps_{subset}.json")
    return {image["file_name"]: pack.read(position) for position, image in enumerate(pack.images)}


@pytest.mark.parametrize("root", ["", "cocostuff-10k/"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_either_coding_gives_the_same_maps(version, root, tmp_path):
    stuff_archive(tmp_path / NAME, version, root=root)
    manifest = run(entry(tmp_path, train_images=3, val_images=1), tmp_path)
    found = maps_of(tmp_path, "train")
    assert list(found) == [f"{name}.jpg" for name in TRAIN], "without the image that the released loaders leave out"
    for number, labels in enumerate(found.values(), 1):
        assert (labels == label_map(number)).all()
    assert (maps_of(tmp_path, "test")[f"{TEST[0]}.jpg"] == label_map(5)).all()
    facts = manifest["subsets"]["train"]
    assert facts["images"] == 3 and facts["images_by_class"]["person"] == 3 == facts["images_by_class"]["wood"]
    assert sorted(path.name for path in (tmp_path / "home/stuff/images/train").iterdir()) == sorted(found)
    assert DROPPED not in str([*(tmp_path / "home").rglob("*")])


def test_what_is_there_is_not_unpacked_again_and_what_lacks_is_brought_back(tmp_path):
    stuff_archive(tmp_path / NAME)
    first = run(entry(tmp_path), tmp_path)
    image = tmp_path / "home/stuff/images/train" / f"{TRAIN[1]}.jpg"
    whole, other = image.read_bytes(), image.with_name(f"{TRAIN[0]}.jpg").stat().st_mtime_ns
    image.write_bytes(b"cut")
    assert run(entry(tmp_path), tmp_path) == first
    assert image.read_bytes() == whole and image.with_name(f"{TRAIN[0]}.jpg").stat().st_mtime_ns == other
    (tmp_path / NAME).unlink()
    assert run(entry(tmp_path), tmp_path) == first, "nothing lacks, so no archive is needed"


@pytest.mark.parametrize("version, container", [("1.0", "1.1"), ("1.1", "1.0")])
def test_numbers_in_the_other_versions_container_are_refused(version, container, tmp_path):
    """A wrong rule gives wrong classes without an error; container and numbers have to agree."""
    mats = {
        f"annotations/{name}.mat": stuff_mat(label_map(k), version, container)
        for k, name in enumerate((*TRAIN, *TEST), 1)
    }
    stuff_archive(tmp_path / NAME, train=TRAIN, **mats)
    with pytest.raises(ExperimentError, match="container"):
        run(entry(tmp_path), tmp_path)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_numbers_that_may_be_of_either_version_are_refused():
    version = decoding.Version()
    version.add("a.mat", "1.1", {1, 5, 172})
    with pytest.raises(ExperimentError, match="cannot be told apart"):
        version.refuse_other("annotations")
    version.add("b.mat", "1.1", {0, 3})
    version.refuse_other("annotations")
    with pytest.raises(ExperimentError, match="c.mat: a file of COCO-Stuff-10K 1.0 among those of 1.1"):
        version.add("c.mat", "1.0", {1})


@pytest.mark.parametrize(
    "content, message",
    [
        (b"PK something", "neither HDF5"),
        (b"\x89HDF\r\n\x1a\n and no more", "no array S can be read"),
        (b"MATLAB 5.0 MAT-file, cut", "no array S can be read"),
    ],
)
def test_a_file_that_is_none_is_told(content, message, tmp_path):
    path = tmp_path / "a.mat"
    path.write_bytes(content)
    with pytest.raises(ExperimentError, match=message):
        decoding.read_stuff(path, STUFF, decoding.Version())


def test_every_class_has_the_number_of_its_version(tmp_path):
    labels = np.append(np.arange(171, dtype=np.uint8), np.uint8(255)).reshape(4, 43)
    for version in ("1.0", "1.1"):
        path = tmp_path / f"{version}.mat"
        path.write_bytes(stuff_mat(labels, version))
        assert (decoding.read_stuff(path, STUFF, decoding.Version()) == labels).all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({f"images/{TRAIN[0]}.jpg": None}, f"lists {TRAIN[0]} for train and has no file of it in images/"),
        ({f"annotations/{TRAIN[0]}.mat": None}, "has no file of it in annotations/"),
        ({"imageLists/test.txt": None}, "has no imageLists/test.txt"),
        ({"imageLists/test.txt": TRAIN[0].encode()}, "is listed for training and for validation"),
        ({f"images/{TRAIN[0]}.jpg": archives.jpeg((12, 15))}, "16 x 12 pixels, its image 15 x 12"),
        ({f"images/{TRAIN[0]}.jpg": archives.jpeg()[:-40]}, "is truncated or not an image"),
    ],
)
def test_an_incomplete_archive_is_refused_and_a_whole_one_taken(change, message, tmp_path):
    stuff_archive(tmp_path / NAME, **change)
    with pytest.raises(ExperimentError, match=message):
        run(entry(tmp_path), tmp_path)
    stuff_archive(tmp_path / NAME)
    assert run(entry(tmp_path), tmp_path)["subsets"]["train"]["images"] == 3


def test_other_lists_and_counts_than_the_official_ones_are_refused(tmp_path):
    stuff_archive(tmp_path / NAME)
    due = official.list_digest([DROPPED, *TRAIN])
    run(entry(tmp_path, list_sha256={"train": due}), tmp_path)
    (tmp_path / "other").mkdir()
    with pytest.raises(ExperimentError, match="is not the official list"):
        run(entry(tmp_path, list_sha256={"train": due, "test": due}), tmp_path / "other")
    with pytest.raises(ExperimentError, match=r"train: 3 images, 4 are due \(datasets.stuff.train_images"):
        run(entry(tmp_path, train_images=4), tmp_path)


def test_ade20k_by_its_folders_and_its_checksum(tmp_path):
    path = archives.ade_archive(tmp_path / NAME)
    right, wrong = hashlib.sha1(path.read_bytes()).hexdigest(), "0" * 40
    options = {"layout": "ade20k", "label_set": "ade20k", "train": "training", "validation": "validation"}
    with pytest.raises(ExperimentError, match=f"expected sha1 {wrong}, got {right}"):
        run(entry(tmp_path, **options, archives={NAME: {"sha1": wrong}}), tmp_path)
    run(entry(tmp_path, **options, archives={NAME: {"sha1": right}}), tmp_path)
    found = maps_of(tmp_path, "training")
    assert list(found) == ["ADE_train_00000001.jpg", "ADE_train_00000002.jpg"], "5149 is left out"
    assert (found["ADE_train_00000002.jpg"] == label_map(2, 150)).all()
    assert list(maps_of(tmp_path, "validation")) == ["ADE_val_00000001.jpg"]


class Handler(SimpleHTTPRequestHandler):
    """Serves half of what is asked for the first time, and ranges."""

    cut = True

    def do_GET(self):
        content = (self.server.folder / self.path.lstrip("/")).read_bytes()
        start = int(self.headers.get("Range", "bytes=0-").split("=")[1].rstrip("-"))
        self.server.starts.append(start)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end = len(content) // 2 if len(self.server.starts) == 2 else len(content)
        self.wfile.write(content[start:end])

    def log_message(self, *_):
        pass


def test_an_archive_of_unknown_size_is_downloaded_and_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "BACKOFF", 0.0)
    monkeypatch.setattr(downloads, "CHUNK", 1 << 10)
    (tmp_path / "served").mkdir()
    size = stuff_archive(tmp_path / "served" / NAME).stat().st_size
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler)) as server:
        server.folder, server.starts = tmp_path / "served", []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        given = entry(f"http://127.0.0.1:{server.server_port}", keep_archives=False)
        first = run(given, tmp_path)
        *asked, resumed = server.starts
        assert asked == [0, 0] and 0 < resumed <= size // 2, "asked for its size, broken off, resumed"
        server.shutdown()
    assert not [*(tmp_path / "home/stuff/downloads").iterdir()]
    assert run(given, tmp_path) == first, "without a server, as nothing lacks"


def test_an_archive_can_be_brought_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "BACKOFF", 0.0)
    given = entry("http://127.0.0.1:9")  # nobody answers
    with pytest.raises(ExperimentError, match=rf"or bring {tmp_path}/home/stuff/downloads/{NAME}"):
        run(given, tmp_path)
    (tmp_path / "home/stuff/downloads").mkdir(parents=True, exist_ok=True)
    stuff_archive(tmp_path / "home/stuff/downloads" / NAME)
    assert run(given, tmp_path)["subsets"]["train"]["images"] == 3


@pytest.mark.parametrize("name", ["coco_stuff_10k", "coco_stuff_10k_v10", "ade20k"])
def test_declared_counts_are_those_of_the_lists_without_what_is_left_out(name):
    given = experiments.load().dataset(name)
    listed = {"coco_stuff_10k": 9000, "ade20k": 20210}[given["layout"]]
    assert given["train_images"] == listed - len(official.LAYOUTS[given["layout"]].dropped)
