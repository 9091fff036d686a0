# One team tries things. One way out, no interface endpoints, nothing that costs by the hour but the NAT gateway.
name   = "nexus-small"
budget = { usd_per_month = 300, anomaly_usd = 20 } # 207 stand there with serving (README.md)
network = {
  nat           = "one"
  flow_log_days = 30
}
storage = {
  keep_versions_days = 7
  log_days           = 90
}
security = {
  trail_days = 90
}
jobs = {
  glue_max_workers = 5
  emr_max_vcpus    = 40
  batch_queues = {
    cpu = { instance_types = ["c7i", "m7i", "c6i", "m6i"], max_vcpus = 32, disk_gib = 200 }
    gpu = { instance_types = ["g6", "g5"], max_vcpus = 4, gpu = true, disk_gib = 100 }
  }
}
backup = {
  keep_days = 7
}
tags = {
  project     = "nexus-llm"
  environment = "small"
}
