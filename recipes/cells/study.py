"""Plain RNN, LSTM and GRU side by side, at equal hidden size and again at equal parameter count.

    python -m recipes.cells.study [--seeds 1 2 3] [--rates 1e-3 2e-3 4e-3] [--jobs 2] [--out exp/cells]

Runs differ from cells.yaml in the cell, its width, the learning rate and the seed only. Each cell first runs
at every rate with the first seed; the rate with the lowest validation loss is then used at both widths. The
GRU defines the parameter count, so its runs serve both comparisons. Models are unidirectional: in a
bidirectional one all following frames are within reach too, and the cell has less to remember.

Each run leaves a folder and a JSON file below --out; finished runs are not repeated, interrupted ones resume.
Tables are printed and written to tables.md, plots to cells.png. Measures are defined in measure.py.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
import yaml
from joblib import Parallel, delayed

from asr.errors import AsrError
from asr.files import atomic_write
from asr.model.acoustic import Cell, RecurrentLayer
from recipes.cells.measure import Result, Run, count, measured
from recipes.cells.report import Settings, plot, rate_table, tables

CELLS: tuple[Cell, ...] = ("rnn", "lstm", "gru")
assert set(CELLS) == set(get_args(Cell))


def main(argv: Sequence[str] | None = None) -> None:
    """Do the missing runs, then write tables and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("cells.yaml"))
    parser.add_argument(
        "--test", type=Path, default=Path("data/digits/test"), help="measured, not used for any choice"
    )
    parser.add_argument("--out", type=Path, default=Path("exp/cells"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3])
    parser.add_argument("--levels", type=float, nargs="+", default=[0.3, 0.1], help="validation losses")
    parser.add_argument("--jobs", type=int, default=2, help="parallel runs, one thread each")
    options = parser.parse_args(argv)
    try:
        pilots, settings = study(options)
    except AsrError as error:
        raise SystemExit(f"study: {error}") from None
    text = f"Choice of the learning rate:\n\n{rate_table(pilots)}\n{tables(settings, options.levels)}"
    with atomic_write(options.out / "tables.md") as file:
        file.write(text)
    plot(settings, options.out / "cells.png")
    print(text)


def study(options: argparse.Namespace) -> tuple[list[Result], Settings]:
    """Results of the first seed at all rates, and of both comparisons."""
    model = yaml.safe_load(options.recipe.read_text(encoding="utf-8"))["model"]["architecture"]
    hidden, layers = model["hidden"], model["layers"]
    widths = matched_widths(hidden, layers)
    for cell in CELLS:
        for name, width in (("hidden size", hidden), ("parameters", widths[cell])):
            print(f"equal {name}: {cell} {width}, {recurrent_parameters(cell, width, layers):,} recurrent")
    pilots = perform(
        [Run(c, hidden, rate, options.seeds[0]) for c in CELLS for rate in options.rates], options
    )
    rates = best_rates(pilots)

    def at(widths: dict[Cell, int]) -> list[Result]:
        return perform([Run(c, widths[c], rates[c], seed) for c in CELLS for seed in options.seeds], options)

    return pilots, {"hidden size": at(dict.fromkeys(CELLS, hidden)), "parameter count": at(widths)}


def perform(works: list[Run], options: argparse.Namespace) -> list[Result]:
    """Results of `works`, in parallel."""
    results = []
    tasks = (delayed(measured)(work, options.recipe, options.test, options.out) for work in works)
    for result in Parallel(n_jobs=options.jobs, return_as="generator")(tasks):
        name, rate = result.run.name, result.wer["dev"]["clean"]
        print(f"{name}: lowest loss {min(result.losses):.3f}, dev WER {rate:.2%}", flush=True)
        results.append(result)
    return results


def best_rates(results: list[Result]) -> dict[Cell, float]:
    """Learning rate with the lowest validation loss, for each cell."""
    best_last = sorted(results, key=lambda result: min(result.losses), reverse=True)
    return {result.run.cell: result.run.rate for result in best_last}


def matched_widths(hidden: int, layers: int) -> dict[Cell, int]:
    """Hidden size of each cell whose recurrent parameters come closest to those of a GRU of `hidden`."""
    wanted = recurrent_parameters("gru", hidden, layers)
    return {
        cell: min(
            range(1, 3 * hidden), key=lambda width: abs(recurrent_parameters(cell, width, layers) - wanted)
        )
        for cell in CELLS
    }


def recurrent_parameters(cell: Cell, hidden: int, layers: int) -> int:
    """Parameters of the recurrent layers alone; their inputs are as wide as their outputs."""
    with torch.device("meta"):  # counted without being allocated
        return layers * count(RecurrentLayer(cell, hidden, hidden, bidirectional=False))


if __name__ == "__main__":
    main()
