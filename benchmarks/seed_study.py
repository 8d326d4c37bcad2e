"""Does each part of the methods help on the embedded defaults, beyond the luck of data and seed?

    python -m benchmarks.seed_study held_out [--processes 2]      # what reports/seed_study/protocol.yaml holds out
    python -m benchmarks.seed_study held_out_oracle
    python -m benchmarks.seed_study ablation [--processes 2]      # the rows of the ablation tables, in pairs
    python -m benchmarks.seed_study held_out_maps                 # the second paper's, on drawn label maps
    python -m benchmarks.seed_study held_out_maps_self
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

from pipeline import methods
from pipeline.artifacts import files, paths
from pipeline.declaration import experiments

PHASES = ("held_out", "held_out_oracle", "ablation", "held_out_maps", "held_out_maps_self")
OUT = paths.ROOT / "reports" / "seed_study"
RUNS_CSV = OUT / "runs.csv"
DATASET, MAPS = "generated", "scenes"
INSTANCES = [
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
EFFECTS += ("loss_complementary", "loss_similarity", "loss_distillation")


def protocol():
    return experiments.read_yaml(OUT / "protocol.yaml")


def declaration(plan):
    """The declared experiments and the control rows that no table of the paper has."""
    declared = experiments.load()
    for name, control in plan["controls"].items():
        declared.runs[name] = replace(declared.run(control["of"]), name=name, overrides=control["overrides"])
    return declared


def prepare(dataset, runs):
    """Draw a data set, hide what runs may not see of it, and train the box-only detectors that they start from."""
    from pipeline import tasks
    from pipeline.datasets.prepare import prepare as prepare_dataset
    from pipeline.declaration import config, subsets
    from pipeline.training import initial_weights

    declared = declaration(protocol())
    prepare_dataset(
        dataset, declared.dataset(dataset), images_root=paths.images_root(dataset), out_dir=paths.data(dataset)
    )
    jobs = [config.resolve(run, dataset, 0, declared) for run in runs]
    splits = {(methods.task_of(job.method).name, job.direction) for job in jobs}
    weights = {job.initial_weights for job in jobs} - {None}
    if weights:
        splits.add((tasks.FIRST, "boxes"))
    annotations, labels = subsets.train(dataset).annotations, declared.label_set(dataset)
    for task, direction in sorted(splits):
        folder = paths.split(dataset, tasks.split_of(task, direction))
        tasks.task(task).hide(annotations, labels, direction, folder, None, (dataset, direction))
    for key in sorted(weights):
        initial_weights.prepare(key, dataset)


def numbers(task):
    """[(group, kind, metric)] of a task that go into runs.csv."""
    if task.name == "instances":
        return INSTANCES
    return [(group, kind, metric.key) for group in task.groups for kind in task.kinds for metric in task.metrics]


def measure(phase, dataset, run, seed):
    """Train and evaluate one run.

    Returns:
        A row of runs.csv; scores in percent.
    """
    from pipeline.artifacts import working_copy
    from pipeline.artifacts.results import Scores
    from pipeline.artifacts.training_log import read_log
    from pipeline.declaration import config
    from pipeline.reporting import study
    from pipeline.training import loop

    plan = protocol()
    declared = declaration(plan)
    began = time.process_time()
    job = config.resolve(run, dataset, seed, declared)
    task = methods.task_of(job.method)
    scratch = loop.train(job)
    seconds = time.process_time() - began
    loop.publish(scratch, dataset, job.name, seed)
    predictions = paths.predictions(dataset, job.name, seed)
    task.predict(job, predictions)
    names = declared.label_set(dataset).base_and_novel(job.direction)
    scores = Scores(task, task.score(dataset, predictions, dict(zip(("base", "novel"), names, strict=True))))
    log = read_log(scratch / "log.jsonl")
    late = pd.DataFrame(log[len(log) // 2 :])
    return {
        "phase": "held_out" if phase.startswith("held_out") else phase,
        "run": run,
        "label": plan["labels"].get(run, run),
        "dataset": dataset,
        "data_seed": declared.dataset(dataset)["seed"],
        "seed": seed,
        "commit": working_copy.commit(),
        **{
            study.column(task, group, kind, metric): scores.value(group, kind, metric)
            for group, kind, metric in numbers(task)
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
    done = (
        pd.read_csv(RUNS_CSV, float_precision="round_trip")
        if RUNS_CSV.exists()
        else pd.DataFrame(columns=["dataset", "run", "seed"])
    )
    finished = set(zip(done["dataset"], done["run"], done["seed"], strict=True))
    jobs = [job for job in jobs_of(phase, plan, declaration(plan)) if job not in finished]
    print(f"{phase}: {len(jobs)} trainings to do, {len(finished)} in {RUNS_CSV.relative_to(paths.ROOT)}", flush=True)
    with concurrent.futures.ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        places = sorted({dataset for dataset, _, _ in jobs})
        list(pool.map(prepare, places, [sorted({run for _, run, _ in jobs})] * len(places)))
        waiting = [pool.submit(measure, phase, *job) for job in jobs]
        for count, future in enumerate(concurrent.futures.as_completed(waiting), start=1):
            row = pd.DataFrame([future.result()])
            done = pd.concat([done, row], ignore_index=True) if len(done) else row
            done.to_csv(RUNS_CSV, index=False)
            print(f"{count} of {len(jobs)}: {row.to_string(index=False, header=False)}", flush=True)


def write_report():
    """README.md and the figures of reports/seed_study, from runs.csv and protocol.yaml alone."""
    from pipeline.reporting import study, study_page

    plan, declared = protocol(), experiments.load()
    text = (
        "# Seed study on generated data\n\n"
        "Made by `python -m benchmarks.seed_study`. What was to be trained, compared and concluded stands in "
        "[protocol.yaml](protocol.yaml), which was committed before.\n\n"
        f"**Test.** {plan['test']}\n\n**Stopping rule.** {plan['stopping']}\n\n{study_page.page(declared, DATASET)}\n"
    )
    if study.of(MAPS, declared):
        compared = plan["held_out_maps"]["comparisons"]
        text += f"\n# On drawn label maps\n\n{plan['maps']}\n\n{study_page.pairs(declared, MAPS, compared)}\n"
    files.write_text(OUT / "README.md", text)
    print(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("phase", choices=(*PHASES, "report"))
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="trainings at a time")
    arguments = parser.parse_args()
    if arguments.phase != "report":
        run_phase(arguments.phase, arguments.processes)
    write_report()


if __name__ == "__main__":
    main()
