resource "aws_cloudwatch_metric_alarm" "failed" {
  alarm_name          = "${local.full_name}-build-failed"
  alarm_description   = "A build of ${local.full_name} failed: its log is in ${aws_cloudwatch_log_group.this.name}. Runbook: docs/runbooks/bad-model-rollback.md"
  namespace           = "AWS/CodeBuild"
  metric_name         = "FailedBuilds"
  dimensions          = { ProjectName = aws_codebuild_project.this.name }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.platform.alerts_topic_arn]
}
