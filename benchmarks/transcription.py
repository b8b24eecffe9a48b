"""Transcription of recordings to text files: speed, WER, memory; cold start.

    python -m benchmarks.transcription [--model box] [--manifest FILE]

Each system is a process of its own that reads audio files and writes text
files, restricted to as many cores as threads; its whole run time counts.
Speeds are medians of --rounds alternating rounds, after one of warm-up.

asr           asr transcribe
torch         the same pipeline and decoder with torch for features and network
pocketsphinx  PocketSphinx 5 and its own US English model, one file after the
              other, one round; on --peer-utterances only, as it is slow
              (pip install 'pocketsphinx>=5,<6'). "asr there" is asr's WER on
              the same utterances

Cold start is the whole command on ten seconds of speech against `python -c
"import torch"`: the median of five, alternating, after one of warm-up.
"""

import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import (
    SAMPLE_RATE,
    add_corpus,
    asr_command,
    bundle_path,
    new_parser,
    read_utterances,
    run,
    show,
    spread,
    word_counts,
)

if TYPE_CHECKING:
    import argparse

    import numpy as np

    from asr.inference.engine import Window
    from asr.manifest import Utterance

CLIP_SECONDS = 10


@dataclass(frozen=True)
class Outcome:
    """Speed in times real time, WER in %, peak memory in MiB."""

    xrt: float
    wer: float
    peak_mib: float


def main() -> None:
    """Parse, measure, print; with --peer, transcribe as one of the peers."""
    arguments = parse()
    if arguments.peer:
        run_peer(arguments)
        return
    from asr.model.bundle import read_config

    utterances = read_utterances(arguments.manifest, arguments.utterances)
    bundle = bundle_path(arguments.model)
    result: dict[str, Any] = {
        "utterances": len(utterances),
        "seconds": sum(u.duration for u in utterances),
        "parameters": read_config(bundle).parameters,
        "threads": {},
    }
    with tempfile.TemporaryDirectory() as name:
        for threads in arguments.threads:
            result["threads"][threads] = measure(bundle, utterances, threads, Path(name), arguments)
        result["cold_start"] = cold_start(bundle, Path(name), utterances, arguments.greedy)
    show(result, table(result), arguments.json)


def parse() -> "argparse.Namespace":
    """Parse the command line."""
    parser = new_parser(__doc__)
    add_corpus(parser, utterances=124)
    parser.add_argument("--peer-utterances", type=int, default=40)
    parser.add_argument("--greedy", action="store_true", help="without the bundle's language model")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="none: only the cold start")
    parser.add_argument("--rounds", type=int, default=3)
    peer = parser.add_argument_group("transcription by a peer, as this module runs it")
    peer.add_argument("--peer", choices=["torch", "pocketsphinx"])
    peer.add_argument("--list", type=Path, help="file with the name of a recording per line")
    peer.add_argument("--out", type=Path)
    return parser.parse_args()


def measure(
    bundle: Path, utterances: "list[Utterance]", threads: int, work: Path, arguments: "argparse.Namespace"
) -> dict[str, Any]:
    """Outcome of each system; `ratio_*` is asr's speed relative to that peer's."""
    names = write_list(utterances, work / "files.txt")
    options = ["--threads", str(threads), *(["--greedy"] if arguments.greedy else [])]
    ours = asr_command("transcribe", "--raw", f"@{names}", *options, "--model")
    peer = [sys.executable, "-m", "benchmarks.transcription", "--peer"]
    commands = {"asr": [*ours, str(bundle)]}
    if find_spec("torch"):
        commands["torch"] = [*peer, "torch", "--list", str(names), *options, "--model", str(bundle)]
    outcomes: dict[str, list[Outcome]] = {name: [] for name in commands}
    for _ in range(arguments.rounds + 1):
        for name, command in commands.items():
            outcomes[name].append(run_system(command, utterances, threads, work / f"{name}-{threads}"))
    result: dict[str, Any] = {name: asdict(median(found[1:])) for name, found in outcomes.items()}
    if find_spec("pocketsphinx"):
        some = spread(utterances, arguments.peer_utterances)
        command = [*peer, "pocketsphinx", "--list", str(write_list(some, work / "some.txt"))]
        outcome = run_system(command, some, threads, work / f"pocketsphinx-{threads}")
        there = word_error_rate(some, work / f"asr-{threads}")
        result["pocketsphinx"] = {**asdict(outcome), "asr_wer": there}
    ratios = {
        f"ratio_{p}": result["asr"]["xrt"] / result[p]["xrt"]
        for p in ("torch", "pocketsphinx")
        if p in result
    }
    return result | ratios


