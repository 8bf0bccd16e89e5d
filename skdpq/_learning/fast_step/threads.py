"""The threads of the fast step: a worker beside the calling thread, and whether it is worth having.

`FastStep` calls both. No thread outlives the step's context.
"""

import queue
import statistics
import threading
import time

import torch

from ..._threads import limited_threads

_RUN_STEPS = 3  # steps that are done one way in a row during a trial; the first is not timed, as caches are cold
_PERIOD_STEPS = 2**11  # after which there is another trial: other processes come and go


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
        self._thread.start()

    def share(self, phases):
        """Do all phases; none begins before both shares of the one before are done."""
        self._to.put(phases)
        try:
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
        """End the thread, at the end of the phase that it is in."""
        self._to.put(None)
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
        They take the same arguments.
    n_trials : int
        Calls of each that are timed, an even number; with 0 the second way is taken.
    clock : callable, default=time.perf_counter
        Returns seconds.
    """

    def __init__(self, ways, n_trials, clock=time.perf_counter):
        self._ways, self._clock = ways, clock
        self._n_trial_calls = 2 * _RUN_STEPS * n_trials // (_RUN_STEPS - 1)
        self._n_calls = 0
        self._seconds = [], []
        self._fastest = 1

    def __call__(self, *args):
        """Call the way that is faster, or the one that is to be timed."""
        i = self._n_calls % _PERIOD_STEPS
        self._n_calls += 1
        if i >= self._n_trial_calls:
            self._ways[self._fastest](*args)
            return
        way = i // _RUN_STEPS % 2
        start = self._clock()
        self._ways[way](*args)
        if i % _RUN_STEPS:
            self._seconds[way].append(self._clock() - start)
        if i == self._n_trial_calls - 1:
            alone, shared = map(statistics.median, self._seconds)
            self._fastest = int(shared < alone)
            self._seconds = [], []
