/** Memory for KV caches outside of the Java heap, whose size Android limits. */
package org.pocketomni.app

import android.os.SharedMemory
import android.system.ErrnoException
import org.pocketomni.engine.BufferAllocator
import org.pocketomni.engine.OmniError
import java.nio.ByteBuffer
import java.nio.ByteOrder

object SharedBuffers : BufferAllocator {
    override fun allocate(bytes: Int): ByteBuffer = try {
        // the mapping stays when its file is closed
        SharedMemory.create(null, bytes).use { it.mapReadWrite() }.order(ByteOrder.nativeOrder())
    } catch (error: ErrnoException) {
        throw OmniError("there is no memory for ${bytes shr 20} MB of context: ${error.message}", "use a smaller bundle", "out_of_memory")
    }

    override fun release(buffer: ByteBuffer) = SharedMemory.unmap(buffer)
}
