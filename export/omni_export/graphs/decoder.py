"""One step of the Qwen2 decoder of Thinker and Talker: new rows in, KV cache extended in place.

One graph serves prefill and decode. The rotary tables are inputs; their row p belongs to cache
slot p. Multimodal positions (TMRoPE) therefore cost nothing inside the graph. Reference:
Qwen2_5OmniThinkerTextModel and Qwen2_5OmniTalkerForConditionalGeneration of transformers.
"""

from dataclasses import dataclass
from functools import cache

import onnx_ir as ir
from onnxscript.nn import Module, ModuleList

from omni_export.graphs.layers import GatedMLP, Linear, Op, RMSNorm, Value
from omni_export.source import DecoderSource
from omni_quantize.operators import MICROSOFT, forwarded, function


@dataclass(frozen=True)
class Step:
    """Inputs that all layers of one step share. See the contract for the shapes."""

    last_position: Value
    total_length: Value
    cos: Value
    sin: Value


@cache
def cached_attention() -> ir.Function:
    """Return grouped-query attention: rotate, append to the cache, attend under a causal mask.

    The function takes packed projections, float32 (1, rows, (heads + 2 kv_heads) * head_dim), the
    caches and the other inputs of the contract. It returns float32 (1, rows, heads * head_dim) and
    the extended caches. For an int8 cache, `omni_quantize.kv_cache.int8_cached_attention` replaces
    it.
    """
    packed, key, value, *rest = (
        ir.Value(name=name)
        for name in ("packed", "key", "value", "last_position", "total_length", "cos", "sin")
    )
    names = ("num_heads", "kv_num_heads")
    node = ir.Node(
        MICROSOFT,
        "GroupQueryAttention",
        [packed, None, None, key, value, *rest],
        [*forwarded(*names), ir.AttrInt64("do_rotary", 1)],
        num_outputs=3,
    )
    for output, name in zip(node.outputs, ("mixed", "new_key", "new_value"), strict=True):
        output.name = name
    return function("CachedAttention", [packed, key, value, *rest], [node], names)


class Attention(Module):
    """The attention of one layer.

    Queries and keys are one product. Values are another, so that a recipe can give them more bits.
    """

    def __init__(self, config: DecoderSource) -> None:
        super().__init__()
        query = config.num_attention_heads * config.head_dim
        state = config.num_key_value_heads * config.head_dim
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.qk_proj = Linear(config.hidden_size, {"q_proj": query, "k_proj": state})
        self.v_proj = Linear(config.hidden_size, state)
        self.o_proj = Linear(query, config.hidden_size, bias=False)

    def forward(
        self, op: Op, x: Value, step: Step, past_key: Value, past_value: Value
    ) -> tuple[Value, Value, Value]:
        mixed, key, value = op.call(
            cached_attention(),
            op.Concat(self.qk_proj(op, x), self.v_proj(op, x), axis=-1),
            past_key,
            past_value,
            step.last_position,
            step.total_length,
            step.cos,
            step.sin,
            num_heads=self.heads,
            kv_num_heads=self.kv_heads,
        )
        for output in (mixed, key, value):
            output.type = ir.TensorType(ir.DataType.FLOAT)
        return self.o_proj(op, mixed), key, value


class DecoderLayer(Module):
    def __init__(self, config: DecoderSource) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size)

    def forward(
        self, op: Op, x: Value, step: Step, past_key: Value, past_value: Value
    ) -> tuple[Value, Value, Value]:
        mixed, key, value = self.self_attn(
            op, self.input_layernorm(op, x), step, past_key, past_value
        )
        x = op.Add(x, mixed)
        return op.Add(x, self.mlp(op, self.post_attention_layernorm(op, x))), key, value


class Decoder(Module):
    def __init__(self, config: DecoderSource) -> None:
        super().__init__()
        self.layers = ModuleList([DecoderLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, op: Op, x: Value, step: Step, past: tuple[Value, ...]) -> list[Value]:
        """Return the normalized hidden states, then key and value of each layer."""
        present: list[Value] = []
        for index, layer in enumerate(self.layers):
            x, key, value = layer(op, x, step, past[2 * index], past[2 * index + 1])
            present += [key, value]
        return [self.norm(op, x), *present]


def last_row(op: Op, hidden: Value) -> Value:
    """Return the last row, (1, rows, width) to (1, width): a prefill needs only its logits."""
    return op.Gather(hidden, -1, axis=1)


class Thinker(Module):
    def __init__(self, config: DecoderSource) -> None:
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, op: Op, embeddings: Value, *rest: Value) -> list[Value]:
        hidden, *present = self.model(op, embeddings, Step(*rest[:4]), rest[4:])
        return [hidden, self.lm_head(op, last_row(op, hidden)), *present]


class Talker(Module):
    def __init__(self, config: DecoderSource, input_size: int) -> None:
        super().__init__()
        self.thinker_to_talker_proj = Linear(input_size, config.hidden_size)
        self.model = Decoder(config)
        self.codec_head = Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, op: Op, embeddings: Value, *rest: Value) -> list[Value]:
        x = self.thinker_to_talker_proj(op, embeddings)
        hidden, *present = self.model(op, x, Step(*rest[:4]), rest[4:])
        return [self.codec_head(op, last_row(op, hidden)), *present]
