{
  port: 8125,
  mgmt_port: 8126,
  // Every ten seconds the sums are printed: see `docker compose logs statsd-1`.
  flushInterval: 10000,
  backends: ["./backends/console"]
}
