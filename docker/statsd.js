{
  port: 8125,
  mgmt_port: 8126,
  // Aggregates are printed every 10 s: `docker compose logs statsd-1`.
  flushInterval: 10000,
  backends: ["./backends/console"]
}
