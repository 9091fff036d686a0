locals {
  log_group_name = "/nexus/${var.platform.name}/api"
}

# Metrics come out of these lines (CloudWatch's embedded metric format), so a task needs no permission to send any.
resource "aws_cloudwatch_log_group" "this" {
  name              = local.log_group_name
  kms_key_id        = var.platform.kms_key_arn
  retention_in_days = var.log_retention_days
}
