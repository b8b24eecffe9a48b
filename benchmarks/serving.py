"""The server under load: delays, memory, leaks, slow clients.

    python -m benchmarks.serving [ROW ...] [--model box] [--manifest FILE]
                                 [--scale 1]

Rows, all by default; the bar of each is printed beside it:

clip      a clip of 5 s while a recording of an hour is transcribed
upload    a recording of 3 hours: memory, first words, time
health    /health while all cores decode
busy      the answer to an upload that the queue has no place for
cancel    work after a client has left
batch     32 clients with short clips, against `asr transcribe`
soak      10,000 requests: growth of memory, descriptors, threads, files
slow      500 connections that trickle, and an upload meanwhile
live      lag of live sessions at once, and the delay of their last `completed`
sessions  200 live sessions: growth as in soak
packets   posteriors of a live session do not depend on the packets

Each row starts a server of its own. --scale 0.01 tries everything in a minute:
lengths and counts shrink, so that its figures mean nothing.
"""

import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx2
import numpy as np
import soundfile

from asr import audio
from benchmarks import SAMPLE_RATE, add_corpus, asr_command, new_parser, read_utterances, run, show

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

    from asr.manifest import Utterance

ROUTE = "/v1/audio/transcriptions"


class Row(NamedTuple):
    """A figure: `bar` is the most that it may be."""

    what: str
    value: float
    unit: str
    bar: float


@dataclass(frozen=True)
class Load:
    """Settings that all rows share: the speech, and how much of it."""

    utterances: "list[Utterance]"
    folder: Path
    model: str
    threads: int
    scale: float

    def count(self, whole: int, least: int = 4) -> int:
        return max(least, round(whole * self.scale))

    def clip(self, seconds: float) -> bytes:
        """A FLAC file of utterances, repeated."""
        return self.file(seconds).read_bytes()

    def speech(self, seconds: float) -> np.ndarray:
        """The same as samples."""
        return audio.read(self.file(seconds))

    def file(self, seconds: float) -> Path:
        """The same as a path."""
        path = self.folder / f"{seconds:.1f}.flac"
        if not path.exists():
            samples = int(seconds * SAMPLE_RATE)
            with soundfile.SoundFile(path, "w", samplerate=SAMPLE_RATE, channels=1) as file:
                while file.frames < samples:
                    for utterance in self.utterances:
                        file.write(audio.read(utterance.audio_filepath)[: samples - file.frames])
        return path


class Served:
    """A server in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, uploads: Path) -> None:
        self.pid, self.port, self.uploads = process.pid, port, uploads
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=3600)

    def post(self, content: bytes, **fields: str) -> str:
        answer = self.client.post(ROUTE, files={"file": ("a.flac", content)}, data=fields)
        answer.raise_for_status()
        return answer.text

    def memory(self, key: str = "VmRSS") -> float:
        """MiB now; VmHWM: at most so far."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"{key}:\s+(\d+) kB", text)
        assert found
        return int(found[1]) / 1024

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def counts(self) -> dict[str, int]:
        names = {"descriptors": "fd", "threads": "task"}
        found = {k: len(list(Path(f"/proc/{self.pid}/{v}").iterdir())) for k, v in names.items()}
        return {**found, "temporary files": len(list(self.uploads.iterdir()))}

    @contextmanager
    def background(self, content: bytes) -> Iterator[float]:
        """Transcribe something meanwhile, which is dropped at the end.

        Yields the seconds from the last byte of the upload to the first words.
        """
        sent = 0.0

        def form() -> Iterator[bytes]:
            nonlocal sent
            yield b'--x\r\nContent-Disposition: form-data; name="stream"\r\n\r\ntrue\r\n'
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="long.flac"\r\n\r\n'
            for at in range(0, len(content), 1 << 20):
                yield content[at : at + (1 << 20)]
            yield b"\r\n--x--\r\n"
            sent = time.perf_counter()

        headers = {"content-type": "multipart/form-data; boundary=x"}
        with (
            httpx2.Client(base_url=self.client.base_url, timeout=3600) as client,
            client.stream("POST", ROUTE, content=form(), headers=headers) as answer,
        ):
            answer.raise_for_status()
            lines = answer.iter_lines()  # kept: closing it would end the request
            next(lines)
            yield time.perf_counter() - sent


