"""Makes or runs one candidate in a process of its own.

    python worker.py make CANDIDATE NETWORK FOLDER FILES   makes its files in FILES, and note.txt if there is something to tell of them
    python worker.py run CANDIDATE NETWORK FOLDER FILES    opens it, then answers lines of JSON on standard input:

    {"do": "answers", "to": PATH}     → {}: its outputs for all samples, one row at a time, as an array
    {"do": "calls", "seconds": 0.5}   → {"seconds": [...]}: the mean call of each cycle, at least one; the first is preceded by an untimed call

What libraries print goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]  # the scripts of this folder are no package

import candidates  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from networks import Network, network  # noqa: E402


def function(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def answer(command: dict[str, Any], call: Any, of: Network) -> dict[str, Any]:
    if command["do"] == "answers":
        np.save(command["to"], np.concatenate([np.array(call(row)) for row in of.rows()]))
        return {}
    asked = of.asked()
    call(asked[0])
    cycles: list[float] = []
    began = ended = time.perf_counter()
    while not cycles or ended - began < command["seconds"]:
        start = time.perf_counter()
        for row in asked:
            call(row)
        ended = time.perf_counter()
        cycles.append((ended - start) / len(asked))
    return {"seconds": cycles}


def main() -> None:
    do, name, which, folder, files = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    torch.set_num_threads(2)
    found = next(each for each in candidates.CANDIDATES if each.name == name)
    of = network(which, Path(folder))
    if do == "make":
        note = function(found.maker)(of, Path(files))
        Path(files, "note.txt").write_text(note or "", encoding="utf-8")
        return
    call = function(found.opener)(of, Path(files))
    for line in sys.stdin:
        replies.write(json.dumps(answer(json.loads(line), call, of)) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
