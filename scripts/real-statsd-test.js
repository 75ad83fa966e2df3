// Run by real-statsd-test.sh.
//
// In: the program, the directory of the npm package statsd, a work directory. It starts three real StatsD servers (two on
// 127.0.0.1, one on ::1 if IPv6 is available) and statsring, and sends in three phases:
//   1. all servers up;
//   2. one server stopped: only its names move;
//   3. it is back: its names return.
// A model holds the expected state of each server, by `statsring where`. After each phase the state shown by the servers'
// admin ports must equal the model. StatsD's admin port does not show sets: a backend module in each server records them at
// the flush before its exit.
'use strict';

const { spawn, spawnSync } = require('child_process');
const dgram = require('dgram');
const fs = require('fs');
const net = require('net');
const path = require('path');
const vm = require('vm');

const [program, statsdDir, work] = process.argv.slice(2);
const seed = Number(process.env.SEED || 20) >>> 0;

const METRICS_PER_PHASE = [12000, 6000, 6000];
const NAMES = { c: 120, g: 60, ms: 80, s: 40 };
// StatsD prints timers by util.inspect, which shows at most 100 array elements.
const TIMER_VALUES_MAX = 96;
const SOCKETS_PER_FAMILY = 3;
// Never sends more than StatsD's small receive buffer (212,992 bytes by default) can hold: its speed is not tested.
const DATAGRAMS_PER_PAUSE = 5;
const PAUSE_MS = 5;
const WAITING_BYTES_MAX = 48000;
const SETTLE_MS_MAX = 20000;
const HEALTH_MS_MAX = 20000;

// --- verdict ----------------------------------------------------------------------------------------------

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

function checkEqual(what, got, expected) {
  check(`${what}: ${got}`, got === expected, `expected ${expected}`);
}

// --- helpers ----------------------------------------------------------------------------------------------

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

function listenOnce(make) {
  return new Promise((resolve, reject) => make(resolve, reject));
}

function udpPortFree(type, host, port) {
  return listenOnce((resolve) => {
    const socket = dgram.createSocket(type === 'udp6' ? { type, ipv6Only: true } : { type });
    socket.on('error', () => resolve(0));
    socket.bind({ port, address: host, exclusive: true }, () => {
      const got = socket.address().port;
      socket.close(() => resolve(got));
    });
  });
}

function tcpPortFree(host, port) {
  return listenOnce((resolve) => {
    const server = net.createServer();
    server.on('error', () => resolve(0));
    server.listen({ port, host, exclusive: true }, () => {
      const got = server.address().port;
      server.close(() => resolve(got));
    });
  });
}

// A port that is free for UDP and TCP on all given hosts.
async function freePort(hosts) {
  for (let attempt = 0; attempt < 50; attempt += 1) {
    const port = await tcpPortFree(hosts[0], 0);
    let free = port !== 0;
    for (const host of hosts) {
      const type = host.includes(':') ? 'udp6' : 'udp4';
      free = free && (await tcpPortFree(host, port)) === port && (await udpPortFree(type, host, port)) === port;
    }
    if (free) return port;
  }
  throw new Error(`no free port on ${hosts.join(' and ')}`);
}

// Sends a command to an admin port and reads until `complete` matches; without it, half-closes and reads to the end.
function ask(host, port, command, complete) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(port, host);
    let text = '';
    const end = (error) => {
      socket.destroy();
      if (error) reject(new Error(`${host} port ${port}, ${command}: ${error.message}`));
      else resolve(text);
    };
    socket.setTimeout(5000, () => end(new Error(`no answer within 5 s, but ${JSON.stringify(text)}`)));
    socket.on('connect', () => (complete ? socket.write(`${command}\n`) : socket.end(`${command}\n`)));
    socket.on('data', (data) => {
      text += data;
      if (complete && complete(text)) end();
    });
    socket.on('end', () => end());
    socket.on('error', end);
  });
}

