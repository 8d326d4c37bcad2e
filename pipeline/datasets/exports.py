"""Read annotation files in COCO's format as annotation tools export them, and say what another file is.

CVAT, Label Studio, Roboflow, labelme2coco and FiftyOne agree on the format's main parts and differ in the rest: ids
begin at 0 or 1, classes are listed that no object is of, `file_name` is a path on the tool's server, objects that were
drawn as boxes carry no mask, an empty one, or their box as a polygon. `normalised` brings all of that into one form;
everything else, such as boxes and polygons themselves, is checked by `coco_check` afterwards.
"""

import json
import os
import unicodedata
from collections import Counter
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from pipeline.datasets.files import require_regular
from pipeline.datasets.images import SUFFIXES, resolve_names
from pipeline.errors import ExperimentError, first_line

SECTIONS = ("images", "annotations", "categories")
IMAGE_FIELDS = ("id", "file_name", "width", "height")
OBJECT_FIELDS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore", "segmentation")
COCO_PLEASE = "export in the format COCO (instances, with boxes and masks) and name its JSON file"
SAME = 1.0  # pixels that a rectangle and its box may differ by

# What begins a file that is none of COCO's JSON: (bytes, what it is).
BEGINNINGS = (
    (b"PK\x03\x04", "a ZIP archive; unpack it and name the JSON file inside"),
    (b"\x1f\x8b", "a compressed archive; unpack it and name the JSON file inside"),
    (b"<", None),  # XML: `_xml` looks further
)
UTF16 = (b"\xff\xfe", b"\xfe\xff")
# Of a JSON object without COCO's sections: a key that tells which tool's own format it is.
FOREIGN = {
    "shapes": "an annotation of one image by Labelme; convert the folder with labelme2coco",
    "samples": f"a data set in FiftyOne's own format; {COCO_PLEASE}",
    "_via_img_metadata": f"a project of VIA; {COCO_PLEASE}",
    "labels": f"labels of another format; {COCO_PLEASE}",
    "features": f"GeoJSON; {COCO_PLEASE}",
}


def read(path):
    """The content of a COCO annotation file: a dictionary with the lists `images`, `annotations` and `categories`.

    Raises:
        ExperimentError: it is missing, empty, in another format (named, with what to do), or has no image or object.
    """
    parsed = whole(path)
    return {section: parsed[section] for section in SECTIONS}


def whole(path):
    """As `read`, with all further members of the file."""
    path = Path(path)
    if not path.exists() and not path.is_symlink():
        raise ExperimentError(f"{path}: no such file; name the JSON file that your tool exported")
    if path.is_dir():
        raise ExperimentError(f"{path}: {_folder(path)}")
    require_regular(path)
    content = path.read_bytes()
    if not content.strip():
        raise ExperimentError(f"{path}: is empty; export it again")
    for beginning, what in BEGINNINGS:
        if content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(beginning):
            raise ExperimentError(f"{path}: {what or _xml(content)}")
    if path.suffix.lower().removeprefix(".") in SUFFIXES:
        raise ExperimentError(f"{path}: an image, not COCO's JSON; {COCO_PLEASE}")
    if b"\0" in content[:4000] and not content.startswith(UTF16):
        raise ExperimentError(f"{path}: a binary file, not COCO's JSON; {COCO_PLEASE}")
    try:
        parsed = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ExperimentError(f"{path}: not UTF-8 text; save the JSON file in that encoding") from None
    except (ValueError, RecursionError) as error:
        what = _text_format(path, content) or f"not JSON ({first_line(str(error))}); export it again"
        raise ExperimentError(f"{path}: {what}") from None
    _require_sections(path, parsed)
    return parsed


def _folder(path):
    """What a folder in the place of the file is, and what to do."""
    inside = sorted(each.name for each in path.glob("*.json"))
    if not inside and (files := {each.suffix.lower(): each for each in path.rglob("*.*")}).keys() & {".txt", ".xml"}:
        tool = "YOLO's labels" if ".txt" in files else _xml(files[".xml"].read_bytes()).partition(",")[0]
        return f"a folder of {tool}, not COCO's JSON; {COCO_PLEASE}"
    hint = f", such as {inside[0]}" if inside else ""
    return f"a folder where a file is due; name the JSON file of annotations{hint}"


def _xml(content):
    head = content[:4000]
    tool = "CVAT's XML" if b"<annotations" in head else "Pascal VOC's XML" if b"<annotation" in head else "XML"
    return f"{tool}, not COCO's JSON; {COCO_PLEASE}"