@contextmanager
def served(load: Load, *options: str) -> Iterator[Served]:
    """Start `asr serve` on a free port."""
    uploads = Path(tempfile.mkdtemp(dir=load.folder))
    arguments = ["--model", load.model, "--port", "0", "--threads", str(load.threads), "--temp", str(uploads)]
    command = asr_command("serve", *arguments, "--queue", "64", "--max-bytes", "4G", *options)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                break
            print(line, end="", file=sys.stderr)
        else:
            raise SystemExit("asr serve did not start")
        threading.Thread(target=lambda: sys.stderr.writelines(process.stderr or ()), daemon=True).start()
        server = Served(process, int(found[1]), uploads)
        while server.client.get("/health").status_code != 200:
            time.sleep(0.05)
        try:
            yield server
        finally:
            server.client.close()
            process.terminate()


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def percentile(values: list[float], share: float) -> float:
    return float(np.quantile(values, share))


# ------------------------------------------------------------------------------------------------ rows


def clip(load: Load) -> Iterator[Row]:
    short, long = load.clip(5), load.clip(max(120, 3600 * load.scale))
    with served(load) as server:
        alone = statistics.median(timed(lambda: server.post(short)) for _ in range(5))
        with server.background(long):
            delays = [timed(lambda: server.post(short)) for _ in range(load.count(50))]
    yield Row("clip of 5 s, alone", alone, "s", 1.5)
    yield Row("clip of 5 s while an hour runs, p95", percentile(delays, 0.95), "s", 1.5)


def upload(load: Load) -> Iterator[Row]:
    path = load.file(max(60, 3 * 3600 * load.scale))
    with served(load, "--max-seconds", "20000") as server:
        server.post(load.clip(5))
        idle = server.memory()
        begin = time.perf_counter()
        server.post(path.read_bytes())
        seconds = time.perf_counter() - begin
        yield Row("RSS above idle for 3 hours", server.memory("VmHWM") - idle, "MiB", 300)
        with server.background(path.read_bytes()) as seconds_to_words:
            yield Row("first words after the last byte", seconds_to_words, "s", 3)
    command = asr_command("transcribe", "--model", load.model, "--threads", str(load.threads), str(path))
    yield Row("time against asr transcribe", seconds / run(command).seconds, "times", 1.1)


def health(load: Load) -> Iterator[Row]:
    long = load.clip(max(600, 3600 * load.scale))
    with served(load) as server, server.background(long), server.background(long):
        delays = [timed(lambda: server.client.get("/health")) for _ in range(load.count(2000, 50))]
    yield Row("/health with all cores decoding, p99", 1000 * percentile(delays, 0.99), "ms", 50)


def busy(load: Load) -> Iterator[Row]:
    with served(load, "--queue", "1") as server, server.background(load.clip(max(600, 3600 * load.scale))):
        delays = []
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                head = f"POST {ROUTE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n"
                begin = time.perf_counter()
                connection.sendall(head.encode())
                assert b" 503 " in (answer := connection.recv(4096)), answer
                delays.append(time.perf_counter() - begin)
    yield Row("503 to an upload beyond the queue, p95", 1000 * percentile(delays, 0.95), "ms", 50)


def cancel(load: Load) -> Iterator[Row]:
    with served(load) as server:
        with server.background(load.clip(max(600, 3600 * load.scale))):
            time.sleep(0.5)
        before = server.cpu_seconds()
        time.sleep(3)
        yield Row("CPU time after a client has left", server.cpu_seconds() - before, "s", 1)


