/** The chat screen. */
package org.pocketomni.app

import android.Manifest
import android.annotation.SuppressLint
import android.app.Activity
import android.app.AlertDialog
import android.content.ActivityNotFoundException
import android.content.ClipData
import android.content.ClipboardManager
import android.content.Intent
import android.content.pm.PackageManager
import android.net.Uri
import android.os.Bundle
import android.provider.MediaStore
import android.view.Menu
import android.view.MenuItem
import android.view.MotionEvent
import android.view.View
import android.webkit.MimeTypeMap
import android.widget.Button
import android.widget.EditText
import android.widget.ImageButton
import android.widget.LinearLayout
import android.widget.ListView
import android.widget.TextView
import android.widget.Toast
import java.io.FileNotFoundException
import org.pocketomni.app.presenters.BundleState
import org.pocketomni.app.presenters.ChatPresenter
import org.pocketomni.app.presenters.ChatState
import org.pocketomni.app.presenters.MediaKind
import org.pocketomni.app.presenters.ModelInfo
import org.pocketomni.app.presenters.Screen

class ChatActivity : Activity() {
    private val app get() = application as OmniApp
    private val presenter: ChatPresenter get() = app.chat
    private val screen = Screen<ChatState> { show(it) }
    private val bundleScreen = Screen<BundleState> { showBundle(it) }
    private val turns = TurnAdapter(this)

