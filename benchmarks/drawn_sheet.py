"""Draw docs/drawn.png: what version 2 of the generated data set shows. `python -m benchmarks.drawn_sheet`.

Above, two individuals of each category, base and novel; below, six validation images with the outlines of their
annotations.
"""

import cv2
import numpy as np

from pipeline.artifacts import paths
from pipeline.datasets.generated import geometry, scenes
from pipeline.declaration.label_sets import label_set
from pipeline.reporting import style
from pipeline.reporting.style import plt

VERSION, SEED, SCENES, SIDE = 2, 0, 6, 256
COLUMNS = 14
WIDTH, INDIVIDUAL = 10, 10 / COLUMNS  # inches
NAME = 0.2


def sheet():
    labels = label_set("coco")
    cast = scenes.cast(labels, version=VERSION)
    groups = labels.declared_groups
    rows = [(group, [n for n in cast.looks if n in groups[of]]) for group, of in (("base", "nonvoc"), ("novel", "voc"))]
    rng = np.random.default_rng(SEED)
    scene = WIDTH / SCENES
    block = 2 * INDIVIDUAL + NAME
    height = 2 * block + scene
    figure = plt.figure(figsize=(WIDTH, height))

    def show(image, left, top, size):
        axis = figure.add_axes((left / WIDTH, 1 - (top + size) / height, 0.96 * size / WIDTH, 0.96 * size / height))
        axis.imshow(image)
        axis.set_axis_off()
        return axis

    for row, (group, names) in enumerate(rows):
        for column, name in enumerate(names):
            for k in range(2):
                picture = scenes.portrait(VERSION, cast.looks[name], SIDE, rng)
                axis = show(picture, column * INDIVIDUAL, row * block + k * INDIVIDUAL, INDIVIDUAL)
            colour = style.GROUP_COLOURS[group]
            axis.text(0.5, -0.02, name, transform=axis.transAxes, ha="center", va="top", fontsize=7, color=colour)
    spec = {"version": VERSION, "seed": SEED, "image_size": SIDE}
    for index in range(SCENES):
        image, objects = scenes.VERSIONS[VERSION].draw(spec, cast, 1, index)
        axis = show(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), index * scene, 2 * block, scene)
        for name, drawn in objects:
            colour = style.GROUP_COLOURS["novel" if name in groups["voc"] else "base"]
            for polygon in geometry.outlines(drawn.visible):
                points = np.reshape([*polygon, *polygon[:2]], (-1, 2)) - 0.5
                axis.plot(*points.T, color="white", linewidth=2.2)
                axis.plot(*points.T, color=colour, linewidth=1)
    return figure


if __name__ == "__main__":
    sheet().savefig(paths.ROOT / "docs" / "drawn.png", dpi=110, facecolor="white")