def write_list(utterances: "list[Utterance]", path: Path) -> Path:
    """Write a file with the path of a recording per line."""
    path.write_text("\n".join(str(u.audio_filepath.resolve()) for u in utterances))
    return path


def run_system(command: Sequence[str], utterances: "list[Utterance]", threads: int, out: Path) -> Outcome:
    """Run a command that writes a text file per utterance below `out`, and score the texts."""
    shutil.rmtree(out, ignore_errors=True)
    cores = sorted(os.sched_getaffinity(0))[:threads]
    done = run([*command, "--out", str(out)], cores, OMP_NUM_THREADS=str(threads))
    seconds = sum(u.duration for u in utterances)
    return Outcome(seconds / done.seconds, word_error_rate(utterances, out), done.peak_mib)


def word_error_rate(utterances: "list[Utterance]", out: Path) -> float:
    """WER in % of the texts below `out`."""
    texts = {path.stem: path.read_text().strip() for path in out.rglob("*.txt")}
    return 100 * word_counts((u.text, texts[u.audio_filepath.stem]) for u in utterances).rate


def median(outcomes: Sequence[Outcome]) -> Outcome:
    """Median speed and memory; the WER is the same in each round."""
    xrt, peak = (statistics.median(getattr(o, key) for o in outcomes) for key in ("xrt", "peak_mib"))
    return replace(outcomes[0], xrt=xrt, peak_mib=peak)


def cold_start(bundle: Path, work: Path, utterances: "list[Utterance]", greedy: bool) -> dict[str, float]:
    """Seconds to transcribe one clip, and to import torch if it is installed."""
    import numpy as np
    import soundfile

    from asr import audio

    speech = np.concatenate([audio.read(u.audio_filepath) for u in utterances[: 10 * CLIP_SECONDS]])
    clip = work / "clip.wav"
    soundfile.write(clip, np.resize(speech, CLIP_SECONDS * SAMPLE_RATE), SAMPLE_RATE)
    options = ["--model", str(bundle), *(["--greedy"] if greedy else [])]
    commands = {"asr": asr_command("transcribe", str(clip), *options)}
    if find_spec("torch"):
        commands["import_torch"] = [sys.executable, "-c", "import torch"]
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(6):
        for name, command in commands.items():
            times[name].append(run(command).seconds)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    ratio = {"ratio": medians["asr"] / medians["import_torch"]} if "import_torch" in medians else {}
    return medians | ratio


def table(result: dict[str, Any]) -> str:
    """Format the figures as lines of text."""
    size = f", {result['parameters'] / 1e6:.1f} M parameters" if result["parameters"] else ""
    lines = [f"{result['utterances']} utterances, {result['seconds']:.0f} s{size}"]
    for threads, outcomes in result["threads"].items():
        head = f"{threads} thread" + "s" * (threads > 1)
        lines += [
            "",
            f"{head:14}{'x real time':>12}{'WER %':>8}{'peak MiB':>10}{'asr faster by':>15}{'asr there':>11}",
        ]
        for name, outcome in outcomes.items():
            if isinstance(outcome, dict):
                line = f"{name:14}{outcome['xrt']:12.1f}{outcome['wer']:8.2f}{outcome['peak_mib']:10.0f}"
                if ratio := outcomes.get(f"ratio_{name}"):
                    line += f"{ratio:15.2f}"
                lines.append(line + (f"{outcome['asr_wer']:11.2f}" if "asr_wer" in outcome else ""))
    cold = result["cold_start"]
    line = f"cold start, {CLIP_SECONDS} s of speech: {cold['asr']:.2f} s"
    if "ratio" in cold:
        line += f"; import torch: {cold['import_torch']:.2f} s; ratio {cold['ratio']:.2f}"
    return "\n".join([*lines, "", line])


