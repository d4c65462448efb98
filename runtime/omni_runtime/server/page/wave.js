// A rolling waveform on a canvas.

export class Wave {
  constructor(canvas, color) {
    this.canvas = canvas;
    this.color = color;
    this.peaks = new Array(canvas.width / 4).fill(0);
    this.due = false;
  }

  /** @param {ArrayLike<number>} samples within -1 .. 1 */
  add(samples, step = 480) {
    for (let start = 0; start < samples.length; start += step) {
      let peak = 0;
      const stop = Math.min(start + step, samples.length);
      for (let i = start; i < stop; i++) peak = Math.max(peak, Math.abs(samples[i]));
      this.peaks.shift();
      this.peaks.push(peak);
    }
    if (!this.due) {
      this.due = true;
      requestAnimationFrame(() => this.draw());
    }
  }

  draw() {
    this.due = false;
    const { canvas } = this;
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(this.color);
    this.peaks.forEach((peak, i) => {
      const height = Math.max(1, Math.sqrt(peak) * canvas.height);
      pen.fillRect(4 * i, (canvas.height - height) / 2, 3, height);
    });
  }
}
