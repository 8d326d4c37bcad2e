"""A user's own label maps: the same small scenes in the styles that tools write."""

import cv2
import numpy as np
from PIL import Image

SIDE = (8, 6)  # width, height
NAMES = ("road", "grass", "roof")  # with pixels, in the order of their values
VALUES = {"gray": (0, 1, 2), "cityscapes_ids": (7, 8, 11), "ade": (1, 2, 3), "deep": (300, 301, 302)}
COLOURS = {"road": (128, 64, 128), "grass": (0, 200, 0), "roof": (200, 0, 0), "tram": (0, 0, 250)}
NONE = {"cityscapes_ids": 0, "ade": 0, "deep": 0}  # value without a class, 255 elsewhere
PHOTOS = tuple(f"{place}/IMG_{number}" for number in range(1, 9) for place in ("north",) if number % 2) + tuple(
    f"south/IMG_{number}" for number in range(2, 9, 2)
)
TRAM = ("north/IMG_1", "south/IMG_2", "south/IMG_8")  # are said to show it
ALONE = "south/IMG_8"  # has labels and no map


def truth(photo):
    """uint8 [H, W]: positions in `NAMES`, 255 for none."""
    rng = np.random.default_rng(int(photo.rpartition("_")[2]))
    found = np.repeat(rng.permutation(3)[:, None], 8, 1).repeat(2, 0).astype(np.uint8)
    found[0, 0] = 255
    return found


def draw(root, style="palette"):
    """Write images, maps, classes.csv and labels.csv; gives the folders and files by option."""
    images, maps = root / "images", root / ("annotations/training" if style == "ade" else "maps")
    if style == "same":
        maps = images
    for photo in PHOTOS:
        name = photo if style != "cityscapes_ids" else f"{photo}_leftImg8bit"
        path = images / f"{name}{'.png' if style.startswith('city') else '.JPG'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(len(photo))
        cv2.imwrite(str(path), rng.integers(0, 255, (*SIDE[::-1], 3), np.uint8))
        if photo != ALONE:
            write(maps / f"{photo}{ENDINGS.get(style, '')}.png", truth(photo), style)
    lines = [
        f"{value},#{COLOURS[name][0]:02x}{COLOURS[name][1]:02x}{COLOURS[name][2]:02x},{name}"
        for name, value in zip(NAMES, VALUES.get(style, VALUES["gray"]), strict=True)
    ]
    (root / "classes.csv").write_text("\n".join(["index,colour,name", *lines, "999,,tram", ""]))
    (root / "labels.csv").write_text("".join(["image,classes\n", *(f"{photo},tram\n" for photo in TRAM)]))
    return {
        "images": images,
        "maps": maps,
        "classes": root / "classes.csv",
        "labels": root / "labels.csv",
    }


ENDINGS = {"cityscapes_ids": "_gtFine_labelIds", "cityscapes_train": "_gtFine_labelTrainIds", "same": "_mask"}


def write(path, label_map, style="gray"):
    """Write a map of positions in a style."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full(256, NONE.get(style, 255), np.uint16)
    values[:3] = VALUES.get(style, VALUES["gray"])
    stored = values[label_map]
    if style in ("colour", "palette"):
        palette = np.full((256, 3), 255, np.uint8)
        palette[: len(NAMES)] = [COLOURS[name] for name in NAMES]
        if style == "colour":
            Image.fromarray(palette[label_map]).save(path)
            return
        image = Image.fromarray(stored.astype(np.uint8), mode="P")
        image.putpalette(palette.tobytes())
        image.save(path)
        return
    if style == "gray_as_rgb":
        stored = np.stack([stored] * 3, -1)
    cv2.imwrite(str(path), stored if style == "deep" else stored.astype(np.uint8))
