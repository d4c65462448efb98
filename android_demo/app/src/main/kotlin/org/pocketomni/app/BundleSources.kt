/** Bundles outside of the app's folders: inside the APK, and in a folder that the user picked. */
package org.pocketomni.app

import android.content.ContentResolver
import android.content.Context
import android.content.res.AssetManager
import android.net.Uri
import android.provider.DocumentsContract
import android.provider.DocumentsContract.Document
import org.pocketomni.app.presenters.BundleSource
import java.io.FileNotFoundException
import java.io.IOException
import java.io.InputStream

/** The bundle inside the APK. */
class AssetBundle(private val assets: AssetManager) : BundleSource {
    override val name = "built-in"

    override fun open(path: String): InputStream? = try {
        assets.open("bundle/$path")
    } catch (_: FileNotFoundException) {
        null
    }
}

/** A folder of the system's file picker. */
class PickedBundle(context: Context, private val tree: Uri) : BundleSource {
    private val resolver: ContentResolver = context.contentResolver
    private val folders = mutableMapOf<String, Map<String, String>>()
    private val root: String = DocumentsContract.getTreeDocumentId(tree)

    override val name: String by lazy {
        val uri = DocumentsContract.buildDocumentUriUsingTree(tree, root)
        val names = query(uri, Document.COLUMN_DISPLAY_NAME) { it.first() }
        // the name becomes that of a folder
        names.firstOrNull().orEmpty().replace(Regex("[^\\w.-]"), "_").trimStart('.').ifEmpty { "bundle" }
    }

    override fun open(path: String): InputStream? {
        val document = path.split("/").fold(root as String?) { folder, part -> folder?.let { children(it)[part] } }
        val uri = DocumentsContract.buildDocumentUriUsingTree(tree, document ?: return null)
        return try {
            resolver.openInputStream(uri)
        } catch (_: FileNotFoundException) {
            null
        }
    }

    /** Return the ids of the files and folders in a folder, by name. */
    private fun children(folder: String): Map<String, String> = folders.getOrPut(folder) {
        val uri = DocumentsContract.buildChildDocumentsUriUsingTree(tree, folder)
        query(uri, Document.COLUMN_DISPLAY_NAME, Document.COLUMN_DOCUMENT_ID) { it[0] to it[1] }.toMap()
    }

    private fun <T> query(uri: Uri, vararg columns: String, row: (List<String>) -> T): List<T> {
        val cursor = try {
            resolver.query(uri, columns, null, null, null)
        } catch (error: SecurityException) {
            throw IOException(error)
        } ?: throw IOException("the folder cannot be read")
        return cursor.use {
            List(it.count) { number ->
                it.moveToPosition(number)
                row(columns.indices.map { column -> it.getString(column).orEmpty() })
            }
        }
    }
}
