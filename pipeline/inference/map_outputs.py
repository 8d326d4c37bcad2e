"""What `commands.predict` leaves of label maps: overlays, maps as index and as palette PNG, and a page to look through.

An image at a time is in memory, however many there are; of the page, a line for each.
"""

import base64
import io
import json
from collections import Counter

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from pipeline.artifacts import files
from pipeline.datasets.label_maps.classes import hexadecimal
from pipeline.datasets.label_maps.packs import decoded
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from pipeline.hardware import data_workers
from pipeline.inference import drawing, outputs, pictures
from pipeline.inference.ahead import in_order
from pipeline.inference.predict import records
from pipeline.reporting import class_colours, lettering
from pipeline.reporting.report import render

KINDS = {"overlays": "jpg", "thumbnails": "jpg", "maps": "png", "colours": "png"}
NONE = (255, 0, 65535)  # values of no class, the first that no class has


def write(lines, found, skipped, detector, out, classes):
    """Write everything into the folder of the results.

    Args:
        lines: detections.PredictionLines of `found`, complete.
        found: list of `pictures.Picture`.
        skipped: list of (name, reason) of pictures that could not be read; those that cannot be read now join them.
        detector: models.Detector of label maps.
        out: folder of the results.
        classes: names of the classes that are wanted; pixels of others are of none.

    Returns:
        What was found, in words, for the terminal.
    """
    names = outputs.output_names([picture.name for picture in found])
    look = Look(detector, classes)

    def one(position, found_there):
        picture = found[position]
        label_map = decoded(base64.b64decode(found_there[0]["map"]), picture.name)
        return _one(picture, names[picture.name], label_map, look, out)

    rows, images, shown, pixels, skipped = [], [], Counter(), Counter(), list(skipped)
    bar = tqdm(total=len(found), desc=f"results in {out}", unit="image", mininterval=5, disable=None)
    with bar as progress:
        for position, made in enumerate(in_order(one, enumerate(records(lines)), data_workers())):
            progress.update()
            if isinstance(made, ExperimentError):
                skipped.append((found[position].name, str(made)))
                continue
            image, row = made
            images.append(image)
            rows.append(row)
            shown.update(image["pixels"].keys())
            pixels.update(image["pixels"])
    listed = [
        {"value": value, "name": name, "colour": hexadecimal(colour), "images": shown[name], "pixels": pixels[name]}
        for value, name, colour in zip(look.values.tolist(), detector.names, look.colours.tolist(), strict=False)
    ]
    content = {"model": detector.title, "none": look.none, "classes": listed, "images": images}
    files.write_text(out / "classes.json", json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    seen = [each | {"count": each["images"]} for each in listed if each["images"]]
    page = {"title": detector.title, "maps": True, "images": len(rows), "rows": rows, "skipped": skipped}
    page["classes"] = seen
    files.write_text(out / "index.html", render("predictions.html", page))
    pictures.warn_of(skipped)
    every = sum(image["width"] * image["height"] for image in images) or 1
    lines = [
        {"class": each["name"], "value": each["value"], "images": each["images"]}
        | {"pixels": f"{100 * each['pixels'] / every:.1f} %"}
        for each in sorted(seen, key=lambda each: -each["pixels"])
    ]
    table = f"{pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)}\n" if lines else ""
    said = f"{len(rows)} images" + (f", {len(skipped)} skipped" if skipped else "")
    return f"{table}{said}: look at {out / 'index.html'}"


class Look:
    """Values and colours that maps are written with.

    Attributes:
        names: of the classes.
        values: [K + 1] of them in written maps: their ids in the label set; the last one is that of no class.
        colours: uint8 [K + 1, 3] RGB; white for no class.
        none: value of no class.
        wanted: bool [256], by position of a class.
    """

    def __init__(self, detector, classes):
        self.names = detector.names
        given = experiments.load().datasets.get(detector.dataset, {}).get("unlabelled", ())
        candidates = [*(value for value in given if isinstance(value, int)), *NONE]
        self.none = next(value for value in candidates if value not in detector.ids)
        values = [*detector.ids, self.none]
        self.values = np.array(values, np.uint8 if max(values) <= 255 else np.uint16)
        colours = class_colours.of_all(detector.names, class_colours.given_of(detector.dataset))
        self.colours = np.vstack([colours, np.full((1, 3), 255, np.uint8)])
        self.wanted = np.isin(np.arange(256), [detector.names.index(name) for name in classes])

    def positions(self, label_map):
        """A map in which unwanted classes, and what is none, are the position behind the last class."""
        return np.where(self.wanted[label_map], label_map, len(self.names))

    def index_png(self, positions):
        return drawing.encoded(self.values[positions], ".png")

    def colour_png(self, positions):
        """The same values with a palette; of more than 8 bits, colours alone."""
        if self.values.dtype != np.uint8:
            return drawing.encoded(self.colours[positions][..., ::-1], ".png")
        palette = np.full((256, 3), 255, np.uint8)
        palette[self.values] = self.colours
        image, file = Image.fromarray(self.values[positions], mode="P"), io.BytesIO()
        image.putpalette(palette.tobytes())
        image.save(file, "PNG")
        return file.getvalue()


def _one(picture, name, label_map, look, out):
    """Draw and write one picture's files; an ExperimentError if it cannot be read any more.

    Returns:
        Its entry of classes.json, and its line of the page.
    """
    try:
        image = pictures.read(picture.path)
    except ExperimentError as error:
        return error
    positions = look.positions(label_map)
    counts = np.bincount(positions.ravel(), minlength=len(look.names) + 1)[:-1]
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda position: -counts[position])
    texts = [lettering.legible(each, f"class {value}") for each, value in zip(look.names, look.values, strict=False)]
    shown = drawing.regions(image, positions, look.colours, texts)
    targets = {kind: f"{kind}/{name}.{suffix}" for kind, suffix in KINDS.items()}
    outputs._put(out / targets["overlays"], drawing.jpeg(shown))
    outputs._put(out / targets["thumbnails"], drawing.jpeg(drawing.fitted(shown, outputs.THUMBNAIL)))
    outputs._put(out / targets["maps"], look.index_png(positions))
    outputs._put(out / targets["colours"], look.colour_png(positions))
    row = {
        "name": picture.name,
        "size": [picture.width, picture.height],
        "overlay": targets["overlays"],
        "map": targets["colours"],
        "thumbnail": targets["thumbnails"],
        "objects": [[look.names[each], round(float(counts[each] / positions.size), 4)] for each in order],
    }
    entry = {"file_name": picture.name, "width": picture.width, "height": picture.height, "map": targets["maps"]}
    return entry | {"pixels": {look.names[each]: int(counts[each]) for each in order}}, row
