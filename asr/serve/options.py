"""Options of `asr serve`; imports nothing that needs the extra `serve`."""

from dataclasses import dataclass
from pathlib import Path

from asr.console import option
from asr.errors import UsageError

BINARY = {"": 0, "K": 10, "M": 20, "G": 30}


class Size(int):
    """A number of bytes, written as 512M, say."""

    def __new__(cls, text: str | int) -> "Size":
        """Parse a number with an optional K, M or G (powers of 1024). Raises UsageError."""
        digits = str(text).upper().removesuffix("B")
        unit = digits[-1:] if digits[-1:] in BINARY else ""
        digits = digits.removesuffix(unit)
        if not digits.isdecimal():
            raise UsageError(f"{text!r} is no size; give one such as 512M")
        return super().__new__(cls, int(digits) << BINARY[unit])

    def __str__(self) -> str:
        """The largest unit that needs no fraction."""
        unit = max(
            (unit for unit, bits in BINARY.items() if self % (1 << bits) == 0), key=lambda u: BINARY[u]
        )
        return f"{int(self) >> BINARY[unit]}{unit}"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on sizes, durations and numbers of requests."""

    queue: int = option("uploads at once; more are told to come back", 16, least=1)
    live: int = option("live sessions at once", 4, least=0)
    max_bytes: Size = option("largest upload", Size(512 << 20), metavar="SIZE")
    max_seconds: int = option("longest recording", 14_400, least=1)
    max_live_seconds: int = option("longest live session", 3600, least=1)
    drain: int = option("seconds for what is running when the server is told to stop", 10, least=0)


@dataclass(frozen=True, kw_only=True)
class ServeOptions(Limits):
    """Address, access and protocols of the server."""

    model: str = option("model bundle; box is the English model that ships", "box", metavar="BUNDLE")
    host: str = option("address to listen on; any but this machine's own needs a key", "127.0.0.1")
    port: int = option("port to listen on; 0 for any free one", 8000, least=0, most=65_535)
    key_file: Path | None = option("file with the key that clients must send; else $ASR_API_KEY", None)
    allow_anonymous: bool = option("serve other machines without a key", False)
    allow_host: tuple[str, ...] = option(
        "another name of this server; may be repeated", (), repeat=True, metavar="HOST"
    )
    allow_origin: tuple[str, ...] = option(
        "web page that may use the server, as https://example.org; may be repeated",
        (),
        repeat=True,
        metavar="ORIGIN",
    )
    language: str = option("language of the model, ISO 639-1", "en", metavar="CODE")
    raw: bool = option("plain words, without punctuation and capitals", False)
    strict_model: bool = option("refuse requests for a model of another name", False)
    threads: int | None = option("CPU cores to use, by default all", None, least=1)
    temp: Path | None = option("folder for uploads, by default the system's", None, metavar="FOLDER")
    vosk: bool = option("speak Vosk's websocket protocol, too, at /", False)
    wyoming: int | None = option(
        "speak Wyoming, too, on this port; it knows no keys", None, least=0, most=65_535, metavar="PORT"
    )
    cert: Path | None = option("TLS certificate", None)
    cert_key: Path | None = option("its private key", None)
