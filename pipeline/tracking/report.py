"""Keep the newest report as artifacts of the store."""

import time

from pipeline.artifacts import working_copy
from pipeline.tracking import store, sync


def log_report(dataset, directory, selection, scores):
    """Keep the newest page, tables and figures as the artifacts of one MLflow run named `report`.

    Args:
        directory: `reports/<dataset>`.
        selection: pipeline.declaration.experiments.selected(): which tables and figures.
        scores: {run: {name: main number of its task}}, logged as `<name>/<run>`, such as `novel/mask/AP/<run>`.
    """
    try:
        from mlflow.entities import Metric

        client, experiment = store.connect(dataset)
        for old in client.search_runs([experiment], "tags.stage = 'report'"):
            client.delete_run(old.info.run_id)
        tags = {
            "stage": "report",
            "dataset": dataset,
            "mlflow.source.git.commit": working_copy.commit(),
            "mlflow.source.name": "stages/report.py",
            "mlflow.source.type": "LOCAL",
            "mlflow.note.content": f"The newest tables, figures and page of {dataset}, as artifacts; its metrics "
            "are the main number of each run of the tables.",
            "tables": ",".join(selection["tables"]),
        }
        run = client.create_run(experiment, tags=tags, run_name="report").info.run_id
        now = int(time.time() * 1000)
        client.log_batch(
            run,
            [Metric(f"{key}/{name}", value, now, 0) for name, known in scores.items() for key, value in known.items()],
        )
        for kind in ("tables", "figures"):
            for name in selection[kind]:  # others in the folder may be of an earlier choice or dataset
                for path in sorted((directory / kind).glob(f"{name}.*")):
                    client.log_artifact(run, str(path), kind)
        for page in ("index.html", "README.md"):
            if (directory / page).exists():
                client.log_artifact(run, str(directory / page))
        client.set_terminated(run)
        sync.settle_all(sync.SETTLE_SECONDS)
    except Exception as error:  # as in pipeline.tracking.tracker.Tracker._push
        store.warn(error, "going on without it")
