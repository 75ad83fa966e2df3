// A config of StatsD's proxy.js, as statsring takes it over: statsring -f exampleProxyConfig.js
// What each key does, and which have no effect, is in docs/src/migrating/proxy-js.md.
{
  nodes: [
    { host: '127.0.0.1', port: 8127, adminport: 8128 },
    { host: '127.0.0.1', port: 8129, adminport: 8130 },
    { host: '127.0.0.1', port: 8131, adminport: 8132 },
  ],
  address: '0.0.0.0',
  port: 8125,
  mgmt_address: 'localhost',
  mgmt_port: 8126,
  server: './servers/udp',
  forkCount: 0,
  checkInterval: 1000,
  cacheSize: 10000,
}
