"""Vosk's websocket as a state machine: packets in, exactly one answer for each of them.

https://github.com/alphacep/vosk-server; its `config.model` is not taken, as clients open no files here.
"""

import json
from collections.abc import Iterable
from typing import Any

from asr.decoding.types import Word
from asr.inference.live import Endpoint, Event, Final, LiveOptions, Partial
from asr.inference.transcriber import Transcriber
from asr.serve.live import PcmReader, open_session
from asr.serve.openai import check_keywords, invalid

OPTIONS = LiveOptions(pause=0.5)
UNKNOWN = "[unk]"
EOF = '{"eof" : 1}'


class Vosk:
    """A session: `receive` a message, run `live`, then send `answer` if `due`; `over` after the last."""

    def __init__(self, model: Transcriber) -> None:
        self._model = model
        self._rate, self._words, self._n_best = 8_000, True, 0
        self._phrases: tuple[str, ...] = ()
        self.due = self.over = False
        self._begin()

    def receive(self, message: str | bytes) -> None:
        """Process audio, `config`, `reset` or `eof`. Raises ApiError."""
        self.due = True
        if isinstance(message, bytes):
            self.live.receive(self._reader.push(message))
            return
        try:
            asked = json.loads(message)
        except (ValueError, RecursionError):
            asked = None
        if not isinstance(asked, dict):
            raise invalid("message", "the message is not a JSON object")
        if isinstance(config := asked.get("config"), dict):
            self._configure(config)
        elif "eof" in asked or "reset" in asked:
            self.over = "eof" in asked
            self._finish()
        else:
            raise invalid("message", "a message is config, eof or reset")

    def _configure(self, config: dict[str, Any]) -> None:
        self.due = False
        self._words = bool(config.get("words", self._words))
        phrases = config.get("phrase_list", self._phrases)
        try:
            self._rate = int(config.get("sample_rate", self._rate))
            self._n_best = max(0, min(10, int(config.get("max_alternatives", self._n_best))))
            self._phrases = check_keywords([str(phrase) for phrase in phrases if phrase != UNKNOWN])
        except (TypeError, ValueError, OverflowError):
            raise invalid("config", "config has a value that is not a number or a list") from None
        self._begin()

    def _begin(self) -> None:
        self._reader, self._partial, self._ending = PcmReader(rate=self._rate), "", False
        self.live = open_session(self._model, OPTIONS, self._phrases, max(1, self._n_best), raw=True)

    def _finish(self) -> None:
        self.live.receive(self._reader.end())
        self.live.close()
        self._ending = True

    def answer(self, events: Iterable[Event]) -> str:
        """The answer, given all events since the last one."""
        finals: list[Final] = []
        for event in events:
            if isinstance(event, Partial):
                self._partial = f"{event.stable} {event.unstable}".strip()
            elif isinstance(event, Endpoint):
                self._partial = ""
            elif isinstance(event, Final):
                finals.append(event)
        content: dict[str, Any] = {"partial": self._partial}
        if finals or self._ending:
            content = self._result(finals)
        if self._ending:
            self._begin()
        return json.dumps(content, ensure_ascii=False, indent=2, separators=(",", " : "))

    def _result(self, finals: list[Final]) -> dict[str, Any]:
        text, words = " ".join(final.text for final in finals), [w for final in finals for w in final.words]
        if not self._n_best:
            return ({"result": list(map(_entry, words))} if self._words and words else {}) | {"text": text}
        best = [{"text": text, "confidence": 0.0}]
        if len(finals) == 1 and finals[0].n_best:
            best = [{"text": found.text, "confidence": found.score} for found in finals[0].n_best]
        return {"alternatives": best}


def _entry(word: Word) -> dict[str, Any]:
    start, end = round(word.start, 3), round(word.end, 3)
    return {"conf": round(word.confidence, 4), "end": end, "start": start, "word": word.text}
