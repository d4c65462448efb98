/** Keeps the microphone open during a call while another app is in front. The call ends with it. */
package org.pocketomni.app

import android.app.Notification
import android.app.NotificationChannel
import android.app.NotificationManager
import android.app.PendingIntent
import android.app.Service
import android.content.Context
import android.content.Intent
import android.content.pm.ServiceInfo
import android.os.IBinder

class CallService : Service() {
    private val call get() = (application as OmniApp).call

    override fun onBind(intent: Intent?): IBinder? = null

    override fun onStartCommand(intent: Intent?, flags: Int, startId: Int): Int {
        if (intent?.action == END) {
            call.end()
            stopSelf()
            return START_NOT_STICKY
        }
        // the type is that of the manifest
        startForeground(NOTIFICATION, notification(), ServiceInfo.FOREGROUND_SERVICE_TYPE_MANIFEST)
        val sound = (application as OmniApp).callSound
        sound.onRoute = { fullDuplex -> call.setFullDuplex(fullDuplex) }
        call.onEnd = { stopSelf() }
        call.start(sound.fullDuplex)
        return START_NOT_STICKY
    }

    override fun onDestroy() {
        call.end()
        super.onDestroy()
    }

    private fun notification(): Notification {
        val manager = getSystemService(NotificationManager::class.java)
        val name = getString(R.string.call_channel)
        manager.createNotificationChannel(NotificationChannel(CHANNEL, name, NotificationManager.IMPORTANCE_LOW))
        val open = PendingIntent.getActivity(
            this,
            0,
            Intent(this, CallActivity::class.java),
            PendingIntent.FLAG_IMMUTABLE,
        )
        val end = PendingIntent.getService(
            this,
            1,
            Intent(this, CallService::class.java).setAction(END),
            PendingIntent.FLAG_IMMUTABLE,
        )
        return Notification.Builder(this, CHANNEL)
            .setSmallIcon(R.drawable.icon_microphone)
            .setContentTitle(getString(R.string.call_running))
            .setContentIntent(open)
            .setOngoing(true)
            .addAction(Notification.Action.Builder(null, getString(R.string.end_call), end).build())
            .build()
    }

    companion object {
        private const val CHANNEL = "calls"
        private const val NOTIFICATION = 1
        private const val END = "org.pocketomni.app.END_CALL"

        /** Start the call. The app must be in front and may use the microphone. */
        fun start(context: Context) {
            context.startForegroundService(Intent(context, CallService::class.java))
        }
    }
}
