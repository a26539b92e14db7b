// A device that fleetcore's authors did not write: npm's ws. It prints what it reads, a line each, and does what
// the lines of its standard input say: text to send, or "close".
const { readFileSync } = require("node:fs");
const { createInterface } = require("node:readline");
const { WebSocket } = require("ws");

const given = JSON.parse(process.argv[2]);
const read = (name) => (given[name] ? readFileSync(given[name]) : undefined);
const socket = new WebSocket(given.url, given.protocols, {
  ca: read("ca"), cert: read("cert"), key: read("key"), headers: given.headers, origin: given.origin,
});
const say = (what) => console.log(JSON.stringify(what));
socket.on("open", () => {
  say({ open: socket.protocol, extensions: socket.extensions });
  createInterface({ input: process.stdin }).on("line", (line) => {
    if (line === "close") socket.close(1000, "bye");
    else if (given.hex) socket.send(Buffer.from(line, "hex"));
    else socket.send(line);
  });
});
socket.on("message", (data, binary) => say(binary ? { hex: data.toString("hex") } : JSON.parse(data)));
socket.on("close", (code, reason) => { say({ close: code, reason: reason.toString() }); process.exit(); });
socket.on("unexpected-response", (_, response) => { say({ status: response.statusCode }); process.exit(); });
socket.on("error", (error) => say({ error: error.message }));
