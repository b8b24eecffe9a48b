// Gathers the microphone's blocks of 128 samples into packets of 80 ms, as 16-bit integers.

class Packets extends AudioWorkletProcessor {
  constructor() {
    super();
    this.begin();
    this.ended = false;
    this.port.onmessage = () => { // the end: what is left, then null
      this.post();
      this.port.postMessage(null);
      this.ended = true;
    };
  }

  begin() {
    this.packet = new Int16Array(Math.round(sampleRate * 0.08));
    this.filled = 0;
    this.peak = 0;
  }

  process([[samples]]) {
    for (const sample of samples ?? []) {
      this.peak = Math.max(this.peak, Math.abs(sample));
      this.packet[this.filled++] = Math.round(Math.max(-1, Math.min(1, sample)) * 32767);
      if (this.filled === this.packet.length) this.post();
    }
    return !this.ended;
  }

  post() {
    const packet = this.packet.slice(0, this.filled);
    this.port.postMessage({ packet, peak: this.peak }, [packet.buffer]);
    this.begin();
  }
}

registerProcessor("packets", Packets);
