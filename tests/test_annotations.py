"""The public face has types: `mypy --strict tests/user_program.py`, in .ci/run, shows that they arrive at a user."""

import inspect
import runpy
import warnings
from pathlib import Path

import pytest

import skdpq
from skdpq import metrics

CLASSES = [getattr(skdpq, name) for name in skdpq.__all__ if hasattr(getattr(skdpq, name), "get_params")]


def public_functions(cls):
    """Yield the name of every public method and property of a class that this package has written, and a function."""
    for name, _ in inspect.getmembers_static(cls):
        owner = next(base for base in cls.__mro__ if name in vars(base))
        member = vars(owner)[name]
        if name == "__init__" or (not name.startswith("_") and owner.__module__.startswith("skdpq.")):
            member = getattr(member, "fget", member) or member
            member = getattr(member, "fn", member)  # of available_if
            function = inspect.unwrap(member)
            if inspect.isfunction(function) and function.__module__.startswith("skdpq."):
                yield name, function


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_public_method_and_property_is_annotated(cls):
    found = dict(public_functions(cls))
    assert {"__init__", "fit", "transform"} <= set(found)
    for name, function in found.items():
        signature = inspect.signature(function)
        bare = [
            p.name for p in signature.parameters.values() if p.name not in ("self", "cls") and p.annotation is p.empty
        ]
        assert bare == [], name
        assert signature.return_annotation not in (signature.empty, "Any"), name


@pytest.mark.parametrize("name", metrics.__all__)
def test_every_public_function_is_annotated(name):
    signature = inspect.signature(getattr(metrics, name))
    assert signature.return_annotation is not signature.empty
    assert all(p.annotation is not p.empty for p in signature.parameters.values())


def test_the_small_program_runs():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Training ended after max_iter")
        names = runpy.run_path(str(Path(__file__).with_name("user_program.py")))
    assert names["distances"].shape == (60, 3)
