// npm's ws, once: connects, sends a text where there is one, prints every frame up to the one that is waited for, a line each, and closes.
const { readFileSync } = require("node:fs");
const { WebSocket } = require("ws");

const given = JSON.parse(process.argv[2]);
const socket = new WebSocket(given.url, ["fleetcore.v1"], {
  ca: readFileSync(given.ca), cert: readFileSync(given.cert), key: readFileSync(given.key),
});
const wanted = Object.entries(given.until);
socket.on("message", (data) => {
  const frame = JSON.parse(data);
  console.log(JSON.stringify(frame));
  if (frame.op === "hello" && given.send) socket.send(given.send);
  if (wanted.every(([name, value]) => frame[name] === value)) socket.close(1000);
});
socket.on("close", (code) => process.exit(code === 1000 ? 0 : 1));
socket.on("error", (error) => { console.error(error.message); process.exit(1); });
