"""What doctests of the package write goes to a folder of their own."""

import pytest


@pytest.fixture(autouse=True)
def folder_of_doctests(request):
    """Run doctests in a temporary folder."""
    if isinstance(request.node, pytest.DoctestItem):
        request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("tmp_path"))
