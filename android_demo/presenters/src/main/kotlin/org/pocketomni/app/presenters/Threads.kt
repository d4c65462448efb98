/** The threads of a presenter: all state belongs to the view's thread, and blocking work to a worker. */
package org.pocketomni.app.presenters

/** Runs work later on the thread that draws. */
fun interface UiThread {
    fun post(work: () -> Unit)
}

/** Runs blocking work, one after the other. */
fun interface Worker {
    fun run(work: () -> Unit)
}

/** Shows the newest state. It is called on the view's thread. */
fun interface View<in S> {
    fun show(state: S)
}

/** A state with at most one view. The view may come and go; the state stays. */
open class Presenter<S>(initial: S) {
    /** The present state. */
    var state: S = initial
        private set(value) {
            field = value
            view?.show(value)
        }

    private var view: View<S>? = null

    /** Show the present state and all later ones. */
    fun attach(view: View<S>) {
        this.view = view
        view.show(state)
    }

    /** Stop showing states to [view]. Another view that was attached since stays. */
    fun detach(view: View<S>) {
        if (this.view === view) this.view = null
    }

    protected fun update(change: (S) -> S) {
        state = change(state)
    }
}
