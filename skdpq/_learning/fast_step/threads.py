"""The threads of the fast step: a worker beside the calling thread, and whether it is worth having.

`FastStep` calls both. No thread outlives the step's context.
"""

import queue
import statistics
import threading
import time

import torch

from ..._threads import limited_threads

_UNTIMED_CALLS = (1, 32)  # of each way, before those that are timed: two threads come off one core only after a while
_TIE = 1.05  # by how much the second way may be the slower one, and be taken
_PERIOD_CALLS = 2**11  # after which there is another trial: other processes come and go


class Worker:
    """A thread that does the second share of each phase, while the caller does the first.

    Parameters
    ----------
    limit : int
        Threads for its products.
    """

    def __init__(self, limit):
        self._to, self._from = queue.SimpleQueue(), queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, args=(limit,), daemon=True)

    def start(self):
        """Start the thread; `stop` ends it, also where this was interrupted."""
        self._thread.start()

    def share(self, phases):
        """Do all phases; none begins before both shares of the one before are done."""
        try:
            self._to.put(phases)
            for phase in phases:
                phase(0)
                self._to.put(phase)
                error = self._from.get()
                if error is not None:
                    raise error
        except BaseException:
            self.stop()  # nothing may go on where the caller, interrupted, does not expect it
            raise

    def stop(self):
        """End the thread, at the end of the phase that it is in; one that has ended stays so."""
        self._to.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def _serve(self, limit):
        torch.get_num_threads()  # may set a limit in a new thread, which must not come after ours
        try:
            with limited_threads(limit), torch.inference_mode():
                while (phases := self._to.get()) is not None:
                    for phase in phases:
                        phase(1)
                        self._from.put(None)
                        if self._to.get() is None:
                            return
        except BaseException as error:
            self._from.put(error)


class Faster:
    """Two ways to do the same, of which the faster is taken: some calls of each are timed, now and then.

    Parameters
    ----------
    ways : tuple of two callable
        They take the same arguments. The second is taken where both are about as fast.
    n_trials : int
        Calls of each that are timed; with 0 the second way is taken.
    clock : callable, default=time.perf_counter
        Returns seconds.
    """

    def __init__(self, ways, n_trials, clock=time.perf_counter):
        self._ways, self._clock = ways, clock
        # Way of each call of a trial, and whether it is timed; the second comes first, as most often the faster.
        calls = [(way, timed) for way in (1, 0) for timed in [False] * _UNTIMED_CALLS[way] + [True] * n_trials]
        self._trial = calls if n_trials else []
        self._n_calls = 0
        self._fastest = 1

    def __call__(self, *args):
        """Call the way that is faster, or the one that is to be timed."""
        i = self._n_calls % _PERIOD_CALLS
        self._n_calls += 1
        if i >= len(self._trial):
            self._ways[self._fastest](*args)
            return
        if i == 0:
            self._seconds = [], []
        way, timed = self._trial[i]
        start = self._clock()
        self._ways[way](*args)
        if timed:
            self._seconds[way].append(self._clock() - start)
        if i == len(self._trial) - 1:
            first, second = map(statistics.median, self._seconds)
            self._fastest = int(second < _TIE * first)
