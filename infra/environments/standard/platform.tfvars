# A product with users. Three zones; images, logs and secrets do not leave the network; findings and findings' alarms.
name   = "nexus-standard"
budget = { usd_per_month = 2000 }
network = {
  nat                 = "one"
  interface_endpoints = ["ecr.api", "ecr.dkr", "logs", "secretsmanager"]
  flow_log_days       = 90
}
security = {
  guardduty = true
}
tags = {
  project     = "nexus-llm"
  environment = "standard"
}
