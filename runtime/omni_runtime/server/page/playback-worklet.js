// Plays float samples of one reply and reports how many were played.
//
// Playback starts when the jitter buffer is full; an underrun makes it larger.
const FIRST_BUFFER = 0.09; // seconds
const LARGEST_BUFFER = 1.5;

class Playback extends AudioWorkletProcessor {
  constructor() {
    super();
    this.wanted = FIRST_BUFFER * sampleRate;
    this.clear();
    this.port.onmessage = ({ data }) => {
      if (data.samples) this.add(data.samples);
      if (data.ended) this.ended = true;
      if (data.clear) this.clear();
    };
  }

  clear() {
    this.queue = [];
    this.offset = 0;
    this.waiting = 0;
    this.played = 0;
    this.running = false;
    this.ended = false;
  }

  add(samples) {
    this.queue.push(samples);
    this.waiting += samples.length;
  }

  process(_inputs, outputs) {
    const output = outputs[0][0];
    if (!this.running && (this.waiting >= this.wanted || (this.ended && this.waiting > 0))) {
      this.running = true;
    }
    if (!this.running) return true;
    let filled = 0;
    while (filled < output.length && this.queue.length > 0) {
      const piece = this.queue[0];
      const count = Math.min(output.length - filled, piece.length - this.offset);
      output.set(piece.subarray(this.offset, this.offset + count), filled);
      filled += count;
      this.offset += count;
      if (this.offset === piece.length) {
        this.queue.shift();
        this.offset = 0;
      }
    }
    this.waiting -= filled;
    this.played += filled;
    if (filled < output.length) {
      this.running = false;
      if (!this.ended) this.wanted = Math.min(this.wanted * 2, LARGEST_BUFFER * sampleRate);
    }
    this.port.postMessage({ played: this.played, time: currentTime, idle: !this.running });
    return true;
  }
}

registerProcessor("playback", Playback);
