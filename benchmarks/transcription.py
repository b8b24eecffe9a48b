"""How fast are recordings turned into text files, how right, and in how much memory?

    python -m benchmarks.transcription --model BUNDLE --manifest MANIFEST [--deepen 5] [--json]

Each contender is a process of its own that reads audio files and writes text files; the clock runs from its
start to its end, everything included. All are held to the same one core (or two), by the process's affinity.

ours, ours_int8, ours_float16   asr transcribe, with the bundle as it is, and as `asr export` makes it smaller
torch                           the same pipeline and decoder, but torch's features and torch.nn.GRU, with the
                                same weights, batches and threads
pocketsphinx                    PocketSphinx 5, its own US English model, one file after the other; it gets
                                only --peer-utterances, spread over the manifest, as it is slow

--deepen adds layers that add nothing (GRUs of zeros on a residual path): the same posteriors at the cost of a
larger model. A language model is that of the bundle, if it has one. Cold start is the whole command on ten
seconds of speech against `python -c "import torch"`, the median of five in turn after one to warm up.
A peer that is not installed is left out: pip install torch, pip install 'pocketsphinx>=5,<6'.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from asr import manifest

    utterances = manifest.read(arguments.manifest)
    if arguments.utterances:
        utterances = spread(utterances, arguments.utterances)
    result: dict[str, Any] = {"utterances": len(utterances), "seconds": sum(u.duration for u in utterances)}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        model = arguments.model
        if arguments.deepen:
            model = deepen(model, work / "deep", arguments.deepen)
        result["parameters"] = parameters(model)
        for threads in arguments.threads:
            outcomes = measure(model, utterances, threads, work, arguments.peer_utterances)
            result["one_thread" if threads == 1 else f"{threads}_threads"] = outcomes
        result["cold_start"] = cold_start(model, work, utterances)
    first = result["one_thread" if 1 in arguments.threads else f"{arguments.threads[0]}_threads"]
    result.update(first)  # the keys of one thread stand at the top as well
    print(json.dumps(result, indent=1) if arguments.json else table(result))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a model bundle, with weights for torch")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--utterances", type=int, help="so many, spread over the manifest, instead of all")
    parser.add_argument("--peer-utterances", type=int, default=60)
    parser.add_argument("--deepen", type=int, default=0, metavar="LAYERS")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measure(
    model: Path, utterances: "list[Utterance]", threads: int, work: Path, peer_utterances: int
) -> dict[str, Any]:
    """All contenders at so many threads; `ratio_*` is by how much ours is faster than that peer."""
    outcomes: dict[str, Any] = {}
    program = [sys.executable, "-m", "asr.cli"]
    bundles = {"ours": model}
    for kind in ("int8", "float16"):
        small = work / kind
        if not small.exists():
            subprocess.run(
                [*program, "export", str(model), "--weights", kind, "--out", str(small)],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        bundles[f"ours_{kind}"] = small
    names = work / "files.txt"
    for name, bundle in bundles.items():
        names.write_text("\n".join(str(u.audio_filepath) for u in utterances))
        command = [*program, "transcribe", f"@{names}", "--model", str(bundle), "--threads", str(threads)]
        outcomes[name] = asdict(contend(command, utterances, threads, work / name))
    for peer, some in (("torch", utterances), ("pocketsphinx", spread(utterances, peer_utterances))):
        names.write_text("\n".join(str(u.audio_filepath) for u in some))
        command = [
            sys.executable,
            "-m",
            "benchmarks.transcribers",
            peer,
            str(model),
            str(names),
            str(threads),
        ]
        if installed(peer):
            outcomes[peer] = asdict(contend(command, some, threads, work / peer))
            outcomes[f"ratio_{peer}"] = outcomes["ours"]["xrt"] / outcomes[peer]["xrt"]
    return outcomes


def contend(command: list[str], utterances: "list[Utterance]", threads: int, out: Path) -> Outcome:
    """Run a command that writes NAME.txt for each utterance into `out`, and score what it wrote."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    begin = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--out", str(out)],
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        env=environment,
        stdout=sys.stderr,
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    from asr.scoring.wer import score, total

    texts = {path.stem: path.read_text().strip() for path in out.rglob("*.txt")}
    words = total(score(u.id, u.text, texts[u.audio_filepath.stem]).words for u in utterances)
    return Outcome(sum(u.duration for u in utterances) / seconds, 100 * words.rate, usage.ru_maxrss / 1024)


def cold_start(model: Path, work: Path, utterances: "list[Utterance]") -> dict[str, float]:
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
    commands = {
        "asr_transcribe": [sys.executable, "-m", "asr.cli", "transcribe", str(clip), "--model", str(model)],
        "import_torch": [sys.executable, "-c", "import torch"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(6):
        for name, command in commands.items():
            begin = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    return {**medians, "ratio": medians["asr_transcribe"] / medians["import_torch"]}


def deepen(bundle: Path, out: Path, layers: int) -> Path:
    """The bundle's model with `layers` more that add nothing."""
    import shutil
    from dataclasses import replace

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
    return out


def parameters(bundle: Path) -> int:
    """Number of weights that torch trained."""
    from asr.model.export import load_acoustic_model

    return sum(p.numel() for p in load_acoustic_model(bundle).parameters())


def installed(peer: str) -> bool:
    """Whether a peer can be imported."""
    return subprocess.run([sys.executable, "-c", f"import {peer}"], capture_output=True).returncode == 0


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
