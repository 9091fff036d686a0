output "resource_id" {
  description = "What Application Auto Scaling calls the service."
  value       = aws_appautoscaling_target.tasks.resource_id
}

output "alarm_names" {
  description = "Alarms that move the number of tasks. They are no sign of trouble by themselves."
  value       = concat([aws_cloudwatch_metric_alarm.first_token.alarm_name], aws_cloudwatch_metric_alarm.wake[*].alarm_name)
}
