"""What the stages do with a declared run: train it, evaluate it, state its headline numbers."""

import logging

from pipeline import methods
from pipeline.artifacts import attempts, checkpoint, detections, files, paths, results
from pipeline.artifacts.training_log import read_log
from pipeline.datasets import prepare
from pipeline.declaration import config, experiments, recipe
from pipeline.errors import ExperimentError
from pipeline.tracking import record
from pipeline.tracking.tracker import track
from pipeline.training import loop

logger = logging.getLogger("pipeline.runs")


def resolve_seeds(run_name, dataset):
    """The `config.Training` of every seed of a run. Raises ExperimentError for unknown names or bad values."""
    declared = experiments.load()
    seeds = config.load_knobs(declared.run(run_name)).seeds
    return [config.resolve(run_name, dataset, seed, declared) for seed in seeds]


def tags(run_name):
    """MLflow tags that tell where a run is shown."""
    declared = experiments.load()
    shown = [name for name, table in declared.tables.items() if run_name in experiments.runs_of(table)]
    run = declared.runs[run_name]
    return {
        "tables": ",".join(shown),
        "method": run.method,
        "backbone": run.backbone,
        "schedule": run.schedule,
    }


def ensure_images(dataset):
    """Look whether the images of a dataset are there; raises ExperimentError if not. Changes nothing."""
    prepare.ensure_images(
        dataset,
        experiments.load().dataset(dataset),
        images_root=paths.images_root(dataset),
        manifest=paths.manifest(dataset),
    )


def train(run_name, dataset):
    """Train every seed of a run; finished ones are reused. Writes runs/ and logs/."""
    experiments.load().run(run_name)
    with attempts.attempt(dataset, run_name, "train") as working_on:
        ensure_images(dataset)
        for job in resolve_seeds(run_name, dataset):
            fingerprint = recipe.fingerprint(job)
            working_on(fingerprint)
            with track(job, fingerprint, "train", "SCHEDULED", tags(run_name)) as tracker:
                scratch = loop.train(job, tracker)
                loop.publish(scratch, dataset, run_name, job.seed)
                tracker.log_files(scratch / "config.py")


def label(run_name, dataset):
    """Label the training images with every seed of a trained run, for others to train on. Writes data/.../labels/."""
    task = methods.task_of(experiments.load().run(run_name).method)
    with attempts.attempt(dataset, attempts.labelling(run_name), "label") as working_on:
        ensure_images(dataset)
        keys = []
        for job in resolve_seeds(run_name, dataset):
            keys.append(paths.labelling_key(require_trained(job)))
            working_on(keys[-1])
            task.label(job, paths.label_index(dataset, run_name, job.seed))
    for key in keys:
        detections.forget(key)


def evaluate(run_name, dataset):
    """Predict and score every seed of a trained run. Writes predictions/ and results/."""
    experiments.load().run(run_name)
    with attempts.attempt(dataset, run_name, "evaluate") as working_on:
        _evaluate(run_name, dataset, working_on)


def _evaluate(run_name, dataset, working_on):
    ensure_images(dataset)
    declared = experiments.load()
    run = declared.run(run_name)
    task = methods.task_of(run.method)
    groups = task.named(*declared.label_set(dataset).base_and_novel(run.direction))
    per_seed = []
    jobs = resolve_seeds(run_name, dataset)
    for job in jobs:
        fingerprint = require_trained(job)
        working_on(fingerprint)
        with track(job, fingerprint, "evaluate", "FINISHED", tags(run_name)) as tracker:
            tracker.log_history(_published_log(job))  # of a training whose folder is elsewhere or gone
            predictions = paths.predictions(dataset, run_name, job.seed)
            methods.register(job.method, job.knobs)
            task.predict(job, predictions)
            scores = task.score(dataset, predictions, groups)
            digest = results.predictions_digest(dataset, run_name, job.seed)
            per_seed.append({"seed": job.seed, "fingerprint": fingerprint, "predictions": digest, **scores})
            tracker.log_scores(results.Scores(task, per_seed[-1]))
    results.write(
        dataset,
        run_name,
        {
            "run": run_name,
            "dataset": dataset,
            "direction": run.direction,
            "method": run.method,
            "task": task.name,
            "seeds": [job.seed for job in jobs],
            "recipe": recipe.identity(recipe.of_training(jobs[0])),  # the same for all seeds
            "versions": recipe.versions(),
            "per_seed": per_seed,
        },
    )
    for scores in per_seed:
        detections.forget(scores["fingerprint"])


def _published_log(job):
    log = paths.log(job.dataset, job.name, job.seed)
    return read_log(log) if log.exists() else []


def track_results(dataset):
    """Track the results of this working copy that no tracking files are left of, from logs/, results/ and checkpoint.

    Left out, with a message, is a result whose run is no longer declared, configured or trained as when it was made.
    """
    for path in sorted(paths.results(dataset, "").parent.glob("*.json")):
        try:
            content = results.read(dataset, path.stem)
            per_seed = results.scores(dataset, path.stem, content)
        except ExperimentError as error:
            logger.warning("%s", error)
            continue
        for scores in per_seed:
            seed, fingerprint = scores.entry["seed"], scores.entry["fingerprint"]
            if record.Record(dataset, content["run"], seed, fingerprint).exists:
                continue
            try:
                job = config.resolve(content["run"], dataset, seed)
                same = fingerprint == trained_fingerprint(job) == recipe.fingerprint(job)
            except ExperimentError:
                same = False
            if not same:
                logger.warning(
                    "%s seed %s: trained with other settings or code than now, not tracked again", content["run"], seed
                )
                continue
            with track(job, fingerprint, "evaluate", "FINISHED", tags(content["run"])) as tracker:
                tracker.log_history(_published_log(job))
                tracker.log_scores(scores)


def trained_fingerprint(job):
    """The fingerprint recorded in a run's checkpoint. Raises ExperimentError if the run is not trained."""
    return checkpoint.of_run(job, mmap=True).get("meta", {}).get("fingerprint")


def require_trained(job):
    """The fingerprint of a run whose checkpoint is the one that its training would write today.

    Raises:
        ExperimentError: the run is not trained, or with another configuration, code or data, or it is another's
            checkpoint.
    """
    trained, today = trained_fingerprint(job), recipe.fingerprint(job)
    if trained != today:
        path = paths.checkpoint(job.dataset, job.name, job.seed).relative_to(paths.ROOT)
        make = experiments.repro("train", job.name, again=True)
        raise ExperimentError(
            f"{path}: trained with other code, settings or data than those of today, or of another run (fingerprint "
            f"{trained}, not {today}); run `{make}`, which trains it unless that is done"
        )
    return trained


def headline(run_name, dataset):
    """Write the mean over seeds of a run's main numbers, percent, as a flat file for DVC."""
    found = results.read(dataset, run_name)
    if found is None:
        missing = paths.results(dataset, run_name).relative_to(paths.ROOT)
        make = experiments.repro("evaluate", run_name)
        raise ExperimentError(f"{missing}: not evaluated yet; run `{make}`")
    per_seed = results.scores(dataset, run_name, found)
    numbers = {}
    for *key, name in per_seed[0].task.headline:
        values = [scores.value(*key) for scores in per_seed]
        if None not in values:
            numbers[name] = round(sum(values) / len(values), 2)
    files.write_json(paths.metrics(run_name), numbers)
