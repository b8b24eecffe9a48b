"""Synthesise the digits corpus included in the package: data_prep/data/digits.tar.gz.

    python recipes/digits/make_corpus.py

Needs the Debian packages espeak-ng, flite and opus-tools in addition to `.[train]`. With the versions used
(espeak-ng 1.51, flite 2.2, opus-tools 0.2 with libopus 1.3.1) the archive is reproduced byte for byte.

Utterances are strings of one to seven random digits, 16 kHz mono, Opus. A speaker is one voice with its own
accent and pitch (espeak-ng) or vocal tract length (flite). Voices that share formants, and so sound alike,
are in the same part, so that no test voice occurs in training. Whispering, echoing and robotic variants of
espeak-ng are left out.
"""

import gzip
import io
import random
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from joblib import Parallel, delayed

from asr.audio import SAMPLE_RATE
from asr.files import atomic_write

ARCHIVE = Path(__file__).parents[2] / "data_prep" / "data" / "digits.tar.gz"
SEED = 20

DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
MOST_DIGITS = 7

ACCENTS = (
    "en-us",
    "en-gb",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-us-nyc",
    "en-gb-x-gbclan",
    "en-029",
    "en-gb-x-gbcwmd",
)
# Variants with short vowels, slowed down to the pace of the others.
HASTY = {"Andrea", "anika", "antonio", "pedro"}
# Below 9 kbit/s Opus drops everything above 4 kHz. Long frames reduce container overhead.
OPUS = ("opusenc", "--quiet", "--speech", "--bitrate", "10", "--framesize", "60", "--padding", "0")


@dataclass(frozen=True)
class Part:
    """Voices of one part: espeak-ng variants ("" is the default voice) and flite voices."""

    name: str
    variants: str
    flite: str
    takes: int
    """Speakers per variant."""
    sizes: tuple[float, ...]
    """Relative vocal tract lengths; one speaker each per flite voice."""
    utterances: int
    """Utterances per speaker."""


PARTS = (
    Part(
        "train",
        variants=" m1 m2 m6 m7 m8 Nguyen max Diogo Hugo miguel iven2 quincy robert adam benjamin david klatt2"
        " pedro antonio grandpa Jacky f1 f4 aunty steph steph2 anika",
        flite="kal16 awb slt",
        takes=2,
        sizes=(0.86, 0.92, 0.97, 1.0, 1.05, 1.1),
        utterances=21,
    ),
    Part("dev", "m3 m5 Alex Mario f3 grandma", "", takes=1, sizes=(), utterances=20),
    Part(
        "test",
        variants="m4 Denis edward Gene Storm sandro paul ed f2 Annie Andrea belinda",
        flite="rms",
        takes=1,
        sizes=(1.0,),
        utterances=20,
    ),
)


@dataclass(frozen=True)
class Speaker:
    """Synthesiser settings: espeak-ng if `size` is None, else flite."""

    name: str
    part: Part
    voice: str
    tempo: float
    pitch: int = 50
    size: float | None = None


@dataclass(frozen=True)
class Recording:
    """One utterance of the archive."""

    id: str
    speaker: Speaker
    text: str
    opus: bytes


def main() -> None:
    work = [
        (speaker, number) for part in PARTS for speaker in speakers(part) for number in range(part.utterances)
    ]
    recordings = Parallel(n_jobs=-1)(delayed(record)(*item) for item in work)
    write_archive(ARCHIVE, recordings)
    print(f"{ARCHIVE.name}: {len(recordings)} utterances, {ARCHIVE.stat().st_size / 1e6:.2f} MB")


def speakers(part: Part) -> Iterator[Speaker]:
    """Yield the speakers of a part, with accents in rotation."""
    chance = random.Random(f"{SEED} {part.name}")
    accents = chance.sample(ACCENTS, len(ACCENTS))
    for take in range(part.takes):
        for i, variant in enumerate(part.variants.split(" ")):
            accent = accents[(i + 3 * take) % len(accents)]
            pitch = chance.randrange(35, 66)
            voice = f"{accent}+{variant}" if variant else accent
            tempo = 0.77 if variant in HASTY else 1.0
            yield Speaker(f"{voice.replace('+', '_')}_{pitch}", part, voice, tempo, pitch)
    for voice in part.flite.split():
        for size in part.sizes:
            yield Speaker(f"flite_{voice}_{size:.2f}", part, voice, tempo=size, size=size)


