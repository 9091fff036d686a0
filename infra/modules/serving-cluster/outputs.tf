output "name" {
  description = "Name of the cluster."
  value       = aws_ecs_cluster.this.name
}

output "arn" {
  description = "ARN of the cluster."
  value       = aws_ecs_cluster.this.arn
}

output "attached_capacity_providers" {
  description = "Capacity providers that a service may name, once they are attached."
  value       = aws_ecs_cluster_capacity_providers.this.capacity_providers
}
