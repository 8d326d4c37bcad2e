"""The same few photographs of products as annotation tools export them, laid out like real exports of each."""

import json

import cv2
import numpy as np

SIDE = (80, 64)  # width and height
# File below the folder of images; class, box (x, y, width, height), whether it has a mask.
SCENES = {
    "front/IMG_1.JPG": [("bolt", (10, 10, 30, 20), True), ("nut", (45, 30, 20, 24), False)],
    "front/IMG_2.JPG": [("bolt", (5, 8, 24, 30), True), ("nut", (40, 12, 22, 22), False)],
    "back/IMG_3.JPG": [("bolt", (12, 14, 30, 26), False), ("washer", (44, 20, 26, 26), True)],
    "back/IMG_4.JPG": [("washer", (8, 8, 28, 28), True), ("nut", (42, 24, 24, 24), False)],
    "IMG_5.JPG": [("bolt", (20, 10, 36, 40), True), ("washer", (4, 30, 20, 20), True)],
    "IMG_6.JPG": [("nut", (10, 20, 26, 26), False), ("washer", (40, 10, 28, 30), True)],
}
CLASSES = ("bolt", "nut", "washer")  # base with one object that has a box only, novel, base


def photographs(folder):
    """Write the images; gives their folder."""
    rng = np.random.default_rng(0)
    for name, objects in SCENES.items():
        pixels = rng.integers(60, 90, (SIDE[1], SIDE[0], 3), dtype=np.uint8)
        for kind, box, _ in objects:
            points = np.array(octagon(box), np.int32).reshape(-1, 2)
            cv2.fillPoly(pixels, [points], [(0, 200, 255), (255, 120, 0), (120, 255, 120)][CLASSES.index(kind)])
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
    return folder


def octagon(box):
    """A polygon that touches the four sides of a box."""
    x, y, w, h = box
    corners = [(1, 0), (2, 0), (3, 1), (3, 2), (2, 3), (1, 3), (0, 2), (0, 1)]
    return [value for i, j in corners for value in (x + w * i / 3, y + h * j / 3)]


def rectangle(box):
    x, y, w, h = box
    return [float(value) for value in (x, y, x + w, y, x + w, y + h, x, y + h)]


def coco(first=1, classes=CLASSES, first_class=1, name=str, boxes_as=lambda box: [[]][:0], mask=None, **further):
    """COCO's sections.

    Args:
        first, first_class: the first id of images and objects, and of classes.
        name: file name -> what the file lists.
        boxes_as: box -> `segmentation` of an object without a mask, `...` for none.
        mask: box -> `segmentation` of one that has one.
        further: members of every object.
    """
    images, annotations = [], []
    for position, (file, objects) in enumerate(SCENES.items()):
        images.append({"id": first + position, "file_name": name(file), "width": SIDE[0], "height": SIDE[1]})
        for kind, box, has_mask in objects:
            drawn = (mask or (lambda box: [octagon(box)]))(box) if has_mask else boxes_as(box)
            annotations.append(
                {
                    "id": first + len(annotations),
                    "image_id": first + position,
                    "category_id": first_class + classes.index(kind),
                    "bbox": [float(value) for value in box],
                    **({} if drawn is ... else {"segmentation": drawn}),
                    **further,
                }
            )
    categories = [{"id": first_class + k, "name": each, "supercategory": ""} for k, each in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def cvat():
    """CVAT 2, "COCO 1.0": ids from 1, attributes, masks of its brush as run lengths that are marked as crowds."""
    content = coco(area=0.0, iscrowd=0, attributes={"occluded": False})
    for annotation in content["annotations"]:
        if annotation["segmentation"] and annotation["category_id"] == 3:
            mask = np.zeros(SIDE[::-1], np.uint8)
            cv2.fillPoly(mask, [np.round(np.reshape(annotation["segmentation"][0], (-1, 2))).astype(np.int32)], 1)
            flat = np.concatenate([[0], mask.flatten("F"), [1 - mask[-1, -1]]])
            ends = np.flatnonzero(np.diff(flat))
            counts = np.diff(np.concatenate([[0], ends])).tolist()
            counts[-1] += mask.size - sum(counts)
            annotation |= {"iscrowd": 1, "segmentation": {"size": list(mask.shape), "counts": counts}}
            annotation["area"] = float(mask.sum())
    return {"licenses": [{"name": "", "id": 0, "url": ""}], "info": {"contributor": "", "year": ""}} | content


def label_studio():
    """Label Studio's converter: ids from 0, URL-encoded names below images/, no `iscrowd` of boxes, `ignore`."""
    content = coco(0, first_class=0, name=lambda file: f"images/{file.replace('_', '%5F')}", ignore=0, area=10)
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 0
    return content | {"info": {"version": "1.0", "contributor": "Label Studio"}}


def roboflow():
    """Roboflow: class 0 is the name of the project, of which no object is."""
    content = coco(0, ("parts", *CLASSES), 0, iscrowd=0, area=600)
    for image in content["images"]:
        image |= {"license": 1, "date_captured": "2026-01-01T00:00:00+00:00", "extra": {"name": image["file_name"]}}
    return content | {"info": {"description": "Exported from roboflow.com"}, "licenses": []}


def labelme():
    """labelme2coco: names as paths on the machine of the annotator, boxes as polygons, classes from 0."""
    return coco(
        1,
        first_class=0,
        name=lambda file: f"C:\\Users\\me\\photos\\{file}".replace("/", "\\"),
        boxes_as=lambda box: [rectangle(box)],
        iscrowd=0,
        area=7,
    )


def fiftyone():
    """FiftyOne: boxes without `segmentation`, more classes than are used."""
    content = coco(1, (*CLASSES, "spring"), 0, boxes_as=lambda box: ..., iscrowd=0, area=600.0)
    return {"info": {"description": "Exported from FiftyOne"}, "licenses": []} | content


def lvis(count=1100):
    """Like LVIS: many classes, `coco_url` without `file_name`, no `iscrowd`."""
    names = tuple(f"thing_{k}" for k in range(count - len(CLASSES))) + CLASSES
    content = coco(1, names, 1, area=100.0)
    for image in content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/train2017/{image.pop('file_name').rpartition('/')[2]}"
    for category in content["categories"]:
        category |= {"synset": f"{category['name']}.n.01", "frequency": "r", "image_count": 1}
    return content


def lvis_in_use(count=1100, side=5):
    """Like `lvis`, with a small box of every class: two files, of five images and of the last."""
    content = lvis(count)
    of_image = -(-(count - len(CLASSES)) // (len(SCENES) - 1))
    across = SIDE[0] // side
    for k in range(count - len(CLASSES)):
        image, place = divmod(k, of_image)
        box = [place % across * side, place // across * side, side - 1, side - 1]
        number = len(content["annotations"]) + 1
        content["annotations"].append(
            {"id": number, "image_id": 1 + image, "category_id": 1 + k, "bbox": box, "area": 16.0, "segmentation": []}
        )
    last = len(SCENES)
    return [
        content
        | {
            "images": [image for image in content["images"] if (image["id"] == last) == validation],
            "annotations": [each for each in content["annotations"] if (each["image_id"] == last) == validation],
        }
        for validation in (False, True)
    ]


TOOLS = {each.__name__: each for each in (cvat, label_studio, roboflow, labelme, fiftyone, lvis)}


def write(content, path):
    path.write_text(json.dumps(content))
    return path
