/** The phone's sound during a call: focus, and the way to loudspeaker or headset. */
package org.pocketomni.app

import android.content.Context
import android.media.AudioAttributes
import android.media.AudioDeviceCallback
import android.media.AudioDeviceInfo
import android.media.AudioFocusRequest
import android.media.AudioManager
import android.media.audiofx.AcousticEchoCanceler
import org.pocketomni.app.presenters.FocusChange
import org.pocketomni.app.presenters.SoundFocus

class CallSound(context: Context) : SoundFocus {
    private val audio = context.getSystemService(AudioManager::class.java)
    private var request: AudioFocusRequest? = null

    /** Gets whether the microphone does not hear the loudspeaker, each time that this changes. */
    var onRoute: (Boolean) -> Unit = {}

    /** Whether the microphone does not hear the loudspeaker. */
    val fullDuplex: Boolean get() = hasHeadset() || AcousticEchoCanceler.isAvailable()

    private val devices = object : AudioDeviceCallback() {
        override fun onAudioDevicesAdded(added: Array<AudioDeviceInfo>) = route()
        override fun onAudioDevicesRemoved(removed: Array<AudioDeviceInfo>) = route()
    }

    override fun request(changed: (FocusChange) -> Unit): Boolean {
        val attributes = AudioAttributes.Builder()
            .setUsage(AudioAttributes.USAGE_VOICE_COMMUNICATION)
            .setContentType(AudioAttributes.CONTENT_TYPE_SPEECH)
            .build()
        val asked = AudioFocusRequest.Builder(AudioManager.AUDIOFOCUS_GAIN)
            .setAudioAttributes(attributes)
            .setOnAudioFocusChangeListener { change -> focusChange(change)?.let(changed) }
            .build()
        if (audio.requestAudioFocus(asked) != AudioManager.AUDIOFOCUS_REQUEST_GRANTED) return false
        request = asked
        audio.mode = AudioManager.MODE_IN_COMMUNICATION
        audio.registerAudioDeviceCallback(devices, null)
        route()
        return true
    }

    override fun release() {
        val asked = request ?: return
        request = null
        audio.unregisterAudioDeviceCallback(devices)
        audio.stopBluetoothSco()
        audio.isBluetoothScoOn = false
        audio.isSpeakerphoneOn = false
        audio.mode = AudioManager.MODE_NORMAL
        audio.abandonAudioFocusRequest(asked)
    }

    private fun focusChange(change: Int): FocusChange? = when (change) {
        AudioManager.AUDIOFOCUS_GAIN -> FocusChange.GAINED
        AudioManager.AUDIOFOCUS_LOSS -> FocusChange.LOST
        AudioManager.AUDIOFOCUS_LOSS_TRANSIENT -> FocusChange.PAUSED
        else -> null // the system lowers the volume by itself
    }

    /** Use a headset if there is one, or else the loudspeaker. */
    private fun route() {
        if (request == null) return
        val wireless = types().any { it == AudioDeviceInfo.TYPE_BLUETOOTH_SCO }
        audio.isSpeakerphoneOn = !hasHeadset()
        if (wireless) audio.startBluetoothSco() else audio.stopBluetoothSco()
        audio.isBluetoothScoOn = wireless
        onRoute(fullDuplex)
    }

    private fun hasHeadset() = types().any { it in HEADSETS }

    private fun types() = audio.getDevices(AudioManager.GET_DEVICES_OUTPUTS).map { it.type }

    private companion object {
        val HEADSETS = setOf(
            AudioDeviceInfo.TYPE_WIRED_HEADSET,
            AudioDeviceInfo.TYPE_WIRED_HEADPHONES,
            AudioDeviceInfo.TYPE_USB_HEADSET,
            AudioDeviceInfo.TYPE_BLUETOOTH_SCO,
            AudioDeviceInfo.TYPE_BLUETOOTH_A2DP,
            AudioDeviceInfo.TYPE_HEARING_AID,
        )
    }
}
