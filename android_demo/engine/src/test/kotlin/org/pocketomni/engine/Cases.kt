/** The parts of the engine one by one, as the golden vectors of docs/bundle.md and the parity tests call them. */
package org.pocketomni.engine

import org.pocketomni.engine.graphs.BlockNoise
import org.pocketomni.engine.graphs.MelStream
import org.pocketomni.engine.graphs.Pcg64
import org.pocketomni.engine.graphs.RotaryTable
import org.pocketomni.engine.graphs.TalkerSettings
import org.pocketomni.engine.graphs.WaveStream
import org.pocketomni.engine.graphs.branches
import org.pocketomni.engine.graphs.evaluationTimes
import org.pocketomni.engine.graphs.keepTopK
import org.pocketomni.engine.graphs.keepTopP
import org.pocketomni.engine.graphs.largest
import org.pocketomni.engine.graphs.penalizeRepetition
import org.pocketomni.engine.graphs.seededNoise
import org.pocketomni.engine.graphs.softmax
import org.pocketomni.engine.inputs.Features
import org.pocketomni.engine.inputs.Grid
import org.pocketomni.engine.inputs.Prompt
import org.pocketomni.engine.inputs.Size
import org.pocketomni.engine.inputs.StreamDecoder
import org.pocketomni.engine.inputs.VisionGeometry
import org.pocketomni.engine.inputs.audioTokens
import org.pocketomni.engine.inputs.filmSize
import org.pocketomni.engine.inputs.logMel
import org.pocketomni.engine.inputs.picturePatches
import org.pocketomni.engine.inputs.pictureSize
import org.pocketomni.engine.inputs.resampled
import org.pocketomni.engine.inputs.resize
import org.pocketomni.engine.inputs.sampleFrames
import org.pocketomni.engine.reply.Model
import java.nio.FloatBuffer

internal class Cases(private val model: Model) {
    private val config = model.config
    private val bench by lazy { Bench(model) }

    fun answer(name: String, given: Map<*, *>): Any? = when (name) {
        "tokenize" -> (given["texts"] as List<*>).map { model.tokenizer.encode(it as String) }
        "decode" -> (given["ids"] as List<*>).map { pieces(ints(it)) }
        "prompt" -> prompt(given)
        "resample" -> samples(given["sound"]).let { resampled(it.samples, it.rate, (given["to"] as Long).toInt()) }
        "mel" -> mel(samples(given["sound"]))
        "picture" -> picture(image(given["picture"]))
        "resize" -> ints(given["size"]).let { Tensor.of(resize(image(given["picture"]), Size(it[0], it[1]))) }
        "sizes" -> sizes(given["sizes"] as List<*>, ints(given["video_frames"]!!))
        "clips" -> clips(given["clips"] as List<*>)
        "windows" -> windows(ints(given["grid"]))
        "rotary" -> rotary(given)
        "tables" -> tables(given["ids"] as Map<*, *>)
        "encode_sound" -> rows(model.audioEncoder().encode(heard(samples(given["sound"]))))
        "encode_picture" -> rows(model.visionEncoder().encode(picturePatches(image(given["picture"]), config.vision!!)))
        "thinker" -> thinker(given)
        "talker" -> talker(given)
        "noise" -> noise(given)
        "dit" -> dit(given)
        "vocoder" -> vocoder(given)
        "sampling" -> samplingLinks(given)
        "draws" -> draws(given)
        "bench" -> bench.seconds(given["what"] as String, (given["count"] as Long).toInt())
        else -> if (name.startsWith("media.")) mediaCase(name, given, config) else error("there is no case $name")
    }

    private fun rows(values: FloatArray) = Tensor.of(values, values.size / config.decoder.hiddenSize, config.decoder.hiddenSize)

    private fun pieces(ids: IntArray): List<String> {
        val decoder = StreamDecoder(model.tokenizer)
        return ids.map(decoder::push) + decoder.finish()
    }

    private fun build(given: Map<*, *>): Prompt = model.prompts.build(
        messages(given["messages"]), (given["start_position"] as Long).toInt(), given["since_last_reply"] as Boolean,
    )

    private fun prompt(given: Map<*, *>): Map<String, Any?> {
        val built = build(given)
        val media = built.media.map { slot ->
            val size = when (val features = slot.features) {
                is Features.Seen -> features.patches.grid.let { "grid" to listOf(it.t, it.h, it.w) }
                is Features.Heard -> "frames" to features.mel.frames
            }
            mapOf("kind" to slot.kind, "rows" to slot.rows, size)
        }
        return mapOf("ids" to built.ids, "positions" to built.positions, "next_position" to built.nextPosition, "media" to media)
    }

