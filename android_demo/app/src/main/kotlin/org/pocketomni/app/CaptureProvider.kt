/** One file that the camera app may write: the picture that is being taken. */
package org.pocketomni.app

import android.content.ContentProvider
import android.content.ContentValues
import android.content.Context
import android.database.Cursor
import android.net.Uri
import android.os.ParcelFileDescriptor
import java.io.File
import java.io.FileNotFoundException
import java.io.FilterInputStream
import java.io.InputStream

class CaptureProvider : ContentProvider() {
    override fun onCreate() = true

    override fun openFile(uri: Uri, mode: String): ParcelFileDescriptor {
        val app = context ?: throw FileNotFoundException("$uri")
        if (uri != URI) throw FileNotFoundException("$uri")
        return ParcelFileDescriptor.open(file(app), ParcelFileDescriptor.parseMode(mode))
    }

    override fun getType(uri: Uri) = "image/jpeg"
    override fun query(uri: Uri, columns: Array<String>?, where: String?, values: Array<String>?, order: String?): Cursor? = null
    override fun insert(uri: Uri, values: ContentValues?): Uri? = null
    override fun update(uri: Uri, values: ContentValues?, where: String?, arguments: Array<String>?) = 0
    override fun delete(uri: Uri, where: String?, arguments: Array<String>?) = 0

    companion object {
        val URI: Uri = Uri.parse("content://org.pocketomni.app.capture/picture.jpg")

        /** Return the file that the camera app writes. */
        fun file(context: Context) = File(context.cacheDir, "picture.jpg")

        /** Return what opens the picture. When that is closed, the file is gone. */
        fun taken(context: Context): () -> InputStream = {
            val file = file(context)
            object : FilterInputStream(file.inputStream()) {
                override fun close() {
                    super.close()
                    file.delete()
                }
            }
        }
    }
}
