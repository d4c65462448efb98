/** The report of the benchmark, in the form of `omni bench`. */
package org.pocketomni.app.presenters

import java.util.Locale
import kotlin.math.abs
import kotlin.math.floor
import kotlin.math.log10
import kotlin.math.sqrt

/** All values of one quantity, in order of measurement. */
data class BenchRow(val test: String, val unit: String, val samples: List<Double>, val note: String) {
    val mean: Double get() = samples.average()

    /** Standard deviation of the samples; 0 for a single one. */
    val deviation: Double
        get() = if (samples.size < 2) 0.0 else sqrt(samples.sumOf { (it - mean) * (it - mean) } / (samples.size - 1))
}

/** A report. [setting] applies to all rows, [leftOut] maps a test to the reason why it has no row. */
class BenchReport(
    private val setting: Map<String, Any>,
    private val rows: List<BenchRow>,
    private val leftOut: Map<String, String>,
) {
    /** Return the report as `omni bench` prints it. */
    fun markdown(): String {
        val parts = mutableListOf(setting.entries.joinToString("\n") { "${it.key}: ${if (it.value == true) "True" else it.value}  " })
        if (rows.isNotEmpty()) parts.add(table())
        if (leftOut.isNotEmpty()) parts.add("left out: " + leftOut.entries.joinToString("; ") { "${it.key} (${it.value})" })
        return parts.joinToString("\n\n") + "\n"
    }

    /** Return the report as `omni bench -o json` prints it. */
    fun json(): String {
        val reasons = leftOut.map { (name, why) -> "${quote(name)}: ${quote(why)}" }
        val lines = setting.map { (name, value) -> "  ${quote(name)}: ${if (value is String) quote(value) else value}" } + listOf(
            "  \"rows\": ${list(rows.map { json(it) })}",
            "  \"left_out\": ${record(reasons, "    ", "  ")}",
        )
        return "{\n" + lines.joinToString(",\n") + "\n}\n"
    }

    private fun json(row: BenchRow): String {
        val samples = row.samples.joinToString(",\n") { "        $it" }
        val fields = listOf(
            "\"test\": ${quote(row.test)}",
            "\"unit\": ${quote(row.unit)}",
            "\"mean\": ${row.mean}",
            "\"sd\": ${row.deviation}",
            "\"samples\": [\n$samples\n      ]",
            "\"note\": ${quote(row.note)}",
        )
        return "    " + record(fields, "      ", "    ")
    }

    private fun list(items: List<String>) = if (items.isEmpty()) "[]" else "[\n${items.joinToString(",\n")}\n  ]"

    private fun record(fields: List<String>, indent: String, end: String) =
        if (fields.isEmpty()) "{}" else fields.joinToString(",\n", "{\n", "\n$end}") { indent + it }

    private fun table(): String {
        val header = listOf("test", "unit", "mean ± sd", "note")
        val lines = listOf(header) + rows.map { listOf(it.test, it.unit, number(it), it.note) }
        val widths = header.indices.map { column -> lines.maxOf { it[column].length } }
        val texts = lines.map { line ->
            line.mapIndexed { column, cell -> if (column == NUMBERS) cell.padStart(widths[column]) else cell.padEnd(widths[column]) }
        }
        val rule = widths.mapIndexed { column, width -> "-".repeat(width - 1) + if (column == NUMBERS) ":" else "-" }
        return (listOf(texts[0], rule) + texts.drop(1)).joinToString("\n") { "| ${it.joinToString(" | ")} |" }
    }

    companion object {
        private const val NUMBERS = 2
        private const val SIGNIFICANT = 3

        /** Format mean ± standard deviation, with three significant digits of the mean. */
        fun number(row: BenchRow): String {
            val size = if (row.mean == 0.0) 0 else floor(log10(abs(row.mean))).toInt()
            val decimals = maxOf(0, SIGNIFICANT - 1 - size)
            return String.format(Locale.ROOT, "%.${decimals}f ± %.${decimals}f", row.mean, row.deviation)
        }

        private fun quote(text: String): String {
            val escaped = text.map { char ->
                when {
                    char == '"' || char == '\\' -> "\\$char"
                    char < ' ' -> String.format(Locale.ROOT, "\\u%04x", char.code)
                    else -> char.toString()
                }
            }
            return escaped.joinToString("", "\"", "\"")
        }
    }
}