def batch(load: Load) -> Iterator[Row]:
    count = load.count(1600, 32)
    paths = [load.file(1.5 + number % 8) for number in range(count)]
    contents = [path.read_bytes() for path in paths]
    with served(load) as server, ThreadPoolExecutor(32) as pool:
        server.post(contents[0])
        seconds = timed(lambda: list(pool.map(server.post, contents)))
    copies = [load.folder / f"copy{number}.flac" for number in range(count)]
    for copy, content in zip(copies, contents, strict=True):
        copy.write_bytes(content)
    arguments = ["--model", load.model, "--threads", str(load.threads), str(load.folder / "copy*.flac")]
    offline = run(asr_command("transcribe", *arguments)).seconds
    yield Row("32 clients against asr transcribe, time", seconds / offline, "times", 1 / 0.9)


def soak(load: Load) -> Iterator[Row]:
    count = load.count(10_000, 60)
    clips = [load.clip(seconds) for seconds in (1.5, 2.5, 4.0)]
    asked = ({}, {"stream": "true"}, {"response_format": "verbose_json"}, {"response_format": "nonsense"})

    def send(server: Served, number: int) -> None:
        content = b"damaged" * 99 if number % 10 == 9 else clips[number % 3]
        files: Any = {"file": ("a.flac", content)}
        server.client.post(ROUTE, files=files, data=asked[number % 4])

    with served(load) as server:
        yield from _growth(server, "request", count, lambda number: send(server, number), (32, count // 5), 1)


def _growth(
    server: Served, what: str, count: int, work: Callable[[int], object], before: tuple[int, int], most: float
) -> Iterator[Row]:
    """Measure what is left of `count` pieces of work, at most `most` KiB each.

    `before` are the threads and the work that fill the pools, which keep their sizes.
    """
    with ThreadPoolExecutor(before[0]) as many:
        list(many.map(work, range(before[1])))
    with ThreadPoolExecutor(8) as pool:
        memory, counts = server.memory(), server.counts()
        list(pool.map(work, range(count)))
    server.client.close()
    time.sleep(6)  # until connections that are kept alive are closed
    slope = 1024 * (server.memory() - memory) / count
    grown = {name: value - counts[name] for name, value in server.counts().items()}
    server.client = httpx2.Client()
    yield Row(f"RSS a {what}, {count} of them", slope, "KiB", most)
    for name, value in grown.items():
        yield Row(f"{name} more", value, "", 0)


def slow(load: Load) -> Iterator[Row]:
    count, short = load.count(500, 50), load.clip(5)
    head = f"POST {ROUTE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n"
    body = f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    with served(load) as server:
        begin = time.perf_counter()
        open_ = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(count)]
        for number, connection in enumerate(open_):
            connection.sendall((body if number % 10 == 0 else head).encode())
            connection.setblocking(False)
        delays = []
        while open_ and time.perf_counter() < begin + 60:
            open_ = [connection for connection in open_ if _alive(connection)]
            delays.append(timed(lambda: server.post(short)))
            time.sleep(0.2)
        seconds = time.perf_counter() - begin
    yield Row(f"{count} trickling connections closed", seconds, "s", 30)
    yield Row("clip of 5 s meanwhile, p95", percentile(delays, 0.95), "s", 1.5)


def _alive(connection: socket.socket) -> bool:
    """Send one more byte, unless the server has closed."""
    try:
        connection.send(b"a")
        return bool(connection.recv(4096))
    except BlockingIOError:
        return True
    except OSError:
        connection.close()
        return False


def live(load: Load) -> Iterator[Row]:
    for count in (1, 6, 16):
        with served(load, "--live", str(count)) as server, ThreadPoolExecutor(count) as pool:
            speech = load.speech(max(5, 60 * load.scale))
            parts = [np.roll(speech, number * 99_991) for number in range(count)]
            found = list(pool.map(lambda samples: _speak(server, samples), parts))
        lags = [lag for session, _ in found for lag in session]
        yield Row(f"lag of {count} live sessions, p95", percentile(lags, 0.95), "s", 0.3)
        delays = [delay for _, delay in found]
        yield Row("their completed after a commit, p95", percentile(delays, 0.95), "s", 1)


def sessions(load: Load) -> Iterator[Row]:
    count, speech = load.count(200, 16), load.speech(6)

    def talk(number: int) -> None:
        if number % 4:
            _speak(server, speech, pace=0)
        else:  # leaves in the middle
            with _realtime(server) as socket_:
                socket_.send(_pcm(speech))

    with served(load, "--live", "16") as server:
        yield from _growth(server, "live session", count, talk, (16, count), 8)


def _realtime(server: Served) -> "ClientConnection":
    from websockets.sync.client import connect

    return connect(f"ws://127.0.0.1:{server.port}/v1/realtime?intent=transcription")


def _pcm(samples: np.ndarray) -> bytes:
    return (samples * 32_767).astype("<i2").tobytes()


def _speak(server: Served, samples: np.ndarray, pace: float = 1.0) -> tuple[list[float], float]:
    """Send packets of 0.1 s every `pace` times 0.1 s.

    Returns the lag of each partial in seconds, from when the last packet that it covers was sent, and the
    seconds from the commit until `completed` came.
    """
    size = SAMPLE_RATE // 10
    sent: list[float] = []
    lags: list[float] = []
    form = {"format": {"type": "audio/pcm", "rate": SAMPLE_RATE}, "turn_detection": None}
    with _realtime(server) as socket_:
        socket_.send(json.dumps({"type": "session.update", "session": {"audio": {"input": form}}}))
        begin = time.perf_counter()
        for at in range(0, len(samples), size):
            due = begin + pace * at / SAMPLE_RATE
            with suppress(TimeoutError):
                while event := json.loads(socket_.recv(timeout=max(0.0, due - time.perf_counter()))):
                    if "lag_ms" in event:
                        packet = len(sent) - event["lag_ms"] // 100 - 1
                        lags.append(time.perf_counter() - sent[packet])
            socket_.send(_pcm(samples[at : at + size]))
            sent.append(time.perf_counter())
        socket_.send('{"type": "input_audio_buffer.commit"}')
        begin = time.perf_counter()
        while not json.loads(socket_.recv(timeout=600))["type"].endswith(".completed"):
            pass
        return lags, time.perf_counter() - begin


def packets(load: Load) -> Iterator[Row]:
    from asr.inference.live import LiveSession
    from asr.inference.transcriber import load_model

    model, speech = load_model(load.model, threads=1), load.speech(max(20, 300 * load.scale))

    def posteriors(parts: Iterable[np.ndarray]) -> np.ndarray:
        session, found = LiveSession(model), []
        for part in parts:
            session.receive(part)
            while window := session.next_window():
                found.append(model.engine.run([window])[0])
                session.feed(window, found[-1])
        return np.exp(np.concatenate(found))

    random = np.random.default_rng(0)
    cuts = np.sort(random.integers(0, len(speech), len(speech) // 800))
    difference = np.abs(posteriors(np.split(speech, cuts)) - posteriors([speech])).max()
    yield Row("posteriors in packets against one packet", difference, "", 1e-5)


ROWS: dict[str, Callable[[Load], Iterator[Row]]] = {
    row.__name__: row
    for row in (clip, upload, health, busy, cancel, batch, soak, slow, live, sessions, packets)
}


def main() -> None:
    """Parse, measure, print."""
    parser = new_parser(__doc__)
    add_corpus(parser, utterances=40)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--threads", type=int, default=2, help="of the server")
    parser.add_argument("--scale", type=float, default=1.0, help="share of all lengths and counts")
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - set(ROWS):
        raise SystemExit(f"{', '.join(unknown)}: no such row; there are {', '.join(ROWS)}")
    utterances = read_utterances(arguments.manifest, arguments.utterances)
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        load = Load(utterances, Path(name), arguments.model, arguments.threads, arguments.scale)
        for row in arguments.rows or ROWS:
            for figure in ROWS[row](load):
                found.append(figure)
                if not arguments.json:
                    mark = "" if figure.value <= figure.bar else "  MISSED"
                    bar = f"bar {figure.bar:.3g}"
                    print(f"{figure.what:45}{figure.value:10.3f} {figure.unit:6}{bar:>10}{mark}", flush=True)
    if arguments.json:
        show({"rows": [figure._asdict() for figure in found]}, "", True)


if __name__ == "__main__":
    main()