def run_peer(arguments: "argparse.Namespace") -> None:
    """Transcribe the listed recordings to text files."""
    paths = [Path(line) for line in arguments.list.read_text().splitlines()]
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.peer == "torch":
        texts = by_torch(bundle_path(arguments.model), paths, arguments.threads[0], arguments.greedy)
    else:
        texts = by_pocketsphinx(paths)
    for path, text in texts:
        (arguments.out / f"{path.stem}.txt").write_text(text + "\n")


def by_torch(bundle: Path, paths: Iterable[Path], threads: int, greedy: bool) -> Iterator[tuple[Path, str]]:
    """asr's pipeline with a torch engine: one batch per thread, as with ONNX Runtime."""
    import torch

    from asr.errors import AsrError
    from asr.features.logmel import LogMel, LogMelConfig
    from asr.frames import FrameGrid
    from asr.inference.decoder import Decoder, LoadOptions
    from asr.inference.engine import Engine
    from asr.inference.transcriber import TranscribeOptions, Transcriber
    from asr.model.bundle import read_config
    from asr.model.export import load_acoustic_model

    torch.set_num_threads(1)
    config = read_config(bundle)

    class TorchEngine(Engine):
        def __init__(self) -> None:
            self.grid = FrameGrid(int(config.log_mel["window"]), int(config.log_mel["hop"]))
            self.vocabulary = config.tokenizer.size
            self._model = load_acoustic_model(bundle)
            self._log_mel = LogMel(LogMelConfig(**config.log_mel))

        def run(self, windows: "Sequence[Window]") -> "list[np.ndarray]":
            lengths = torch.tensor([len(window.samples) for window in windows])
            waveforms = torch.nn.utils.rnn.pad_sequence(
                [torch.from_numpy(window.samples) for window in windows], batch_first=True
            )
            with torch.inference_mode():
                log_probs, _ = self._model(*self._log_mel(waveforms, lengths))
            rows = log_probs.numpy()
            return [row[w.keep_from : w.keep_to] for row, w in zip(rows, windows, strict=True)]

    engine = TorchEngine()
    decoder = Decoder(bundle, config, engine.frame_seconds, LoadOptions(greedy=greedy))
    for path, result in Transcriber(engine, decoder, config, threads).transcribe_files(
        paths, TranscribeOptions(raw=True)
    ):
        if isinstance(result, AsrError):
            raise result
        yield path, result.text


def by_pocketsphinx(paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """PocketSphinx with the model in its wheel and its default settings."""
    import numpy as np

    from asr import audio

    recognise = pocketsphinx()
    for path in paths:
        samples = audio.read(path)
        yield path, recognise(np.round(32_767 * samples.clip(-1, 1)).astype(np.int16))


def pocketsphinx() -> "Callable[[np.ndarray], str]":
    """Recogniser of `int16[samples]` at 16 kHz, in capitals; it adapts to the utterances before."""
    import numpy as np
    from pocketsphinx import Decoder

    decoder = Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")

    def recognise(samples: np.ndarray) -> str:
        decoder.start_utt()
        decoder.process_raw(np.ascontiguousarray(samples).tobytes(), full_utt=True)
        decoder.end_utt()
        hypothesis = decoder.hyp()
        return "" if hypothesis is None else hypothesis.hypstr.upper()

    return recognise


if __name__ == "__main__":
    main()
