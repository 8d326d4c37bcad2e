"""A sheet of a user's own images with boxes and masks, base and novel in their colours, to look at before training."""

import cv2
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from pycocotools import mask as coco_mask

from pipeline.artifacts import files, paths
from pipeline.datasets import own
from pipeline.errors import ExperimentError
from pipeline.reporting import lettering, style
from pipeline.reporting.style import plt

IMAGES, ACROSS = 12, 4
SIDE = 480  # pixels of an image on the sheet, its longer one
NAMED = 12  # objects of an image that bear their name, the largest ones
WIDTH, ROW, HEAD = 10, 2.2, 0.4  # inches


def write(name, found):
    """Write reports/<name>/own_data.png and return its path below the repository.

    Args:
        found: `pipeline.own.Declared`.
    """
    path = paths.reports(name) / "own_data.png"
    figure = sheet(found)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, facecolor="white")
    plt.close(figure)
    return path.relative_to(paths.ROOT)


def sheet(found):
    """A figure of training images that show every class in turn, each with its objects."""
    content = found.gathered.subsets[own.TRAIN]
    names = {category["id"]: category["name"] for category in content["categories"]}
    of_image = {}
    for annotation in content["annotations"]:
        of_image.setdefault(annotation["image_id"], []).append(annotation)
    chosen = _chosen(content["images"], of_image)
    rows = -(-len(chosen) // ACROSS)
    height = ROW * rows + HEAD
    margins = {"left": 0.01, "right": 0.99, "bottom": 0.01, "top": 1 - (HEAD + 0.15) / height, "wspace": 0.04}
    figure, axes = plt.subplots(rows, ACROSS, figsize=(WIDTH, height), squeeze=False, gridspec_kw=margins)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image in zip(axes.flat, chosen, strict=False):
        pixels = cv2.imread(str(found.folder / image["file_name"]), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is None:
            raise ExperimentError(
                f"image {found.folder / image['file_name']} is no image that OpenCV reads; replace the file"
            )
        scale = min(1, SIDE / max(pixels.shape[:2]))
        shown = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[..., ::-1] / 255
        objects = sorted(of_image[image["id"]], key=lambda each: -each["bbox"][2] * each["bbox"][3])
        for position, annotation in enumerate(objects):
            colour = style.GROUP_COLOURS[found.groups[names[annotation["category_id"]]]]
            masked = "segmentation" in annotation
            if masked:
                _tint(shown, annotation["segmentation"], image, colour)
            x, y, width, height = (scale * value for value in annotation["bbox"])
            line = {"edgecolor": colour, "linewidth": 1.2, "linestyle": "-" if masked else "--"}
            axis.add_patch(Rectangle((x, y), width, height, fill=False, **line))
            if position >= NAMED:
                continue
            name = lettering.legible(names[annotation["category_id"]], f"class {annotation['category_id']}")
            label = {"s": name, "font": lettering.font(name), "fontsize": 6, "color": "white", "clip_on": True}
            axis.text(x, y, va="bottom", bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8}, **label)
        axis.imshow(shown.clip(0, 1))
        title = lettering.legible(image["file_name"][-40:], f"image {image['id']}")
        axis.set_title(title, font=lettering.font(title), fontsize=6)
    words = {"base": "base: masks are trained", "novel": "novel: boxes alone"}
    handles = [Patch(color=style.GROUP_COLOURS[group], label=text) for group, text in words.items()]
    handles += [
        Line2D([], [], color="black", label="with mask"),
        Line2D([], [], color="black", ls="--", label="without"),
    ]
    figure.legend(handles=handles, loc="upper center", ncols=4, fontsize=8, frameon=False)
    return figure


def _chosen(images, of_image):
    """Up to `IMAGES` images, each the first that shows the class which those before show the least."""
    seen, chosen = {}, []
    left = [image for image in images if of_image.get(image["id"])]
    while left and len(chosen) < IMAGES:
        image = min(left, key=lambda image: min(seen.get(each["category_id"], 0) for each in of_image[image["id"]]))
        left.remove(image)
        chosen.append(image)
        for annotation in of_image[image["id"]]:
            seen[annotation["category_id"]] = seen.get(annotation["category_id"], 0) + 1
    return chosen


def _tint(shown, segmentation, image, colour):
    """Lay a mask over an image that is shown smaller."""
    height, width = image["height"], image["width"]
    if isinstance(segmentation, dict):
        runs = segmentation
        if isinstance(runs["counts"], list):
            runs = coco_mask.frPyObjects(runs, height, width)
    else:
        runs = coco_mask.merge(coco_mask.frPyObjects([list(map(float, part)) for part in segmentation], height, width))
    mask = cv2.resize(coco_mask.decode(runs), shown.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
    rgb = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    shown[mask] = 0.5 * shown[mask] + 0.5 * rgb
    edges = mask & ~cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0).astype(bool)
    shown[edges] = rgb  # on a ground of the same colour the tint alone would not be seen
