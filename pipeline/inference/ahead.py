"""Work that a few threads do a little ahead of its use, in order; memory is that of the few."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

AHEAD = 4  # results a thread that may wait for their use


def in_order(function, arguments, threads=1):
    """Results of a function for each of the arguments, a tuple, in their order."""
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque()
        for each in arguments:
            waiting.append(pool.submit(function, *each))
            if len(waiting) >= AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
