"""The same tasks by the skdpq of this checkout and of another, side by side: search, index, encoding, training, score.

    python benchmarks/speed/against.py --other ../before
    python benchmarks/speed/against.py --other ../before --tasks search "index, build" --rounds 15 --threads 1

Each checkout has a process of its own, with its own folder for compiled kernels, and the two take turns; every second
round, the other begins. A task's name has to contain one of `--tasks`. Columns are the medians of the turns; the ratio
is the median of those within each round, with its quartiles: above 1, this checkout is the slower one. Training is
timed as the difference of fits of two lengths, without the set-up.

Results are compared: those of search and index must be the same, bit for bit, or the exit status is 1. Of others it
says how far they differ.

Times mean something on an idle machine only.
"""

import multiprocessing
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from _common import head, interleave, line, machine, make_parser
from _numba_cache import ROOT, cache_folder
from _tasks import make_tasks


class Checkout:
    """A process that does tasks by the skdpq of a checkout."""

    def __init__(self, folder):
        folder = Path(folder).resolve()
        cache = cache_folder((folder / "skdpq").rglob("*.py"))
        environment = os.environ | {"PYTHONPATH": str(folder), "NUMBA_CACHE_DIR": str(cache)}
        self.connection, theirs = multiprocessing.Pipe()
        command = [sys.executable, Path(__file__).with_name("_tasks.py"), str(theirs.fileno())]
        self.process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])
        theirs.close()
        found = Path(self.ask("where")).parent
        if found != folder / "skdpq":
            raise RuntimeError(f"Expected the skdpq in {folder}, got {found}.")

    def ask(self, *request):
        """Return the answer to a request."""
        self.connection.send(request)
        return self.connection.recv()

    def stop(self):
        """End the process."""
        self.connection.close()
        self.process.wait()


def difference(these, others):
    """Return how far results differ, in words."""
    words = []
    for this, other in zip(these, others, strict=True):
        if (this.dtype, this.shape) != (other.dtype, other.shape):
            words.append(f"{this.dtype} {this.shape} and {other.dtype} {other.shape}")
        elif not np.array_equal(this, other):
            largest = np.abs(this.astype(float) - other.astype(float)).max()
            words.append(f"{np.mean(this != other):.2g} of {this.size:,} values, by {largest:.2g} at most")
    return "differ: " + "; ".join(words)


def compare(checkouts, name, n, threads):
    """Prepare a task in both, and return whether the results are the same, and this in words."""
    digests = [checkout.ask("prepare", name, n, threads) for checkout in checkouts.values()]
    if len(set(digests)) == 1:
        return True, "same"
    return False, difference(*(checkout.ask("results") for checkout in checkouts.values()))


def shown(elapsed, rate):
    """Return a time for people, or the rate."""
    if rate:
        return f"{1 / elapsed:,.0f}/s"
    for unit, factor in (("s", 1), ("ms", 1e3)):
        if elapsed * factor >= 1:
            return f"{elapsed * factor:.4g} {unit}"
    return f"{elapsed * 1e6:.4g} µs"


def main():
    """Print a line for every task and number of threads."""
    parser = make_parser(__doc__)
    parser.add_argument("--other", required=True, help="a checkout of another commit")
    parser.add_argument("--tasks", nargs="+", default=[""], help="what the names of tasks contain; all without")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--items", type=int, default=1_000_000, help="codes that are searched; fewer for a quick try")
    parser.add_argument("--seconds", type=float, default=0.3, help="least length of a turn of what can be repeated")
    options = parser.parse_args()
    tasks = {name: task for name, task in make_tasks().items() if any(part in name for part in options.tasks)}
    print(f"{machine()}\n{options.items:,} items, {options.rounds} rounds\n")
    print(head("task", "threads", "this", "other", "this / other", "quartiles", "results"))
    checkouts = {"this": Checkout(ROOT), "other": Checkout(options.other)}
    all_same = True
    for name, task in tasks.items():
        for threads in options.threads if task.threaded else [1]:
            same, words = compare(checkouts, name, options.items, threads)
            all_same &= same or not task.exact
            turns = {side: partial(checkout.ask, "take_turn", options.seconds) for side, checkout in checkouts.items()}
            this, other = (np.array(elapsed) for elapsed in interleave(turns, options.rounds).values())
            low, ratio, high = np.quantile(this / other, (0.25, 0.5, 0.75))
            times = (shown(np.median(elapsed), task.rate) for elapsed in (this, other))
            print(line(name, threads, *times, f"{ratio:.3f}", f"{low:.3f} to {high:.3f}", words), flush=True)
    for checkout in checkouts.values():
        checkout.stop()
    sys.exit(0 if all_same else "Results of search or index differ.")


if __name__ == "__main__":
    main()
