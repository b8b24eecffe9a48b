// Queue of recordings, transcripts to click on, and live captions of the microphone.
// Texts of files and of the server only ever become textContent.

const FORMATS = ["txt", "srt", "vtt", "json"];
const PARALLEL = 2; // uploads at a time: one is sent while another is decoded
const UNSURE = 0.5; // confidence below which a word is underlined
const BEHIND = 10; // seconds of audio unsent, beyond which captions leave audio out

const $ = (selector, root = document) => root.querySelector(selector);

function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  const parts = [Math.floor(whole / 60) % 60, whole % 60];
  if (whole >= 3600) parts.unshift(Math.floor(whole / 3600));
  return parts.map((part, i) => (i ? String(part).padStart(2, "0") : part)).join(":");
}

function show(node, text) {
  node.textContent = text;
  node.hidden = !text;
}

const notice = text => show($("#notice"), text);

// ------------------------------------------------------------------------------------------- settings

function stored(store, name, fallback) {
  const field = $(`#${name}`);
  field.value = store.getItem(name) ?? fallback;
  field.addEventListener("change", () => store.setItem(name, field.value));
  return () => field.value;
}

const settings = {
  hotwords: stored(localStorage, "hotwords", ""),
  format: stored(localStorage, "format", "txt"),
  key: stored(sessionStorage, "key", ""),
};

const hotwords = () => settings.hotwords().split("\n").map(word => word.trim()).filter(Boolean);
const authorization = () => (settings.key() ? { Authorization: `Bearer ${settings.key().trim()}` } : {});

function askForKey() {
  $("#key-row").hidden = false;
  if (!$("#settings").open) $("#settings").showModal();
  $("#key").focus();
}

$("#open-settings").onclick = () => $("#settings").showModal();
$("#settings").onclick = event => event.target === event.currentTarget && event.currentTarget.close();
$("#settings").addEventListener("close", async () => {
  for (const card of cards) card.arrange();
  if ($("#key-row").hidden || !settings.key()) return;
  await greet();
  for (const card of cards) if (card.refused) card.queue();
});

// --------------------------------------------------------------------------------------------- server

const server = { max: Infinity };

async function health() {
  try {
    return await (await fetch("health")).json();
  } catch {
    return null;
  }
}

async function greet() {
  const found = await health();
  if (!found) {
    $("#model").textContent = "no answer from the server";
    return setTimeout(greet, 3000);
  }
  server.max = found.max_bytes ?? Infinity;
  $("#model").textContent = found.status === "ok" ? found.model : `${found.model}: ${found.status}`;
  if (found.status === "loading") return setTimeout(greet, 1000);
  const models = await fetch("v1/models", { headers: authorization() }).catch(() => null);
  if (models?.status === 401) askForKey();
}

// Sends a recording. `on.sent` gets the share that is uploaded, `on.text` the text so far.
// Resolves to the last event; rejects with {status, code, message, retry}.
function transcribe(file, on) {
  const form = new FormData();
  form.append("response_format", "json");
  form.append("stream", "true");
  form.append("include[]", "files");
  for (const word of hotwords()) form.append("keywords[]", word);
  form.append("file", file, file.name);
  const request = new XMLHttpRequest();
  request.open("POST", "v1/audio/transcriptions");
  for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
  const done = new Promise((resolve, reject) => {
    let read = 0, text = "";
    const take = event => {
      if (event.error) reject(event.error);
      else if (event.type === "transcript.text.done") resolve(event);
      else if (event.type === "transcript.text.delta") on.text(text += event.delta);
    };
    const parse = () => {
      const received = request.status === 200 ? request.responseText : "";
      for (let end; (end = received.indexOf("\n\n", read)) >= 0; read = end + 2) {
        const line = received.slice(read, end);
        if (line.startsWith("data: ")) take(JSON.parse(line.slice(6)));
      }
    };
    request.upload.onprogress = event => on.sent(event.loaded / event.total);
    request.onprogress = parse;
    request.onload = () => {
      parse();
      reject(request.status === 200 ? { message: "The server broke off." } : problem(request));
    };
    request.onerror = async () => reject({ message: await health()
      ? "The upload broke off; the file may have changed, or be larger than the server takes."
      : "The server cannot be reached." });
  });
  request.send(form);
  return { done, abort: () => request.abort() };
}

