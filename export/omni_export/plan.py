"""Plan an export: the list of artifacts of a bundle, before any weight is read.

Planning claims every tensor and traces every graph. Missing or extra tensors and wrong shapes are
thus reported within seconds, not after minutes of work.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from omni_export import second_moments
from omni_export.artifacts import Artifact, Written
from omni_export.build import build
from omni_export.checkpoint import Checkpoint
from omni_export.equalize import equalize
from omni_export.graph_files import GraphWriter, weights
from omni_export.hub import LocalCheckpoint
from omni_export.model_config import PRESETS, model_config, read_generation
from omni_export.networks import TALKER_TABLE, networks
from omni_export.reference_decoder import ReferenceDecoder
from omni_export.source import DecoderSource, SourceConfig, SpeechSource
from omni_export.speech import (
    THINKER_TABLE,
    VOICES,
    InputProjection,
    TimeModulation,
    Voice,
    code_table,
    modulation_times,
    read_voices,
    require_speech,
    rotary_frequencies,
)
from omni_quantize import imported, nbits, tables
from omni_runtime.arrays import FloatArray
from omni_runtime.bundle.config import ModelConfig
from omni_runtime.bundle.contracts import GraphContract, contracts
from omni_runtime.bundle.store import TOKENIZER, modulation_file
from omni_runtime.inputs.tokenizer import Tokenizer

DROPPED = {"thinker.audio_tower.audio_bos_eos_token.": "the reference never reads it"}
"""Unused tensors, by name or prefix, with the reason."""

PROJECTION = "thinker_to_talker_proj"
"""What the rows of the Thinker pass through on their way into the Talker."""

SILENT = "the bundle does not speak: --mute, or enable_audio_output of config.json"

Advance = Callable[[int], None]

Calibrate = Callable[[ir.Model, set[str], Path], nbits.Measure]
"""Returns what measures the inputs of some weights of a graph of a bundle."""


@dataclass(frozen=True)
class Plan:
    """The model configuration, the voices, and all artifacts to write.

    `fit_talker` returns the artifact that replaces the Talker when its inputs are known, float32
    (rows, input_size). It is None where nothing is fitted.
    """

    config: ModelConfig
    voices: dict[str, Voice]
    artifacts: tuple[Artifact, ...]
    fit_talker: Callable[[FloatArray], Artifact] | None


def make(local: LocalCheckpoint, source: SourceConfig, writer: GraphWriter) -> Plan:
    """Plan the bundle of a checkpoint.

    Raises OmniError if the checkpoint is incomplete, damaged, or has unused tensors, and UsageError
    if a rule of the recipe does not apply.
    """
    folder, voiced = local.folder, local.speech_folder
    checkpoint = Checkpoint(folder, adapter=local.adapter, speech_from=local.speech_from)
    checkpoint.drop(DROPPED)
    shape = (source.text.vocab_size, source.text.hidden_size)
    rows = checkpoint.claim(THINKER_TABLE, shape, "table").rows
    artifacts = [_table(writer, "thinker_embedding", shape, rows)]
    voices: dict[str, Voice] = {}
    frequencies = None
    if (speech := source.speech) is None:
        checkpoint.drop({"talker.": SILENT, "token2wav.": SILENT})
    else:
        require_speech(checkpoint, folder)
        projection = InputProjection(checkpoint, speech.dit)
        voices = read_voices(voiced / VOICES, checkpoint, speech, projection)
        frequencies = rotary_frequencies(checkpoint, speech)
        artifacts += _speech_tables(writer, checkpoint, speech, projection)
    config = model_config(folder, source, voices, frequencies, read_generation(voiced))

    def calibrate(thinker: ir.Model, wanted: set[str], bundle: Path) -> nbits.Measure:
        tokenizer = Tokenizer(bundle / TOKENIZER, config.thinker.tokens)
        embeddings = second_moments.embedded(writer.calibration, tokenizer, rows)
        return _fit(thinker, source.text, embeddings, wanted)

    mels = [voice.mel for voice in voices.values()]
    artifacts += _graphs(writer, checkpoint, source, config, mels, calibrate)
    checkpoint.check_all_used()

    def fit_talker(rows: FloatArray) -> Artifact:
        again = Checkpoint(folder, adapter=local.adapter, speech_from=local.speech_from)
        return _fitted_talker(writer, again, source, config, rows)

    searched = any(map(nbits.searched, writer.recipe.graphs["talker"]))
    fitted = speech and writer.calibration and searched and not checkpoint.random
    return Plan(config, voices, tuple(artifacts), fit_talker if fitted else None)


def _fit(
    model: ir.Model,
    config: DecoderSource,
    embeddings: FloatArray,
    wanted: set[str],
    given: Mapping[str, FloatArray] | None = None,
) -> nbits.Measure:
    """Scale a decoder's weights for 4 bits, and measure the inputs of those `wanted`.

    Weights that are quantized already stay as they are, and so do all others with them. `given`:
    see `second_moments.InOrder`.
    """
    if not any(map(imported.packed_of, model.graph.initializers.values())):
        equalize(model, config, embeddings)
    return second_moments.InOrder(model, config, embeddings, wanted, given)


def _table(writer: GraphWriter, name: str, shape: tuple[int, int], rows: tables.Rows) -> Artifact:
    encoding = writer.recipe.tables[name].encoding

    def write(bundle: Path, advance: Advance) -> Written:
        entry = tables.write(bundle, name, shape, rows, encoding, advance)
        return Written(tuple(file for file in (entry.file, entry.scales) if file), table=entry)

    return Artifact(name, shape[0] * shape[1], write)


def _speech_tables(
    writer: GraphWriter, checkpoint: Checkpoint, speech: SpeechSource, projection: InputProjection
) -> Iterator[Artifact]:
    shape = (speech.talker.vocab_size, speech.talker_ids.embedding_size)
    yield _table(writer, "talker_embedding", shape, checkpoint.claim(TALKER_TABLE, shape).rows)
    codes = code_table(checkpoint, speech.dit, projection)
    rows, columns = codes.shape
    yield _table(writer, "dit_code", (rows, columns), lambda start, stop: codes[start:stop])
    modulation = TimeModulation(checkpoint, speech.dit)

    def write(bundle: Path, advance: Advance) -> Written:
        times = {name: modulation_times(preset) for name, preset in PRESETS.items()}
        found = modulation.tables(list(times.values()), advance)
        (bundle / "tables").mkdir(exist_ok=True)
        for name, table in zip(times, found, strict=True):
            np.save(bundle / modulation_file(name), table)
        return Written(tuple(modulation_file(name) for name in times))

    yield Artifact("modulation", modulation.weights, write)


def _graphs(
    writer: GraphWriter,
    checkpoint: Checkpoint,
    source: SourceConfig,
    config: ModelConfig,
    mels: list[FloatArray],
    calibrate: Calibrate,
) -> Iterator[Artifact]:
    random = checkpoint.random
    for network in networks(source, checkpoint):
        contract = contracts(config)[network.name]
        model = build(network, contract, checkpoint)
        calibrated = network.name == "thinker" and writer.calibration and not random
        fitted = calibrate if calibrated else None
        yield _graph(writer, network.name, model, contract, config, mels, fitted)


def _fitted_talker(
    writer: GraphWriter,
    checkpoint: Checkpoint,
    source: SourceConfig,
    config: ModelConfig,
    rows: FloatArray,
) -> Artifact:
    """The Talker with 4-bit blocks that are fitted to its inputs `rows`."""
    assert source.speech is not None
    talker = source.speech.talker
    network = next(one for one in networks(source, checkpoint) if one.name == "talker")
    contract = contracts(config)[network.name]

    def calibrate(model: ir.Model, wanted: set[str], bundle: Path) -> nbits.Measure:
        del bundle
        embeddings = ReferenceDecoder(model, talker).product(rows, PROJECTION)
        return _fit(model, talker, embeddings, wanted, {f"{PROJECTION}.weight": rows})

    model = build(network, contract, checkpoint)
    return _graph(writer, network.name, model, contract, config, [], calibrate)


def _graph(
    writer: GraphWriter,
    name: str,
    model: ir.Model,
    contract: GraphContract,
    config: ModelConfig,
    mels: list[FloatArray],
    calibrate: Calibrate | None,
) -> Artifact:
    rules = writer.rules(name, model)

    def write(bundle: Path, advance: Advance) -> Written:
        tensors = model.graph.initializers
        wanted = {
            name
            for name, rule in rules.items()
            if nbits.searched(rule) and imported.packed_of(tensors[name]) is None
        }
        measure = calibrate(model, wanted, bundle) if calibrate and wanted else None
        entry = writer.write(bundle, name, model, rules, contract, config, mels, advance, measure)
        files = (bundle / entry.file).parent.iterdir()
        names = tuple(sorted(path.relative_to(bundle).as_posix() for path in files))
        return Written(names, graph=entry)

    return Artifact(name, weights(model), write)