    private fun heard(sound: Samples) = logMel(resampled(sound.samples, sound.rate, config.audio!!.sampleRate), config.audio)

    private fun mel(sound: Samples): Map<String, Any?> {
        val mel = heard(sound)
        return mapOf("mel" to Tensor.of(mel.toArray(), config.audio!!.nMels, mel.frames), "tokens" to audioTokens(mel.frames))
    }

    private fun picture(image: RgbImage): Map<String, Any?> {
        val vision = config.vision!!
        val patches = picturePatches(image, vision)
        val grid = patches.grid
        return mapOf(
            "resized" to Tensor.of(resize(image, pictureSize(image.height, image.width, vision))),
            "grid" to listOf(grid.t, grid.h, grid.w),
            "patches" to Tensor.of(patches.values, grid.patches, vision.patchLength),
        )
    }

    private fun sizes(all: List<*>, frames: IntArray): Map<String, Any?> {
        val vision = config.vision!!
        val sizes = all.map(::ints)
        return mapOf(
            "image_sizes" to sizes.map { (h, w) -> pictureSize(h, w, vision).let { listOf(it.height, it.width) } },
            "video_sizes" to sizes.flatMap { (h, w) ->
                frames.map { count -> filmSize(h, w, count, vision).let { listOf(it.height, it.width) } }
            },
        )
    }

    private fun clips(all: List<*>): List<Any?> = all.map { clip ->
        val (total, rate) = (clip as List<*>).map { (it as Number).toDouble() }
        sampleFrames(total.toInt(), rate, config.vision!!).let { listOf(it.numbers, it.rate) }
    }

    private fun windows(grid: IntArray): Map<String, Any?> {
        val geometry = VisionGeometry(Grid(grid[0], grid[1], grid[2]), config.vision!!)
        val half = config.vision.headDim / 2
        return mapOf(
            "window_index" to geometry.windowIndex,
            "reverse_index" to geometry.reverseIndex,
            "patch_index" to geometry.patchIndex,
            "window_lengths" to geometry.windowLengths,
            "window_slots" to geometry.windowSlots.toList().chunked(geometry.widest),
            "unpad" to geometry.unpad,
            "cos" to Tensor.of(geometry.cos, geometry.cos.size / half, half),
            "sin" to Tensor.of(geometry.sin, geometry.sin.size / half, half),
        )
    }

    private fun rotary(given: Map<*, *>): Map<String, Any?> {
        val positions = positions(given["positions"])
        val decoders = listOfNotNull("thinker" to config.decoder, config.speech?.let { "talker" to it.talker.decoder })
        return decoders.flatMap { (name, decoder) ->
            val table = RotaryTable(decoder)
            val (cos, sin) = List(2) { FloatArray(positions.size * table.half) }
            table.write(positions, 0, FloatBuffer.wrap(cos), FloatBuffer.wrap(sin))
            listOf("cos" to cos, "sin" to sin).map { (kind, values) -> "${name}_$kind" to Tensor.of(values, positions.size, table.half) }
        }.toMap()
    }

    private fun tables(ids: Map<*, *>): Map<*, *> = ids.mapValues { (name, rows) ->
        val table = model.bundle.table(name as String)
        val numbers = ints(rows)
        val out = FloatArray(numbers.size * table.columns)
        numbers.forEachIndexed { i, id -> table.read(id, out, i * table.columns) }
        Tensor.of(out, numbers.size, table.columns)
    }

    private fun thinker(given: Map<*, *>): Map<String, Any?> {
        val prompt = build(given)
        return model.thinker.newCache().use { cache ->
            var output = model.thinker.prefill(cache, prompt)
            val promptRows = output.talkerRows
            val tokens = ArrayList<Int>()
            var logits = output.logits
            var replyRows = FloatArray(0)
            repeat((given["steps"] as Long).toInt()) { step ->
                tokens.add(largest(output.logits))
                output = model.thinker.step(cache, tokens.last(), prompt.nextPosition + step)
                logits += output.logits
                replyRows += output.talkerRows
            }
            mapOf(
                "positions" to prompt.positions,
                "next_position" to prompt.nextPosition,
                "prompt_rows" to rows(promptRows),
                "logits" to Tensor.of(logits, tokens.size + 1, config.decoder.vocabSize),
                "tokens" to tokens,
                "reply_rows" to rows(replyRows),
            )
        }
    }

