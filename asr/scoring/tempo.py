"""Speech at another tempo, its pitch kept, by FFmpeg's filter `atempo` through PyAV.

That is WSOLA (Verhelst & Roelands, ICASSP 1993), well kept, and several times as fast as one in numpy was.
"""

from fractions import Fraction
from types import ModuleType

import numpy as np

from asr.audio import SAMPLE_RATE
from asr.errors import AsrError

_BEFORE = SAMPLE_RATE // 50
_AFTER = SAMPLE_RATE // 5
"""Silence around the recording. The filter swallows about 20 ms at the start, and more at the end."""


def change_tempo(samples: np.ndarray, tempo: float) -> np.ndarray:
    """`float32[samples]` at 16 kHz -> `float32[round(samples / tempo)]`, `tempo` times as fast.

    The filter refuses a tempo below 0.5, and leaves samples out above 2. Raises AsrError without PyAV.
    """
    av = import_av()
    graph = av.filter.Graph()
    time_base = Fraction(1, SAMPLE_RATE)
    source = graph.add_abuffer(sample_rate=SAMPLE_RATE, format="flt", layout="mono", time_base=time_base)
    graph.link_nodes(source, graph.add("atempo", str(tempo)), graph.add("abuffersink")).configure()
    padded = np.pad(samples.astype(np.float32, copy=False), (_BEFORE, _AFTER))
    frame = av.AudioFrame.from_ndarray(padded[None], format="flt", layout="mono")
    frame.sample_rate = SAMPLE_RATE
    graph.push(frame)
    graph.push(None)
    parts = []
    while True:
        try:
            parts.append(graph.pull().to_ndarray()[0])
        except (av.BlockingIOError, av.EOFError):
            break
    changed: np.ndarray = np.concatenate(parts)[: round(len(samples) / tempo)]
    return changed


def import_av() -> ModuleType:
    """PyAV. Raises AsrError where it is not installed."""
    try:
        import av
    except ImportError:
        raise AsrError("PyAV is not installed; --tempo needs pip install 'asr[media]'") from None
    return av
