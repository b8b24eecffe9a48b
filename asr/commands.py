"""The commands of `asr`: one function each, from typed options to an exit code.

What a command needs is imported inside it, so that each starts as fast as it can.
"""

import ctypes
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from asr.console import check_output, open_output, option, print_error, progress
from asr.errors import AsrError, TextError, UsageError, require_train

if TYPE_CHECKING:
    from asr.inference.decoder import LoadOptions
    from asr.inference.inputs import Recording
    from asr.inference.live import LiveOptions
    from asr.inference.transcriber import TranscribeOptions, Transcriber
    from asr.inference.transcript import Transcript
    from asr.lm.estimate import LmOptions
    from asr.lm.ngram import NgramLM
    from asr.prepare import Problem
    from asr.scoring.bootstrap import Comparison
    from asr.scoring.conditions import Condition
    from asr.scoring.evaluate import EvaluateOptions
    from asr.scoring.live import LiveReport
    from asr.scoring.tune import TuneOptions
    from asr.serve.options import ServeOptions

BUNDLE = "model bundle, as written by asr train; box is the English model that ships"
MANIFESTS = "manifest.jsonl, or its folder"
THREADS = "CPU cores to use, by default all"


def _load(
    bundle: str | Path, threads: int | None, load: "LoadOptions", hotwords: tuple[str, ...] = ()
) -> "Transcriber":
    from asr.inference.transcriber import load_model

    if load.greedy and (load.lm or load.lexicon or hotwords or "beam" in load.settings):
        raise UsageError("--greedy takes no --lm, --lexicon, --hotword or --beam; leave one of them out")
    return load_model(bundle, threads, load)


def _fit_hotwords(options: "TranscribeOptions", model: "Transcriber") -> "TranscribeOptions":
    """Leave out hotwords that cannot be spelt, with a line for each: once, not for each recording."""
    from asr.decoding.hotwords import Hotword

    hotwords, faults = model.decoder.fit_hotwords(map(Hotword, options.hotwords))
    for fault in faults:
        print_error(fault)
    return replace(options, hotwords=tuple(hotword.phrase for hotword in hotwords))


def _print(text: str, json: bool = False) -> None:
    if json:
        open_output("utf-8")
    print(text, flush=True)


def _manifests(paths: tuple[Path, ...]) -> list[Path]:
    """Resolve folders to their manifest.jsonl."""
    return [path / "manifest.jsonl" if path.is_dir() else path for path in paths]


@dataclass(frozen=True, kw_only=True)
class Transcribe:
    inputs: tuple[str, ...] = option(
        "a recording (wav, flac, mp3, m4a, ogg, opus, webm, mp4, mkv and others), "
        "a folder, a pattern, @LIST for the names in a file, or - for standard input",
        positional=True,
        metavar="INPUT",
    )
    model: str = option(BUNDLE, "box", metavar="BUNDLE")
    json: bool = option("print one JSON object per recording", False)
    formats: tuple[Literal["txt", "srt", "vtt", "json", "tsv", "all"], ...] = option(
        "write files of this format instead of printing; may be repeated", (), flag="--format", repeat=True
    )
    out: Path | None = option(
        "write files (txt by default) below this folder, not beside the inputs", None, metavar="FOLDER"
    )
    skip_existing: bool = option("skip recordings whose files exist", False)
    language: str | None = option("en; a model has one language", None, metavar="LANGUAGE")
    quiet: bool = option("print only errors and what is missing of a recording to standard error", False)
    threads: int | None = option(THREADS, None, least=1)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"en([-_]\w+)*|english", self.language or "en", re.IGNORECASE):
            raise UsageError(
                f"--language {self.language}: box is a model of English; leave it out for others"
            )


