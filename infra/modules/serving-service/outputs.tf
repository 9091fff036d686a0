output "name" {
  description = "Name of the service, of its task family, and of the metrics' dimension `Service`."
  value       = aws_ecs_service.this.name
}

output "arn" {
  description = "ARN of the service."
  value       = aws_ecs_service.this.id
}

output "task_definition_arn" {
  description = "The task definition that Terraform wrote; CodeDeploy registers the later ones in the same family."
  value       = aws_ecs_task_definition.this.arn
}

output "role_arns" {
  description = "Roles of a task: `execution` and `task`."
  value       = { execution = aws_iam_role.execution.arn, task = aws_iam_role.task.arn }
}

output "security_group_id" {
  description = "Security group of the tasks."
  value       = aws_security_group.task.id
}

output "log_group_name" {
  description = "Where the containers log."
  value       = aws_cloudwatch_log_group.this.name
}

output "capacity_provider" {
  description = "Where tasks run; a rollout must name it again, or the new tasks go to the cluster's default."
  value       = var.cluster.capacity_provider
}

output "container_port" {
  description = "Port of the gateway."
  value       = local.container_port
}

output "alarm_names" {
  description = "Alarms that speak against a new version."
  value       = [aws_cloudwatch_metric_alarm.errors.alarm_name, aws_cloudwatch_metric_alarm.first_token.alarm_name]
}