function problem(request) {
  const retry = Number(request.getResponseHeader("retry-after"));
  try {
    return { status: request.status, retry, ...JSON.parse(request.responseText).error };
  } catch {
    return { status: request.status, retry, message: `The server answered with status ${request.status}.` };
  }
}

const advise = ({ message, param }) => (param === "keywords" ? `${message}. Change the hotwords in the settings.` : message);

// ---------------------------------------------------------------------------------------------- cards

const cards = [];
const busy = () => cards.filter(card => card.state === "sending").length;

function pump() {
  for (const card of cards) if (card.state === "waiting" && busy() < PARALLEL) card.send();
}

class Card {
  constructor(name) {
    this.name = name;
    this.state = "new"; // then live, waiting, sending, done or failed
    this.node = $("#card").content.firstElementChild.cloneNode(true);
    this.parts = {};
    for (const part of ["h2", ".status", ".remove", "progress", ".problem", ".again", ".text", "audio", "footer", ".copy", ".downloads"])
      this.parts[part.replace(".", "")] = $(part, this.node);
    this.parts.h2.textContent = this.parts.h2.title = name;
    this.parts.remove.setAttribute("aria-label", `Remove ${name}`);
    this.parts.remove.onclick = () => this.remove();
    this.parts.again.onclick = () => this.queue();
    this.parts.copy.onclick = () => this.copy();
    this.urls = [];
    cards.push(this);
  }

  status(text, share) {
    this.parts.status.textContent = text;
    const bar = this.parts.progress;
    bar.hidden = share === undefined;
    if (share === null) bar.removeAttribute("value");
    else if (share !== undefined) bar.value = share;
  }

  url(blob) {
    this.urls.push(URL.createObjectURL(blob));
    return this.urls.at(-1);
  }

  load(file) {
    this.file = file;
    const audio = this.parts.audio;
    audio.src = this.url(file);
    audio.onplay = () => this.follow();
    audio.onerror = () => { audio.hidden = true; };
    this.queue();
  }

  queue() {
    this.problem("");
    this.refused = false;
    if (this.file.size > server.max)
      return this.fail({ message: `The file is larger than ${Math.floor(server.max / 2 ** 20)} MiB, the limit of this server.` }, false);
    this.state = "waiting";
    this.status("Waiting", 0);
    pump();
  }

  async send() {
    this.state = "sending";
    this.status("Uploading", 0);
    const sent = share => this.status(share < 1 ? `Uploading ${Math.floor(100 * share)} %` : "Transcribing", share < 1 ? share : null);
    this.request = transcribe(this.file, { sent, text: text => this.preview(text) });
    try {
      this.finish(await this.request.done);
    } catch (error) {
      this.fail(error, error.status !== 413 && error.status !== 415);
    }
    pump();
  }

  preview(text) {
    this.status("Transcribing", null);
    this.parts.text.replaceChildren(element("p", "plain", text));
  }

  problem(text, again = false) {
    this.parts.problem.hidden = !text;
    this.parts.problem.firstElementChild.textContent = text;
    this.parts.again.hidden = !again;
  }

  fail(error, again) {
    this.state = "failed";
    if ((error.status === 503 || error.status === 429) && error.retry) return this.wait(error);
    this.status("");
    this.refused = error.status === 401;
    if (this.refused) askForKey();
    this.problem(advise(error), again);
  }

  wait(error) {
    this.status(`${error.message}; next try in ${error.retry} s`, null);
    this.timer = setTimeout(() => this.queue(), 1000 * error.retry);
  }

  finish(event) {
    this.state = "done";
    this.files = event.files;
    const result = JSON.parse(event.files.json);
    this.words = result.words;
    this.status(`${clock(result.duration)} · ${this.words.length} ${this.words.length === 1 ? "word" : "words"}`);
    this.problem([event.incomplete, ...event.warnings ?? []].filter(Boolean).join("; "));
    this.write(result.segments);
    this.parts.audio.hidden = Boolean(this.parts.audio.error);
    this.parts.footer.hidden = false;
    for (const format of FORMATS) this.parts.downloads.append(this.download(format));
    this.arrange();
  }

