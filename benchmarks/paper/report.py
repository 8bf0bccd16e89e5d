"""Tables of the results that are there, beside the paper's figures; prints what docs/paper_results.md holds.

python benchmarks/paper/report.py > docs/paper_results.md
python benchmarks/paper/report.py --validation
"""

import argparse
import json
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
PARTS = (2, 4, 6, 8)
PAPER = {
    "DPQ": {"symmetric": (0.6831, 0.6865, 0.6830, 0.6876), "asymmetric": (0.6730, 0.6919, 0.6951, 0.6932)},
    "SUBIC": {"asymmetric": (0.6349, 0.6719, 0.6823, 0.6863)},
}
PROTOCOLS = {
    "a": "1,000 test queries against the other 9,000 test images",
    "b": "all 10,000 test images against themselves",
    "c": "10,000 test queries against the 50,000 training images",
}
METHODS = ("DPQ", "SUBIC", "PQ", "OPQ", "LSQ", "ITQ")


def load(name):
    """Return the rows of a file of results, by their key without the seed."""
    path = RESULTS / f"{name}.json"
    grouped: dict = {}
    for key, row in json.loads(path.read_text()).items() if path.exists() else ():
        grouped.setdefault(key.rpartition(" seed=")[0], []).append(row)
    return grouped


def cell(rows, name, digits=4):
    """Return mean and, of more than one seed, standard deviation."""
    values = [row[name] for row in rows if name in row]
    if not values:
        return "-"
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def table1(rows):
    """Yield the tables of the three protocols."""
    for protocol, meaning in PROTOCOLS.items():
        yield f"\n### Protocol ({protocol}): {meaning}\n"
        yield "| method | search | 12 bits | 24 bits | 36 bits | 48 bits |\n|---|---|" + "---|" * 4
        for method in METHODS:
            for search in ("symmetric", "asymmetric"):
                cells = [cell(rows.get(f"{method} M={M}", []), f"{protocol} {search}") for M in PARTS]
                yield f"| {method} | {search} | {' | '.join(cells)} |"
        for search in ("symmetric", "asymmetric"):
            value = cell(rows.get("labels", []), f"{protocol} {search}")
            yield f"| label codes (4 bits) | {search} | {' | '.join([value] * 4)} |"
        if protocol == "a":
            for method, searches in PAPER.items():
                for search, values in searches.items():
                    yield f"| {method}, in the paper | {search} | {' | '.join(f'{value:.4f}' for value in values)} |"
    yield "\n### Accuracy from codes\n\n| method | 12 bits | 24 bits | 36 bits | 48 bits |\n|---|" + "---|" * 4
    for method in ("DPQ", "SUBIC"):
        cells = [cell(rows.get(f"{method} M={M}", []), "accuracy") for M in PARTS]
        yield f"| {method} | {' | '.join(cells)} |"
    value = cell(rows.get("base", []), "accuracy")
    yield f"| base network, not compressed | {' | '.join([value] * 4)} |"


def table3(rows):
    """Yield the table of classification."""
    yield "\n| 64-bit codes | top-1 | top-5 |\n|---|---|---|"
    for name, seeds in rows.items():
        yield f"| {name} | {cell(seeds, 'top-1')} | {cell(seeds, 'top-5')} |"


def main():
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--validation", action="store_true", help="of the validation data")
    suffix = "-validation" * parser.parse_args().validation
    print("# The paper's experiments, run here")
    for title, table, name in (
        ("Table 1: single-domain retrieval, CIFAR-10", table1, "table1"),
        ("Table 3: classification from codes", table3, "table3"),
    ):
        rows = load(name + suffix)
        if rows:
            print(f"\n## {title}")
            print("\n".join(table(rows)))
            print(
                f"\nMean and standard deviation of the seeds. {max(r['on'] for seeds in rows.values() for r in seeds)}."
            )


if __name__ == "__main__":
    main()
