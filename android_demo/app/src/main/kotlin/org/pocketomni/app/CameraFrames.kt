/** The camera during a call: a preview, and one picture a second for the model. */
package org.pocketomni.app

import android.annotation.SuppressLint
import android.app.Activity
import android.graphics.ImageFormat
import android.graphics.Matrix
import android.graphics.RectF
import android.graphics.SurfaceTexture
import android.hardware.camera2.CameraAccessException
import android.hardware.camera2.CameraCaptureSession
import android.hardware.camera2.CameraCharacteristics
import android.hardware.camera2.CameraDevice
import android.hardware.camera2.CameraManager
import android.media.ImageReader
import android.os.Handler
import android.os.HandlerThread
import android.os.SystemClock
import android.util.Size
import android.view.Surface
import android.view.TextureView
import org.pocketomni.engine.ImageSource
import org.pocketomni.engine.Part
import kotlin.math.abs

/** [see] gets pictures on the camera's thread, [failed] the reason of a failure on the thread that draws. */
class CameraFrames(
    private val activity: Activity,
    private val preview: TextureView,
    private val see: (Part.Picture) -> Unit,
    private val failed: (String) -> Unit,
) {
    private val manager = activity.getSystemService(CameraManager::class.java)
    private val thread = HandlerThread("camera").apply { start() }
    private val handler = Handler(thread.looper)
    private var device: CameraDevice? = null
    private var reader: ImageReader? = null
    private var closed = false
    private var lastPicture = 0L

    /** Open the camera as soon as the preview can be drawn. */
    fun open() {
        if (preview.isAvailable) return start()
        preview.surfaceTextureListener = object : TextureView.SurfaceTextureListener {
            override fun onSurfaceTextureAvailable(surface: SurfaceTexture, width: Int, height: Int) = start()
            override fun onSurfaceTextureSizeChanged(surface: SurfaceTexture, width: Int, height: Int) = Unit
            override fun onSurfaceTextureDestroyed(surface: SurfaceTexture) = true
            override fun onSurfaceTextureUpdated(surface: SurfaceTexture) = Unit
        }
    }

    /** Close the camera. */
    fun close() {
        closed = true
        preview.surfaceTextureListener = null
        // the thread owns the camera
        handler.post {
            device?.close()
            reader?.close()
            thread.quitSafely()
        }
    }

    @SuppressLint("MissingPermission")
    private fun start() {
        try {
            val camera = choose() ?: return fail("no camera")
            val about = manager.getCameraCharacteristics(camera)
            val size = size(about)
            val sensor = about.get(CameraCharacteristics.SENSOR_ORIENTATION) ?: 0
            val front = about.get(CameraCharacteristics.LENS_FACING) == CameraCharacteristics.LENS_FACING_FRONT
            val display = DEGREES[activity.windowManager.defaultDisplay.rotation] ?: 0
            val degrees = ((if (front) sensor + display else sensor - display) + 360) % 360
            turnPreview(size, display)
            manager.openCamera(camera, opened(size, degrees), handler)
        } catch (error: CameraAccessException) {
            fail(error.message ?: error.toString())
        } catch (error: SecurityException) {
            fail(error.message ?: error.toString())
        }
    }

    private fun opened(size: Size, degrees: Int) = object : CameraDevice.StateCallback() {
        override fun onOpened(camera: CameraDevice) {
            device = camera
            if (closed) return camera.close()
            val texture = preview.surfaceTexture ?: return fail("no preview")
            texture.setDefaultBufferSize(size.width, size.height)
            val images = ImageReader.newInstance(size.width, size.height, ImageFormat.YUV_420_888, 2)
            reader = images
            images.setOnImageAvailableListener({ take(it, degrees) }, handler)
            stream(camera, Surface(texture), images.surface)
        }

        override fun onDisconnected(camera: CameraDevice) {
            camera.close()
            fail("another app uses the camera")
        }

        override fun onError(camera: CameraDevice, error: Int) {
            camera.close()
            fail("error $error")
        }
    }

    private fun stream(camera: CameraDevice, vararg surfaces: Surface) {
        val request = camera.createCaptureRequest(CameraDevice.TEMPLATE_PREVIEW)
        surfaces.forEach { request.addTarget(it) }
        val states = object : CameraCaptureSession.StateCallback() {
            override fun onConfigured(session: CameraCaptureSession) {
                try {
                    if (!closed) session.setRepeatingRequest(request.build(), null, handler)
                } catch (error: CameraAccessException) {
                    fail(error.message ?: error.toString())
                }
            }

            override fun onConfigureFailed(session: CameraCaptureSession) = fail("not configured")
        }
        @Suppress("DEPRECATION") // its successor is in API 30
        camera.createCaptureSession(surfaces.toList(), states, handler)
    }

    private fun take(reader: ImageReader, degrees: Int) {
        reader.acquireLatestImage()?.use { image ->
            val now = SystemClock.elapsedRealtime()
            if (closed || now - lastPicture < PERIOD_MILLISECONDS) return
            lastPicture = now
            // cameras give the full range of BT.601
            see(Part.Picture(ImageSource(image.yuv(fullRange = true, bt709 = false).rgb(degrees))))
        }
    }

    /** Return the camera at the back, or else any. */
    private fun choose(): String? {
        val cameras = manager.cameraIdList
        return cameras.firstOrNull {
            manager.getCameraCharacteristics(it).get(CameraCharacteristics.LENS_FACING) == CameraCharacteristics.LENS_FACING_BACK
        } ?: cameras.firstOrNull()
    }

    /** Return the size that is closest to what the model sees. */
    private fun size(about: CameraCharacteristics): Size {
        val map = about.get(CameraCharacteristics.SCALER_STREAM_CONFIGURATION_MAP)
        val sizes = map?.getOutputSizes(ImageFormat.YUV_420_888).orEmpty()
        return sizes.minByOrNull { abs(it.width * it.height - PIXELS) } ?: Size(640, 480)
    }

    /** Turn and scale the preview, so that the whole picture is upright in the view. */
    private fun turnPreview(size: Size, display: Int) {
        val view = RectF(0f, 0f, preview.width.toFloat(), preview.height.toFloat())
        val upright = display % 180 == 0
        val width = if (upright) size.height.toFloat() else size.width.toFloat()
        val height = if (upright) size.width.toFloat() else size.height.toFloat()
        val scale = minOf(view.width() / width, view.height() / height)
        val matrix = Matrix()
        // the size before the turn
        val (across, down) = if (upright) width to height else height to width
        matrix.setScale(across * scale / view.width(), down * scale / view.height(), view.centerX(), view.centerY())
        matrix.postRotate(-display.toFloat(), view.centerX(), view.centerY())
        preview.setTransform(matrix)
    }

    private fun fail(reason: String) = activity.runOnUiThread { if (!closed) failed(reason) }

    private companion object {
        const val PERIOD_MILLISECONDS = 1000L
        const val PIXELS = 640 * 480
        val DEGREES = mapOf(Surface.ROTATION_0 to 0, Surface.ROTATION_90 to 90, Surface.ROTATION_180 to 180, Surface.ROTATION_270 to 270)
    }
}
