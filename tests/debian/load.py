"""load.py ADDRESS PORT RATE: new connections at that rate until SIGTERM.

Prints "asking" when it begins; at the end how many were asked, how many failed, the longest time to an answer, and why.
"""

import signal
import sys
from multiprocessing import Pipe

from kernlb.demo.steady import Sample, ask_steadily

PATIENCE = 30.0  # seconds; an emulated machine may be busy with something else for long


class Report:
    def send(self, samples: list[Sample]) -> None:
        failures = sorted({sample.failure for sample in samples if sample.failure})
        failed = sum(sample.failure is not None for sample in samples)
        longest = max(sample.seconds for sample in samples)
        print(len(samples), failed, f"{longest:.1f}", *failures)


here, there = Pipe()
signal.signal(signal.SIGTERM, lambda *_: here.send(None))
print("asking", flush=True)
ask_steadily(Report(), there, sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), PATIENCE)  # type: ignore[arg-type]
