"""How fast are features made, from FLAC on disk to the store, and beside torchaudio's and Kaldi's?

    python -m benchmarks.features [--corpus DIR] [--seconds S] [--json]

One core throughout. Without --corpus the recordings are synthetic: noise that swells like speech, which
FLAC compresses worse than it does speech.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from asr.manifest import Utterance

ROUNDS = 5
MEMORY_SECONDS = 2 * 3600.0


@dataclass(frozen=True)
class Speed:
    """Times real time on one core: by the clock, and by the CPU time used (the same on an idle machine)."""

    clock: float
    cpu: float


@dataclass(frozen=True)
class Result:
    """Speeds by what is timed, and peak memory in MB for a corpus and for one four times as long."""

    seconds: float
    speeds: dict[str, Speed]
    memory: float
    memory_of_four_times: float


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="a folder with FLAC files at any depth")
    parser.add_argument("--seconds", type=float, default=1_200, help="how much speech to use")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--peak-memory", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    keep_to_one_core()
    with tempfile.TemporaryDirectory() as folder:
        corpus = arguments.corpus or synthesise(Path(folder) / "corpus", arguments.seconds)
        if arguments.peak_memory:
            print(peak_memory(corpus, Path(folder) / "store", arguments.peak_memory))
            return
        result = measure(corpus, Path(folder), arguments.seconds)
    print(json.dumps(asdict(result), indent=1) if arguments.json else table(result))


def keep_to_one_core() -> None:
    """Before numpy and torch are loaded: one core, one thread."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def synthesise(folder: Path, seconds: float) -> Path:
    """About `seconds` of FLAC in recordings of 12 s."""
    import numpy as np
    import soundfile

    folder.mkdir()
    rng = np.random.default_rng(0)
    swell = 0.5 - 0.5 * np.cos(2 * np.pi * 4 * np.arange(12 * 16_000) / 16_000)
    for i in range(max(1, round(seconds / 12))):
        samples = 0.2 * swell * np.convolve(rng.standard_normal(len(swell)), np.ones(8) / 8, mode="same")
        soundfile.write(folder / f"{i:05}.flac", samples, 16_000)
    return folder


def measure(corpus: Path, folder: Path, seconds: float) -> Result:
    """All figures in one run."""
    import torch

    from asr import audio

    torch.set_num_threads(1)
    utterances = find(corpus, seconds)
    waveforms = [audio.read(u.audio_filepath) for u in utterances]
    total = sum(len(w) for w in waveforms) / audio.SAMPLE_RATE
    stores = (folder / f"store{i}" for i in range(ROUNDS + 1))
    candidates: dict[str, Callable[[], object]] = {
        "FLAC on disk -> feature store": lambda: prepare(utterances, next(stores)),
        "decoding alone": lambda: [audio.read(u.audio_filepath) for u in utterances],
        "extraction alone: asr": ours(waveforms),
        "extraction alone: torchaudio": torchaudio_peer(waveforms),
        "extraction alone: kaldi-native-fbank": kaldi_peer(waveforms),
    }
    speeds = interleaved(candidates, total)
    command = [sys.executable, "-m", "benchmarks.features", "--corpus", str(corpus), "--peak-memory"]
    memory = [
        float(subprocess.run([*command, str(n * MEMORY_SECONDS)], check=True, stdout=subprocess.PIPE).stdout)
        for n in (1, 4)
    ]
    return Result(total, speeds, *memory)


def find(corpus: Path, seconds: float) -> "list[Utterance]":
    """FLAC files of `seconds` in all; a corpus that is shorter comes again under other ids."""
    from asr import audio
    from asr.manifest import Utterance

    paths = sorted(corpus.rglob("*.flac"))
    if not paths:
        sys.exit(f"{corpus}: no FLAC file is there")
    lengths = [audio.duration(path) for path in paths]
    utterances: list[Utterance] = []
    while seconds > 0:
        i = len(utterances) % len(paths)
        utterances.append(Utterance(f"{len(utterances):06}", paths[i], lengths[i], "A"))
        seconds -= lengths[i]
    return utterances


def interleaved(candidates: dict[str, Callable[[], object]], seconds: float) -> dict[str, Speed]:
    """Medians of ROUNDS runs of each over `seconds` of speech, taken in turn after one to warm up."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for _ in range(ROUNDS + 1):
        for name, run in candidates.items():
            clock, cpu = time.perf_counter(), time.process_time()
            run()
            times[name].append((time.perf_counter() - clock, time.process_time() - cpu))
    medians = {name: map(statistics.median, zip(*taken[1:], strict=True)) for name, taken in times.items()}
    return {name: Speed(*(seconds / median for median in both)) for name, both in medians.items()}


def prepare(utterances: "Sequence[Utterance]", store: Path) -> None:
    """What `asr prepare` does with recordings: plan, decode, extract, write, index."""
    from asr.features.store import build, write_index, write_meta
    from asr.prepare import plan

    for _ in build(store, plan(utterances)):
        pass
    write_meta(store, write_index(store))


def ours(waveforms: "Sequence[np.ndarray]") -> Callable[[], object]:
    """Our LogMel, one recording at a time."""
    from asr.features.logmel import LogMel
    from asr.features.store import extract

    log_mel = LogMel()
    return lambda: [extract(w, log_mel) for w in waveforms]


def torchaudio_peer(waveforms: "Sequence[np.ndarray]") -> Callable[[], object]:
    """torchaudio's MelSpectrogram with our settings, and the logarithm."""
    import torch
    from torchaudio.transforms import MelSpectrogram

    mel = MelSpectrogram(
        16_000, n_fft=512, win_length=400, hop_length=160, f_min=20, n_mels=80, center=False, mel_scale="htk"
    )
    tensors = [torch.from_numpy(w) for w in waveforms]

    def run() -> None:
        with torch.inference_mode():
            for tensor in tensors:
                torch.log(mel(tensor) + 1e-5).numpy()

    return run


def kaldi_peer(waveforms: "Sequence[np.ndarray]") -> Callable[[], object]:
    """kaldi-native-fbank with our settings; it hands its frames over one by one."""
    import kaldi_native_fbank
    import numpy as np

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hanning"
    options.mel_opts.num_bins = 80

    def run() -> None:
        for waveform in waveforms:
            fbank = kaldi_native_fbank.OnlineFbank(options)
            fbank.accept_waveform(16_000, waveform)
            fbank.input_finished()
            np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])

    return run


def peak_memory(corpus: Path, store: Path, seconds: float) -> float:
    """Peak resident memory of this process in MB, after preparing so many seconds of speech."""
    import resource

    prepare(find(corpus, seconds), store)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def table(result: Result) -> str:
    """The figures as text."""
    lines = [f"{result.seconds:.0f} s of speech, one core, median of {ROUNDS} runs after one to warm up", ""]
    lines += [f"{'times real time':40} {'clock':>8} {'CPU':>8}"]
    lines += [f"{name:40} {speed.clock:8.0f} {speed.cpu:8.0f}" for name, speed in result.speeds.items()]
    ours, *peers = (name for name in result.speeds if name.startswith("extraction"))
    lines.append("")
    for peer in peers:
        ratio = result.speeds[ours].cpu / result.speeds[peer].cpu
        lines.append(f"asr extracts {ratio:.2f} times as fast as {peer.split()[-1]} (by CPU time)")
    hours = MEMORY_SECONDS / 3600
    small, large = result.memory, result.memory_of_four_times
    lines.append(f"peak memory: {small:.0f} MB for {hours:.0f} h, {large:.0f} MB for {4 * hours:.0f} h")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
