/** The threads of a presenter: state belongs to the thread that draws, and blocking work to a worker. */
package org.pocketomni.app.presenters

/** Runs work later on the thread that draws. */
fun interface UiThread {
    fun post(work: () -> Unit)
}

/** Runs blocking work, one after the other. */
fun interface Worker {
    fun run(work: () -> Unit)
}

/** Shows the newest state. It is called on the thread that draws. */
fun interface Screen<in S> {
    fun show(state: S)
}

/** A state with at most one screen. The screen may come and go; the state stays. */
open class Presenter<S>(initial: S) {
    /** The present state. */
    var state: S = initial
        private set(value) {
            field = value
            screen?.show(value)
        }

    private var screen: Screen<S>? = null

    /** Show the present state and all later ones. */
    fun attach(screen: Screen<S>) {
        this.screen = screen
        screen.show(state)
    }

    /** Stop showing states to [screen]. Another screen that was attached since stays. */
    fun detach(screen: Screen<S>) {
        if (this.screen === screen) this.screen = null
    }

    protected fun update(change: (S) -> S) {
        state = change(state)
    }
}
