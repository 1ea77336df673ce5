"""A process of its own that compiles with BCC and ends: LLVM takes more memory than kernlb does.

It is started by its path, with whatever Python has BCC: the distribution's, as a rule. Standard input is JSON: the
files of `unit`, the text of `main`, `flags`, `functions`; standard output gives each function's code in hexadecimal.
Nothing here may import kernlb.
"""

import json
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

NO_BCC = 3
_NICE = 10


def main() -> int:
    asked = json.load(sys.stdin)
    with suppress(OSError):
        # Checks and weights go first.
        os.nice(_NICE)
    # BCC prints what it thinks to standard output.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        from bcc import BPF
    except ImportError as missing:
        print(missing, file=sys.stderr)
        return NO_BCC
    if not hasattr(BPF, "dump_func"):
        return NO_BCC
    with tempfile.TemporaryDirectory(prefix="kernlb-bcc-") as directory:
        for name, text in asked["unit"].items():
            Path(directory, name).write_text(text)
        try:
            module = BPF(text=asked["main"].encode(), cflags=[f"-I{directory}", *asked["flags"]])
        except Exception as failure:
            print(failure, file=sys.stderr)
            return 1
    json.dump({name: module.dump_func(name.encode()).hex() for name in asked["functions"]}, answer)
    answer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
