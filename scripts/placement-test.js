// Run by placement-test.sh.
//
// In: the program, the directory of the npm package hashring, a work directory. Two parts:
//   1. `statsring where` compared with the package, for many names, 1 to 60 backends, and backends removed and re-added in
//      several orders; the rings are built and changed like in StatsD's proxy.js;
//   2. the running proxy with backends that fail and return, two of which have a point of equal value, so that the order of
//      their return matters; all kinds of lines must arrive where proxy.js would send them.
'use strict';

const { spawn, spawnSync } = require('child_process');
const dgram = require('dgram');
const fs = require('fs');
const net = require('net');
const path = require('path');
const crypto = require('crypto');

const [program, hashringDir, work] = process.argv.slice(2);
const HashRing = require(hashringDir);
const seed = Number(process.env.SEED || 20) >>> 0;
const namesMax = Number(process.env.NAMES || 100000);

const NODES_MAX = 60;
// Names looked up by the package's `get`, including its cache; for the others its hash is computed once.
const NAMES_BY_GET = 2000;
const SETTLE_MS_MAX = 20000;
const HEALTH_MS_MAX = 20000;

let passed = 0;
let failed = 0;

function check(what, ok, detail) {
  if (ok) {
    passed += 1;
    console.log(`ok    ${what}`);
  } else {
    failed += 1;
    console.log(`FAIL  ${what}${detail === undefined ? '' : `: ${detail}`}`);
  }
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function randomFrom(start) {
  // mulberry32: small, seeded, the same on every machine.
  let state = start;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

const random = randomFrom(seed);
const pick = (list) => list[random(list.length)];

function shuffled(list) {
  const copy = list.slice();
  for (let i = copy.length - 1; i > 0; i -= 1) {
    const j = random(i + 1);
    [copy[i], copy[j]] = [copy[j], copy[i]];
  }
  return copy;
}

// --- names and rings ------------------------------------------------------------------------------------------

const WORDS = ['api', 'db', 'größe', 'zähler', '日本', 'метрика', '🦀', 'e\u0301', 'requests', 'latency', 'a b', 'tag;x=1', '\u{10ffff}'];

// A name as bytes, without newline, colon, and leading or trailing \r. One in twenty is not UTF-8.
function makeName(i) {
  const text = [pick(WORDS), pick(WORDS), String(i), pick(WORDS)].slice(random(2)).join('.');
  const bytes = Buffer.from(text);
  if (random(20) !== 0) return bytes;
  const wild = Buffer.from(Array.from({ length: 1 + random(6) }, () => 128 + random(128)));
  const cut = random(bytes.length + 1);
  return Buffer.concat([bytes.subarray(0, cut), wild, bytes.subarray(cut)]);
}

// A ring built like in proxy.js.
function proxyRing(nodes) {
  const weights = {};
  nodes.forEach((node) => { weights[node] = 100; });
  return new HashRing(weights, 'md5', { 'max cache size': 10000, replicas: 0 });
}

// Same as proxy.js's markNodeAsHealthy.
function giveBack(ring, node) {
  ring.add({ [node]: 100 });
}

function configFile(name, nodes, rest) {
  const file = path.join(work, `${name}.json`);
  const list = nodes.map((node) => {
    const [host, port] = node.split(':');
    return { host, port: Number(port), ...(rest.node ? rest.node(node) : {}) };
  });
  fs.writeFileSync(file, JSON.stringify({ hashing: 'hashring-3', ...rest.file, nodes: list }));
  return file;
}

// --- part 1: where ----------------------------------------------------------------------------------------------

// Backends of all names, by `statsring where`.
function ask(file, down, input) {
  const args = ['where', '-f', file, ...down.flatMap((node) => ['--down', node])];
  const result = spawnSync(program, args, { input, maxBuffer: 1 << 28 });
  if (result.status !== 0) throw new Error(`where ended with ${result.status}: ${result.stderr}`);
  const lines = result.stdout.toString('latin1').split('\n');
  lines.pop();
  return lines.map((line) => line.slice(line.lastIndexOf('\t') + 1));
}

// Two points of different backends with equal value: the order of the list matters, which `where` does not know.
function hasEqualPoints(ring) {
  return ring.ring.some((point, i) => i > 0 && point.value === ring.ring[i - 1].value && point.server !== ring.ring[i - 1].server);
}

function testWhere() {
  const names = Array.from({ length: namesMax }, (_, i) => makeName(i));
  const input = Buffer.concat(names.flatMap((name) => [name, Buffer.from('\n')]));
  // proxy.js converts the datagram to a string.
  const texts = names.map((name) => name.toString());
  const hasher = proxyRing(['a:1']);
  const hashes = texts.map((text) => hasher.hashValue(text));
  let compared = 0;
  let differing = 0;
  let states = 0;
  let first;

  const compare = (what, ring, file, down) => {
    const answers = ask(file, down, input);
    states += 1;
    if (answers.length !== names.length) throw new Error(`${answers.length} answers for ${names.length} names`);
    for (let i = 0; i < names.length; i += 1) {
      let expected;
      if (i < NAMES_BY_GET) {
        expected = ring.get(texts[i]);
      } else {
        const point = ring.ring[ring.find(hashes[i])];
        expected = point && point.server;
      }
      compared += 1;
      if ((expected || '-') !== answers[i]) {
        differing += 1;
        first = first || `${what}: ${JSON.stringify(texts[i])} is ${answers[i]}, expected ${expected}`;
      }
    }
  };

  for (let count = 1; count <= NODES_MAX; count += 1) {
    // Addresses and names of all lengths, shuffled.
    const nodes = shuffled(Array.from({ length: count }, (_, i) => (
      i % 3 === 0 ? `10.${count}.${i}.${random(255)}:${1024 + random(60000)}` : `statsd-${count}-${i}.example:8125`)));
    const ring = proxyRing(nodes);
    const file = configFile('where', nodes, { file: {} });
    compare(`${count} nodes`, ring, file, []);
    // Remove some, and re-add them in another order.
    const gone = shuffled(nodes).slice(0, 1 + random(Math.min(count, 8)));
    gone.forEach((node) => ring.remove(node));
    compare(`${count} nodes without ${gone}`, ring, file, gone);
    const returning = shuffled(gone);
    const half = returning.splice(0, returning.length >> 1);
    half.forEach((node) => giveBack(ring, node));
    if (half.length > 0 && !hasEqualPoints(ring)) {
      compare(`${count} nodes without ${gone}, then with ${half}`, ring, file, returning);
    }
    returning.forEach((node) => giveBack(ring, node));
    if (count % 6 === 0 && !hasEqualPoints(ring)) compare(`${count} nodes, all returned`, ring, file, []);
  }
  check(`where: ${compared} answers in ${states} states of 1 to ${NODES_MAX} nodes are those of hashring`, differing === 0,
    `${differing} differ, first ${first}`);
}

// --- part 2: the running proxy ------------------------------------------------------------------------------------

// A minimal StatsD server: receives metrics, and answers health checks while `up` is set.
class Backend {
  constructor(host, port, adminport) {
    Object.assign(this, { node: `${host}:${port}`, host, port, adminport, up: true, lines: [], sockets: new Set() });
  }

  async start() {
    this.udp = dgram.createSocket('udp4');
    this.udp.on('message', (message) => {
      this.lines.push(...message.toString('latin1').split('\n').filter((line) => line !== ''));
    });
    await new Promise((resolve, reject) => {
      this.udp.on('error', reject);
      this.udp.bind(this.port, this.host, resolve);
    });
    this.tcp = net.createServer((socket) => {
      this.sockets.add(socket);
      socket.on('close', () => this.sockets.delete(socket));
      socket.on('error', () => {});
      socket.on('data', () => socket.write(this.up ? 'health: up\n' : 'health: down\n'));
    });
    await new Promise((resolve, reject) => {
      this.tcp.on('error', reject);
      this.tcp.listen(this.adminport, this.host, resolve);
    });
  }

  stop() {
    this.sockets.forEach((socket) => socket.destroy());
    this.tcp.close();
    this.udp.close();
  }
}

// Two loopback addresses with a point of equal value; found by search, verified here.
const EQUAL = { hosts: ['127.0.0.32', '127.0.3.15'], port: 28125, value: 2096341158 };

function checkEqualPoints() {
  return EQUAL.hosts.every((host) => Array.from({ length: 39 }, (_, i) => i).some((i) => (
    crypto.createHash('md5').update(`${host}:${EQUAL.port}-${i}`).digest().readUInt32LE(0) === EQUAL.value)));
}

function adminAsk(port, text) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(port, '127.0.0.1', () => socket.end(text));
    let answer = '';
    socket.setTimeout(5000, () => socket.destroy(new Error('the admin port is silent')));
    socket.on('data', (data) => { answer += data.toString(); });
    socket.on('error', reject);
    socket.on('close', () => resolve(answer));
  });
}