async function waitUntil(what, msMax, condition) {
  const limit = Date.now() + msMax;
  for (;;) {
    if (await condition()) return;
    if (Date.now() > limit) throw new Error(`${what}: not within ${msMax / 1000} s`);
    await sleep(10);
  }
}

// UDP sockets on the given ports: queued bytes of the fullest one, and datagrams dropped by the kernel.
function socketsOn(ports) {
  let [waiting, drops] = [0, 0];
  for (const file of ['/proc/net/udp', '/proc/net/udp6']) {
    if (!fs.existsSync(file)) continue;
    for (const line of fs.readFileSync(file, 'utf8').trim().split('\n').slice(1)) {
      const fields = line.trim().split(/\s+/);
      const port = parseInt(fields[1].split(':').pop(), 16);
      if (!ports.includes(port)) continue;
      waiting = Math.max(waiting, parseInt(fields[4].split(':')[1], 16));
      drops += Number(fields[fields.length - 1]);
    }
  }
  return { waiting, drops };
}

// --- processes ------------------------------------------------------------------------------------------------

const children = new Set();

function start(command, args, log) {
  const out = fs.openSync(log, 'a');
  const child = spawn(command, args, { stdio: ['ignore', out, out] });
  fs.closeSync(out);
  child.ended = new Promise((resolve) => {
    child.on('error', (error) => resolve(`could not start: ${error.message}`));
    child.on('exit', (code, signal) => {
      children.delete(child);
      child.result = code === null ? signal : code;
      resolve(child.result);
    });
  });
  child.log = log;
  children.add(child);
  return child;
}

async function stop(child, msMax) {
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), msMax);
  const result = await child.ended;
  clearTimeout(timer);
  return result;
}

process.on('exit', () => children.forEach((child) => child.kill('SIGKILL')));
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1));

// --- StatsD server -------------------------------------------------------------------------------------

const SETS_BACKEND = `
const fs = require('fs');
exports.init = function (startup, config, events) {
  events.on('flush', function (timestamp, metrics) {
    const sets = {};
    for (const name in metrics.sets) sets[name] = metrics.sets[name].values();
    fs.writeFileSync(config.setsFile, JSON.stringify(sets));
  });
  return true;
};
`;
// StatsD calls util.log, which Node 23 removed.
const PRELOAD = "const util = require('util'); if (!util.log) util.log = (...args) => console.log(...args);\n";

class StatsdServer {
  constructor(index, host, port, adminport) {
    this.index = index;
    this.host = host;
    this.port = port;
    this.adminport = adminport;
    this.id = host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
    this.setsFile = path.join(work, `sets-${index}.json`);
    this.model = emptyModel();
  }

  async start() {
    const config = path.join(work, `statsd-${this.index}.js`);
    const ipv6 = this.host.includes(':');
    fs.writeFileSync(config, `{
      port: ${this.port}, address: '${this.host}', address_ipv6: ${ipv6},
      mgmt_port: ${this.adminport}, mgmt_address: '${this.host}',
      flushInterval: 3600000, backends: ['${path.join(work, 'sets-backend.js')}'],
      setsFile: '${this.setsFile}', deleteIdleStats: false, automaticConfigReload: false
    }`);
    const preload = path.join(work, 'preload.js');
    const stats = path.join(statsdDir, 'stats.js');
    this.model = emptyModel();
    const log = path.join(work, `statsd-${this.index}.log`);
    this.child = start(process.execPath, ['--no-deprecation', '-r', preload, stats, config], log);
    await waitUntil(`StatsD ${this.id} answers health`, 15000, async () => {
      if (this.child.result !== undefined) throw new Error(`StatsD ${this.id} ended: ${fs.readFileSync(log, 'utf8')}`);
      return (await this.ask('health', /\n/).catch(() => '')).startsWith('health: up');
    });
  }

  ask(command, end) {
    return ask(this.host, this.adminport, command, (text) => end.test(text));
  }

