import errno
import hashlib
import io
import json
import os
import re
import shutil
import threading
import zipfile

import pytest

from pipeline.datasets import contents, downloads
from pipeline.datasets.generated import scenes
from pipeline.datasets.prepare import ensure_images, prepare
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError

from .conftest import LABELS, SPEC, SUBSETS
from .faulty_server import Faults, serve

GENERATED = {"kind": "generated", "profile": "embedded", **LABELS, **SPEC, "train_images": 3, "val_images": 2}
FOLDERS = {"train2017.zip": "train2017", "val2017.zip": "val2017", "annotations.zip": "annotations"}


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(downloads, "BACKOFF", 0.001)
    monkeypatch.delenv("COCO_ROOT", raising=False)


def run(entry, folder):
    prepare("mini", entry, images_root=folder / "home" / "images", out_dir=folder / "out")
    return json.loads((folder / "out" / "manifest.json").read_text())


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def zips(generated_root):
    """The small generated dataset, packed as COCO is."""
    packed = {}
    for name, folder in FOLDERS.items():
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for path in sorted((generated_root / folder).iterdir()):
                archive.write(path, f"{folder}/{path.name}")
            archive.writestr(f"{folder}/captions_train2017.json", "{}")
        packed[name] = stream.getvalue()
    return packed


def coco_entry(zips, base_url="http://127.0.0.1:9", **extra):
    declared = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in zips.items()
    }
    return {"kind": "coco", "profile": "full", **LABELS, "base_url": base_url, "archives": declared, **extra}


def test_generated(tmp_path):
    manifest = run(GENERATED, tmp_path)
    assert manifest["spec"] == {**SPEC, "train_images": 3, "val_images": 2}
    counts = manifest["subsets"]["train2017"]
    assert counts["images"] == 3 and counts["instances"]["voc"] and counts["instances"]["nonvoc"]
    assert len(list((tmp_path / "home" / "images" / "val2017").iterdir())) == 2
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text()


def test_generated_is_drawn_once_and_again_for_another_spec(tmp_path, monkeypatch):
    run(GENERATED, tmp_path)
    drawn = []
    draw_all = scenes.generate
    monkeypatch.setattr(scenes, "generate", lambda spec, *rest: drawn.append(spec) or draw_all(spec, *rest))
    before = tree(tmp_path)
    shutil.rmtree(tmp_path / "out")  # as DVC does before a stage
    run(GENERATED, tmp_path)
    assert tree(tmp_path) == before and not drawn
    manifest = run({**GENERATED, "train_images": 2}, tmp_path)
    assert len(drawn) == 1 and manifest["subsets"]["train2017"]["images"] == 2
    assert len(list((tmp_path / "home" / "images" / "train2017").iterdir())) == 2


def test_an_interrupted_drawing_is_not_taken_for_complete(tmp_path, monkeypatch):
    class Interrupted(Exception):
        pass

    def interrupted(spec, cast, part, index):
        if part == 1:
            raise Interrupted
        return draw(spec, cast, part, index)

    version = scenes.VERSIONS[GENERATED["version"]]
    draw = version.draw
    monkeypatch.setitem(scenes.VERSIONS, GENERATED["version"], version._replace(draw=interrupted))
    with pytest.raises(Interrupted):
        run(GENERATED, tmp_path)
    assert not (tmp_path / "home" / "images").exists() and not (tmp_path / "out").exists()
    monkeypatch.setitem(scenes.VERSIONS, GENERATED["version"], version)
    assert run(GENERATED, tmp_path)["subsets"]["val2017"]["images"] == 2
    assert sorted(entry.name for entry in (tmp_path / "home").iterdir()) == ["images", "images.lock"]


