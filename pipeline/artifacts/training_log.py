"""The history of a training: log.jsonl, one record of losses a line, and progress.json, how far it is."""

import json
import math

from pipeline.artifacts import files


def read_log(path):
    """Records of a log.jsonl up to the first damaged line; a kill may have cut the last one short."""
    records = []
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(record, dict) or not isinstance(record.get("iter"), int):
            break
        records.append(record)
    return records


def read_progress(scratch):
    """{iteration, of, seconds, processes} as the last report of a training said; {} if there is none, or damaged."""
    found = files.read_json(scratch / "progress.json") or {}
    progress = {"processes": 1} | {key: found.get(key) for key in ("iteration", "of", "seconds")}
    if "processes" in found:
        progress["processes"] = found["processes"]
    for key, value in progress.items():
        counted = isinstance(value, int) or key == "seconds" and isinstance(value, float) and math.isfinite(value)
        if not counted or isinstance(value, bool) or value < (key in ("of", "processes")):
            return {}
    return progress
