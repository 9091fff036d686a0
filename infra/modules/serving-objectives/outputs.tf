output "alarm_names" {
  description = "Composite alarms that tell somebody: one to wake and one to note, for each objective."
  value       = sort([for one in aws_cloudwatch_composite_alarm.burn : one.alarm_name])
}

output "dashboard_name" {
  description = "Name of the dashboard."
  value       = aws_cloudwatch_dashboard.this.dashboard_name
}