def _text_format(path, content):
    """What a text is that is no JSON; None if nothing is known of it."""
    if path.suffix.lower() in (".yaml", ".yml"):
        return f"a YAML file, as YOLO's exports have, not COCO's JSON; {COCO_PLEASE}"
    if path.suffix.lower() == ".csv":
        return f"a CSV file, not COCO's JSON; {COCO_PLEASE}"
    words = content[:4000].decode(errors="replace").strip().splitlines()[0].split()
    if len(words) >= 5 and all(_is_decimal(word) for word in words):
        return f"labels of one image in YOLO's format, not COCO's JSON; {COCO_PLEASE}"
    return None


def _is_decimal(word):
    try:
        float(word)
    except ValueError:
        return False
    return True


def _require_sections(path, parsed):
    if isinstance(parsed, list):
        first = parsed[0] if parsed else None
        keys = first.keys() if isinstance(first, dict) else ()
        if "score" in keys and "image_id" in keys:
            what = "detections of a model (COCO results), not annotations; name the file of the annotations"
        elif "annotations" in keys or "data" in keys:
            what = f"tasks in Label Studio's own JSON; {COCO_PLEASE}"
        else:
            what = f"a list, not COCO's JSON; {COCO_PLEASE}"
        raise ExperimentError(f"{path}: {what}")
    if not isinstance(parsed, dict):
        raise ExperimentError(f"{path}: a {type(parsed).__name__}, not COCO's JSON; {COCO_PLEASE}")
    for section in SECTIONS:
        if not isinstance(parsed.get(section), list):
            foreign = next((what for key, what in FOREIGN.items() if key in parsed), None)
            raise ExperimentError(f"{path}: {foreign or f'has no list {section!r}, so it is not COCO; {COCO_PLEASE}'}")
    for section, what in (("images", "no image"), ("annotations", "no object"), ("categories", "no class")):
        if not parsed[section]:
            raise ExperimentError(f"{path}: `{section}` is empty: {what} is annotated; export it again")
    if not any(isinstance(entry, dict) and "bbox" in entry for entry in parsed["annotations"]):
        raise ExperimentError(f"{path}: no annotation has a 'bbox', so these are no instances; {COCO_PLEASE}")


def classes_of(path, content):
    """The classes that some object is of: {id in the file: name}, in the order of the file.

    Tools list further ones: Roboflow the name of the project, others their whole label list.

    Raises:
        ExperimentError: an id or a name that is none, or that two classes share.
    """
    used = Counter(entry.get("category_id") for entry in content["annotations"] if _hashable(entry, "category_id"))
    found, names = {}, {}
    for position, category in enumerate(content["categories"]):
        where = f"{path}: categories[{position}]"
        if not _hashable(category, "id"):
            raise ExperimentError(f"{where}: has no id that is a number or a text; correct the file")
        name = category.get("name")
        if not isinstance(name, str) or not name.strip():
            raise ExperimentError(f"{where}: name is {name!r}, valid: a text; correct the file")
        number = category["id"]
        if number in found or number in names:
            raise ExperimentError(
                f"{where}: id {number!r} is also that of {names[number]!r}; give each class its own id"
            )
        names[number] = name.strip()
        if number in used:
            found[number] = name.strip()
    for name, count in Counter(found.values()).items():
        if count > 1:
            ids = ", ".join(repr(number) for number, other in found.items() if other == name)
            raise ExperimentError(
                f"{path}: {count} classes are called {name!r} (ids {ids}) and all have objects; rename or merge them"
            )
    return found


def _hashable(entry, field):
    return isinstance(entry, dict) and type(entry.get(field)) in (int, str, float)


def normalised(path, content, ids, folder, keep_rectangles=False):
    """An annotation file's content in one form, whichever tool wrote it.

    Images get the path below `folder` as `file_name`, classes other ids. An object has no `segmentation` if its mask is
    empty or no more than its box, drawn as a polygon (unless `keep_rectangles`). CVAT's masks, run lengths that it
    marks as crowds, are objects. Objects of classes that `ids` leaves out go.

    Args:
        path: of the file, for messages. content: as `read` returns it.
        ids: {class name: id to write}.
        folder: of the images.

    Returns:
        The content, and {what was found: number of objects}.

    Raises:
        ExperimentError: a class as `classes_of`, one that `ids` has in other letters, an image that is not there.
    """
    names, notes = classes_of(path, content), Counter()
    left_out = {number for number, name in names.items() if name not in ids}
    spelt = {name.casefold(): name for name in ids}
    for name in (names[number] for number in left_out):
        if (other := spelt.get(name.casefold())) is not None:
            raise ExperimentError(f"{path}: class {name!r} is {other!r} in the training annotations; spell it alike")
    new_id = {number: ids[name] for number, name in names.items() if name in ids}
    images = [_only(image, IMAGE_FIELDS) for image in content["images"]]
    _name_images(images, content["images"], folder)
    objects = []
    for annotation in content["annotations"]:
        kept = _only(annotation, OBJECT_FIELDS)
        if _hashable(annotation, "category_id"):
            if annotation["category_id"] in left_out:
                notes["objects of classes that the training annotations do not have, left out"] += 1
                continue
            number = annotation["category_id"]
            if number in new_id:
                kept["category_id"] = new_id[number]
            elif number in ids.values():  # listed nowhere, which whoever checks all of the content must see
                kept["category_id"] = f"{number}, which `categories` does not list"
            if _is_mask_of_cvat(annotation):
                kept["iscrowd"] = 0
                notes["masks of CVAT, which marks them as crowds, taken for objects"] += 1
            if not keep_rectangles and is_its_box(kept):
                notes["polygons that are no more than the box, taken for boxes (--keep-rectangles: for masks)"] += 1
                kept.pop("segmentation")
            if kept.get("segmentation") in ([], None, [[]]):
                kept.pop("segmentation", None)
        objects.append(kept)
    categories = [{"id": number, "name": name, "supercategory": ""} for name, number in ids.items()]
    return {"images": images, "annotations": objects, "categories": categories}, dict(notes)


