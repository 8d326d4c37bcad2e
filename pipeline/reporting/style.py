"""Colours, sizes and file formats that every figure shares.

Colours are from Okabe and Ito's palette, which stays readable with the common colour-vision deficiencies;
base and novel also differ in marker or outline.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first

from pipeline import methods  # noqa: E402

STYLE = Path(__file__).with_name("paper.mplstyle")
EXTENSIONS = ("png", "pdf", "svg")
COLUMN_WIDTH, PAGE_WIDTH = 3.25, 6.875  # inches, CVPR template

GROUP_COLOURS = {"base": "#0072B2", "novel": "#D55E00"}
# Shades tell the objects of a group apart: all of base are bluish, all of novel yellowish, with any colour vision.
GROUP_SHADES = {
    "base": ("#0072B2", "#56B4E9", "#1F3F8F", "#7A9BE8", "#00507D"),
    "novel": ("#D55E00", "#E69F00", "#8F3B00", "#F0A878", "#B58900"),
}
GROUP_LINES = {"base": "-", "novel": (0, (2.2, 1.0))}
SAME_METHOD_LINES = ("-", "--", ":", "-.")  # runs of one method in one figure
SAME_METHOD_HATCHES = dict(zip(SAME_METHOD_LINES, (None, "////", "....", "xxxx"), strict=True))  # where they are bars
CYCLE = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#F0E442")
CYCLE_NOVEL = ("#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#8F3B00")  # without the blue of base
# The supplement's Fig. 1: yellow foreground, dark purple background; they are the ends of the colour map of the CAM.
SIDE_COLOURS = {"foreground": "#FDE725", "background": "#440154", "unassigned": "#9e9e9e"}
CAM_MAP = "viridis"
TICK_STEPS = [1, 2, 2.5, 5, 10]


def method_colour(method):
    """The colour of a method, the same in every figure."""
    return methods.method(method).colour


def tint(colour, index):
    """A colour, lighter for every further one of a kind, for what is told apart by a hatch as well."""
    return tuple(part + (1 - part) * min(0.22 * index, 0.7) for part in matplotlib.colors.to_rgb(colour))


def shade(group, index):
    """A shade of the colours of a group for one of its objects."""
    return GROUP_SHADES[group][index % len(GROUP_SHADES[group])]


def legend(figure, handles, width, **options):
    """Put a legend above (or where `options` tell) the axes, in as many columns as fit into `width` inches."""
    letters = max((len(handle.get_label()) for handle in handles), default=0)
    size = options.get("fontsize") or plt.rcParams["legend.fontsize"]
    column = (letters * 0.58 + 4) * size / 72
    columns = max(1, min(len(handles), int(width / column)))
    rows = -(-len(handles) // columns)
    figure.legend(handles=handles, ncols=-(-len(handles) // rows), **({"loc": "outside upper center"} | options))


def paper_style():
    """Context in which figures are drawn and saved."""
    return plt.style.context(STYLE)


def metadata(extension, title, caption, dataset):
    """File metadata without date or program: same input, same bytes. The caption travels with the picture."""
    if extension == "png":
        return {"Title": title, "Description": caption, "Source": dataset, "Software": None}
    if extension == "pdf":
        return {"Title": title, "Subject": caption, "Creator": None, "Producer": None, "CreationDate": None}
    return {"Title": title, "Description": caption, "Source": dataset, "Date": None, "Creator": None}
