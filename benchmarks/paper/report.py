"""Tables and plots of the results that are there, beside the paper's figures; prints what docs/paper_results.md holds.

python benchmarks/paper/report.py --plots docs > docs/paper_results.md
python benchmarks/paper/report.py --validation
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import matplotlib.pyplot as plt
import numpy as np
from _common import head, line, make_parser

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
NETWORKS = (
    "DPQ",
    "DPQ, regularized more",
    "DPQ, regularized more, base network kept",
    "DPQ, the paper's objective",
    "SUBIC",
)
CLASSIFIERS = ("base network", "MLP", "discriminant analysis")
METHODS = (
    *NETWORKS,
    *(f"{name}, PQ of {roots}" for name in CLASSIFIERS for roots in ("roots", "sharpened roots")),
    *(f"{name}{suffix}" for name in ("PQ", "OPQ", "LSQ", "ITQ") for suffix in ("", ", rows of length one")),
)
UNCOMPRESSED = ("distance", "cosine", *(f"posterior of {name}" for name in CLASSIFIERS))
SEARCHES = ("symmetric", "asymmetric")
NORMS = ("", " IntraNorm")
CENTRAL_WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)


def load(name):
    """Return the rows of a file of results, by their key without the seed."""
    path = RESULTS / f"{name}.json"
    grouped: dict = {}
    for key, row in json.loads(path.read_text()).items() if path.exists() else ():
        grouped.setdefault(key.rpartition(" seed=")[0], []).append(row)
    return grouped


def cell(rows, name):
    """Return mean and, of more than one row, standard deviation."""
    values = [row[name] for row in rows if name in row]
    if not values:
        return "-"
    return f"{np.mean(values):.4f}" + (f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else "")


def header(*cells):
    """Return the head of a table, with all columns to the left."""
    return head(*cells, n_text=len(cells))


def table1(rows):
    """Yield the tables of the three protocols, and of accuracy."""
    bits = [f"{6 * M} bits" for M in PARTS]
    for protocol, meaning in PROTOCOLS.items():
        yield f"\n### Protocol ({protocol}): {meaning}\n"
        yield header("method", "search", *bits)
        for method in METHODS:
            for ranking in (" relevance", "") if method in NETWORKS[:-1] else ("",):
                for search in SEARCHES:
                    cells = [cell(rows.get(f"{method} M={M}", []), f"{protocol} {search}{ranking}") for M in PARTS]
                    yield line(f"{method}{', by relevance' * bool(ranking)}", search, *cells)
        for search in SEARCHES:
            yield line("label codes, 4 bits", search, *[cell(rows.get("labels", []), f"{protocol} {search}")] * 4)
        ceiling = [cell(rows.get(f"DPQ M={M}", []), f"{protocol} asymmetric soft") for M in PARTS]
        yield line("uncompressed, posterior of DPQ's soft", "", *ceiling)
        for name in UNCOMPRESSED:
            yield line(
                f"uncompressed, {name}",
                "",
                *[cell(rows.get(f"uncompressed, {name}", []), f"{protocol} asymmetric")] * 4,
            )
        if protocol == "a":
            for method, searches in PAPER.items():
                for search, values in searches.items():
                    yield line(f"{method}, in the paper", search, *(f"{value:.4f}" for value in values))
    yield "\n### Accuracy from codes\n\n" + header("method", *bits)
    for method in NETWORKS:
        yield line(method, *(cell(rows.get(f"{method} M={M}", []), "accuracy") for M in PARTS))
    yield line("DPQ's soft", *(cell(rows.get(f"DPQ M={M}", []), "accuracy of soft") for M in PARTS))
    yield line("base network, not compressed", *[cell(rows.get("base", []), "accuracy")] * 4)


def table2(rows):
    """Yield the table of each group of experiments; those that leave classes out are averaged."""
    groups: dict = {}
    for key, seeds in rows.items():
        experiment, _, method = key.partition(": ")
        group = groups.setdefault("classes left out" if key.startswith("unseen (") else experiment, {})
        group.setdefault(method, []).append(seeds)
    for group, methods in groups.items():
        first = next(iter(methods.values()))[0][0]
        targets = list(dict.fromkeys(name.partition(" ")[0] for name in first if name not in ("seconds", "on")))
        n_experiments = max(len(experiments) for experiments in methods.values())
        if any(len(experiments) < n_experiments for experiments in methods.values()):
            yield f"\n### {group}: not yet complete"
            continue
        yield f"\n### {group[0].upper() + group[1:]}{f', mean of {n_experiments}' * (n_experiments > 1)}\n"
        yield header("method", "search", *(f"{target}{points}" for target in targets for points in ("", ", 21 points")))
        for method, experiments in methods.items():
            for search in SEARCHES:
                for suffix in ("", " IntraNorm"):
                    if f"{targets[0]} {search}{suffix}" in experiments[0][0]:
                        names = [f"{t} {search}{suffix}{p}" for t in targets for p in ("", ", 21 points")]
                        by_seed = zip(*experiments, strict=False)  # seeds that all experiments have
                        means = [{name: np.mean([row[name] for row in each]) for name in names} for each in by_seed]
                        yield line(method, f"{search}{suffix}", *(cell(means, name) for name in names))


def table3(rows):
    """Yield the table of classification."""
    yield "\n" + header("64-bit codes", "top-1", "top-5")
    for name, seeds in rows.items():
        yield line(name, cell(seeds, "top-1"), cell(seeds, "top-5"))


def figure2(rows):
    """Yield the tables of the weight of the Joint Central Loss and of the ablation."""
    columns = ("c symmetric", "c asymmetric", "c asymmetric IntraNorm", "accuracy", "perplexity", "gap")
    yield "\n" + header("protocol (c), 24 bits", *(name.removeprefix("c ") for name in columns))
    for name, seeds in rows.items():
        if not name.startswith("unseen"):
            name = name.replace("central", "weight of Joint Central Loss")
            yield line(f"{name}{' (default)' * name.endswith(' 0.5')}", *(cell(seeds, column) for column in columns))
    across = [(weight, across_domains(rows, weight)) for weight in CENTRAL_WEIGHTS]
    if all(seeds for _, seeds in across):
        columns = [f"{side} {search}{norm}" for side in ("seen", "unseen") for search in SEARCHES[1:] for norm in NORMS]
        yield "\n" + header("classes left out", *columns)
        for weight, seeds in across:
            yield line(f"weight {weight}", *(f"{np.mean([row[name] for row in seeds]):.4f}" for name in columns))


def across_domains(rows, weight):
    """Return the rows of all experiments that leave classes out."""
    found = [rows[key] for key in rows if key.startswith("unseen") and key.endswith(f" central {weight}")]
    return [row for seeds in found for row in seeds]


def variants(rows):
    """Yield the table of what else was tried."""
    columns = ("a symmetric", "a asymmetric", "c symmetric", "c asymmetric", "accuracy")
    yield "\n" + header("validation data, 24 bits", *columns)
    for name, seeds in rows.items():
        yield line(name, *(cell(seeds, column) for column in columns))


def plot_table1(rows, path):
    """Plot mAP against bits."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    bits = [6 * M for M in PARTS]
    shown = {"DPQ, by relevance": ("DPQ", " relevance")}
    shown |= {method: (method, "") for method in ("DPQ", "SUBIC", "MLP, PQ of roots", "PQ, rows of length one", "ITQ")}
    for color, (title, (method, ranking)) in enumerate(shown.items()):
        for search, style in zip(SEARCHES, ("--", "-"), strict=True):
            means = [np.mean([row[f"a {search}{ranking}"] for row in rows[f"{method} M={M}"]]) for M in PARTS]
            axes.plot(bits, means, style, color=f"C{color}", label=title if style == "-" else None)
    axes.plot(bits, PAPER["DPQ"]["asymmetric"], "k:", label="DPQ, in the paper")
    axes.set(xlabel="bits", ylabel="mAP, protocol (a)", xticks=bits, title="CIFAR-10: asymmetric (solid), symmetric")
    figure.legend(fontsize="small", ncols=3, loc="outside lower center")
    figure.savefig(path, dpi=120)