def test_coco_from_a_server(tmp_path, zips, generated_root):
    with serve(zips, Faults(unavailable=1, drop_after=[5000])) as (url, faults):
        manifest = run(coco_entry(zips, url), tmp_path)
        asked = len(faults.requests)
        shutil.rmtree(tmp_path / "out")
        assert run(coco_entry(zips, url), tmp_path) == manifest
        assert len(faults.requests) == asked, "the second run asks for nothing"
    assert manifest["subsets"]["train2017"]["images"] == 12
    assert manifest["archives"] == coco_entry(zips)["archives"]
    for subset in SUBSETS:
        assert tree(tmp_path / "home" / "images" / subset) == {
            name: content for name, content in tree(generated_root / subset).items()
        }
        name = f"instances_{subset}.json"
        assert (tmp_path / "out" / "annotations" / name).read_bytes() == (
            generated_root / "annotations" / name
        ).read_bytes()
    assert sorted(tree(tmp_path / "home" / "downloads")) == sorted(zips)


def test_archives_can_be_deleted_after_unpacking(tmp_path, zips):
    with serve(zips) as (url, _):
        run(coco_entry(zips, url, keep_archives=False), tmp_path)
    assert tree(tmp_path / "home" / "downloads") == {}


def test_an_interrupted_fetch_goes_on_with_the_missing_archive(tmp_path, zips):
    with serve({name: zips[name] for name in list(zips)[:2]}) as (url, faults):
        with pytest.raises(ExperimentError, match="404 Client Error"):
            run(coco_entry(zips, url), tmp_path)
        assert not (tmp_path / "out").exists()
    with serve(zips) as (url, faults):
        run(coco_entry(zips, url), tmp_path)
        assert len(faults.requests) == 1


def test_other_archives_replace_what_was_unpacked(tmp_path, zips):
    with serve(zips) as (url, _):
        run(coco_entry(zips, url), tmp_path)
    stray = tmp_path / "home" / "images" / "train2017" / "stray.png"
    stray.write_bytes(b"from the first archives")
    other = {**zips, "annotations.zip": zips["annotations.zip"] + b""}
    stream = io.BytesIO(other["annotations.zip"])
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("note.txt", "another edition")
    other["annotations.zip"] = stream.getvalue()
    shutil.rmtree(tmp_path / "home" / "downloads")
    with serve(other) as (url, _):
        run(coco_entry(other, url), tmp_path)
    assert not stray.exists()


def test_a_wrong_checksum_leaves_no_dataset(tmp_path, zips):
    entry = coco_entry(zips)
    entry["archives"]["val2017.zip"]["sha256"] = "0" * 64
    with (
        serve(zips) as (url, _),
        pytest.raises(ExperimentError, match=r"val2017.zip: expected sha256 0{64}, got "),
    ):
        run({**entry, "base_url": url}, tmp_path)
    assert not (tmp_path / "out").exists()
    assert "val2017.zip" not in tree(tmp_path / "home" / "downloads")


def test_a_present_coco_folder_is_used_in_place(tmp_path, zips, generated_root, monkeypatch):
    monkeypatch.setenv("COCO_ROOT", str(generated_root))
    entry = coco_entry(zips, root_env="COCO_ROOT")
    in_place = run(entry, tmp_path / "linked")
    assert (tmp_path / "linked" / "home" / "images" / "train2017").resolve() == generated_root / "train2017"
    assert run(entry, tmp_path / "linked") == in_place
    monkeypatch.delenv("COCO_ROOT")
    with serve(zips) as (url, _):
        assert run({**entry, "base_url": url}, tmp_path / "fetched") == in_place, "same data, same manifest"
        monkeypatch.setenv("COCO_ROOT", "")
        assert run({**entry, "base_url": url}, tmp_path / "linked") == in_place
    assert not (tmp_path / "linked" / "home" / "images" / "train2017").is_symlink()
    assert len(list((generated_root / "train2017").iterdir())) == 12, "removing the links touched no original"


def test_a_coco_folder_inside_the_images_folder_is_left_alone(tmp_path, zips, generated_root, monkeypatch):
    root = tmp_path / "home" / "images"
    shutil.copytree(generated_root, root)
    before = tree(root)
    with pytest.raises(ExperimentError, match="holds files that stage download did not put there"):
        run(coco_entry(zips, root_env="COCO_ROOT"), tmp_path)
    monkeypatch.setenv("COCO_ROOT", str(root))
    run(coco_entry(zips, root_env="COCO_ROOT"), tmp_path)
    assert tree(root) == before