def transcribe(args: Transcribe, options: "TranscribeOptions", load: "LoadOptions") -> int:
    """Transcribe recordings to text, subtitles or JSON."""
    from asr.inference.inputs import find_recordings, output_paths
    from asr.inference.writers import json_line, text_line

    formats = _formats(args)
    if options.n_best > 1 and (load.greedy or not (args.json or "json" in formats)):
        raise UsageError("--n-best lists hypotheses of a beam search in JSON; give --json, and no --greedy")
    recordings, errors = find_recordings(args.inputs)
    failures = list(map(str, errors))
    for failure in failures:
        print_error(failure)
    outputs = output_paths(recordings, formats, args.out) if formats else {}
    if args.skip_existing:
        recordings = [r for r in recordings if not all(map(os.path.exists, outputs[r.path].values()))]
    if not recordings:
        return 1 if failures else 0
    model = _load(args.model, args.threads, load, options.hotwords)
    options = _fit_hotwords(options, model)
    _trim_memory()
    named = len(recordings) > 1
    with progress(seconds=_seconds(recordings), count=len(recordings), show=not args.quiet) as update:
        paths = (recording.path for recording in recordings)
        for path, result in model.transcribe_files(paths, options, lambda seconds: update(seconds=seconds)):
            found: list[str] = []
            if isinstance(result, AsrError):
                found = [str(result)]
            elif formats:
                found = list(_write(outputs[path], path, result))
            else:
                line = json_line(path, result) if args.json else text_line(path, result, named)
                _print(line, args.json)
            for line in (*found, *_doubts(path, result, args.quiet)):
                print_error(line)
            failures += found
            update(count=1)
    return 1 if failures else 0


def _doubts(path: Path, result: "Transcript | AsrError", quiet: bool) -> Iterator[str]:
    """List what is missing of a transcribed recording, and its warnings unless `quiet`."""
    if not isinstance(result, AsrError):
        if result.incomplete:
            yield f"{path}: incomplete: {result.incomplete}"
        if not quiet:
            yield from (f"{path}: {warning}" for warning in result.warnings)


def _formats(args: Transcribe) -> tuple[str, ...]:
    """Formats of the files to write; none to print."""
    from asr.inference.writers import FORMATS

    asked = args.formats or (("txt",) if args.out else ())
    if asked and args.json:
        raise UsageError("--json prints; give --format json to write files")
    if args.skip_existing and not asked:
        raise UsageError("--skip-existing skips files; give --format or --out as well")
    return tuple(kind for kind in FORMATS if kind in asked or "all" in asked)


def _write(targets: dict[str, Path], path: Path, transcript: "Transcript") -> Iterator[str]:
    """Write a transcript in each format; yield what fails."""
    from asr.files import atomic_write
    from asr.inference.writers import FORMATS

    for kind, target in targets.items():
        try:
            with atomic_write(target) as file:
                file.write(FORMATS[kind](transcript, path))
        except OSError as error:
            yield f"{target}: cannot be written ({(error.strerror or str(error)).lower()})"


def _seconds(recordings: "list[Recording]") -> float | None:
    """Length of a single file; several are not opened before their turn."""
    from asr import audio

    # A pipe can be read only once; Path.is_file() fails where a name is too long.
    if len(recordings) > 1 or not os.path.isfile(recordings[0].path):  # noqa: PTH113
        return None
    try:
        return audio.stated_duration(recordings[0].path)
    except AsrError:
        return None


def _trim_memory() -> None:
    """Return free heap pages to the system: after a vocabulary of 200,000 words glibc keeps tens of MiB."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def serve(args: "ServeOptions", load: "LoadOptions") -> int:
    """Serve OpenAI's audio API to programs on this machine, or on others."""
    try:
        from asr.serve import server
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("asr"):
            raise
        raise AsrError(f"{error.name} is not installed; asr serve needs pip install 'asr[serve]'") from None
    key = server.read_key(args)
    model = _load(args.model, args.threads, load)
    _trim_memory()
    return server.serve(model, args, key)


@dataclass(frozen=True, kw_only=True)
class Listen:
    input: str | None = option(
        "- for 16-bit mono PCM or WAV on standard input, or a recording to play; by default the microphone",
        None,
        positional=True,
        metavar="INPUT",
    )
    model: str = option(BUNDLE, "box", metavar="BUNDLE")
    rate: int = option("sampling rate in Hz of PCM without a WAV header", 16_000, least=1_000, most=1_000_000)
    device: str | None = option("name or number of the microphone", None)
    srt: Path | None = option("write subtitles to this file as they come", None)


def listen(args: Listen, live: "LiveOptions", options: "TranscribeOptions", load: "LoadOptions") -> int:
    """Show live captions of a microphone, a pipe or a recording. Ctrl-C ends them."""
    from asr.inference import captions, sources
    from asr.inference.live import LiveSession

    if args.input is not None and args.device is not None:
        raise UsageError(f"--device names a microphone; leave it or {args.input} out")
    if args.srt:
        check_output(args.srt)
    model = _load(args.model, 1, load, options.hotwords)
    session = LiveSession(model, live, _fit_hotwords(options, model))
    if args.input == "-":
        captions.listen_in_terminal(session, sources.read_pcm(sys.stdin.buffer, args.rate), args.srt)
    elif args.input is not None:
        captions.listen_in_terminal(session, sources.play(Path(args.input)), args.srt)
    else:
        microphone = sources.Microphone(args.device)  # after the model is loaded, which takes a while
        captions.listen_in_terminal(session, microphone, args.srt, lambda: microphone.dropped)
        if microphone.dropped:
            print_error(f"microphone: {microphone.dropped:.1f} s of audio were lost; the machine is too slow")
    return 0


