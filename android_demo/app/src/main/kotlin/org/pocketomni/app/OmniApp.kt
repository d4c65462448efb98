/** The process: it owns the model and the presenters, which outlive every screen. */
package org.pocketomni.app

import android.app.ActivityManager
import android.app.Application
import android.os.Build
import android.os.Handler
import android.os.Looper
import android.util.Log
import org.pocketomni.app.presenters.BenchPresenter
import org.pocketomni.app.presenters.BundleLibrary
import org.pocketomni.app.presenters.BundlePresenter
import org.pocketomni.app.presenters.BundleServices
import org.pocketomni.app.presenters.CallPresenter
import org.pocketomni.app.presenters.CallServices
import org.pocketomni.app.presenters.ChatEngine
import org.pocketomni.app.presenters.ChatPresenter
import org.pocketomni.app.presenters.ChatServices
import org.pocketomni.app.presenters.ChatStore
import org.pocketomni.app.presenters.PhoneMemory
import org.pocketomni.app.presenters.RealEngine
import org.pocketomni.app.presenters.Settings
import org.pocketomni.app.presenters.UiThread
import org.pocketomni.app.presenters.Worker
import org.pocketomni.engine.Engine
import org.pocketomni.engine.EngineOptions
import java.io.File
import java.util.concurrent.Executors

class OmniApp : Application() {
    lateinit var chat: ChatPresenter
        private set
    lateinit var bundles: BundlePresenter
        private set
    lateinit var call: CallPresenter
        private set
    lateinit var bench: BenchPresenter
        private set
    lateinit var callSound: CallSound
        private set

    /** The loaded model. */
    var engine: ChatEngine? = null
        private set

    /** Bundles that `adb push` can write to; null without external storage. */
    val sharedBundles: File? get() = getExternalFilesDir("bundles")

    override fun onCreate() {
        super.onCreate()
        val handler = Handler(Looper.getMainLooper())
        val ui = UiThread { work -> handler.post(work) }
        val settings = Settings(File(filesDir, "settings"))
        val services = ChatServices(
            ui = ui,
            worker = worker("chat"),
            store = ChatStore(File(filesDir, "chats")),
            settings = settings,
            media = AndroidMedia(this),
            microphone = AndroidMicrophone(this, forCall = false),
            speaker = ChatSpeaker(this) { chat.stop() },
            peakMemory = ::peakMemory,
        )
        chat = ChatPresenter(services)
        bundles = BundlePresenter(bundleServices(ui, settings)) { loaded, done ->
            engine = loaded
            bench.cancel()
            call.end()
            chat.use(loaded, done)
        }
        callSound = CallSound(this)
        val callServices = CallServices(
            chat = services,
            microphone = AndroidMicrophone(this, forCall = true),
            speaker = CallSpeaker(),
            focus = callSound,
            voiceActivity = { assets.open(VOICE_ACTIVITY).use { it.readBytes() } },
        )
        call = CallPresenter(callServices, chat)
        bench = BenchPresenter(services, setting(), getExternalFilesDir(null) ?: filesDir)
        chat.restore()
        bundles.start()
    }

    private fun bundleServices(ui: UiThread, settings: Settings) = BundleServices(
        ui = ui,
        worker = worker("bundles"),
        library = BundleLibrary(File(filesDir, "bundles"), listOfNotNull(sharedBundles)),
        settings = settings,
        memory = ::memory,
        freeBytes = { filesDir.usableSpace },
        open = { folder, keepEncoders ->
            val options = EngineOptions(keepEncoders = keepEncoders, kernels = kernels(), memory = SharedBuffers)
            RealEngine(Engine.open(folder, options))
        },
        builtIn = AssetBundle(assets),
    )

    /** Load our kernels. Without them, ONNX Runtime runs its own operators in their place. */
    private fun kernels(): File? {
        val library = File(applicationInfo.nativeLibraryDir, KERNELS)
        return try {
            System.load(library.path)
            library
        } catch (error: UnsatisfiedLinkError) { // Gradle's build has none
            Log.w(KERNELS, "ONNX Runtime's own kernels are used", error)
            null
        }
    }

    private fun worker(name: String): Worker {
        val executor = Executors.newSingleThreadExecutor { Thread(it, name) }
        return Worker { work -> executor.execute(work) }
    }

    private fun memory(): PhoneMemory {
        val info = ActivityManager.MemoryInfo()
        getSystemService(ActivityManager::class.java).getMemoryInfo(info)
        // below the threshold the system ends apps
        return PhoneMemory(info.totalMem, maxOf(0, info.availMem - info.threshold))
    }

    /** Return the largest resident size of this process so far, in bytes. */
    private fun peakMemory(): Long? = File("/proc/self/status").useLines { lines ->
        val peak = lines.firstOrNull { it.startsWith("VmHWM:") } ?: return null
        peak.filter { it.isDigit() }.toLong() * 1024
    }

    private fun setting(): Map<String, Any> {
        val chip = "${Build.MANUFACTURER} ${Build.MODEL}, ${Build.HARDWARE}, Android ${Build.VERSION.RELEASE}"
        val version = packageManager.getPackageInfo(packageName, 0).versionName.orEmpty()
        return mapOf(
            "machine" to "$chip, ${Runtime.getRuntime().availableProcessors()} cores",
            "threads" to Runtime.getRuntime().availableProcessors(),
            "kernels" to if (kernels() == null) "ONNX Runtime: $KERNELS cannot be loaded" else "native where implemented",
            "KV cache" to "float32",
            "versions" to "pocket-omni for Android $version",
        )
    }

    private companion object {
        const val KERNELS = "libpocket_omni.so"
        const val VOICE_ACTIVITY = "silero_vad_16k_sequence.onnx"
    }
}
