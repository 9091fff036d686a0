output "arn" {
  description = "ARN of the balancer."
  value       = aws_lb.this.arn
}

output "arn_suffix" {
  description = "What metrics call the balancer."
  value       = aws_lb.this.arn_suffix
}

output "dns_name" {
  description = "Where the API's host name must point to (an alias record)."
  value       = aws_lb.this.dns_name
}

output "zone_id" {
  description = "Hosted zone of dns_name, for the alias record."
  value       = aws_lb.this.zone_id
}

output "security_group_id" {
  description = "Security group of the balancer."
  value       = aws_security_group.this.id
}

output "listener_arns" {
  description = "Listeners: `production` on 443 and `test` on 8443."
  value       = { production = aws_lb_listener.production.arn, test = aws_lb_listener.test.arn }
}

output "target_groups" {
  description = "The two target groups by colour, each with its ARN and name."
  value       = { for colour, group in aws_lb_target_group.colour : colour => { arn = group.arn, name = group.name } }
}

output "alarm_names" {
  description = "Alarms that speak against a new version."
  value = concat(
    [aws_cloudwatch_metric_alarm.server_errors.alarm_name],
    [for alarm in aws_cloudwatch_metric_alarm.unhealthy : alarm.alarm_name],
  )
}
