"""The textbook's first example: a GRU of 64 units learns to sum its inputs.

    python -m recipes.cells.sum_of_features [--seed 1]

Sequences are 10 steps of 5 features, each drawn from a standard normal distribution; the target is the sum
of all 50. The baseline always predicts the mean of the training targets.
"""

import argparse
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

STEPS, FEATURES, UNITS = 10, 5, 64


class Summer(nn.Module):
    """`[B, steps, features]` -> `[B]`, from the state after the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(FEATURES, UNITS, batch_first=True)
        self.output = nn.Linear(UNITS, 1)

    def forward(self, x: Tensor) -> Tensor:
        sums: Tensor = self.output(self.gru(x)[0][:, -1])[:, 0]
        return sums


class Outcome(NamedTuple):
    """Targets and predictions `[100]` of new sequences; mean squared errors of the model and the baseline."""

    targets: Tensor
    predictions: Tensor
    error: float
    error_of_mean: float


def learn(seed: int, sequences: int = 1000, epochs: int = 10, batch: int = 32, rate: float = 0.01) -> Outcome:
    """Train, then predict 100 new sequences."""
    torch.manual_seed(seed)
    train, new = torch.randn(sequences, STEPS, FEATURES), torch.randn(100, STEPS, FEATURES)
    sums, targets = train.sum((1, 2)), new.sum((1, 2))
    model = Summer()
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for _ in range(epochs):
        for rows in torch.randperm(sequences).split(batch):
            optimizer.zero_grad()
            mse_loss(model(train[rows]), sums[rows]).backward()
            optimizer.step()
    with torch.inference_mode():
        predictions = model(new)
    error, error_of_mean = (float((guess - targets).square().mean()) for guess in (predictions, sums.mean()))
    return Outcome(targets, predictions, error, error_of_mean)


def main() -> None:
    """Train, and print predictions and errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    outcome = learn(parser.parse_args().seed)
    for target, prediction in list(zip(outcome.targets, outcome.predictions, strict=True))[:8]:
        print(f"sum {target:6.2f}  predicted {prediction:6.2f}")
    print(f"mean squared error {outcome.error:.4f}; of the mean {outcome.error_of_mean:.4f}")


if __name__ == "__main__":
    main()
