"""The recipe of the tagger: prepare, train two steps, export, compare."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from asr.formatting.marks import MARKS, parse
from asr.formatting.pauses import BUCKETS, KINDS, UNKNOWN, Pauses
from asr.formatting.tagger import GRAPH, Tagger
from asr.formatting.vocabulary import BEGIN, END, Vocabulary
from recipes.formatting import compare, export, pauses, prepare, train
from recipes.formatting.train import IGNORED, WindowConfig, Windows, load_tagger

SENTENCES = [
    'When we came, the house was empty. "Who is there?" asked McCall.',
    "Nobody answered; but I, for one, was afraid.",
    "In 1840 there was a war.",
    "Mr. Hall said: no! He laughed -- and left.",
]
RECIPE = Path(train.__file__).with_name("formatting.yaml")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared text of 60 books, and pauses of one reader."""
    folder = tmp_path_factory.mktemp("prose")
    book = "".join(f"{sentence}\n" for sentence in SENTENCES * 3)
    (folder / "prose.txt").write_text("\n".join([book] * 60))
    assert prepare.main(folder / "prose.txt", folder / "data") == 0
    shares = np.zeros((1, max(KINDS) + 1, BUCKETS))
    shares[0, range(max(KINDS) + 1), [1, 5, 9]] = 1
    (folder / "data" / "pauses.json").write_text(json.dumps({"shares": shares.tolist()}))
    return folder / "data"


@pytest.fixture(scope="module")
def checkpoint(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exp")
    settings = {
        "trainer.default_root_dir": root,
        "trainer.max_epochs": 1,
        "trainer.precision": "32-true",
        "model.shape.hidden": 8,
        "data.folder": data,
        "data.pauses": data / "pauses.json",
        "data.batches": 2,
        "data.validation": 1,
        "data.windows.batch": 4,
    }
    return train.train([f"--config={RECIPE}", *(f"--{key}={value}" for key, value in settings.items())])


def test_prepared_text(data: Path) -> None:
    vocabulary = Vocabulary.read(data / "words.txt")
    assert {"McCall", "mister", "I", "house"} <= set(vocabulary.forms)
    with np.load(data / "train.npz") as file:
        tokens = [t for s in SENTENCES * 3 if "1840" not in s for t in parse(s)]
        assert len(file["words"]) == 9 * len(tokens) == file["books"][-1] == file["paragraphs"][-1]
        assert file["words"][: len(tokens)].tolist() == vocabulary.encode(t.form for t in tokens)
        assert file["marks"][: len(tokens)].tolist() == [t.mark for t in tokens]


def test_windows(data: Path) -> None:
    vocabulary, reader = Vocabulary.read(data / "words.txt"), Pauses.read(data / "pauses.json")
    config = WindowConfig(words=30, batch=64, pauses=1.0, unknown=0.0)
    windows = Windows(data / "train.npz", vocabulary, config, reader, 3, 0)
    batch, same = windows[1], windows[1]
    assert all(torch.equal(a, b) for a, b in zip(batch, same, strict=True))
    assert not torch.equal(windows[0].words[:, :20], batch.words[:, :20])
    inside = torch.arange(batch.words.shape[1]) < batch.lengths[:, None]
    for i, row in enumerate(batch.words):
        [starts] = batch.words[i, :1] == BEGIN
        ends = batch.words[i, batch.lengths[i] - 1] == END
        words = row[inside[i]][int(starts) : int(batch.lengths[i]) - int(ends)]
        labelled = batch.marks[i] != IGNORED
        assert labelled.sum() == len(words) and torch.equal(row[labelled], words)
        if ends:
            assert MARKS[batch.marks[i][labelled][-1]] in ".?!"
        # Known pauses are this reader's; that after the last word is unknown.
        kinds = np.array(KINDS)[batch.marks[i][labelled]]
        found = batch.pauses[i][labelled].numpy()
        assert (found[:-1] == np.array([1, 5, 9])[kinds[:-1]]).all() and found[-1] == UNKNOWN
    assert 0.2 < float((batch.words[:, 0] == BEGIN).float().mean()) < 0.9


def test_the_exported_graph_is_the_network(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    assert export.main(checkpoint, data, tmp_path) == 0
    model = load_tagger(checkpoint)
    export.choose_bias(model, train.Prose(data))
    session = onnxruntime.InferenceSession((tmp_path / GRAPH).read_bytes())
    random, lengths = np.random.default_rng(0), np.array([20, 3, 11], np.int32)
    words = random.integers(0, Vocabulary.read(data / "words.txt").size, (3, 20))
    known = random.integers(0, BUCKETS, (3, 20))
    [found] = session.run(None, {"words": words, "pauses": known, "lengths": lengths})
    with torch.inference_mode():
        expected = model(*(torch.from_numpy(x.astype(np.int64)) for x in (words, known, lengths))).numpy()
    for i, length in enumerate(lengths):
        assert np.abs(found[:length, i] - expected[:length, i]).max() < 0.05  # int8 weights
    marks, cases = Tagger(tmp_path).tag(["HE", "CAME"])
    assert marks.shape == cases.shape == (2,)


def test_the_bias_is_chosen_by_f1() -> None:
    right = np.array([0, 0, 1, 1, 2])
    assert export.weighted_f1(right, right) == pytest.approx(np.sqrt(2) + 1)
    assert export.weighted_f1(np.zeros(5, int), right) == 0


def test_pauses_of_readers(tmp_path: Path) -> None:
    rows = [
        {
            "audio_filepath": "a",
            "speaker": "s",
            "text": "ONE TWO THREE",
            "formatted": "One, two. Three.",
            "head": 1.0,
        }
        | {"pauses": [0.25, 1.0], "tail": 2.0}
    ] * 600
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert pauses.main("fit", tmp_path / "out.json", [tmp_path / "a.jsonl"]) == 0
    found = Pauses.read(tmp_path / "out.json").shares
    assert found.shape == (1, 3, BUCKETS) and np.allclose(found.sum(axis=2), 1, atol=1e-3)
    assert found[0, 1].argmax() == 5 and found[0, 2].argmax() == 9 and (found[0, :, UNKNOWN] == 0).all()
    drawn = Pauses(found).draw(np.random.default_rng(0), np.full(2000, MARKS.index(",")))
    assert (drawn == 5).mean() > 0.8
    words, known = pauses.join(rows[:2], prompts=True)
    assert words == ["ONE", "TWO", "THREE"] * 2 and known == [0.25, 1.0, 3.0, 0.25, 1.0]


def test_the_table(data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "PAUSES", data / "pauses.json")
    assert compare.main(data.parent / "prose.txt", data) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    values = {row[1].strip(): [float(cell) for cell in row[2:11]] for row in rows[1:]}
    bigram = values["word bigrams, a paragraph at a time"]
    assert bigram[7] > 80 and bigram[8] > 90  # it has seen this text
    assert values["rules, a book at a time, simulated pauses"][7] > 90  # each sentence ends with a pause
    assert len({len(row) for row in rows}) == 1