@dataclass(frozen=True, kw_only=True)
class Format:
    numbers: bool = option("write numbers in digits", False)


def format(args: Format) -> int:
    """Add punctuation and capitals to plain text from standard input, line by line."""
    from asr.formatting import numbers
    from asr.formatting.readable import format_text

    if args.numbers:
        numbers.require()
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            _print(format_text(line.decode("utf-8-sig"), args.numbers))
        except UnicodeDecodeError:
            raise TextError(f"line {number}: not UTF-8; convert the text first") from None
    return 0


@dataclass(frozen=True, kw_only=True)
class Align:
    audio: Path = option("a recording", positional=True)
    text: str = option("its text, or a file that contains it", positional=True)
    model: str = option(BUNDLE, "box", metavar="BUNDLE")
    lexicon: Path | None = option("spellings of words, for phone models", None)
    json: bool = option("print one JSON object", False)
    threads: int | None = option(THREADS, None, least=1)


def align(args: Align) -> int:
    """Find when each word of a known text is spoken."""
    from asr.inference import writers
    from asr.inference.decoder import LoadOptions
    from asr.inference.transcriber import load_model

    text = _text(args.text)
    model = load_model(args.model, args.threads, LoadOptions(greedy=True, lexicon=args.lexicon))
    transcript = model.align(args.audio, text)
    show = partial(writers.json_line, args.audio) if args.json else writers.word_table
    _print(show(transcript), args.json)
    return 0


def _text(argument: str) -> str:
    """Read a text from the file of that name, if there is one; else it is the text itself."""
    path = Path(argument)
    if os.path.isfile(argument):  # noqa: PTH113 (Path.is_file() fails if a text is too long for a name)
        try:
            return path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise TextError(f"{argument}: not UTF-8 (byte {error.start})") from None
    if len(argument.split()) == 1 and (path.suffix or path.name != argument):
        raise TextError(f"{argument}: no such file; give a text, or a file that holds it")
    return argument


def warm_up() -> int:
    """Compile the inner loops now instead of at their first use."""
    from asr.warm_up import compile_all

    print(f"compiled code is in {compile_all()}")
    return 0


@dataclass(frozen=True, kw_only=True)
class Info:
    bundle: str = option(BUNDLE, "box", positional=True)
    json: bool = option("print one JSON object", False)


def info(args: Info) -> int:
    """Show what a model bundle contains, and verify its files."""
    from asr.model.bundle import resolve_bundle
    from asr.model.info import read_info

    found = read_info(resolve_bundle(args.bundle))
    _print(found.to_json() if args.json else found.to_text(), args.json)
    return 0


@dataclass(frozen=True, kw_only=True)
class Export:
    bundle: Path = option("model bundle, as written by asr train", positional=True)
    out: Path | None = option("the new bundle, by default BUNDLE-int8", None, metavar="FOLDER")
    with_torch: bool = option("include the weights to train on with", False)
    manifests: tuple[Path, ...] = option(
        "measure the WER of both bundles on these", (), flag="--manifest", metavar="MANIFEST"
    )
    threads: int | None = option(THREADS, None, least=1)


def export(args: Export) -> int:
    """Write a smaller model, with int8 weights."""
    try:
        from asr.model.compress import compress_bundle
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise AsrError("onnx is not installed; asr export needs pip install onnx") from None
    if args.with_torch and find_spec("safetensors") is None:
        raise AsrError("safetensors is not installed; --with-torch needs pip install safetensors")
    from rich.filesize import decimal

    from asr.model.bundle import ONNX

    out = args.out or args.bundle.with_name(f"{args.bundle.resolve().name}-int8")
    problems: dict[str, None] = {}  # once, if both bundles have it
    measure = partial(_measure, args, problems) if args.manifests else None
    compress_bundle(args.bundle, out, measure, with_torch=args.with_torch)
    before, after = ((folder / ONNX).stat().st_size for folder in (args.bundle, out))
    print(f"{out}: model.onnx has {decimal(after)}, {100 * after / before:.0f} % of {decimal(before)}")
    if not args.manifests:
        print("WER was not measured; name a development set with --manifest")
    for problem in problems:
        print_error(problem)
    return 1 if problems else 0


