"""What quantization costs: outputs of a bundle against those of its checkpoint in float32.

Thinker and Talker run as in a reply, token by token, and are compared by KL divergence, perplexity
and first choices. The float32 layers run one after the other (`reference_decoder`), so memory holds
one matrix. Encoders are compared by cosine similarity with those of transformers.
"""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import transformers
from transformers import Qwen2_5OmniConfig
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as reference

from omni_export.build import build
from omni_export.checkpoint import Checkpoint
from omni_export.networks import networks
from omni_export.own_replies import talker_inputs
from omni_export.reference_decoder import SEQUENCE, ReferenceDecoder
from omni_export.second_moments import token_ids
from omni_export.source import SourceConfig, read_config
from omni_export.speech import THINKER_TABLE
from omni_runtime.arrays import FloatArray
from omni_runtime.bundle.contracts import contracts
from omni_runtime.engine.talker import TalkerSettings, own_sampling
from omni_runtime.errors import UsageError
from omni_runtime.inputs.mel_features import MelFeatures
from omni_runtime.inputs.messages import ContentPart
from omni_runtime.inputs.pixels import Patches
from omni_runtime.inputs.prompt import Message
from omni_runtime.model import Model


@dataclass(frozen=True)
class Divergence:
    """Of distributions p (checkpoint) and q (bundle) over the same tokens.

    `kl` is the mean of KL(p | q) in nats, `equal` the share of equal first choices, and the
    perplexities are those of the tokens that came next.
    """

    tokens: int
    perplexity: float
    bundle_perplexity: float
    kl: float
    equal: float


def text() -> str:
    """Return the text that ships for this purpose; it shares no sentence with the calibration."""
    return (resources.files("omni_export") / "quality.txt").read_text("utf-8")


