package org.pocketomni.engine.reply

import org.pocketomni.engine.Message
import org.pocketomni.engine.Part
import org.pocketomni.engine.Role
import org.pocketomni.engine.inputs.Positions
import org.pocketomni.engine.inputs.Prompt

/** Slots behind a system prompt, which the Talker's check for room wants to see. */
private const val ROOM = 3

/**
 * A context that has read the system prompt as if the tokens [turn] followed at [position].
 *
 * They are a later turn of a conversation: it begins with the end of the reply before it, which is also the end of the
 * system prompt. Null where the template has no such overlap.
 */
internal fun contextBefore(model: Model, system: Message, turn: List<Int>, position: Int): Context? {
    val prefix = shared(model, system) ?: return null
    val ids = prefix.ids.toList()
    val overlap = (ids.size - 1 downTo 1).firstOrNull { ids.takeLast(it) == turn.take(it) } ?: return null
    val head = prefix.split(ids.size - overlap).first
    val shift = position - head.nextPosition
    fun moved(axis: IntArray) = IntArray(axis.size) { axis[it] + shift }
    val positions = Positions(moved(head.positions.time), moved(head.positions.height), moved(head.positions.width))
    val context = Context(model, head.ids.size + ROOM)
    context.append(Prompt(head.ids, positions, head.media, position))
    return context
}

/** What all prompts with this system prompt begin with. It is found by comparing two: no template is presupposed. */
private fun shared(model: Model, system: Message): Prompt? {
    val (one, two) = listOf("a", "b").map {
        model.prompts.build(listOf(system, Message(Role.USER, listOf(Part.Text(it)))))
    }
    val count = two.commonPrefix(one)
    return if (count == 0) null else two.split(count).first
}
