"""A loaded bundle: its graphs and tables, each opened on first use.

Encoders that load quickly are released as soon as another graph is needed. Under a memory budget,
idle graphs are released when another one needs the memory, and opened again when needed: encoders
while a reply is spoken, the speech graphs while a medium is encoded.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

from omni_runtime.bundle.config import SpeechConfig
from omni_runtime.bundle.contracts import DECODERS, contracts
from omni_runtime.bundle.store import CHAT_TEMPLATE, TOKENIZER, Bundle
from omni_runtime.engine import kernels, prepack_cache
from omni_runtime.engine.cancellation import RunControl
from omni_runtime.engine.chunk_scheduler import (
    ChunkPolicy,
    ChunkScheduler,
    FixedScheduler,
    chunk_scheduler,
)
from omni_runtime.engine.code2wav import Code2Wav
from omni_runtime.engine.decoder import Decoder
from omni_runtime.engine.dit import Dit, Noise
from omni_runtime.engine.encoders import AudioEncoder, VisionEncoder
from omni_runtime.engine.kernels import KernelLibrary
from omni_runtime.engine.session import Graph, SessionOptions, open_session
from omni_runtime.engine.solver import nfe
from omni_runtime.engine.speed import SynthesisSpeed, trial
from omni_runtime.engine.talker import Talker
from omni_runtime.engine.thinker import Thinker
from omni_runtime.engine.vocoder import Vocoder
from omni_runtime.errors import UsageError
from omni_runtime.inputs.audio_stream import AudioStream
from omni_runtime.inputs.prompt import PromptBuilder
from omni_runtime.inputs.tokenizer import Tokenizer
from omni_runtime.memory import ENCODERS, Budget, Footprint

PROPERTIES = {"dit": "_dit_graph"}
"""Attributes that hold an open graph under another name than the graph's."""


