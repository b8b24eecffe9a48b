"""The `asr transcribe` command."""

import argparse
import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from asr.cli_decoding import MODEL, add_decoding, decoding_of, model_folder, positive, transcribing_of
from asr.console import open_output, print_error
from asr.errors import AsrError, UsageError

if TYPE_CHECKING:
    from asr.audio import Channel
    from asr.inference.inputs import Recording
    from asr.inference.transcript import Transcript

FORMATS = ("txt", "srt", "vtt", "json", "tsv")


def add_transcribe(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `asr transcribe` to the parser of `asr`."""
    command = commands.add_parser("transcribe", help="recordings to text")
    command.set_defaults(command=transcribe)
    command.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="a recording (wav, flac, ogg, opus, mp3, aiff, au; mp4, m4a, webm, mkv with the extra media), "
        "a folder of them, a pattern, @LIST for the names in a file, - for the standard input",
    )
    command.add_argument("--model", type=model_folder, default="box", help=MODEL)
    output = command.add_argument_group("output", "printed, unless --format or --out is given")
    output.add_argument("--json", action="store_true", help="print one JSON object a recording")
    output.add_argument(
        "--format",
        action="append",
        choices=[*FORMATS, "all"],
        help="write files of this kind (txt); may be repeated",
    )
    output.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="write files here, in a tree as the inputs', not beside them",
    )
    output.add_argument(
        "--skip-existing", action="store_true", help="leave out recordings whose files are there"
    )
    output.add_argument(
        "--n-best", type=positive, default=1, metavar="N", help="in JSON, list so many hypotheses"
    )
    command.add_argument(
        "--channel", type=_channel, default="mix", help="mix (the default), a number from 0, or split"
    )
    add_decoding(command)


def transcribe(options: argparse.Namespace) -> int:
    """`asr transcribe INPUT... --model BUNDLE`."""
    from asr.inference.inputs import find_recordings, output_paths

    recordings, errors = find_recordings(options.inputs)
    failures = _Failures()
    for error in errors:
        failures.add(str(error))
    formats = _formats(options)
    if options.n_best > 1 and (options.greedy or not (options.json or "json" in formats)):
        raise UsageError("--n-best lists hypotheses of a beam search in JSON; give --json, and no --greedy")
    outputs = output_paths(recordings, formats, options.out) if formats else {}
    if options.skip_existing:
        if not formats:
            raise UsageError("--skip-existing takes files that may exist; give --format or --out as well")
        recordings = [r for r in recordings if not all(map(os.path.exists, outputs[r.path].values()))]
    if not recordings:
        return failures.status
    from asr.inference.transcriber import load_model

    model = load_model(options.model, options.threads, decoding_of(options))
    _trim_memory()
    with _progress(recordings) as (on_audio, say):
        write = _to_files(outputs) if formats else _to_terminal(options.json, len(recordings) > 1, say)
        results = model.transcribe_files(
            (recording.path for recording in recordings),
            transcribing_of(options),
            on_audio,
        )
        for path, transcript in results:
            if isinstance(transcript, AsrError):
                failures.add(str(transcript))
            else:
                write(path, transcript, failures)
    return failures.status


def _trim_memory() -> None:
    """Return free heap pages to the system: after a vocabulary of 200,000 words glibc keeps tens of MiB."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


class _Failures:
    """Says at once what failed, and remembers that something has."""

    def __init__(self) -> None:
        self.status = 0

    def add(self, message: str) -> None:
        print_error(message)
        self.status = 1


_Write = Callable[[Path, "Transcript", _Failures], None]


def _to_terminal(as_json: bool, named: bool, say: Callable[[str], None]) -> _Write:
    from asr.inference import writers

    if as_json:
        open_output("utf-8")

    def write(path: Path, transcript: "Transcript", _: _Failures) -> None:
        say(writers.json_line(path, transcript) if as_json else writers.text_line(path, transcript, named))

    return write


def _to_files(outputs: "dict[Path, dict[str, Path]]") -> _Write:
    from asr.files import atomic_write
    from asr.inference.writers import FORMATS as WRITERS

    def write(path: Path, transcript: "Transcript", failures: _Failures) -> None:
        for kind, target in outputs[path].items():
            try:
                with atomic_write(target) as file:
                    file.write(WRITERS[kind](transcript, path))
            except OSError as error:
                failures.add(f"{target}: cannot be written ({(error.strerror or str(error)).lower()})")

    return write


def _formats(options: argparse.Namespace) -> tuple[str, ...]:
    """Kinds of files to write; none where the terminal is meant."""
    asked = options.format or (["txt"] if options.out else [])
    if asked and options.json:
        raise UsageError("--json prints; give --format json to write files")
    return FORMATS if "all" in asked else tuple(kind for kind in FORMATS if kind in asked)


def _channel(text: str) -> "Channel":
    if text in ("mix", "split"):
        return text  # type: ignore[return-value]
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not mix, split, or a number from 0")
    return int(text)


_Progress = tuple[Callable[[float], None] | None, Callable[[str], None]]


@contextmanager
def _progress(recordings: "Sequence[Recording]") -> Iterator[_Progress]:
    """What to call with seconds of audio that are done, and with lines to print.

    Where standard error is a terminal, it shows a bar with the minutes of audio done, and the speed.
    """
    if not sys.stderr.isatty():
        yield None, partial(print, flush=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        TextColumn("{task.fields[done]} min, {task.fields[speed]} x real time"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=_seconds(recordings), done="0", speed="-")

        def on_audio(seconds: float) -> None:
            bar.advance(task, seconds)
            state = bar.tasks[0]
            done = f"{state.completed / 60:.1f}" + (f" of {state.total / 60:.1f}" if state.total else "")
            bar.update(task, done=done, speed=f"{state.completed / max(state.elapsed or 0, 1e-3):.0f}")

        # On the same terminal texts stay above the bar; in a file or a pipe they do not meet it.
        above = partial(bar.console.print, soft_wrap=True, markup=False, highlight=False, emoji=False)
        yield on_audio, above if sys.stdout.isatty() else partial(print, flush=True)


def _seconds(recordings: "Sequence[Recording]") -> float | None:
    """Length of a single file; of several none is opened before its turn, so the total is unknown."""
    from asr import audio

    # A pipe can be read only once; Path.is_file() fails on names that are too long.
    if len(recordings) != 1 or not os.path.isfile(recordings[0].path):  # noqa: PTH113
        return None
    try:
        return audio.stated_duration(recordings[0].path)
    except AsrError:
        return None
