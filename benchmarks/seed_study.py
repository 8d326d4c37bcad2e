"""Does each part of the method help on the embedded default, beyond the luck of data and seed?

    python -m benchmarks.seed_study held_out [--processes 2]      # what reports/seed_study/protocol.yaml holds out
    python -m benchmarks.seed_study held_out_oracle
    python -m benchmarks.seed_study ablation [--processes 2]      # the rows of the ablation tables, in pairs
    python -m benchmarks.seed_study report                        # the report again, from runs.csv

What is trained, on which data and with which seeds, what is compared and when it stops stands in protocol.yaml, which
is committed before anything of it runs. Each finished training is a line of runs.csv; finished ones are not repeated.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import time
from dataclasses import replace

import pandas as pd

from pipeline.artifacts import files, paths
from pipeline.declaration import experiments

OUT = paths.ROOT / "reports" / "seed_study"
RUNS_CSV = OUT / "runs.csv"
BACKBONE, DATASET = "r50", "generated"
NUMBERS = [
    (group, kind, metric)
    for group, kind, metrics in (
        ("novel", "segm", ("mAP", "AP50", "AP75", "APs", "APm", "APl")),
        ("base", "segm", ("mAP", "AP50")),
        ("novel", "bbox", ("mAP",)),
        ("base", "bbox", ("mAP",)),
    )
    for metric in metrics
]
# What was in effect: means over the second half of a training's log.
EFFECTS = ("loss_mask", "loss_contrastive", "cl_lambda", "kept_base_rois", "kept_novel_rois", "dropped_novel_rois")


def protocol():
    return experiments.read_yaml(OUT / "protocol.yaml")


def declaration(plan):
    """The declared experiments and the control rows that no table of the paper has."""
    declared = experiments.load()
    for name, control in plan["controls"].items():
        declared.runs[name] = replace(declared.run(control["of"]), name=name, overrides=control["overrides"])
    return declared


def prepare(dataset):
    """Draw a data set, split it, and train the box-only detector its runs start from."""
    from pipeline.datasets.prepare import prepare as prepare_dataset
    from pipeline.declaration import subsets
    from pipeline.tasks.instances.split import split
    from pipeline.training import initial_weights

    declared = declaration(protocol())
    prepare_dataset(
        dataset, declared.dataset(dataset), images_root=paths.images_root(dataset), out_dir=paths.data(dataset)
    )
    directions = {run.direction for run in declared.runs.values() if run.dataset is None}
    for name in (*sorted(directions), "boxes"):
        split(subsets.train(dataset).annotations, declared.label_set(dataset), name, paths.split(dataset, name))
    initial_weights.prepare(BACKBONE, dataset)


def measure(phase, dataset, run, seed):
    """Train and evaluate one run.

    Returns:
        A row of runs.csv; scores in percent.
    """
    from pipeline.artifacts import working_copy
    from pipeline.artifacts.results import Scores
    from pipeline.artifacts.training_log import read_log
    from pipeline.declaration import config
    from pipeline.tasks.instances import TASK
    from pipeline.training import loop

    plan = protocol()
    declared = declaration(plan)
    began = time.process_time()
    job = config.resolve(run, dataset, seed, declared)
    scratch = loop.train(job)
    seconds = time.process_time() - began
    loop.publish(scratch, dataset, job.name, seed)
    predictions = paths.predictions(dataset, job.name, seed)
    TASK.predict(job, predictions)
    names = declared.label_set(dataset).base_and_novel(job.direction)
    scores = Scores(TASK, TASK.score(dataset, predictions, dict(zip(("base", "novel"), names, strict=True))))
    log = read_log(scratch / "log.jsonl")
    late = pd.DataFrame(log[len(log) // 2 :])
    return {
        "phase": phase.removesuffix("_oracle"),
        "run": run,
        "label": plan["labels"].get(run, run),
        "dataset": dataset,
        "data_seed": declared.dataset(dataset)["seed"],
        "seed": seed,
        "commit": working_copy.commit(),
        **{
            f"{group}_{TASK.kinds[kind]}_{metric}": scores.value(group, kind, metric) for group, kind, metric in NUMBERS
        },
        **{name: late[name].mean() for name in EFFECTS if name in late},
        "core_seconds": round(seconds),
    }


def jobs_of(phase, plan, declared):
    """(dataset, run, seed) of a phase, the pairs of one data set and seed together."""
    part = plan[phase]
    runs = list(part.get("runs", ()))
    for table in part.get("tables", ()):
        runs += experiments.runs_of(declared.tables[table])
    runs = list(dict.fromkeys(runs))
    return [(data, run, seed) for seed in part["seeds"] for data in part["datasets"] for run in runs]


def run_phase(phase, processes):
    plan = protocol()
    done = pd.read_csv(RUNS_CSV) if RUNS_CSV.exists() else pd.DataFrame(columns=["dataset", "run", "seed"])
    finished = set(zip(done["dataset"], done["run"], done["seed"], strict=True))
    jobs = [job for job in jobs_of(phase, plan, declaration(plan)) if job not in finished]
    print(f"{phase}: {len(jobs)} trainings to do, {len(finished)} in {RUNS_CSV.relative_to(paths.ROOT)}", flush=True)
    with concurrent.futures.ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(prepare, sorted({dataset for dataset, _, _ in jobs})))
        waiting = [pool.submit(measure, phase, *job) for job in jobs]
        for count, future in enumerate(concurrent.futures.as_completed(waiting), start=1):
            row = pd.DataFrame([future.result()])
            done = pd.concat([done, row], ignore_index=True) if len(done) else row
            done.to_csv(RUNS_CSV, index=False)
            print(f"{count} of {len(jobs)}: {row.to_string(index=False, header=False)}", flush=True)


def write_report():
    """README.md and the figures of reports/seed_study, from runs.csv and protocol.yaml alone."""
    from pipeline.reporting import study_page

    plan, declared = protocol(), experiments.load()
    text = (
        "# Seed study on generated data\n\n"
        "Made by `python -m benchmarks.seed_study`. What was to be trained, compared and concluded stands in "
        "[protocol.yaml](protocol.yaml), which was committed before.\n\n"
        f"**Test.** {plan['test']}\n\n**Stopping rule.** {plan['stopping']}\n\n{study_page.page(declared, DATASET)}\n"
    )
    files.write_text(OUT / "README.md", text)
    print(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("phase", choices=("held_out", "held_out_oracle", "ablation", "report"))
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="trainings at a time")
    arguments = parser.parse_args()
    if arguments.phase != "report":
        run_phase(arguments.phase, arguments.processes)
    write_report()


if __name__ == "__main__":
    main()