class Model:
    """Everything of a bundle that conversations share."""

    def __init__(self, bundle: Bundle | str | Path, options: SessionOptions | None = None) -> None:
        """Open a bundle; graphs are opened on first use. Raises BundleError."""
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
        self.config = self.bundle.config
        self.options = options or SessionOptions()
        self._contracts = contracts(self.config, self.options.kv_cache)
        self._kernels = kernels.find() if self.options.native else KernelLibrary(None)
        self.budget = Budget(self._footprint(), self.options.memory, self._quick())
        self._dits: dict[str, Dit] = {}
        self.lock = RLock()
        """Held by whoever runs a graph: one step at a time, whichever conversation it is for."""
        self.control = RunControl()
        self.prefix_contexts: dict[str, Any] = {}
        """Contexts that have read a system prompt, by its text (`system_prefix`)."""

    def warm_up(self, progress: Callable[[str], None] | None = None) -> None:
        """Compile the kernels for this CPU, unless that is done already: about 5 s, once.

        Opening the first graph does the same. `progress` gets a line before it starts.
        """
        if self._kernels.pending:
            self._kernels = kernels.build(progress)
            self.budget.footprint, self.budget.quick = self._footprint(), self._quick()

    def _footprint(self) -> Footprint:
        cache = self.options.kv_cache
        return Footprint.of(self.bundle.manifest, native=self._kernels.usable, cache=cache)

    def _quick(self) -> list[str]:
        """The encoders that open in a moment."""
        return [name for name in ENCODERS if self._kernels.reads(name)]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self.bundle.folder / TOKENIZER, self.config.thinker.tokens)

    @cached_property
    def prompts(self) -> PromptBuilder:
        return PromptBuilder(self.tokenizer, self.bundle.text(CHAT_TEMPLATE), self.config)

    @cached_property
    def thinker(self) -> Thinker:
        return Thinker(
            self.config.thinker,
            Decoder(self._opened("thinker")),
            self.bundle.table("thinker_embedding"),
            lambda: self.audio_encoder,
            lambda: self.vision_encoder,
        )

    @cached_property
    def audio_encoder(self) -> AudioEncoder:
        """Do not keep a reference: an encoder that is referenced elsewhere cannot be released."""
        assert self.config.audio is not None
        return AudioEncoder(self._opened("audio_encoder"), self.config.audio)

    @cached_property
    def vision_encoder(self) -> VisionEncoder:
        """Do not keep a reference: an encoder that is referenced elsewhere cannot be released."""
        assert self.config.vision is not None
        return VisionEncoder(self._opened("vision_encoder"), self.config.vision)

    @property
    def speech(self) -> SpeechConfig:
        """The speech part of the configuration. Raises UsageError for a bundle without speech."""
        if self.config.speech is None:
            raise UsageError(
                f"{self.bundle.folder} has no voice: its checkpoint does not speak",
                fix="ask for replies without speech: ReplyOptions(speech=None)",
                code="no_speech",
            )
        return self.config.speech

    def audio_stream(self, rate: int | None = None) -> AudioStream:
        """Return a stream for sound that is still being recorded, pushed at `rate` Hz.

        Raises UsageError for a bundle that does not hear.
        """
        if self.config.audio is None:
            raise UsageError(f"{self.bundle.folder} cannot hear", fix="use another bundle")
        return AudioStream(self.config.audio, rate)

    @property
    def codes_per_second(self) -> float:
        """Codec codes per second of speech."""
        vocoder, dit = self.speech.vocoder, self.speech.dit
        return vocoder.sample_rate / vocoder.samples_per_frame / dit.frames_per_code

    @cached_property
    def talker(self) -> Talker:
        return Talker(
            self.speech.talker,
            Decoder(self._opened("talker")),
            self.bundle.table("talker_embedding"),
            self.bundle.table("thinker_embedding"),
            self.speech.dit.codes,
        )

    @cached_property
    def vocoder(self) -> Vocoder:
        return Vocoder(self._opened("vocoder"), self.speech.vocoder)

    @cached_property
    def _dit_graph(self) -> Graph:
        return self._opened("dit")

    def dit(self, preset: str) -> Dit:
        """Return the DiT with the constants of a preset."""
        if preset not in self._dits:
            self._dits[preset] = Dit(
                self._dit_graph,
                self.speech.dit,
                self.bundle.preset(preset),
                self.bundle.table("dit_code"),
                self.bundle.modulation(preset),
            )
        return self._dits[preset]

    @cached_property
    def synthesis_speed(self) -> SynthesisSpeed:
        """Speech speed of this machine, measured on first use."""
        voice = np.asarray(self.bundle.voice(self.speech.default_voice), np.float32)
        dit = self.dit(self.speech.default_preset)
        return trial(self.talker, dit, self.vocoder, voice)

    @property
    def nfe(self) -> dict[str, int]:
        """Function evaluations of each preset."""
        return {name: nfe(preset) for name, preset in self.speech.presets.items()}

    def faster_presets(self, preset: str) -> tuple[str, ...]:
        """Presets with fewer function evaluations than this one, most evaluations first."""
        cost = self.nfe
        faster = [name for name in cost if cost[name] < cost[preset]]
        return tuple(sorted(faster, key=lambda name: -cost[name]))

    def code2wav(
        self, voice: str, preset: str, noise: Noise, chunk_scheduler: ChunkScheduler | None = None
    ) -> Code2Wav:
        """Start the synthesis of an utterance, by default in chunks of `FixedScheduler`."""
        condition = np.asarray(self.bundle.voice(voice), np.float32)
        return Code2Wav(
            self.dit(preset), self.vocoder, condition, noise, chunk_scheduler or FixedScheduler()
        )

    def chunk_scheduler(self, name: ChunkPolicy, clock: Callable[[], float]) -> ChunkScheduler:
        """Return a scheduler for one utterance; `clock` is that of `AdaptiveScheduler`."""
        codes = self.speech.dit.block_frames // self.speech.dit.frames_per_code
        return chunk_scheduler(name, codes / self.codes_per_second, codes, clock)

    def _opened(self, graph: str) -> Graph:
        """Open a graph and keep it open. Raises AdmissionError when the budget has no room."""
        self.warm_up()
        for idle in self.budget.displaced_by(graph):
            if idle == "dit":
                self._dits.clear()
            vars(self).pop(
                PROPERTIES.get(idle, idle), None
            )  # the cached property is computed again on next use
            self.budget.open.remove(idle)
        opened = self.graph(graph)
        self.budget.open.append(graph)
        return opened

    def graph(self, graph: str) -> Graph:
        """Open one graph and check it against its contract."""
        self.warm_up()
        cache = self.options.kv_cache if graph in DECODERS else "float32"
        path = self.bundle.graph_path(graph, cache)
        copy = None
        if self.options.prepack_cache:
            copy = prepack_cache.place(self.bundle.manifest, path, graph, self._kernels)
        session = open_session(path, self._contracts[graph], self.options, copy)
        return Graph(session, self.control)