def test_a_broken_coco_folder(tmp_path, zips, generated_root, monkeypatch):
    root = tmp_path / "coco"
    entry = coco_entry(zips, root_env="COCO_ROOT")
    monkeypatch.setenv("COCO_ROOT", str(root))
    root.mkdir()
    with pytest.raises(
        ExperimentError, match=r"COCO_ROOT=.*coco: has no folder train2017/; it needs .*`COCO_ROOT= python -m"
    ):
        run(entry, tmp_path)
    shutil.copytree(generated_root, root, dirs_exist_ok=True)
    image = root / "val2017" / "000001000003.png"
    content = image.read_bytes()
    image.write_bytes(content[:5000])
    with pytest.raises(ExperimentError, match=f"{image} is truncated .*; {image.parent} is your own folder: restore"):
        run(entry, tmp_path)
    image.unlink()
    with pytest.raises(
        ExperimentError, match=f"of the 4 .* 1 cannot .* '{image.name}' is missing; put the images into {image.parent}"
    ):
        run(entry, tmp_path)
    image.write_bytes(content)
    (root / "annotations" / "instances_val2017.json").write_text("[]")
    with pytest.raises(ExperimentError, match="not COCO format: a list where an object is due"):
        run(entry, tmp_path)
    assert not (tmp_path / "out").exists()


ANNOTATIONS = "annotations/instances_val2017.json"


@pytest.fixture
def mirror(zips, tmp_path):
    """A folder with archives, and the entry that declares them; `pack` writes another edition of an archive."""

    class Mirror:
        folder = tmp_path / "mirror"

        def __init__(self):
            self.folder.mkdir()
            self.archives = dict(zips)
            self.write()

        def write(self):
            for name, content in self.archives.items():
                (self.folder / name).write_bytes(content)

        def pack(self, name, change):
            """Write an archive again, its members {name: bytes} changed by a function."""
            with zipfile.ZipFile(io.BytesIO(self.archives[name])) as archive:
                members = {member: archive.read(member) for member in archive.namelist()}
            change(members)
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w") as archive:
                for member, content in members.items():
                    archive.writestr(member, content)
            self.archives[name] = stream.getvalue()
            self.write()

        @property
        def entry(self):
            return coco_entry(self.archives, self.folder.as_uri(), root_env="COCO_ROOT")

    return Mirror()


def look(entry, folder):
    ensure_images("mini", entry, images_root=folder / "home" / "images", manifest=folder / "out" / "manifest.json")


def beside(folder):
    """What lies beside the images."""
    return sorted(path.name for path in (folder / "home").iterdir())


def edited(entry):
    """An entry with another last digit in one checksum."""
    entry = json.loads(json.dumps(entry))
    facts = entry["archives"]["train2017.zip"]
    facts["sha256"] = facts["sha256"][:-1] + "0123456789abcdef"[int(facts["sha256"][-1], 16) - 1]
    return entry


def test_an_edited_checksum_costs_nothing(tmp_path, mirror):
    run(mirror.entry, tmp_path)
    before = tree(tmp_path)
    wrong = edited(mirror.entry)
    with pytest.raises(ExperimentError) as caught:
        look(wrong, tmp_path)
    text = str(caught.value)
    assert "mini.archives.train2017.zip.sha256); undo that edit, or run `python -m stages.download mini`" in text
    assert tree(tmp_path) == before, "who only looks changes nothing"
    with pytest.raises(ExperimentError, match="train2017.zip: expected sha256 .* declares a wrong value"):
        run(wrong, tmp_path)
    after = tree(tmp_path)
    assert {name: after[name] for name in before} == before, "nor does a download that fails"
    look(mirror.entry, tmp_path)
    run(mirror.entry, tmp_path)
    assert tree(tmp_path) == before