  // The reply to `counters`, `gauges` or `timers`, as an object.
  async report(command) {
    const text = (await this.ask(command, /END\n\n$/)).replace(/END\n\n$/, '');
    if (/\.\.\. \d+ more item/.test(text)) throw new Error(`${this.id} ${command} was abridged by util.inspect`);
    return vm.runInNewContext(`(${text})`, {}, { timeout: 1000 });
  }

  async metricsReceived() {
    return (await this.report('counters'))['statsd.metrics_received'];
  }

  // Everything the admin port shows, except StatsD's internal metrics.
  async held() {
    const own = (name) => name.startsWith('statsd.');
    const held = {};
    for (const command of ['counters', 'gauges', 'timers']) {
      const shown = await this.report(command);
      held[command] = new Map(Object.entries(shown).filter(([name]) => !own(name)));
      if (command === 'counters') this.badLines = shown['statsd.bad_lines_seen'];
    }
    return held;
  }

  // Stops the server; StatsD flushes before its exit, which records the sets.
  async stop() {
    fs.rmSync(this.setsFile, { force: true });
    await stop(this.child, 5000);
    return new Map(Object.entries(JSON.parse(fs.readFileSync(this.setsFile, 'utf8'))));
  }
}

// --- model: the expected state of a StatsD server -----------------------------------------------------------------

function emptyModel() {
  return { counters: new Map(), gauges: new Map(), timers: new Map(), sets: new Map(), metrics: 0 };
}

// The rules of StatsD (stats.js, handlePacket) for valid lines.
function apply(model, metric) {
  model.metrics += 1;
  const { key } = metric;
  for (const { value, type, rate } of metric.values) {
    if (type === 'ms') {
      model.timers.set(key, [...(model.timers.get(key) || []), Number(value)]);
    } else if (type === 'g') {
      const before = model.gauges.get(key);
      const relative = before && /^[-+]/.test(value);
      model.gauges.set(key, relative ? before + Number(value) : Number(value));
    } else if (type === 's') {
      model.sets.set(key, (model.sets.get(key) || new Set()).add(value));
    } else {
      model.counters.set(key, (model.counters.get(key) || 0) + Number(value) * (1 / rate));
    }
  }
}

const asText = (value) => {
  if (value instanceof Set) return JSON.stringify([...value].sort());
  if (Array.isArray(value)) return JSON.stringify([...value].sort((a, b) => a - b));
  return String(value);
};
const brief = (text) => (text.length > 160 ? `${text.slice(0, 160)}…` : text);

// Describes the names whose value differs.
function differences(got, expected) {
  const list = [];
  for (const name of new Set([...got.keys(), ...expected.keys()])) {
    const [is, should] = [got.get(name), expected.get(name)];
    if (is === undefined) list.push(`${name} is missing, expected ${brief(asText(should))}`);
    else if (should === undefined) list.push(`${name} should not be here, is ${brief(asText(is))}`);
    else if (asText(is) !== asText(should)) list.push(`${name} is ${brief(asText(is))}, expected ${brief(asText(should))}`);
  }
  return list;
}

function checkSame(what, got, expected) {
  const list = differences(got, expected);
  check(`${what}: ${expected.size} names equal`, list.length === 0, `${list.length} differ, first: ${list.slice(0, 3).join('; ')}`);
}

const sum = (numbers) => [...numbers].reduce((a, b) => a + b, 0);

// --- traffic ----------------------------------------------------------------------------------------------------

const timerValues = new Map();

function makeMetric() {
  const type = pick(['c', 'c', 'c', 'c', 'c', 'g', 'ms', 's']);
  const index = random(NAMES[type]);
  const name = `real.${{ c: 'counter', g: 'gauge', ms: 'timer', s: 'set' }[type]}.n${index}`;
  if (type === 'c') return makeCounter(name);
  if (type === 'g') return makeGauge(name, index);
  if (type === 's') {
    const value = pick(['user', 'host', 'né']) + random(500);
    return { name, key: name, values: [{ value, type }], line: `${name}:${value}|s` };
  }
  const used = timerValues.get(name) || 0;
  if (used >= TIMER_VALUES_MAX) return makeMetric();
  timerValues.set(name, used + 1);
  const value = String(random(100000) / 100);
  const sampled = random(5) === 0 ? '|@0.1' : '';
  return { name, key: name, values: [{ value, type, rate: 1 }], line: `${name}:${value}|ms${sampled}` };
}

