# Two tasks of four cores, so that one may fail; the database has a second instance in another zone.
tasks              = { min = 2, max = 8 }
database           = { instances = 2 }
log_retention_days = 90
