"""A user's own label maps: styles of tools are read as one, and mistakes are told in a line."""

import argparse
import re
import shlex
import shutil
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline import own_maps
from pipeline.datasets.contents import Source
from pipeline.datasets.label_maps import classes, image_labels
from pipeline.datasets.label_maps import own as data
from pipeline.datasets.label_maps.classes import Listed
from pipeline.datasets.label_maps.packs import Pack
from pipeline.declaration import label_sets
from pipeline.errors import ExperimentError
from pipeline.tasks.semantic.hiding import hide

from . import maps

OPTIONS = ("images", "annotations", "val_annotations", "val_fraction", "seed", "keep_rectangles", *own_maps.OF_MAPS)


def args_of(files, **further):
    """What `commands.own fields ...` parses."""
    given = {key: [str(path)] if key == "classes" else str(path) for key, path in files.items()} | further
    return argparse.Namespace(name="fields", **(dict.fromkeys(OPTIONS) | given))


def gather(files, **further):
    return data.gather(*own_maps.options_of(args_of(files, **({"val_fraction": 0.25} | further))))


@pytest.fixture
def files(tmp_path):
    return maps.draw(tmp_path)


@pytest.mark.parametrize(
    "style, further",
    [
        ("gray", {}),
        ("palette", {}),
        ("gray_as_rgb", {"classes": ["0,road", "1,grass", "2,roof", "tram"]}),
        ("colour", {"unlabelled": ["#ffffff"]}),
        ("cityscapes_ids", {}),
        ("cityscapes_train", {}),
        ("ade", {}),
        ("ade", {"classes": ["road", "grass", "roof", "tram"]}),
        ("deep", {"unlabelled": ["0"]}),
        ("same", {}),
    ],
)
def test_any_style_is_the_same_data(tmp_path, style, further):
    files = maps.draw(tmp_path, style)
    found = gather(files, **further)
    assert found.labels.names == (*maps.NAMES, "tram")
    photos = {
        photo.name.removesuffix(".JPG").removesuffix(".png").removesuffix("_leftImg8bit"): photo
        for photo in found.photos
    }
    assert photos.keys() == set(maps.PHOTOS) and photos[maps.ALONE].map is None
    for name, photo in photos.items():
        assert photo.labels == ((3,) if name in maps.TRAM else ()) and (photo.width, photo.height) == maps.SIDE
        if photo.map:
            read, _ = found.coding.read(files["maps"] / photo.map)
            assert (read == maps.truth(name)).all()
            assert photo.pixels == {k: int((read == k).sum()) for k in range(3)}
    assert own_maps.grouped(found) == {"road": "base", "grass": "base", "roof": "base", "tram": "novel"}


HEX = (128, 64, 128)
LISTS = {
    "names": ("c.txt", "road\ngrass\n", [Listed("road"), Listed("grass")]),
    "values": ("c.txt", "# mine\n7,road\n\n8,grass\n", [Listed("road", 7), Listed("grass", 8)]),
    "values behind": ("c.csv", "road,7\ngrass,8\n", [Listed("road", 7), Listed("grass", 8)]),
    "colours": (
        "c.csv",
        "7,#804080,road\n8,0 200 0,grass\n",
        [Listed("road", 7, HEX), Listed("grass", 8, (0, 200, 0))],
    ),
    "channels": ("c.csv", "name,r,g,b\nroad,128,64,128\n", [Listed("road", None, HEX)]),
    "bare channels": ("c.csv", "7,128,64,128,road\n", [Listed("road", 7, HEX)]),
    "CVAT": ("labelmap.txt", "# label:color_rgb:parts:actions\nroad:128,64,128::\n", [Listed("road", None, HEX)]),
    "Roboflow": (
        "_classes.csv",
        "Pixel Value, Class\n0, background\n1, road\n",
        [Listed("background", 0), Listed("road", 1)],
    ),
    "ADE20K": (
        "o.txt",
        "Idx\tRatio\tName\n1\t0.15\twall\n2\t0.1\tbuilding, edifice\n",
        [Listed("wall", 1), Listed("building, edifice", 2)],
    ),
    "JSON": ("c.json", '{"7": "road", "8": "grass"}', [Listed("road", 7), Listed("grass", 8)]),
    "JSON turned": ("c.json", '{"road": 7}', [Listed("road", 7)]),
    "JSON entries": (
        "c.json",
        '{"labels": [{"name": "road", "id": 7, "color": [128, 64, 128]}, "grass"]}',
        [Listed("road", 7, HEX), Listed("grass")],
    ),
}


