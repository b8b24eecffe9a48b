"""Log-mel extraction: speed against torchaudio and kaldi-native-fbank.

    python -m benchmarks.features [--manifest FILE] [--seconds 1200]

On one core: from recordings on disk to the feature store, and extraction alone
from samples in memory. Speeds are in times real time, medians of --rounds
alternating rounds after one of warm-up. Without --manifest the recordings are
synthetic FLAC: noise with a syllable rate of 4 Hz, which compresses worse than
speech.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import SAMPLE_RATE, new_parser, one_core, read_utterances, show, time_alternately

if TYPE_CHECKING:
    import numpy as np

    from asr.manifest import Utterance

CLIP_SECONDS = 12
OURS = "extraction: asr"


def main() -> None:
    """Parse, measure, print."""
    parser = new_parser(__doc__)
    parser.add_argument("--manifest", type=Path, help="recordings to use, repeated if they are too few")
    parser.add_argument("--seconds", type=float, default=1_200, help="speech in each round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    one_core()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = arguments.manifest or synthesise(folder / "corpus", arguments.seconds)
        result = measure(source, folder, arguments.seconds, arguments.rounds)
    show(result, table(result), arguments.json)


def synthesise(folder: Path, seconds: float) -> Path:
    """Write about `seconds` of FLAC files and their manifest, whose path is returned."""
    import numpy as np
    import soundfile

    from asr import manifest

    folder.mkdir()
    rng = np.random.default_rng(0)
    swell = 0.5 - 0.5 * np.cos(2 * np.pi * 4 * np.arange(CLIP_SECONDS * SAMPLE_RATE) / SAMPLE_RATE)
    utterances = []
    for i in range(max(1, round(seconds / CLIP_SECONDS))):
        samples = 0.2 * swell * np.convolve(rng.standard_normal(len(swell)), np.ones(8) / 8, mode="same")
        path = folder / f"{i:05}.flac"
        soundfile.write(path, samples, SAMPLE_RATE)
        utterances.append(manifest.Utterance(path.stem, path, CLIP_SECONDS, "A"))
    manifest.write(folder / "manifest.jsonl", utterances)
    return folder / "manifest.jsonl"


def take(source: Path, seconds: float) -> "list[Utterance]":
    """Utterances of `seconds` in all, those of the manifest repeatedly."""
    from dataclasses import replace
    from itertools import cycle

    utterances: list[Utterance] = []
    for utterance in cycle(read_utterances(source)):
        if seconds <= 0:
            break
        utterances.append(replace(utterance, id=f"{len(utterances):06}"))
        seconds -= utterance.duration
    return utterances


def measure(source: Path, folder: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """Speeds in times real time, by elapsed and by CPU time."""
    import torch

    from asr import audio

    torch.set_num_threads(1)
    utterances = take(source, seconds)
    waveforms = [audio.read(u.audio_filepath) for u in utterances]
    seconds = sum(map(len, waveforms)) / SAMPLE_RATE
    stores = (folder / f"store{i}" for i in range(rounds + 1))
    work: dict[str, Callable[[], object]] = {
        "recordings to feature store": lambda: prepare(utterances, next(stores)),
        "reading recordings": lambda: [audio.read(u.audio_filepath) for u in utterances],
        OURS: ours(waveforms),
        "extraction: torchaudio": torchaudio_peer(waveforms),
    }
    try:
        work["extraction: kaldi-native-fbank"] = kaldi_peer(waveforms)
    except ImportError:
        print("kaldi-native-fbank is not installed; left out", file=sys.stderr)
    timings = time_alternately(work, rounds)
    speeds = {
        name: {"clock": seconds / t.seconds, "cpu": seconds / t.cpu_seconds} for name, t in timings.items()
    }
    ratios = {
        name: speeds[OURS]["cpu"] / speed["cpu"]
        for name, speed in speeds.items()
        if name.startswith("extraction") and name != OURS
    }
    return {"seconds": seconds, "speeds": speeds, "ratios": ratios}


def prepare(utterances: "Sequence[Utterance]", store: Path) -> None:
    """Write a feature store, as `asr prepare` does."""
    from asr.features.store import build, write_index, write_meta
    from asr.prepare import plan

    for _ in build(store, plan(utterances)):
        pass
    write_meta(store, write_index(store))


def ours(waveforms: "Sequence[np.ndarray]") -> Callable[[], object]:
    """asr's LogMel, one recording at a time."""
    from asr.features.logmel import LogMel
    from asr.features.store import extract

    log_mel = LogMel()
    return lambda: [extract(w, log_mel) for w in waveforms]


def torchaudio_peer(waveforms: "Sequence[np.ndarray]") -> Callable[[], object]:
    """torchaudio's MelSpectrogram with asr's settings, then the logarithm."""
    import torch
    from torchaudio.transforms import MelSpectrogram

    mel = MelSpectrogram(
        SAMPLE_RATE, n_fft=512, win_length=400, hop_length=160, f_min=20, n_mels=80, center=False
    )
    tensors = [torch.from_numpy(w) for w in waveforms]

    def work() -> None:
        with torch.inference_mode():
            for tensor in tensors:
                torch.log(mel(tensor) + 1e-5).numpy()

    return work


def kaldi_peer(waveforms: "Sequence[np.ndarray]") -> Callable[[], object]:
    """kaldi-native-fbank with asr's settings; its API returns frames one by one."""
    import kaldi_native_fbank
    import numpy as np

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hanning"
    options.mel_opts.num_bins = 80

    def work() -> None:
        for waveform in waveforms:
            fbank = kaldi_native_fbank.OnlineFbank(options)
            fbank.accept_waveform(SAMPLE_RATE, waveform)
            fbank.input_finished()
            np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])

    return work


def table(result: dict[str, Any]) -> str:
    """Format the figures as lines of text."""
    lines = [f"{result['seconds']:.0f} s of speech, one core", ""]
    lines.append(f"{'times real time':36}{'clock':>8}{'CPU':>8}{'asr is faster by':>20}")
    for name, speed in result["speeds"].items():
        ratio = f"{result['ratios'][name]:20.2f}" if name in result["ratios"] else ""
        lines.append(f"{name:36}{speed['clock']:8.0f}{speed['cpu']:8.0f}{ratio}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
