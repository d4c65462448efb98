package org.pocketomni.engine.inputs

import org.pocketomni.engine.BundleError
import org.pocketomni.engine.Message
import org.pocketomni.engine.Part
import org.pocketomni.engine.Role
import org.pocketomni.engine.UsageError

/** A piece of a rendered conversation. */
internal sealed class Segment {
    class Template(val text: String) : Segment()

    /** The text with this number among all parts of all messages. */
    class UserText(val part: Int) : Segment()
}

/** The checkpoint's chat template, rendered without the user's text. Throws [BundleError] for an unknown syntax. */
internal class ChatTemplate(source: String) {
    private val template = Jinja(source)

    /** Render a conversation up to the start of the model's reply. Throws [BundleError] when a text is lost. */
    fun render(messages: List<Message>): List<Segment> {
        val texts = ArrayList<Int>()
        var count = 0
        val turns = messages.map { message ->
            val content = message.parts.map { part ->
                val number = count++
                if (part is Part.Text) {
                    texts.add(number)
                    mapOf("type" to "text", "text" to "\ue000$number\ue001")
                } else {
                    mapOf("type" to part.kind, part.kind to "")
                }
            }
            mapOf("role" to message.role.name.lowercase(), "content" to content)
        }
        val rendered = template.render(mapOf("messages" to turns, "add_generation_prompt" to true))
        val segments = ArrayList<Segment>()
        var at = 0
        for (mark in MARK.findAll(rendered)) {
            segments.add(Segment.Template(rendered.substring(at, mark.range.first)))
            segments.add(Segment.UserText(mark.groupValues[1].toInt()))
            at = mark.range.last + 1
        }
        segments.add(Segment.Template(rendered.substring(at)))
        if (segments.filterIsInstance<Segment.UserText>().map { it.part } != texts) {
            throw BundleError("the chat template loses or reorders text")
        }
        return segments
    }

    companion object {
        private val MARK = Regex("\ue000([0-9]+)\ue001")

        /** Number, among all parts, of the last text of the last assistant message. */
        fun lastReply(messages: List<Message>): Int {
            var last = -1
            var count = 0
            for (message in messages) {
                for (part in message.parts) {
                    if (message.role == Role.ASSISTANT && part is Part.Text) last = count
                    count++
                }
            }
            if (last < 0) throw UsageError("there is no reply yet", "send a message first")
            return last
        }
    }
}

/** The type of a part in the template. */
internal val Part.kind: String
    get() = when (this) {
        is Part.Text -> "text"
        is Part.Sound, is Part.LiveSound -> "audio"
        is Part.Picture -> "image"
        is Part.Film -> "video"
    }