def _measure(args: Export, problems: dict[str, None], compressed: Path) -> dict[str, float]:
    """Print and return the WER of a bundle and of its compressed copy."""
    from asr.inference.transcriber import load_model
    from asr.scoring.bootstrap import compare
    from asr.scoring.evaluate import evaluate

    manifests = _manifests(args.manifests)
    name, scores, rates = _names(manifests), [], {}
    for weights, folder in (("float32", args.bundle), ("int8", compressed)):
        report = evaluate(load_model(folder, args.threads), manifests, progress=True)
        words = report.words
        if not words.length:
            raise AsrError(f"{name}: no word to score; name another manifest")
        print(f"WER with {weights} weights: {100 * words.rate:.2f} % ({words.errors} of {words.length})")
        problems |= dict.fromkeys(f"{p.id}: {p.reason}" for p in report.problems)
        scores.append(report.scores)
        rates[f"{name}, {weights} weights"] = round(words.rate, 6)
    print("difference: " + _difference(compare(scores[0], scores[1])))
    return rates


def _names(manifests: list[Path]) -> str:
    """Name manifests by their files, or by their folders if the file has the usual name."""
    usual = "manifest.jsonl"
    return " + ".join(path.resolve().parent.name if path.name == usual else path.stem for path in manifests)


def prepare(prepare_corpus: "Callable[[Any], list[Problem]]", options: Any) -> int:
    """Run the `prepare` function of a module of data_prep; problems with copies alone are no failure."""
    from asr.prepare import PrepareOptions

    if isinstance(options, PrepareOptions):  # of recordings, so that features are extracted
        require_train()
    return 0 if all(problem.speed != 1.0 for problem in prepare_corpus(options)) else 1


def train(arguments: list[str]) -> int:
    """Train a model by a recipe.

    `asr train RECIPE.yaml [--resume | --resume=auto] [--trainer.max_epochs=3 ...]`
    """
    resume = None if "--resume=auto" in arguments else "--resume" in arguments
    arguments = [argument for argument in arguments if argument not in ("--resume", "--resume=auto")]
    if arguments and not arguments[0].startswith("-"):
        if not Path(arguments[0]).is_file():
            raise AsrError(f"{arguments[0]}: no such recipe; see the folder recipes/")
        arguments.insert(0, "--config")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; there is a process per core
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    require_train()
    from asr.training import run

    for library in ("pytorch_lightning", "lightning_fabric"):  # hints that require no action
        logging.getLogger(library).setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", module=library)
    bundle = run.train(arguments, resume, use_all_cores=True)
    if bundle is not None:
        print(f"model bundle: {bundle}")
    return 0


@dataclass(frozen=True, kw_only=True)
class Tune:
    model: Path = option(
        "model bundle; the language model and the weights found are written to it", positional=True
    )
    manifests: tuple[Path, ...] = option(MANIFESTS + "; not the test set", positional=True)


def tune(args: Tune, options: "TuneOptions", load: "LoadOptions") -> int:
    """Fit decoding weights and confidences to a development set."""
    from asr.scoring import report
    from asr.scoring.tune import tune_bundle

    tuned = tune_bundle(args.model, _manifests(args.manifests), load, options)
    for lm_weight, word_bonus, errors in tuned.tuning.trials:
        print(f"language model weight {lm_weight:.2f}, word bonus {word_bonus:.2f}: {errors} word errors")
    for problem in tuned.problems:
        print_error(f"{problem.id}: {problem.reason}")
    words = tuned.tuning.words
    print(f"WER {100 * tuned.tuning.errors / words:.2f} % on {words} words; written to {args.model}")
    if tuned.held_out_errors is not None:
        rate = 100 * tuned.held_out_errors / words
        print(f"WER {rate:.2f} % when each half of the speakers has the weights tuned on the other half")
    for name, fit in (("beam search", tuned.fit), ("greedy", tuned.greedy_fit)):
        if fit is not None:
            print(f"{name}: temperature {fit.temperature:.3f}; cross-validated over speakers:")
            print("  " + report.quality_line(fit.calibrated))
    return 1 if tuned.problems else 0


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    model: str = option("model bundle, or box for the one that ships", positional=True)
    manifests: tuple[Path, ...] = option(MANIFESTS, positional=True)
    json: bool = option("print one JSON object", False)
    details: Path | None = option(
        "write one JSON object per utterance to this file, and for each condition beside it", None
    )
    plot: Path | None = option("plot the word error rates against conditions", None, metavar="FILE.png")
    live: bool = option("measure live recognition: errors, latency, changes of what is shown", False)
    real_time: bool = option("with --live: wait for the audio instead of simulating the time", False)
    formatted: bool = option("score punctuation and capitals instead, against texts that have them", False)
    threads: int | None = option(THREADS, None, least=1)