async function until(what, msMax, isSo) {
  const end = Date.now() + msMax;
  while (Date.now() < end) {
    if (await isSo()) return;
    await sleep(25);
  }
  throw new Error(`${what}: not within ${msMax} ms`);
}

async function freePort() {
  const socket = dgram.createSocket('udp4');
  await new Promise((resolve) => { socket.bind(0, '127.0.0.1', resolve); });
  const { port } = socket.address();
  socket.close();
  return port;
}

// All kinds of lines, as latin1 strings, each unique.
function makeLines(round) {
  const lines = [];
  for (let i = 0; i < 1500; i += 1) {
    const name = makeName(i).toString('latin1').replace(/[\r\n:]/g, '_');
    const tail = `${round}.${i}`;
    lines.push(pick([
      `${name}.${tail}:1|c`, `${name}.${tail}:1|c|@0.1|#a:b`, `${name}.${tail}:320|ms:12|ms`, `${name}.${tail}`,
      `_e{5,4}:title|${tail}`, `_e{${i},4}:title|text`, `_sc|check ${tail}|0`, `:${tail}|c`, `${name}.${tail}:`,
    ]));
  }
  return [...new Set(lines)];
}

// The backend to which proxy.js sends a line.
const ownerOf = (ring, line) => ring.get(Buffer.from(line, 'latin1').toString().split(':')[0]);

