# Reached from private networks only. Logs are kept as long as the trail, the database can go back 35 days.
tasks              = { min = 2, max = 8 }
network            = { is_internal = true, client_cidrs = ["10.0.0.0/8"] }
database           = { instances = 2, backup_days = 35 }
log_retention_days = 2192
