"""/v1/audio/speech reads a text exactly; /v1/audio/transcriptions writes down what is heard."""

import io

import numpy as np
import openai
import pytest
from tiny.judges import word_middles

from omni_runtime.inputs.media import load_audio
from omni_runtime.options import ReplyOptions
from omni_runtime.server.speech import PIECE, pieces
from server.running import NAME, Running
from server.test_chat import wav

TEXT = "Seven plus five is twelve."


def speak(server: Running, text: str, **options) -> bytes:
    given = {"response_format": "wav", "voice": "alloy"} | options
    return server.openai().audio.speech.create(model=NAME, input=text, **given).content


def test_a_text_is_read_word_for_word(server: Running) -> None:
    """Forced alignment finds each of its words in the speech, and not those of another text."""
    for text in (TEXT, "The sky is blue.", "One, two, three, four."):
        samples = load_audio(speak(server, text), 24_000)
        assert word_middles(samples, text)
    other = word_middles(samples, "The opposite of left is right and the opposite of up is down.")
    assert not other or np.diff(other).min() < 0.06, "a text that was not read does not fit"


def test_long_texts_are_read_in_pieces(server: Running) -> None:
    sentence = "The sky is blue. "
    assert pieces(sentence) == [sentence.strip()]
    many = pieces(sentence * 40)
    assert " ".join(many) == (sentence * 40).strip() and max(map(len, many)) <= PIECE
    assert max(map(len, pieces("word " * 400))) <= PIECE and pieces("x" * 1000)[0] == "x" * PIECE
    once = len(load_audio(speak(server, sentence), 24_000))
    many_times = len(load_audio(speak(server, sentence * 16), 24_000))
    assert len(pieces(sentence * 16)) == 2 and many_times > 6 * once


@pytest.mark.parametrize(
    "sentence",
    ["Pi is 3.14159. ", "The U.S.A. is large. ", "Wait... what?! ", 'He said: "Stop." She did. ',
     "\u5929\u662f\u84dd\u7684\u3002", "Version v1.2.3\nand www.example.com! "],
)  # fmt: skip
def test_pieces_are_cut_from_the_text(sentence: str) -> None:
    """Word for word, and only where a sentence ends."""
    text = (sentence * 60).strip()
    found = pieces(text)
    assert len(found) > 1 and max(map(len, found)) <= PIECE
    place = 0
    for piece in found:
        start = text.index(piece, place)
        assert not text[place:start].strip()
        place = start + len(piece)
    assert place == len(text)
    marks = (".", "?", "!", '"', "\u3002", "1.2.3")
    assert all(piece.endswith(marks) for piece in found)


@pytest.mark.parametrize("name", ["mp3", "opus", "aac", "flac", "pcm"])
def test_formats(server: Running, name: str) -> None:
    data = speak(server, TEXT, response_format=name)
    samples = len(data) / 2 if name == "pcm" else len(load_audio(data, 24_000))
    assert 24_000 < samples < 10 * 24_000


@pytest.mark.parametrize(
    "options", [{"speed": 2.0}, {"response_format": "midi"}, {"voice": "nobody"}, {"input": " "}]
)
def test_speech_refused(server: Running, options: dict) -> None:
    with pytest.raises(openai.BadRequestError):
        speak(server, options.pop("input", TEXT), **options)


def test_transcriptions(server: Running, recording, monkeypatch) -> None:
    file = ("question.wav", io.BytesIO(wav(recording("ten", 16_000), 16_000)))
    create = server.openai().audio.transcriptions.create
    plain = create(model=NAME, file=file).text
    assert plain
    file[1].seek(0)
    verbose = create(model=NAME, file=file, response_format="verbose_json", language="en")
    assert verbose.duration == pytest.approx(len(recording("ten", 16_000)) / 16_000, abs=0.01)
    assert len(verbose.segments) == 1 and not verbose.words
    with pytest.raises(openai.BadRequestError, match="time stamps"):
        create(model=NAME, file=file, timestamp_granularities=["word"])
    limits: list[int] = []
    with monkeypatch.context() as patch:

        def brief(speech, *, max_tokens: int) -> ReplyOptions:
            limits.append(max_tokens)
            return ReplyOptions(speech, max_tokens=1)

        patch.setattr("omni_runtime.server.transcriptions.ReplyOptions", brief)
        file[1].seek(0)
        with pytest.raises(openai.BadRequestError, match="shorter recording"):
            create(model=NAME, file=file)
    assert limits == [server.engine.model.config.thinker.decoder.max_context]
    with pytest.raises(openai.BadRequestError):
        create(model=NAME, file=("empty.wav", io.BytesIO(b"nothing")))
