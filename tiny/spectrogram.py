"""The plot in the README: a spoken answer as waveform and spectrogram.

python -m tiny.spectrogram answer.wav docs/answer.png "What is seven plus five?"
"""

import sys

import matplotlib as mpl
import numpy as np
import soundfile as sf

mpl.use("agg")
import matplotlib.pyplot as plt


def main() -> None:
    sound, target, title = sys.argv[1:4]
    samples, rate = sf.read(sound, dtype="float32")
    figure, (wave, pitch) = plt.subplots(
        2, 1, sharex=True, figsize=(8, 3.6), height_ratios=(1, 2), layout="constrained"
    )
    wave.plot(np.arange(len(samples)) / rate, samples, linewidth=0.4, color="#2b6ca3")
    wave.set(ylabel="amplitude", title=title)
    pitch.specgram(samples, 512, rate, noverlap=384, cmap="magma", vmin=-130, vmax=-30)
    pitch.set(xlabel="seconds", ylabel="Hz", ylim=(0, 8000))
    figure.savefig(target, dpi=80)


if __name__ == "__main__":
    main()
