// Microphone and loudspeaker. Both run in audio worklets, at 24 kHz.

export const RATE = 24000;

export class Microphone {
  /** @param {(samples: Int16Array) => void} heard gets 20 ms at a time */
  constructor(heard) {
    this.heard = heard;
  }

  async start() {
    const wanted = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
    this.stream = await navigator.mediaDevices.getUserMedia({ audio: wanted });
    let source;
    try {
      this.context = new AudioContext({ sampleRate: RATE });
      source = this.context.createMediaStreamSource(this.stream);
    } catch {
      // Firefox: a microphone has to be read at its own rate
      this.context = new AudioContext();
      source = this.context.createMediaStreamSource(this.stream);
    }
    await this.context.audioWorklet.addModule("/page/capture-worklet.js");
    const node = new AudioWorkletNode(this.context, "capture", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => this.heard(data);
    source.connect(node);
    await this.context.resume();
  }

  async stop() {
    this.stream?.getTracks().forEach((track) => track.stop());
    await this.context?.close();
  }
}

export class Loudspeaker {
  /** @param {(samples: Float32Array) => void} shown gets what is added, for a picture of it */
  constructor(shown) {
    this.shown = shown;
    this.played = 0;
    this.time = 0;
    this.idle = true;
  }

  async start() {
    this.context = new AudioContext({ sampleRate: RATE });
    await this.context.audioWorklet.addModule("/page/playback-worklet.js");
    this.node = new AudioWorkletNode(this.context, "playback", { numberOfInputs: 0 });
    this.node.port.onmessage = ({ data }) => {
      if (this.played === 0 && data.played > 0) this.onfirst?.();
      const ended = data.idle && !this.idle;
      Object.assign(this, data);
      if (ended) this.onidle?.();
    };
    this.node.connect(this.context.destination);
    await this.context.resume();
  }

  add(samples) {
    this.idle = false;
    this.shown(samples);
    this.node.port.postMessage({ samples });
  }

  end() {
    this.node.port.postMessage({ ended: true });
  }

  /** Milliseconds of the reply that have left the loudspeaker. */
  heard() {
    const { contextTime = this.context.currentTime } = this.context.getOutputTimestamp?.() ?? {};
    const late = Math.max(0, this.time - contextTime);
    return Math.max(0, Math.round(1000 * (this.played / RATE - late)));
  }

  clear() {
    this.node.port.postMessage({ clear: true });
    this.played = 0;
    this.idle = true;
  }

  async stop() {
    await this.context?.close();
  }
}

export function toBase64(samples) {
  const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  }
  return btoa(text);
}

export function fromBase64(data) {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  return Float32Array.from(new Int16Array(bytes.buffer), (sample) => sample / 32768);
}
