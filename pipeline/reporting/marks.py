"""Which cells of a table of drawn data differ from its reference row by more than trainings wander.

A row that has enough seeds in common with the reference is told from it by its own paired differences, another one by
the noise of the seed study. Neither: no mark.
"""

from dataclasses import dataclass

from pipeline.reporting import measured, study

SIGNS = {study.BETTER: "↑", study.WORSE: "↓", study.UNKNOWN: "≈"}


@dataclass(frozen=True)
class Told:
    """What told a row from the reference.

    Attributes:
        label: of the row.
        own: whether its own seeds did, else the study.
        threshold: by how much its main number would differ by chance, in its unit; None with seeds of its own, or
            where the study tells nothing of this number.
        pairs: of trainings of the study behind it.
    """

    label: str
    own: bool
    threshold: float | None = None
    pairs: int = 0


def add(frame, table, declared, dataset):
    """Fill the columns `<metric>_verdict` of a table with `study.BETTER`, `WORSE`, `UNKNOWN`, or nothing.

    The reference is the row with `reference: true` in the declaration, in each direction its run. `frame.attrs` gets
    `reference`, its label, and `marks`, sentences on where the noise comes from; both are empty where nothing is to be
    told: on data that are not drawn, without a reference or another row beside it.
    """
    frame.attrs |= {"reference": "", "marks": ""}
    row = next((row for row in table["rows"] if row.get("reference")), None)
    if row is None:
        return
    references = {declared.runs[name].direction: declared.runs[name] for name in row["runs"]}
    known, told, silent, reasons = {}, [], [], []
    for index, line in frame.iterrows():
        reference = references.get(line["direction"])
        if reference is None or line["run"] == reference.name or line["state"] != "done":
            continue
        place = line["dataset"]
        if reference.on(dataset) != place or declared.dataset(place)["kind"] not in study.DRAWN:
            continue
        results = [measured.result(dataset, run) for run in (declared.runs[line["run"]], reference)]
        if None in results:
            continue
        seeds = known.setdefault(place, study.of(place, declared))
        verdicts, how = _verdicts(*results, seeds, declared.runs[line["run"]], reference, declared, line["row"])
        for metric, verdict in verdicts.items():
            frame.loc[index, f"{metric}_verdict"] = verdict
        if how is not None:
            told.append(how)
        elif seeds:
            silent.append(line["row"])
        else:
            reasons.append(seeds.reason)
    frame.attrs["reference"] = row["label"] if told else ""
    frame.attrs["marks"] = " ".join(_sentences(row["label"], told, silent, reasons, known.values()))


def _verdicts(result, reference, seeds, run, other, declared, label):
    """({metric: verdict}, `Told`) of a row; ({}, None) where nothing tells it from the reference."""
    common = [seed for seed in result.seeds if seed in reference.seeds]
    task, enough = result.task, len(common) >= study.FEWEST
    alike = _alike(run, declared)
    verdicts, main = {}, None
    for metric in task.metrics if common else ():
        differences = _differences(result, reference, common, metric.key)
        if differences is None:
            continue
        if enough:
            verdicts[metric.key] = study.verdict(study.interval(differences), metric.lower_is_better)
            continue
        noise = seeds.noise(alike, other.name, study.column(task, metric=metric.key))
        if noise is not None:
            here, most = sum(differences) / len(common), noise.threshold(len(common))
            verdicts[metric.key] = study.verdict((here - most, here + most), metric.lower_is_better)
            if metric == task.main_metric:
                main = Told(label, False, most, noise.pairs)
    if not verdicts:
        return {}, None
    return verdicts, main or Told(label, enough)


def _differences(result, reference, seeds, metric):
    """The paired differences in a metric of the main group, None where it is undefined in one."""
    group, kind, _ = result.task.main
    numbers = [
        {scores.entry["seed"]: scores.value(group, kind, metric) for scores in each.per_seed}
        for each in (result, reference)
    ]
    pairs = [(numbers[0][seed], numbers[1][seed]) for seed in seeds]
    return None if any(None in pair for pair in pairs) else [ours - theirs for ours, theirs in pairs]


def _alike(run, declared):
    """Runs that wander as this one does: those that differ from it in knobs alone."""
    columns = ("method", "backbone", "schedule", "direction")
    return [
        name
        for name, other in declared.runs.items()
        if all(getattr(other, column) == getattr(run, column) for column in columns)
    ]


def _sentences(reference, told, silent, reasons, studies):
    """What stands under the table."""
    if by_study := [each for each in told if each.threshold is not None]:
        groups = {}
        for each in by_study:
            groups.setdefault((f"{each.threshold:.1f}", each.pairs), []).append(each.label)
        limits = []
        for (threshold, pairs), labels in groups.items():
            whose = f" ({', '.join(labels)})" if len(groups) > 1 else ""
            limits.append(f"{threshold}{whose}, from {pairs} pairs of trainings")
        described = "; ".join(found.described for found in studies if found)
        yield (
            f"The noise is that of the seed study (reports/seed_study: {described}): two trainings on the same data "
            f"with the same seed differ by chance by up to {'; by up to '.join(limits)}, in the first column (95 % "
            "prediction interval of one more pair). Rows are marked one by one, without correction for their number."
        )
    if own := [each.label for each in told if each.own]:
        yield f"Told by the differences of their own seeds, 95 % interval of Student's t: {', '.join(own)}."
    if silent:
        yield f"Not marked, as the seed study has no such pairs: {', '.join(dict.fromkeys(silent))}."
    if reasons:
        yield (
            f"No row is marked as distinguishable from {reference} or not: one training a row tells no noise, and "
            f"{reasons[0]}."
        )
