"""examples/serve.py: its answers, what it refuses, files that take the place of the served one, and how it ends."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import skdpq
from skdpq import DPQNeighbors, ProductQuantizer

SERVE = Path(__file__).parents[1] / "examples/serve.py"
N_CLIENTS = 8
HANGS = 120  # seconds, after which something hangs


@contextmanager
def started(*arguments, stderr=None):
    """Start a server of two processes; yield it, its address, and the ids of the two."""
    command = [sys.executable, SERVE, *arguments, "--port", "0", "--processes", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
        try:
            address = process.stdout.readline().split("//")[1].strip()
            workers = [int(process.stdout.readline().split()[1]) for _ in range(2)]
            yield SimpleNamespace(process=process, address=address, workers=workers)
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def states(digits):
    """Databases that answer differently, of one quantizer and of another."""
    X = digits[0]
    first = DPQNeighbors(quantizer=ProductQuantizer(M=8, K=32, random_state=0)).fit(X[:600])
    return first, DPQNeighbors(quantizer=ProductQuantizer(M=4, K=16, random_state=0)).fit(X[500:])


@pytest.fixture(scope="module")
def server(tmp_path_factory, states):
    """A server, and the file that it serves."""
    folder = tmp_path_factory.mktemp("served")
    path, errors = folder / "database.skdpq", folder / "errors"
    states[0].save(path)
    with open(errors, "w") as file, started(str(path), stderr=file) as server:
        server.path, server.errors = path, errors
        yield server


def ask(connection, queries, k):
    """Return distances and ids of an answer."""
    connection.request("POST", "/kneighbors", json.dumps({"queries": queries.tolist(), "n_neighbors": k}))
    response = connection.getresponse()
    answer = json.loads(response.read())
    assert response.status == 200, answer
    return np.array(answer["distances"]), np.array(answer["ids"])


def send(server, method, path, body, headers):
    """Return status and answer of a request."""
    with closing(http.client.HTTPConnection(server.address, timeout=HANGS)) as connection:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def is_of(found, neighbors, queries, k):
    """Tell whether an answer is that of an estimator, bit for bit."""
    return all(map(np.array_equal, found, neighbors.kneighbors(queries, k)))


def test_eight_clients_at_once_get_what_the_loaded_estimator_finds(server, states, digits):
    states[0].save(server.path)
    loaded, X = skdpq.load(server.path), digits[1]

    def client(number):
        with closing(http.client.HTTPConnection(server.address, timeout=HANGS)) as connection:
            for n_queries in (1, 5, 70):
                queries = X[number : number + n_queries] + 0.1
                for found, expected in zip(ask(connection, queries, 7), loaded.kneighbors(queries, 7), strict=True):
                    assert_array_equal(found, expected)

    with ThreadPoolExecutor(N_CLIENTS) as pool:
        list(pool.map(client, range(N_CLIENTS)))
    assert send(server, "GET", "/health", None, {}) == (200, {"items": 600})


ROW = [0.5] * 64
BAD = {
    "nothing": ("", 400, "Expected JSON"),
    "no JSON": ("{", 400, "Expected JSON"),
    "deep JSON": ("[" * 100_000, 400, "Expected JSON"),
    "no object": ("[1]", 400, "Expected JSON"),
    "no queries": ("{}", 400, "Expected JSON"),
    "no numbers": ('{"queries": [["a"]]}', 400, "Expected JSON"),
    "rows that differ": ('{"queries": [[1], [1, 2]]}', 400, "Expected JSON"),
    "a number beyond all": (f'{{"queries": [[{10**400}]]}}', 400, "Expected JSON"),
    "no rows": ('{"queries": []}', 400, "Expected rows"),
    "one row alone": (json.dumps({"queries": ROW}), 400, "Expected rows"),
    "too narrow": ('{"queries": [[1]]}', 400, "64 features"),
    "not a number": (json.dumps({"queries": [[float("nan")] * 64]}), 400, "NaN"),
    "no integer": (json.dumps({"queries": [ROW], "n_neighbors": "3"}), 400, "integer"),
    "no neighbors": (json.dumps({"queries": [ROW], "n_neighbors": 0}), 400, "n_neighbors > 0"),
    "too many neighbors": (json.dumps({"queries": [ROW], "n_neighbors": 5000}), 400, "n_neighbors"),
    "too many results": (json.dumps({"queries": [ROW] * 201, "n_neighbors": 500}), 400, "100000"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_gets_a_reason(server, name):
    body, status, words = BAD[name]
    found, answer = send(server, "POST", "/kneighbors", body, {})
    assert found == status
    assert words in answer["error"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {}, 404),
        ("POST", "/health", {}, 404),
        ("POST", "/kneighbors", {"Content-Length": "1000000000000"}, 413),
        ("POST", "/kneighbors", {"Content-Length": "1048577"}, 413),
        ("POST", "/kneighbors", {"Content-Length": "-1"}, 411),
        ("POST", "/kneighbors", {"Transfer-Encoding": "chunked"}, 411),
    ],
)
def test_what_is_not_asked_for_properly_is_refused(server, method, path, headers, status):
    found, answer = send(server, method, path, None, headers)
    assert found == status
    assert "Expected" in answer["error"]


def test_clients_that_send_rubbish_or_go_away_end_nothing(server, states, digits):
    states[0].save(server.path)
    host, port = server.address.split(":")
    for sent in (b"", b"\0\xff\r\n\r\n", b"POST /kneighbors HTTP/1.1\r\nContent-Length: 100\r\n\r\n{", b"G" * 70_000):
        with closing(socket.create_connection((host, int(port)), timeout=HANGS)) as connection:
            connection.sendall(sent)
    with closing(http.client.HTTPConnection(server.address, timeout=HANGS)) as connection:
        assert is_of(ask(connection, digits[1][:3], 4), states[0], digits[1][:3], 4)
    assert server.process.poll() is None


def test_answers_while_files_are_replaced_are_of_one_state_and_then_of_the_last(server, states, digits):
    states[0].save(server.path)
    queries, k = digits[1][:20], 5
    expected = [neighbors.kneighbors(queries, k) for neighbors in states]

    def client(connection, n_times=60):
        of = []
        for _ in range(n_times):
            found = ask(connection, queries, k)
            of.append([all(map(np.array_equal, found, state)) for state in expected])
            assert sum(of[-1]) == 1
        return [state.index(True) for state in of]

    connections = [http.client.HTTPConnection(server.address, timeout=HANGS) for _ in range(N_CLIENTS)]
    with ThreadPoolExecutor(N_CLIENTS) as pool:
        asking = [pool.submit(client, connection) for connection in connections]
        n_saved = 0
        while n_saved < 4 or not all(each.done() for each in asking):
            n_saved += 1
            states[n_saved % 2].save(server.path)
        assert {state for each in asking for state in each.result()} == {0, 1}
        states[1].save(server.path)
        for connection in connections:
            assert client(connection, 1) == [1]
            connection.close()


def test_a_file_that_cannot_be_loaded_leaves_the_one_before(server, states, digits):
    queries = digits[1][:3]
    with closing(http.client.HTTPConnection(server.address, timeout=HANGS)) as connection:
        states[0].save(server.path)
        assert is_of(ask(connection, queries, 4), states[0], queries, 4)
        beside = server.path.with_suffix(".new")
        beside.write_bytes(b"no such file")
        os.replace(beside, server.path)
        assert is_of(ask(connection, queries, 4), states[0], queries, 4)
        server.path.unlink()
        assert is_of(ask(connection, queries, 4), states[0], queries, 4)
        assert "Still answering" in server.errors.read_text()
        states[1].save(server.path)
        assert is_of(ask(connection, queries, 4), states[1], queries, 4)
    assert "Traceback" not in server.errors.read_text()


def ends(server):
    """Return the status with which a server ends, once none of its processes is left: each holds its output open."""
    server.process.communicate(timeout=HANGS)
    return server.process.returncode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_once_what_has_begun_is_answered(number):
    body = json.dumps({"queries": [ROW] * 1000, "n_neighbors": 100})  # the most that may be asked for
    with started() as server, ExitStack() as stack:  # it makes a database of digits
        connections = [http.client.HTTPConnection(server.address, timeout=HANGS) for _ in range(N_CLIENTS + 1)]
        for connection in connections:
            stack.callback(connection.close)
            ask(connection, np.zeros((1, 64)), 1)
        for connection in connections[1:]:
            connection.request("POST", "/kneighbors", body)
        server.process.send_signal(number)
        for connection in connections[1:]:
            response = connection.getresponse()
            assert response.status == 200
            assert np.shape(json.loads(response.read())["ids"]) == (1000, 100)
        assert ends(server) == 0  # though the first client keeps its connection


def test_none_is_left_where_one_is_killed(tmp_path, states):
    states[0].save(tmp_path / "database.skdpq")
    with started(str(tmp_path / "database.skdpq"), stderr=subprocess.PIPE) as server:
        os.kill(server.workers[0], signal.SIGKILL)
        assert ends(server) == 1
    with started(str(tmp_path / "database.skdpq")) as server:
        server.process.kill()
        assert ends(server) == -signal.SIGKILL


def test_the_code_of_the_page_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs/serving.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    names = {}
    for block in blocks:
        exec(block, names)
    assert capsys.readouterr().out.split() == ["1500", "1795"]  # the old file stays where it is mapped