  write(segments) {
    this.spans = [];
    const shown = paragraphs(segments).map(words => {
      const paragraph = element("p");
      paragraph.append(element("time", "", clock(words[0].start)));
      for (const word of words) {
        const span = element("span", word.confidence < UNSURE ? "word unsure" : "word", word.text);
        span.setAttribute("role", "button");
        span.tabIndex = this.spans.length ? -1 : 0;
        if (word !== words[0]) paragraph.append(" ");
        paragraph.append(span);
        this.spans.push(span);
      }
      return paragraph;
    });
    if (!shown.length) shown.push(element("p", "plain empty", "No speech was recognised."));
    this.parts.text.replaceChildren(...shown);
    this.parts.text.onclick = event => this.play(this.spans.indexOf(event.target));
    this.parts.text.onkeydown = event => this.press(event);
  }

  press(event) {
    const at = this.spans.indexOf(event.target);
    const last = this.spans.length - 1;
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (at < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Enter" || event.key === " ") this.play(at);
    else if (to === undefined) return;
    else this.spans[Math.max(0, Math.min(last, to))].focus();
    event.target.tabIndex = -1;
    document.activeElement.tabIndex = 0; // one stop of the Tab key for a whole text
    event.preventDefault();
  }

  play(at) {
    if (at < 0 || this.parts.audio.hidden || String(getSelection())) return;
    for (const card of cards) if (card !== this) card.parts.audio.pause();
    this.parts.audio.currentTime = this.words[at].start;
    this.parts.audio.play().catch(() => {}); // a click on another word came first
    this.mark();
  }

  follow() {
    this.mark();
    if (!this.parts.audio.paused) requestAnimationFrame(() => this.follow());
  }

  mark() {
    const time = this.parts.audio.currentTime + 0.001;
    let low = 0, high = this.words?.length ?? 0;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.words[middle].start <= time) low = middle + 1;
      else high = middle;
    }
    const now = this.spans?.[low - 1];
    if (now === this.now) return;
    this.now?.classList.remove("now");
    now?.classList.add("now");
    this.now = now;
  }

  download(format) {
    const link = element("a");
    link.href = this.url(new Blob([this.files[format]]));
    link.download = `${this.name.replace(/\.[^.]*$/, "")}.${format}`;
    link.dataset.format = format;
    return link;
  }

  arrange() {
    for (const link of this.parts.downloads.children) {
      const chosen = link.dataset.format === settings.format();
      link.classList.toggle("chosen", chosen);
      link.textContent = chosen ? `Download ${link.dataset.format}` : link.dataset.format;
      link.setAttribute("aria-label", `Download ${link.dataset.format}`);
    }
  }

  async copy() {
    if (navigator.clipboard) await navigator.clipboard.writeText(this.files.txt);
    else { // not a secure context
      getSelection().selectAllChildren(this.parts.text);
      document.execCommand("copy");
      getSelection().removeAllRanges();
    }
    this.parts.copy.textContent = "Copied";
    setTimeout(() => { this.parts.copy.textContent = "Copy text"; }, 1500);
  }

  remove() {
    if (this.state === "live") recorder?.stop();
    this.request?.abort();
    clearTimeout(this.timer);
    this.parts.audio.pause();
    this.urls.forEach(URL.revokeObjectURL);
    cards.splice(cards.indexOf(this), 1);
    this.node.remove();
    pump();
  }
}

// Segments -> paragraphs of words: a new one after a long pause, or at any pause once there are many words.
function paragraphs(segments) {
  const found = [];
  for (const { start, words } of segments) {
    const last = found.at(-1);
    if (last && start - last.at(-1).end < 2 && last.length < 60) last.push(...words);
    else found.push([...words]);
  }
  return found;
}

function add(files) {
  notice("");
  const made = [...files].map(file => [new Card(file.name), file]);
  $("#list").prepend(...made.map(([card]) => card.node));
  for (const [card, file] of made) card.load(file);
}

