// What a program on Node sees: node client.mjs BASE_URL
import fs from "node:fs";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none" });
const ask = (options) =>
  client.audio.transcriptions.create({ model: "whisper-1", file: fs.createReadStream("a.wav"), ...options });

const verbose = await ask({ response_format: "verbose_json", timestamp_granularities: ["word", "segment"] });
let streamed = "";
for await (const event of await ask({ stream: true })) {
  if (event.type === "transcript.text.delta") streamed += event.delta;
}
let code;
try {
  await ask({ file: fs.createReadStream("client.mjs") });
} catch (error) {
  code = error.code;
}
const words = verbose.words.map((word) => word.word);
console.log(JSON.stringify({ text: verbose.text, words, streamed, code }));