def evaluate(
    args: Evaluate,
    asked: "EvaluateOptions",
    live: "LiveOptions",
    options: "TranscribeOptions",
    load: "LoadOptions",
) -> int:
    """Measure word error rates, also under noise or at another tempo or level."""
    from asr.model.bundle import resolve_bundle
    from asr.scoring import conditions, report, wer
    from asr.scoring.evaluate import normalized, read_all, reference_doubt

    if args.formatted:
        return _evaluate_formatted(args, asked, options, load)
    if args.plot and not asked.altered:
        raise UsageError("--plot draws word error rates against conditions; give one, such as --snr")
    if args.live and (asked.altered or args.plot):
        raise UsageError("--live takes no --snr, --tempo, --level, --silence or --plot; leave them out")
    utterances = read_all(_manifests(args.manifests))
    noise = conditions.noise_for(asked, utterances)  # reports what is missing before the work, not after it
    if args.plot:
        report.check_plot()
        check_output(args.plot)
    model = _load(args.model, args.threads, load, options.hotwords)
    options = _fit_hotwords(options, model)
    characters = model.decoder.characters
    references = normalized(utterances, characters) if asked.normalize else utterances
    if doubt := reference_doubt(references, characters):
        print_error(doubt)
    if args.live:
        from asr.scoring.live import evaluate_live

        return _print_live(args, evaluate_live(model, references, live, options, args.real_time, True))
    result = conditions.evaluate_conditions(model, utterances, asked, noise, True, options)
    plain = None if asked.altered else result.reports[conditions.CLEAN]
    try:
        if args.details:
            for condition, found in result.reports.items():
                wer.write_details(_details(args.details, condition), found.scores)
        if args.plot:
            report.plot({resolve_bundle(args.model).name: result}, args.plot)
    finally:  # the report is worth more than its files
        if args.json:
            _print((plain or result).to_json(), json=True)
        elif plain:
            report.print_report(plain)
        else:
            report.print_robustness(result)
    return 1 if any(found.problems for found in result.reports.values()) else 0


def _print_live(args: Evaluate, report: "LiveReport") -> int:
    from asr.scoring import wer

    if args.details:
        wer.write_details(args.details, report.committed)
        wer.write_details(args.details.with_suffix(f".finals{args.details.suffix}"), report.final)
    _print(report.to_json() if args.json else report.to_text(), args.json)
    return 1 if report.problems else 0


def _evaluate_formatted(
    args: Evaluate, asked: "EvaluateOptions", options: "TranscribeOptions", load: "LoadOptions"
) -> int:
    from asr.scoring.formatted import evaluate_formatted

    if asked.altered or args.plot or args.details or args.live:
        raise UsageError("--formatted takes no conditions, --plot, --details or --live; leave them out")
    model = _load(args.model, args.threads, load, options.hotwords)
    options = _fit_hotwords(options, model)
    report = evaluate_formatted(model, _manifests(args.manifests), options, progress=True)
    _print(report.to_json() if args.json else report.to_text(), args.json)
    return 1 if report.problems else 0


def _details(path: Path, condition: "Condition") -> Path:
    """Name the file of a condition: d.jsonl, d.snr-20.jsonl, d.tempo-0.8.jsonl."""
    changed = condition.changed
    return path.with_name(f"{path.stem}.{changed[0]}-{changed[1]:g}{path.suffix}") if changed else path


@dataclass(frozen=True, kw_only=True)
class Compare:
    a: Path = option("details that asr evaluate --details wrote for one model", positional=True)
    b: Path = option("details of another model on the same utterances", positional=True)


def compare(args: Compare) -> int:
    """Test whether one of two evaluated models is better."""
    from asr.scoring import bootstrap, wer

    result = bootstrap.compare(wer.read_details(args.a), wer.read_details(args.b))
    better = f"B is better in {100 * result.improvement:.1f} % of the bootstrap replicates"
    print(f"WER of B minus WER of A: {_difference(result)}; {better}")
    return 0


def _difference(found: "Comparison") -> str:
    low, high = 100 * found.low, 100 * found.high
    return f"{100 * found.difference:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}"


