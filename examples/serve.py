"""
Serve a database over HTTP
==========================

Several processes answer queries from one map of a file that `save` wrote, so they share its memory. Only the standard
library is needed beside skdpq.

    python examples/serve.py database.skdpq --port 8000 --processes 2
    python examples/serve.py                                            # a database of handwritten digits
    curl http://127.0.0.1:8000/health
    curl -d '{"queries": [[0, 1, ...]], "n_neighbors": 3}' http://127.0.0.1:8000/kneighbors

The answer is ``{"distances": [[...]], "ids": [[...]]}``, and that to a bad request ``{"error": "..."}`` with a status
from 400. Save another file under the same name, and the next answers are from that. SIGTERM or Ctrl-C ends the server
once it has answered what it has begun. There is no encryption and nobody is asked who they are: that is the work of the
proxy in front of it.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import wait

import numpy as np
from sklearn.datasets import load_digits

import skdpq

MAX_BODY_BYTES = 2**20
MAX_RESULTS = 100_000  # of a request: queries times neighbours
IDLE_SECONDS = 300  # after which a connection is closed

# %%
# The estimator that answers: what is in the file now.


class Database:
    """A file, and the estimator in it, which is loaded again when another file has taken its place."""

    def __init__(self, path):
        self.path, self.lock = path, threading.Lock()
        self.seen, self.neighbors = self.stamp(), self.load()

    def stamp(self):
        """Return what differs between the file and another in its place."""
        found = os.stat(self.path)
        return found.st_ino, found.st_mtime_ns, found.st_size

    def load(self):
        """Return the estimator of the file, ready to answer."""
        neighbors = skdpq.load(self.path, mmap=True).set_params(n_jobs=1)  # processes share the cores, not threads
        for n_queries in (1, 64):  # few and many have kernels of their own, which are compiled or read from the disk
            neighbors.kneighbors(np.zeros((n_queries, neighbors.n_features_in_)), 1)
        return neighbors

    def current(self):
        """Return an estimator, which stays as it is; whoever asks while another is loaded gets the one before."""
        if self.lock.acquire(blocking=False):
            try:
                stamp = self.stamp()
                if stamp != self.seen:
                    self.seen = stamp  # a file that cannot be loaded is tried once
                    self.neighbors = self.load()
            except Exception as error:  # whatever it is, there is one that answers
                print(f"Still answering from the file before: {error}", file=sys.stderr, flush=True)
            finally:
                self.lock.release()
        return self.neighbors


# %%
# What is asked, and what is answered.


def search(neighbors, body):
    """Return status and answer of a request."""
    try:
        request = json.loads(body)
        queries = np.asarray(request["queries"], dtype=np.float64)
        k = request.get("n_neighbors", neighbors.n_neighbors)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError):
        return 400, {"error": 'Expected JSON like {"queries": [[0.5, 1.5]], "n_neighbors": 5}, got others.'}
    if type(k) is not int or queries.ndim != 2 or len(queries) * k > MAX_RESULTS:
        return 400, {"error": f"Expected rows of numbers, and an integer for up to {MAX_RESULTS} results in all."}
    try:
        distances, ids = neighbors.kneighbors(queries, k)
    except ValueError as error:  # a wrong width, NaN, or k out of range
        return 400, {"error": str(error)}
    return 200, {"distances": distances.tolist(), "ids": ids.tolist()}


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection, in a thread of its own."""

    protocol_version = "HTTP/1.1"  # which keeps the connection
    disable_nagle_algorithm = True  # head and body are two packets, of which none shall wait
    timeout = IDLE_SECONDS

    def do_GET(self):
        """Say that all is well."""
        if self.path == "/health":
            self.answer(200, {"items": self.server.database.current().n_samples_fit_})
        else:
            self.answer(404, {"error": "Expected GET /health or POST /kneighbors."})

    def do_POST(self):
        """Search."""
        length = self.headers.get("Content-Length", "")
        if self.path != "/kneighbors":
            self.answer(404, {"error": "Expected GET /health or POST /kneighbors."})
        elif not (length.isascii() and length.isdigit()):
            self.answer(411, {"error": "Expected Content-Length."})
        elif len(length) > 9 or int(length) > MAX_BODY_BYTES:
            self.answer(413, {"error": f"Expected a body of at most {MAX_BODY_BYTES} bytes."})
        else:
            body = self.rfile.read(int(length))
            self.answer(*search(self.server.database.current(), body))

    def answer(self, status, answer):
        """Send JSON."""
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status >= 400:
            self.send_header("Connection", "close")  # its body may not have been read
        self.end_headers()
        self.wfile.write(content)

    def log_request(self, *_):
        """Errors alone are logged."""


# %%
# A process: it takes connections from the socket that all have in common.


class Server(ThreadingHTTPServer):
    """Serves on a socket that listens already."""

    daemon_threads = False  # what has begun is answered before the process ends

    def __init__(self, listening, database):
        super().__init__(listening.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket, self.database, self.connections = listening, database, set()
        self.socket.setblocking(False)  # another process may have taken the connection that this one was woken for

    def process_request(self, request, client_address):
        """Remember a connection."""
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        """Forget a connection."""
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        """Log what went wrong, unless it is that a client has gone."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def stop(self):
        """Take no more requests; whoever is being answered gets the answer."""
        self.shutdown()
        for connection in tuple(self.connections):
            with contextlib.suppress(OSError):  # where the client was faster
                connection.shutdown(socket.SHUT_RD)


def work(listening, path):
    """Serve until SIGTERM comes, or the process that started this one is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    server = Server(listening, Database(path))
    try:
        threading.Thread(target=server.serve_forever).start()
        print(f"Process {os.getpid()} answers\n", end="", flush=True)  # one write: others print, too
        multiprocessing.parent_process().join()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        server.stop()
        server.server_close()  # waits for those who are being answered


# %%
# All processes. They are not forked, as what a network encodes with does not survive a fork.


def serve(path, host, port, n_processes):
    """Serve a file until a signal comes, or one of the processes ends."""
    listening = socket.create_server((host, port), backlog=128)
    print("Serving on http://{}:{}".format(*listening.getsockname()), flush=True)
    context = multiprocessing.get_context("spawn")
    # When this process ends, multiprocessing sends daemons SIGTERM, and waits for them.
    processes = [context.Process(target=work, args=(listening, path), daemon=True) for _ in range(n_processes)]
    for process in processes:
        process.start()
    wait([process.sentinel for process in processes])
    sys.exit("A process has ended, so all do.")


def build(path):
    """Write a database of handwritten digits; return its path."""
    skdpq.DPQNeighbors(random_state=0).fit(load_digits().data).save(path)
    return path


def main():
    """Serve the file that is named, or digits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", nargs="?", help="a file of DPQNeighbors.save")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of each process that is started: they share the cores
    with tempfile.TemporaryDirectory() as folder:
        path = options.database or build(os.path.join(folder, "digits.skdpq"))
        serve(path, options.host, options.port, options.processes)


if __name__ == "__main__":
    main()
