# One task of two cores on Fargate, a second one under load. Keys are kept: without a database everybody who reaches the
# address may use the model.
tasks                 = { min = 1, max = 2 }
size                  = { cpu = 2048, memory_mib = 8192 }
database              = {}
log_retention_days    = 30
is_deletion_protected = false
