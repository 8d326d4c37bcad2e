"""What the generated dataset draws: a portrait of each category, as a legend below a figure."""

from pipeline.datasets.generated import scenes
from pipeline.reporting import style

SIDE = 128  # pixels of a portrait
SIZE = 0.34  # inches of a portrait
NAMES = 0.2  # inches below a row of portraits, for names of up to two words
FONT = 5.5  # points
STEP = 0.68  # inches from a portrait to the next, at most; a figure of many categories has them closer


def portraits(dataset, label_set):
    """Give what each class of a dataset looks like.

    Args:
        dataset: its declaration.
        label_set: its `label_sets.LabelSet`.

    Returns:
        {class name: uint8 RGB [SIDE, SIDE, 3]}; empty if the images are not drawn.
    """
    if dataset["kind"] != "generated":
        return {}
    version = dataset["version"]
    looks = scenes.cast(label_set, dataset.get("looks"), version).looks
    return {name: scenes.portrait(version, look, SIDE) for name, look in looks.items()}


def add_legend(figure, groups, pictures):
    """Add a row per group below a figure, base above novel: every category that is drawn, with its name.

    Args:
        figure: its size stays as it is; the rows lie below it, for `savefig.bbox: tight` to take in.
        groups: {"base": category names, "novel": category names}.
        pictures: {category name: RGB [H, W, 3]}.
    """
    rows = [(group, [name for name in pictures if name in members]) for group, members in groups.items()]
    width, height = figure.get_size_inches()
    step = min(STEP, width / max(len(names) for _, names in rows))
    for row, (group, names) in enumerate(rows):
        bottom = -(row + 1) * SIZE - row * NAMES
        for column, name in enumerate(names):
            left = column * step + (step - SIZE) / 2
            axis = figure.add_axes((left / width, bottom / height, SIZE / width, SIZE / height))
            axis.imshow(pictures[name], interpolation="antialiased")
            axis.set_axis_off()
            axis.text(
                *(0.5, -0.08),
                name.replace(" ", "\n"),
                transform=axis.transAxes,
                ha="center",
                va="top",
                fontsize=FONT,
                linespacing=0.9,
                color=style.GROUP_COLOURS[group],
            )
