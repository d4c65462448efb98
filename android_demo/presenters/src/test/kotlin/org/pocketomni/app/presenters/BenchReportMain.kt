/** Prints a fixed report in both forms; a test in Python compares it with that of `omni bench`. */
package org.pocketomni.app.presenters

fun main(arguments: Array<String>) {
    val rows = listOf(
        BenchRow("first text, typed", "s", listOf(0.0123, 0.0131, 0.0119), "at most 48 tokens"),
        BenchRow("peak memory", "MiB", listOf(2345.5), ""),
        BenchRow("real-time factor, \"x\"", "x", listOf(0.0, 0.0), "größer ist besser"),
    )
    val report = BenchReport(linkedMapOf("bundle" to "a", "threads" to "2"), rows, linkedMapOf("pp" to "why", "tg" to "so"))
    System.out.write((if (arguments[0] == "json") report.json() else report.markdown()).toByteArray())
    System.out.flush()
}
