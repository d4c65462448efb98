// Sends the microphone's samples, 24 kHz mono PCM16, in pieces of 20 ms.
//
// Where the context has another rate (Firefox cannot resample a microphone), samples are averaged
// and interpolated here.
const RATE = 24000;
const PIECE = RATE / 50;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.step = sampleRate / RATE;
    this.position = 0;
    this.last = 0;
    this.piece = new Int16Array(PIECE);
    this.filled = 0;
  }

  process(inputs) {
    const input = inputs[0][0];
    if (input === undefined) return true;
    if (this.step === 1) {
      for (const sample of input) this.push(sample);
    } else {
      this.resample(input);
    }
    return true;
  }

  resample(input) {
    const wide = Math.max(1, Math.round(this.step));
    for (; this.position < input.length; this.position += this.step) {
      const index = Math.floor(this.position);
      let sum = 0;
      for (let i = 0; i < wide; i++) sum += index - i < 0 ? this.last : input[index - i];
      this.push(sum / wide);
    }
    this.position -= input.length;
    this.last = input[input.length - 1];
  }

  push(sample) {
    this.piece[this.filled++] = Math.round(Math.max(-1, Math.min(1, sample)) * 32767);
    if (this.filled === PIECE) {
      this.port.postMessage(this.piece.slice());
      this.filled = 0;
    }
  }
}

registerProcessor("capture", Capture);
