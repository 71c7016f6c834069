"""Full load for minutes, with swaps and mistakes all along: does anything fail, slow down or grow?"""

import time
from collections.abc import Iterator, Sequence

from benchmarks.serving.faults import Caller, Fault, outcome
from benchmarks.serving.figures import summary
from benchmarks.serving.swaps import ServedModel

WINDOWS_A_SWAP = 6


def soak(served: ServedModel, caller: Caller, mistakes: Sequence[Fault], number: int, minutes: float,
         window_seconds: float) -> Iterator[dict]:  # fmt: skip
    """Windows in which `number` clients ask, each with a mistake in it, every sixth with a swap; at least as long as `minutes`.

    Yields:
      of each window "seconds" since the start, "p50", "p99", "rows_per_second", "failures", "bytes" of our own server, "swapped",
      and "right": whether the mistake got the right status.
    """
    began, place = time.monotonic(), 0
    while time.monotonic() - began < 60 * minutes:
        swapped = place % WINDOWS_A_SWAP == WINDOWS_A_SWAP - 1
        served.clients.begin(number, served.files, 0.0, window_seconds)
        right = outcome(mistakes[place % len(mistakes)], caller)["right"]
        if swapped:
            served.swap()
        found = summary(served.clients.answers(), served.rows)
        seconds = time.monotonic() - began
        print(f"soak {seconds:.0f} s: p50 {found['p50']:.1f} ms, p99 {found['p99']:.1f} ms, failed: {found['failures'] or 'none'}"
              f"{', swapped' if swapped else ''}", flush=True)  # fmt: skip
        yield {"seconds": seconds, "bytes": served.memory(), "swapped": swapped, "right": right, **found}
        place += 1
