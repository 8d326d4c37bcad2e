"""Made-up scores of a seed, as evaluations write them."""

from pipeline.tasks.instances import TASK

METRICS = ("AP", "AP50")  # of a category


def long_tables(groups, categories):
    """Scores of masks and boxes alike.

    Args:
        groups: {group: value of every metric, or {metric: value} of some, None of the others}.
        categories: {category: AP}; AP50 is undefined.
    """
    return {
        "scores": [
            {
                "group": group,
                "kind": kind,
                "metric": key,
                "value": values.get(key) if isinstance(values, dict) else values,
            }
            for kind in TASK.kinds
            for group, values in groups.items()
            for key in TASK.keys
        ],
        "per_category": [
            {"category": name, "kind": kind, "metric": key, "value": value if key == METRICS[0] else None}
            for kind in TASK.kinds
            for name, value in categories.items()
            for key in METRICS
        ],
    }


def change(entry, value, **where):
    """Set the values of all rows of a seed's scores that match, such as `group="novel", kind="segm"`."""
    rows = entry["per_category" if "category" in where else "scores"]
    matching = [row for row in rows if where.items() <= row.items()]
    assert matching, where
    for row in matching:
        row["value"] = value
