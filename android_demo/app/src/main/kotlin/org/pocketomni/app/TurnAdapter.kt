/** The turns of a chat in a list. */
package org.pocketomni.app

import android.content.Context
import android.view.LayoutInflater
import android.view.View
import android.view.ViewGroup
import android.widget.BaseAdapter
import android.widget.TextView
import org.pocketomni.app.presenters.TurnLine

class TurnAdapter(private val context: Context) : BaseAdapter() {
    private var turns = emptyList<TurnLine>()

    fun show(turns: List<TurnLine>) {
        if (turns == this.turns) return
        this.turns = turns
        notifyDataSetChanged()
    }

    override fun getCount() = turns.size
    override fun getItem(position: Int) = turns[position]
    override fun getItemId(position: Int) = position.toLong()

    override fun getView(position: Int, reused: View?, parent: ViewGroup): View {
        val view = reused ?: LayoutInflater.from(context).inflate(R.layout.turn, parent, false)
        val turn = turns[position]
        val media = turn.question.attachments.map { "[${context.text(it.kind)}]" }
        view.text(R.id.question, (media + turn.question.text).filter { it.isNotEmpty() }.joinToString(" "))
        view.text(R.id.answer, if (turn.running && turn.answer.isEmpty()) "…" else turn.answer)
        val stopped = context.getString(R.string.reply_stopped).takeIf { turn.cut }
        view.text(R.id.figures, listOfNotNull(stopped, turn.figures?.let { context.text(it) }).joinToString(" · "))
        return view
    }

    private fun View.text(id: Int, text: String) = findViewById<TextView>(id).run {
        this.text = text
        visibility = if (text.isEmpty()) View.GONE else View.VISIBLE
    }
}
