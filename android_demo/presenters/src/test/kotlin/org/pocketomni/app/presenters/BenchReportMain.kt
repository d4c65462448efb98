/** Prints a fixed report in both forms, or runs the benchmark; tests in Python compare it with `omni bench`. */
package org.pocketomni.app.presenters

import org.pocketomni.engine.Engine
import org.pocketomni.engine.EngineOptions

fun main(arguments: Array<String>) {
    val rows = listOf(
        BenchRow("first text, typed", "s", listOf(0.0123, 0.0131, 0.0119), "at most 48 tokens"),
        BenchRow("peak memory", "MiB", listOf(2345.5), ""),
        BenchRow("real-time factor, \"x\"", "x", listOf(0.0, 0.0), "größer ist besser"),
    )
    if (arguments[0] == "run") return measured()
    val report = BenchReport(linkedMapOf("bundle" to "a", "threads" to 2, "warm-up" to true), rows, linkedMapOf("pp" to "why", "tg" to "so"))
    System.out.write((if (arguments[0] == "json") report.json() else report.markdown()).toByteArray())
    System.out.flush()
}

/** All rows of the bundle, of one run each. */
private fun measured() {
    loadShims()
    RealEngine(Engine.open(BUNDLE, EngineOptions(threads = 1))).use { engine ->
        println(Bench(engine, 1, { false }) { System.err.println(it) }.run(mapOf("threads" to 1)) { 1 shl 20 }.json())
    }
}
