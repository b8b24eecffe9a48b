"""Fields of forms -> tasks, transcripts -> answers; no server."""

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.types import Hypothesis, Word
from asr.errors import AudioError, AudioTooLongError, BundleError, UnsupportedAudioError, UsageError
from asr.inference.transcript import Transcript, assemble
from asr.serve import openai
from asr.serve.openai import ApiError, Task, as_api_error, read_task, render
from asr.serve.options import Size

WORDS = (Word("SO", 0.1, 0.3, 0.5), Word("IT", 0.4, 0.5, 1.0), Word("IS", 2.0, 2.3, 0.0))
SPEECH = assemble([Hypothesis(WORDS, 0.0)], 3.2, split=False)
NOTHING = Transcript((), 1.0)

words = st.lists(
    st.builds(Word, st.text("ABC'", min_size=1), st.floats(0, 9), st.floats(9, 20), st.floats(0, 1)),
    max_size=9,
)


def task(*fields: tuple[str, str], **given_: str) -> Task:
    return read_task([*fields, *given_.items()])


def refused(*fields: tuple[str, str], **given_: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        task(*fields, **given_)
    return caught.value


def test_defaults_and_fields_that_are_ignored() -> None:
    ignored = {
        "model": "whisper-1",
        "prompt": "x",
        "temperature": "0.2",
        "chunking_strategy": "auto",
        "vad": "1",
    }
    assert task(**ignored) == task() == Task()


@pytest.mark.parametrize("value", [["word", "segment"], ["word,segment"], ['["word", "segment"]']])
@pytest.mark.parametrize("name", ["timestamp_granularities", "timestamp_granularities[]"])
def test_granularities_as_clients_send_them(name: str, value: list[str]) -> None:
    assert set(task(*((name, v) for v in value)).granularities) == {"word", "segment"}


@pytest.mark.parametrize("language", ["en", "EN", "en-US", "en_GB", "english", "English", "", "auto"])
def test_languages_accepted(language: str) -> None:
    assert task(language=language).language == "en"
    assert task(("languages[]", "de"), ("languages[]", language or "en")).language == "en"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ([("response_format", "diarized_json")], "response_format", "invalid_value"),
        ([("timestamp_granularities[]", "letter")], "timestamp_granularities", "invalid_value"),
        ([("include[]", "everything")], "include", "invalid_value"),
        ([("include[]", "logprobs"), ("response_format", "srt")], "include", "invalid_value"),
        ([("stream", "maybe")], "stream", "invalid_value"),
        ([("stream", "true"), ("response_format", "vtt")], "stream", "invalid_value"),
        ([("language", "de")], "language", "unsupported_language"),
        ([("language", "enx")], "language", "unsupported_language"),
        ([("known_speaker_names[]", "Ann")], "known_speaker_names[]", "invalid_value"),
        ([("keywords[]", "x" * 300)], "keywords", "invalid_value"),
        ([("keywords[]", "x")] * 101, "keywords", "invalid_value"),
    ],
)
def test_fields_refused(fields: list[tuple[str, str]], param: str, code: str) -> None:
    error = refused(*fields)
    assert (error.status, error.param, error.code) == (400, param, code)
    assert error.headers() == {"x-should-retry": "false"}


def test_a_strict_server_knows_one_model() -> None:
    assert read_task([("model", "box")], model="box") == Task()
    with pytest.raises(ApiError, match="whisper-1") as caught:
        read_task([("model", "whisper-1")], model="box")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_verbose_json_has_all_keys_of_the_reference() -> None:
    asked = Task("verbose_json", granularities=("word", "segment"))
    answer = json.loads(render(SPEECH, asked)[0])
    assert answer["task"] == "transcribe" and answer["language"] == "english" and answer["duration"] == 3.2
    assert answer["usage"] == {"type": "duration", "seconds": 4}
    kinds = dict.fromkeys(("id", "seek"), int) | dict.fromkeys(("start", "end", "temperature"), float)
    kinds |= dict.fromkeys(("avg_logprob", "compression_ratio", "no_speech_prob"), float)
    kinds |= {"text": str, "tokens": list}
    for number, segment in enumerate(answer["segments"]):
        assert {key: type(value) for key, value in segment.items()} == kinds
        assert segment["id"] == number
    assert [s["text"] for s in answer["segments"]] == ["SO IT", "IS"]
    assert answer["segments"][0]["avg_logprob"] == pytest.approx(-0.3466, abs=1e-4)
    assert answer["segments"][0]["compression_ratio"] == round(5 / len(zlib.compress(b"SO IT")), 4)
    assert answer["words"][0] == {"word": "SO", "start": 0.1, "end": 0.3, "confidence": 0.5}