$("#choose").onclick = () => $("#files").click();
$("#files").onchange = event => {
  add(event.target.files);
  event.target.value = ""; // the same file may be chosen again
};

function dragged(event) {
  if (![...event.dataTransfer.types].includes("Files")) return;
  event.preventDefault();
  document.body.classList.toggle("dragging", event.type === "dragover");
}
for (const type of ["dragover", "dragleave", "drop"]) addEventListener(type, dragged);
addEventListener("drop", event => {
  const folders = [...event.dataTransfer.items].some(item => item.webkitGetAsEntry?.()?.isDirectory);
  if (folders) notice("Folders cannot be dropped; drop the files in them.");
  else add(event.dataTransfer.files);
});

// --------------------------------------------------------------------------------------------- record

const UPLOAD_INSTEAD = "or choose a recording instead.";
const MICROPHONE = {
  NotAllowedError: `The microphone was refused. Allow it for this page in the browser's settings, ${UPLOAD_INSTEAD}`,
  NotFoundError: `No microphone was found. Connect one, ${UPLOAD_INSTEAD}`,
  NotReadableError: `The microphone is used by another program. Close that, ${UPLOAD_INSTEAD}`,
};
const INSECURE = `Browsers give the microphone only to pages on localhost or with https. Open the page on the machine of the server as http://localhost:${location.port}, start the server with --cert, ${UPLOAD_INSTEAD}`;

let recorder = null;

class Recorder {
  constructor(stream) {
    this.stream = stream;
    this.packets = [];
    this.samples = 0;
    this.card = new Card(`Recording ${new Date().toLocaleString("sv").replaceAll(":", ".")}.wav`);
    this.card.state = "live";
    this.stopped = new Promise(resolve => { this.resolve = resolve; });
  }

  // Start to record; captions are an addition that may fail.
  async start() {
    const source = this.connect();
    await this.context.audioWorklet.addModule("worklet.js");
    this.node = new AudioWorkletNode(this.context, "packets");
    this.node.port.onmessage = ({ data }) => (data ? this.take(data) : this.resolve());
    source.connect(this.node).connect(this.context.destination); // silent; unconnected nodes may not run
    await this.context.resume();
    this.captions = new Captions(this.card, this.context.sampleRate);
    this.stream.getAudioTracks()[0].onended = () => this.stop(); // the microphone was unplugged
    this.lock = await navigator.wakeLock?.request("screen").catch(() => null);
    $("#list").prepend(this.card.node);
  }

  connect() {
    this.context = new AudioContext({ sampleRate: 16000 });
    try {
      return this.context.createMediaStreamSource(this.stream);
    } catch { // Firefox does not resample microphones
      this.context.close();
      this.context = new AudioContext();
      return this.context.createMediaStreamSource(this.stream);
    }
  }

  take({ packet, peak }) {
    this.packets.push(packet);
    this.samples += packet.length;
    this.captions.send(packet);
    this.card.status(`Recording ${clock(this.samples / this.context.sampleRate)}`, Math.min(1, Math.sqrt(peak)));
  }

  async stop() {
    if (this.ending) return;
    this.ending = true;
    this.node.port.postMessage("end");
    await Promise.race([this.stopped, new Promise(resolve => setTimeout(resolve, 500))]);
    recorder = null;
    showRecording();
    this.captions.close();
    this.lock?.release();
    for (const track of this.stream.getTracks()) track.stop();
    await this.context.close();
    if (cards.includes(this.card)) this.card.load(wav(this.packets, this.samples, this.context.sampleRate, this.card.name));
  }
}

// 16-bit mono WAV.
function wav(packets, samples, rate, name) {
  const header = new DataView(new ArrayBuffer(44));
  const text = (at, value) => [...value].forEach((char, i) => header.setUint8(at + i, char.charCodeAt()));
  text(0, "RIFF");
  header.setUint32(4, 36 + 2 * samples, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true);
  header.setUint16(22, 1, true);
  header.setUint32(24, rate, true);
  header.setUint32(28, 2 * rate, true);
  header.setUint16(32, 2, true);
  header.setUint16(34, 16, true);
  text(36, "data");
  header.setUint32(40, 2 * samples, true);
  return new File([header, ...packets], name, { type: "audio/wav" });
}