def _only(entry, fields):
    return {field: entry[field] for field in fields if field in entry} if isinstance(entry, dict) else entry


def _is_mask_of_cvat(annotation):
    attributes = annotation.get("attributes")
    return annotation.get("iscrowd") == 1 and isinstance(attributes, dict) and "occluded" in attributes


def is_its_box(annotation):
    """Whether the mask of an object is one polygon of four corners that are those of its box."""
    mask, box = annotation.get("segmentation"), annotation.get("bbox")
    if not (isinstance(mask, list) and len(mask) == 1 and isinstance(mask[0], list) and len(mask[0]) in (8, 10)):
        return False
    try:
        x, y, width, height = map(float, box)
        numbers = list(map(float, mask[0]))
    except (TypeError, ValueError):
        return False
    corners = {(x, y), (x + width, y), (x + width, y + height), (x, y + height)}
    points = list(zip(numbers[::2], numbers[1::2], strict=True))
    near = [[max(abs(a - c), abs(b - d)) <= SAME for c, d in corners] for a, b in points]
    return all(map(any, near)) and all(map(any, zip(*near, strict=True)))


def _name_images(images, originals, folder):
    """Give images the path below a folder that their name means."""
    for image, original in zip(images, originals, strict=True):
        if isinstance(image, dict) and (name := listed_name(original)) is not None:
            image["file_name"] = name
    named = [image for image in images if isinstance(image, dict) and type(image.get("file_name")) is str]
    on_disk = names_on_disk([image["file_name"] for image in named], folder)
    for image in named:
        image["file_name"] = on_disk[image["file_name"]]


def listed_name(image):
    """The `file_name` of an image as a file lists it; of LVIS, which has none, the last part of `coco_url`."""
    if "file_name" not in image and isinstance(image.get("coco_url"), str):
        return PurePosixPath(image["coco_url"]).name
    return image.get("file_name")


def names_on_disk(listed, folder):
    """{listed name: path below a folder that it means}, see `images.resolve_names`.

    Beyond what that understands: percent signs of a URL, and a path of another machine whose last part is the name of
    one file of the folder.

    Raises:
        ExperimentError: no image in the folder, or as `images.resolve_names`.
    """
    present, by_name = _files_below(folder)
    if not any(Path(name).suffix.lower().removeprefix(".") in SUFFIXES for name in present):
        raise ExperimentError(
            f"{folder}: holds no image ({', '.join(SUFFIXES[:5])}, ...); name the folder of your images"
        )
    meant = {name: _elsewhere(name, present, by_name) or name for name in listed}
    on_disk = resolve_names(list(meant.values()), folder)
    return {name: on_disk[path] for name, path in meant.items()}


def _files_below(folder):
    present = {
        os.path.relpath(os.path.join(where, name), folder)
        for where, _, names in os.walk(folder, followlinks=True)
        for name in names
    }
    by_name = {}
    for path in present:
        by_name.setdefault(_loose(path.rpartition("/")[2]), []).append(path)
    return present, by_name


def _elsewhere(name, present, by_name):
    """The one file that a name means which is not its path below the folder; None if it is, or none is meant."""
    for spelling in (name, unquote(name)):
        path = spelling.replace("\\", "/").split("?d=")[-1]
        if path in present:
            return path
        found = by_name.get(_loose(path.rpartition("/")[2]), [])
        if len(found) == 1:
            return found[0]
        ends = [each for each in found if _loose(path).endswith(f"/{_loose(each)}")]
        if len(ends) == 1:
            return ends[0]
    return None


def _loose(name):
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
