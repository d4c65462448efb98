"""The exam by template shares no way of asking with the training, and every reply can be spoken."""

import random
import re
from itertools import islice

import numpy as np
import pytest
import torch
from tiny import exam, grammar, phrases, questions, templates
from tiny.audio import RATE
from tiny.weights import deepened
from transformers import Qwen2Config, Qwen2ForCausalLM


def plainly(text: str) -> str:
    return re.sub(r"[^a-z{} +-]", "", text.lower()).strip()


def test_templates_are_not_trained() -> None:
    known = [way for found in vars(phrases).values() if isinstance(found, tuple) for way in found]
    known += [way for ways in phrases.SMALL_TALK.values() for way in ways]
    known += [*questions.FOREIGN]
    trained = {plainly(way) for way in known}
    asked = [plainly(way) for _, way in templates.ALL + templates.BLIND]
    assert len(set(asked)) == len(asked) >= 60
    assert not trained.intersection(asked)
    wholes = {plainly(turn.question) for turn in drawn()}
    examined = {
        plainly(templates.ask(random.Random(n), n, ways).question)
        for ways in (templates.ALL, templates.BLIND)
        for n in range(4 * len(ways))
    }
    assert not wholes.intersection(examined)


@pytest.mark.parametrize("kind", ["typed", "template", "template, blind", "picture"])
def test_no_question_counts_twice(kind: str) -> None:
    asked = [repr(item.asked) for item in islice(exam.items(kind), 600)]
    assert len(set(asked)) == len(asked)


def drawn() -> list[questions.Turn]:
    rng = random.Random(0)
    return [turn for _ in range(5_000) for turn in questions.ask_for("train", rng)]


def test_every_reply_is_spoken_by_the_voices() -> None:
    replies = set(grammar.small_replies())
    examined = [templates.ask(random.Random(n), n) for n in range(300)]
    for turn in drawn() + examined:
        assert turn.answer in replies, turn


def test_sums_and_differences() -> None:
    said = {word: number for number, word in enumerate(grammar.NUMBERS)}
    checked = 0
    for turn in drawn():
        match = re.fullmatch(r"(\w+) (plus|minus) (\w+) is (\w+)\.", turn.answer)
        if match is None:
            continue
        a, b, result = (said[match[n].lower()] for n in (1, 3, 4))
        assert result == (a + b if match[2] == "plus" else a - b)
        checked += 1
    assert checked > 1_000


def test_a_deeper_decoder_gives_the_same_logits() -> None:
    def model(layers: int) -> Qwen2ForCausalLM:
        torch.manual_seed(layers)
        return Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=layers,
                num_attention_heads=4, num_key_value_heads=2,
            )
        ).eval()  # fmt: skip

    shallow, deep = model(4), model(6)
    deep.load_state_dict(deepened(shallow.state_dict(), 6))
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(deep(ids).logits, shallow(ids).logits)
    assert deepened(shallow.state_dict(), 4).keys() == shallow.state_dict().keys()


def test_worse_recordings() -> None:
    rng = np.random.default_rng(0)
    sound = rng.standard_normal(RATE).astype(np.float32) / 10
    spectrum = np.abs(np.fft.rfft(exam.telephone(sound)))
    assert np.mean(spectrum[4_200:] ** 2) < 1e-3 * np.mean(spectrum[200:3_600] ** 2)
    noise = exam.noisy(sound) - sound
    assert abs(10 * np.log10(np.mean(sound**2) / np.mean(noise**2)) - 10) < 0.2
