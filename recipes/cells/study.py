"""Plain RNN, LSTM and GRU side by side, at equal hidden size and again at equal parameter count.

    python -m recipes.cells.study [--seeds 1 2 3] [--rates 1e-3 2e-3 4e-3] [--jobs 2] [--out exp/cells]

Everything is as in cells.yaml but the cell, its width, the learning rate and the seed. Each cell first runs
at every rate with the first seed; the rate with the lowest validation loss is the cell's from then on, at
both widths. A GRU is its own equal in parameters, so its runs count in both settings. Models read in one
direction: with two, a frame would have all that follows it within its reach, and the cell less to keep.

A run leaves a folder and a JSON file below --out; one that has its file is not done again, one that was
stopped goes on. Tables are printed and written to tables.md, the plots to cells.png. See reach.py for how the
reach of gradients is defined, conditions.py for noise and tempo.
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
from asr.model.recurrent import Cell, RecurrentLayer
from recipes.cells.measure import Result, Run, count, measured
from recipes.cells.report import Settings, plot, rate_table, tables

CELLS: tuple[Cell, ...] = ("rnn", "lstm", "gru")
assert set(CELLS) == set(get_args(Cell))


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, then tables and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("cells.yaml"))
    parser.add_argument(
        "--test", type=Path, default=Path("data/digits/test"), help="measured, never chosen by"
    )
    parser.add_argument("--out", type=Path, default=Path("exp/cells"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3])
    parser.add_argument("--levels", type=float, nargs="+", default=[0.3, 0.1], help="validation losses")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a thread each")
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
    """The results of the first seed at all rates, and of both settings."""
    model = yaml.safe_load(options.recipe.read_text(encoding="utf-8"))["model"]
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
    """The results of `works`, as many at a time as there are jobs."""
    results = []
    tasks = (delayed(measured)(work, options.recipe, options.test, options.out) for work in works)
    for result in Parallel(n_jobs=options.jobs, return_as="generator")(tasks):
        name, rate = result.run.name, result.wer["dev"]["clean"]
        print(f"{name}: lowest loss {min(result.losses):.3f}, dev WER {rate:.2%}", flush=True)
        results.append(result)
    return results


def best_rates(results: list[Result]) -> dict[Cell, float]:
    """For each cell the learning rate that led to the lowest validation loss."""
    best_last = sorted(results, key=lambda result: min(result.losses), reverse=True)
    return {result.run.cell: result.run.rate for result in best_last}


def matched_widths(hidden: int, layers: int) -> dict[Cell, int]:
    """For each cell the hidden size that comes nearest to the recurrent parameters of a GRU of `hidden`."""
    wanted = recurrent_parameters("gru", hidden, layers)
    return {
        cell: min(
            range(1, 3 * hidden), key=lambda width: abs(recurrent_parameters(cell, width, layers) - wanted)
        )
        for cell in CELLS
    }


def recurrent_parameters(cell: Cell, hidden: int, layers: int) -> int:
    """Of the recurrent layers alone; their inputs are as wide as their outputs."""
    with torch.device("meta"):  # counted, not made
        return layers * count(RecurrentLayer(cell, hidden, hidden, bidirectional=False))


if __name__ == "__main__":
    main()