    private fun talker(given: Map<*, *>): Map<String, Any?> {
        val talker = model.talker
        val width = talker.config.inputSize
        val reply = Tensor.read(given["reply_rows"]).floats.toList().chunked(width).map { it.toFloatArray() }
        val settings = TalkerSettings(
            Sampling(repetitionPenalty = talker.config.sampling.repetitionPenalty), (given["steps"] as Long).toInt(), Pcg64(0, 0),
        )
        return talker.newCache().use { cache ->
            talker.append(cache, Tensor.read(given["prompt_rows"]).floats, positions(given["positions"]))
            val bos = model.speech.voices.getValue(given["voice"] as String)
            val stream = talker.start(cache, bos, reply[0], (given["next_position"] as Long).toInt(), settings)
            reply.drop(1).forEach(stream::feed)
            stream.endText()
            val codes = ArrayList<Int>()
            var logits = FloatArray(0)
            while (stream.ready) {
                stream.step()?.let(codes::add)
                logits += stream.logits
            }
            val size = talker.config.decoder.vocabSize
            mapOf("logits" to Tensor.of(logits, logits.size / size, size), "codes" to codes, "ended" to stream.complete)
        }
    }

    private fun noise(given: Map<*, *>): Map<String, Any?> {
        val dit = model.speech.dit
        val size = dit.blockFrames * dit.melDim
        val seeds = given["seeds"] as List<*>
        val blocks = ints(given["blocks"])
        val out = FloatArray(seeds.size * size)
        seeds.forEachIndexed { i, seed -> BlockNoise(seed as Long, blocks[i].toLong()).fill(out, i * size, size) }
        return mapOf("noise" to Tensor.of(out, seeds.size, dit.blockFrames, dit.melDim))
    }

    private fun dit(given: Map<*, *>): Map<String, Any?> {
        val dit = model.dit(given["preset"] as String)
        val mels = dit.config.melDim
        val noise = seededNoise(given["seed"] as Long, dit.config.blockFrames * mels)
        val out = linkedMapOf<String, Any?>("times" to evaluationTimes(dit.preset), "branches" to branches(dit.preset))
        MelStream(dit, model.bundle.voice(given["voice"] as String), noise).use { stream ->
            (given["chunks"] as List<*>).forEachIndexed { i, one ->
                val chunk = one as Map<*, *>
                val found = stream.chunk(ints(chunk["codes"]), (chunk["commit"] as Long).toInt())
                out["mel_$i"] = Tensor.of(found.mel, found.mel.size / mels, mels)
                if (found.provisional.isNotEmpty()) out["provisional_$i"] = Tensor.of(found.provisional, found.provisional.size / mels, mels)
            }
        }
        return out
    }

    private fun vocoder(given: Map<*, *>): Map<String, Any?> {
        val vocoder = model.vocoder
        val mels = model.speech.dit.melDim
        val stream = WaveStream(vocoder, mels)
        val (first, ahead, second) = listOf("mel_0", "provisional_0", "mel_1").map { Tensor.read(given[it]).floats }
        val right = minOf(ahead.size / mels, vocoder.config.contextFrames + 1) - 1
        val left = minOf(first.size / mels, vocoder.config.contextFrames)
        return mapOf(
            "crops_0" to vocoder.crops(0, right).toList().chunked(2),
            "crops_1" to vocoder.crops(left, 0).toList().chunked(2),
            "samples_0" to stream.push(first, ahead, last = false),
            "samples_1" to stream.push(second, FloatArray(0), last = true),
        )
    }

    private fun samplingLinks(given: Map<*, *>): Map<String, Any?> {
        val logits = Tensor.read(given["logits"]).floats
        val seen = ints(given["seen"]).toList()
        return mapOf(
            "links" to (given["settings"] as List<*>).map(::sampling).map { settings ->
                val penalized = penalizeRepetition(logits, seen, settings.repetitionPenalty)
                val cooled = FloatArray(logits.size) { penalized[it] / settings.temperature.toFloat() }
                val topK = keepTopK(cooled, settings.topK)
                val topP = keepTopP(topK, settings.topP)
                mapOf(
                    "penalized" to penalized,
                    "after_temperature_and_top_k" to topK,
                    "after_top_p" to topP,
                    "probabilities" to Tensor.of(softmax(topP)),
                    "greedy" to largest(penalized),
                )
            },
        )
    }

    private fun draws(given: Map<*, *>): List<Int> {
        val random = Pcg64(given["seed"] as Long, given["stream"] as Long)
        val probabilities = softmax(Tensor.read(given["logits"]).floats)
        return List((given["count"] as Long).toInt()) { random.choice(probabilities) }
    }
}