def test_a_shell_without_the_variable_keeps_the_linked_folder(tmp_path, mirror, generated_root, monkeypatch):
    monkeypatch.setenv("COCO_ROOT", str(generated_root))
    manifest = run(mirror.entry, tmp_path)
    monkeypatch.delenv("COCO_ROOT")
    link = tmp_path / "home" / "images" / "train2017"
    inode = link.lstat().st_ino
    look(mirror.entry, tmp_path)
    assert run(mirror.entry, tmp_path) == manifest
    assert link.lstat().st_ino == inode and link.resolve() == generated_root / "train2017"
    assert beside(tmp_path) == ["images", "images.lock"]


def test_a_linked_folder_stays_until_the_archives_are_complete(tmp_path, mirror, generated_root, monkeypatch):
    monkeypatch.setenv("COCO_ROOT", str(generated_root))
    run(mirror.entry, tmp_path)
    before = tree(tmp_path / "home")
    link = tmp_path / "home" / "images" / "train2017"
    monkeypatch.setenv("COCO_ROOT", "")
    (mirror.folder / "val2017.zip").unlink()
    with pytest.raises(ExperimentError, match="archive .*val2017.zip is missing"):
        run(mirror.entry, tmp_path)
    assert link.resolve() == generated_root / "train2017"
    assert {name: content for name, content in tree(tmp_path / "home").items() if name in before} == before
    mirror.write()
    run(mirror.entry, tmp_path)
    assert not link.is_symlink() and beside(tmp_path) == ["images", "images.lock"]


def test_another_folder_is_linked_only_if_it_is_good(tmp_path, mirror, generated_root, monkeypatch):
    monkeypatch.setenv("COCO_ROOT", str(generated_root))
    run(mirror.entry, tmp_path)
    other = tmp_path / "other"
    shutil.copytree(generated_root, other)
    image = next((other / "train2017").iterdir())
    content = image.read_bytes()
    image.write_bytes(content[:100])
    monkeypatch.setenv("COCO_ROOT", str(other))
    with pytest.raises(ExperimentError, match="is your own folder: restore the file there"):
        run(mirror.entry, tmp_path)
    link = tmp_path / "home" / "images" / "train2017"
    assert link.resolve() == generated_root / "train2017"
    look(mirror.entry, tmp_path)
    image.write_bytes(content)
    run(mirror.entry, tmp_path)
    assert link.resolve() == other / "train2017" and beside(tmp_path) == ["images", "images.lock"]


def test_unpacked_images_are_not_given_up_for_a_folder(tmp_path, mirror, generated_root, monkeypatch):
    run(mirror.entry, tmp_path)
    before = tree(tmp_path)
    monkeypatch.setenv("COCO_ROOT", str(generated_root))
    run(mirror.entry, tmp_path)
    assert tree(tmp_path) == before


def test_a_linked_folder_that_is_gone_is_named(tmp_path, mirror, generated_root, monkeypatch):
    disk = tmp_path / "disk"
    shutil.copytree(generated_root, disk)
    monkeypatch.setenv("COCO_ROOT", str(disk))
    run(mirror.entry, tmp_path)
    monkeypatch.delenv("COCO_ROOT")
    disk.rename(tmp_path / "unmounted")
    with pytest.raises(ExperimentError, match=r"no folder .*train2017, which leads to .*disk/train2017; run `python"):
        look(mirror.entry, tmp_path)
    with pytest.raises(ExperimentError, match=r"leads to .*disk/train2017.*; mount or restore it, or set COCO_ROOT"):
        run(mirror.entry, tmp_path)
    (tmp_path / "unmounted").rename(disk)
    look(mirror.entry, tmp_path)