class Captions {
  constructor(card, rate) {
    this.card = card;
    this.rate = rate;
    this.waiting = []; // packets before the session is ready
    this.ready = false;
    this.left = 0; // samples left out
    this.items = new Map();
    this.box = element("div", "live");
    card.parts.text.replaceChildren(this.box);
    try {
      const key = settings.key().trim();
      const address = new URL("v1/realtime?intent=transcription", location.href.replace(/^http/, "ws"));
      this.socket = new WebSocket(address, key ? ["realtime", `openai-insecure-api-key.${key}`] : ["realtime"]);
    } catch { // a key with characters that a subprotocol cannot have
      return this.end();
    }
    this.socket.onmessage = ({ data }) => this.take(JSON.parse(data));
    this.socket.onclose = () => this.end();
  }

  send(packet) {
    if (this.ended) return;
    if (!this.ready) this.waiting.push(packet);
    else if (this.socket.bufferedAmount > 2 * this.rate * BEHIND) this.skip(packet);
    else this.socket.send(packet);
  }

  skip(packet) {
    this.left += packet.length;
    this.card.problem(`Captions are behind: ${Math.ceil(this.left / this.rate)} s are left out. The recording has everything.`);
  }

  take(event) {
    const kind = event.type.split(".").at(-1);
    if (event.type === "session.created") this.socket.send(JSON.stringify(this.update()));
    else if (event.type === "session.updated") this.begin();
    else if (event.type === "asr.partial") this.write(event.item_id, event.stable, event.unstable);
    else if (kind === "completed") this.write(event.item_id, event.transcript, "");
    else if (event.type === "error") this.card.problem(advise(event.error));
  }

  update() {
    const input = { format: { type: "audio/pcm", rate: this.rate }, transcription: { keywords: hotwords() } };
    return { type: "session.update", session: { type: "transcription", audio: { input } } };
  }

  begin() {
    this.ready = true;
    for (const packet of this.waiting.splice(0)) this.send(packet);
  }

  write(id, stable, unstable) {
    if (!this.items.has(id)) {
      this.items.set(id, element("p"));
      this.box.append(this.items.get(id));
    }
    const parts = [element("span", "stable", stable), stable && unstable ? " " : "", element("span", "unstable", unstable)];
    this.items.get(id).replaceChildren(...parts);
    this.box.scrollTop = this.box.scrollHeight;
  }

  end() {
    if (!this.ended && this.card.state === "live" && !this.closing)
      this.card.problem("No live captions: the server has no place for them now. The recording goes on, and is transcribed at the end.");
    this.ended = true;
    this.waiting = [];
  }

  close() {
    this.closing = true;
    this.socket?.close();
  }
}

function showRecording() {
  document.body.classList.toggle("recording", Boolean(recorder));
  $("#record span").textContent = recorder ? "Stop" : "Record";
}

async function record() {
  if (!isSecureContext || !navigator.mediaDevices) return notice(INSECURE);
  const plain = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  try {
    recorder = new Recorder(await navigator.mediaDevices.getUserMedia({ audio: plain }));
    await recorder.start();
    notice("");
  } catch (error) {
    const failed = recorder;
    recorder = null;
    failed?.stream.getTracks().forEach(track => track.stop());
    failed?.card.remove();
    notice(MICROPHONE[error.name] ?? `The microphone cannot be used (${error.message}). Check it, ${UPLOAD_INSTEAD}`);
  }
  showRecording();
}

let asking = false; // a second click would ask for the microphone twice
$("#record").onclick = async () => {
  if (asking) return;
  asking = true;
  await (recorder ? recorder.stop() : record());
  asking = false;
};

addEventListener("beforeunload", event => {
  if (cards.some(card => ["live", "waiting", "sending"].includes(card.state))) event.preventDefault();
});

// ---------------------------------------------------------------------------------------------- start

if (matchMedia("(pointer: coarse)").matches) $(".lead").textContent = "Transcribe recordings"; // nothing to drop
const here = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
$("#where").textContent = here ? "Nothing leaves this computer" : `Audio goes to ${location.hostname} and nowhere else`;
greet();
