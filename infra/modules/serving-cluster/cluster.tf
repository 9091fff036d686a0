# The cluster that every serving task runs in. ECS Exec stays off: it needs a writable root file system, and ours is not.

resource "aws_ecs_cluster" "this" {
  name = var.platform.name

  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}

resource "aws_ecs_cluster_capacity_providers" "this" {
  cluster_name       = aws_ecs_cluster.this.name
  capacity_providers = concat(["FARGATE", "FARGATE_SPOT"], var.capacity_provider_names)
}

# Container Insights would make this group by itself: in plain text, and kept for ever.
resource "aws_cloudwatch_log_group" "insights" {
  name              = "/aws/ecs/containerinsights/${var.platform.name}/performance"
  kms_key_id        = var.platform.kms_key_arn
  retention_in_days = var.log_retention_days
}
