"""The networks of a bundle, and the names of their tensors in the checkpoint."""

from collections.abc import Container, Iterator
from dataclasses import dataclass, field

from onnxscript import nn

from omni_export.graphs.audio_encoder import AudioEncoder
from omni_export.graphs.decoder import Talker, Thinker
from omni_export.graphs.dit import Dit
from omni_export.graphs.vision_encoder import VisionEncoder
from omni_export.graphs.vocoder import Vocoder
from omni_export.source import SourceConfig
from omni_export.speech import DIT, MEL_COLUMNS, THINKER_TABLE

TALKER_TABLE = "talker.model.embed_tokens.weight"
LM_HEAD = "thinker.lm_head.weight"


@dataclass(frozen=True)
class Network:
    """A network, and the `prefix` of its tensors. `aliases` maps names to other tensors.

    `part` names the part of a tensor that is shared with another network.
    """

    name: str
    module: nn.Module
    prefix: str
    aliases: dict[str, str] = field(default_factory=dict[str, str])
    part: str = ""


def networks(source: SourceConfig, checkpoint: Container[str]) -> Iterator[Network]:
    """Yield the networks of the bundle one by one, so that only one is in memory.

    `checkpoint` tells which tensors there are; without `LM_HEAD` the embedding table is used twice.
    """
    yield Network("audio_encoder", AudioEncoder(source.audio), "thinker.audio_tower.")
    yield Network("vision_encoder", VisionEncoder(source.vision), "thinker.visual.")
    tied = {} if LM_HEAD in checkpoint else {LM_HEAD: THINKER_TABLE}
    yield Network("thinker", Thinker(source.text), "thinker.", tied, part="decoder")
    if (speech := source.speech) is not None:
        talker = Talker(speech.talker, speech.talker_ids.embedding_size)
        yield Network("talker", talker, "talker.")
        yield Network("dit", Dit(speech.dit), DIT, part=MEL_COLUMNS)
        vocoder = Vocoder(speech.vocoder)
        yield Network("vocoder", vocoder, "token2wav.code2wav_bigvgan_model.")