async function sendLines(port, lines) {
  const socket = dgram.createSocket('udp4');
  await new Promise((resolve) => { socket.connect(port, '127.0.0.1', resolve); });
  for (let i = 0; i < lines.length; i += 10) {
    await new Promise((resolve) => { socket.send(Buffer.from(lines.slice(i, i + 10).join('\n'), 'latin1'), resolve); });
    if (i % 100 === 0) await sleep(5);
  }
  socket.close();
}

async function testRound(round, what, ring, backends, ports) {
  const living = ring.servers.map((server) => server.string);
  await until(`backends of "${what}"`, HEALTH_MS_MAX, async () => {
    const status = await adminAsk(ports.admin, 'status\n');
    const nodes = (/^nodes: (.*)$/m.exec(status) || ['', ''])[1].trim().split(' ');
    return nodes.slice().sort().join(' ') === living.slice().sort().join(' ');
  });
  // Names whose hash is just below the point shared by two backends.
  const ties = [];
  for (let i = 0; ties.length < 20 && i < 200000; i += 1) {
    const at = ring.find(ring.hashValue(`tie.${i}`));
    if (ring.ring[at].value === EQUAL.value) ties.push(`tie.${i}`);
  }
  const answers = await adminAsk(ports.admin, ties.map((name) => `where ${name}\n`).join(''));
  const expected = ties.map((name) => `${name}\t${ring.get(name)}\n`).join('');
  check(`${what}: where tells the owner of ${ties.length} names at the equal points, ${ring.get(ties[0])}`,
    answers === expected, `${JSON.stringify(answers)}, expected ${JSON.stringify(expected)}`);

  const lines = makeLines(round).concat(ties.map((name) => `${name}:1|c|round:${round}`));
  backends.forEach((backend) => { backend.lines = []; });
  await sendLines(ports.metrics, lines);
  const count = () => backends.reduce((sum, backend) => sum + backend.lines.length, 0);
  await until('all lines to arrive', SETTLE_MS_MAX, () => count() >= lines.length).catch(() => {});
  const got = new Map(backends.flatMap((backend) => backend.lines.map((line) => [line, backend.node])));
  const wrong = lines.filter((line) => got.get(line) !== ownerOf(ring, line));
  check(`${what}: ${lines.length} lines of every sort are where proxy.js sends them`,
    wrong.length === 0 && count() === lines.length,
    `${count()} arrived, ${wrong.length} wrong, first ${JSON.stringify(wrong[0])} at ${got.get(wrong[0])}`);
}

