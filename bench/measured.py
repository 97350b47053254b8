#!/usr/bin/env python3
"""Runs a training command to its end and measures it from outside: time, memory of it and all its children, steps.

  measured.py RESULT.json LOG.jsonl COMMAND ...

LOG.jsonl is the run's trainer_log.jsonl: a line of it is the end of a step; train_results.json stands beside it. The
command's own output goes to stderr.
"""

import json
import os
import statistics
import subprocess
import sys
import time

PAGE = os.sysconf("SC_PAGE_SIZE")


def tree(root):
    """Ids of a process and all below it."""
    children = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = open(f"/proc/{name}/stat").read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(stat[1]), []).append(int(name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def resident(pid):
    """Bytes in memory, and the largest number that it ever was."""
    try:
        now = int(open(f"/proc/{pid}/statm").read().split()[1]) * PAGE
        peak = next((line for line in open(f"/proc/{pid}/status") if line.startswith("VmHWM:")), "VmHWM: 0")
    except OSError:
        return 0, 0
    return now, int(peak.split()[1]) * 1024


def lines(path):
    try:
        return [line for line in open(path).read().split("\n")[:-1] if "loss" in json.loads(line)]
    except OSError:
        return []


def main():
    result, log, *command = sys.argv[1:]
    begun, clock = time.monotonic(), time.time()
    process = subprocess.Popen(command, stdout=sys.stderr)
    ends, peak = [], 0
    while process.poll() is None:
        found = [resident(pid) for pid in tree(process.pid)]
        # Of one process the system knows the peak; of several the sum is taken again and again.
        peak = max(peak, sum(now for now, _ in found), *(most for _, most in found))
        now = time.monotonic() - begun
        ends += [now] * (len(lines(log)) - len(ends))
        time.sleep(0.02)
    seconds = time.monotonic() - begun
    if process.returncode:
        sys.exit(f"{command[0]} ended with {process.returncode}")
    ends += [seconds] * (len(lines(log)) - len(ends))
    if len(ends) < 2:
        sys.exit(f"{log} has {len(ends)} steps, too few to measure")
    step = statistics.median(b - a for a, b in zip(ends, ends[1:]))
    usage = os.times()
    # Both write what the loop took as soon as it is over.
    results = os.path.join(os.path.dirname(log), "train_results.json")
    training_begin = os.path.getmtime(results) - json.load(open(results))["train_runtime"] - clock
    json.dump(dict(
        seconds=seconds, peak_memory=peak, training_begin=training_begin, first_step_end=ends[0], last_step_end=ends[-1],
        step=step, steps=len(ends), loss=json.loads(lines(log)[-1])["loss"],
        processor=usage.children_user + usage.children_system), open(result, "w"))


if __name__ == "__main__":
    main()
