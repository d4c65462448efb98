// The page: connects the microphone, the loudspeaker, the realtime protocol and the controls.

import { Loudspeaker, Microphone, fromBase64, toBase64 } from "./audio.js";
import { Captions } from "./captions.js";
import { Realtime } from "./realtime.js";
import { Wave } from "./wave.js";

const MAX_FILE = 11 * 2 ** 20; // a frame of the protocol has at most 16 MiB, in base64
const CAMERA_INTERVAL = 1000;
const CAMERA_SIZE = 640;

const $ = (id) => document.getElementById(id);
const captions = new Captions($("captions"));
const userWave = new Wave($("wave-user"), "--user");
const replyWave = new Wave($("wave-reply"), "--accent");
const loudspeaker = new Loudspeaker((samples) => replyWave.add(samples));
const microphone = new Microphone(heard);

let attached = []; // content parts for the next message
let holding = false;
let talking = false; // the microphone is open
let reply = null; // { item, cancelled, done }
let stoppedAt = 0;
let cameraStream = null;
let cameraTimer = 0;

const server = new Realtime({
  "session.created": () => configure(),
  "session.updated": ({ session }) => ($("voice").value = session.audio.output.voice ?? ""),
  "input_audio_buffer.speech_started": () => {
    interrupt();
    status("hearing you");
  },
  "input_audio_buffer.speech_stopped": ({ audio_end_ms }) => {
    stoppedAt = performance.now();
    captions.user(`(voice until ${(audio_end_ms / 1000).toFixed(1)} s)`);
    status("thinking");
  },
  "response.output_item.added": ({ item }) => {
    loudspeaker.clear();
    reply = { item: item.id, cancelled: false, done: false };
  },
  "response.output_audio_transcript.delta": text,
  "response.output_text.delta": text,
  "response.output_audio.delta": ({ item_id, delta }) => {
    if (reply?.item !== item_id || reply.cancelled) return;
    status("speaking");
    loudspeaker.add(fromBase64(delta));
  },
  "response.done": ({ response }) => {
    loudspeaker.end();
    if (response.status === "failed") return failed(response.status_details.error.message);
    if (reply) reply.done = true;
    if (loudspeaker.idle) waiting();
  },
  "conversation.item.truncated": ({ item_id }) => {
    server.send("conversation.item.retrieve", { item_id });
  },
  "conversation.item.retrieved": ({ item }) => {
    captions.cut(item.id, item.content[0]?.transcript ?? "");
  },
  "conversation.item.deleted": ({ item_id }) => captions.cut(item_id, ""),
  error: ({ error }) => failed(error.message),
  closed: () => {
    status("not connected");
    stop();
  },
});

loudspeaker.onidle = () => reply?.done && waiting();
loudspeaker.onfirst = () => {
  if (stoppedAt === 0) return;
  const seconds = ((performance.now() - stoppedAt) / 1000).toFixed(2);
  $("figures").textContent = `end of speech decided → first sound: ${seconds} s`;
  stoppedAt = 0;
};

function waiting() {
  status(talking ? "listening" : "connected");
}

function status(words) {
  $("status").className = "";
  $("status").textContent = words;
}

function failed(words) {
  $("status").className = "failed";
  $("status").textContent = words;
}

function text({ item_id, delta }) {
  captions.reply(item_id, delta);
}

function key() {
  return sessionStorage.getItem("key") ?? "";
}

async function voices() {
  const headers = key() ? { Authorization: `Bearer ${key()}` } : {};
  const answer = await fetch("/v1/models", { headers });
  if (answer.status === 401) return false;
  const { data } = await answer.json();
  $("voice").replaceChildren(...data[0].voices.map((name) => new Option(name, name)));
  return true;
}

async function askForKey() {
  $("key-dialog").showModal();
  await new Promise((closed) => $("key-dialog").addEventListener("close", closed, { once: true }));
  sessionStorage.setItem("key", $("key").value);
}

async function connect() {
  if (server.open) return;
  while (!(await voices())) await askForKey();
  await server.connect(key());
  if (!loudspeaker.context) await loudspeaker.start();
  status("connected");
}

function configure() {
  const detection = $("hands-free").checked ? { type: "server_vad" } : null;
  server.update({ audio: { input: { turn_detection: detection } } });
}

function heard(samples) {
  const floats = Float32Array.from(samples, (sample) => sample / 32768);
  const sent = !$("mute").checked && ($("hands-free").checked || holding);
  userWave.add(sent ? floats : new Float32Array(floats.length));
  if (sent) server.send("input_audio_buffer.append", { audio: toBase64(samples) });
}

