"""How alike the mask weights of categories are that a method predicts from its box head, from stage `look_inside`."""

import numpy as np

from pipeline.errors import NothingToShow
from pipeline.reporting import panels, roi_cells, style
from pipeline.reporting.style import plt
from pipeline.tasks.instances import examples

WEIGHTS = "weights"
LONGEST_NAME = 18  # letters of a category


def read(dataset, run):
    """As `roi_cells.read`; `weights` [N, C] are those of each object's category."""
    return roi_cells.read(dataset, run, roi_cells.OF_ANY, {WEIGHTS: "C"})


def draw(dataset, arrays):
    """Draw the cosine of the weights of every two categories, base ones first.

    Args:
        dataset: name of the dataset; its validation annotations are read for the names of categories.
        arrays: from `read`.

    Returns:
        (matplotlib Figure, caption).

    Raises:
        NothingToShow: there are fewer than two categories.
    """
    labels, first = np.unique(arrays["labels"], return_index=True)
    if len(labels) < 2:
        raise NothingToShow("stage look_inside saw objects of one category, and there are no two to compare")
    is_novel = arrays["is_novel"][first]
    order = np.lexsort((labels, is_novel))
    weights, is_novel = arrays[WEIGHTS][first][order].astype(np.float64), is_novel[order]
    unit = weights / np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-12)
    cosines = unit @ unit.T
    names = [examples.load_ground_truth(dataset).cats[int(label)]["name"] for label in labels[order]]
    names = [panels.shortened(name, LONGEST_NAME) for name in names]
    side = style.COLUMN_WIDTH
    figure, axis = plt.subplots(figsize=(side, 0.85 * side), layout="constrained")  # beside the colour bar
    image = axis.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1)
    places, size = range(len(names)), min(6.0, 150 / len(names))
    axis.set_xticks(places, names, rotation=90, fontsize=size)
    axis.set_yticks(places, names, fontsize=size)
    for text, novel in zip((*axis.get_xticklabels(), *axis.get_yticklabels()), (*is_novel, *is_novel), strict=True):
        text.set_color(style.GROUP_COLOURS["novel" if novel else "base"])
    axis.tick_params(length=0)
    between = (~is_novel).sum() - 0.5
    for line in (axis.axhline, axis.axvline):
        line(between, color="black", linewidth=0.8)
    figure.colorbar(image, ax=axis, shrink=0.7, label="cosine of the weights")
    return figure, (
        f"Cosine of the predicted mask weights ({weights.shape[1]} numbers a category) of every two of the "
        f"{(~is_novel).sum()} base and {is_novel.sum()} novel categories among the objects of stage look_inside, base "
        f"ones first. {_mean(cosines, is_novel)}"
    )


def _mean(cosines, is_novel):
    """The mean cosine between different categories, in words."""
    different = ~np.eye(len(cosines), dtype=bool)
    groups = (("two base categories", ~is_novel, ~is_novel), ("a base and a novel one", ~is_novel, is_novel))
    found = [(name, cosines[np.outer(rows, columns) & different]) for name, rows, columns in groups]
    means = [f"{values.mean():.2f} between {name}" for name, values in found if len(values)]
    return f"Its mean is {', '.join(means)}." if means else ""
