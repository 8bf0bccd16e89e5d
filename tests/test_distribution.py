"""What is distributed: a source archive that can be read and tested, and bounds of versions that are."""

import configparser
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import skdpq

ROOT = Path(__file__).parent.parent
MADE_BY_SPHINX = ("docs/_build/", "docs/api/", "docs/gallery/", "docs/sg_execution_times.rst")


@pytest.fixture(scope="module")
def archived(tmp_path_factory):
    """Names of the files in the source archive, below its top folder."""
    folder = tmp_path_factory.mktemp("sdist")
    passed_over = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist")
    shutil.copytree(ROOT, folder / "source", ignore=passed_over)
    build = "from setuptools.build_meta import build_sdist; build_sdist('..')"
    subprocess.run([sys.executable, "-c", build], cwd=folder / "source", check=True, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        return {name.partition("/")[2] for name in tar.getnames()}


@pytest.mark.parametrize("folder", ["skdpq", "tests", "docs", "examples", "benchmarks"])
def test_the_source_archive_has_every_file(archived, folder):
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.*") if path.is_file()}
    made = ("__pycache__", "egg-info", *MADE_BY_SPHINX)
    files = {name for name in files if not any(part in name for part in made)}
    assert len(files) > 2
    assert files <= archived


def test_the_source_archive_has_what_stands_at_the_root(archived):
    root = {path.name for path in ROOT.iterdir() if path.suffix in (".md", ".cff", ".txt", ".toml", ".cfg", ".in")}
    assert {"README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "constraints-lowest.txt"} <= root
    assert root | {"LICENSE", "docs/conf.py", "docs/howto/index.md", "examples/plot_digits.py"} <= archived
    assert not any(name.startswith(MADE_BY_SPHINX) for name in archived)
    assert "tests/conftest.py" in archived
    assert f"version: {skdpq.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def pins(name):
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)


def requirements():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = [line for line in config["options"]["install_requires"].split("\n") if line and not line.startswith("#")]
    found = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups() for line in lines)
    return {name.lower().replace("_", "-"): bound for name, bound in found.items()}


def numbers(version):
    parts = [int(part) for part in re.findall(r"\d+", version)]
    while parts and parts[-1] == 0:  # 1.9 and 1.9.0 are one version
        parts.pop()
    return parts


def test_the_lowest_versions_are_the_bounds_and_the_pinned_ones_are_allowed():
    bounds, lowest, pinned = requirements(), pins("constraints-lowest.txt"), pins("constraints.txt")
    assert len(bounds) >= 8
    for name, bound in bounds.items():
        assert numbers(lowest[name]) == numbers(bound), name
        assert numbers(pinned[name]) >= numbers(bound), name
