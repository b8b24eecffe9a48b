"""The tagger: words and the pauses after them -> punctuation and case, by a bidirectional GRU."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnxruntime

from asr.errors import AsrError
from asr.formatting.marks import CAPITAL, MARKS, SENTENCE_END
from asr.formatting.pauses import UNKNOWN, bucket
from asr.formatting.vocabulary import BEGIN, END, Vocabulary

DATA = Path(__file__).with_name("data")
GRAPH, WORDS = "tagger.onnx", "words.txt"

WINDOW, CONTEXT = 128, 16  # words; those within CONTEXT of a window's inner edge are taken from its neighbour
BATCH = 16  # windows

_WITHIN = np.flatnonzero([mark not in SENTENCE_END for mark in MARKS])


class Tagger:
    """The ONNX graph in `folder` on one core; thread-safe. Raises AsrError if it cannot be loaded."""

    def __init__(self, folder: Path = DATA) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_mem_pattern = options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        try:
            self.vocabulary = Vocabulary.read(folder / WORDS)
            content = (folder / GRAPH).read_bytes()
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no other common base
            reason = str(error).splitlines()[0]
            raise AsrError(f"{folder}: the tagger cannot be loaded ({reason}); install asr again") from None

    def tag(
        self, words: Sequence[str], pauses: Sequence[float] = (), begins: bool = True, ends: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Indices into MARKS and cases `int64[N]` of words in any case.

        `pauses` in seconds follow each word; NaN, or none at all, are unknown. `begins` and `ends` tell
        whether the words are the start and the end of a text. A sentence ends before a capital of a common
        word, which is no name.
        """
        count = len(words)
        ids = np.array([*[BEGIN] * begins, *self.vocabulary.encode(words), *[END] * ends], np.int64)
        known = np.full(len(ids), UNKNOWN, np.int64)
        if len(pauses):
            known[begins : begins + count] = bucket(np.asarray(pauses, np.float64))
        scores, cases = np.split(self._run(ids, known), [len(MARKS)], axis=1)
        best = cases.argmax(axis=1)
        starts = np.append(self.vocabulary.common[ids] & (best == CAPITAL), False)[1:]
        scores[np.ix_(starts, _WITHIN)] = -np.inf
        words_only = slice(int(begins), int(begins) + count)
        return scores.argmax(axis=1)[words_only], best[words_only]

    def _run(self, ids: np.ndarray, pauses: np.ndarray) -> np.ndarray:
        """Logits `float32[N, marks + cases]` of each position, in overlapping windows."""
        result = np.zeros((len(ids), len(MARKS) + 3), np.float32)
        step = WINDOW - 2 * CONTEXT
        starts = range(0, max(1, len(ids) - 2 * CONTEXT), step)
        for i in range(0, len(starts), BATCH):
            group = starts[i : i + BATCH]
            lengths = np.array([min(WINDOW, len(ids) - start) for start in group], np.int32)
            index = (np.array(group)[:, None] + np.arange(lengths.max())).clip(max=len(ids) - 1)
            inputs = {"words": ids[index], "pauses": pauses[index], "lengths": lengths}
            logits = self._session.run(None, inputs)[0]  # [T, B, marks + cases]
            for row, (start, length) in enumerate(zip(group, lengths, strict=True)):
                first = CONTEXT if start else 0
                result[start + first : start + length] = logits[first:length, row]
        return result


@lru_cache(maxsize=1)
def load() -> Tagger:
    """The tagger that ships, loaded once."""
    return Tagger()
