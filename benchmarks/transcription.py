"""How fast are recordings turned into text files, how right, and in how much memory?

    python -m benchmarks.transcription [--model BUNDLE] [--manifest MANIFEST] [--deepen 5] [--json]

Each contender is a process of its own that reads audio files and writes text files; the clock runs from its
start to its end, everything included. All are held to the same one core (or two), by the process's affinity.
Speeds are the median of --rounds taken in turn, after a round to warm up.

ours, ours_int8, ours_float16   asr transcribe, with the bundle as it is, and as `asr export` makes it smaller
torch                           the same pipeline and decoder, but torch's features and torch.nn.GRU, with the
                                same weights, batches and threads
pocketsphinx                    PocketSphinx 5, its own US English model, one file after the other, once; it
                                gets only --peer-utterances, spread over the others, as it is slow. `ours_wer`
                                is our word error rate on the same ones

--deepen adds layers that add nothing (GRUs of zeros on a residual path): the same posteriors at the cost of a
larger model. A language model is that of the bundle, if it has one; --greedy leaves it out. Cold start is
the whole command on ten seconds of speech against `python -c "import torch"`, the median of five in turn
after one to warm up. PocketSphinx is left out where it is not installed: pip install 'pocketsphinx>=5,<6'.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.process import run

if TYPE_CHECKING:
    from asr.manifest import Utterance


@dataclass(frozen=True)
class Outcome:
    """Seconds of speech a second, word error rate in %, peak memory in MiB."""

    xrt: float
    wer: float
    rss_mib: float


def main() -> None:
    """Parse, measure, print."""
    arguments = parse()
    if arguments.deepened:  # a process of its own, as it needs torch
        deepen(arguments.model, arguments.deepened, arguments.deepen)
        return
    from asr import manifest
    from asr.model.bundle import read_config
    from asr.model.info import count_parameters

    utterances = spread(manifest.read(arguments.manifest), arguments.utterances)
    result: dict[str, Any] = {"utterances": len(utterances), "seconds": sum(u.duration for u in utterances)}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        model = arguments.model
        if arguments.deepen:
            model = work / "deep"
            subprocess.run([sys.executable, "-m", "benchmarks.transcription", *sys.argv[1:],
                            "--deepened", str(model)], check=True)  # fmt: skip
        result["parameters"] = count_parameters(model, read_config(model))
        for threads in arguments.threads:
            key = "one_thread" if threads == 1 else f"{threads}_threads"
            result[key] = measure(model, utterances, threads, work, arguments)
        result["cold_start"] = cold_start(model, work, utterances, ["--greedy"] if arguments.greedy else [])
    result.update(result.get("one_thread", {}))  # stands at the top as well
    print(json.dumps(result, indent=1) if arguments.json else table(result))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--model", type=Path, default=Path("exp/characters/bundle"), help="with weights for torch"
    )
    parser.add_argument("--manifest", type=Path, default=Path("data/librispeech/dev-excerpt/manifest.jsonl"))
    parser.add_argument("--utterances", type=int, default=124, help="so many, spread over the manifest")
    parser.add_argument("--peer-utterances", type=int, default=40)
    parser.add_argument("--deepen", type=int, default=0, metavar="LAYERS")
    parser.add_argument("--deepened", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--greedy", action="store_true")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="none: only the cold start")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measure(
    model: Path, utterances: "list[Utterance]", threads: int, work: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """All contenders at so many threads; `ratio_*` is by how much ours is faster than that peer."""
    from asr.model.bundle import read_config

    names = listed(utterances, work / "files.txt")
    greedy = ["--greedy"] if arguments.greedy else []
    options = ["--threads", str(threads), *greedy]
    ours = [sys.executable, "-m", "asr.cli", "transcribe", f"@{names}", *options, "--model"]
    peer = [sys.executable, "-m", "benchmarks.transcribers"]
    commands = {"ours": [*ours, str(model)]}
    for kind in ("int8", "float16") if read_config(model).weights == "float32" else ():
        commands[f"ours_{kind}"] = [*ours, str(smaller(model, kind, work))]
    commands["torch"] = [*peer, "torch", str(names), *options, "--model", str(model)]
    runs: dict[str, list[Outcome]] = {name: [] for name in commands}
    for _ in range(arguments.rounds + 1):
        for name, command in commands.items():
            runs[name].append(contend(command, utterances, threads, work / f"{name}-{threads}"))
    outcomes: dict[str, Any] = {name: asdict(median(found[1:])) for name, found in runs.items()}
    outcomes["ratio_torch"] = outcomes["ours"]["xrt"] / outcomes["torch"]["xrt"]
    if find_spec("pocketsphinx"):
        some = spread(utterances, arguments.peer_utterances)
        command = [*peer, "pocketsphinx", str(listed(some, work / "some.txt"))]
        outcomes["pocketsphinx"] = asdict(contend(command, some, threads, work / f"pocketsphinx-{threads}"))
        outcomes["pocketsphinx"]["ours_wer"] = word_errors(some, work / f"ours-{threads}")
        outcomes["ratio_pocketsphinx"] = outcomes["ours"]["xrt"] / outcomes["pocketsphinx"]["xrt"]
    return outcomes


def listed(utterances: "list[Utterance]", path: Path) -> Path:
    """A file with the name of a recording a line."""
    path.write_text("\n".join(str(u.audio_filepath.resolve()) for u in utterances))
    return path


def smaller(model: Path, kind: str, work: Path) -> Path:
    """The bundle with smaller weights."""
    bundle = work / kind
    if not bundle.exists():
        command = ["export", str(model), "--weights", kind, "--out", str(bundle)]
        subprocess.run([sys.executable, "-m", "asr.cli", *command], check=True, stdout=subprocess.DEVNULL)
    return bundle


def contend(command: Sequence[str], utterances: "list[Utterance]", threads: int, out: Path) -> Outcome:
    """Run a command that writes a text file for each utterance below `out`, and score what it wrote."""
    shutil.rmtree(out, ignore_errors=True)
    cores = sorted(os.sched_getaffinity(0))[:threads]
    done = run([*command, "--out", str(out)], cores, OMP_NUM_THREADS=str(threads))
    return Outcome(
        sum(u.duration for u in utterances) / done.seconds, word_errors(utterances, out), done.peak_mib
    )


def word_errors(utterances: "list[Utterance]", out: Path) -> float:
    """Word error rate in % of the texts below `out`."""
    from asr.scoring.wer import score, total

    texts = {path.stem: path.read_text().strip() for path in out.rglob("*.txt")}
    counts = total(score(u.id, u.text, texts[u.audio_filepath.stem]).words for u in utterances)
    return 100 * counts.rate


def median(outcomes: Sequence[Outcome]) -> Outcome:
    """Of speed and memory; the word error rate is the same each time."""
    speed, memory = (statistics.median(getattr(o, key) for o in outcomes) for key in ("xrt", "rss_mib"))
    return replace(outcomes[0], xrt=speed, rss_mib=memory)


def cold_start(
    model: Path, work: Path, utterances: "list[Utterance]", options: Sequence[str]
) -> dict[str, float]:
    """Seconds of the command on ten seconds of speech, and of importing torch."""
    import numpy as np
    import soundfile

    from asr import audio

    speech: list[np.ndarray] = []
    for utterance in utterances:
        speech.append(audio.read(utterance.audio_filepath))
        if sum(map(len, speech)) >= 160_000:
            break
    clip = work / "clip.wav"
    soundfile.write(clip, np.concatenate(speech)[:160_000], 16_000)
    ours = [sys.executable, "-m", "asr.cli", "transcribe", str(clip), "--model", str(model), *options]
    commands = {
        "asr_transcribe": ours,
        "import_torch": [sys.executable, "-c", "import torch"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(6):
        for name, command in commands.items():
            times[name].append(run(command).seconds)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    return {**medians, "ratio": medians["asr_transcribe"] / medians["import_torch"]}


def deepen(bundle: Path, out: Path, layers: int) -> None:
    """Write the bundle's model with `layers` more that add nothing."""
    from asr.features.logmel import LogMelConfig
    from asr.model.acoustic import AcousticModel
    from asr.model.bundle import LEXICON, LM, read_config, write_config
    from asr.model.export import load_acoustic_model, save_bundle

    config = read_config(bundle)
    model = load_acoustic_model(bundle)
    deep = AcousticModel(replace(model.architecture, layers=model.architecture.layers + layers))
    for name, value in deep.state_dict().items():
        value.copy_(model.state_dict().get(name, 0 * value))
    save_bundle(
        out,
        deep,
        LogMelConfig(**config.log_mel),
        characters=config.characters,
        training_data=config.training_data,
    )
    for name in (LM, LEXICON):
        if (bundle / name).exists():
            shutil.copy(bundle / name, out / name)
    write_config(out, replace(read_config(out), decoding=config.decoding))