TEXTS = "one sentence a line; plain, gzip, xz or bzip2; - for standard input"
LM = "language model, as written by asr lm"


@dataclass(frozen=True, kw_only=True)
class LmTrain:
    texts: tuple[Path, ...] = option(TEXTS, positional=True, metavar="TEXT")
    out: Path = option("the language model to write")
    arpa: Path | None = option("also write an ARPA file; .gz and .xz are compressed", None)


def lm_train(args: LmTrain, options: "LmOptions") -> int:
    """Estimate an n-gram language model from text."""
    from asr.lm import estimate
    from asr.lm.arpa import write_arpa

    if args.arpa == args.out:
        raise AsrError(f"{args.out}: --out and --arpa name the same file")
    for path in filter(None, (args.out, args.arpa)):
        check_output(path)
    with progress() as update:
        trained = estimate.train(args.texts, options, update)
        update("writing")
        trained.lm.save(args.out)
        if args.arpa:
            write_arpa(trained.lm, args.arpa)
    print(_sizes(trained.lm))
    rows = zip(trained.counted, trained.lm.counts, trained.discounts, strict=True)
    for n, (counted, kept, discounts) in enumerate(rows, 1):
        steps = ", ".join(f"{value:.4f}" for value in discounts)
        if discounts == estimate.FALLBACK:
            steps += " (the usual ones: the text is too small or too regular)"
        print(f"  {n}-grams: {kept} of {counted}, discounts {steps}")
    return 0


def _sizes(lm: "NgramLM") -> str:
    sizes = (f"{count} {n}-grams" for n, count in enumerate(lm.counts[1:], 2))
    return ", ".join((f"{len(lm.vocabulary)} words", *sizes))


@dataclass(frozen=True, kw_only=True)
class LmImport:
    arpa: Path = option("ARPA file; plain, gzip, xz or bzip2; - for standard input", positional=True)
    out: Path = option("the language model to write")


def lm_import(args: LmImport) -> int:
    """Convert an ARPA file to a language model."""
    from asr.lm.arpa import read_arpa

    check_output(args.out)
    with progress("reading"):
        lm = read_arpa(args.arpa)
        lm.save(args.out)
    print(_sizes(lm))
    return 0


@dataclass(frozen=True, kw_only=True)
class LmExport:
    lm: Path = option(LM, positional=True)
    out: Path = option("the file to write; .gz and .xz are compressed")


def lm_export(args: LmExport) -> int:
    """Convert a language model to an ARPA file."""
    from asr.lm import packed
    from asr.lm.arpa import write_arpa

    with progress("writing"):
        write_arpa(packed.load(args.lm), args.out)
    return 0


@dataclass(frozen=True, kw_only=True)
class LmPack:
    lm: Path = option(LM, positional=True)
    out: Path = option("the language model to write")
    entropy: float = option("entropy pruning threshold, such as 1e-8", 0.0)


def lm_pack(args: LmPack) -> int:
    """Prune a language model, and round its weights to 8 bits."""
    from rich.filesize import decimal

    from asr.lm import packed
    from asr.lm.estimate import prune

    check_output(args.out)
    lm = packed.load(args.lm)
    with progress("packing") as update:
        if args.entropy:
            update("pruning")
            lm = prune(lm, args.entropy)
        packed.save(lm, args.out)
    before, after = (path.stat().st_size for path in (args.lm, args.out))
    print(f"{_sizes(lm)}: {decimal(after)} instead of {decimal(before)}")
    return 0


@dataclass(frozen=True, kw_only=True)
class LmScore:
    lm: Path = option(LM, positional=True)
    texts: tuple[Path, ...] = option(TEXTS, metavar="TEXT", positional=True)
    json: bool = option("print one JSON object", False)


def lm_score(args: LmScore) -> int:
    """Measure the perplexity of text under a language model."""
    from asr.lm import packed
    from asr.lm.perplexity import perplexity

    result = perplexity(packed.load(args.lm), args.texts)
    if args.json:
        _print(result.to_json(), json=True)
        return 0
    rate = f" ({100 * result.unknown_rate:.2f} %)" if result.words else ""
    print(f"{result.sentences} sentences, {result.words} words, {result.unknown} of them unknown{rate}")
    print(f"perplexity with unknown words    {result.perplexity:.2f}")
    print(f"perplexity without unknown words {result.known_perplexity:.2f}")
    if result.unknown == result.words > 0:
        print("the model knows none of these words; do they differ in case?")
    return 0