/** Stop the reply here at once, and tell the server how much of it was heard. */
function interrupt() {
  if (!reply || loudspeaker.idle) return;
  const cut = { item_id: reply.item, content_index: 0, audio_end_ms: loudspeaker.heard() };
  reply.cancelled = true;
  loudspeaker.clear();
  server.send("conversation.item.truncate", cut);
}

async function start() {
  try {
    await connect();
    await microphone.start();
  } catch (error) {
    failed(error.name === "NotAllowedError" ? "the microphone is not allowed" : error.message);
    return;
  }
  talking = true;
  show();
  status("listening");
}

async function stop() {
  if (!talking) return;
  talking = holding = false;
  await microphone.stop();
  show();
}

function show() {
  const free = $("hands-free").checked;
  $("talk").setAttribute("aria-pressed", String(free ? talking : holding));
  $("talk").textContent = talking ? (free ? "Stop" : "Hold to talk") : "Start";
}

function press() {
  if (!talking || $("hands-free").checked || holding) return;
  interrupt();
  holding = true;
  show();
  status("hearing you");
}

function release() {
  if (!holding) return;
  holding = false;
  show();
  stoppedAt = performance.now();
  server.send("input_audio_buffer.commit");
  server.send("response.create");
  status("thinking");
}

$("talk").addEventListener("click", async () => {
  if (!talking) await start();
  else if ($("hands-free").checked) await stop();
});
$("talk").addEventListener("pointerdown", press);
addEventListener("pointerup", release);
$("talk").addEventListener("keydown", (event) => event.key === " " && press());
$("talk").addEventListener("keyup", (event) => event.key === " " && release());
$("captions").addEventListener("click", interrupt);
addEventListener("keydown", (event) => event.key === "Escape" && interrupt());
$("hands-free").addEventListener("change", () => {
  configure();
  show();
});
$("voice").addEventListener("change", () => {
  server.update({ audio: { output: { voice: $("voice").value } } });
});

$("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const words = $("text").value.trim();
  if (!words && attached.length === 0) return;
  try {
    await connect();
  } catch (error) {
    failed(error.message);
    return;
  }
  interrupt();
  const content = [...attached, ...(words ? [{ type: "input_text", text: words }] : [])];
  if (words) captions.user(words);
  server.item(content);
  server.send("response.create");
  $("text").value = "";
  attached = [];
  $("attached").replaceChildren();
});

async function attach(file) {
  const kind = file.type.split("/")[0];
  if (!["image", "audio", "video"].includes(kind)) return failed(`${file.name} is no picture, sound or film`);
  if (file.size > MAX_FILE) return failed(`${file.name} is larger than 11 MB`);
  const url = await new Promise((done) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.readAsDataURL(file);
  });
  const type = { image: "input_image", audio: "audio_url", video: "video_url" }[kind];
  attached.push({ type, [kind === "image" ? "image_url" : type]: url });
  if (kind === "image") captions.picture(url);
  else captions.user(file.name);
  const entry = document.createElement("li");
  entry.textContent = file.name;
  $("attached").append(entry);
}

$("file").addEventListener("change", async () => {
  for (const file of $("file").files) await attach(file);
  $("file").value = "";
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", () => document.body.classList.remove("dropping"));
addEventListener("drop", async (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  for (const file of event.dataTransfer.files) await attach(file);
});

$("camera").addEventListener("change", async () => {
  clearInterval(cameraTimer);
  cameraStream?.getTracks().forEach((track) => track.stop());
  cameraStream = null;
  $("preview").hidden = !$("camera").checked;
  if (!$("camera").checked) return;
  try {
    await connect();
    cameraStream = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch {
    $("camera").checked = false;
    $("preview").hidden = true;
    failed("the camera cannot be used");
    return;
  }
  $("preview").srcObject = cameraStream;
  await $("preview").play();
  cameraTimer = setInterval(picture, CAMERA_INTERVAL);
});

/** Send a camera picture; the newest one of a turn counts. */
function picture() {
  const video = $("preview");
  if (video.videoWidth === 0) return;
  const canvas = document.createElement("canvas");
  canvas.width = Math.min(CAMERA_SIZE, video.videoWidth);
  canvas.height = Math.round((canvas.width * video.videoHeight) / video.videoWidth);
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  server.item([{ type: "input_image", image_url: canvas.toDataURL("image/jpeg", 0.8) }]);
}

show();
