// A deterministic program for npm's `hot-shots`: the same datagrams each time it runs.
//
// In: the package's directory, host, port, mode. Out: datagrams. Clock and random numbers are fixed, so that timers
// and sample rates repeat.
'use strict';

const [packageDir, host, port, mode] = process.argv.slice(2);
const StatsD = require(packageDir);

const NAMES = 200;
const PAUSE_EVERY = 10;
const NEVER_MS = 3600000;
const THEN = new Date(1700000000000);

let chance = 20;
Math.random = () => {
  chance = (Math.imul(chance, 1664525) + 1013904223) >>> 0;
  return chance / 2 ** 32;
};
let ticks = 0n;
process.hrtime.bigint = () => { ticks += 37500000n; return ticks; };

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function eachMetric(client, number) {
  const tags = { shard: number % 5, url: 'http://host:80/a' };
  const list = [`shard:${number % 5}`, 'plain'];
  const name = `shop.${number}.orders`;
  client.increment(name);
  client.increment(name, number, 0.5, list);
  client.increment([`${name}.a`, `${name}.b`], 2, tags);
  client.decrement(name, 3, list);
  client.decrement(`größe.${number}.日本`, 1, tags);
  client.gauge(`pool.${number}`, number / 3, tags);
  client.gauge(`pool.${number}`, -1.5, 0.75);
  client.gaugeDelta(`pool.${number}`, 5, list);
  client.gaugeDelta(`pool.${number}`, -5);
  client.histogram(`size.${number}`, 1445, tags);
  client.histogram(`size.${number}`, 0.25, 0.5);
  client.distribution(`latency.${number}`, number * 0.1, list);
  client.timing(`query.${number}`, 320.5, 0.9, tags);
  client.timing(`query.${number}`, THEN.getTime() % 1000);
  client.set(`users.${number}`, `user${number % 7}`, list);
  client.unique(`users.${number}`, number);
  client.timer(() => number, `block.${number}`, 1, tags)();
}

async function eachEvent(client, number) {
  await client.asyncTimer(async () => number, `call.${number}`, tagsOf(number))();
  await client.asyncDistTimer(async () => number, `call.${number}.d`)();
  client.event(`deploy ${number}`, 'version 2\nis out', { alert_type: 'info' }, ['env:prod', 'a:b:c']);
  client.event(`größe ${number}`, 'übertragen: ja', {
    date_happened: THEN, hostname: 'host.example', aggregation_key: `key${number}`, priority: 'low',
    source_type_name: 'app', alert_type: 'error',
  }, { env: 'prod' });
  client.check(`disk.${number}`, client.CHECKS.OK);
  client.check(`redis ${number}`, client.CHECKS.CRITICAL, {
    date_happened: THEN, hostname: 'host.example', message: `timed out: 10s of ${number}`,
  }, ['env:prod', 'x:y']);
}

const tagsOf = (number) => [`n:${number}`];

function options() {
  const common = {
    host, port: Number(port), prefix: 'js.', globalTags: { service: 'shop', version: '1.2' },
    // Buffers are flushed when full or explicitly, never by time.
    bufferFlushInterval: NEVER_MS,
    errorHandler: (error) => { console.error(error); process.exitCode = 1; },
  };
  switch (mode) {
    case 'single': return common;
    case 'buffered': return { ...common, maxBufferSize: 1432, suffix: '.end' };
    case 'large': return { ...common, maxBufferSize: 8000, datadog: true, cardinality: 'low' };
    case 'aggregated': return {
      ...common, maxBufferSize: 1432, aggregation: { flushInterval: NEVER_MS },
      includeDatadogTelemetry: true, telemetryFlushInterval: NEVER_MS,
    };
    case 'telegraf': return { ...common, maxBufferSize: 500, telegraf: true };
    default: throw new Error(`no mode ${mode}`);
  }
}

async function main() {
  const client = new StatsD(options());
  const child = client.childClient({ prefix: 'child.', globalTags: { part: 'cart' } });
  for (let number = 0; number < NAMES; number += 1) {
    eachMetric(client, number);
    eachMetric(child, number);
    // Telegraf supports neither events nor checks.
    if (mode !== 'telegraf') await eachEvent(client, number);
    if (number % PAUSE_EVERY === 0) {
      await new Promise((resolve, reject) => client.flush((error) => (error ? reject(error) : resolve())));
      await sleep(1);
    }
  }
  await new Promise((resolve, reject) => client.close((error) => (error ? reject(error) : resolve())));
}

main().catch((error) => { console.error(error); process.exit(1); });