function makeCounter(name) {
  const value = String(random(1000) - 100 || 1);
  const kind = random(10);
  if (kind === 0) {
    const rate = pick(['0.5', '0.25', '0.1']);
    return { name, key: name, values: [{ value, type: 'c', rate: Number(rate) }], line: `${name}:${value}|c|@${rate}` };
  }
  if (kind === 1) {
    // Several values on one line, as StatsD accepts them.
    const values = [value, '7', '-3'].map((text) => ({ value: text, type: 'c', rate: 1 }));
    return { name, key: name, values, line: `${name}:${value}|c:7|c:-3|c` };
  }
  if (kind === 2) {
    // Tags are not part of the hashed name, but part of StatsD's key.
    const host = `h${random(4)}`;
    const key = `${name};host=${host};zone=eu`;
    return { name, key, values: [{ value, type: 'c', rate: 1 }], line: `${name}:${value}|c|#host:${host},zone:eu` };
  }
  return { name, key: name, values: [{ value, type: 'c', rate: 1 }], line: `${name}:${value}|c` };
}

// The order of a gauge's values matters, so a gauge always uses the same socket.
function makeGauge(name, index) {
  const value = pick(['', '', '+', '-']) + String(random(1000) + 1);
  return { name, key: name, values: [{ value, type: 'g' }], line: `${name}:${value}|g`, lane: index };
}

const MALFORMED = ['no colon and no bar', 'real.nobar:1', ':1|c'];

// Splits the lines of each lane (one sending socket) into datagrams of one to many lines; lanes are interleaved at random.
function makeDatagrams(metrics, lanes) {
  const queues = lanes.map(() => []);
  for (const metric of metrics) {
    queues[metric.lane === undefined ? random(lanes.length) : metric.lane % lanes.length].push(metric.line);
  }
  let malformed = 0;
  const datagrams = [];
  while (queues.some((queue) => queue.length > 0)) {
    const lane = pick(queues.map((queue, i) => (queue.length > 0 ? i : -1)).filter((i) => i >= 0));
    const lines = queues[lane].splice(0, pick([1, 1, 1, 2, 5, 12, 30, 150]));
    if (random(40) === 0) {
      lines.splice(random(lines.length + 1), 0, pick(MALFORMED));
      malformed += 1;
    }
    const ending = pick(['\n', '\n', '\n', '\r\n', '\n\n']);
    const last = pick(['', '', '', ending]);
    datagrams.push({ lane, bytes: Buffer.from(lines.join(ending) + last) });
  }
  return { datagrams, malformed };
}

// --- proxy --------------------------------------------------------------------------------------------------

const proxy = { sent: 0, malformed: 0, diverted: 0, underLoad: 0 };

async function startProxy(servers, hosts) {
  proxy.hosts = hosts;
  proxy.port = await freePort(hosts);
  do proxy.adminport = await freePort(hosts); while (proxy.adminport === proxy.port);
  proxy.config = path.join(work, 'statsring.json');
  fs.writeFileSync(proxy.config, JSON.stringify({
    port: proxy.port,
    managementPort: proxy.adminport,
    workers: 2,
    checkInterval: 1000,
    checkTimeout: 500,
    checkFast: 200,
    nodes: servers.map(({ host, port, adminport }) => ({ host, port, adminport })),
    ...JSON.parse(`{${process.env.CONFIG || ''}}`),
  }));
  proxy.child = start(program, ['-f', proxy.config], path.join(work, 'statsring.log'));
  await waitUntil('statsring answers ping', 15000, async () => {
    if (proxy.child.result !== undefined) throw new Error(`statsring ended with ${proxy.child.result}`);
    return (await askProxy('ping').catch(() => '')) === 'pong\n';
  });
}

