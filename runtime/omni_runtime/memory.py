"""Memory estimates from a bundle's manifest, and a budget that graphs and contexts must fit in.

Nothing is opened here. A budget sums the contexts of all conversations with one model.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from weakref import WeakSet

from omni_runtime.bundle.config import DecoderConfig, ModelConfig
from omni_runtime.bundle.contracts import DECODERS, CacheType
from omni_runtime.bundle.manifest import Manifest
from omni_runtime.engine.kv_cache import FIRST_CAPACITY, KVCache
from omni_runtime.errors import UsageError

ENCODERS = ("audio_encoder", "vision_encoder")
VOICE = ("talker", "dit", "vocoder")

MAPPED_AND_PACKED = 1.6
"""Upper bound of resident memory over file size, for a decoder whose weights are mapped and
prepacked. Measured: 1.6 with 4 bits and blocks of 32, 1.0 with float32."""

MAPPED = 1.1
"""The same where our kernels read the mapped file directly. Measured: 1.04."""

ENCODED = 1.25
"""The same for every other graph. Measured: 1.1 with int8, 1.0 with float32."""

OVERHEAD = 2**29
"""Bytes of Python, libraries and activations when the export measured no reply."""

MIN_OVERHEAD = 2**27
"""Lower bound of the same when it did: Python and its libraries take nearly this much."""

MIN_CONTEXT = 1024
"""Tokens of the shortest useful context: a picture and a few turns."""


@dataclass(frozen=True)
class Footprint:
    """Estimated bytes of a bundle: each open graph, the context, and the overhead."""

    config: ModelConfig
    graphs: dict[str, int]
    overhead: int
    cache: CacheType = "float32"

    @classmethod
    def of(
        cls, manifest: Manifest, *, native: bool = False, cache: CacheType = "float32"
    ) -> "Footprint":
        """Estimate from file sizes and from the reply that the export measured, if any.

        `native`: whether our own kernels run. `cache`: KV cache type.
        """
        decoder = MAPPED if native else MAPPED_AND_PACKED
        graphs = {
            name: int((decoder if name in DECODERS else ENCODED) * graph.bytes)
            for name, graph in manifest.graphs.items()
        }
        found = cls(manifest.model, graphs, OVERHEAD)
        if manifest.measured is None:
            return replace(found, cache=cache)
        speech = manifest.model.speech is not None
        known = found.needed(FIRST_CAPACITY, speech=speech) - found.overhead
        overhead = max(manifest.measured.peak_memory - known, MIN_OVERHEAD)
        return replace(found, overhead=overhead, cache=cache)

    def needed(self, tokens: int, *, speech: bool, encoders: Collection[str] = ()) -> int:
        """Bytes for a conversation of `tokens` tokens with one encoder open at a time."""
        return self._with(tokens, self._voice(speech) + self._largest(encoders), speech)

    def least(self, tokens: int, *, speech: bool, encoders: Collection[str] = ()) -> int:
        """The same when encoders and speech graphs are never open together."""
        return self._with(tokens, max(self._voice(speech), self._largest(encoders)), speech)

    def _with(self, tokens: int, beside: int, speech: bool) -> int:
        context = self.context(tokens, speech=speech)
        return self.overhead + self.graphs["thinker"] + beside + context

    def _voice(self, speech: bool) -> int:
        return sum(self.graphs[name] for name in VOICE) if speech else 0

    def _largest(self, encoders: Collection[str]) -> int:
        return max((self.graphs.get(name, 0) for name in encoders), default=0)

    def context(self, tokens: int, *, speech: bool) -> int:
        """Bytes of `tokens` tokens in the caches of the Thinker and, with `speech`, the Talker."""
        decoders: list[DecoderConfig] = [self.config.thinker.decoder]
        if speech and self.config.speech is not None:
            decoders.append(self.config.speech.talker.decoder)
        return sum(KVCache.bytes_for(d, min(tokens, d.max_context), self.cache) for d in decoders)


class AdmissionError(UsageError):
    """The memory budget has no room for what was asked for."""

    code = "out_of_memory"


class Lease:
    """Memory that a budget reserves for one context, until it is released or dropped."""

    def __init__(self, budget: "Budget", tokens: int | None, reserved: int) -> None:
        """`tokens` is the context's limit; None for the model's own."""
        self.tokens = tokens
        self.reserved = reserved
        self._budget = budget

    def release(self) -> None:
        """Give the memory back."""
        self._budget.release(self)


class Budget:
    """Open graphs, leased contexts, and which graphs to release before another one is opened.

    Without a limit only encoders that load quickly are released.
    """

    def __init__(
        self, footprint: Footprint, limit: int | None, quick: Collection[str] = ()
    ) -> None:
        """`limit` in bytes or None; `quick` are the encoders that load quickly."""
        self.footprint = footprint
        self.limit = limit
        self.quick = quick
        self.open: list[str] = []
        self._spoke = False
        self._promised = False
        self._leases: WeakSet[Lease] = WeakSet()

    def lease(self, asked: int | None = None) -> "Lease":
        """Reserve the memory of a context of `asked` tokens until the lease is released.

        None asks for all that is left when the bundle hears, sees and speaks, but at least
        MIN_CONTEXT. Without a limit nothing is reserved. Raises AdmissionError when the context
        does not fit beside the Thinker and the contexts that are leased already, and beside speech
        if that was promised.
        """
        if asked is not None and asked < 1:
            raise UsageError(f"a context of {asked} tokens is too short", fix="at least 1 token")
        if self.limit is None:
            return Lease(self, asked, 0)
        footprint = self.footprint
        longest = footprint.config.thinker.decoder.max_context
        tokens = asked
        if tokens is None:
            speech = footprint.config.speech is not None
            rest = self.limit - footprint.needed(0, speech=speech, encoders=ENCODERS)
            rest -= self._leased(speech=speech)
            tokens = max(rest // footprint.context(1, speech=speech), MIN_CONTEXT)
        tokens = min(tokens, longest)
        speech = self._promised
        needed = footprint.needed(tokens, speech=speech) + self._leased(speech=speech)
        self._check(f"a context of {tokens} tokens", needed)
        lease = Lease(self, tokens, tokens)
        self._leases.add(lease)
        return lease

    def promise_speech(self) -> None:
        """From now on lease only what leaves room for speech. Raises AdmissionError without it."""
        self._check("speech", self._bytes({"thinker", *VOICE}, spoke=True))
        self._promised = True

    def release(self, lease: "Lease") -> None:
        """Give the memory of a lease back."""
        self._leases.discard(lease)

    def _leased(self, *, speech: bool) -> int:
        """Bytes of all leased contexts."""
        reserved = (lease.reserved for lease in self._leases)
        return sum(self.footprint.context(tokens, speech=speech) for tokens in reserved)

    def displaced_by(self, graph: str) -> list[str]:
        """Return what to release before `graph` is opened: encoders first, then speech graphs.

        Of each kind the one opened first is released first. Raises AdmissionError when `graph`
        would not fit even then.
        """
        if self.limit is None:
            return [name for name in self.open if name in self.quick]
        speaks = graph in VOICE
        spoke = (
            self._spoke or speaks or "talker" in self.open
        )  # its cache stays when the graph is released
        coming = (
            VOICE if speaks else (graph,)
        )  # all or nothing, or a reply could not start to speak
        kinds = [ENCODERS] if speaks else [ENCODERS, VOICE]
        idle = [n for kind in kinds for n in self.open if n in kind and n not in coming]
        fixed = {*coming, *(name for name in self.open if name not in idle)}
        what = "speech" if speaks else f"the {graph.replace('_', ' ')}"
        self._check(what, self._bytes(fixed, spoke))
        gone = 0
        while self._bytes({*fixed, *idle[gone:]}, spoke) > self.limit:
            gone += 1
        self._spoke = spoke
        return idle[:gone]

    def _bytes(self, graphs: set[str], spoke: bool) -> int:
        shortest = min(MIN_CONTEXT, self.footprint.config.thinker.decoder.max_context)
        context = max(self._leased(speech=spoke), self.footprint.context(shortest, speech=spoke))
        return self.footprint.overhead + context + sum(self.footprint.graphs[n] for n in graphs)

    def _check(self, what: str, needed: int) -> None:
        if self.limit is not None and needed > self.limit:
            raise AdmissionError(
                f"{what} does not fit: about {format_limit(needed)} of memory are needed, "
                f"the budget is {format_limit(self.limit)}",
                fix="raise the memory limit, use a shorter context, reply without speech, "
                "or use a bundle of a smaller recipe",
                details={"needed": format_limit(needed)},
            )


def format_limit(count: int) -> str:
    """Format a memory limit in bytes, rounded up: 4.2G, 140M."""
    if count >= 2**30:
        return f"{math.ceil(count / 2**30 * 10) / 10:.1f}G"
    return f"{math.ceil(count / 2**20)}M"