def remove(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def enlarge(path):
    path.write_bytes(path.read_bytes() + b"more")


DAMAGES = [remove, empty, cut, flip, enlarge]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["train2017/000000000003.png", ANNOTATIONS])
@pytest.mark.parametrize("kind", ["coco", "generated"])
def test_what_was_damaged_is_brought_back(tmp_path, mirror, damage, file, kind):
    entry = {"coco": mirror.entry, "generated": GENERATED}[kind]
    manifest, before = run(entry, tmp_path), tree(tmp_path)
    damage(tmp_path / "home" / "images" / file)
    assert run(entry, tmp_path) == manifest and tree(tmp_path) == before


def test_only_what_lacks_is_unpacked(tmp_path, mirror):
    run(mirror.entry, tmp_path)
    images = tmp_path / "home" / "images" / "train2017"
    kept = {path: path.stat().st_ino for path in images.iterdir()}
    remove(images / "000000000003.png")
    (mirror.folder / "val2017.zip").unlink()  # is not needed
    run(mirror.entry, tmp_path)
    changed = [path.name for path, inode in kept.items() if path.stat().st_ino != inode]
    assert set(changed) <= {"000000000003.png"} and len(list(images.iterdir())) == len(kept)


@pytest.mark.parametrize("gone", ["train2017", "annotations", ""])
def test_a_deleted_folder_is_filled_again(tmp_path, mirror, gone):
    manifest, before = run(mirror.entry, tmp_path), tree(tmp_path)
    shutil.rmtree(tmp_path / "home" / "images" / gone)
    assert run(mirror.entry, tmp_path) == manifest and tree(tmp_path) == before


def test_what_was_unpacked_without_a_record_of_it_is_compared_with_the_archives(tmp_path, mirror):
    manifest, before = run(mirror.entry, tmp_path), tree(tmp_path)
    remove(tmp_path / "home" / "images" / "contents.json")
    flip(tmp_path / "home" / "images" / "train2017" / "000000000003.png")
    assert run(mirror.entry, tmp_path) == manifest and tree(tmp_path) == before


def test_deleted_archives_are_fetched_again_for_what_lacks(tmp_path, zips):
    with serve(zips) as (url, faults):
        entry = coco_entry(zips, url, keep_archives=False)
        manifest = run(entry, tmp_path)
        empty(tmp_path / "home" / "images" / "val2017" / "000001000003.png")
        assert run(entry, tmp_path) == manifest and len(faults.requests) == 4
    assert tree(tmp_path / "home" / "downloads") == {}


def test_other_archives_take_over_only_once_they_are_checked(tmp_path, mirror):
    run(mirror.entry, tmp_path)
    before = tree(tmp_path)
    good = mirror.archives["annotations.zip"]
    mirror.pack("annotations.zip", lambda members: members.update({ANNOTATIONS: b"[]"}))
    with pytest.raises(ExperimentError, match="not COCO format"):
        run(mirror.entry, tmp_path)
    after = tree(tmp_path)
    assert {name: after.get(name) for name in before if name.startswith(("home", "out"))} == {
        name: content for name, content in before.items() if name.startswith(("home", "out"))
    }
    mirror.archives["annotations.zip"] = good
    mirror.pack("annotations.zip", lambda members: members.update({"note.txt": b"another edition"}))
    manifest = run(mirror.entry, tmp_path)
    assert manifest["archives"] == mirror.entry["archives"] and beside(tmp_path) == ["images", "images.lock"]
    look(mirror.entry, tmp_path)


def test_a_reader_never_finds_an_image_missing_while_another_edition_takes_over(tmp_path, mirror):
    run(mirror.entry, tmp_path)
    image = tmp_path / "home" / "images" / "train2017" / "000000000003.png"
    misses, reads, stop = [], [], threading.Event()

    def read():
        while not stop.is_set():
            try:
                reads.append(len(image.read_bytes()))
            except OSError as error:
                misses.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        mirror.pack("annotations.zip", lambda members: members.update({"note.txt": b"another edition"}))
        run(mirror.entry, tmp_path)
    finally:
        stop.set()
        reader.join()
    assert reads and not misses


