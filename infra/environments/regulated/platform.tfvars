# Data that others make rules about. Nothing stops with one zone, every access is recorded and locked, a second region
# holds copies. This describes controls; it certifies nothing.
name           = "nexus-regulated"
replica_region = "eu-west-1"
budget         = { usd_per_month = 6000 }
network = {
  nat = "per_zone"
  interface_endpoints = [
    "athena", "ec2messages", "ecr.api", "ecr.dkr", "ecs", "ecs-agent", "ecs-telemetry", "glue", "kms", "logs",
    "monitoring", "sagemaker.api", "secretsmanager", "ssm", "ssmmessages", "sts",
  ]
  flow_log_days = 400
}
storage = {
  keep_versions_days = 365
  log_days           = 2192
}
security = {
  trail_days    = 2192 # six years: 45 CFR 164.316(b)(2)(i), HIPAA's documentation rule, is the longest we know of
  lock_days     = 365
  watch_objects = true
  guardduty     = true
  config        = true
}
jobs = {
  mlflow = true
}
backup = {
  keep_days     = 365
  lock_min_days = 35
}
tags = {
  project     = "nexus-llm"
  environment = "regulated"
  data-class  = "confidential"
}
