/** The call screen. The call itself goes on without it. */
package org.pocketomni.app

import android.Manifest
import android.app.Activity
import android.content.pm.PackageManager
import android.media.AudioManager
import android.os.Bundle
import android.text.SpannableStringBuilder
import android.text.Spanned
import android.text.style.StrikethroughSpan
import android.view.TextureView
import android.view.View
import android.view.WindowManager
import android.widget.ImageButton
import android.widget.ProgressBar
import android.widget.ScrollView
import android.widget.TextView
import org.pocketomni.app.presenters.CallLine
import org.pocketomni.app.presenters.CallPresenter
import org.pocketomni.app.presenters.CallState
import org.pocketomni.app.presenters.Notice
import org.pocketomni.app.presenters.NoticeKey
import org.pocketomni.app.presenters.Screen

class CallActivity : Activity() {
    private val presenter: CallPresenter get() = (application as OmniApp).call
    private val screen = Screen<CallState> { show(it) }
    private lateinit var notice: NoticeBar
    private lateinit var preview: TextureView
    private var camera: CameraFrames? = null
    private var shown: List<CallLine>? = null

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.call)
        window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        volumeControlStream = AudioManager.STREAM_VOICE_CALL // what the volume keys change
        notice = NoticeBar(this) { presenter.dismissNotice() }
        preview = findViewById(R.id.preview)
        findViewById<View>(R.id.mute).setOnClickListener { presenter.setMuted(!presenter.state.muted) }
        findViewById<View>(R.id.camera).setOnClickListener { toggleCamera() }
        findViewById<View>(R.id.interrupt).setOnClickListener { presenter.interrupt() }
        findViewById<View>(R.id.end).setOnClickListener {
            presenter.end()
            finish()
        }
        // after a rotation the call goes on
        if (savedInstanceState == null && !presenter.state.active) begin()
    }

    override fun onStart() {
        super.onStart()
        presenter.attach(screen)
    }

    override fun onStop() {
        presenter.detach(screen)
        // the camera is only used by the screen in front
        closeCamera()
        super.onStop()
    }

    private fun begin() {
        val wanted = mutableListOf(Manifest.permission.RECORD_AUDIO)
        if (android.os.Build.VERSION.SDK_INT >= NOTIFICATIONS_SINCE) wanted += NOTIFICATIONS
        val missing = wanted.filter { checkSelfPermission(it) != PackageManager.PERMISSION_GRANTED }
        if (missing.isEmpty()) CallService.start(this) else requestPermissions(missing.toTypedArray(), MICROPHONE)
    }

    override fun onRequestPermissionsResult(requestCode: Int, permissions: Array<String>, results: IntArray) {
        when (requestCode) {
            MICROPHONE -> {
                val granted = checkSelfPermission(Manifest.permission.RECORD_AUDIO) == PackageManager.PERMISSION_GRANTED
                // without the notification's permission the call works all the same
                if (granted) CallService.start(this) else presenter.refuse(Notice.of(NoticeKey.NO_MICROPHONE))
            }

            CAMERA ->
                if (results.firstOrNull() == PackageManager.PERMISSION_GRANTED) presenter.setCamera(true)
                else presenter.cameraFailed(getString(R.string.no_camera_permission))
        }
    }

    private fun toggleCamera() {
        val on = presenter.state.camera
        if (!on && checkSelfPermission(Manifest.permission.CAMERA) != PackageManager.PERMISSION_GRANTED) {
            return requestPermissions(arrayOf(Manifest.permission.CAMERA), CAMERA)
        }
        presenter.setCamera(!on)
    }

    private fun show(state: CallState) {
        findViewById<TextView>(R.id.voice_state).run {
            val word = if (state.held) getString(R.string.state_held) else text(state.voice)
            if (text.toString() != word) text = word
        }
        findViewById<ProgressBar>(R.id.level).progress = (state.level * 100).toInt()
        findViewById<ImageButton>(R.id.mute).run {
            setImageResource(if (state.muted) R.drawable.icon_microphone_off else R.drawable.icon_microphone)
            contentDescription = getString(if (state.muted) R.string.unmute else R.string.mute)
        }
        val camera = getString(if (state.camera) R.string.camera_off else R.string.camera_on)
        findViewById<View>(R.id.camera).contentDescription = camera
        findViewById<TextView>(R.id.figures).text = state.figures?.let { text(it) }.orEmpty()
        notice.show(state.notice)
        showLines(state.lines)
        preview.visibility = if (state.camera) View.VISIBLE else View.GONE
        if (state.camera) openCamera() else closeCamera()
    }

    private fun showLines(lines: List<CallLine>) {
        if (lines === shown) return
        shown = lines
        val text = SpannableStringBuilder()
        for (line in lines) {
            if (text.isNotEmpty()) text.append("\n\n")
            text.append(if (line.fromUser) getString(R.string.you_spoke) else line.text)
            if (line.unheard.isNotEmpty()) {
                val start = text.length
                text.append(line.unheard)
                text.setSpan(StrikethroughSpan(), start, text.length, Spanned.SPAN_EXCLUSIVE_EXCLUSIVE)
            }
        }
        findViewById<TextView>(R.id.captions).text = text
        findViewById<ScrollView>(R.id.scroll).run { post { fullScroll(View.FOCUS_DOWN) } }
    }

    private fun openCamera() {
        if (camera != null) return
        camera = CameraFrames(this, preview, presenter::see, presenter::cameraFailed).also { it.open() }
    }

    private fun closeCamera() {
        camera?.close()
        camera = null
    }

    private companion object {
        const val MICROPHONE = 1
        const val CAMERA = 2

        /** Android 13 asks before an app shows notifications. */
        const val NOTIFICATIONS_SINCE = 33
        const val NOTIFICATIONS = "android.permission.POST_NOTIFICATIONS"
    }
}