const askProxy = (command) => ask('127.0.0.1', proxy.adminport, command);

async function proxyStats() {
  const stats = {};
  for (const line of (await askProxy('stats')).trim().split('\n')) {
    const at = line.lastIndexOf(': ');
    stats[line.slice(0, at)] = Number(line.slice(at + 2));
  }
  return stats;
}

const dropReasons = (stats) => Object.keys(stats).filter((name) => name.startsWith('metrics_dropped_'));

function imbalance(stats) {
  const dropped = sum(dropReasons(stats).map((name) => stats[name]));
  return stats.metrics_received - stats.metrics_sent - dropped - stats.metrics_pending;
}

async function proxyStates() {
  const [header, ...rows] = (await askProxy('backends')).trim().split('\n').map((line) => line.split('\t'));
  const column = header.indexOf('state');
  if (column < 0) throw new Error(`backends has no column "state": ${header.join(', ')}`);
  return new Map(rows.map((row) => [row[0], row[column]]));
}

function waitForState(server, state) {
  return waitUntil(`backends shows ${server.id} ${state}`, HEALTH_MS_MAX, async () =>
    (await proxyStates()).get(server.id) === state);
}

// Placement by the program: name → server.
function where(names, servers, down) {
  const args = ['where', '-f', proxy.config, ...down.flatMap((server) => ['--down', server.id])];
  const run = spawnSync(program, args, { input: `${names.join('\n')}\n`, encoding: 'utf8', timeout: 20000 });
  if (run.status !== 0) throw new Error(`statsring ${args.join(' ')} ended with ${run.status}: ${run.stderr}`);
  const byId = new Map(servers.map((server) => [server.id, server]));
  const placed = new Map();
  for (const line of run.stdout.trim().split('\n')) {
    const [name, id] = line.split('\t');
    if (!byId.has(id)) throw new Error(`where answers an unknown backend: ${JSON.stringify(line)}`);
    placed.set(name, byId.get(id));
  }
  return placed;
}

// --- phase ----------------------------------------------------------------------------------------------------

async function send(datagrams, lanes, ports) {
  let sending = true;
  const watch = (async () => {
    while (sending) {
      const off = imbalance(await proxyStats());
      proxy.underLoad += 1;
      if (off !== 0) proxy.offUnderLoad = off;
      await sleep(5);
    }
  })();
  for (let i = 0; i < datagrams.length; i += 1) {
    const { lane, bytes } = datagrams[i];
    await new Promise((resolve, reject) => {
      const { socket, host } = lanes[lane];
      socket.send(bytes, proxy.port, host, (error) => (error ? reject(error) : resolve()));
    });
    if (i % DATAGRAMS_PER_PAUSE !== DATAGRAMS_PER_PAUSE - 1) continue;
    await sleep(PAUSE_MS);
    await waitUntil('the servers read their sockets', 10000, () => socketsOn(ports).waiting < WAITING_BYTES_MAX);
  }
  sending = false;
  await watch;
}

async function phase(title, count, servers, down, lanes) {
  console.log(`\n${title}`);
  const living = servers.filter((server) => !down.includes(server));
  const metrics = Array.from({ length: count }, makeMetric);
  const names = [...new Set(metrics.map((metric) => metric.name))];
  const home = where(names, servers, []);
  const placed = where(names, servers, down);
  const { datagrams, malformed } = makeDatagrams(metrics, lanes);
  for (const metric of metrics) {
    apply(placed.get(metric.name).model, metric);
    if (down.includes(home.get(metric.name))) proxy.diverted += 1;
  }
  proxy.sent += metrics.length;
  proxy.malformed += malformed;
  console.log(`      ${metrics.length} metrics of ${names.length} names and ${malformed} malformed lines `
    + `in ${datagrams.length} datagrams`);
  await send(datagrams, lanes, living.map((server) => server.port));
  await settle(living);
  await compare(living);
  await compareProxy(servers);
  return { names, home, placed };
}