@pytest.mark.parametrize("exchange", [True, False])
def test_a_swap_that_is_killed_is_mended(tmp_path, mirror, monkeypatch, exchange):
    run(mirror.entry, tmp_path)
    before = tree(tmp_path / "home")
    if not exchange:
        monkeypatch.setattr(contents, "_exchange", lambda *_: False)
    mirror.pack("annotations.zip", lambda members: members.update({"note.txt": b"another edition"}))
    rename, calls = os.rename, []

    def killed(*names):
        calls.append(names)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(*names)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        try:
            run(mirror.entry, tmp_path)
        except KeyboardInterrupt:
            assert not (tmp_path / "home" / "images").exists()
    contents.recover(tmp_path / "home" / "images")
    images = tree(tmp_path / "home" / "images")
    assert all(images[name] for name in images) and len(images) == len(before) - 1  # the lock
    run(mirror.entry, tmp_path)
    assert beside(tmp_path) == ["images", "images.lock"]


def test_another_spec_is_drawn_before_the_old_images_go(tmp_path, monkeypatch):
    run(GENERATED, tmp_path)
    before = tree(tmp_path)
    other = {**GENERATED, "seed": 8}
    with pytest.raises(ExperimentError, match=r"declares now \(datasets.mini.spec.seed\); undo that edit, or"):
        look(other, tmp_path)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(scenes.VERSIONS, 1, scenes.VERSIONS[1]._replace(draw=interrupted))
        with pytest.raises(KeyboardInterrupt):
            run(other, tmp_path)
    assert {name: tree(tmp_path).get(name) for name in before} == before
    look(GENERATED, tmp_path)
    run(other, tmp_path)
    look(other, tmp_path)
    assert beside(tmp_path) == ["images", "images.lock"]


@pytest.mark.parametrize("kind", ["coco", "generated"])
def test_files_of_others_are_left_alone(tmp_path, mirror, kind):
    own = tmp_path / "home" / "images" / "holiday.jpg"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    with pytest.raises(ExperimentError, match="holds files that stage download did not put there; move them away"):
        run({"coco": mirror.entry, "generated": GENERATED}[kind], tmp_path)
    assert own.read_bytes() == b"mine"


def test_images_on_another_disk_stay_there(tmp_path, mirror):
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "images").symlink_to(disk)
    run(mirror.entry, tmp_path)
    mirror.pack("annotations.zip", lambda members: members.update({"note.txt": b"another edition"}))
    run(mirror.entry, tmp_path)
    assert (tmp_path / "home" / "images").is_symlink() and len(list((disk / "train2017").iterdir())) == 12


@pytest.mark.parametrize("kind", ["coco", "generated"])
@pytest.mark.parametrize("state", ["no images", "no manifest", "damaged manifest", "no folder", "unfinished"])
def test_who_needs_images_only_looks(tmp_path, mirror, kind, state):
    entry = {"coco": mirror.entry, "generated": GENERATED}[kind]
    run(entry, tmp_path)
    images, manifest = tmp_path / "home" / "images", tmp_path / "out" / "manifest.json"
    if state == "no images":
        shutil.rmtree(images)
    elif state == "no folder":
        shutil.rmtree(images / "val2017")
    elif state == "no manifest":
        manifest.unlink()
    elif state == "damaged manifest":
        manifest.write_text("{")
    else:
        (images / contents.MARKERS[kind]).write_text("{}")
    before = tree(tmp_path)
    with pytest.raises(ExperimentError) as caught:
        look(entry, tmp_path)
    assert "run `python -m stages.download mini`" in str(caught.value) and "\n" not in str(caught.value)
    assert tree(tmp_path) == before
    run(entry, tmp_path)
    look(entry, tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("place", ["shutil.copyfileobj", "shutil.copyfile", "os.replace"])
def test_a_disk_that_refuses_is_told_and_nothing_is_lost(tmp_path, mirror, monkeypatch, number, place):
    run(mirror.entry, tmp_path)
    before = tree(tmp_path)
    mirror.pack("annotations.zip", lambda members: members.update({"note.txt": b"another edition"}))

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), "/some/file")

    with monkeypatch.context() as patch:
        patch.setattr(place, refuse)
        with pytest.raises(ExperimentError) as caught:
            run(mirror.entry, tmp_path)
    assert str(caught.value).startswith(f"/some/file: {os.strerror(number)}; ") and "\n" not in str(caught.value)
    assert re.search("run (again|`python -m stages.download` again)", str(caught.value))
    after = tree(tmp_path)
    assert {name: after.get(name) for name in before if not name.startswith("mirror")} == {
        name: content for name, content in before.items() if not name.startswith("mirror")
    }
    run(mirror.entry, tmp_path)
    look(mirror.entry, tmp_path)
    assert beside(tmp_path) == ["images", "images.lock"]


