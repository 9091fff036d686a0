output "capacity_provider_name" {
  description = "What a service names to run on these machines."
  value       = aws_ecs_capacity_provider.gpu.name
}

output "alarm_names" {
  description = "Alarms of this capacity."
  value       = [aws_cloudwatch_metric_alarm.waiting.alarm_name]
}
