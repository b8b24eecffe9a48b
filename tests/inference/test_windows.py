from hypothesis import given
from hypothesis import strategies as st

from asr.inference.windows import FrameGrid, batches, cut

GRID = FrameGrid()


@given(st.integers(0, 200_000))
def test_frames_equal_the_model_chain(samples: int) -> None:
    mel_frames = max(0, (samples - 400) // 160 + 1)
    halved = -(-mel_frames // 2)
    assert GRID.frames(samples) == -(-halved // 2)


def test_frames_at_the_edges() -> None:
    assert [GRID.frames(n) for n in (0, 399, 400, 1039, 1040)] == [0, 0, 1, 1, 2]


@given(st.integers(0, 400_000), st.integers(1, 40), st.integers(1, 10))
def test_kept_frames_tile_the_recording(samples: int, step: int, context: int) -> None:
    longest = step + 2 * context
    windows = cut(samples, GRID, longest, context)
    frames = GRID.frames(samples)
    position = 0
    for window in windows:
        first = window.start // GRID.stride
        computed = GRID.frames(window.end - window.start)
        assert window.start % GRID.stride == 0 and window.end <= samples
        assert computed <= longest
        assert first + window.keep_from == position
        assert window.keep_from == min(context, position)
        assert 0 <= window.keep_from < window.keep_to <= computed
        position = first + window.keep_to
        assert computed - window.keep_to == min(context, frames - position)
    assert position == frames
    assert len(windows) == (frames > 0) or frames > longest


def test_windows_are_about_equal() -> None:
    # 31 s: one window of 30 s and a crumb would waste most of the second pass.
    kept = [w.keep_to - w.keep_from for w in cut(31 * 16_000, GRID, longest=750, context=75)]
    assert kept == [387, 388]


@given(st.lists(st.integers(400, 5_000), max_size=50), st.integers(400, 20_000))
def test_batches_hold_each_once_within_budget(lengths: list[int], budget: int) -> None:
    groups = batches(lengths, budget)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[index] for index in group)
        assert len(group) == 1 or len(group) * longest <= budget
    in_order = [lengths[index] for group in groups for index in group]
    assert in_order == sorted(lengths, reverse=True)