// Waits until the servers have counted the expected number, or stopped counting.
async function settle(living) {
  const expected = sum(living.map((server) => server.model.metrics));
  const limit = Date.now() + SETTLE_MS_MAX;
  let [last, lastAt] = [-1, Date.now()];
  while (Date.now() < limit && Date.now() - lastAt < 5000) {
    const got = sum(await Promise.all(living.map((server) => server.metricsReceived())));
    if (got >= expected) return;
    if (got !== last) [last, lastAt] = [got, Date.now()];
    await sleep(50);
  }
}

async function compare(living) {
  const seen = new Map();
  for (const server of living) {
    const { model } = server;
    const held = await server.held();
    checkEqual(`${server.id} metrics received`, await server.metricsReceived(), model.metrics);
    checkEqual(`${server.id} bad lines`, server.badLines, 0);
    const total = sum(held.counters.values());
    const values = sum([...held.timers.values()].map((list) => list.length));
    checkSame(`${server.id} counters, sum ${total}`, held.counters, model.counters);
    checkSame(`${server.id} gauges`, held.gauges, model.gauges);
    checkSame(`${server.id} timers, ${values} values`, held.timers, model.timers);
    for (const name of [...held.counters.keys(), ...held.gauges.keys(), ...held.timers.keys()]) {
      const plain = name.split(';')[0];
      seen.set(plain, (seen.get(plain) || new Set()).add(server.id));
    }
  }
  proxy.seen = seen;
}

async function compareProxy(servers) {
  const stats = await proxyStats();
  checkEqual('stats: metrics_received = lines sent', stats.metrics_received, proxy.sent + proxy.malformed);
  checkEqual('stats: packets_received counts metrics', stats.packets_received, stats.metrics_received);
  checkEqual('stats: metrics_sent = good lines', stats.metrics_sent, proxy.sent);
  checkEqual('stats: metrics_dropped_malformed', stats.metrics_dropped_malformed, proxy.malformed);
  const others = dropReasons(stats).filter((name) => name !== 'metrics_dropped_malformed' && stats[name] !== 0);
  check('stats: nothing dropped for any other reason', others.length === 0, others.join(', '));
  checkEqual('stats: metrics_pending at rest', stats.metrics_pending, 0);
  checkEqual('stats: metrics_diverted', stats.metrics_diverted, proxy.diverted);
  checkEqual('stats: imbalance at rest', imbalance(stats), 0);
  checkEqual('stats: kernel_drops', stats.kernel_drops, 0);
  const ports = [proxy.port, ...servers.map((server) => server.port)];
  checkEqual('kernel: datagrams dropped at the sockets of proxy and servers', socketsOn(ports).drops, 0);
}

// `gso: auto` pads packets with newlines for backends with an `adminport`, since StatsD skips empty lines.
async function comparePadding(server) {
  const packets = async () => (await server.report('counters'))['statsd.packets_received'];
  const socket = dgram.createSocket(server.host.includes(':') ? 'udp6' : 'udp4');
  const before = await packets();
  await new Promise((resolve, reject) => {
    socket.send('\n'.repeat(50), server.port, server.host, (error) => (error ? reject(error) : resolve()));
  });
  socket.close();
  await waitUntil(`${server.id} reads a packet of newlines`, 10000, async () => (await packets()) > before);
  await server.held();
  checkEqual(`${server.id} bad lines, after 50 newlines`, server.badLines, 0);
}

// --- scenario --------------------------------------------------------------------------------------------------

async function openLanes(hosts) {
  const lanes = [];
  for (const host of hosts) {
    for (let i = 0; i < SOCKETS_PER_FAMILY; i += 1) {
      const socket = dgram.createSocket(host.includes(':') ? 'udp6' : 'udp4');
      socket.on('error', (error) => check(`sending to ${host}`, false, error.message));
      lanes.push({ host, socket });
    }
  }
  return lanes;
}

