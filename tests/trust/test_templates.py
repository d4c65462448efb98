"""Chat templates of strangers: one error, soon, and no memory."""

import time
import tracemalloc

import pytest

from inputs import reference
from omni_runtime.errors import BundleError, OmniError
from omni_runtime.inputs.messages import Message, Text
from omni_runtime.inputs.template import ChatTemplate

TALK = [Message("user", [Text(f"{i}")]) for i in range(300)]
LOOP = "{% for a in messages %}"
NESTED = LOOP * 5 + "x" + "{% endfor %}" * 5
GROWING = "{% set n = namespace(x='ab') %}" + LOOP + "{% set n.x = n.x EXPR n.x %}{% endfor %}"
HOSTILE = [
    NESTED,
    GROWING.replace("EXPR", "+"),
    GROWING.replace("EXPR", "~"),
    "{% set n = namespace(x=['a']) %}" + LOOP + "{% set n.x = n.x + n.x %}{% endfor %}",
    "{{ 'x' * 10**10 }}",
    "{{ 9**9**9 }}",
    "{{ '%9999999999d' % 1 }}",
    "{{ 'x'|center(10**10) }}",
    "{{ 'x'.ljust(10000000000) }}",
    "{{ '{:9999999999}'.format(1) }}",
    "{{ strftime_now('%9999999d') }}",
    "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "{{ messages|tojson(indent=10000000) }}",
    "{{ lipsum(n=100000) }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% set x = [messages, messages] %}{{ x }}",
    "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{% include '/etc/passwd' %}",
    "{{ ''.__class__.__mro__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ messages[0].content.append(1) }}",
    "{{ 1 + '' }}",
    "{{ messages[5000].role }}",
    "{{ none.x.y }}",
    "{{ raise_exception('a\x1b[31m\nb' ) }}",
    "{{ '\ue000" + "9" * 5000 + "\ue001' }}",
    "{{ " + "(" * 20_000,
    "{{ " + "-" * 20_000 + "1 }}",
    "{% if 1 %}" * 5000,
    "x" * 70_000,
    "{% for",
    "",
]


@pytest.mark.parametrize("source", HOSTILE, ids=lambda source: ascii(source)[:40])
def test_one_error_in_bounded_time_and_memory(source: str) -> None:
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(OmniError) as caught:
        ChatTemplate(source).render(TALK)
    seconds, peak = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 20 and peak < 100 * 2**20
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_templates_of_checkpoints_are_within_the_bounds() -> None:
    long = [Message("user", [Text("x")] * 20) for _ in range(2000)]
    pieces = ChatTemplate(reference.TEMPLATE).render(long)
    assert sum(isinstance(piece, int) for piece in pieces) == 40_000
    with pytest.raises(BundleError, match="it uses Macro"):
        ChatTemplate("{% macro m() %}{% endmacro %}")