    private lateinit var notice: NoticeBar
    private lateinit var message: EditText
    private lateinit var send: ImageButton
    private lateinit var talk: ImageButton
    private lateinit var attach: ImageButton
    private var announced: String? = null

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.chat)
        notice = NoticeBar(this) {
            presenter.dismissNotice()
            app.bundles.dismissNotice()
        }
        message = findViewById(R.id.message)
        send = findViewById(R.id.send)
        talk = findViewById(R.id.talk)
        attach = findViewById(R.id.attach)
        findViewById<ListView>(R.id.turns).apply {
            adapter = turns
            setOnItemLongClickListener { _, _, position, _ -> copy(turns.getItem(position).answer) }
        }
        send.setOnClickListener { sendOrStop() }
        attach.setOnClickListener { chooseAttachment() }
        holdToTalk()
    }

    override fun onStart() {
        super.onStart()
        presenter.attach(screen)
        app.bundles.attach(bundleScreen)
    }

    override fun onStop() {
        presenter.stopTalking(cancelled = true)
        presenter.detach(screen)
        app.bundles.detach(bundleScreen)
        super.onStop()
    }

    override fun onCreateOptionsMenu(menu: Menu): Boolean {
        menuInflater.inflate(R.menu.chat, menu)
        return true
    }

    override fun onPrepareOptionsMenu(menu: Menu): Boolean {
        val state = presenter.state
        val model = state.model
        menu.findItem(R.id.speak).apply {
            isChecked = state.speak
            isVisible = model?.speaks == true
        }
        menu.findItem(R.id.voice).isVisible = model?.speaks == true
        menu.findItem(R.id.preset).isVisible = model?.speaks == true
        menu.findItem(R.id.call).isEnabled = model?.hears == true && model.speaks
        menu.findItem(R.id.undo).isEnabled = state.ready && state.turns.isNotEmpty()
        menu.findItem(R.id.regenerate).isEnabled = state.ready && state.turns.isNotEmpty()
        menu.findItem(R.id.bench).isEnabled = state.ready
        return super.onPrepareOptionsMenu(menu)
    }

    override fun onOptionsItemSelected(item: MenuItem): Boolean {
        when (item.itemId) {
            R.id.call -> startActivity(Intent(this, CallActivity::class.java))
            R.id.new_chat -> presenter.openChat(null)
            R.id.chats -> chooseChat()
            R.id.speak -> presenter.setSpeak(!presenter.state.speak)
            R.id.voice -> chooseVoice()
            R.id.preset -> choosePreset()
            R.id.regenerate -> presenter.regenerate()
            R.id.undo -> presenter.undo()
            R.id.bundles -> startActivity(Intent(this, BundleActivity::class.java))
            R.id.bench -> startActivity(Intent(this, BenchActivity::class.java))
            else -> return super.onOptionsItemSelected(item)
        }
        return true
    }

    /** Show what happens to the model while there is none. */
    private fun showBundle(state: BundleState) {
        show(presenter.state)
        // the question is asked there
        if (state.confirm != null) startActivity(Intent(this, BundleActivity::class.java))
    }

    private fun showStatus(model: ModelInfo?) {
        val loading = app.bundles.state.loading ?: app.bundles.state.progress?.name
        val line = when {
            model != null -> "${model.name} · ${model.recipe}"
            loading != null -> getString(R.string.loading_model, loading)
            else -> getString(R.string.no_model)
        }
        findViewById<TextView>(R.id.status).run { if (text.toString() != line) text = line }
    }

    private fun show(state: ChatState) {
        showStatus(state.model)
        notice.show(state.notice ?: app.bundles.state.notice.takeIf { state.model == null })
        turns.show(state.turns)
        showAttachments(state)
        send.isEnabled = state.stoppable || state.ready
        send.setImageResource(if (state.stoppable) R.drawable.icon_stop else R.drawable.icon_send)
        send.contentDescription = getString(if (state.stoppable) R.string.stop else R.string.send)
        attach.isEnabled = state.ready && state.model?.run { hears || sees } == true
        talk.isEnabled = state.recording || (state.ready && state.model?.hears == true)
        talk.contentDescription = getString(if (state.recording) R.string.release_to_send else R.string.hold_to_talk)
        talk.isActivated = state.recording
        state.returnedText?.let {
            // what the user has typed since is not overwritten
            if (message.text.isEmpty()) message.setText(it)
            presenter.takeReturnedText()
        }
        announce(state)
        invalidateOptionsMenu()
    }

    /** Let a screen reader read the reply once, when it is complete and not spoken. */
    private fun announce(state: ChatState) {
        val last = state.turns.lastOrNull() ?: return
        if (last.running) {
            announced = null
        } else if (announced == null && !state.speaking) {
            announced = last.answer
            if (!state.speak) message.announceForAccessibility(last.answer)
        }
    }

    private fun showAttachments(state: ChatState) {
        val row = findViewById<LinearLayout>(R.id.attachments)
        row.removeAllViews()
        for (attachment in state.attachments) {
            val word = text(attachment.kind)
            val button = Button(this).apply {
                text = getString(R.string.remove_attachment, word)
                setOnClickListener { presenter.detach(attachment) }
            }
            row.addView(button)
        }
    }

    private fun sendOrStop() {
        if (presenter.state.stoppable) return presenter.stop()
        if (!presenter.state.ready) return
        presenter.send(message.text.toString())
        if (presenter.state.replying) message.text.clear()
    }

    @SuppressLint("ClickableViewAccessibility")
    private fun holdToTalk() {
        talk.setOnTouchListener { _, event ->
            when (event.actionMasked) {
                MotionEvent.ACTION_DOWN -> startTalking()
                MotionEvent.ACTION_UP -> presenter.stopTalking()
                MotionEvent.ACTION_CANCEL -> presenter.stopTalking(cancelled = true)
            }
            true
        }
        // a screen reader clicks: once to begin, once to send
        talk.setOnClickListener { if (presenter.state.recording) presenter.stopTalking() else startTalking() }
    }

    private fun startTalking() {
        if (checkSelfPermission(Manifest.permission.RECORD_AUDIO) == PackageManager.PERMISSION_GRANTED) {
            presenter.startTalking()
        } else {
            requestPermissions(arrayOf(Manifest.permission.RECORD_AUDIO), Request.MICROPHONE.ordinal)
        }
    }

    private fun chooseAttachment() {
        val model = presenter.state.model ?: return
        val choices = listOfNotNull(
            (R.string.take_picture to ::takePicture).takeIf { model.sees },
            (R.string.pick_picture to { pick("image/*", Request.PICTURE) }).takeIf { model.sees },
            (R.string.pick_film to { pick("*/*", Request.FILM, FILM_TYPES) }).takeIf { model.sees },
            (R.string.pick_sound to { pick("audio/*", Request.SOUND) }).takeIf { model.hears },
        )
        AlertDialog.Builder(this)
            .setTitle(R.string.attach)
            .setItems(choices.map { getString(it.first) }.toTypedArray()) { _, number -> choices[number].second() }
            .show()
    }

    private fun takePicture() {
        // an app that declares the permission needs it even to call the camera app
        if (checkSelfPermission(Manifest.permission.CAMERA) != PackageManager.PERMISSION_GRANTED) {
            return requestPermissions(arrayOf(Manifest.permission.CAMERA), Request.CAMERA.ordinal)
        }
        CaptureProvider.file(this).delete()
        val intent = Intent(MediaStore.ACTION_IMAGE_CAPTURE)
            .putExtra(MediaStore.EXTRA_OUTPUT, CaptureProvider.URI)
            .addFlags(Intent.FLAG_GRANT_WRITE_URI_PERMISSION or Intent.FLAG_GRANT_READ_URI_PERMISSION)
        // flags only cover the data and the clip
        intent.clipData = ClipData.newRawUri("", CaptureProvider.URI)
        try {
            startActivityForResult(intent, Request.CAPTURE.ordinal)
        } catch (_: ActivityNotFoundException) {
            Toast.makeText(this, R.string.no_camera_app, Toast.LENGTH_LONG).show()
        }
    }

    private fun pick(type: String, request: Request, types: Array<String>? = null) {
        val intent = Intent(Intent.ACTION_OPEN_DOCUMENT).setType(type).addCategory(Intent.CATEGORY_OPENABLE)
        if (types != null) intent.putExtra(Intent.EXTRA_MIME_TYPES, types)
        startActivityForResult(intent, request.ordinal)
    }

    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        if (resultCode != RESULT_OK) return
        val uri = data?.data
        when (Request.values()[requestCode]) {
            Request.CAPTURE -> presenter.attach(MediaKind.PICTURE, ".jpg", CaptureProvider.taken(applicationContext))
            Request.PICTURE -> uri?.let { attach(MediaKind.PICTURE, ending(it), it) }
            Request.FILM -> uri?.let { attach(MediaKind.FILM, ending(it), it) }
            Request.SOUND -> uri?.let { attach(MediaKind.SOUND, ending(it), it) }
            else -> Unit
        }
    }

    private fun attach(kind: MediaKind, ending: String, uri: Uri) {
        val resolver = applicationContext.contentResolver
        presenter.attach(kind, ending) { resolver.openInputStream(uri) ?: throw FileNotFoundException("$uri") }
    }

    private fun ending(uri: Uri): String {
        val extension = contentResolver.getType(uri)?.let { MimeTypeMap.getSingleton().getExtensionFromMimeType(it) }
        return if (extension == null) ".bin" else ".$extension"
    }

    override fun onRequestPermissionsResult(requestCode: Int, permissions: Array<String>, results: IntArray) {
        val granted = results.firstOrNull() == PackageManager.PERMISSION_GRANTED
        when (Request.values()[requestCode]) {
            // the key was released long ago: the next press records
            Request.MICROPHONE -> if (!granted) presenter.startTalking()
            Request.CAMERA ->
                if (granted) takePicture() else Toast.makeText(this, R.string.no_camera_permission, Toast.LENGTH_LONG).show()

            else -> Unit
        }
    }

    private fun chooseVoice() {
        val voices = presenter.state.model?.voices.orEmpty()
        choose(R.string.voice, listOf<String?>(null) + voices, presenter.state.voice) { presenter.setVoice(it) }
    }

    private fun choosePreset() {
        val presets = presenter.state.model?.presets.orEmpty()
        choose(R.string.preset, listOf(null, AUTO) + presets, presenter.state.preset) { presenter.setPreset(it) }
    }

    private fun choose(title: Int, values: List<String?>, chosen: String?, choice: (String?) -> Unit) {
        val words = values.map {
            when (it) {
                null -> getString(R.string.by_default)
                AUTO -> getString(R.string.automatic)
                else -> it
            }
        }
        AlertDialog.Builder(this)
            .setTitle(title)
            .setSingleChoiceItems(words.toTypedArray(), values.indexOf(chosen)) { dialog, number ->
                choice(values[number])
                dialog.dismiss()
            }
            .show()
    }

    private fun chooseChat() = presenter.list { chats ->
        if (chats.isEmpty()) return@list Toast.makeText(this, R.string.no_chats, Toast.LENGTH_SHORT).show()
        val titles = chats.map { it.title.ifBlank { getString(R.string.spoken) } }.toTypedArray()
        AlertDialog.Builder(this)
            .setTitle(R.string.chats)
            .setItems(titles) { _, number -> presenter.openChat(chats[number].id) }
            .setNeutralButton(R.string.delete) { _, _ -> deleteChats(titles, chats.map { it.id }) }
            .show()
    }

    private fun deleteChats(titles: Array<String>, ids: List<String>) {
        val chosen = mutableSetOf<String>()
        AlertDialog.Builder(this)
            .setTitle(R.string.delete)
            .setMultiChoiceItems(titles, null) { _, number, on -> if (on) chosen += ids[number] else chosen -= ids[number] }
            .setPositiveButton(R.string.delete) { _, _ -> presenter.delete(chosen) }
            .setNegativeButton(R.string.cancel, null)
            .show()
    }

    private fun copy(text: String): Boolean {
        val clip = ClipData.newPlainText(getString(R.string.app_name), text)
        getSystemService(ClipboardManager::class.java).setPrimaryClip(clip)
        Toast.makeText(this, R.string.copy, Toast.LENGTH_SHORT).show()
        return true
    }

    private enum class Request { CAPTURE, PICTURE, FILM, SOUND, MICROPHONE, CAMERA }

    private companion object {
        const val AUTO = "auto"

        /** An animated WebP is a film, too. */
        val FILM_TYPES = arrayOf("video/*", "image/webp")
    }
}
