"""Whether two versions of the code train the same: tiny trainings under both, compared bit for bit.

`job` runs in a tree of its own, `before_rooms` in its place where a tree is older than recipes, `accept` compares.
"""
