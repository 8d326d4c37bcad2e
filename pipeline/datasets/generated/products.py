"""A drawn example of a user's own data: photographs of products in sub-folders and one COCO file with masks for some.

Six classes with ids 1 to 6. Three have masks, of the third of them every other object only; three have boxes alone.
"""

import shutil
import tempfile
from pathlib import Path

from pipeline.artifacts import files
from pipeline.datasets.contents import read_json
from pipeline.datasets.generated import scenes
from pipeline.declaration.label_sets import Category, LabelSet
from pipeline.errors import ExperimentError

# Class: how it is drawn, and of how many of its objects one has a mask (0: of none).
PRODUCTS = {
    "beaker": ("cup", 1),
    "flask": ("bottle", 1),
    "toy_car": ("car", 2),
    "vase": ("vase", 0),
    "toy_truck": ("truck", 0),
    "toy_horse": ("horse", 0),
}
SHELVES = ("shelf_a", "shelf_b", "window")
SUBSET = "photos"


def draw(folder, images=300, side=192, seed=0):
    """Draw the example into a folder: `images/<shelf>/IMG_0001.JPG` and so on, and `annotations.json`.

    Args:
        folder: created; must be empty or new.
        images: how many.
        side: of an image, in pixels.
        seed: another one draws others.

    Returns:
        The paths of images and annotations.

    Raises:
        ExperimentError: there is something in the folder.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExperimentError(f"{folder}: is not empty; name a new folder")
    categories = tuple(Category(number, name, "") for number, name in enumerate(PRODUCTS, 1))
    labels = LabelSet("products", "products", categories, {"all": tuple(PRODUCTS), "none": ()}, {})
    spec = {"version": 2, "seed": seed, "train_images": images, "val_images": 0, "image_size": side}
    spec["looks"] = {name: look for name, (look, _) in PRODUCTS.items()}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        scenes.generate(spec, labels, (SUBSET, "none"), scratch, scratch)
        content = read_json(scratch / f"instances_{SUBSET}.json")
        for position, image in enumerate(content["images"]):
            drawn = scratch / SUBSET / image["file_name"]
            image["file_name"] = f"{SHELVES[position % len(SHELVES)]}/IMG_{position + 1:04d}.JPG"
            target = folder / "images" / image["file_name"]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(drawn, target)
    seen = dict.fromkeys(range(1, len(PRODUCTS) + 1), 0)
    every = {number: share for number, (_, share) in enumerate(PRODUCTS.values(), 1)}
    for annotation in content["annotations"]:
        number = annotation["category_id"]
        seen[number] += 1
        if not every[number] or seen[number] % every[number]:
            annotation["segmentation"], annotation["area"] = [], annotation["bbox"][2] * annotation["bbox"][3]
    kept = {section: content[section] for section in ("images", "annotations", "categories")}
    files.write_json(folder / "annotations.json", kept)
    return folder / "images", folder / "annotations.json"
