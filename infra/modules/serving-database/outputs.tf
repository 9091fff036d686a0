output "url" {
  description = "Where the gateway logs in, without a password: it asks AWS for a token that lasts 15 minutes."
  value       = "postgresql+psycopg://nexus_gateway@${aws_rds_cluster.this.endpoint}:5432/nexus?sslmode=require"
}

output "connect_arn" {
  description = "What a role must be allowed `rds-db:connect` to, to log in as nexus_gateway."
  value       = "arn:aws:rds-db:${var.platform.region}:${var.platform.account_id}:dbuser:${aws_rds_cluster.this.cluster_resource_id}/nexus_gateway"
}

output "cluster_arn" {
  description = "ARN of the database, for the Data API."
  value       = aws_rds_cluster.this.arn
}

output "admin_secret_arn" {
  description = "Secret with the administrator's password, for the Data API. The value is in no output."
  value       = aws_rds_cluster.this.master_user_secret[0].secret_arn
}

output "alarm_names" {
  description = "Alarms of the database."
  value       = [aws_cloudwatch_metric_alarm.capacity.alarm_name]
}