class Comparison:
    """A bundle and the checkpoint it was exported from."""

    def __init__(self, model: Model, folder: Path) -> None:
        """Raises UsageError if the checkpoint has another shape than the bundle."""
        self._model = model
        self._folder = folder
        self._source = read_config(folder)
        decoder = model.config.thinker.decoder
        shape = (self._source.text.hidden_size, self._source.text.num_hidden_layers)
        if shape != (decoder.hidden_size, decoder.layers):
            raise UsageError(
                "the checkpoint has another shape than the bundle",
                fix="give the checkpoint that the bundle was exported from",
            )
        transformers.logging.set_verbosity_error()

    def thinker(self, text: str, tokens: int) -> Divergence:
        """Compare the text logits on the first `tokens` tokens of a text."""
        model, source = self._model, self._source
        ids = token_ids(text, model.tokenizer)[:tokens]
        if len(ids) < 2:
            raise UsageError("the text has less than two tokens", fix="give a longer one")
        decoder = ReferenceDecoder(self._graph("thinker", source), source.text)
        shape = (source.text.vocab_size, source.text.hidden_size)
        rows = Checkpoint(self._folder).claim(THINKER_TABLE, shape, "table").rows
        sums = _Sums()
        for start in range(0, len(ids), SEQUENCE):
            part = ids[start : start + SEQUENCE]
            embeddings = np.stack([rows(one, one + 1)[0] for one in part])
            wanted = decoder.product(decoder.layers(embeddings), "lm_head")
            cache = model.thinker.new_cache(len(part))
            found = (
                model.thinker.step(cache, one, position).logits
                for position, one in enumerate(part[:-1])
            )
            for p, q, following in zip(wanted, found, part[1:], strict=False):
                sums.add(p, q, following)
        return sums.result()

    def talker(self, text: str, tokens: int) -> Divergence:
        """Compare the codec logits of `tokens` codes while the bundle's Talker speaks a text."""
        model, source = self._model, self._source
        assert source.speech is not None
        ids = token_ids(text, model.tokenizer)[: min(tokens, SEQUENCE - 1)]
        cache = model.thinker.new_cache(len(ids))
        rows = [model.thinker.step(cache, one, n).talker_rows[0] for n, one in enumerate(ids)]
        inputs, found, codes = self._spoken(rows, min(tokens, SEQUENCE - 1))
        decoder = ReferenceDecoder(self._graph("talker", source), source.speech.talker)
        hidden = decoder.layers(decoder.product(inputs, "thinker_to_talker_proj"))
        sums = _Sums()
        for p, q, code in zip(decoder.product(hidden[1:], "codec_head"), found, codes, strict=True):
            sums.add(p, q, code)
        return sums.result()

    def _spoken(
        self, rows: list[FloatArray], count: int
    ) -> tuple[FloatArray, list[FloatArray], list[int]]:
        """Speak `count` codes: returns the Talker's input rows, the logits of each, the codes."""
        model = self._model
        talker, config = model.talker, model.speech.talker
        voice = model.speech.voices[model.speech.default_voice]
        settings = TalkerSettings(own_sampling(config), count, np.random.default_rng(0))
        stream = talker.start(talker.new_cache(count + 2), voice, rows[0], 0, settings)
        for row in rows[1:]:
            stream.feed(row)
        stream.end_text()
        logits: list[FloatArray] = []
        while not stream.ended and stream.step() is not None:
            logits.append(stream.logits)
        return talker_inputs(talker, voice, rows, stream.codes), logits, stream.codes

    def encoder(self, part: ContentPart) -> float:
        """Return the mean cosine similarity of the rows of a recording or a picture."""
        prompt = self._model.prompts.build([Message("user", [part])])
        (slot,) = prompt.media
        if isinstance(slot.features, Patches):
            found = self._model.vision_encoder.encode(slot.features)
            wanted = self._pictures(slot.features)
        else:
            found = self._model.audio_encoder.encode(slot.features)
            wanted = self._sound(slot.features)
        norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
        return float(((found * wanted).sum(1) / norms).mean())

    def _sound(self, features: MelFeatures) -> FloatArray:
        settings: Any = Qwen2_5OmniConfig.from_pretrained(self._folder).thinker_config.audio_config
        encoder = self._loaded(reference.Qwen2_5OmniAudioEncoder(settings), "thinker.audio_tower.")
        mel, frames = features.batch(0, features.blocks)
        joined = torch.from_numpy(
            np.concatenate([one[:, :count] for one, count in zip(mel, frames, strict=True)], axis=1)
        )
        total = joined.shape[1]
        lengths = torch.tensor([total]), torch.tensor([(total - 1) // 2 + 1])
        return _rows(encoder(joined, feature_lens=lengths[0], aftercnn_lens=lengths[1]))

    def _pictures(self, patches: Patches) -> FloatArray:
        settings: Any = Qwen2_5OmniConfig.from_pretrained(self._folder).thinker_config.vision_config
        encoder = self._loaded(reference.Qwen2_5OmniVisionEncoder(settings), "thinker.visual.")
        grid = torch.tensor([patches.grid])
        return _rows(encoder(torch.from_numpy(patches.values), grid_thw=grid))

    def _loaded(self, encoder: Any, prefix: str) -> Any:
        checkpoint = Checkpoint(self._folder)
        weights = {
            name.removeprefix(prefix): torch.from_numpy(checkpoint.claim(name).read())
            for name in checkpoint.shapes(prefix)
        }
        encoder.load_state_dict(weights)
        return encoder.float().eval()

    def _graph(self, name: str, source: SourceConfig) -> ir.Model:
        checkpoint = Checkpoint(self._folder)
        network = next(one for one in networks(source, checkpoint) if one.name == name)
        return build(network, contracts(self._model.config)[name], checkpoint)


def _rows(output: Any) -> FloatArray:
    found: torch.Tensor = (
        output.last_hidden_state if hasattr(output, "last_hidden_state") else output
    )
    return found.detach().numpy()


class _Sums:
    """Adds up the divergence of one token after the other."""

    def __init__(self) -> None:
        self._count = 0
        self._kl = self._loss = self._bundle_loss = self._equal = 0.0

    def add(self, p: FloatArray, q: FloatArray, following: int) -> None:
        """Add logits (vocabulary,) of both, and the token that came next."""
        a, b = _log_softmax(p), _log_softmax(q)
        self._count += 1
        self._kl += float((np.exp(a) * (a - b)).sum())
        self._loss -= float(a[following])
        self._bundle_loss -= float(b[following])
        self._equal += float(a.argmax() == b.argmax())

    def result(self) -> Divergence:
        """The means."""
        count = max(self._count, 1)
        return Divergence(
            tokens=self._count,
            perplexity=float(np.exp(self._loss / count)),
            bundle_perplexity=float(np.exp(self._bundle_loss / count)),
            kl=self._kl / count,
            equal=self._equal / count,
        )


def _log_softmax(logits: FloatArray) -> FloatArray:
    wide = logits.astype(np.float64)
    wide -= wide.max()
    return wide - np.log(np.exp(wide).sum())