@pytest.mark.parametrize("name, text, listed", LISTS.values(), ids=LISTS)
def test_a_list_of_classes_in_any_form(tmp_path, name, text, listed):
    (tmp_path / name).write_text(text)
    assert classes.read([str(tmp_path / name)]) == listed


def test_classes_without_a_value_come_behind_the_others():
    assert [each.value for each in classes.valued([Listed("a", 7), Listed("b"), Listed("c", 3)], 0)] == [7, 8, 3]
    assert [each.value for each in classes.valued([Listed("a"), Listed("b")], 1)] == [1, 2]


@pytest.mark.parametrize(
    "name, text",
    [
        ("l.csv", "a/1.jpg,tram;bus\na/1.jpg,tram\n2,bus\n"),
        ("l.csv", "file,classes\na/1,tram|bus\n2.JPG,bus,\n"),
        ("l.json", '{"a/1.jpg": ["bus", "tram"], "2.JPG": ["bus"]}'),
    ],
)
def test_labels_of_images_in_any_form(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    found = image_labels.read(tmp_path / name, ["a/1.jpg", "b/2.JPG"], ("bus", "tram"))
    assert found == {"a/1.jpg": {"bus", "tram"}, "b/2.JPG": {"bus"}}


def test_a_seed_sets_images_with_maps_apart_and_every_class_keeps_some(files):
    def held_out(**further):
        return {photo.name for photo in gather(files, **further).of("val")}

    few, many = held_out(val_fraction=0.15), held_out(val_fraction=0.4)
    assert len(few) == 1 and few < many and len(many) == 3
    assert many != held_out(val_fraction=0.4, seed=5)
    assert f"{maps.ALONE}.JPG" not in held_out(val_fraction=0.9)
    left = gather(files, val_fraction=0.9).counted("train")
    assert all(left[1][position] >= 2 for position in range(3)) and left[2][3] >= 2


def test_folders_tell_the_sides(tmp_path):
    files = maps.draw(tmp_path)
    for folder in ("images", "maps"):
        (tmp_path / folder / "north").rename(tmp_path / folder / "train")
        (tmp_path / folder / "south").rename(tmp_path / folder / "val")
    (tmp_path / "labels.csv").write_text(f"{maps.TRAM[0].replace('north', 'train')},tram\n")
    found = gather(files, val_fraction=None)
    assert found.by_folder and {photo.name.split("/")[0] for photo in found.of("val")} == {"val"}
    assert not gather(files, val_fraction=0.3).by_folder
    for folder in ("images", "maps"):
        (tmp_path / folder / "test").mkdir()
        for path in (tmp_path / folder / "train").glob("IMG_3.*"):
            path.rename(tmp_path / folder / "test" / path.name)
    found = gather(files, val_fraction=None)
    assert "1 images are in no folder train or val and are left out, such as test/IMG_3.JPG" in found.notes
    assert all("IMG_3" not in photo.name for photo in found.photos)
    (tmp_path / "images/more").mkdir()
    for folder in ("val", "test", "more"):
        shutil.copy(tmp_path / "images/train/IMG_1.JPG", tmp_path / f"images/{folder}/only.JPG")
    with (tmp_path / "labels.csv").open("a") as file:
        file.writelines(f"{folder}/only.JPG,tram\n" for folder in ("val", "test", "more"))
    found = gather(files, val_fraction=None)
    assert [photo.name for photo in found.of("train") if not photo.map] == ["more/only.JPG"]
    assert not [photo for photo in found.of("val") if not photo.map]
    assert any(
        "2 images with labels alone are in a folder of images to validate or test with" in n for n in found.notes
    )


def test_what_is_right_and_perhaps_not_meant_is_noted(files, tmp_path):
    (tmp_path / "maps/north/IMG_99.png").write_bytes((tmp_path / "maps/north/IMG_1.png").read_bytes())
    shutil.copy(files["images"] / "north/IMG_1.JPG", files["images"] / "spare.JPG")
    files["classes"].write_text(files["classes"].read_text() + "41,,boat\n")
    with files["labels"].open("a") as file:
        file.write(f"{maps.ALONE},road\n")
    found = gather(files)
    noted = " ".join(own_maps.warnings(found, own_maps.grouped(found)))
    assert "1 images have neither map nor labels and are left out, such as spare.JPG" in noted
    assert "1 maps have no image of their name and are left out, such as north/IMG_99.png" in noted
    assert "neither pixels nor labels, so nothing is learned of it: boat" in noted
    assert "labels of whole images say nothing of a class with pixels: road" in noted
    assert "1 training images have labels and no map" in noted and "no validation pixel, so no IoU: tram" in noted


def prepared(files, root, novel=(), **further):
    """The folder of the training split of a user's files; `root` gets data set and images."""
    options, listed = own_maps.options_of(args_of(files, **({"val_fraction": 0.25} | further)))
    found = data.gather(options, listed)
    groups = own_maps.grouped(found, novel=novel)
    entry = options | {"maps": options["maps"] | {"sha256": found.digest}, "unlabelled": list(found.unlabelled)}
    entry |= {"labels": entry["labels"] | {"sha256": data.digest(entry["labels"]["path"])}}
    sides = {side: tuple(n for n in found.labels.names if groups[n] == side) for side in ("base", "novel")}
    chosen = label_sets.LabelSet("fields", "fields", found.labels.categories, found.labels.groups | sides, {})
    source = Source("fields", entry, chosen, ("train", "val"))

    class Outputs:
        def part(self, path):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            return root / path

    filled = data.fill(source, root / "images", None, None)
    filled.install()
    data.describe(root / "images", source, Outputs())
    hide(root / "annotations/maps_train.json", chosen, {"base": "base", "novel": "novel"}, root / "split")
    return root / "split"


def test_what_training_reads_are_base_pixels_and_labels(files, tmp_path):
    split = Pack(prepared(files, tmp_path / "data") / "train.json")
    assert (tmp_path / "data/images/train").resolve() == files["images"].resolve()
    for position, image in enumerate(split.images):
        name = image["file_name"].removesuffix(".JPG")
        expected = maps.truth(name) if name != maps.ALONE else np.full(maps.SIDE[::-1], 255)
        assert (split.read(position) == expected).all()
        assert image["novel"] == ([3] if name in maps.TRAM else []) and image.get("unmapped", False) == (
            name == maps.ALONE
        )
    held_out = Pack(tmp_path / "data/annotations/maps_val.json")
    assert len(split) + len(held_out) == len(maps.PHOTOS) and len(held_out) == 2


@pytest.mark.parametrize("said, noted", [("road", "1 images have no map and no label of a novel class"), ("", "nor")])
def test_an_image_without_map_and_new_class_teaches_nothing(files, tmp_path, said, noted):
    """It would be one in which nothing is."""
    shutil.copy(files["images"] / "north/IMG_1.JPG", files["images"] / "spare.JPG")
    with files["labels"].open("a") as file:
        file.write(f"spare.JPG,{said}\n")
    found = gather(files)
    notes = own_maps.warnings(found, own_maps.grouped(found))
    assert any(noted in each for each in notes)
    assert any("1 training images have labels and no map" in each for each in notes)
    split = Pack(prepared(files, tmp_path / "data") / "train.json")
    assert "spare.JPG" not in [image["file_name"] for image in split.images] and len(split) == len(maps.PHOTOS) - 2


def test_hidden_pixels_cannot_leak(files, tmp_path):
    written = []
    for turn in range(2):
        split = prepared(files, tmp_path / f"data{turn}", novel=["roof"])
        written.append([(split / name).read_bytes() for name in ("train.pack", "train.json")])
        for path in files["maps"].rglob("*.png"):  # roof moves to where nothing is known
            label_map = np.array(Image.open(path))
            label_map[label_map == 2] = 255
            label_map[0, 0] = 2
            cv2.imwrite(str(path), label_map)
    assert written[0] == written[1] and len(written[0][0]) > 200


# Mistakes: what is done to the files, further options, what the one line says.


def relabel(line):
    return lambda root: (root / "labels.csv").write_text(line)


def listing(text):
    return lambda root: (root / "classes.csv").write_text(text)


def edit(root, change, name="maps/north/IMG_1.png"):
    label_map = np.array(Image.open(root / name))
    cv2.imwrite(str(root / name), change(label_map))


def palette(order):
    """Give a map a palette: its index k has the colour of the k-th class named."""

    def change(root):
        entries = np.array([maps.COLOURS[name] for name in order], np.uint8)
        image = Image.open(root / "maps/north/IMG_1.png")
        image = Image.fromarray(np.asarray(image) % len(order), mode="P")
        image.putpalette(entries.tobytes())
        image.save(root / "maps/north/IMG_1.png")

    return change


def beyond_palette(root):
    """A palette of two colours and a pixel of index 200, which Pillow itself would not write."""
    rows = np.zeros((6, 8), np.uint8)
    rows[0, 0] = 200
    content = b"\x89PNG\r\n\x1a\n"
    for kind, part in (
        (b"IHDR", struct.pack(">IIBBBBB", 8, 6, 8, 3, 0, 0, 0)),
        (b"PLTE", bytes([*maps.COLOURS["road"], *maps.COLOURS["grass"]])),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
        (b"IEND", b""),
    ):
        content += struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
    (root / "maps/north/IMG_1.png").write_bytes(content)


def jpegs(root):
    for path in (root / "maps").rglob("*.png"):
        cv2.imwrite(str(path.with_suffix(".jpg")), np.array(Image.open(path)))
        path.unlink()


def renamed(root):
    for path in (root / "maps").rglob("*.png"):
        path.rename(path.with_name(f"{path.stem}_classes.png"))


def twice(root):
    for ids in ("_gtFine_labelIds", "_gtFine_labelTrainIds"):
        shutil.copy(root / "maps/north/IMG_1.png", root / f"maps/north/IMG_1{ids}.png")
    (root / "maps/north/IMG_1.png").unlink()


MISTAKES = {
    "no images": ({"images": "nowhere"}, None, "--images .*nowhere: no such folder; name the folder that your images"),
    "images elsewhere": (
        {},
        lambda root: shutil.rmtree(root / "images/north") or shutil.rmtree(root / "images/south"),
        "images: no image found",
    ),
    "no maps": ({"maps": "nowhere"}, None, "--maps .*nowhere: no such folder; name the folder that your maps"),
    "maps as JPEG": ({}, jpegs, "maps: no PNG, but files of the type .jpg; export label maps as PNG"),
    "other names": (
        {},
        renamed,
        "no map is called after an image, such as north/IMG_1.png for north/IMG_1.JPG; give maps",
    ),
    "two kinds": (
        {},
        twice,
        "north/IMG_1.JPG has 2 maps, IMG_1_gtFine_labelIds.png and _gtFine_labelTrainIds.png; choose one: --map",
    ),
    "sizes": (
        {},
        lambda root: edit(root, lambda m: m[:-1]),
        "north/IMG_1.png: 8 x 5 pixels, its image north/IMG_1.JPG 8 x 6 as it is stored",
    ),
    "a value": (
        {},
        lambda root: edit(root, lambda m: np.where(m == 1, 9, m)),
        "north/IMG_1.png: .* pixels have the value 9, which the list .* --unlabelled 255 9",
    ),
    "zero": ({"unlabelled": ["255"]}, lambda root: edit(root, lambda m: m + 50), "have the value 49, 50, 51, 52"),
    "a colour": (
        {},
        lambda root: edit(root, lambda m: np.dstack([m, m, m + 7])),
        "have the colour '#06ffff', '#070000'",
    ),
    "palette of another order": (
        {},
        palette(["roof", "grass", "road"]),
        "north/IMG_1.png: a palette whose index 0 is one class of --classes and its colour #c80000 another one; take",
    ),
    "beyond the palette": ({}, beyond_palette, "north/IMG_1.png: 1 pixels have the value 200, which the list"),
    "a quote": ({}, listing('0,"road\n1,grass\n'), "classes.csv: line 1: a quote that is not closed; remove it"),
    "a quote of labels": (
        {},
        relabel('north/IMG_1,"tram\nsouth/IMG_2,tram\n'),
        "labels.csv: line 1: a quote that is not closed; remove it",
    ),
    "colours unlisted": (
        {"classes": ["road", "grass", "roof", "tram"]},
        lambda root: edit(root, lambda m: np.dstack([m, m, m + 7])),
        "a PNG of colours, and the list of classes has none",
    ),
    "cut": (
        {},
        lambda root: (root / "maps/north/IMG_1.png").write_bytes(b"\x89PNG\r\n\x1a\n"),
        "north/IMG_1.png: no whole PNG",
    ),
    "cut photo": (
        {},
        lambda root: (root / "images/north/IMG_1.JPG").write_bytes(b"\xff\xd8\xff"),
        "north/IMG_1.JPG is truncated or not an image",
    ),
    "no list": (
        {"classes": ["nowhere.txt"]},
        None,
        "--classes nowhere.txt: no such file; name a list of classes, a line for each class: index,name or",
    ),
    "empty list": ({}, listing("\n"), "classes.csv: lists no class"),
    "value twice": ({}, listing("0,road\n0,grass\n"), "the value 0 is that of 2 classes; list it once"),
    "name twice": ({}, listing("0,road\n1,road\n"), "the name 'road' is that of 2 classes"),
    "line": ({}, listing("0,road\n1,grass,green,x\n"), "classes.csv: line 2: no class can be read"),
    "every value none": ({"unlabelled": ["0", "1", "2", "999"]}, None, "every listed class has an unlabelled value"),
    "no labels": (
        {"labels": "nowhere.csv"},
        None,
        "--labels .*nowhere.csv: no such file; name one with a line for each image",
    ),
    "class of labels": (
        {},
        relabel("north/IMG_1,trma\n"),
        "labels.csv: line 1: unknown class 'trma'; valid: .*did you mean 'tram'",
    ),
    "image of labels": (
        {},
        relabel("north/IMG_77.JPG,tram\n"),
        "labels.csv: line 1: 'north/IMG_77.JPG' is none of the images.*did you mean",
    ),
    "no comma": ({}, relabel("north/IMG_1 tram\n"), "labels.csv: line 1: no comma behind the image"),
    "unlabelled": ({"unlabelled": ["black"]}, None, "--unlabelled 'black': valid: a value such as 255, or a colour"),
    "share": ({"val_fraction": 1.5}, None, "--val-fraction is 1.5; valid: a share above 0 and below 1"),
    "nothing declared": (
        {"classes": None},
        None,
        "--classes is missing; give --images FOLDER, --maps FOLDER and --classes",
    ),
}


@pytest.mark.parametrize("further, change, message", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(files, tmp_path, further, change, message):
    if change:
        change(tmp_path)
    with pytest.raises(ExperimentError) as error:
        gather(files, **further)
    assert "\n" not in str(error.value) and re.search(message, str(error.value)), str(error.value)


def test_mistakes_are_mended_as_said(files, tmp_path):
    def refused(**further):
        with pytest.raises(ExperimentError) as error:
            own_maps.grouped(gather(files, **further))
        return str(error.value)

    edit(tmp_path, lambda m: np.where(m == 1, 9, m))
    mended = {"unlabelled": re.search("say --unlabelled (.*)", refused())[1].split()}
    assert mended == {"unlabelled": ["255", "9"]} and gather(files, **mended).unlabelled == (255, 9)
    twice(tmp_path)
    mended["map_ending"] = re.search("--map-ending (.*)", refused(**mended))[1]
    assert [photo.map for photo in gather(files, **mended).photos if photo.map] == ["north/IMG_1_gtFine_labelIds.png"]
    assert len([photo for photo in gather(files, **mended | {"map_ending": ".png"}).photos if photo.map]) == 6
    shutil.copy(tmp_path / "maps/north/IMG_1_gtFine_labelIds.png", tmp_path / "maps/north/IMG_1.png")
    for path in (tmp_path / "maps/north").glob("*Ids.png"):
        path.unlink()
    mended.pop("map_ending")
    with files["labels"].open("a") as file:
        file.write("north/IMG_3.JPG,boat\n")
    assert "add a new class to the list of --classes" in refused(**mended)
    files["classes"].write_text(files["classes"].read_text() + "1000,,boat\n")
    assert own_maps.grouped(gather(files, **mended))["boat"] == "novel"
    mended["labels"] = None
    files["classes"].write_text(files["classes"].read_text().replace("999,,tram\n1000,,boat\n", ""))
    novel = shlex.split(re.search("--novel (.*) \\(", refused(**mended))[1])
    assert novel == ["roof"] and own_maps.grouped(gather(files, **mended), novel=novel)["roof"] == "novel"


def test_a_palette_and_a_quote_are_mended_as_said(files, tmp_path):
    listed = files["classes"].read_text()
    palette(["roof", "grass", "road"])(tmp_path)
    with pytest.raises(ExperimentError, match="take the colours out of --classes to read indices"):
        gather(files)
    files["classes"].write_text(re.sub("#[0-9a-f]{6}", "", listed))
    assert gather(files).labels.names == (*maps.NAMES, "tram")
    files["classes"].write_text(listed.replace(",road", ',"road').replace("#804080", ""))
    with pytest.raises(ExperimentError, match="classes.csv: line 2: a quote that is not closed; remove it"):
        gather(files)


GROUPS = {
    "unknown": ({"novel": ["Roof"]}, "--novel names the class 'Roof'; valid: .*"),
    "both": ({"base": ["roof"], "novel": ["roof"]}, "roof: in --base and in --novel"),
    "base without pixels": ({"base": ["tram"]}, "--base names 'tram', which no training map shows"),
    "novel nowhere": ({"novel": ["boat"]}, "--novel names 'boat', which no training image shows"),
    "all novel": ({"novel": list(maps.NAMES)}, "no class has pixels to train on; take classes off --novel"),
}


@pytest.mark.parametrize("chosen, message", GROUPS.values(), ids=GROUPS)
def test_a_mistake_in_groups_is_one_line(files, chosen, message):
    files["classes"].write_text(files["classes"].read_text() + "41,,boat\n")
    with pytest.raises(ExperimentError, match=message) as error:
        own_maps.grouped(gather(files), **chosen)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "images, gpus, expected",
    [(50, 0, (8, 2500)), (1000, 1, (8, 10_000)), (1000, 8, (16, 5000)), (9000, 1, (8, 59_625))],
)
def test_length_and_batch_follow_the_number_of_images(images, gpus, expected):
    assert own_maps.scale(images, gpus) == dict(zip(("batch_size", "iterations"), expected, strict=True))


def test_without_new_classes_the_line_says_which_to_hide(files):
    found = gather(files, labels=None)
    with pytest.raises(
        ExperimentError, match="give --labels with new classes, or hide the pixels of some with --novel 'tram'"
    ):
        own_maps.grouped(found)
    assert own_maps.grouped(found, novel=["roof"])["roof"] == "novel"


def test_options_of_boxes_are_refused_beside_maps(files):
    with pytest.raises(ExperimentError, match="--val-annotations is for objects with boxes, --maps for label maps"):
        own_maps.meant(args_of(files, val_annotations="a.json"))
    assert own_maps.meant(args_of(files)) and not own_maps.meant(args_of({}, annotations="a.json"))


def test_files_that_changed_are_noticed(files, tmp_path):
    prepared(files, tmp_path / "data")
    options, listed = own_maps.options_of(args_of(files, val_fraction=0.25))
    found = data.gather(options, listed)
    entry = options | {"maps": options["maps"] | {"sha256": found.digest}, "unlabelled": [255]}
    entry |= {"labels": entry["labels"] | {"sha256": data.digest(entry["labels"]["path"])}}
    source = Source("fields", entry, found.labels, ("train", "val"))
    edit(tmp_path, lambda m: np.where(m == 1, 0, m))
    again = "was changed since fields was declared; run `python -m commands.own fields --force`"
    with pytest.raises(ExperimentError, match=f"maps: {again}"):
        data.describe(tmp_path / "data", source, None)
    files["labels"].write_text("north/IMG_3,tram\n")
    with pytest.raises(ExperimentError, match=f"labels.csv: {again}"):
        data.fill(source, tmp_path / "other", None, None)
