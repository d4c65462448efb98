/** The bar with a notice that can be dismissed. */
package org.pocketomni.app

import android.app.Activity
import android.view.View
import android.widget.TextView
import org.pocketomni.app.presenters.Notice

class NoticeBar(private val activity: Activity, dismissed: () -> Unit) {
    private val bar = activity.findViewById<View>(R.id.notice_bar)
    private val text = activity.findViewById<TextView>(R.id.notice)

    init {
        activity.findViewById<View>(R.id.dismiss).setOnClickListener { dismissed() }
    }

    fun show(notice: Notice?) {
        bar.visibility = if (notice == null) View.GONE else View.VISIBLE
        val line = notice?.let { activity.text(it) }.orEmpty()
        if (text.text.toString() != line) text.text = line
    }
}