let proxy;

async function testRunning() {
  check('two backends of this test have a point of the same value', checkEqualPoints());
  const ports = { metrics: await freePort(), admin: await freePort() };
  const backends = [...EQUAL.hosts, '127.0.0.11', '127.0.0.12']
    .map((host) => new Backend(host, EQUAL.port, EQUAL.port + 1));
  await Promise.all(backends.map((backend) => backend.start()));
  const nodes = backends.map((backend) => backend.node);
  const file = configFile('running', nodes, {
    node: () => ({ adminport: EQUAL.port + 1 }),
    file: {
      host: '127.0.0.1', port: ports.metrics, managementHost: '127.0.0.1', managementPort: ports.admin,
      checkInterval: 100, checkFast: 20, checkFall: 1, checkRise: 1, checkTimeout: 100, workers: 1,
    },
  });
  proxy = spawn(program, ['-f', file], { stdio: ['ignore', 'ignore', fs.openSync(path.join(work, 'proxy.log'), 'w')] });
  const ended = new Promise((resolve) => { proxy.on('exit', resolve); });
  await until('the proxy to start', HEALTH_MS_MAX, () => adminAsk(ports.admin, 'health\n').then((answer) => answer === 'health: up\n', () => false));

  const ring = proxyRing(nodes);
  const [first, second, third] = backends;
  let round = 0;
  const next = (what) => { round += 1; return testRound(round, what, ring, backends, ports); };
  const go = async (backend) => { backend.up = false; ring.remove(backend.node); await next(`${backend.node} gone`); };
  const come = async (backend) => { backend.up = true; giveBack(ring, backend.node); await next(`${backend.node} back`); };

  await next('all up');
  await go(first);
  await come(first);
  await go(third);
  await go(second);
  await come(third);
  await come(second);
  proxy.kill('SIGTERM');
  check('the proxy ends well', (await ended) === 0, fs.readFileSync(path.join(work, 'proxy.log'), 'utf8'));
  proxy = undefined;
  backends.forEach((backend) => backend.stop());
}

async function main() {
  console.log(`hashring ${HashRing.version}, node ${process.version}, seed ${seed}, ${namesMax} names`);
  testWhere();
  await testRunning();
}

process.on('SIGTERM', () => {
  if (proxy) proxy.kill('SIGTERM');
  process.exit(143);
});

main()
  .catch((error) => check('the test itself', false, error.stack))
  .then(() => {
    if (proxy) proxy.kill('SIGKILL');
    console.log(`placement-test: ${passed} passed, ${failed} failed`);
    process.exit(failed === 0 ? 0 : 1);
  });