def record(speaker: Speaker, number: int) -> Recording:
    """Draw a text, synthesise and encode it; seeded by SEED, speaker and number."""
    utterance_id = f"{speaker.name}-{number:02d}"
    chance = random.Random(f"{SEED} {utterance_id}")
    digits = chance.choices(DIGITS, k=chance.randint(1, MOST_DIGITS))
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "speech.wav"
        speak(speaker, phrase(digits, chance).lower(), wav, chance)
        speech, rate = soundfile.read(wav, dtype="float32")
        # Faster playback shortens the vocal tract; `speak` compensates for the pace.
        speech = soxr.resample(speech, rate / (speaker.size or 1.0), SAMPLE_RATE)
        samples = finish(trim(speech), chance)
        return Recording(utterance_id, speaker, " ".join(digits), encode(samples, utterance_id, Path(folder)))


def phrase(digits: list[str], chance: random.Random) -> str:
    """Join the digits, some with a comma (a short pause)."""
    commas = chance.choice((0.0, 0.0, 0.3))
    words = [digit + ("," if chance.random() < commas else "") for digit in digits]
    return " ".join(words).rstrip(",")


def speak(speaker: Speaker, text: str, wav: Path, chance: random.Random) -> None:
    """Synthesise `text` into `wav` at a random speed."""
    if speaker.size is None:
        words_per_minute = round(chance.randint(140, 185) * speaker.tempo)
        command = f"espeak-ng -v {speaker.voice} -p {speaker.pitch} -s {words_per_minute} -w".split()
        subprocess.run([*command, str(wav), text], check=True, stderr=subprocess.DEVNULL)
    else:
        stretch = chance.uniform(0.8, 1.1) / speaker.tempo
        command = f"flite -voice {speaker.voice} --setf duration_stretch={stretch:.3f} -o".split()
        subprocess.run([*command, str(wav), "-t", text], check=True)


def trim(speech: np.ndarray) -> np.ndarray:
    """Trim 10 ms frames 45 dB below the loudest from both ends."""
    frame = SAMPLE_RATE // 100
    energy = np.square(speech[: len(speech) // frame * frame].reshape(-1, frame)).mean(axis=1)
    loud = np.flatnonzero(energy > energy.max() * 10**-4.5)
    return speech[loud[0] * frame : (loud[-1] + 1) * frame]


def finish(speech: np.ndarray, chance: random.Random) -> np.ndarray:
    """Set the peak to -12 to -2 dB and add short pauses at both ends and faint noise."""
    before, after = (int(chance.uniform(0.1, 0.22) * SAMPLE_RATE) for _ in range(2))
    speech = speech / np.abs(speech).max() * 10 ** (chance.uniform(-12, -2) / 20)
    generator = np.random.default_rng(chance.getrandbits(64))
    noise = generator.standard_normal(before + len(speech) + after)
    noise = np.convolve(noise, np.exp(-np.arange(16) / chance.uniform(0.5, 3.0)), mode="same")
    snr = chance.uniform(30, 45)
    noise *= np.sqrt(np.square(speech).mean() / np.square(noise).mean()) * 10 ** (-snr / 20)
    return np.clip(np.pad(speech, (before, after)) + noise, -1, 1)


def encode(samples: np.ndarray, utterance_id: str, folder: Path) -> bytes:
    """Encode as Opus in an Ogg stream; the serial number, random by default, is derived from the id."""
    soundfile.write(folder / "finished.wav", samples, SAMPLE_RATE)
    serial = zlib.crc32(utterance_id.encode()) & 0x7FFFFFFF
    files = [str(folder / "finished.wav"), str(folder / "finished.opus")]
    subprocess.run([*OPUS, "--serial", str(serial), *files], check=True)
    return (folder / "finished.opus").read_bytes()


def write_archive(path: Path, recordings: list[Recording]) -> None:
    """Write a tar.gz of <part>/<speaker>/<id>.opus and <part>/transcripts.tsv."""
    with (
        atomic_write(path, "wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for part in PARTS:
            lines = ["id\taudio_filepath\tspeaker\ttext\n"]
            for r in (r for r in recordings if r.speaker.part == part):
                name = f"{r.speaker.name}/{r.id}.opus"
                add(archive, f"{part.name}/{name}", r.opus)
                lines.append(f"{r.id}\t{name}\t{r.speaker.name}\t{r.text}\n")
            add(archive, f"{part.name}/transcripts.tsv", "".join(lines).encode())


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file. TarInfo's defaults for time and owner make the archive reproducible."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    main()