def plot_figure2(rows, path):
    """Plot mAP against the weight of the Joint Central Loss."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for norm, style in zip(NORMS, ("-", "--"), strict=True):
        label = "with intra-normalisation" if norm else "without"
        curve = [np.mean([row[f"c asymmetric{norm}"] for row in rows[f"central {w}"]]) for w in CENTRAL_WEIGHTS]
        left.plot(range(len(curve)), curve, f"o{style}", label=label)
        curve = [np.mean([row[f"unseen asymmetric{norm}"] for row in across_domains(rows, w)]) for w in CENTRAL_WEIGHTS]
        right.plot(range(len(curve)), curve, f"o{style}", label=label)
    for axes, title in ((left, "all classes seen, protocol (c)"), (right, "classes left out")):
        axes.set(xlabel="weight of Joint Central Loss", ylabel="mAP, asymmetric", title=title)
        axes.set_xticks(range(len(CENTRAL_WEIGHTS)), map(str, CENTRAL_WEIGHTS))
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


PLOTS = {"table1": plot_table1, "figure2": plot_figure2}


def main():
    """Print the report, and draw the plots."""
    parser = make_parser(__doc__)
    parser.add_argument("--validation", action="store_true", help="of the validation data")
    parser.add_argument("--plots", help="a folder for plots")
    options = parser.parse_args()
    print("# The paper's experiments: all figures\n\n[experiments.md](experiments.md) tells what they are.")
    for title, table, name in (
        ("Table 1: single-domain retrieval, CIFAR-10", table1, "table1"),
        ("Table 2: retrieval across domains", table2, "table2"),
        ("Table 3: classification from codes", table3, "table3"),
        ("Figure 2: weight of the Joint Central Loss, and ablation", figure2, "figure2"),
        ("What else was tried", variants, "variants"),
    ):
        rows = load(name + "-validation" * (options.validation or name == "variants"))
        if rows:
            print(f"\n## {title}\n\nBy `benchmarks/paper/{name}.py`.")
            print("\n".join(table(rows)))
            n_seeds = sorted({len(seeds) for seeds in rows.values()})
            runs = [row["on"] for seeds in rows.values() for row in seeds]
            first, last = (date.partition(",")[0] for date in (min(runs), max(runs)))
            print(
                f"\n{' or '.join(map(str, n_seeds))} seed{'s' * (n_seeds != [1])}; of more than one, mean ± standard "
                f"deviation. {f'From {first} on, last: ' * (first != last)}{max(runs)}."
            )
            if options.plots and name in PLOTS:
                PLOTS[name](rows, Path(options.plots) / f"{name}.png")


if __name__ == "__main__":
    main()
