# One of three servers. The gossip key comes from a secret file beside this one.
server           = true
bootstrap_expect = 3
retry_join       = ["consul-1", "consul-2", "consul-3"]
retry_interval   = "1s"

client_addr = "0.0.0.0"
bind_addr   = "{{ GetPrivateIP }}"

# A server that is asked to stop stays a member: it comes back with its data. Leaving would shrink the quorum.
leave_on_terminate      = false
skip_leave_on_interrupt = true

# Consul allows 200 connections per client address, and one service may hold 100 blocking queries and more during a restart.
limits {
  http_max_conns_per_client = 1000
}

performance {
  # The value for production: elections within a second or two, not five.
  raft_multiplier = 1
}

disable_update_check = true
log_json             = true
log_level            = "WARN"
