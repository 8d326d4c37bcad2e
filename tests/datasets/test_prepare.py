import hashlib
import io
import json
import shutil
import zipfile

import pytest

from pipeline.datasets import downloads, generated
from pipeline.datasets import prepare as preparation
from pipeline.datasets.prepare import prepare
from pipeline.errors import ExperimentError

from .conftest import SPEC
from .faulty_server import Faults, serve

GENERATED = {"kind": "generated", "profile": "embedded", **SPEC, "train_images": 3, "val_images": 2}
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
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in zips.items()
    }
    return {"kind": "coco", "profile": "full", "base_url": base_url, "archives": declared, **extra}


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
    draw_all = generated.generate
    monkeypatch.setattr(
        generated, "generate", lambda spec, *folders: drawn.append(spec) or draw_all(spec, *folders)
    )
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

    def interrupted(spec, subset, index):
        if subset == "val2017":
            raise Interrupted
        return draw(spec, subset, index)

    draw = generated.draw
    monkeypatch.setattr(generated, "draw", interrupted)
    with pytest.raises(Interrupted):
        run(GENERATED, tmp_path)
    assert not (tmp_path / "home" / "images").exists() and not (tmp_path / "out").exists()
    monkeypatch.setattr(generated, "draw", draw)
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
    for subset in preparation.SUBSETS:
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
        ExperimentError, match=r"COCO_ROOT=.*coco: has no folder train2017/; it needs .*unset COCO_ROOT"
    ):
        run(entry, tmp_path)
    shutil.copytree(generated_root, root, dirs_exist_ok=True)
    image = root / "val2017" / "000001000003.png"
    content = image.read_bytes()
    image.write_bytes(content[:5000])
    with pytest.raises(ExperimentError, match=f"image {image} is truncated or not an image; restore it"):
        run(entry, tmp_path)
    image.unlink()
    with pytest.raises(
        ExperimentError, match="of the 4 images it lists 1 are missing in .*first: 000001000003.png"
    ):
        run(entry, tmp_path)
    image.write_bytes(content)
    (root / "annotations" / "instances_val2017.json").write_text("[]")
    with pytest.raises(ExperimentError, match="not COCO format: a list where an object is due"):
        run(entry, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "entry, message",
    [
        ({**GENERATED, "kind": "lvis"}, "datasets.mini.kind is 'lvis'; valid: generated, coco"),
        ({"profile": "full"}, "datasets.mini.kind is None"),
        ({**GENERATED, "version": 9}, "unknown generator version 9"),
        (
            {"kind": "coco", "base_url": "http://x", "mirror": 1},
            "datasets.mini: unknown key mirror; valid: base_url",
        ),
    ],
)
def test_a_bad_entry(tmp_path, entry, message):
    with pytest.raises(ExperimentError, match=message):
        run(entry, tmp_path)
    assert not (tmp_path / "out").exists()
