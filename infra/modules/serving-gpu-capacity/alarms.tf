# Above 100, tasks wait for machines: the group is at its maximum, or the zone or the quota has no more of this type.
resource "aws_cloudwatch_metric_alarm" "waiting" {
  alarm_name          = "${var.platform.name}-gpu-capacity"
  alarm_description   = "Tasks have waited 15 minutes for a GPU machine: look at the scaling group's activities for quota or capacity. Runbook: docs/runbooks/quota.md"
  namespace           = "AWS/ECS/ManagedScaling"
  metric_name         = "CapacityProviderReservation"
  dimensions          = { CapacityProviderName = aws_ecs_capacity_provider.gpu.name, ClusterName = var.platform.name }
  statistic           = "Minimum"
  period              = 60
  evaluation_periods  = 15
  comparison_operator = "GreaterThanThreshold"
  threshold           = 100
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.platform.alerts_topic_arn]
  ok_actions          = [var.platform.alerts_topic_arn]
}
