/**
 * Serves the parity tests: one JSON request a line on standard input, one answer a line on standard output.
 *
 * Arguments: the folder of the shims, which stand in for Android's libraries, and the folder of a bundle.
 */
package org.pocketomni.engine

import org.pocketomni.engine.bundle.Json
import java.io.File
import java.io.PrintStream

private val SHIMS = listOf("libc.so", "libm.so", "libdl.so", "libonnxruntime.so")

fun main(arguments: Array<String>) {
    val out = PrintStream(System.out, false, "UTF-8")
    System.setOut(System.err) // what else is printed must not mix with the answers
    for (name in SHIMS) System.load(File(arguments[0], name).absolutePath)
    val engines = HashMap<String, Served>()
    while (true) {
        val line = readlnOrNull() ?: break
        val given = Json.parse(line) as Map<*, *>
        val answer = try {
            mapOf("result" to answer(given, engines))
        } catch (error: OmniError) {
            mapOf("error" to error.code, "message" to error.line)
        } catch (error: Throwable) {
            error.printStackTrace()
            mapOf("error" to error.javaClass.simpleName, "message" to error.toString())
        }
        out.println(json(answer))
        out.flush()
    }
    engines.values.forEach { it.engine.close() }
}

private class Served(val engine: Engine) {
    val cases by lazy { Cases(engine.model) }
    val talks by lazy { Talks(engine) }
}

private fun answer(given: Map<*, *>, engines: HashMap<String, Served>): Any? {
    val name = given["do"] as String
    val engine = given["engine"] as String? ?: ""
    return when (name) {
        "memory" -> memory()
        "cache" -> cacheCost(given)
        "load" -> {
            val options = EngineOptions(
                (given["threads"] as Long).toInt(), given["int8_cache"] == true, given["keep_encoders"] != false,
                (given["kernels"] as String?)?.let(::File),
            )
            engines[engine] = Served(Engine.open(File(given["bundle"] as String), options))
            null
        }
        "unload" -> engines.remove(engine)!!.engine.close().let { null }
        "voice_activity" -> voiceActivity(given)
        "parse" -> BundleInfo.read(File(given["bundle"] as String)).name
        else -> engines.getValue(engine).let { served ->
            if ("talk" in given.keys) served.talks.answer(name, given)
            else served.engine.call { served.cases.answer(name, given) }
        }
    }
}

/** Peak and present resident memory of this process, its shares of files and of other memory, and Java's heap, in bytes. */
private fun memory(): Map<String, Long> {
    val lines = File("/proc/self/status").readLines()
    val names = listOf("VmHWM", "VmRSS", "RssFile", "RssAnon")
    val sizes = names.associateWith { name -> lines.first { it.startsWith("$name:") }.filter(Char::isDigit).toLong() * 1024 }
    return sizes + ("heap" to Runtime.getRuntime().totalMemory())
}
