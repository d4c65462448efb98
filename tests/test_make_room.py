"""`make_room`: the oldest turns are forgotten, and the conversation goes on in the same context."""

import numpy as np
import pytest

from conftest import Twin
from omni_runtime.conversation import Conversation
from omni_runtime.engine.session import SessionOptions
from omni_runtime.inputs.messages import Audio
from omni_runtime.model import Model
from omni_runtime.options import ReplyOptions, SpeechOptions

SPOKEN = ReplyOptions(SpeechOptions(preset="fast", max_codes=24), max_tokens=12)
SILENT = ReplyOptions(None, max_tokens=12)


@pytest.mark.parametrize("options", [SPOKEN, SILENT])
def test_what_is_left_is_a_conversation_without_the_forgotten_turns(
    default_twin: Twin, options: ReplyOptions
) -> None:
    model = default_twin.model
    talk = Conversation(model, context=600)
    for question in ("one", "two two", "three three three"):
        list(talk.send(question, options))
    ids, messages = [*talk._context.ids], [*talk.messages]
    used, second = talk.context_used, talk._turns[1].start.context
    assert talk.make_room(600 - used) == 0, "it fits"
    assert talk.make_room(600 - used + 1) == 1
    assert talk.messages == [messages[0], *messages[3:]] and talk.turn_count == 2
    end_of_system = ids.index(ids[second.length])  # <|im_end|>, as at the end of a reply
    context = talk._context
    assert context.ids == ids[:end_of_system] + ids[second.length :]
    assert talk._turns[0].start.context.length == end_of_system
    assert talk.context_used == len(context.ids) == context.thinker.length
    assert talk._turns[0].start.context.position == second.position, "positions go on"
    list(talk.send("more", options))
    assert talk.last_tokens and talk.turn_count == 3


def test_first_layer_states_are_those_of_the_shifted_tokens(default_twin: Twin) -> None:
    """The head's rows and the kept rows stand where their tokens and positions say."""
    model = default_twin.model
    talk = Conversation(model)
    for question in ("one", "two two", "three three three"):
        list(talk.send(question, SPOKEN))
    talk.make_room(talk.context_limit - talk.context_used + 1)
    context = talk._context
    context.read_pending()
    count = len(context.ids)
    first = talk._turns[0].start.context
    positions = np.arange(count) + first.position - first.length
    again = model.thinker.new_cache()
    rows = model.thinker.embed(np.array(context.ids))
    model.thinker._decoder.extend(again, rows, np.tile(positions, (3, 1)))
    for mine, other in zip(context.thinker.states[:2], again.states[:2], strict=True):
        assert np.allclose(mine[0, :, :count], other[0, :, :count], atol=1e-5)
    assert np.array_equal(context.thinker.cos[:count], again.cos[:count])


def test_a_talk_goes_on_for_ever(default_twin: Twin) -> None:
    """Sound, text and cuts; the caches never grow beyond the context."""
    talk = Conversation(default_twin.model, context=400)
    sound = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    forgotten = 0
    for turn in range(12):
        list(talk.send([Audio((sound, 16_000))] if turn % 2 else "a question", SPOKEN))
        talk.truncate(0.1)
        if talk.context_limit - talk.context_used < 150:
            forgotten += talk.make_room(250)
        assert talk.context_used <= 400
    assert forgotten > 3 and len(talk.messages) == 1 + 2 * talk.turn_count


@pytest.mark.parametrize("cache", ["float32", "int8"])
def test_saved_after_forgetting(default_twin: Twin, tmp_path, cache) -> None:
    model = Model(default_twin.bundle, SessionOptions(threads=1, kv_cache=cache))
    talk = Conversation(model)
    for question in ("one", "two", "three"):
        list(talk.send(question, SILENT))
    assert talk.make_room(talk.context_limit - talk.context_used + 1) == 1
    talk.save(tmp_path / "talk")
    again = Conversation.load(tmp_path / "talk", model)
    for one in (talk, again):
        list(one.send("four", SILENT))
    assert talk.last_tokens == again.last_tokens
    talk.undo()
    talk.undo()
    assert talk.turn_count == 1
