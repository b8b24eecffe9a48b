"""Draw the pictures of how-it-works.md from the model that ships and one clip of the digits corpus.

    python docs/pictures.py      # needs the extra `train` (torch for the features, matplotlib)

Writes features.png, gru.png and beam.png beside this file and prints the n-best list quoted in the text.
"""

import io
import json
import math
import tarfile
import tempfile
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

import asr
from asr import audio
from asr.features.logmel import LogMel

HERE = Path(__file__).parent
ARCHIVE = HERE.parent / "data_prep" / "data" / "digits.tar.gz"
CLIP = "dev/en-gb_m5_40/en-gb_m5_40-16.opus"
"""FIVE FIVE SEVEN SIX, synthetic speech by espeak-ng."""

BEAM = 4
FIRST, LAST = 2, 20
"""Output frames drawn in beam.png."""

INK, ACCENT, SECOND, FAINT = "#222222", "#c8501e", "#2b6cb0", "#d9d9d9"
Prefix = tuple[int, ...]


def main() -> None:
    plt.rcParams.update({"font.size": 10, "axes.edgecolor": "#888888", "axes.titlesize": 10})
    with tempfile.TemporaryDirectory() as folder, tarfile.open(ARCHIVE) as archive:
        archive.extract(CLIP, folder, filter="data")
        clip = Path(folder, CLIP)
        model = asr.load_model()
        waveform, posteriors = audio.read(clip), model.posteriors(clip)
        transcript = model.transcribe(clip, options=asr.TranscribeOptions(n_best=5))
    config = json.loads((Path(asr.__file__).parent / "box" / "config.json").read_text(encoding="utf-8"))
    tokens = ["blank", *config["characters"]]
    save(draw_features(waveform, posteriors, tokens, transcript.words), "features.png")
    save(draw_gru(), "gru.png")
    save(draw_beam(posteriors, tokens), "beam.png")
    print("greedy:", " ".join(tokens[token] for token in collapse(posteriors.argmax(axis=1))))
    for alternative in transcript.n_best:
        print(f"{alternative.score:8.2f}  {alternative.text}")


def save(figure: plt.Figure, name: str) -> None:
    """Write a figure as a PNG of 128 colours, which a text page loads fast."""
    memory = io.BytesIO()
    figure.savefig(memory, dpi=100, facecolor="white")
    plt.close(figure)
    Image.open(memory).convert("RGB").quantize(128).save(HERE / name, optimize=True)


def collapse(path: np.ndarray) -> list[int]:
    """Merge repeated tokens, then drop blanks (token 0)."""
    return [int(token) for i, token in enumerate(path) if token and (i == 0 or token != path[i - 1])]


def draw_features(
    waveform: np.ndarray, posteriors: np.ndarray, tokens: list[str], words: tuple[asr.Word, ...]
) -> plt.Figure:
    """Waveform, log-mel features and posteriors on one time axis, words on top."""
    features, _ = LogMel()(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
    seconds = len(waveform) / audio.SAMPLE_RATE
    figure, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(9, 7), sharex=True, height_ratios=[1, 1.6, 2.4], layout="constrained"
    )
    top.plot(np.arange(len(waveform)) / audio.SAMPLE_RATE, waveform, color=SECOND, linewidth=0.5)
    top.set(ylabel="amplitude", title="waveform, 16 kHz, and words", xlim=(0, seconds), ylim=(-0.5, 0.7))
    for word in words:
        top.axvspan(word.start, word.end, facecolor="#f6e3da", edgecolor="white", linewidth=2)
        top.text((word.start + word.end) / 2, 0.55, word.text, ha="center", va="center")
    extent = (0, seconds, 0, features.shape[2])
    middle.imshow(features[0].T, origin="lower", aspect="auto", extent=extent, cmap="Greys", vmin=-13, vmax=5)
    middle.set(ylabel="mel channel", title="log-mel energies, 80 channels, one frame every 10 ms")
    probabilities = np.exp(posteriors)
    shown = [i for i in range(len(tokens)) if i and probabilities[:, i].max() > 0.3]
    shown.sort(key=lambda i: (probabilities[:, i] > 0.3).argmax())
    rows = [0, *shown]
    edges = np.minimum(np.arange(len(posteriors) + 1) * 0.04, seconds)
    bottom.pcolormesh(edges, np.arange(len(rows) + 1), probabilities[:, rows].T, cmap="Blues", vmin=0, vmax=1)
    bottom.set_yticks(np.arange(len(rows)) + 0.5, [tokens[i] for i in rows])
    bottom.invert_yaxis()
    bottom.set(xlabel="seconds", ylabel="token", title="posteriors, one frame every 40 ms")
    return figure


