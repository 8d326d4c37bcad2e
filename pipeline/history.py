"""The history of a training, log.jsonl: one record of losses a line."""

import json


def read_log(path):
    """Records of a log.jsonl; a last line cut short by a kill is dropped."""
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
