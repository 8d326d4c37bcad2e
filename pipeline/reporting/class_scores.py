"""The scores of a run by group and by class, with what could not be scored and why."""

import pandas as pd

from pipeline import methods
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from pipeline.reporting import measured
from pipeline.reporting.tables import number

ABSENT = "n 0"


def text(run_name):
    """Scores of an evaluated run as Markdown: a line for each group, then for each class; means over the seeds.

    Args:
        run_name: of a declared run.

    Returns:
        Caption, table, and a sentence for every reason why a score is undefined.

    Raises:
        ExperimentError: no such run, or it is not evaluated yet.
    """
    declared = experiments.load()
    run, dataset = declared.run(run_name), experiments.dataset_of(run_name)
    result = measured.result(dataset, run)
    if result is None:
        raise ExperimentError(f"{run_name}: not evaluated yet; run `{experiments.repro('evaluate', run_name)}`")
    task, counts = result.task, result.task.counts(dataset)
    group_of = {
        name: group
        for group, names in task.named(*declared.label_set(dataset).base_and_novel(run.direction)).items()
        for name in names
    }
    heads = {kind: task.words(kind, task.category_metrics[0].name) for kind in task.kinds}
    counted = task.counted[0].upper() + task.counted[1:]
    per_class = {kind: _means(result, kind) for kind in task.kinds}
    rows = [
        {"Class": f"{group} (mean)", "Group": group, counted: ""}
        | {heads[kind]: number(result.value(kind=kind, group=group)[0]) for kind in task.kinds}
        for group in task.groups
        if group not in task.parts or group in group_of.values()
    ]
    rows += [
        {"Class": name, "Group": group_of.get(name, ""), counted: counts.get(name, ABSENT)}
        | {heads[kind]: number(per_class[kind].get(name)) for kind in task.kinds}
        for name in declared.label_set(dataset).names
    ]
    seeds = "seed" if len(result.seeds) == 1 else "seeds"
    caption = (
        f"{methods.method(run.method).label} on the validation images of {dataset}, {task.main_metric.unit}; "
        f"{seeds} {', '.join(map(str, result.seeds))}."
    )
    notes = [
        f"No {heads[kind]} (–): {reason}: {', '.join(names)}. Means are over the other classes of a group."
        for kind in task.kinds
        for reason, names in _by_kind_of_reason(result.undefined(kind)).items()
    ]
    return "\n\n".join([caption, pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True), *notes])


def _means(result, kind):
    """{class: mean over the seeds of its first metric}; None where it is undefined in one."""
    metric = result.task.category_metrics[0].key
    found = {}
    for name in result.per_seed[0].categories(kind):
        values = [scores.category(kind, name, metric) for scores in result.per_seed]
        found[name] = None if None in values else sum(values) / len(values)
    return found


def _by_kind_of_reason(undefined):
    """Reasons that differ in their numbers alone as one."""
    found = {}
    for reason, names in undefined.items():
        words = "validation objects have no mask" if reason.endswith("validation objects have no mask") else reason
        found.setdefault(words, []).extend(names)
    return found
