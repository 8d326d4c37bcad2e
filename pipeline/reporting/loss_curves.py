"""Loss curves from the logs of trainings, a panel for each term."""

import math

import pandas as pd
from matplotlib.ticker import MaxNLocator

from pipeline.errors import NothingToShow
from pipeline.reporting import measured, style
from pipeline.reporting.style import plt

LOSS_TERMS = {  # key in the log: (title, unit)
    "loss": ("Total", ""),
    "loss_rpn_cls": ("RPN objectness", "nats"),
    "loss_rpn_bbox": ("RPN box", "normalised offset"),
    "loss_cls": ("Classification", "nats"),
    "loss_bbox": ("Box", "normalised offset"),
    "loss_mask": ("Mask", "nats per pixel"),
    "loss_contrastive": ("Pixel contrast", "nats"),
    "loss_dice": ("Dice", ""),
    "loss_complementary": ("Complementary", ""),
    "loss_similarity": ("Pixel similarity", "nats"),
    "loss_distillation": ("Distillation", ""),
}
PANELS_A_ROW = 4
SMOOTHED_SHARE = 0.05  # of the logged points, in the running mean of a loss curve


def draw(request):
    """One panel for each loss term; a curve for each run, the mean over its seeds."""
    curves, note = request.available(measured.losses)
    curves = [(series, {seed: _finite(frame) for seed, frame in seeds.items()}) for series, seeds in curves]
    logged = {term for _, seeds in curves for frame in seeds.values() for term in frame if frame[term].notna().any()}
    if not logged:
        raise NothingToShow("no log holds a finite loss")
    terms = [term for term in LOSS_TERMS if term in logged] + sorted(logged - set(LOSS_TERMS))
    last = max(frame.index.max() for _, seeds in curves for frame in seeds.values())
    columns = min(PANELS_A_ROW, len(terms))
    rows = -(-len(terms) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(style.PAGE_WIDTH, 0.35 + 1.35 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(terms) :]:
        axis.remove()
    for axis, term in zip(axes.flat, terms, strict=False):
        for series, seeds in curves:
            frames = [frame[term].dropna() for frame in seeds.values() if term in frame and frame[term].notna().any()]
            if not frames:
                continue
            mean = pd.concat(frames, axis=1).mean(axis=1)
            window = max(1, round(SMOOTHED_SHARE * len(mean)))
            if window > 1:
                axis.plot(mean.index, mean, color=series.colour, alpha=0.25, linewidth=0.6)
            axis.plot(
                mean.index,
                mean.rolling(window, center=True, min_periods=1).mean(),
                series.line,
                color=series.colour,
                marker="" if len(mean) > 1 else "o",
                markersize=3,
            )
        title, unit = LOSS_TERMS.get(term, (term, ""))
        axis.set(title=title, ylabel=unit, xlim=(0, _rounded_up(last)), ylim=(min(0, axis.get_ylim()[0]), None))
        axis.grid(axis="y")
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=style.TICK_STEPS))
        axis.yaxis.set_major_locator(MaxNLocator(4, steps=style.TICK_STEPS))
    figure.supxlabel("iteration", fontsize=7)
    _legend(figure, [series for series, _ in curves])
    return figure, (
        "Each panel is one term of the loss, already weighted, against the iteration; lines are means "
        f"over the seeds, smoothed by a running mean over {SMOOTHED_SHARE:.0%} of the logged points." + note
    )


def _finite(frame):
    return frame.replace([math.inf, -math.inf], math.nan)


def _rounded_up(last):
    """The end of an axis from 0 to `last`, so that it has a tick there."""
    return MaxNLocator(4, integer=True, steps=style.TICK_STEPS).tick_values(0, max(last, 1))[-1]


def _legend(figure, series):
    handles = [plt.Line2D([], [], color=s.colour, linestyle=s.line, linewidth=1.6, label=s.label) for s in series]
    style.legend(figure, handles, style.PAGE_WIDTH, handlelength=1.8)
