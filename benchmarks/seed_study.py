"""Does each part of the method help on the embedded default, beyond the luck of data and seed?

    python -m benchmarks.seed_study [--processes 2]
    python -m benchmarks.seed_study --redraw            # the report again, from runs.csv

Trains baseline, +CM, +CM+CL and the control "+CM+CL, contrastive loss off" on two freshly drawn data sets with three
seeds each, none of which was used to choose anything, and writes runs.csv, README.md and seed_study.png into
reports/seed_study/.
Finished trainings are reused. About 35 minutes on 2 cores.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
from dataclasses import replace

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from scipy import stats

from pipeline.artifacts import paths

DATASETS = ("generated_study1", "generated_study2")
SEEDS = (0, 1, 2)
BACKBONE, DIRECTION = "r50", "nonvoc2voc"
BASELINE, CM, CONTROL, FULL = (
    "Baseline",
    "Baseline + CM",
    "Baseline + CM + CL, loss off",
    "Baseline + CM + CL",
)
RUNS = {
    BASELINE: "mask_rcnn_r50_1x_nonvoc2voc",
    CM: "cam_r50_1x_nonvoc2voc",
    CONTROL: "study_cl_loss_off",
    FULL: "contrastmask_r50_1x_nonvoc2voc",
}
COMPARISONS = [(CM, BASELINE), (FULL, CM), (CONTROL, CM), (FULL, CONTROL)]
OUT = paths.ROOT / "reports" / "seed_study"


def declaration():
    """The declared experiments plus the control row, which no table of the paper has."""
    from pipeline.declaration import experiments

    declared = experiments.load()
    full = declared.run(RUNS[FULL])
    declared.runs[RUNS[CONTROL]] = replace(full, name=RUNS[CONTROL], overrides={"cl_loss_weight": 0.0})
    return declared


def prepare(dataset):
    """Draw a data set, split it, and train the box-only detector its runs start from."""
    from pipeline.datasets.prepare import prepare as prepare_dataset
    from pipeline.declaration import subsets
    from pipeline.tasks.instances.split import split
    from pipeline.training import initial_weights

    declared = declaration()
    prepare_dataset(
        dataset,
        declared.dataset(dataset),
        images_root=paths.images_root(dataset),
        out_dir=paths.data(dataset),
    )
    for name in (DIRECTION, "boxes"):
        split(subsets.train(dataset).annotations, declared.label_set(dataset), name, paths.split(dataset, name))
    initial_weights.prepare(BACKBONE, dataset)


def measure(dataset, label, seed):
    """Train and evaluate one run; returns a row of percentages."""
    from pipeline.artifacts import working_copy
    from pipeline.artifacts.results import Scores
    from pipeline.declaration import config
    from pipeline.tasks.instances import TASK
    from pipeline.training import loop

    declared = declaration()
    job = config.resolve(RUNS[label], dataset, seed, declared)
    loop.publish(loop.train(job), dataset, job.name, seed)
    predictions = paths.predictions(dataset, job.name, seed)
    TASK.predict(job, predictions)
    groups = dict(zip(("base", "novel"), declared.label_set(dataset).base_and_novel(DIRECTION), strict=True))
    scores = Scores(TASK, TASK.score(dataset, predictions, groups))
    return {
        "row": label,
        "dataset": dataset,
        "seed": seed,
        "commit": working_copy.commit(),
        **{name: scores.value(*key) for *key, name in TASK.headline},
    }


def differences(rows, metric="novel_mask_mAP"):
    """Paired differences between rows of the same data set and seed."""
    wide = rows.pivot(index=["dataset", "seed"], columns="row", values=metric)
    return pd.DataFrame({f"{better} − {worse}": wide[better] - wide[worse] for better, worse in COMPARISONS})


def summarise(rows):
    """Markdown: mean, standard deviation and range of every row, then of every paired difference."""
    metrics = ["novel_mask_mAP", "novel_mask_AP50", "base_mask_mAP", "novel_box_mAP"]
    table = rows.groupby("row", sort=False)[metrics].agg(["mean", "std", "min", "max"]).loc[list(RUNS)]
    spread = "{:.1f} ± {:.1f} ({:.1f}–{:.1f})".format
    cells = pd.DataFrame(
        {
            metric: [spread(*row[metric][["mean", "std", "min", "max"]]) for _, row in table.iterrows()]
            for metric in metrics
        },
        index=table.index,
    )
    lines = []
    for metric in ("novel_mask_mAP", "novel_mask_AP50"):
        paired = differences(rows, metric)
        lines.append(f"Paired differences in {metric} (same data, same seed), {len(paired)} pairs:\n")
        lines.append(
            pd.DataFrame(
                {
                    "mean": paired.mean().map("{:+.1f}".format),
                    "std": paired.std().map("{:.1f}".format),
                    "range": [
                        f"{low:+.1f} to {high:+.1f}" for low, high in zip(paired.min(), paired.max(), strict=True)
                    ],
                    "positive": [f"{(paired[column] > 0).sum()} of {len(paired)}" for column in paired],
                },
                index=paired.columns,
            ).to_markdown()
        )
        lines.append("")
    return cells.to_markdown() + "\n\n" + "\n".join(lines)


def draw(rows, path):
    figure, axis = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    for k, (dataset, marker) in enumerate(zip(DATASETS, "os", strict=True)):
        for seed in SEEDS:
            line = rows[(rows.dataset == dataset) & (rows.seed == seed)].set_index("row").loc[list(RUNS)]
            axis.plot(
                range(len(RUNS)),
                line.novel_mask_mAP,
                marker=marker,
                color=("#0072B2", "#D55E00")[k],
                alpha=0.8,
                linewidth=1,
                label=dataset if seed == SEEDS[0] else None,
            )
    axis.set_xticks(range(len(RUNS)), [label.replace(", ", ",\n") for label in RUNS], fontsize=8)
    axis.set_ylabel("novel mask mAP (%)")
    axis.set_title("One line is one data set and seed (generated data)", fontsize=9)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=200, metadata={"Software": None})


def verdicts(rows):
    """One sentence for each comparison: the 95 % interval of the mean paired difference in novel mask mAP."""
    paired = differences(rows)
    for better, worse in COMPARISONS:
        values = paired[f"{better} − {worse}"]
        half = stats.t.ppf(0.975, len(values) - 1) * values.std() / len(values) ** 0.5
        low, high = values.mean() - half, values.mean() + half
        outcome = "better" if low > 0 else "worse" if high < 0 else "not distinguishable"
        interval = f"{values.mean():+.1f}, 95 % interval {low:+.1f} to {high:+.1f}"
        yield f"- **{better}** against **{worse}**: {outcome} ({interval})"


def write_report(rows):
    OUT.mkdir(parents=True, exist_ok=True)
    rows.to_csv(OUT / "runs.csv", index=False)
    draw(rows, OUT / "seed_study.png")
    summary = "\n".join(verdicts(rows)) + "\n\n" + summarise(rows)
    (OUT / "README.md").write_text(
        "# Seed study on generated data\n\n"
        "Made by `python -m benchmarks.seed_study`. Two data sets and three seeds that were not used to choose "
        "anything; mean ± standard deviation (range) in percent. Generated data: not comparable to COCO. "
        f"Code at {', '.join(sorted(set(rows['commit'])))}.\n\n"
        f"{summary}\n![novel mask mAP of every run](seed_study.png)\n"
    )
    print(summary)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="trainings at a time")
    parser.add_argument("--redraw", action="store_true", help="write the report again from runs.csv")
    arguments = parser.parse_args()
    if arguments.redraw:
        write_report(pd.read_csv(OUT / "runs.csv"))
        return
    jobs = [(dataset, label, seed) for dataset in DATASETS for seed in SEEDS for label in RUNS]
    with concurrent.futures.ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(prepare, DATASETS))
        write_report(pd.DataFrame(pool.map(measure, *zip(*jobs, strict=True))))


if __name__ == "__main__":
    main()