def spread(items: "list[Utterance]", count: int) -> "list[Utterance]":
    """So many of them, evenly spaced."""
    return [items[i * len(items) // count] for i in range(min(count, len(items)))]


def table(result: dict[str, Any]) -> str:
    """The result as lines of text."""
    size = f"{result['parameters'] / 1e6:.1f} M parameters"
    lines = [f"{result['utterances']} utterances, {result['seconds']:.0f} s; {size}"]
    for key, outcomes in result.items():
        if not key.endswith(("_thread", "_threads")):
            continue
        lines.append(f"\n{key.replace('_', ' '):18} x real time  WER, %   peak MiB  ours is faster by")
        for name, outcome in outcomes.items():
            if isinstance(outcome, dict):
                ratio = outcomes.get(f"ratio_{name}")
                shown = f"{ratio:8.1f}" if ratio else ""
                figures = f"{outcome['xrt']:11.1f} {outcome['wer']:7.2f} {outcome['rss_mib']:10.0f}"
                lines.append(f"  {name:16} {figures} {shown}")
    cold = result["cold_start"]
    lines.append(
        f"\ncold start, 10 s of speech: {cold['asr_transcribe']:.2f} s; import torch: "
        f"{cold['import_torch']:.2f} s; ratio {cold['ratio']:.2f}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
