/** The screen of bundles. */
package org.pocketomni.app

import android.app.Activity
import android.app.AlertDialog
import android.content.Intent
import android.os.Bundle
import android.view.View
import android.view.ViewGroup
import android.widget.BaseAdapter
import android.widget.ListView
import android.widget.ProgressBar
import android.widget.TextView
import org.pocketomni.app.presenters.BundleLine
import org.pocketomni.app.presenters.BundlePresenter
import org.pocketomni.app.presenters.BundleState
import org.pocketomni.app.presenters.Screen

class BundleActivity : Activity() {
    private val app get() = application as OmniApp
    private val presenter: BundlePresenter get() = app.bundles
    private val screen = Screen<BundleState> { show(it) }
    private val bundles = Adapter()
    private lateinit var notice: NoticeBar
    private var question: AlertDialog? = null

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.bundles)
        notice = NoticeBar(this) { presenter.dismissNotice() }
        findViewById<ListView>(R.id.bundles).apply {
            adapter = bundles
            setOnItemClickListener { _, _, position, _ -> choose(bundles.getItem(position)) }
        }
        findViewById<View>(R.id.cancel).setOnClickListener { presenter.cancel() }
        findViewById<View>(R.id.import_bundle).setOnClickListener {
            startActivityForResult(Intent(Intent.ACTION_OPEN_DOCUMENT_TREE), FOLDER)
        }
        val folder = app.sharedBundles?.path
        findViewById<TextView>(R.id.side_load).text = folder?.let { getString(R.string.side_load_hint, it) }.orEmpty()
    }

    override fun onStart() {
        super.onStart()
        presenter.attach(screen)
        // a bundle may have been copied meanwhile
        presenter.refresh()
    }

    override fun onStop() {
        presenter.detach(screen)
        question?.dismiss()
        question = null
        super.onStop()
    }

    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        val tree = data?.data
        if (requestCode == FOLDER && resultCode == RESULT_OK && tree != null) {
            presenter.import { PickedBundle(applicationContext, tree) }
        }
    }

    private fun show(state: BundleState) {
        val memory = state.memory
        val line = getString(R.string.memory_line, size(memory.available), size(memory.total))
        findViewById<TextView>(R.id.memory).text = line
        notice.show(state.notice)
        bundles.show(state.bundles)
        showProgress(state)
        findViewById<View>(R.id.import_bundle).isEnabled = state.progress == null
        val asked = state.confirm
        if (asked != null && question == null) ask(asked, state)
    }

    private fun showProgress(state: BundleState) {
        val progress = state.progress
        val loading = state.loading
        findViewById<View>(R.id.progress_row).visibility =
            if (progress == null && loading == null) View.GONE else View.VISIBLE
        findViewById<View>(R.id.cancel).visibility = if (progress == null) View.GONE else View.VISIBLE
        findViewById<TextView>(R.id.progress_text).text = when {
            progress != null ->
                getString(R.string.progress_line, progress.name, size(progress.done), size(progress.total))

            loading != null -> getString(R.string.loading_model, loading)
            else -> ""
        }
        findViewById<ProgressBar>(R.id.progress).run {
            isIndeterminate = progress == null || progress.total == 0L
            if (progress != null && progress.total > 0) this.progress = (progress.done * max / progress.total).toInt()
        }
    }

    private fun choose(bundle: BundleLine) {
        val actions = listOfNotNull(
            (R.string.load to { presenter.load(bundle.folder) }).takeIf { !bundle.loaded },
            R.string.verify to { presenter.verify(bundle.folder) },
            (R.string.delete to { presenter.delete(bundle.folder) }).takeIf { !bundle.loaded },
        )
        AlertDialog.Builder(this)
            .setTitle(bundle.folder.name)
            .setItems(actions.map { getString(it.first) }.toTypedArray()) { _, number -> actions[number].second() }
            .show()
    }

    private fun ask(bundle: BundleLine, state: BundleState) {
        val needed = size(bundle.needed)
        question = AlertDialog.Builder(this)
            .setMessage(getString(R.string.confirm_low, bundle.folder.name, needed, size(state.memory.available)))
            .setPositiveButton(R.string.load_anyway) { _, _ -> presenter.load(bundle.folder, anyway = true) }
            .setNegativeButton(R.string.cancel) { _, _ -> presenter.decline() }
            .setOnCancelListener { presenter.decline() }
            .setOnDismissListener { question = null }
            .show()
    }

    private inner class Adapter : BaseAdapter() {
        private var lines = emptyList<BundleLine>()

        fun show(lines: List<BundleLine>) {
            if (lines == this.lines) return
            this.lines = lines
            notifyDataSetChanged()
        }

        override fun getCount() = lines.size
        override fun getItem(position: Int) = lines[position]
        override fun getItemId(position: Int) = position.toLong()

        override fun getView(position: Int, reused: View?, parent: ViewGroup): View {
            val view = reused ?: layoutInflater.inflate(android.R.layout.simple_list_item_2, parent, false)
            val line = lines[position]
            val state = if (line.loaded) getString(R.string.bundle_loaded) else text(line.fit)
            val about = getString(R.string.bundle_line, line.recipe, size(line.bytes), size(line.needed))
            view.findViewById<TextView>(android.R.id.text1).text = line.folder.name
            view.findViewById<TextView>(android.R.id.text2).text = line.problem?.let { text(it) } ?: "$about · $state"
            return view
        }
    }

    private companion object {
        const val FOLDER = 1
    }
}
