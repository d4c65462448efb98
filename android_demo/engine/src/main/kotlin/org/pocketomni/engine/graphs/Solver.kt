/** Time grids and solvers of the DiT's flow, from noise (t = 0) to mel (t = 1). All in single precision. */
package org.pocketomni.engine.graphs

import org.pocketomni.engine.bundle.Solver
import org.pocketomni.engine.bundle.SolverPreset
import kotlin.math.cos

private const val THIRD = (1.0 / 3).toFloat()
private const val HALF = 0.5f

/** Time points of the solver, `steps` + 1, from 0 to 1. */
internal fun timeGrid(preset: SolverPreset): FloatArray = FloatArray(preset.steps + 1) {
    val even = if (it == preset.steps) 1f else (it * (1.0 / preset.steps)).toFloat()
    val cosine = cos(((Math.PI / 2).toFloat() * even).toDouble()).toFloat()
    even + preset.sway.toFloat() * (cosine - 1f + even)
}

/** The time of each evaluation in the order of the solver. */
internal fun evaluationTimes(preset: SolverPreset): FloatArray {
    val grid = timeGrid(preset)
    return (0 until preset.steps).flatMap { i ->
        val width = grid[i + 1] - grid[i]
        when (preset.solver) {
            Solver.EULER -> listOf(grid[i])
            Solver.MIDPOINT -> listOf(grid[i], grid[i] + width * HALF)
            Solver.RK4 -> listOf(grid[i], grid[i] + width * THIRD, grid[i] + width * (2.0 / 3).toFloat(), grid[i + 1])
        }
    }.toFloatArray()
}

/** Batch size of each evaluation: 2 with guidance, otherwise 1. */
internal fun branches(preset: SolverPreset): IntArray =
    IntArray(evaluationTimes(preset).size) { if (it < preset.guided) 2 else 1 }

/** Function evaluations of a preset; a guided one counts as two. */
internal fun functionEvaluations(preset: SolverPreset): Int = branches(preset).sum()

/** Velocity of evaluation number i at a state. */
internal typealias Velocity = (Int, FloatArray) -> FloatArray

/** Integrate from [noise] to t = 1. */
internal fun integrate(preset: SolverPreset, noise: FloatArray, velocity: Velocity): FloatArray {
    val grid = timeGrid(preset)
    var state = noise
    for (i in 0 until preset.steps) {
        val width = grid[i + 1] - grid[i]
        state = when (preset.solver) {
            Solver.EULER -> velocity(i, state).let { v -> moved(state) { width * v[it] } }
            Solver.MIDPOINT -> midpoint(state, width, velocity, 2 * i)
            Solver.RK4 -> kutta(state, width, velocity, 4 * i)
        }
    }
    return state
}

private fun midpoint(state: FloatArray, width: Float, velocity: Velocity, index: Int): FloatArray {
    val first = velocity(index, state)
    val second = velocity(index + 1, moved(state) { width * HALF * first[it] })
    return moved(state) { width * second[it] }
}

/** Kutta's 3/8 rule. */
private fun kutta(state: FloatArray, width: Float, velocity: Velocity, index: Int): FloatArray {
    val k1 = velocity(index, state)
    val k2 = velocity(index + 1, moved(state) { width * k1[it] * THIRD })
    val k3 = velocity(index + 2, moved(state) { width * (k2[it] - k1[it] * THIRD) })
    val k4 = velocity(index + 3, moved(state) { width * (k1[it] - k2[it] + k3[it]) })
    return moved(state) { (k1[it] + 3f * (k2[it] + k3[it]) + k4[it]) * width / 8f }
}

private inline fun moved(state: FloatArray, by: (Int) -> Float) = FloatArray(state.size) { state[it] + by(it) }