def draw_gru() -> plt.Figure:
    """One GRU unit with weights set by hand: it stores the input when the trigger is 1, and keeps it."""
    steps = 60
    rng = np.random.default_rng(1)
    value = np.repeat(rng.uniform(-0.9, 0.9, steps // 5), 5)
    trigger = np.zeros(steps)
    trigger[[6, 31, 46]] = 1
    state, plain, states, plains, gates = 0.0, 0.0, [], [], []
    for x, t in zip(value, trigger, strict=True):
        z = 1 / (1 + math.exp(12 * t - 6))  # PyTorch's convention: z = 1 keeps the old state
        state = (1 - z) * math.tanh(1.5 * x) + z * state
        plain = math.tanh(1.5 * x * t + 0.9 * plain)
        gates.append(z)
        states.append(state)
        plains.append(plain)
    figure, axes = plt.subplots(3, 1, figsize=(9, 4.6), sharex=True, layout="constrained")
    at = np.arange(steps)
    axes[0].step(at, value, where="mid", color=SECOND, label="value")
    axes[0].plot(at[trigger > 0], value[trigger > 0], "o", color=ACCENT, label="trigger = 1")
    axes[1].step(at, gates, where="mid", color=INK, label="update gate z")
    axes[2].step(at, states, where="mid", color=ACCENT, label="state h of the GRU")
    axes[2].step(at, plains, where="mid", color="#888888", linestyle="--", label="state of a plain RNN")
    for axis, name in zip(axes, ("input", "gate", "state"), strict=True):
        axis.set(ylabel=name, ylim=(-1.15, 1.15) if name != "gate" else (-0.1, 1.1), xlim=(0, steps - 1))
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        axis.grid(color=FAINT, linewidth=0.5)
    axes[2].set_xlabel("frame")
    return figure


def prefix_beam_search(log_probs: np.ndarray, beam: int) -> list[dict[Prefix, float]]:
    """Run CTC prefix beam search (Hannun et al., 2014) without a language model; the beam of each frame.

    A prefix has two probabilities: of all alignments that end in a blank, and of those that end in its last
    token. asr/decoding/kernel.py is this loop with a trie, a language model, hotwords and recombination.
    """
    probs = np.exp(log_probs.astype(float))
    hypotheses: dict[Prefix, tuple[float, float]] = {(): (1.0, 0.0)}
    beams = []
    for row in probs:
        grown: dict[Prefix, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for prefix, (blank, label) in hypotheses.items():
            grown[prefix][0] += (blank + label) * row[0]
            if prefix:
                grown[prefix][1] += label * row[prefix[-1]]
            for token in range(1, len(row)):
                repeated = bool(prefix) and prefix[-1] == token
                grown[(*prefix, token)][1] += (blank if repeated else blank + label) * row[token]
        best = sorted(grown, key=lambda prefix: -sum(grown[prefix]))[:beam]
        scale = sum(sum(grown[prefix]) for prefix in best)
        hypotheses = {prefix: (grown[prefix][0] / scale, grown[prefix][1] / scale) for prefix in best}
        beams.append({prefix: sum(parts) for prefix, parts in hypotheses.items()})
    return beams


def draw_beam(posteriors: np.ndarray, tokens: list[str]) -> plt.Figure:
    """The beam of each frame, best on top; a line joins a prefix to what it becomes in the next frame."""
    beams = prefix_beam_search(posteriors, BEAM)[FIRST:LAST]
    figure, axis = plt.subplots(figsize=(9, 4.4), layout="constrained")
    for frame, beam in enumerate(beams):
        before = list(beams[frame - 1]) if frame else []
        for rank, (prefix, share) in enumerate(beam.items()):
            for parent in (prefix, prefix[:-1]):
                if parent in before:
                    new = parent != prefix
                    axis.plot(
                        [frame - 1, frame],
                        [before.index(parent), rank],
                        color=ACCENT if new else "#999999",
                        linewidth=1.6 if new else 0.8,
                        zorder=1,
                    )
                    break
            axis.scatter(frame, rank, s=20 + 180 * share, color=SECOND, zorder=2)
            if prefix not in before:
                axis.text(
                    *(frame, rank - 0.19, tokens[prefix[-1]] if prefix else "(empty)"),
                    **{"ha": "center", "va": "center", "color": ACCENT, "fontsize": 9},
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
                )
    for rank, (prefix, share) in enumerate(beams[-1].items()):
        label = " ".join(tokens[token] for token in prefix)
        axis.text(len(beams) - 0.5, rank, f"{label}  ({share:.2f})", va="center")
    axis.set(xlabel="output frame (40 ms)", ylabel="rank in the beam", ylim=(BEAM - 0.5, -0.6))
    axis.set(xlim=(-0.7, len(beams) + 5), yticks=range(BEAM), yticklabels=range(1, BEAM + 1))
    axis.set_xticks(range(0, len(beams), 5), range(FIRST, FIRST + len(beams), 5))
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