async function compareSets(server, model) {
  const sets = await server.stop();
  const total = sum([...sets.values()].map((list) => list.length));
  const got = new Map([...sets].map(([name, list]) => [name, new Set(list)]));
  checkSame(`${server.id} sets at its last flush, ${total} members`, got, model.sets);
}

function compareMovement({ names, home, placed }, stopped) {
  const moved = names.filter((name) => home.get(name) !== placed.get(name));
  const owned = names.filter((name) => home.get(name) === stopped);
  check(`only the stopped server's names moved, and all of them: ${moved.length} of ${names.length}`,
    owned.length > 0 && moved.length === owned.length && moved.every((name) => home.get(name) === stopped),
    `${owned.length} were its own`);
  const heirs = new Set(moved.map((name) => placed.get(name).id));
  checkEqual('they spread over the living servers', heirs.size, 2);
}

async function run() {
  const ipv6 = (await tcpPortFree('::1', 0)) !== 0;
  const hosts = ipv6 ? ['127.0.0.1', '::1'] : ['127.0.0.1'];
  if (!ipv6) {
    if (process.env.CI === 'true') throw new Error('this machine has no ::1, and with CI=true no test may be skipped');
    console.log('skipped: IPv6, which this machine does not have');
  }
  fs.writeFileSync(path.join(work, 'sets-backend.js'), SETS_BACKEND);
  fs.writeFileSync(path.join(work, 'preload.js'), PRELOAD);
  const version = JSON.parse(fs.readFileSync(path.join(statsdDir, 'package.json'), 'utf8')).version;
  console.log(`StatsD ${version} on node ${process.version}, seed ${seed}`);

  const servers = [];
  for (let i = 0; i < 3; i += 1) {
    const host = hosts[i % hosts.length];
    servers.push(new StatsdServer(i, host, await freePort([host]), await freePort([host])));
    await servers[i].start();
  }
  await startProxy(servers, hosts);
  const lanes = await openLanes(hosts);
  for (const server of servers) await waitForState(server, 'up');

  await phase('Phase 1: three servers up', METRICS_PER_PHASE[0], servers, [], lanes);
  const shared = [...proxy.seen].filter(([, ids]) => ids.size !== 1);
  check(`each of ${proxy.seen.size} names is at exactly one server`, shared.length === 0, shared[0]);

  const stopped = servers[1];
  console.log(`\nStopping ${stopped.id}`);
  await compareSets(stopped, stopped.model);
  await waitForState(stopped, 'down');
  const divert = await phase('Phase 2: one server stopped', METRICS_PER_PHASE[1], servers, [stopped], lanes);
  compareMovement(divert, stopped);

  console.log(`\nStarting ${stopped.id} again`);
  await stopped.start();
  await waitForState(stopped, 'up');
  await phase('Phase 3: it is back, and so are its names', METRICS_PER_PHASE[2], servers, [], lanes);
  check(`the returned server has metrics again: ${stopped.model.metrics}`, stopped.model.metrics > 0);

  console.log('\nThe end');
  for (const server of servers) await comparePadding(server);
  check(`stats balanced in each of ${proxy.underLoad} looks while sending`,
    proxy.underLoad > 0 && proxy.offUnderLoad === undefined, `off by ${proxy.offUnderLoad}`);
  for (const server of servers) await compareSets(server, server.model);
  lanes.forEach(({ socket }) => socket.close());
  checkEqual('statsring ends on SIGTERM with exit code', await stop(proxy.child, 15000), 0);
}

run().catch((error) => {
  check('the test ran to its end', false, error.stack);
  const log = path.join(work, 'statsring.log');
  if (fs.existsSync(log)) console.log(`statsring's log, its end:\n${fs.readFileSync(log, 'utf8').slice(-4000)}`);
}).then(() => {
  console.log(`real-statsd-test: ${passed} passed, ${failed} failed`);
  process.exit(failed === 0 && passed > 0 ? 0 : 1);
});
