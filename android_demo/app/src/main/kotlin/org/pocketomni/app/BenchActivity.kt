/** The benchmark screen. */
package org.pocketomni.app

import android.app.Activity
import android.os.Bundle
import android.view.View
import android.view.WindowManager
import android.widget.Button
import android.widget.TextView
import org.pocketomni.app.presenters.BenchPresenter
import org.pocketomni.app.presenters.BenchState
import org.pocketomni.app.presenters.Screen

class BenchActivity : Activity() {
    private val app get() = application as OmniApp
    private val presenter: BenchPresenter get() = app.bench
    private val screen = Screen<BenchState> { show(it) }
    private lateinit var notice: NoticeBar

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.bench)
        window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        notice = NoticeBar(this) { presenter.dismissNotice() }
        findViewById<View>(R.id.start).setOnClickListener {
            if (presenter.state.running) presenter.cancel() else app.engine?.let { presenter.start(it) }
        }
    }

    override fun onStart() {
        super.onStart()
        presenter.attach(screen)
    }

    override fun onStop() {
        presenter.detach(screen)
        super.onStop()
    }

    private fun show(state: BenchState) {
        notice.show(state.notice)
        findViewById<Button>(R.id.start).run {
            text = getString(if (state.running) R.string.cancel else R.string.start_bench)
            isEnabled = state.running || app.engine != null
        }
        val saved = state.file?.let { getString(R.string.bench_saved, it.path) }
        findViewById<TextView>(R.id.step).text = if (state.running) state.step else saved.orEmpty()
        findViewById<TextView>(R.id.report).text = state.report
    }
}
