import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from asr.frames import FrameGrid
from asr.inference.engine import Chunker, batches

GRID = FrameGrid()


@given(st.integers(0, 200_000))
def test_frames_equal_the_model_chain(samples: int) -> None:
    mel_frames = max(0, (samples - 400) // 160 + 1)
    halved = -(-mel_frames // 2)
    assert GRID.frames(samples) == -(-halved // 2)


def test_frames_at_the_edges() -> None:
    assert [GRID.frames(n) for n in (0, 399, 400, 1039, 1040)] == [0, 0, 1, 1, 2]


@given(
    st.integers(0, 400_000),
    st.integers(1, 40),
    st.integers(1, 10),
    st.lists(st.integers(0, 400_000), max_size=5),
)
def test_kept_frames_tile_the_recording(samples: int, step: int, context: int, cuts: list[int]) -> None:
    longest = step + 2 * context
    recording = np.arange(samples, dtype=np.float32)  # each sample says where it was
    chunker = Chunker(GRID, longest, context)
    windows = [w for block in np.split(recording, sorted(cuts)) for w in chunker.push(block)]
    windows += chunker.end()
    frames, position = GRID.frames(samples), 0
    for window in windows:
        start = int(window.samples[0])
        np.testing.assert_array_equal(window.samples, recording[start : start + len(window.samples)])
        computed = GRID.frames(len(window.samples))
        assert start % GRID.stride == 0 and computed <= longest
        assert start // GRID.stride + window.keep_from == position
        assert window.keep_from == min(context, position)
        assert window.keep_from < window.keep_to <= computed
        position = start // GRID.stride + window.keep_to
        assert computed - window.keep_to == (0 if position == frames else context)
    assert position == frames
    assert len(windows) == (frames > 0) or frames > longest


@given(st.lists(st.integers(400, 5_000), max_size=50), st.integers(400, 20_000))
def test_batches_hold_each_once_within_budget(lengths: list[int], budget: int) -> None:
    groups = batches(lengths, budget)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[index] for index in group)
        assert len(group) == 1 or len(group) * longest <= budget
    in_order = [lengths[index] for group in groups for index in group]
    assert in_order == sorted(lengths, reverse=True)
