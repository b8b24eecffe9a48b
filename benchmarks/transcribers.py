"""The peers of benchmarks.transcription, each run as a process that turns audio files into text files.

python -m benchmarks.transcribers torch|pocketsphinx LIST_OF_FILES --out FOLDER [--model BUNDLE] ...
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from asr.inference.engine import Window


def main() -> None:
    """Parse and transcribe."""
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=["torch", "pocketsphinx"])
    parser.add_argument("files", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--greedy", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    paths = [Path(line) for line in arguments.files.read_text().splitlines()]
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.peer == "torch":
        texts = by_torch(arguments.model, paths, arguments.threads, arguments.greedy)
    else:
        texts = by_pocketsphinx(paths)
    for path, text in texts:
        (arguments.out / f"{path.stem}.txt").write_text(text + "\n")


def by_torch(
    bundle: Path, paths: Iterable[Path], threads: int, is_greedy: bool
) -> Iterator[tuple[Path, str]]:
    """Our pipeline with torch for features and model; a thread a batch, as with ONNX Runtime."""
    import torch

    from asr.errors import AsrError
    from asr.features.logmel import LogMel, LogMelConfig
    from asr.frames import FrameGrid
    from asr.inference.decoder import Decoder, LoadOptions
    from asr.inference.engine import Engine
    from asr.inference.transcriber import Transcriber
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
    decoder = Decoder(bundle, config, engine.frame_seconds, LoadOptions(greedy=is_greedy))
    for path, result in Transcriber(engine, decoder, config, threads).transcribe_files(paths):
        if isinstance(result, AsrError):
            raise result
        yield path, result.text


def by_pocketsphinx(paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """PocketSphinx with the model that its wheel carries, and its settings."""
    import soundfile

    recognise = pocketsphinx()
    for path in paths:
        samples, _ = soundfile.read(path, dtype="int16")
        yield path, recognise(samples)


def pocketsphinx() -> "Callable[[np.ndarray], str]":
    """What turns `int16[samples]` at 16 kHz into capitals; it adapts to what it has heard before."""
    import numpy as np
    from pocketsphinx import Decoder

    decoder = Decoder(samprate=16_000, loglevel="FATAL")

    def recognise(samples: np.ndarray) -> str:
        decoder.start_utt()
        decoder.process_raw(np.ascontiguousarray(samples).tobytes(), full_utt=True)
        decoder.end_utt()
        hypothesis = decoder.hyp()
        return "" if hypothesis is None else hypothesis.hypstr.upper()

    return recognise


if __name__ == "__main__":
    main()