@pytest.mark.parametrize(("asked", "keys"), [(("word",), {"words"}), (("segment",), {"segments"})])
def test_granularities_select_keys(asked: tuple[str, ...], keys: set[str]) -> None:
    answer = json.loads(render(SPEECH, Task("verbose_json", granularities=asked))[0])
    assert {"words", "segments"} & set(answer) == keys


@pytest.mark.parametrize("form", openai.FORMATS)
def test_a_recording_without_words_in_every_format(form: str) -> None:
    content, media_type = render(NOTHING, Task(form))
    assert media_type == openai.MEDIA_TYPES.get(form, "application/json")
    assert form not in ("json", "verbose_json") or json.loads(content)["text"] == ""


def test_what_is_missing_of_a_recording_is_said() -> None:
    cut = Transcript(SPEECH.segments, 3.2, incomplete="1.00 of 3.20 s", warnings=("silent",))
    for form in ("json", "verbose_json"):
        answer = json.loads(render(cut, Task(form))[0])
        assert answer["incomplete"] == "1.00 of 3.20 s" and answer["warnings"] == ["silent"]


@given(words, st.integers(1, 4))
def test_joined_deltas_and_tokens_are_the_text(found: list[Word], size: int) -> None:
    asked = Task(stream=True, logprobs=True)
    parts = [found[i : i + size] for i in range(0, len(found), size)]
    deltas = [openai.delta(part, not i, asked) for i, part in enumerate(parts)]
    text = " ".join(word.text for word in found)
    assert "".join(part["delta"] for part in deltas) == text
    entries = [entry for part in deltas for entry in part["logprobs"]]
    assert "".join(entry["token"] for entry in entries) == text
    assert b"".join(bytes(entry["bytes"]) for entry in entries) == text.encode()
    assert all(entry["logprob"] <= 0 for entry in json.loads(json.dumps(entries, allow_nan=False)))


@pytest.mark.parametrize(
    ("error", "status", "code", "kind"),
    [
        (AudioError("a: cut"), 400, "invalid_audio", "invalid_request_error"),
        (AudioTooLongError("a: long"), 413, "audio_too_long", "invalid_request_error"),
        (UnsupportedAudioError("a: codec"), 415, "unsupported_format", "invalid_request_error"),
        (BundleError("model.onnx: broken"), 500, "server_error", "server_error"),
        (KeyError("secret"), 500, "server_error", "server_error"),
        (ApiError(401, "invalid_api_key", "key"), 401, "invalid_api_key", "authentication_error"),
        (ApiError(429, "rate_limit_exceeded", "x", retry=5), 429, "rate_limit_exceeded", "rate_limit_error"),
    ],
)
def test_errors_in_their_shape(error: Exception, status: int, code: str, kind: str) -> None:
    answer = as_api_error(error)
    body = answer.body()["error"]
    assert (answer.status, body["code"], body["type"]) == (status, code, kind)
    assert set(body) == {"message", "type", "param", "code"} and "secret" not in body["message"]
    assert answer.headers() == ({"retry-after": "5"} if status == 429 else {"x-should-retry": "false"})


@pytest.mark.parametrize(("text", "size"), [("512M", 512 << 20), ("1g", 1 << 30), ("10KB", 10_240), ("7", 7)])
def test_sizes(text: str, size: int) -> None:
    assert Size(text) == size == Size(str(Size(text)))
    for wrong in ("", "M", "1.5M", "-1", "1T", "many"):
        with pytest.raises(UsageError, match="size"):
            Size(wrong)