def test_one_more_archive_does_not_touch_the_old_before_it_is_checked(tmp_path, mirror):
    run(mirror.entry, tmp_path)
    before = tree(tmp_path / "home")
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr(ANNOTATIONS, "{}")
    mirror.archives["other.zip"] = other.getvalue()
    mirror.write()
    with pytest.raises(ExperimentError, match=f"{ANNOTATIONS}: .* both hold it, with different content; declare one"):
        run(mirror.entry, tmp_path)
    after = tree(tmp_path / "home")
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("place", ["images", "images.new"])
def test_a_folder_that_leads_into_ours_is_refused(tmp_path, mirror, monkeypatch, place):
    run(mirror.entry, tmp_path)
    if place == "images.new":
        shutil.copytree(tmp_path / "home" / "images", tmp_path / "home" / place)
    before = tree(tmp_path)
    for name in ("train2017", "val2017", "annotations"):
        (tmp_path / "coco").mkdir(exist_ok=True)
        (tmp_path / "coco" / name).symlink_to(tmp_path / "home" / place / name)
    monkeypatch.setenv("COCO_ROOT", str(tmp_path / "coco"))
    with pytest.raises(ExperimentError, match=f"train2017/ leads into .*/{place}, which stage download may replace"):
        run(edited(mirror.entry), tmp_path)
    assert {name: tree(tmp_path).get(name) for name in before} == before


@pytest.mark.parametrize("file", ["archives.json", "contents.json"])
def test_a_marker_that_is_no_file_is_named(tmp_path, mirror, file):
    run(mirror.entry, tmp_path)
    marker = tmp_path / "home" / "images" / file
    marker.unlink()
    os.mkfifo(marker)
    with pytest.raises(ExperimentError, match=f"{file}: a FIFO where a file is due; move it away"):
        run(mirror.entry, tmp_path)


def test_what_an_earlier_version_unpacked_is_not_fetched_again_while_it_can_be_used(tmp_path, zips):
    with serve(zips) as (url, faults):
        entry = coco_entry(zips, url, keep_archives=False)
        manifest, before = run(entry, tmp_path), tree(tmp_path)
        asked = len(faults.requests)
        remove(tmp_path / "home" / "images" / "contents.json")
        assert run(entry, tmp_path) == manifest and len(faults.requests) == asked
        cut(tmp_path / "home" / "images" / "train2017" / "000000000003.png")
        assert run(entry, tmp_path) == manifest and len(faults.requests) == asked + 3
    assert tree(tmp_path) == before


def test_images_on_a_disk_that_is_not_mounted_are_not_put_elsewhere(tmp_path, mirror):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "images").symlink_to(tmp_path / "disk" / "images")
    with pytest.raises(ExperimentError, match="home/images leads to .*disk/images, where nothing is; mount it or"):
        run(mirror.entry, tmp_path)
    assert not (tmp_path / "disk").exists()


@pytest.mark.parametrize("name", list(experiments.load().datasets))
def test_every_declared_dataset_is_one_that_download_takes(name, tmp_path):
    with pytest.raises(ExperimentError, match="manifest.json: no such file, or damaged; run"):
        ensure_images(name, experiments.load().dataset(name), images_root=tmp_path, manifest=tmp_path / "manifest.json")
