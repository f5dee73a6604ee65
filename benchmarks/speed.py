"""Every figure of docs/performance.md in one run: steps, lanes, growth, and the quickstart.

    python benchmarks/speed.py --json benchmarks/results/speed.json

Runs `gam-ray run jobs/quickstart.yaml`, `steps.py`, `lanes.py` with trials of 300 and of 150 steps,
and `growth.py` one after another, each in a process of its own, and puts their figures into one
file, each with its date and commit; parts that are not named stay as the file has them. Half an
hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tables import stamp

HERE = Path(__file__).parent
PARTS = ("quickstart", "steps", "lanes", "short_lanes", "growth")
QUICKSTART = HERE.parent / "jobs" / "quickstart.yaml"


def main() -> None:
    """Measure and write JSON; each part prints its own."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    options.add_argument("--peers", type=Path, help="as steps.py has it")
    options.add_argument("--json", type=Path, required=True)
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    given = options.parse_args()
    peers = ["--peers", str(given.peers)] if given.peers else []
    commands = {
        "steps": ["steps.py", "--workers", *peers],
        "lanes": ["lanes.py", "--plain"],
        "short_lanes": ["lanes.py", "--plain", "--steps", "150"],
        "growth": ["growth.py"],
    }
    content = json.loads(given.json.read_text()) if given.json.exists() else {}
    for name in given.parts:
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder)
            found = part(commands[name], here) if name in commands else quickstart(here)
        content[name] = {**stamp(), **found}
        given.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def part(command: list[str], folder: Path) -> dict[str, Any]:
    """The figures of one script, without its stamp."""
    script, *arguments = command
    file = folder / "found.json"
    whole = [sys.executable, str(HERE / script), *arguments, "--json", str(file)]
    subprocess.run(whole, check=True)
    found: dict[str, Any] = json.loads(file.read_text())
    known = stamp()
    return {key: value for key, value in found.items() if key not in known}


def quickstart(folder: Path) -> dict[str, float]:
    """Seconds of the quickstart, and the most memory that all its processes had together, in GB.

    Proportional sizes: memory that processes share counts once.
    """
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(1.0):
            most = max(most, memory_with_descendants(running.pid))

    program = Path(sys.executable).with_name("gam-ray")
    began = time.monotonic()
    running = subprocess.Popen([program, "run", QUICKSTART], cwd=folder, start_new_session=True)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    status = running.wait()
    done.set()
    watcher.join()
    if status:
        raise SystemExit(f"the quickstart ended with {status}")
    return {"s": time.monotonic() - began, "memory_gb": most / 2**30}


def memory_with_descendants(ancestor: int) -> int:
    """Bytes of a process and of all that descend from it."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended just now
            continue
        parents[int(folder.name)] = int(fields[1])
    return sum(bytes_of(process) for process in parents if descends(process, ancestor, parents))


def descends(process: int, ancestor: int, parents: dict[int, int]) -> bool:
    """Whether a process is another one, or comes from it."""
    while process not in (0, ancestor):
        process = parents.get(process, 0)
    return process == ancestor


def bytes_of(process: int) -> int:
    """Its proportional size."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
